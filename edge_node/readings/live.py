"""A node's own readings as its task sees them: what is there now, how much of it is new, how old, how far it moved."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edge_node.storage.reading_store import READINGS, read_memo, read_readings
from federation.errors import StorageError, TaskError
from federation.readings.drift import Reference, drift_of
from federation.readings.live import Readings
from federation.readings.windows import Frame, WindowSpec, resample
from federation.runtime.log import get_log
from federation.task import Metrics

__all__ = ["DRIFT_ROWS", "NodeReadings"]

DRIFT_ROWS = (200, 1_000)
"""So many of the newest rows are compared with the reference: those that are new, within these bounds."""

Remember = Callable[[Mapping[str, object]], None]


class NodeReadings:
    """The readings of one node; see `LiveReadings`. Thread-safe.

    Args:
        folder: The node's state folder.
        wall: Seconds since 1970.
        remember: Keeps plain data beside the readings; None keeps nothing, as where only a doctor looks.
        report: Whether anything of this is said beside an update.
        future_max_s: What is from further ahead of ``wall`` was stored while the clock was wrong, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        wall: Callable[[], float],
        remember: Remember | None = None,
        report: bool = True,
        future_max_s: float = 60.0,
    ) -> None:
        self._folder, self._wall, self._report, self._future_max_s = folder, wall, report, future_max_s
        self._remember: Remember = remember or (lambda _: None)
        self._lock = threading.Lock()
        self._spec: WindowSpec | None = None
        self._scaler: Mapping[str, tuple[float, float]] = {}
        self._references: dict[str, Reference] | None = None
        self._trained_to = self._number("trained_to")
        self._read_to: float | None = None

    def uses(self, spec: WindowSpec, scaler: Mapping[str, tuple[float, float]] | None = None) -> None:
        """See `LiveReadings`."""
        with self._lock:
            self._spec, self._scaler = spec, dict(scaler or {})

    def read(self, columns: Sequence[str], *, since: float | None = None) -> Readings:
        """See `LiveReadings`."""
        found = self._found(columns, since)
        if len(found.times):
            last = float(found.times[-1])
            with self._lock:
                known = self._read_to
                self._read_to = last if known is None or known > self._latest() else max(last, known)
        return found

    def new_examples(self) -> int:
        """Examples that came since the last round in which this node trained: windows where the task has said how.

        Raises:
            TaskError: The store cannot be read.
        """
        with self._lock:
            spec, since = self._spec, self._trained_to
        if since is not None and since > self._latest():
            since = None  # it trained while the clock was ahead
        columns = None if spec is None else spec.columns
        found = self._found(columns, None if since is None else float(np.nextafter(since, np.inf)))
        if spec is None:
            return len(np.unique(found.times))
        rows = len(resample(found.times, found.columns, found.values, spec).times)
        # Windows go over the border between what was trained on and what is new: only the first ever lacks a begin.
        return max(0, (rows if since is not None else rows - spec.length + 1) // spec.stride)

    def why_not(self, new_min: int) -> str | None:
        """Why a round would have too little that is new, as the reason of a decline; None where it has enough."""
        if new_min <= 0:
            return None
        try:
            count = self.new_examples()
        except TaskError as error:
            return f"readings: {error}"
        return None if count >= new_min else f"readings: {count} new examples < {new_min}"

    def trained(self) -> Metrics:
        """A training is over: what is to be said of its data beside the update; what is new begins anew."""
        try:
            observed = self._observed()
        except (TaskError, StorageError) as error:
            get_log("readings").warning("drift_unknown", reason=str(error))
            return {}
        return observed if self._report else {}

    def _observed(self) -> Metrics:
        fresh = self.new_examples()
        with self._lock:
            spec, scaler, read_to = self._spec, self._scaler, self._read_to
            if read_to is None:
                return {}
            self._trained_to = read_to
        memos: dict[str, object] = {"trained_to": read_to, "new_examples": fresh}
        metrics = {"data_age_s": max(0.0, self._wall() - read_to), "new_examples": float(fresh)}
        if spec is not None:
            rows = min(max(fresh * spec.stride, DRIFT_ROWS[0]), DRIFT_ROWS[1])
            drift = self._drift(spec, scaler, rows, memos)
            memos["drift"] = drift
            if drift:
                metrics["drift"] = max(one[0] for one in drift.values())
        self._remember(memos)
        return metrics

    def _drift(
        self, spec: WindowSpec, scaler: Mapping[str, tuple[float, float]], rows: int, memos: dict[str, object]
    ) -> dict[str, tuple[float, float]]:
        """Stability index and shift by column; the reference is made at the first training, and kept."""
        found = self._found(spec.columns, None)
        frame: Frame = resample(found.times, found.columns, found.values, spec)
        known = self._known()
        for place, name in enumerate(spec.columns):
            made = None if name in known else Reference.of(frame.values[:, place])
            if made is not None:
                known[name] = made
                memos["reference"] = {name: one.plain() for name, one in known.items()}
        drift = drift_of(known, spec.columns, frame.values[-rows:])
        for place, name in enumerate(spec.columns):
            mean, std = scaler.get(name, (0.0, 0.0))
            newest = frame.values[-rows:, place]
            if name in drift and std > 0 and np.isfinite(newest).any():
                drift[name] = (drift[name][0], float((np.nanmean(newest, dtype=np.float64) - mean) / std))
        return drift

    def _known(self) -> dict[str, Reference]:
        if self._references is None:
            plain = self._memo("reference")
            pairs = plain.items() if isinstance(plain, dict) else ()
            made = {str(name): Reference.from_plain(one) for name, one in pairs}
            self._references = {name: one for name, one in made.items() if one is not None}
        return self._references

    def _found(self, columns: Sequence[str] | None, since: float | None) -> Readings:
        try:
            return self._until_now(read_readings(self._folder, columns, since=since))
        except StorageError as error:
            if not (self._folder / READINGS).exists():
                raise TaskError("no reading has arrived yet") from error
            raise TaskError(str(error)) from error

    def _latest(self) -> float:
        return self._wall() + self._future_max_s

    def _until_now(self, found: Readings) -> Readings:
        """Without what is from the future; where all of it is, it is this clock that is behind."""
        count = int(np.searchsorted(found.times, self._latest(), side="right"))
        if count in {0, len(found.times)}:
            return found
        return Readings(found.names, found.times[:count], found.columns[:count], found.values[:count])

    def _memo(self, name: str) -> object:
        try:
            return read_memo(self._folder, name)
        except StorageError:
            return None

    def _number(self, name: str) -> float | None:
        found = self._memo(name)
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
