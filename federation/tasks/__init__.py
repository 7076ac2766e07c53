"""The reference tasks and the adapter for the user's own: the only package that uses torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from federation.tasks.data.data_files import csv_data, image_data, numpy_data
    from federation.tasks.data.partitioners import split
    from federation.tasks.data.whole_data import WholeData
    from federation.tasks.training.torch_task import TorchTask

__all__ = ["TorchTask", "WholeData", "csv_data", "image_data", "numpy_data", "split"]

_WHERE = {
    "TorchTask": "federation.tasks.training.torch_task",
    "WholeData": "federation.tasks.data.whole_data",
    "csv_data": "federation.tasks.data.data_files",
    "image_data": "federation.tasks.data.data_files",
    "numpy_data": "federation.tasks.data.data_files",
    "split": "federation.tasks.data.partitioners",
}
"""What is imported when it is first asked for: whoever only divides a task's name does not pay for all of it."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562).

    Raises:
        AttributeError: There is no such name.
    """
    if name not in _WHERE:
        raise AttributeError(f"module 'federation.tasks' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
