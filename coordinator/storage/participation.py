"""Each node's part in the run: its attendance, which is counted here, its updates, and what of its budget is spent."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from sys import intern
from types import NoneType

from coordinator.records import Attendance, Attended, NodeSpent
from coordinator.storage.compaction.blocks import compacted_until
from coordinator.storage.schema import ATTENDED
from coordinator.storage.store import Participation
from federation.documents import read_mapping
from federation.protocol.messages import Reason, ReceiptStatus
from federation.storage.sql import Database, Readable, Row
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
    "update_ends",
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

_COMPACTED = """
SELECT node, status, reason, updates, up, down_high, down_low, staleness FROM compacted_sums ORDER BY node
"""

_ENDS = """
SELECT COALESCE((SELECT MAX(seq) FROM updates), 0),
    COALESCE((SELECT MIN(seq) - 1 FROM updates WHERE status = 'stored'), (SELECT MAX(seq) FROM updates), 0)
"""


_ATTENDANCE = "SELECT node, incarnation, restarts, asked, absences FROM attendance"


_RAISE = """
INSERT INTO spent VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (node, sampling_rate, noise) DO UPDATE SET steps = MAX(spent.steps, excluded.steps),
    round = MAX(spent.round, excluded.round), clip = excluded.clip, epsilon = excluded.epsilon, delta = excluded.delta
"""


_ASKED = """
INSERT INTO attendance (node, asked) VALUES (?, 1)
ON CONFLICT (node) DO UPDATE SET asked = attendance.asked + 1
"""


def count_asked(database: Database, nodes: Collection[NodeId]) -> None:
    """These nodes are asked to train once more."""
    database.execute_all(_ASKED, [(node,) for node in nodes])


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


def update_ends(database: Readable) -> tuple[int, int]:
    """The newest update, and the newest of those before which none waits: what became of them stays."""
    newest, settled = database.execute(_ENDS).fetchone()
    return newest, settled


class GrowingParticipation:
    """The same, for one who looks again and again: what became of an update stays, so only new ones are added up.

    It is of one start of one coordinator: a later start may undo a commit.
    """

    def __init__(self) -> None:
        self._floor = 0
        self._settled: dict[NodeId, _Sums] = {}
        self._unsettled: dict[NodeId, _Sums] = {}
        self._attended: dict[NodeId, tuple[Incarnation | None, int, int, str]] = {}

    def changed(self, database: Readable) -> Iterator[Participation]:
        """The nodes whose part has changed since the last call, by name: at first all of them."""
        touched = set(self._unsettled) | self._add_new(database)
        for row in database.execute(_ATTENDANCE):
            # Most have no absences: one text for all of them, as there is one for each name.
            node, attended = NodeId(intern(row[0])), (row[1], row[2], row[3], intern(row[4]))
            if self._attended.get(node) != attended:
                if not all(type(number) in (int, NoneType) for number in attended[:3]):
                    raise TypeError(f"of {node} something is counted that is no number")
                self._attended[node] = attended
                touched.add(node)
        for node in sorted(touched):
            yield self._part(node)

    def _add_new(self, database: Readable) -> set[NodeId]:
        """Add up what is new; all of it again where rows were compacted that were not read before, or meanwhile."""
        touched = set[NodeId]()
        while True:
            compacted = compacted_until(database)
            if compacted > self._floor:
                self._settled, self._floor = {}, compacted
                touched |= _add_rows(database.execute(_COMPACTED), self._settled)
            newest, settled = update_ends(database)
            settled = max(settled, self._floor)
            touched |= _add_up(database, self._floor, settled, self._settled)
            self._unsettled = {}
            touched |= _add_up(database, settled, newest, self._unsettled)
            if compacted_until(database) == compacted:
                self._floor = settled
                return touched
            self._floor = 0

    def _part(self, node: NodeId) -> Participation:
        found = [sums for sums in (self._settled.get(node), self._unsettled.get(node)) if sums is not None]
        statuses, reasons = Counter[ReceiptStatus](), Counter[Reason]()
        for sums in found:
            statuses.update(dict(zip(ReceiptStatus, sums.statuses, strict=True)))
            reasons.update(sums.reasons)
        applied, staleness = statuses[ReceiptStatus.APPLIED], sum(sums.staleness for sums in found)
        incarnation, restarts, asked, absences = self._attended.get(node, _NEVER_SEEN)
        return Participation(
            node=node,
            statuses=+statuses,
            reasons=reasons,
            bytes_up=sum(sums.up for sums in found),
            bytes_down=sum(sums.down for sums in found),
            staleness_mean=staleness / applied if applied else 0.0,
            attended=Attended(incarnation=incarnation, restarts=restarts, asked=asked, absences=read_mapping(absences)),
        )


_NEVER_SEEN = (None, 0, 0, "{}")
_NO_REASONS: Mapping[Reason, int] = {}
_NOTHING = (0,) * len(ReceiptStatus)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of one node; small, because there are ten thousand: ``statuses`` are in the order of `ReceiptStatus`."""

    statuses: tuple[int, ...] = _NOTHING
    reasons: Mapping[Reason, int] = field(default_factory=lambda: _NO_REASONS)
    up: int = 0
    down: int = 0
    staleness: int = 0


_NO_SUMS = _Sums()


def _add_up(database: Readable, after: int, until: int, sums: dict[NodeId, _Sums]) -> set[NodeId]:
    """Add the updates of a range to the sums; the nodes that they are from."""
    return _add_rows(database.execute(_PARTICIPATION, after, until), sums)


def _add_rows(rows: Iterable[Row], sums: dict[NodeId, _Sums]) -> set[NodeId]:
    touched = set[NodeId]()
    for row in rows:
        node = NodeId(intern(row["node"]))
        before = sums.get(node, _NO_SUMS)
        status, reason = ReceiptStatus(row["status"]), Reason(row["reason"])
        counts = (
            was + (row["updates"] if each is status else 0)
            for each, was in zip(ReceiptStatus, before.statuses, strict=True)
        )
        more: dict[Reason, int] = (
            {} if reason is Reason.NONE else {reason: before.reasons.get(reason, 0) + row["updates"]}
        )
        touched.add(node)
        sums[node] = _Sums(
            tuple(counts),
            {**before.reasons, **more} if more else before.reasons,
            # A node has said it: two of the largest numbers are more than SQLite adds.
            before.up + row["up"],
            before.down + (row["down_high"] << 32) + row["down_low"],
            before.staleness + row["staleness"],
        )
    return touched


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
