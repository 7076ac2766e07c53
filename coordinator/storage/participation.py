"""Each node's part in the run: its attendance, which is counted here, its updates, and what of its budget is spent."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from coordinator.records import Attendance, Attended, NodeSpent
from coordinator.storage.schema import ATTENDED
from coordinator.storage.store import Participation
from federation.protocol.messages import Reason, ReceiptStatus
from federation.storage.sqlite import Database, Readable, Row
from federation.types import ExamplePrivacy, Incarnation, NodeId, RoundId, SampledSteps

__all__ = [
    "OTHERS",
    "REASONS_MAX",
    "GrowingParticipation",
    "add_attendance",
    "advanced",
    "count_asked",
    "read_participation",
    "read_spent",
    "save_spent",
]

REASONS_MAX = 8
"""Different reasons that are counted for one node: what a node says of itself is free text."""

OTHERS = "others"
"""Any further reason."""


_PARTICIPATION = """
SELECT node, status, reason, COUNT(*) AS updates, SUM(payload_bytes) AS up,
    SUM(fetched_bytes >> 32) AS down_high, SUM(fetched_bytes & 4294967295) AS down_low, SUM(staleness) AS staleness
FROM updates WHERE seq > ? AND seq <= ? GROUP BY node, status, reason ORDER BY node
"""

_ENDS = """
SELECT COALESCE((SELECT MAX(seq) FROM updates), 0),
    COALESCE((SELECT MIN(seq) - 1 FROM updates WHERE status = 'stored'), (SELECT MAX(seq) FROM updates), 0)
"""
"""The newest update, and the newest of those before which none waits: what became of them stays."""


_RAISE = """
INSERT INTO spent VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (node, sampling_rate, noise) DO UPDATE SET steps = MAX(steps, excluded.steps),
    round = MAX(round, excluded.round), clip = excluded.clip, epsilon = excluded.epsilon, delta = excluded.delta
"""


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


def read_participation(database: Readable) -> list[Participation]:
    """All nodes that were ever seen or asked, by name: also those that never sent an update."""
    return list(GrowingParticipation().changed(database))


class GrowingParticipation:
    """The same, for one who looks again and again: what became of an update stays, so only new ones are added up.

    It is of one start of one coordinator: a later start may undo a commit.
    """

    def __init__(self) -> None:
        self._floor = 0
        self._settled: dict[NodeId, _Sums] = {}
        self._unsettled: dict[NodeId, _Sums] = {}
        self._attended: dict[NodeId, Row] = {}

    def changed(self, database: Readable) -> Iterator[Participation]:
        """The nodes whose part has changed since the last call, by name: at first all of them."""
        newest, settled = database.execute(_ENDS).fetchone()
        touched = set(self._unsettled)
        for row in database.execute(_PARTICIPATION, self._floor, settled):
            touched.add(NodeId(row["node"]))
            self._settled.setdefault(NodeId(row["node"]), _Sums()).add(row)
        self._floor, self._unsettled = settled, {}
        for row in database.execute(_PARTICIPATION, settled, newest):
            self._unsettled.setdefault(NodeId(row["node"]), _Sums()).add(row)
        touched |= self._unsettled.keys()
        for row in database.execute("SELECT * FROM attendance"):
            node = NodeId(row["node"])
            if self._attended.get(node) != row:
                self._attended[node] = row
                touched.add(node)
        for node in sorted(touched):
            known = self._attended.get(node)
            sums = _Sums(Attended() if known is None else ATTENDED.record(known))
            for part in (self._settled.get(node), self._unsettled.get(node)):
                if part is not None:
                    sums.join(part)
            yield sums.of(node)


@dataclass(slots=True)
class _Sums:
    attended: Attended = field(default_factory=Attended)
    statuses: Counter[ReceiptStatus] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)
    up: int = 0
    down: int = 0
    staleness: int = 0

    def add(self, row: Row) -> None:
        self.statuses[ReceiptStatus(row["status"])] += row["updates"]
        if row["reason"] != Reason.NONE:
            self.reasons[Reason(row["reason"])] += row["updates"]
        # A node has said it: two of the largest numbers are more than SQLite adds.
        self.up, self.down = self.up + row["up"], self.down + (row["down_high"] << 32) + row["down_low"]
        self.staleness += row["staleness"]

    def join(self, other: "_Sums") -> None:
        self.statuses.update(other.statuses)
        self.reasons.update(other.reasons)
        self.up, self.down = self.up + other.up, self.down + other.down
        self.staleness += other.staleness

    def of(self, node: NodeId) -> Participation:
        applied = self.statuses[ReceiptStatus.APPLIED]
        return Participation(
            node=node,
            statuses=self.statuses,
            reasons=self.reasons,
            bytes_up=self.up,
            bytes_down=self.down,
            staleness_mean=self.staleness / applied if applied else 0.0,
            attended=self.attended,
        )


def save_spent(database: Database, spent: NodeSpent) -> None:
    """Raise what is known of a node, in one transaction.

    Raises:
        StorageError: Nothing was saved.
    """
    asked = spent.privacy
    with database.transaction("spent"):
        for each in spent.steps:
            kind = (spent.node, each.sampling_rate, each.noise)
            database.execute(_RAISE, *kind, each.steps, spent.round, asked.clip, asked.epsilon, asked.delta)


def read_spent(database: Readable) -> dict[NodeId, NodeSpent]:
    """What is known of each node, by name.

    Budget, delta and clip are those of its newest update: a run may be started again with others.
    """
    found: dict[NodeId, NodeSpent] = {}
    for row in database.execute("SELECT * FROM spent ORDER BY node, round, sampling_rate, noise"):
        node = NodeId(row["node"])
        rate, noise = row["sampling_rate"], row["noise"]
        privacy = ExamplePrivacy(
            clip=row["clip"], noise=noise, sampling_rate=rate, epsilon=row["epsilon"], delta=row["delta"]
        )
        before = () if node not in found else found[node].steps
        steps = (*before, SampledSteps(sampling_rate=rate, noise=noise, steps=row["steps"]))
        found[node] = NodeSpent(node=node, steps=steps, round=RoundId(row["round"]), privacy=privacy)
    return found
