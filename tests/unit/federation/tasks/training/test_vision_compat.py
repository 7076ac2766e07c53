"""torchvision beside a torch that cannot load its compiled operators: each case in a process of its own."""

import subprocess
import sys

IMPORT = "from federation.tasks.training.vision_compat import declare_missing_operators, import_torchvision\n"


def run(code: str) -> list[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    return done.stdout.splitlines()


def test_torchvision_can_be_imported() -> None:
    assert run(f"{IMPORT}print(import_torchvision().datasets.MNIST.__name__)") == ["MNIST"]


def test_after_a_declaration_both_operators_exist_and_the_plain_import_works() -> None:
    code = (
        f"{IMPORT}declare_missing_operators()\n"
        "import torch\n"
        "print(hasattr(torch.ops.torchvision, 'nms'), hasattr(torch.ops.torchvision, 'qnms'))\n"
        "import torchvision\n"
        "print(torchvision.__name__)\n"
    )
    assert run(code) == ["True True", "torchvision"]


def test_declaring_twice_is_declaring_once() -> None:
    assert run(f"{IMPORT}declare_missing_operators()\nprint(declare_missing_operators())") == ["()"]


def test_operators_that_exist_are_left_alone() -> None:
    code = (
        "import torch\n"
        "schema = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'\n"
        "from federation.tasks.training import vision_compat\n"
        # What loading a fitting extension does: from then on a second definition would be an error.
        "define = lambda: [torch.library.define(f'torchvision::{name}', schema) for name in ('nms', 'qnms')]\n"
        "vision_compat._load_extension = define\n"
        "print(vision_compat.declare_missing_operators())\n"
    )
    assert run(code) == ["()"]
