"""Who came, started again or did not train: gathered, and saved together, once a second at most."""

from collections import Counter
from typing import Final

from coordinator.engine.effects import SaveAttendance
from coordinator.engine.registry import NODES_MAX
from coordinator.engine.state import MachineState
from coordinator.records import Attendance
from federation.types import Incarnation, NodeId

__all__ = ["AttendanceRecorder"]

PAUSE_S = 1.0
"""It is saved this often at most, in seconds: a fleet that is born at once costs one transaction."""

NO_ANSWER: Final = "no answer"
"""The reason of a lease that expired."""

INCOMPATIBLE: Final = "incompatible"
"""The reason of a node whose protocol, task or codec is another one."""


class AttendanceRecorder:
    """What was seen of nodes and is not on the disk yet. It only tells: a full disk is no reason to stop."""

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self._incarnations: dict[NodeId, Incarnation] = {}
        self._absences: dict[NodeId, Counter[str]] = {}
        self._saving = False
        self._next_s = 0.0

    def came(self, node: NodeId, incarnation: Incarnation) -> None:
        """A node is there, which was not, or is another process now."""
        self._incarnations[node] = incarnation

    def declined(self, node: NodeId, reason: str) -> None:
        """A node does not train; its own words will be shown on a terminal."""
        self.absent(node, "".join(filter(str.isprintable, reason)) or "no reason")

    def absent(self, node: NodeId, reason: str) -> None:
        """A node does not train."""
        # A decline may come from a node that nobody knows.
        if node in self._absences or len(self._absences) < NODES_MAX:
            self._absences.setdefault(node, Counter())[reason] += 1

    def due(self) -> float | None:
        """When `save` has something to do, in monotonic seconds; None when there is nothing, or the disk is asked."""
        return self._next_s if (self._incarnations or self._absences) and not self._saving else None

    def save(self, *, at_once: bool = False) -> None:
        """Ask for what is due to be saved; ``at_once``: also what has waited too short a time."""
        due, now = self.due(), self._state.now
        if due is None or (now < due and not at_once):
            return
        self._saving, self._next_s = True, now + PAUSE_S
        absences = {node: dict(reasons) for node, reasons in self._absences.items()}
        seen = Attendance(incarnations=dict(self._incarnations), absences=absences)
        self._state.emit(SaveAttendance(attendance=seen))

    def saved(self, attendance: Attendance) -> None:
        """This much is on the disk; more may have been seen since it was asked."""
        self._saving = False
        for node, incarnation in attendance.incarnations.items():
            if self._incarnations.get(node) == incarnation:
                del self._incarnations[node]
        for node, reasons in attendance.absences.items():
            self._absences[node].subtract(reasons)
            self._absences[node] = +self._absences[node]
            if not self._absences[node]:
                del self._absences[node]

    def failed(self) -> None:
        """The disk did not take it: it stays for the next time."""
        self._saving = False
