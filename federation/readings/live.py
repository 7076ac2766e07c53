"""What a task sees of readings that go on arriving: each round's examples are made of what is there then.

```python
def build(context):
    data = LiveWindows(context.readings, WindowSpec(columns=("heat", "flow"), length=60, period_s=1.0))
    return TorchTask(context, model=..., loss=..., train_data=data.train, own_test=data.test)
```
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.readings.labels import join_labels
from federation.readings.outliers import outliers, tell_outliers
from federation.readings.windows import Frame, WindowSpec, frame_windows, resample

__all__ = ["LiveReadings", "LiveWindows", "Readings", "parted"]


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings by time.

    Attributes:
        names: Of the columns.
        times: Rising, float64 (R,), in seconds since 1970.
        columns: Place of each reading's column in ``names``, int64 (R,).
        values: float64 (R,).
    """

    names: tuple[str, ...]
    times: NDArray[np.float64]
    columns: NDArray[np.int64]
    values: NDArray[np.float64]

    def without_outliers(self, told: set[str]) -> "Readings":
        """The same without what no sensor has measured; see `outliers`.

        Args:
            told: Columns of which it was said already; more are added.
        """
        kept = np.ones(len(self.times), bool)
        for place, name in enumerate(self.names):
            mine = np.flatnonzero(self.columns == place)
            astray = mine[outliers(self.values[mine])]
            kept[astray] = False
            if len(astray) and name not in told:
                told.add(name)
                tell_outliers(name, self.values[astray])
        return self if kept.all() else Readings(self.names, self.times[kept], self.columns[kept], self.values[kept])

    def of(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Times and values of one column."""
        mine = self.columns == (self.names.index(name) if name in self.names else -1)
        return self.times[mine], self.values[mine]


class LiveReadings(Protocol):
    """A source with a memory."""

    def read(self, columns: Sequence[str], *, since: float | None = None) -> Readings:
        """What is there now of these columns.

        Args:
            columns: In the order of `Readings.names`.
            since: Only what is of this time or later, in seconds since 1970.

        Raises:
            TaskError: It cannot be read.
        """

    def uses(self, spec: WindowSpec, scaler: Mapping[str, tuple[float, float]] | None = None) -> None:
        """Say how examples are cut: what is new since the last round is counted so, and drift is of these columns.

        Args:
            spec: Of the task.
            scaler: Mean and standard deviation by column that all nodes use; None compares with what this node had
                when it first trained.
        """


def parted(frame: Frame, share: float, least: int = 0) -> tuple[Frame, Frame]:
    """What is older, to train on, and the newest share of the rows, to test on: no window is over both.

    Args:
        frame: All rows.
        share: 0 holds nothing out.
        least: Rows that are held out at least, where anything is: those of one window.
    """
    rows = max(round(share * len(frame.times)), least) if share else 0
    cut = max(0, len(frame.times) - rows)
    return Frame(frame.times[:cut], frame.values[:cut]), Frame(frame.times[cut:], frame.values[cut:])


class LiveWindows:
    """Windows of readings, cut anew at each round; give `train` and `test` to `TorchTask` without calling them.

    Args:
        readings: The node's; None at the coordinator, which never asks for them.
        spec: How windows are cut.
        holdout: Share of the rows, the newest ones, that is held out for `test`.
        label: Column whose value at a window's last row is the window's target; it may come much later than the
            readings. None makes the windows their own targets.
        tolerance_s: A label is of the window whose last row is so near in time, at most, in seconds.
        whole: Labels are classes: the targets are int64 (N,).

    Attributes:
        is_live: A task asks for the data again at each round.
    """

    is_live = True

    def __init__(
        self,
        readings: LiveReadings | None,
        spec: WindowSpec,
        *,
        holdout: float = 0.2,
        label: str | None = None,
        tolerance_s: float = 0.0,
        whole: bool = True,
    ) -> None:
        if not 0 <= holdout < 1:
            raise TaskError(f"holdout must be a share of at least 0 and below 1, not {holdout}")
        self._readings, self._spec, self._holdout = readings, spec, holdout
        self._label, self._tolerance_s, self._whole = label, tolerance_s, whole
        self._told: set[str] = set()
        if readings is not None:
            readings.uses(spec)

    def train(self) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
        """Windows, float32 (N, L, C), and targets, of what is not held out.

        Raises:
            TaskError: There is no window yet; it says what is missing.
        """
        return self._examples(0, "to train on")

    def test(self) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
        """The same of the newest rows.

        Raises:
            TaskError: There is no window yet.
        """
        return self._examples(1, "held out")

    def _examples(self, part: int, what: str) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
        if self._readings is None:
            raise TaskError("this task trains on the device's own readings: give the node [data] (sensors.md)")
        spec, label = self._spec, self._label
        wanted = spec.columns if label is None else (*spec.columns, label)
        found = self._readings.read(wanted).without_outliers(self._told)
        whole = resample(found.times, found.columns, found.values, spec)
        frame = parted(whole, self._holdout, spec.length)[part]
        starts, windows = frame_windows(frame, spec)
        if not len(starts):
            raise TaskError(f"no window {what}: {self._missing(found, frame)}")
        if label is None:
            return windows, windows
        ends = frame.times[starts + spec.length - 1]
        rows, targets = join_labels(ends, *found.of(label), tolerance_s=self._tolerance_s)
        if not len(rows):
            raise TaskError(f"none of {len(starts)} windows {what} has a label in {label}")
        made = targets.astype(np.int64) if self._whole else targets.astype(np.float32)[:, None]
        return windows[rows], made

    def _missing(self, found: Readings, frame: Frame) -> str:
        """What keeps windows from being cut, in words."""
        never = [name for place, name in enumerate(self._spec.columns) if not (found.columns == place).any()]
        if never:
            return f"nothing has arrived for {', '.join(never)}"
        whole = int(np.isfinite(frame.values).all(axis=1).sum())
        return f"{len(frame.times)} rows, {whole} of them whole, and a window takes {self._spec.length} without a gap"
