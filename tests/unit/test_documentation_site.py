"""The site has every page in its navigation, every link leads somewhere, and reading it asks nobody else."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / "deploy" / "site" / "hooks.py"
EXTERNAL = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["']?(?:https?:)?//|<link\b[^>]*rel=["']?(?:stylesheet|preconnect|icon)["']?[^>]*"""
    r"""href=["']?(?:https?:)?//|url\(["']?(?:https?:)?//"""
)


def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("site_hooks", HOOKS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    return found


def listed(items: list[Any]) -> Iterator[str]:
    for item in items:
        for below in item.values():
            yield from listed(below) if isinstance(below, list) else [below]


def pages() -> set[str]:
    """Every page of the site, by its path there."""
    return {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} | {
        *hooks().PAGES_BESIDE
    }


def source(page: str) -> Path:
    return ROOT / page if page in hooks().PAGES_BESIDE else ROOT / "docs" / page


def links(page: str) -> Iterator[str]:
    text = re.sub(r"^```.*?^```$", "", source(page).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))


def test_every_page_is_in_the_navigation_once() -> None:
    found = list(listed(config()["nav"]))
    assert found.count("adr/") == 1
    found = [one for one in found if one != "adr/"] + hooks().decisions()
    assert sorted(found) == sorted(pages() - hooks().UNLISTED)
    assert len(found) > 90


def test_every_link_of_every_page_leads_to_something_that_is_there() -> None:
    lost = {}
    for page in pages():
        targets = {target: hooks().target_of(page, target) for target in links(page)}
        gone = [target for target, path in targets.items() if path is not None and not (ROOT / path).exists()]
        if gone:
            lost[page] = gone
    assert lost == {}


def test_a_link_that_leads_nowhere_would_be_noticed() -> None:
    assert hooks().target_of("how-to/page.md", "../reference/json.md#x") == "docs/reference/json.md"
    assert hooks().target_of("how-to/page.md", "../../federation/nowhere.md") == "federation/nowhere.md"
    assert hooks().target_of("federation/PROTOCOL.md", "../docs/faq.md") == "docs/faq.md"
    assert [hooks().target_of("faq.md", one) for one in ("#part", "https://example.org/x.md", "mailto:a@b")] == [
        None
    ] * 3


@pytest.mark.parametrize(
    ("page", "text", "wanted"),
    [
        ("how-to/privacy.md", "[a](../../SECURITY.md#x)", "[a](../SECURITY.md#x)"),
        ("federation/PROTOCOL.md", "[a](../docs/faq.md)", "[a](../faq.md)"),
        ("SECURITY.md", "[a](docs/how-to/privacy.md)", "[a](how-to/privacy.md)"),
        ("explanation/architecture.md", "[`engine`](../../coordinator/engine/round.py)", "`engine`"),
        ("CONTRIBUTING.md", "[docs/adr/](docs/adr/)", "docs/adr/"),
        ("faq.md", "[a](how-to/page.md)", "[a](how-to/page.md)"),
        ("faq.md", "[a](https://example.org)", "[a](https://example.org)"),
        ("faq.md", "![a](pictures/page.png)", "![a](pictures/page.png)"),
        ("faq.md", "```\n[a](../README.md)\n```", "```\n[a](../README.md)\n```"),
    ],
)
def test_links_are_turned_by_where_a_page_lies_on_the_site(page: str, text: str, wanted: str) -> None:
    assert hooks().for_site(text, page) == wanted


@pytest.mark.slow
def test_the_site_is_built_strictly_and_asks_nobody(tmp_path: Path) -> None:
    """A warning is an error; no page loads anything from elsewhere."""
    pytest.importorskip("material", reason="needs the extra docs (make docs)")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs (make docs)")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stdout + built.stderr
    files = list((tmp_path / "site").rglob("*.html"))
    assert len(files) > 90
    asks = [file.name for file in files if EXTERNAL.search(file.read_text("utf-8"))]
    assert asks == []
    api = (tmp_path / "site" / "reference" / "api.html").read_text("utf-8")
    assert "federation.task.TaskContext" in api
    assert "num_examples" in api
    assert (tmp_path / "site" / "search" / "search_index.json").stat().st_size > 100_000


def test_a_page_that_asks_somebody_would_be_noticed() -> None:
    for line in (
        '<script src="https://unpkg.com/x.js"></script>',
        '<link href="x" rel="stylesheet" href="https://fonts.example/x.css">',
        "<img class=a src=//example.org/x.png>",
        "@import url(https://example.org/x.css)",
    ):
        assert EXTERNAL.search(line), line
    assert not EXTERNAL.search('<a href="https://example.org">there</a><script src="../assets/x.js"></script>')
