"""Figures with their bars: collected, printed as a table or as JSON, and judged."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure.

    Attributes:
        what: What was measured.
        measured: The value, in ``unit``.
        unit: Its unit, or "" for a ratio.
        bar: The value to reach; None is a figure that is only shown.
        at_least: Whether larger is better.
        note: Where the value comes from: its parts, its spread.
    """

    what: str
    measured: float
    bar: float | None
    unit: str = ""
    at_least: bool = False
    note: str = ""

    @property
    def reached(self) -> bool:
        """Whether the bar is met, if there is one."""
        if self.bar is None:
            return True
        return self.measured >= self.bar if self.at_least else self.measured <= self.bar


def show(title: str, figures: list[Figure], *, as_json: bool, skipped: dict[str, str]) -> bool:
    """Print all figures; returns whether every bar was met."""
    if as_json:
        rows = [asdict(figure) | {"reached": figure.reached} for figure in figures]
        sys.stdout.write(json.dumps({"title": title, "figures": rows, "skipped": skipped}) + "\n")
    else:
        _print(title, figures, skipped)
    return all(figure.reached for figure in figures)


def _print(title: str, figures: list[Figure], skipped: dict[str, str]) -> None:
    table = Table(title=title, title_justify="left")
    for name in ("what", "measured", "bar", "", "from"):
        table.add_column(name, justify="right" if name in {"measured", "bar"} else "left")
    for figure in figures:
        bar, verdict = "-", "-"
        if figure.bar is not None:
            bar = f"{'≥' if figure.at_least else '≤'} {figure.bar:.4g} {figure.unit}".rstrip()
            verdict = "[green]reached[/]" if figure.reached else "[bold red]missed[/]"
        measured = f"{figure.measured:.4g} {figure.unit}".rstrip()
        table.add_row(figure.what, measured, bar, verdict, figure.note)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for what, why in skipped.items():
        console.print(f"not measured: {what}: {why}", markup=False)


def put_between(page: Path, name: str, text: str) -> None:
    """Put a text between the page's two marks ``<!-- name: begin -->`` and ``<!-- name: end -->``.

    Raises:
        ValueError: The page lacks a mark.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    whole = page.read_text(encoding="utf-8")
    before, found, rest = whole.partition(begin)
    _, also, after = rest.partition(end)
    if not (found and also):
        raise ValueError(f"{page} lacks {begin.strip()} or {end.strip()}")
    page.write_text(before + begin + text + end + after, encoding="utf-8")
