"""Make `import torchvision` work beside a CPU build of torch.

The PyPI wheel of torchvision is a CUDA build. Beside a CPU torch its compiled extension cannot be loaded, so that
the operators ``torchvision::nms`` and ``torchvision::qnms`` do not exist; yet its ``_meta_registrations`` registers
shape functions for both without a guard, and the import fails with "operator torchvision::nms does not exist". This
hits every x86 device without a GPU. Declaring the two schemas first is enough: they are only described, never called.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """`import torchvision` that also works where its compiled operators cannot be loaded.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    declare_missing_operators()
    import torchvision  # noqa: PLC0415 - only after the operators are declared

    return torchvision  # type: ignore[no-any-return]


def declare_missing_operators() -> tuple[str, ...]:
    """Declare the schemas of the operators that torchvision's extension does not bring; twice is once.

    The extension is loaded first: where it works it defines the operators itself, and a second definition is an error.

    Returns:
        The names that were declared now.
    """
    _load_extension()
    missing = tuple(name for name in _OPERATORS if not hasattr(torch.ops.torchvision, name))
    for name in missing:
        torch.library.define(f"torchvision::{name}", _SCHEMA)
    return missing


def _load_extension() -> None:
    """Load torchvision's own library if it can be: finding it must not import the package."""
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in (*Path(folder).glob("_C*.so"), *Path(folder).glob("_C*.pyd")):
            try:
                torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]  # torch has no annotation
            except OSError:
                # It was built for another torch: torchvision itself ignores this, too.
                continue
