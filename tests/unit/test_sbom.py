"""The list of what is in an image: each package once, under an address that scanners know."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "deploy" / "containers" / "sbom.py"
SAID = """D|debian|12
d|libc6:amd64|2.36-9+deb12u13|amd64
d|tzdata|2025b-0+deb12u2|all
p|numpy|2.4.1
p|typing_extensions|4.15.0
p|numpy|2.4.1
"""


def sbom() -> Any:
    spec = importlib.util.spec_from_file_location("sbom", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_package_has_one_address() -> None:
    found = sbom().components(SAID)
    assert [one["purl"] for one in found] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=amd64",
        "pkg:deb/debian/tzdata@2025b-0%2Bdeb12u2?arch=all",
        "pkg:pypi/numpy@2.4.1",
        "pkg:pypi/typing-extensions@4.15.0",
    ]
    assert (found[0]["name"], found[0]["version"]) == ("libc6", "2.36-9+deb12u13")


def test_a_document_names_the_image_and_everything_in_it() -> None:
    made = sbom().document("fedmq-coordinator", "sha256:ab", sbom().components(SAID))
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    references = {one["bom-ref"] for one in made["components"]}
    assert len(references) == 4
    (edge,) = made["dependencies"]
    assert (edge["ref"], {*edge["dependsOn"]}) == (made["metadata"]["component"]["bom-ref"], references)
    again = sbom().document("fedmq-coordinator", "sha256:ab", sbom().components(SAID))
    other = sbom().document("fedmq-coordinator", "sha256:cd", sbom().components(SAID))
    assert made == again
    assert made["serialNumber"] != other["serialNumber"]


@pytest.mark.parametrize("line", ["", "x|y", "d|a|1", "sh: dpkg-query: not found"])
def test_an_image_that_says_something_else_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="an image has said"):
        sbom().components(f"D|debian|12\n{line}\n")
