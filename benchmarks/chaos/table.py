"""The campaign's closing table: fault, times injected, lost, double, hung, recovery."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass(slots=True, kw_only=True)
class Row:
    """What one scenario did and found.

    Attributes:
        fault: What was injected.
        injected: How often.
        lost: Updates that were acknowledged and are nowhere.
        double: Updates that count twice, or in two ways.
        hung: Times that something did not come back within its limit.
        recovery_s: Seconds from each restart (or healing) to the first work after it.
        bar_s: The most that the 95th percentile of them may be; None is no bar.
        note: A figure of its own.
        failures: What else was wrong; empty is good.
    """

    fault: str
    injected: int = 0
    lost: int = 0
    double: int = 0
    hung: int = 0
    recovery_s: list[float] = field(default_factory=list)
    bar_s: float | None = None
    note: str = ""
    failures: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether everything was as it must be."""
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """What was not as it must be, in words."""
        counts = (("lost", self.lost), ("double", self.double), ("hung", self.hung))
        found = [f"{count} {name}" for name, count in counts if count]
        p95_s = percentile(self.recovery_s, 0.95) if self.recovery_s else 0.0
        if self.bar_s is not None and p95_s > self.bar_s:
            found.append(f"recovery p95 {p95_s:.2f} s, bar {self.bar_s:g} s")
        return [*found, *self.failures]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below this share of all of them."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def show(rows: Sequence[Row], elsewhere: Sequence[tuple[str, str]], *, as_json: bool) -> bool:
    """Print the table; returns whether all is good.

    Args:
        rows: What was done.
        elsewhere: Faults that no real process can be given, and where they are tested.
        as_json: One JSON object instead.
    """
    good = all(row.good for row in rows)
    if as_json:
        data = {"good": good, "rows": [_as_json(row) for row in rows], "elsewhere": dict(elsewhere)}
        sys.stdout.write(json.dumps(data) + "\n")
    else:
        _print(rows, elsewhere)
    return good


def _as_json(row: Row) -> dict[str, object]:
    return {
        "fault": row.fault,
        "injected": row.injected,
        "lost": row.lost,
        "double": row.double,
        "hung": row.hung,
        "recovery_p50_s": percentile(row.recovery_s, 0.5) if row.recovery_s else None,
        "recovery_p95_s": percentile(row.recovery_s, 0.95) if row.recovery_s else None,
        "recoveries": len(row.recovery_s),
        "bar_s": row.bar_s,
        "note": row.note,
        "failures": row.failures,
        "good": row.good,
    }


def _print(rows: Sequence[Row], elsewhere: Sequence[tuple[str, str]]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 170)
    table = Table(title="Fault campaign", title_justify="left")
    table.add_column("fault", overflow="fold")
    for name in ("times", "lost", "double", "hung", "p50", "p95", "bar"):
        table.add_column(name, justify="right")
    table.add_column("")
    table.add_column("note", overflow="fold")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    for row in rows:
        for failure in row.failures:
            console.print(f"{row.fault}: {failure}", markup=False, highlight=False)
    for fault, where in elsewhere:
        console.print(f"not with real processes: {fault}: {where}", markup=False, highlight=False)


def _cells(row: Row) -> list[str]:
    times = [f"{percentile(row.recovery_s, share):.2f} s" if row.recovery_s else "" for share in (0.5, 0.95)]
    bar = "" if row.bar_s is None else f"≤ {row.bar_s:g} s"
    verdict = "[green]good[/]" if row.good else "[bold red]BAD[/]"
    counts = [str(number) for number in (row.injected, row.lost, row.double, row.hung)]
    return [row.fault, *counts, *times, bar, verdict, row.note]
