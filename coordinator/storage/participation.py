"""Attendance in the coordinator's database: how often a node was asked and has started again, and why it was absent."""

from collections.abc import Collection

from coordinator.records import Attendance, Attended
from coordinator.storage.schema import ATTENDED
from federation.storage.sqlite import Database, Readable
from federation.types import Incarnation, NodeId

__all__ = ["OTHERS", "REASONS_MAX", "add_attendance", "advanced", "count_asked", "read_attended"]

REASONS_MAX = 8
"""Different reasons that are counted for one node: what a node says of itself is free text."""

OTHERS = "others"
"""Any further reason."""


def count_asked(database: Database, nodes: Collection[NodeId]) -> None:
    """These nodes are asked to train once more."""
    statement = "INSERT INTO attendance (node, asked) VALUES (?, 1) ON CONFLICT (node) DO UPDATE SET asked = asked + 1"
    database.execute_all(statement, [(node,) for node in nodes])


def add_attendance(database: Database, attendance: Attendance) -> None:
    """Add what was seen of nodes."""
    for node in attendance.incarnations.keys() | attendance.absences.keys():
        row = database.execute("SELECT * FROM attendance WHERE node = ?", node).fetchone()
        now = advanced(Attended() if row is None else ATTENDED.record(row), node, attendance)
        database.insert("attendance", {"node": node} | ATTENDED.row(now), conflict="REPLACE")


def read_attended(database: Readable) -> dict[NodeId, Attended]:
    """All nodes that were ever seen or asked."""
    return {NodeId(row["node"]): ATTENDED.record(row) for row in database.execute("SELECT * FROM attendance")}


def advanced(before: Attended, node: NodeId, attendance: Attendance) -> Attended:
    """A node's attendance with what was seen of it since."""
    incarnation = attendance.incarnations.get(node, before.incarnation)
    absences = dict(before.absences)
    for reason, times in attendance.absences.get(node, {}).items():
        kept = reason if reason in absences or len(absences) < REASONS_MAX else OTHERS
        absences[kept] = absences.get(kept, 0) + times
    return Attended(
        incarnation=incarnation,
        restarts=before.restarts + _starts(before.incarnation, incarnation),
        asked=before.asked,
        absences=absences,
    )


def _starts(before: Incarnation | None, now: Incarnation | None) -> int:
    """How often it has started again; a lower number than before is that of a state folder which began anew."""
    if before is None or now is None:
        return 0
    return now - before if now >= before else 1
