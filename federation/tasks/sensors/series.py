"""The readings of a device as tables of equal steps: CSV files, each a stretch without a break."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.readings.windows import resample
from federation.tasks.data.tables import read_columns
from federation.tasks.sensors.plan import Kind, SensorPlan

__all__ = ["NO_TARGET", "Series", "read_series", "table_files"]

F32 = NDArray[np.float32]

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".txt", ".txt.gz")

TEST, TRAIN = "test", "train"
"""Folders in the data folder; without the second everything that is not in the first trains."""

NO_TARGET = np.nan
"""The target of a row that nobody has labelled yet: no window that ends with it is an example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One stretch of readings.

    Attributes:
        name: Where it is from.
        values: float32 (rows, columns), NaN where a gap is.
        targets: float32 (rows,): the number of the class, or the rows that are left; NaN where nobody knows.
        times: Seconds, float64 (rows,); None where nobody has said.
    """

    name: str
    values: F32
    targets: F32
    times: NDArray[np.float64] | None = None

    def part(self, begin: int, end: int | None = None) -> "Series":
        """Some of the rows."""
        rows = slice(begin, end)
        times = None if self.times is None else self.times[rows]
        return replace(self, values=self.values[rows], targets=self.targets[rows], times=times)


def table_files(data: Path | None, part: str = TRAIN) -> list[Path]:
    """The tables of a data folder, in the order of their names.

    Args:
        data: The folder, or one table.
        part: ``train`` or ``test``.

    Raises:
        TaskError: There is none that trains.
    """
    if data is None:
        raise TaskError("a sensor task reads CSV files from the data folder, and none is given: --data DIR")
    if data.is_file():
        return [data] if part == TRAIN else []
    folder = data / part
    if part == TEST or folder.is_dir():
        found = _tables_below(folder)
    else:
        found = [path for path in _tables_below(data) if (data / TEST) not in path.parents]
    if not found and part == TRAIN:
        raise TaskError(f"there is no CSV file in {folder if folder.is_dir() else data}: it is what trains")
    return found


def read_series(path: Path, plan: SensorPlan, kind: Kind) -> Series:
    """Read one table.

    Raises:
        TaskError: It cannot be read, lacks a column, or has no rows.
    """
    if plan.period_s is not None and not plan.time:
        raise TaskError("period_s needs time, the column that says when a row was")
    texts = tuple(name for name in (plan.time, plan.target if kind is Kind.CLASS else "") if name)
    numbers = (*plan.columns, *((plan.target,) if kind is Kind.REMAINING and plan.target else ()))
    found, said = read_columns(path, numbers, texts, sep=plan.sep or None, decimal=plan.decimal)
    if lacking := [name for name in (*plan.columns, *texts) if name not in found and name not in said]:
        raise TaskError(f"{path} has no column {', '.join(lacking)}; give sep if these are not the columns")
    values = np.stack([found[name] for name in plan.columns], axis=1)
    if not len(values):
        raise TaskError(f"{path} has no rows")
    times = _times(path, said[plan.time]) if plan.time else None
    targets = _targets(path, plan, kind, found.get(plan.target), said.get(plan.target, ()), len(values))
    series = Series(name=path.name, values=values, targets=targets, times=times)
    return series if plan.period_s is None else _resampled(series, plan)


def _tables_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.name.endswith(SUFFIXES) and not path.name.startswith("."))


def _times(path: Path, texts: Sequence[str]) -> NDArray[np.float64]:
    """Seconds, of numbers or of dates; one without a zone is in UTC."""
    found = np.empty(len(texts))
    for row, text in enumerate(texts):
        try:
            found[row] = float(text)
        except ValueError:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                problem = f"{path} row {row + 1}: the time is {text!r}: give seconds, or 2020-03-09 10:14:33"
                raise TaskError(problem) from None
            found[row] = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    return found


def _targets(path: Path, plan: SensorPlan, kind: Kind, numbers: F32 | None, texts: Sequence[str], rows: int) -> F32:
    if kind is Kind.CLASS:
        number_of = {name: float(number) for number, name in enumerate(plan.classes)}
        if strange := next((text for text in texts if text and text not in number_of), None):
            raise TaskError(f"{path}: {plan.target} is {strange!r}, and the classes are {', '.join(plan.classes)}")
        return np.array([number_of.get(text, NO_TARGET) for text in texts], np.float32)
    if kind is not Kind.REMAINING:
        return np.full(rows, NO_TARGET, np.float32)
    # A table without the column ends with the failure.
    left = np.arange(rows - 1, -1, -1, dtype=np.float32) if numbers is None else numbers
    return np.minimum(left, np.float32(plan.cap))


def _resampled(series: Series, plan: SensorPlan) -> Series:
    """One row for each period; a row's target is the last one that had been said by its end."""
    assert series.times is not None  # noqa: S101 - the plan has seen to it
    rows, columns = series.values.shape
    frame = resample(
        np.repeat(series.times, columns), np.tile(np.arange(columns), rows), series.values.ravel(), plan.spec
    )
    order = np.argsort(series.times, kind="stable")
    ends = frame.times + (plan.period_s or 0.0)
    place = np.searchsorted(series.times[order], ends, side="left") - 1
    targets = series.targets[order][np.maximum(place, 0)]
    return Series(name=series.name, values=frame.values, targets=targets, times=frame.times)
