"""What somebody types who has read a page and nothing else: quoted for every shell, and what it names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "adr" not in page.parts)]
PACKAGES = ("compression", "coordinator", "edge_node", "federation", "fedmq", "site_gateway", "sum_helper")
INSTALL = re.compile(r"pip install [^`\n]*\[[a-z]")
QUOTED = re.compile(r"pip install [^`\n]*(['\"])[^'\"]*\[[a-z][^'\"]*\1")
COMMANDS = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def test_what_pip_installs_is_quoted_on_every_page_and_in_every_error() -> None:
    """Zsh takes brackets that are not quoted for a pattern, and refuses."""
    sources = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py")]
    lines = [(file, line) for file in (*PAGES, *sources) for line in file.read_text().splitlines()]
    asked = [(file, line) for file, line in lines if INSTALL.search(line)]
    assert len(asked) > 20
    assert [(file.name, line) for file, line in asked if not QUOTED.search(line)] == []


def test_a_page_that_copies_files_of_the_sources_says_so() -> None:
    """A wheel has the units and no Dockerfile."""
    silent = []
    for page in PAGES[1:]:
        text = page.read_text()
        if any("deploy/" in commands for commands in COMMANDS.findall(text)) and "the sources" not in text:
            silent.append(page.name)
    assert silent == []


def test_every_file_of_the_sources_that_a_page_names_is_there() -> None:
    named = [
        (page.name, path)
        for page in PAGES
        for path in re.findall(r"(?<![\w/.-])((?:deploy|mosquitto)/[\w./-]*[\w/])", page.read_text())
    ]
    assert len(named) > 20
    assert [(page, path) for page, path in named if not (ROOT / path).exists()] == []
