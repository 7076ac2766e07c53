"""The readings of a device that go on arriving, as a sensor task's data: one series, made anew at each round."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.readings.live import LiveReadings, Readings
from federation.readings.windows import Frame, resample
from federation.task import TaskContext
from federation.tasks.sensors.examples import NONE, OWN, DeviceReadings, Pair
from federation.tasks.sensors.plan import Kind, SensorPlan
from federation.tasks.sensors.series import NO_TARGET, Series

__all__ = ["LiveSource"]


@dataclass
class LiveSource:
    """The readings of ``[data]``; see `LiveReadings`.

    Attributes:
        context: Has them.
        plan: What the task is told.
        kind: What it learns.
        is_live: A task asks for the data again at each round.
    """

    context: TaskContext
    plan: SensorPlan
    kind: Kind
    is_live: bool = field(default=True, init=False)
    _now: DeviceReadings | None = field(default=None, init=False, repr=False)
    _told: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        """Say which columns are used, and how."""
        self._live.uses(self.plan.spec)

    @property
    def readings(self) -> DeviceReadings:
        """As they were when they were last trained on; now where they never were.

        Raises:
            TaskError: They cannot be read, or nothing has arrived for a column.
        """
        if self._now is None:
            self._now = self._read()
        return self._now

    def train(self) -> Pair:
        """See `DeviceReadings.train`: of what is there now.

        Raises:
            TaskError: There is no window yet.
        """
        self._now = self._read()
        return self._now.train()

    def held_out(self) -> Pair:
        """See `DeviceReadings.test`: of what `train` has found.

        Raises:
            TaskError: There is no window yet.
        """
        return self.readings.test()

    @property
    def _live(self) -> LiveReadings:
        if self.context.readings is None:
            raise TaskError("this node has no readings of its own: see [data]")
        return self.context.readings

    def _read(self) -> DeviceReadings:
        plan = self.plan
        wanted = (*plan.columns, plan.target) if plan.target else plan.columns
        found = self._live.read(wanted).without_outliers(self._told)
        never = [name for place, name in enumerate(plan.columns) if not (found.columns == place).any()]
        if never:
            raise TaskError(f"no reading has arrived for {', '.join(never)}: see edge-node status, and [data]")
        frame = resample(found.times, found.columns, found.values, plan.spec)
        series = Series(name="readings", values=frame.values, targets=self._targets(frame, found), times=frame.times)
        made = DeviceReadings(plan, self.kind, [series], self.context.data)
        if plan.scaler not in {OWN, NONE}:
            scaler = made.scaler
            moments = zip(scaler.mean, scaler.std, strict=True)
            self._live.uses(plan.spec, dict(zip(plan.columns, moments, strict=True)))
        return made

    def _targets(self, frame: Frame, found: Readings) -> NDArray[np.float32]:
        """Of each row what the target's column had said last by its end, as long as a gap is filled."""
        plan = self.plan
        times, said = found.of(plan.target) if plan.target else (np.zeros(0), np.zeros(0))
        made = np.full(len(frame.times), NO_TARGET, np.float32)
        if not len(times):
            return made
        ends = frame.times + (plan.period_s or 0.0)
        place = np.searchsorted(times, ends, side="right" if plan.period_s is None else "left") - 1
        known = (place >= 0) & (ends - times[np.maximum(place, 0)] <= plan.gap_max_s)
        made[known] = said[place[known]]
        if self.kind is Kind.CLASS and not np.isin(said, np.arange(len(plan.classes))).all():
            strange = said[~np.isin(said, np.arange(len(plan.classes)))][0]
            numbers = ", ".join(f"{number} = {name}" for number, name in enumerate(plan.classes))
            raise TaskError(f"{plan.target} is {strange:g}, and the classes are {numbers}: see values in [data]")
        return np.minimum(made, np.float32(plan.cap)) if self.kind is Kind.REMAINING else made
