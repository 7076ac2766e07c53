"""The pages about the code name files and folders that exist, and the page of the rooms names all of them."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARCHITECTURE = ROOT / "docs" / "explanation" / "architecture.md"
PACKAGES = ("coordinator", "edge_node", "sum_helper", "site_gateway", "federation", "fedmq", "compression/update_codec")
PAGES = (
    ROOT / "CONTRIBUTING.md",
    ARCHITECTURE,
    *sorted((ROOT / "docs" / "adr").glob("*.md")),
)
BUILT = frozenset({"out"})
"""What `make` leaves there, of which a clone may have a part."""
FOLDERS = frozenset(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")) - BUILT


def outside_blocks(text: str) -> str:
    """The text without its fenced blocks, whose back-ticks would pair with those around them."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def named(text: str) -> set[str]:
    """Paths in back-ticks that begin with a folder of the repository; a test's name behind its file is left out."""
    quoted = (words.split("::")[0] for words in re.findall(r"`([^`\n]+)`", text))
    return {path for path in quoted if re.fullmatch(r"[\w.-]+/[\w./-]*", path) and path.split("/")[0] in FOLDERS}


def linked(text: str) -> set[str]:
    """Targets of links, without their anchors; other sites and places on the page itself are left out."""
    targets = (target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text))
    return {target for target in targets if target and "://" not in target}


def missing(page: Path, text: str) -> list[str]:
    """What a page with this text names and what is not there."""
    text = outside_blocks(text)
    gone = {path for path in named(text) if not (ROOT / path).exists()}
    return sorted(gone | {target for target in linked(text) if not (page.parent / target).exists()})


def test_every_path_on_the_pages_about_the_code_exists() -> None:
    found = {str(page.relative_to(ROOT)): missing(page, page.read_text("utf-8")) for page in PAGES}
    assert {page: paths for page, paths in found.items() if paths} == {}


def test_the_pages_name_many_paths() -> None:
    architecture = ARCHITECTURE.read_text("utf-8")
    assert len(named(outside_blocks(architecture))) > 100
    assert len(linked(outside_blocks(architecture))) > 3


def rooms() -> Iterator[str]:
    """Folders with modules that stand in a package, or in one of its rooms that has rooms of its own."""
    for package in (*PACKAGES, "federation/tasks", "fedmq/simulation"):
        yield from (f"{package}/{one.parent.name}/" for one in sorted((ROOT / package).glob("*/__init__.py")))


def test_the_page_says_what_every_room_is_for() -> None:
    told = set(re.findall(r"^\| `([\w/]+/)` \|", ARCHITECTURE.read_text("utf-8"), re.MULTILINE))
    assert [room for room in rooms() if room not in told] == []


@pytest.mark.parametrize("package", ["coordinator", "edge_node", "sum_helper", "site_gateway"])
def test_the_page_draws_the_layers_that_are_checked(package: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    checked = next(each["layers"] for each in contracts if each.get("containers") == [package])
    assert drawn(package) == [layer.replace(" | ", " │ ") for layer in checked]


def drawn(package: str) -> list[str]:
    """The column of a package in the page's drawings."""
    for block in re.findall(r"^```\n(.*?)^```$", ARCHITECTURE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        head, *lines = block.splitlines()
        if re.fullmatch(r" \w+ +\w+", head) and package in head.split():
            start = head.index(package)
            cells = (re.split(" {2,}", line[start:])[0].strip() for line in lines)
            return [cell for cell in cells if cell]
    raise AssertionError(f"{package} is not drawn")


def test_a_wrong_path_would_be_noticed() -> None:
    text = (
        "`tests/architecture/` and `tests/architecture/test_pages.py::test_x` are there, `tests/nowhere.py` is not;\n"
        "[one](0002-no-such.md#part), [this page](#part), [a site](https://example.org/x), `other/place.py`, `a b/c`\n"
        "```\n`tests/in_a_block.py`\n```\n`docs/gone/`"
    )
    assert missing(ROOT / "docs" / "adr" / "0001.md", text) == ["0002-no-such.md", "docs/gone/", "tests/nowhere.py"]
