"""Who came, started again or did not train, read from the machine's notes and saved together, once a second at most."""

import contextlib
from collections import Counter
from collections.abc import Mapping
from typing import Final, Protocol, cast

from coordinator.engine.registry import NODES_MAX
from coordinator.records import Attendance
from federation.errors import StorageError
from federation.types import Incarnation, NodeId

__all__ = ["INCOMPATIBLE", "NO_ANSWER", "AttendanceRecorder"]

PAUSE_S = 1.0
"""It is saved this often at most, in seconds: a fleet that is born at once costs one transaction."""

NO_ANSWER: Final = "no answer"
"""The reason of a lease that expired."""

INCOMPATIBLE: Final = "incompatible"
"""The reason of a node whose protocol, task or codec is another one."""


class _Store(Protocol):
    def save_attendance(self, attendance: Attendance) -> None:
        """Add what was seen of nodes."""


class AttendanceRecorder:
    """Hears the notes of one coordinator. It only tells: a full disk is no reason to stop.

    Args:
        store: Keeps the counts.
    """

    def __init__(self, store: _Store) -> None:
        self._store = store
        self._incarnations: dict[NodeId, Incarnation] = {}
        self._absences: dict[NodeId, Counter[str]] = {}
        self._next_s = 0.0

    def hear(self, event: str, fields: Mapping[str, object]) -> None:
        """Take a note of the machine; most say nothing about attendance."""
        match event:
            case "node_online":
                self._incarnations[cast("NodeId", fields["node"])] = cast("Incarnation", fields["incarnation"])
            case "node_declined":
                # A node's own words will be shown on a terminal.
                self._absent(fields, "".join(filter(str.isprintable, str(fields["reason"]))) or "no reason")
            case "lease_expired":
                self._absent(fields, NO_ANSWER)
            case "node_incompatible":
                self._absent(fields, INCOMPATIBLE)
            case _:
                pass

    def look(self, now: float) -> None:
        """Save what was heard when it is time to; ``now`` is in monotonic seconds."""
        if now >= self._next_s and (self._incarnations or self._absences):
            self.write()
            self._next_s = now + PAUSE_S

    def due(self) -> float | None:
        """When what was heard may be saved, in monotonic seconds; None when there is nothing."""
        return self._next_s if self._incarnations or self._absences else None

    def write(self) -> None:
        """Save what was heard at once; where that fails it stays for the next time."""
        if self._incarnations or self._absences:
            with contextlib.suppress(StorageError):
                self._store.save_attendance(Attendance(incarnations=self._incarnations, absences=self._absences))
                self._incarnations, self._absences = {}, {}

    def _absent(self, fields: Mapping[str, object], reason: str) -> None:
        node = cast("NodeId", fields["node"])
        # A decline may come from a node that nobody knows.
        if node in self._absences or len(self._absences) < NODES_MAX:
            self._absences.setdefault(node, Counter())[reason] += 1
