"""From a device's series to the windows that train and test a model, and to the scaler that all of them go through."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.readings.outliers import outliers, tell_outliers
from federation.readings.windows import cut_windows
from federation.tasks.sensors.plan import Kind, SensorPlan
from federation.tasks.sensors.rules import Scaler
from federation.tasks.sensors.series import Series

__all__ = ["DeviceReadings", "Pair", "windows_of"]

F32 = NDArray[np.float32]
Pair = tuple[F32, NDArray[np.generic]]
"""Inputs, float32 of shape (n, length, columns), and targets: the same, the next rows, classes int64 (n,), or float32
(n,)."""

OWN, NONE = "own", "none"


@dataclass(frozen=True)
class DeviceReadings:
    """All that one device has.

    Attributes:
        plan: What the task is told.
        kind: What it learns.
        series: The device's stretches of readings.
        folder: Where a scaler's file is looked for; None where there is no data folder.
    """

    plan: SensorPlan
    kind: Kind
    series: Sequence[Series]
    folder: Path | None = None

    @cached_property
    def scaler(self) -> Scaler:
        """The device's own, or the one that it was given.

        Raises:
            TaskError: The file is not there, or is another one.
        """
        plan = self.plan
        if plan.scaler == NONE:
            return Scaler.none(len(plan.columns))
        if plan.scaler == OWN:
            return Scaler.of(self.training_rows())
        path = Path(plan.scaler).expanduser()
        return Scaler.read((self.folder or Path()) / path, plan.columns, plan.scaler_digest)

    def training_rows(self) -> F32:
        """What trains before it is cut into windows: in the sensors' units, float32 of shape (rows, columns)."""
        return np.concatenate([each.values for each in self._parts[0]])

    def training_windows(self) -> F32:
        """In the sensors' units, float32 of shape (n, length + horizon, columns).

        Raises:
            TaskError: There is none.
        """
        return self._windows(self._parts[0])[0]

    def train(self) -> Pair:
        """What trains.

        Raises:
            TaskError: There is no window.
        """
        return self._pair(self._parts[0], "trains")

    def test(self) -> Pair:
        """What is held out.

        Raises:
            TaskError: There is no window.
        """
        return self._pair(self._parts[1], "is held out (see holdout)")

    def whole(self) -> Pair:
        """Everything, for data that only tests.

        Raises:
            TaskError: There is no window.
        """
        return self._pair(self.series, "tests")

    @cached_property
    def _parts(self) -> tuple[list[Series], list[Series]]:
        """What trains and what is held out: the last files where a file is a life, else the last rows of each."""
        sound = self._without_outliers()
        known = [each.part(0, self.plan.rows) if self.plan.rows else each for each in sound]
        share = self.plan.held_out(self.kind)
        if not share:
            return known, []
        if self.kind in {Kind.CLASS, Kind.REMAINING} and len(known) > 1:
            count = min(len(known) - 1, max(1, round(share * len(known))))
            return known[:-count], known[-count:]
        # One window at least, or nothing would be tested.
        cuts = [max(0, len(each.values) - max(round(share * len(each.values)), self._length)) for each in known]
        return (
            [each.part(0, cut) for each, cut in zip(known, cuts, strict=True)],
            [each.part(cut) for each, cut in zip(known, cuts, strict=True)],
        )

    def _without_outliers(self) -> list[Series]:
        """What no sensor has measured is a gap of what trains and of what is held out; scores are made of all."""
        whole = np.concatenate([each.values for each in self.series])
        astray = np.stack([outliers(column) for column in whole.T], axis=1)
        if not astray.any():
            return list(self.series)
        for name, column, mine in zip(self.plan.columns, whole.T, astray.T, strict=True):
            if mine.any():
                tell_outliers(name, column[mine])
        ends = np.cumsum([len(each.values) for each in self.series])[:-1]
        tables = np.split(np.where(astray, np.float32(np.nan), whole), ends)
        return [replace(each, values=table) for each, table in zip(self.series, tables, strict=True)]

    @property
    def _length(self) -> int:
        """Rows of a window, with those that a forecast is compared with."""
        return self.plan.window + (self.plan.horizon if self.kind is Kind.FORECAST else 0)

    def _pair(self, parts: Sequence[Series], what: str) -> Pair:
        windows, targets = self._windows(parts)
        if not len(windows):
            rows = sum(len(each.values) for each in parts)
            raise TaskError(f"no window of {self._length} rows in the {rows} rows that {what}: make window shorter")
        inputs = self.scaler.scaled(windows[:, : self.plan.window])
        match self.kind:
            case Kind.RECONSTRUCTION:
                return inputs, inputs
            case Kind.FORECAST:
                return inputs, self.scaler.scaled(windows[:, self.plan.window :])
            case Kind.CLASS:
                return inputs, targets.astype(np.int64)
            case Kind.REMAINING:
                return inputs, targets

    def _windows(self, parts: Sequence[Series]) -> tuple[F32, F32]:
        """Windows and the target of each one's last row."""
        length = self._length
        found, targets = [], []
        for each in parts:
            starts, windows = windows_of(each, self.plan, length)
            ends = each.targets[starts + length - 1]
            kept = np.isfinite(ends) if self.kind in {Kind.CLASS, Kind.REMAINING} else np.ones(len(starts), bool)
            found.append(windows[kept])
            targets.append(ends[kept])
        if not found:
            return np.empty((0, length, len(self.plan.columns)), np.float32), np.empty(0, np.float32)
        return np.concatenate(found), np.concatenate(targets)


def windows_of(
    series: Series, plan: SensorPlan, length: int, stride: int | None = None
) -> tuple[NDArray[np.int64], F32]:
    """The windows of one series, as training and scoring cut them; a stride wins over the plan's.

    Returns:
        The first row of each, int64 (n,), and float32 of shape (n, length, columns).
    """
    times = None if plan.period_s else series.times
    return cut_windows(series.values, length, stride or plan.stride, times=times, gap_max_s=plan.gap_max_s)
