"""A wheel for one machine brings the compiled loops; the one for all machines brings none."""

import platform
import shutil
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from update_codec.kernel.build import library_name

ROOT = Path(__file__).parents[3]


def wheel(folder: Path) -> zipfile.ZipFile:
    """A wheel of this checkout."""
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return zipfile.ZipFile(path)


def libraries(made: zipfile.ZipFile) -> list[str]:
    """The libraries in it, and what is there for its build alone."""
    return [name for name in made.namelist() if name.endswith((".so", "kernel/wheel.py"))]


def test_the_wheel_for_all_machines_has_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDMQ_WHEEL_MACHINE", raising=False)
    with wheel(tmp_path) as made:
        assert str(made.filename).endswith("-py3-none-any.whl")
        assert libraries(made) == []
        assert "update_codec/kernel/kernel.c" in made.namelist()


def test_a_wheel_for_one_machine_has_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    machine = platform.machine()
    monkeypatch.setenv("FEDMQ_WHEEL_MACHINE", machine)
    with wheel(tmp_path) as made:
        assert str(made.filename).endswith(f"-py3-none-manylinux_2_17_{machine}.manylinux2014_{machine}.whl")
        assert libraries(made) == [f"update_codec/kernel/{library_name()}"]


def test_a_wheel_whose_library_cannot_be_compiled_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMQ_WHEEL_MACHINE", "pdp11")
    with pytest.raises(Exception, match="pdp11-linux-gnu-gcc is not in PATH"):
        wheel(tmp_path)
    assert list(tmp_path.glob("*.whl")) == []
