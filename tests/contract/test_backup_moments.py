"""A backup taken at any moment of a coordinator's writing is a run that the audit accepts, and that can go on."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.backup.making import BackupMade, make_backup
from coordinator.backup.restoring import restore
from coordinator.records import Attendance, NodeResult, RoundRecord, TransferRecord, Verdict, VersionRecord
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.protocol.cohort import EVERYONE
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import Incarnation, ModelVersion, NodeId, RoundId
from fedmq.audit.audit import audit
from fedmq.simulation.world.ram_folders import put_away, ram_folder
from tests.rigs.former_state import FORMER, folder_of_layout
from tests.rigs.model_values import arrived, committer, initialised, update

EVERYBODY = 2**64 - 1
INLINE_BYTES = 10


def story(store: SqliteStore) -> None:
    """Everything that a coordinator saves, in an order that a run has."""
    head = committer(store)
    for number in range(2):
        record = RoundRecord(
            round=RoundId(number),
            version=head.head.version,
            nodes=(NodeId("ann"), NodeId("bob")),
            cohort=EVERYONE,
            evaluation=EVERYBODY,
        )
        store.save_round(record)
        small = arrived("ann", update(0.25 * (number + 1)), round_id=number)
        store.save_update(small.record, small.payload)
        large = arrived("bob", update(0.5), round_id=number)
        store.open_transfer(TransferRecord(record=large.record, chunk_bytes=len(large.payload)))
        store.save_chunk(large.record.update, 0, large.payload)
        store.save_update(large.record, store.transfer_payload(large.record.update))
        made = head.commit([small.member, large.member], "buffer_full", Figures(wall_s=1.0))
        assert isinstance(made, VersionRecord)
        bad = arrived("cid", update(1.0), round_id=number)
        verdict = Verdict(
            update=bad.record.update, node=NodeId("cid"), status=ReceiptStatus.REFUSED, reason=Reason.NOT_ASSIGNED
        )
        store.save_verdict(verdict, bad.record)
        store.save_evaluation(head.head.version, {"accuracy": 0.5})
        store.save_node_result(
            NodeResult(version=ModelVersion(number), node=NodeId("ann"), num_examples=3, metrics={"loss": 1.0})
        )
        store.close_evaluation(ModelVersion(number))
        store.retain([head.head.version], head.head.version)
        store.mark_cleared(store.obsolete_parts(head.head))
        store.close_round(RoundId(number), record.nodes)
        store.save_attendance(Attendance(incarnations={NodeId("ann"): Incarnation(1)}))
        store.sync()
    late = arrived("dan", update(0.1), round_id=1)
    store.save_update(replace(late.record, base_version=ModelVersion(2)), late.payload)


class Moments:
    """Takes a backup at each failpoint that a coordinator's store passes."""

    def __init__(self, state: Path, folder: Path) -> None:
        self._state, self._folder = state, folder
        self.made: dict[str, BackupMade] = {}

    def __call__(self, name: str) -> None:
        """A moment has come."""
        made = make_backup(self._state, self._folder / f"{len(self.made)}.tar")
        self.made[f"{len(self.made)} {name}"] = made


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder whose disk need not be waited for."""
    folder = ram_folder()
    yield folder
    put_away(folder, [])


@pytest.mark.parametrize("wait_later", [False, True])
def test_a_backup_of_any_moment_restores_to_a_run_that_holds(
    in_memory: Path, monkeypatch: pytest.MonkeyPatch, *, wait_later: bool
) -> None:
    monkeypatch.setattr("coordinator.storage.sqlite_store.INLINE_BYTES_MAX", INLINE_BYTES)
    monkeypatch.setattr("coordinator.storage.statements.FRAME_INLINE_BYTES_MAX", INLINE_BYTES)
    store = SqliteStore(in_memory / "state")
    initialised(store)
    if wait_later:
        store.wait_later()
    moments = Moments(in_memory / "state", in_memory)
    for module in ("coordinator.storage.sqlite_store", "federation.storage.sqlite"):
        monkeypatch.setattr(f"{module}.failpoint", moments)
    story(store)
    store.close()
    monkeypatch.undo()
    assert {name.split()[1] for name in moments.made} >= MOMENTS
    versions = [made.facts.version for made in moments.made.values()]
    assert (versions == sorted(versions), {*versions}) == (True, {0, 1, 2})
    for index, (name, made) in enumerate(moments.made.items()):
        assert made.damaged == (), name
        check(in_memory / f"{index}.tar", in_memory / f"again-{index}", name)


def check(file: Path, state: Path, name: str) -> None:
    """Restore a backup, and have the run go on for a version."""
    made = restore(file, state)
    report = audit(state)
    assert report.holds, (name, [finding for finding in report.findings if finding.failed])
    assert made.waiting == len(report.waiting), name
    store = SqliteStore(state)
    try:
        assert store.alarms == [], name
        members = [
            arrived(record.node, update(0.0), round_id=record.round).member
            for record in store.recovered(recent=4).stored
        ]
        if members:
            assert isinstance(committer(store).commit(members, "max_wait", Figures()), VersionRecord), name
    finally:
        store.close()
    assert audit(state).holds, name


MOMENTS = {
    "coordinator_before_update_stored",
    "coordinator_after_update_stored",
    "coordinator_after_blob",
    "coordinator_after_commit",
    *(
        f"coordinator_commit_{what}"
        for what in (
            "round",
            "update",
            "transfer",
            "verdict",
            "version",
            "retained",
            "parts",
            "evaluation",
            "attendance",
        )
    ),
}


@pytest.mark.parametrize(
    "name", ["coordinator-1", "coordinator-2", "coordinator-3", "coordinator", "coordinator_killed"]
)
def test_a_backup_of_an_earlier_layout_restores_to_the_newest(in_memory: Path, name: str) -> None:
    folder = in_memory / "former"
    if name[-1].isdigit():
        folder_of_layout(name, folder)
    else:
        shutil.copytree(FORMER / name / "state", folder)
    with ReadOnlyStore(folder) as store:
        head, updates = store.head(), [row.record.update for row in store.updates()]
        rounds = store.rounds_reserved()
    made = make_backup(folder, in_memory / "former.tar")
    restored = restore(in_memory / "former.tar", in_memory / "again")
    assert (made.facts.version, restored.version, restored.run) == (head, head, made.facts.run)
    assert restored.restored is not None
    assert restored.restored.first_round == rounds
    again = SqliteStore(in_memory / "again")
    try:
        assert ([row.record.update for row in again.updates()], again.alarms) == (updates, [])
    finally:
        again.close()
