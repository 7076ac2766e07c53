"""The containers' images have all that the package has."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = sorted(path.name for path in (ROOT / "deploy" / "containers").glob("*.Dockerfile") if "broker" not in path.name)


@pytest.mark.parametrize("name", FILES)
def test_an_image_is_built_of_every_package_of_the_wheel(name: str) -> None:
    """One that is missing is left out of the wheel without a word, and its commands fail in the container."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert len(packages) >= 6
    lines = (ROOT / "deploy" / "containers" / name).read_text(encoding="utf-8").splitlines()
    assert [package for package in packages if f"COPY {package} {package}" not in lines] == []
