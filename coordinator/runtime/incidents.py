"""What somebody sent who should not have: counted by sender and kind, for ``coordinator status`` (FED-18, FED-76).

The counts are in the status file, not in the store: a flood must not cost a transaction for each message. They go on
after a restart; a crash costs at most the last second of them.
"""

import threading
from collections import Counter
from collections.abc import Mapping

from coordinator.runtime.broker_log import denied_publish
from federation.runtime.transport import Inbox, InboxItem

__all__ = ["Incidents", "count_denied"]

SENDERS_MAX = 1_000
"""Senders that are counted by name; the rest is ``others``. Whoever forges topics can invent names."""

OTHERS = "others"


class Incidents:
    """Counts of one coordinator.

    Args:
        counts: What was counted before, by kind, by sender.
    """

    def __init__(self, counts: Mapping[str, Mapping[str, int]] | None = None) -> None:
        self._counts = {sender: Counter(kinds) for sender, kinds in (counts or {}).items()}
        self._lock = threading.Lock()  # the broker's log is read on a thread of its own

    def count(self, sender: str, kind: str) -> int:
        """One more; says how many of this kind ``sender`` has sent now."""
        with self._lock:
            if sender not in self._counts and len(self._counts) >= SENDERS_MAX:
                sender = OTHERS
            kinds = self._counts.setdefault(sender, Counter())
            kinds[kind] += 1
            return kinds[kind]

    def counts(self) -> dict[str, dict[str, int]]:
        """Plain data: counts by kind, by sender."""
        with self._lock:
            return {sender: dict(kinds) for sender, kinds in self._counts.items()}


def count_denied(incidents: Incidents, inbox: Inbox, line: str) -> None:
    """Count what a line of a broker's standard error tells, and no topic does; for a thread beside the loop's."""
    found = denied_publish(line)
    if found is None:
        return
    incidents.count(found.who, found.what)
    if inbox.empty():  # whoever waits for the loop already will see the count told, too
        inbox.put_nowait(InboxItem(event=None))
