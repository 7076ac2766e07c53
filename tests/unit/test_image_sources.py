"""An image is built of every package that the wheel has: one that is not copied would be missing without a word."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("role", ["coordinator", "edge-node"])
def test_every_package_of_the_wheel_is_copied_into_the_image(role: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    lines = (ROOT / "deploy" / "containers" / f"{role}.Dockerfile").read_text("utf-8").splitlines()
    assert len(packages) > 5
    assert [one for one in packages if f"COPY {one} {one}" not in lines] == []
