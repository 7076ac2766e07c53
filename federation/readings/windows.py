"""Readings of many sensors, each at its own times, become a frame of rows, and a frame becomes windows.

A reading is a time, a column and a value. With a period, row k is the mean of the readings in ``[k·period,
(k+1)·period)`` and its time is the begin of that span: the grid does not depend on where the readings begin, so a
device that trains and a device that scores cut the same rows. A cell without a reading is filled by the gap rule, or
stays NaN; no window is cut over NaN.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federation.errors import ConfigError, TaskError

__all__ = [
    "FRAME_CELLS_MAX",
    "GAP_MAX_S",
    "WINDOW_CELLS_MAX",
    "Frame",
    "WindowSpec",
    "cut_windows",
    "frame_windows",
    "resample",
]

Gap = Literal["hold", "linear", "drop"]

GAP_MAX_S = 300.0
"""The longest gap that is filled where nothing else is said, in seconds."""

FRAME_CELLS_MAX = 20_000_000
"""Rows times columns of one frame: 160 MB while it is made. More is refused before it is allocated."""

WINDOW_CELLS_MAX = 250_000_000
"""Values in all windows of one cut: 1 GB. More is refused before it is allocated."""

_BUCKET_MAX = float(1 << 53)
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """How readings become windows.

    Attributes:
        columns: Names of the last axis, in its order.
        length: Rows of one window.
        stride: Rows between the starts of two windows.
        period_s: Seconds of one row; None takes the rows as they come, joined where their times are equal.
        gap: A cell without a reading is the last one before (``hold``), on the line between the last before and the
            first after (``linear``), or stays a gap (``drop``).
        gap_max_s: ``hold`` keeps a value no longer; ``linear`` draws no longer line; without a period, two rows further
            apart are not neighbours. In seconds.

    Raises:
        ConfigError: One of them is out of its range.
    """

    columns: tuple[str, ...]
    length: int
    stride: int = 1
    period_s: float | None = None
    gap: Gap = "hold"
    gap_max_s: float = GAP_MAX_S

    def __post_init__(self) -> None:
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise ConfigError("window.columns", f"{list(self.columns)} must be names, each once, at least one")
        for name, value in (("length", self.length), ("stride", self.stride)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"window.{name}", f"{value!r} is not a number of rows, 1 or more")
        for name, seconds in (("period_s", self.period_s), ("gap_max_s", self.gap_max_s)):
            if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
                raise ConfigError(f"window.{name}", f"{seconds!r} is not a number of seconds above 0")
        if self.gap not in ("hold", "linear", "drop"):
            raise ConfigError("window.gap", f"{self.gap!r} is none of hold, linear, drop")


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows of one source.

    Attributes:
        times: Rising, float64 (T,), in seconds.
        values: float32 (T, C); NaN where a gap stays. One row of NaN stands for a gap of any length.
    """

    times: NDArray[np.float64]
    values: NDArray[np.float32]


def resample(times: ArrayLike, columns: ArrayLike, values: ArrayLike, spec: WindowSpec) -> Frame:
    """Join readings by time, and fill gaps by the rule.

    Args:
        times: float64 (R,), in seconds, in any order.
        columns: Which of ``spec.columns`` each reading is, int (R,); a number that is none of them is left out.
        values: float64 (R,). What is not finite as float32 is left out; two of one cell are averaged.
        spec: The period and the gap rule.

    Raises:
        TaskError: The arrays have not one length, or the frame would have more than `FRAME_CELLS_MAX` cells.
    """
    times, values = np.asarray(times, np.float64).ravel(), np.asarray(values, np.float64).ravel()
    column = np.asarray(columns, np.int64).ravel()
    if not len(times) == len(column) == len(values):
        raise TaskError(
            f"readings: {len(times)} times, {len(column)} columns, {len(values)} values: need as many of each"
        )
    count, period = len(spec.columns), spec.period_s
    ticks = times if period is None else np.floor(times / period)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(times) & (np.abs(values) <= _FLOAT32_MAX) & (column >= 0) & (column < count)
        good &= np.abs(ticks) < _BUCKET_MAX
    found, row = np.unique(ticks[good], return_inverse=True)
    _check_size(len(found), count)
    cells = _means(row, column[good], values[good], (len(found), count))
    ticks, cells = _spread(found, cells, spec)
    _fill(ticks, cells, spec)
    return Frame(times=ticks if period is None else ticks * period, values=cells.astype(np.float32))


def cut_windows(
    values: ArrayLike, length: int, stride: int = 1, *, times: ArrayLike | None = None, gap_max_s: float = math.inf
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """All windows that go over no gap.

    Args:
        values: float (T, C).
        length: Rows of a window.
        stride: Rows between two starts. After a gap the next window begins at the first row behind it.
        times: (T,) in seconds; where they do not rise there is a gap.
        gap_max_s: Two rows further apart have a gap between them, in seconds.

    Returns:
        The first row of each window, int64 (N,), and the windows, float32 (N, length, C); both may be empty.

    Raises:
        TaskError: The values are no table, or there are not as many times.
    """
    with np.errstate(over="ignore"):
        table = np.asarray(values, np.float32)
    if table.ndim != 2 or length < 1 or stride < 1:
        raise TaskError(f"windows: need a table (rows, columns), length and stride of 1 or more; got {table.shape}")
    sound = np.asarray(np.isfinite(table).all(axis=1))
    follows = np.zeros(len(table), bool)
    follows[1:] = sound[1:] & sound[:-1]
    if times is not None:
        steps = np.diff(_as_many(times, len(table)))
        follows[1:] &= (steps > 0) & (steps <= gap_max_s)
    begins = sound & ~follows
    runs = np.bincount(np.cumsum(begins)[sound] - 1, minlength=int(begins.sum()))
    counts = np.maximum(0, (runs - length) // stride + 1)
    earlier = np.repeat(np.cumsum(counts) - counts, counts)
    first = np.repeat(np.flatnonzero(begins), counts) + stride * (np.arange(counts.sum()) - earlier)
    if (cells := len(first) * length * table.shape[1]) > WINDOW_CELLS_MAX:
        raise TaskError(
            f"windows: {len(first)} windows have {cells} values, {WINDOW_CELLS_MAX} at most: raise the stride"
        )
    return first.astype(np.int64), table[first[:, None] + np.arange(length)]


def frame_windows(frame: Frame, spec: WindowSpec) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The windows of a frame, as `cut_windows` gives them: a gap of it is a row of NaN, which no window is over."""
    return cut_windows(frame.values, spec.length, spec.stride)


def _as_many(times: ArrayLike, count: int) -> NDArray[np.float64]:
    made = np.asarray(times, np.float64).ravel()
    if len(made) != count:
        raise TaskError(f"windows: {count} rows and {len(made)} times: need as many of each")
    return made


def _check_size(rows: int, columns: int) -> None:
    if rows * columns > FRAME_CELLS_MAX:
        raise TaskError(
            f"readings: {rows} rows of {columns} columns are more than {FRAME_CELLS_MAX} cells: "
            "make period_s longer, gap_max_s shorter, or keep fewer readings"
        )


def _means(
    row: NDArray[np.int64], column: NDArray[np.int64], values: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """The mean of each cell, float64; NaN where nothing is."""
    size = shape[0] * shape[1]
    cell = row * shape[1] + column
    many = np.bincount(cell, minlength=size)
    total = np.bincount(cell, weights=values, minlength=size)
    return np.where(many > 0, total / np.maximum(many, 1), np.nan).reshape(shape)


def _spread(
    found: NDArray[np.float64], cells: NDArray[np.float64], spec: WindowSpec
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows for the ticks without a reading: as many as a fill could reach, and one more where a gap stays."""
    if not len(found):
        return found, cells
    steps = np.diff(found)
    if spec.period_s is None:
        missing = (steps > spec.gap_max_s).astype(np.int64)
    else:
        missing = np.minimum(steps - 1, 0 if spec.gap == "drop" else _reach(spec) + 1).astype(np.int64)
        missing[steps > 1] = np.maximum(missing[steps > 1], 1)
    size = len(found) + int(missing.sum())
    _check_size(size, cells.shape[1])
    place = np.arange(len(found)) + np.concatenate([[0], np.cumsum(missing)])
    made = np.full((size, cells.shape[1]), np.nan)
    made[place] = cells
    owner = np.repeat(np.arange(len(found)), np.concatenate([missing, [0]]) + 1)
    offset = np.arange(size) - place[owner]
    if spec.period_s is None:
        following = np.nextafter(found[np.minimum(owner + 1, len(found) - 1)], -np.inf)
        return np.where(offset > 0, following, found[owner]), made
    return found[owner] + offset, made


def _reach(spec: WindowSpec) -> float:
    """How far a value is good for, in ticks."""
    return spec.gap_max_s if spec.period_s is None else spec.gap_max_s // spec.period_s


def _fill(ticks: NDArray[np.float64], cells: NDArray[np.float64], spec: WindowSpec) -> None:
    """Fill cells of NaN in place, by the rule."""
    if spec.gap == "drop":
        return
    index, reach = np.arange(len(ticks)), _reach(spec)
    for column in cells.T:
        known = np.isfinite(column)
        if not known.any():
            continue
        before = np.maximum.accumulate(np.where(known, index, -1))
        rows = np.flatnonzero(~known & (before >= 0))
        if spec.gap == "hold":
            rows = rows[ticks[rows] - ticks[before[rows]] <= reach]
            column[rows] = column[before[rows]]
            continue
        after = np.minimum.accumulate(np.where(known, index, len(ticks))[::-1])[::-1]
        rows = rows[after[rows] < len(ticks)]
        rows = rows[ticks[after[rows]] - ticks[before[rows]] <= reach]
        column[rows] = np.interp(ticks[rows], ticks[known], column[known])
