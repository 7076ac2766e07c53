"""What must survive a power cut is waited for: at once, or by the next `sync` where the store gathers."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from coordinator.records import NodeResult, RoundRecord, TransferRecord, Verdict
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Commit, Figures
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.errors import LocalProtocolError, StorageError
from federation.protocol.cohort import cohort_of
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import ModelVersion, NodeId, RoundId
from tests.rigs.model_values import arrived, committer, initialised, update
from tests.rigs.node_values import entry, residual

FIRST, SECOND = arrived("a", update(1.0)), arrived("b", update(2.0))


@dataclass(frozen=True, slots=True)
class Saving:
    """One thing that is saved, after what it needs."""

    name: str
    save: Callable[[SqliteStore], object]
    before: Callable[[SqliteStore], object] = lambda _store: None


def save_first(store: SqliteStore) -> None:
    store.save_update(FIRST.record, FIRST.payload)


def commit(store: SqliteStore) -> None:
    committer(store).commit([FIRST.member], "full", Figures(wall_s=1.0, bytes_up=1, bytes_down=1))


def refuse(store: SqliteStore) -> None:
    update_id, node = FIRST.record.update, FIRST.record.node
    store.save_verdict(Verdict(update=update_id, node=node, status=ReceiptStatus.REFUSED, reason=Reason.NORM), None)


def reserve(store: SqliteStore) -> None:
    nodes = (NodeId("a"),)
    cohort = cohort_of(store.run, RoundId(7), nodes)
    store.save_round(RoundRecord(round=RoundId(7), version=ModelVersion(0), nodes=nodes, cohort=cohort, evaluation=9))


def report(store: SqliteStore) -> None:
    store.save_node_result(NodeResult(version=ModelVersion(0), node=NodeId("a"), num_examples=1, metrics={"loss": 1.0}))


def expect(store: SqliteStore) -> None:
    store.open_transfer(TransferRecord(record=SECOND.record, chunk_bytes=16))


SAVINGS = (
    Saving("update", save_first),
    Saving("verdict", refuse, save_first),
    Saving("version", commit, save_first),
    Saving("round", reserve),
    Saving("node result", report, reserve),
    Saving("end of an evaluation", lambda store: store.close_evaluation(ModelVersion(0)), reserve),
    Saving("transfer", expect),
    Saving("task", lambda store: store.save_task("digits")),
    Saving("inputs", lambda store: store.save_inputs("{}")),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(tmp_path / "state")
    initialised(made)
    yield made
    made.close()


def gathered(saving: Saving, store: SqliteStore) -> None:
    """Save it in a store that gathers, in which nothing else waits."""
    store.wait_later()
    saving.before(store)
    store.sync()
    saving.save(store)


@pytest.mark.parametrize("saving", SAVINGS, ids=lambda one: one.name)
def test_what_others_are_told_of_is_synced_by_the_next_wait(
    saving: Saving, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered(saving, store)
    synced: list[str] = []
    real = os.fdatasync

    def fsync(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real(handle)

    monkeypatch.setattr(os, "fdatasync", fsync)
    store.sync()
    assert [Path(name).name for name in synced] == ["coordinator.sqlite3-wal"]
    store.sync()
    assert len(synced) == 1, "nothing new: nothing to wait for"


@pytest.mark.parametrize("saving", SAVINGS, ids=lambda one: one.name)
def test_where_nothing_is_gathered_it_is_synced_at_its_commit(saving: Saving, store: SqliteStore) -> None:
    saving.before(store)
    store.close_round(RoundId(3), ())
    assert store._database.execute("PRAGMA synchronous").fetchone()[0] == 1, "costs no fsync"
    saving.save(store)
    waited = {store._database.execute("PRAGMA synchronous").fetchone()[0]}
    assert waited == {2}, "FULL"


def test_what_the_inputs_mean_is_kept_with_the_run(store: SqliteStore, tmp_path: Path) -> None:
    """FED-125."""
    assert store.recovered(recent=1).inputs is None
    store.save_inputs('{"features":["heat"]}')
    store.close()
    again = SqliteStore(tmp_path / "state")
    assert again.recovered(recent=1).inputs == again.inputs() == '{"features":["heat"]}'
    again.close()


@pytest.mark.parametrize("saving", SAVINGS, ids=lambda one: one.name)
def test_what_costs_no_wait_does_not_hide_what_does(
    saving: Saving, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered(saving, store)
    store.close_round(RoundId(3), (NodeId("a"),))
    waits: list[int] = []
    monkeypatch.setattr(os, "fdatasync", waits.append)
    store.sync()
    assert len(waits) == 1


def test_a_wait_that_failed_is_not_taken_for_done(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.wait_later()
    save_first(store)

    def fail(_handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail)
        for _ in range(2):
            with pytest.raises(StorageError, match="Input/output error"):
                store.sync()
    waits: list[int] = []
    monkeypatch.setattr(os, "fdatasync", waits.append)
    store.sync()
    assert len(waits) == 1


def test_only_what_is_stored_can_become_a_member(store: SqliteStore) -> None:
    save_first(store)
    refuse(store)
    head = store.recovered(recent=1).head
    record = replace(head, version=ModelVersion(1), previous=head.digest)
    model = store.model(ModelVersion(0))
    version = Commit(record=record, model=replace(model, version=ModelVersion(1)), frames={}, members=(FIRST.member,))
    with pytest.raises(LocalProtocolError, match="is not stored"):
        store.commit(version)
    assert store.head() == 0
    verdict = store.verdict(FIRST.record.update)
    assert verdict is not None
    assert verdict.status is ReceiptStatus.REFUSED


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SqliteNodeStore]:
    made = SqliteNodeStore(tmp_path / "node")
    made.save_outbox(entry(1), b"frame of the update", residual(0.5))
    yield made
    made.close()


def waits(node: SqliteNodeStore) -> bool:
    """Whether its last transaction has waited for the disk."""
    return bool(node._db.query("PRAGMA synchronous")[0][0] == 2)


def test_a_node_waits_for_what_could_not_be_had_again(node: SqliteNodeStore) -> None:
    assert waits(node), "a finished update"
    node.mark_stored(entry(1).offer.update)
    assert not waits(node), "the coordinator says it again"
    node.settle(entry(1).offer.update, residual(9.0))
    assert waits(node), "a residual that got an update back"
    node.save_outbox(entry(2), b"frame of the update", residual(1.0))
    node.settle(entry(2).offer.update, node.residual(), applied=True)
    assert not waits(node), "applied: the residual is the one that went with it"


def test_a_settled_update_is_gone_after_a_restart(node: SqliteNodeStore, tmp_path: Path) -> None:
    node.settle(entry(1).offer.update, node.residual(), applied=True)
    node.close()
    with closing(SqliteNodeStore(tmp_path / "node")) as again:
        assert again.outbox() == ()
        assert again._db.query("SELECT COUNT(*) FROM outbox")[0][0] == 0
