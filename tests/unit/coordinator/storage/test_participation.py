"""Who looks again and again adds only what is new, and comes to the same as who counts everything."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.records import Attendance, Verdict
from coordinator.storage.database import open_read_only
from coordinator.storage.participation import GrowingParticipation, read_participation
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures, Participation
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import Incarnation, NodeId
from tests.rigs.model_values import Arrived, arrived, committer, initialised, update

NODES = ("a", "b", "c")
STEPS = st.lists(st.sampled_from(("arrive", "commit", "refuse", "ask", "look")), min_size=1, max_size=14)


class Run:
    """A store that grows step by step, beside one that looks at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = SqliteStore(folder)
        initialised(self.store)
        self.commits = committer(self.store)
        self.waiting: list[Arrived] = []
        self.count = 0
        self.growing, self.known = GrowingParticipation(), dict[NodeId, Participation]()

    def arrive(self) -> None:
        sent = arrived(NODES[self.count % 3], update(1.0), round_id=self.count)
        self.count += 1
        self.store.save_update(sent.record, sent.payload)
        self.waiting.append(sent)

    def commit(self) -> None:
        # The newest first: older ones go on waiting behind it.
        if self.waiting:
            sent = self.waiting.pop()
            self.commits.commit([sent.member], "full", Figures(wall_s=1.0, bytes_up=1, bytes_down=1))

    def refuse(self) -> None:
        if self.waiting:
            record = self.waiting.pop(0).record
            verdict = Verdict(
                update=record.update, node=record.node, status=ReceiptStatus.REFUSED, reason=Reason.NORM, version=None
            )
            self.store.save_verdict(verdict, record)

    def ask(self) -> None:
        self.count += 1
        node = NodeId(NODES[self.count % 3])
        self.store.save_attendance(Attendance(incarnations={node: Incarnation(self.count)}, absences={}))

    def look(self) -> None:
        database = open_read_only(self.folder)
        try:
            whole = read_participation(database)
            self.known |= {one.node: one for one in self.growing.changed(database)}
            assert [self.known[node] for node in sorted(self.known)] == whole
            assert list(self.growing.changed(database)) == [
                one for one in whole if one.count(ReceiptStatus.STORED) or self.behind(one.node)
            ]
        finally:
            database.close()

    def behind(self, node: NodeId) -> bool:
        """Whether an update of the node came after the oldest that waits: it is looked at again."""
        if not self.waiting:
            return False
        oldest = min(one.record.round for one in self.waiting)
        return any(row.record.node == node and row.record.round >= oldest for row in self.store.updates())


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_one_who_looks_now_and_then_comes_to_the_same(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        run = Run(Path(place) / "state")
        try:
            for step in (*steps, "look"):
                getattr(run, step)()
        finally:
            run.store.close()
