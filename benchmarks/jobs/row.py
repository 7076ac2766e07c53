"""One line of the jobs table, the table as Markdown, and the file of the rows that are done.

What a run of some jobs does not measure stays in the table.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

__all__ = ["Row", "as_markdown", "keep", "kept_rows"]

_FILE = "rows.json"

HEAD = ("job", "model, data", "nodes and setting", "ran in", "figure", "bar", "plain PyTorch, same run", "", "measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one job reached.

    Attributes:
        job: Its name.
        model: Model and data.
        setting: Nodes, rounds, local work, strategy.
        ran: ``simulator`` or ``real broker``.
        figure: The value.
        unit: Of the figure.
        bar: What it must reach.
        at_least: Whether larger is better.
        reference: What plain PyTorch reached in the same run.
        spread: Where the figure comes from, such as three seeds.
        measured: The day, as YYYY-MM-DD.
    """

    job: str
    model: str
    setting: str
    ran: str
    figure: float
    unit: str
    bar: float
    at_least: bool = True
    reference: str = ""
    spread: str = ""
    measured: str = ""

    @property
    def reached(self) -> bool:
        """Whether the bar is met."""
        return self.figure >= self.bar if self.at_least else self.figure <= self.bar

    def cells(self) -> tuple[str, ...]:
        """The cells of the table's row."""
        value = f"**{self.figure:.4g}{self.unit}**" + (f" ({self.spread})" if self.spread else "")
        bar = f"{'≥' if self.at_least else '≤'} {self.bar:.4g}{self.unit}"
        verdict = "reached" if self.reached else "**missed**"
        return (self.job, self.model, self.setting, self.ran, value, bar, self.reference or "-", verdict, self.measured)

    def measured_on(self, day: str) -> "Row":
        """The same with its day."""
        return replace(self, measured=day)


def as_markdown(rows: Iterable[Row]) -> str:
    """A Markdown table."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def kept_rows(folder: Path) -> dict[str, list[Row]]:
    """The newest rows of each job; none where nothing has run."""
    try:
        text = (folder / _FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return {name: [Row(**row) for row in rows] for name, rows in json.loads(text).items()}


def keep(folder: Path, name: str, rows: Sequence[Row]) -> Sequence[Row]:
    """Replace the rows of one job, and give them back."""
    kept = kept_rows(folder) | {name: list(rows)}
    new = folder / f"{_FILE}.new"
    new.write_text(json.dumps({job: [asdict(row) for row in own] for job, own in kept.items()}, indent=1) + "\n")
    new.replace(folder / _FILE)
    return rows
