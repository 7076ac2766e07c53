"""Makes one site of pages that lie in several folders: pages beside ``docs/`` are added, links to code become text.

The pages are written to be read in the repository, where a link may lead to a source file. On the site such a link has
no target; its words stay. Hooks of MkDocs: https://www.mkdocs.org/user-guide/plugins/#events.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

PAGES_BESIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "compression/FORMAT.md",
    "federation/PROTOCOL.md",
    "mosquitto/README.md",
)
"""Pages outside of ``docs/`` that the site has, too, under the same path."""

UNLISTED = frozenset({"mosquitto/README.md"})
"""Pages that are reached by links alone."""

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)


def decisions() -> list[str]:
    """The decision records, by number."""
    return sorted(f"adr/{path.name}" for path in (ROOT / "docs" / "adr").glob("*.md"))


def on_config(config: Any) -> Any:
    """List every decision record where the navigation says ``adr/``."""
    _expand(config["nav"])
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages beside ``docs/``."""
    from mkdocs.structure.files import File, InclusionLevel  # noqa: PLC0415 - links and lists are tested without it

    for path in PAGES_BESIDE:
        added = File.generated(config, path, content=(ROOT / path).read_text(encoding="utf-8"))
        if path in UNLISTED:
            added.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(added)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links by where the page lies on the site."""
    return for_site(markdown, page.file.src_uri)


def for_site(markdown: str, page: str) -> str:
    """A page's text with links that the site has.

    Args:
        markdown: As it is in the repository.
        page: Its path on the site, which is that below ``docs/``, or that in the repository.
    """
    parts = _FENCE.split(markdown)
    return "".join(
        part if part.startswith("```") else _LINK.sub(lambda link: _turned(link, page), part) for part in parts
    )


def target_of(page: str, target: str) -> str | None:
    """Where a link of a page leads: a path in the repository; None where it leads to another site or into the page."""
    path = target.partition("#")[0]
    if not path or "://" in target or target.startswith("mailto:"):
        return None
    place = page if page in PAGES_BESIDE else f"docs/{page}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), path))


def _turned(link: re.Match[str], page: str) -> str:
    words, target = link[1], link[2]
    found = target_of(page, target)
    if found is None:
        return link[0]
    on_it = found if found in PAGES_BESIDE else found.removeprefix("docs/") if found.startswith("docs/") else None
    if on_it is None or (ROOT / found).is_dir():
        return words
    anchor = target[len(target.partition("#")[0]) :]
    return f"[{words}]({posixpath.relpath(on_it, posixpath.dirname(page) or '.')}{anchor})"


def _expand(items: list[Any]) -> None:
    for item in items:
        for title, below in item.items():
            if isinstance(below, list):
                _expand(below)
            elif below == "adr/":
                item[title] = decisions()
