"""The pages about the code name files and folders that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "CONTRIBUTING.md",
    ROOT / "docs" / "explanation" / "architecture.md",
    *sorted((ROOT / "docs" / "adr").glob("*.md")),
)
FOLDERS = frozenset(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))


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
    architecture = (ROOT / "docs" / "explanation" / "architecture.md").read_text("utf-8")
    assert len(named(outside_blocks(architecture))) > 100
    assert len(linked(outside_blocks(architecture))) > 3


def test_a_wrong_path_would_be_noticed() -> None:
    text = (
        "`tests/architecture/` and `tests/architecture/test_pages.py::test_x` are there, `tests/nowhere.py` is not;\n"
        "[one](0002-no-such.md#part), [this page](#part), [a site](https://example.org/x), `other/place.py`, `a b/c`\n"
        "```\n`tests/in_a_block.py`\n```\n`docs/gone/`"
    )
    assert missing(ROOT / "docs" / "adr" / "0001.md", text) == ["0002-no-such.md", "docs/gone/", "tests/nowhere.py"]
