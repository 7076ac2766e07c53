"""What the demo has measured: how good the alarms were, how late the scores, and what of the readings was lost."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_node.storage.reading_store import read_readings
from federation.errors import StorageError
from federation.tasks.sensors.rules import point_scores
from fedmq.demo.sensors.pumps import COLUMNS, Pump

__all__ = ["Alarms", "PumpStory", "counted", "judge", "percentile"]


@dataclass(slots=True)
class PumpStory:
    """What is known of one pump.

    Attributes:
        pump: Its readings.
        sent: Rows that the broker was given.
        stored: Readings that its node has said are on the disk.
        ratios: Score over threshold by row, of windows that end there.
        versions: Model versions that have scored.
        state: For people.
        delays_ms: From the row's publish to its score, in milliseconds.
    """

    pump: Pump
    sent: int = 0
    stored: int = 0
    ratios: dict[int, float] = field(default_factory=dict)
    versions: set[int] = field(default_factory=set)
    state: str = "starts"
    delays_ms: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """The newest score over its threshold."""
        return self.ratios[max(self.ratios)] if self.ratios else None

    @property
    def is_faulty(self) -> bool:
        """Whether the row that was sent last is of a faulty machine."""
        return bool(self.sent and self.pump.faulty[self.sent - 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarms:
    """Figures of the benchmark's protocol, over all points of all pumps.

    Attributes:
        f1: Of the faulty points.
        false_rate: Alarms per normal point, 0 to 1.
        missed_rate: Faulty points without an alarm, 0 to 1.
    """

    f1: float
    false_rate: float
    missed_rate: float


def judge(stories: Sequence[PumpStory], window: int, first: int) -> Alarms:
    """A point is an alarm when all windows over it are above the threshold, as the benchmark counts.

    Args:
        stories: With what was scored.
        window: Rows of a window.
        first: The first point that is judged.
    """
    right = wrong = missed = normal = 0
    for story in stories:
        rows = story.sent
        if rows <= first or not story.ratios:
            continue
        ends = np.array(sorted(story.ratios))
        ends = ends[ends >= window - 1]
        scores = np.array([story.ratios[int(end)] for end in ends])
        points = np.nan_to_num(point_scores(scores, ends - window + 1, window, rows, "all"), nan=0.0)
        alarm, faulty = points[first:] > 1.0, story.pump.faulty[first:rows]
        right += int((alarm & faulty).sum())
        wrong += int((alarm & ~faulty).sum())
        missed += int((~alarm & faulty).sum())
        normal += int((~faulty).sum())
    return Alarms(
        f1=2 * right / max(1, 2 * right + wrong + missed),
        false_rate=wrong / max(1, normal),
        missed_rate=missed / max(1, right + missed),
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """A percentile; None of nothing."""
    return float(np.percentile(np.array(values), share)) if values else None


def counted(folder: Path, times: NDArray[np.float64]) -> int:
    """How many of the readings of these rows, by their whole seconds, are in a node's store."""
    try:
        found = read_readings(folder, COLUMNS)
    except StorageError:
        return 0
    # What came twice, as QoS 1 may bring it, is one reading.
    cells = np.unique(np.rint(found.times).astype(np.int64) * len(COLUMNS) + found.columns)
    return int(np.isin(cells // len(COLUMNS), np.rint(times).astype(np.int64)).sum())
