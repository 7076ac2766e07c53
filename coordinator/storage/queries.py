"""Questions to the coordinator's database: what each version cost, and what became of each node's work."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from coordinator.records import Attended
from coordinator.storage import schema
from coordinator.storage.participation import read_attended
from coordinator.storage.store import Participation, UpdateRow, VersionRow
from federation.protocol.messages import Reason, ReceiptStatus
from federation.storage.sqlite import Readable, Row
from federation.types import NodeId

__all__ = ["read_history", "read_participation", "read_updates"]


_HISTORY = """
SELECT v.*, e.metrics,
    (SELECT COUNT(*) FROM updates u WHERE u.status = 'stale' AND u.judged_at = v.version - 1) AS stale,
    (SELECT COUNT(*) FROM updates u WHERE u.status = 'refused' AND u.judged_at = v.version - 1) AS refused
FROM versions v LEFT JOIN evaluations e ON e.version = v.version ORDER BY v.version
"""

_PARTICIPATION = """
SELECT node, status, reason, COUNT(*) AS updates, SUM(payload_bytes) AS up, SUM(fetched_bytes) AS down,
    SUM(staleness) AS staleness
FROM updates GROUP BY node, status, reason ORDER BY node
"""


def read_history(database: Readable) -> list[VersionRow]:
    """All versions in order."""
    return [schema.version_row(row) for row in database.execute(_HISTORY)]


def read_updates(database: Readable) -> Iterator[UpdateRow]:
    """All updates in order of arrival."""
    for row in database.execute("SELECT * FROM updates ORDER BY seq"):
        yield schema.update_row(row)


def read_participation(database: Readable) -> list[Participation]:
    """All nodes that were ever seen or asked, by name: also those that never sent an update."""
    nodes = {node: _Sums(attended) for node, attended in read_attended(database).items()}
    for row in database.execute(_PARTICIPATION):
        nodes.setdefault(NodeId(row["node"]), _Sums()).add(row)
    return [nodes[node].of(node) for node in sorted(nodes)]


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
        self.up, self.down = self.up + row["up"], self.down + row["down"]
        self.staleness += row["staleness"]

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
