"""torchvision beside a torch that cannot load its compiled operators: each case in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

IMPORT = "from federation.tasks.training.vision_compat import declare_missing_operators, import_torchvision\n"

pytestmark = pytest.mark.xdist_group("torchvision")

CASES = {
    "import": f"{IMPORT}print(import_torchvision().datasets.MNIST.__name__)",
    "declare": (
        f"{IMPORT}declare_missing_operators()\n"
        "import torch\n"
        "print(hasattr(torch.ops.torchvision, 'nms'), hasattr(torch.ops.torchvision, 'qnms'))\n"
        "import torchvision\n"
        "print(torchvision.__name__)\n"
    ),
    "declare twice": f"{IMPORT}declare_missing_operators()\nprint(declare_missing_operators())",
    "leave alone": (
        "import torch\n"
        "schema = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'\n"
        "from federation.tasks.training import vision_compat\n"
        # What loading a fitting extension does: from then on a second definition would be an error.
        "define = lambda: [torch.library.define(f'torchvision::{name}', schema) for name in ('nms', 'qnms')]\n"
        "vision_compat._load_extension = define\n"
        "print(vision_compat.declare_missing_operators())\n"
    ),
}
FORK = """
import json, os, sys, torch
for name, code in json.loads(sys.argv[1]).items():
    if not os.fork():
        sys.stdout = open(name, "w")
        exec(code, {})
        sys.stdout.flush()
        os._exit(0)
    if os.wait()[1]:
        sys.exit(name)
"""
"""Each case begins where torch has been imported, and nothing else: that takes seconds, and is the same for all."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[str]]:
    """What each case has printed, by line."""
    folder: Path = tmp_path_factory.mktemp("said")
    command = [sys.executable, "-W", "error", "-c", FORK, json.dumps(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return {name: (folder / name).read_text().splitlines() for name in CASES}


def test_torchvision_can_be_imported(said: Mapping[str, list[str]]) -> None:
    assert said["import"] == ["MNIST"]


def test_after_a_declaration_both_operators_exist_and_the_plain_import_works(said: Mapping[str, list[str]]) -> None:
    assert said["declare"] == ["True True", "torchvision"]


def test_declaring_twice_is_declaring_once(said: Mapping[str, list[str]]) -> None:
    assert said["declare twice"] == ["()"]


def test_operators_that_exist_are_left_alone(said: Mapping[str, list[str]]) -> None:
    assert said["leave alone"] == ["()"]
