"""What somebody sent who should not have: counted by sender and kind, for ``coordinator status`` (FED-18, FED-76).

The counts are in a file beside the store, not in it: a flood must not cost a transaction for each message. They go on
after a restart; a crash costs at most the last second of them.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from coordinator.runtime.broker_log import denied_publish
from coordinator.storage.files import write_beside

__all__ = ["Incidents", "count_denied", "read_incidents"]

FILE = "incidents.json"
SAVE_S = 1.0
"""Least time between two writes, in seconds."""

SENDERS_MAX = 1_000
"""Senders that are counted by name; the rest is ``others``. Whoever forges topics can invent names."""

OTHERS = "others"
COUNTS_BYTES_MAX = 8 << 20


class Incidents:
    """Counts of one coordinator.

    Args:
        folder: The state folder; None keeps the counts in memory.
        now: Monotonic seconds.
    """

    def __init__(self, folder: Path | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._now = folder, now
        self._counts: dict[str, Counter[str]] = {}
        if folder is not None:
            self._counts = {sender: Counter(kinds) for sender, kinds in read_incidents(folder).items()}
        self._lock = threading.Lock()  # the broker's log is read on a thread of its own
        self._unsaved = False
        self._saved_at = -SAVE_S

    def count(self, sender: str, kind: str) -> int:
        """One more; says how many of this kind ``sender`` has sent now."""
        with self._lock:
            if sender not in self._counts and len(self._counts) >= SENDERS_MAX:
                sender = OTHERS
            kinds = self._counts.setdefault(sender, Counter())
            kinds[kind] += 1
            self._unsaved = True
            count = kinds[kind]
        self.settle()
        return count

    def settle(self) -> None:
        """Write what was counted, not more often than each `SAVE_S` seconds."""
        if self._unsaved and self._now() - self._saved_at >= SAVE_S:
            self.save()

    def save(self) -> None:
        """Write what was counted. It only tells: a full disk is no reason to stop."""
        self._unsaved, self._saved_at = False, self._now()
        if self._folder is None:
            return
        write_beside(self._folder, FILE, self.counts())

    def counts(self) -> dict[str, dict[str, int]]:
        """Plain data: counts by kind, by sender."""
        with self._lock:
            return {sender: dict(kinds) for sender, kinds in self._counts.items()}


def count_denied(incidents: Incidents, line: str) -> None:
    """Count what a line of a broker's standard error tells, and no topic does."""
    found = denied_publish(line)
    if found is not None:
        incidents.count(*found)


def read_incidents(folder: Path) -> Mapping[str, Mapping[str, int]]:
    """The counts of a coordinator's state folder; nothing where none was written, or where it cannot be read."""
    try:
        with (folder / FILE).open("rb") as file:
            found = json.loads(file.read(COUNTS_BYTES_MAX))
        return {
            str(sender): {str(kind): int(count) for kind, count in kinds.items()} for sender, kinds in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
