"""Which readings can be at all: of the columns that are wanted, within what their sensor can say, not from the future.

The agent that stores readings and the service that scores them ask the same question, so that a value which is refused
for the training is not scored either.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from edge_node.readings.topics import Reading

__all__ = ["FUTURE", "OTHER_COLUMN", "OUT_OF_RANGE", "Plausible"]

FUTURE, OTHER_COLUMN, OUT_OF_RANGE = "from the future", "not in data.columns", "out of range"
"""Why a reading is refused, as it is counted."""

Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plausible:
    """The rules of one node.

    Attributes:
        columns: The only ones that are wanted; empty is all.
        ranges: By column, the least and the greatest value that its sensor can say; ``*`` stands for anything.
        future_max_s: A reading from further ahead is refused, in seconds.
    """

    columns: tuple[str, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    future_max_s: float = 60.0

    def of(self, readings: Sequence[Reading], now: float) -> tuple[list[Reading], Counter[str]]:
        """Those that can be, and how many cannot, by the reason.

        Args:
            readings: As they came.
            now: Seconds since 1970.
        """
        kept: list[Reading] = []
        refused = Counter[str]()
        for reading in readings:
            why = self._why_not(reading, now + self.future_max_s)
            if why:
                refused[why] += 1
            else:
                kept.append(reading)
        return kept, refused

    def _why_not(self, reading: Reading, latest: float) -> str:
        when, column, value = reading
        if when > latest:
            return FUTURE
        if self.columns and column not in self.columns:
            return OTHER_COLUMN
        bounds = self._range_of(column) if self.ranges else None
        return OUT_OF_RANGE if bounds is not None and not bounds[0] <= value <= bounds[1] else ""

    def _range_of(self, column: str) -> Range | None:
        """That of the column's own name, else of the first pattern that fits."""
        fits = (found for pattern, found in self.ranges.items() if fnmatchcase(column, pattern))
        return self.ranges.get(column) or next(fits, None)
