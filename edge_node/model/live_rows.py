"""The newest rows of readings that go on arriving, cut as a training cuts them: the same resampling, the same gaps.

A row is whole once every column has a reading of its time, or once a later time has come. With a period it is whole
once a reading of a later period has come. What comes for a row that was already taken is too late for its score,
and in the windows of later rows, as in those of a training.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from federation.readings.windows import WindowSpec, resample

__all__ = ["LiveRows"]

READINGS_MAX = 200_000
"""Readings in memory: of a faster stream the window's begin is lost, and there is no score."""

_START = 1_024


class LiveRows:
    """Windows of one source.

    Args:
        spec: Columns, period and gaps.
        rows: Rows of a window.

    Attributes:
        late: Readings that came after their row was taken.
        latest: Column of the last of these, and how far its time was behind the newest row's, in seconds.
    """

    def __init__(self, spec: WindowSpec, rows: int) -> None:
        self._spec, self._rows = replace(spec, length=rows, stride=1), rows
        self._place: Mapping[str, int] = {name: place for place, name in enumerate(spec.columns)}
        self._times = np.empty(_START)
        self._columns = np.empty(_START, np.int64)
        self._values = np.empty(_START)
        self._count = 0
        self._newest = self._taken = -np.inf
        self._seen: set[int] = set()
        self.late, self.latest = 0, ("", 0.0)

    @property
    def newest(self) -> float:
        """The time of the newest row that has a reading, in seconds; minus infinity where there is none."""
        period = self._spec.period_s
        return self._newest if period is None else self._newest * period

    def add(self, readings: Iterable[tuple[float, str, float]]) -> list[tuple[float, NDArray[np.float32]]]:
        """Take readings; returns the time and the window, float32 (rows, C), of each row that became whole.

        Args:
            readings: Time in seconds, column and value; of other columns nothing is taken.
        """
        found = []
        for time, name, value in readings:
            place = self._place.get(name)
            if place is None:
                continue
            tick = self._tick(time)
            if tick <= self._taken:
                self.late, self.latest = self.late + 1, (name, self.newest - time)
                self._put(time, place, value)
                continue
            if tick > self._newest and self._seen:
                found += self._take(self._newest)
            if tick > self._newest:
                self._newest, self._seen = tick, set()
            self._put(time, place, value)
            if tick == self._newest:
                self._seen.add(place)
            if self._spec.period_s is None and len(self._seen) == len(self._place):
                found += self._take(self._newest)
                self._seen = set()
        return found

    def _tick(self, time: float) -> float:
        return time if self._spec.period_s is None else float(np.floor(time / self._spec.period_s))

    def _take(self, tick: float) -> list[tuple[float, NDArray[np.float32]]]:
        """The window whose last row is this one; nothing where there is a gap in it, or too little before it."""
        if tick <= self._taken:
            return []
        self._taken = tick
        given = slice(0, self._count)
        frame = resample(self._times[given], self._columns[given], self._values[given], self._spec)
        end = tick if self._spec.period_s is None else tick * self._spec.period_s
        # Of a period that has only begun there may be a reading already.
        upto = int(np.searchsorted(frame.times, end, side="right"))
        window = frame.values[max(0, upto - self._rows) : upto]
        self._forget(frame.times[max(0, upto - self._rows)] if upto else end)
        if len(window) < self._rows or not np.isfinite(window).all():
            return []
        return [(end, window)]

    def _put(self, time: float, place: int, value: float) -> None:
        if self._count == len(self._times):
            if self._count >= READINGS_MAX:
                self._keep(np.arange(self._count) >= self._count // 2)
            else:
                size = min(READINGS_MAX, 2 * self._count)
                for name in ("_times", "_columns", "_values"):
                    former = getattr(self, name)
                    made = np.empty(size, former.dtype)
                    made[: self._count] = former
                    setattr(self, name, made)
        self._times[self._count], self._columns[self._count], self._values[self._count] = time, place, value
        self._count += 1

    def _forget(self, begin: float) -> None:
        """What is needed no more: of each column the newest cell before the window stays, for the gap rule.

        A cell is all readings of its row, since it is their mean.
        """
        times, columns = self._times[: self._count], self._columns[: self._count]
        ticks = times if self._spec.period_s is None else np.floor(times / self._spec.period_s)
        earlier = times < begin
        kept = ~earlier
        for place in range(len(self._place)):
            mine = earlier & (columns == place)
            kept |= mine & (ticks == np.max(ticks, where=mine, initial=-np.inf))
        self._keep(kept)

    def _keep(self, kept: NDArray[np.bool]) -> None:
        left = int(kept.sum())
        for array in (self._times, self._columns, self._values):
            array[:left] = array[: self._count][kept]
        self._count = left
