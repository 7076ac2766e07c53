"""Each node's part in a run, in plain memory: the counterpart of the attendance and the questions of the database."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from coordinator.records import Attendance, Attended
from coordinator.storage.participation import advanced
from coordinator.storage.store import Participation, UpdateRow
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import NodeId

__all__ = ["MemoryParticipation"]


class MemoryParticipation:
    """Who was asked and seen."""

    def __init__(self) -> None:
        self._attended: dict[NodeId, Attended] = {}
        self._asked: Counter[NodeId] = Counter()

    def ask(self, nodes: Iterable[NodeId]) -> None:
        """These nodes are asked to train once more."""
        self._asked.update(nodes)

    def add(self, attendance: Attendance) -> None:
        """Add what was seen of nodes."""
        for node in attendance.incarnations.keys() | attendance.absences.keys():
            self._attended[node] = advanced(self._attended.get(node, Attended()), node, attendance)

    def of(self, rows: Iterable[UpdateRow]) -> list[Participation]:
        """All nodes that were ever seen or asked or have sent one of these updates, by name."""
        by_node: dict[NodeId, list[UpdateRow]] = {node: [] for node in (*self._asked, *self._attended)}
        for row in rows:
            by_node.setdefault(row.record.node, []).append(row)
        return [self._one(node, sent) for node, sent in sorted(by_node.items())]

    def _one(self, node: NodeId, rows: Sequence[UpdateRow]) -> Participation:
        applied = [row.staleness for row in rows if row.verdict.status is ReceiptStatus.APPLIED]
        return Participation(
            node=node,
            statuses=Counter(row.verdict.status for row in rows),
            reasons=Counter(row.verdict.reason for row in rows if row.verdict.reason is not Reason.NONE),
            bytes_up=sum(row.record.payload_bytes for row in rows),
            bytes_down=sum(row.record.fetched_bytes for row in rows),
            staleness_mean=sum(applied) / len(applied) if applied else 0.0,
            attended=replace(self._attended.get(node, Attended()), asked=self._asked[node]),
        )
