"""The versions in the coordinator's database, each with what was dropped while it was made."""

from collections.abc import Iterator
from dataclasses import replace

from coordinator.storage.compaction.blocks import compacted_until
from coordinator.storage.participation import update_ends
from coordinator.storage.schema import version_row
from coordinator.storage.store import VersionRow
from federation.storage.sql import Readable

__all__ = ["GrowingHistory", "read_history"]

_HISTORY = """
SELECT v.*, e.metrics, 0 AS stale, 0 AS refused FROM versions v LEFT JOIN evaluations e ON e.version = v.version
WHERE v.version > ? ORDER BY v.version
"""

_DROPPED = """
SELECT judged_at, SUM(CASE WHEN status = 'stale' THEN 1 ELSE 0 END) AS stale,
    SUM(CASE WHEN status = 'refused' THEN 1 ELSE 0 END) AS refused FROM updates
WHERE seq > ? AND seq <= ? AND status IN ('stale', 'refused') AND judged_at IS NOT NULL GROUP BY judged_at
"""
"""One pass over the updates, however many versions there are."""

_COMPACTED = "SELECT version, stale, refused FROM compacted_versions WHERE version >= ? AND stale + refused > 0"


def read_history(database: Readable, after: int = -1) -> list[VersionRow]:
    """All versions after this one, in order; their parts are left out."""
    return list(GrowingHistory().newest(database, after))


class GrowingHistory:
    """The same for one who looks again and again: of the updates only new ones are read.

    It is of one start of one coordinator: a later start may undo a commit.
    """

    def __init__(self) -> None:
        self._floor = 0
        self._settled: dict[int, tuple[int, int]] = {}

    def newest(self, database: Readable, after: int) -> Iterator[VersionRow]:
        """All versions after this one, which is none before that of the last call."""
        dropped = self._count_dropped(database, after)
        for row in database.execute(_HISTORY, after):
            stale, refused = dropped.get(row["version"] - 1, (0, 0))
            yield replace(version_row(row), stale=stale, refused=refused)

    def _count_dropped(self, database: Readable, after: int) -> dict[int, tuple[int, int]]:
        """What was dropped by version; counted again where rows were compacted before they were read."""
        while True:
            compacted = compacted_until(database)
            if compacted > self._floor:
                rows = database.execute(_COMPACTED, after)
                self._settled = {row["version"]: (row["stale"], row["refused"]) for row in rows}
                self._floor = compacted
            newest, settled = update_ends(database)
            settled = max(settled, self._floor)
            self._settled = _dropped(database, self._floor, settled, self._settled, after)
            dropped = _dropped(database, settled, newest, self._settled, after)
            if compacted_until(database) == compacted:
                self._floor = settled
                return dropped
            self._floor = 0


def _dropped(
    database: Readable, after: int, until: int, before: dict[int, tuple[int, int]], version: int
) -> dict[int, tuple[int, int]]:
    """Stale and refused updates by the version at which they were judged, from this version on."""
    found = {judged: counts for judged, counts in before.items() if judged >= version}
    for row in database.execute(_DROPPED, after, until):
        if row["judged_at"] >= version:
            stale, refused = found.get(row["judged_at"], (0, 0))
            found[row["judged_at"]] = (stale + row["stale"], refused + row["refused"])
    return found
