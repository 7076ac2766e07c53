"""Attendance in the coordinator's database: how often a node was asked and has started again, and why it was absent."""

import json
import sqlite3
from collections.abc import Collection
from typing import Protocol

from coordinator.records import Attendance, Attended
from federation.types import Incarnation, NodeId

__all__ = ["ATTENDANCE_SCHEMA", "OTHERS", "REASONS_MAX", "add_attendance", "advanced", "count_asked", "read_attended"]

REASONS_MAX = 8
"""Different reasons that are counted for one node: what a node says of itself is free text."""

OTHERS = "others"
"""Any further reason."""

ATTENDANCE_SCHEMA = """
CREATE TABLE IF NOT EXISTS attendance (
    node TEXT PRIMARY KEY, incarnation INTEGER, restarts INTEGER NOT NULL DEFAULT 0, asked INTEGER NOT NULL DEFAULT 0,
    absences TEXT NOT NULL DEFAULT '{}') WITHOUT ROWID;
"""
"""Part of the coordinator's schema."""


class Database(Protocol):
    """A connection that writes, within a transaction."""

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Run one statement."""

    def execute_all(self, statement: str, rows: Collection[tuple[object, ...]]) -> None:
        """Run one statement for each row."""


class Readable(Protocol):
    """A connection, of the coordinator or of a reader."""

    def execute(self, statement: str, /) -> sqlite3.Cursor:
        """Run one statement."""


def count_asked(database: Database, nodes: Collection[NodeId]) -> None:
    """These nodes are asked to train once more."""
    statement = "INSERT INTO attendance (node, asked) VALUES (?, 1) ON CONFLICT (node) DO UPDATE SET asked = asked + 1"
    database.execute_all(statement, [(node,) for node in nodes])


def add_attendance(database: Database, attendance: Attendance) -> None:
    """Add what was seen of nodes."""
    for node in attendance.incarnations.keys() | attendance.absences.keys():
        row = database.execute("SELECT * FROM attendance WHERE node = ?", node).fetchone()
        now = advanced(Attended() if row is None else _attended(row), node, attendance)
        values = (now.incarnation, now.restarts, now.asked, json.dumps(dict(now.absences)))
        database.execute("INSERT OR REPLACE INTO attendance VALUES (?, ?, ?, ?, ?)", node, *values)


def read_attended(database: Readable) -> dict[NodeId, Attended]:
    """All nodes that were ever seen or asked; nobody in a store that an older release has made."""
    tables = database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'attendance'")
    if tables.fetchone() is None:
        return {}
    return {NodeId(row["node"]): _attended(row) for row in database.execute("SELECT * FROM attendance")}


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


def _attended(row: sqlite3.Row) -> Attended:
    return Attended(
        incarnation=None if row["incarnation"] is None else Incarnation(row["incarnation"]),
        restarts=row["restarts"],
        asked=row["asked"],
        absences=json.loads(row["absences"]),
    )
