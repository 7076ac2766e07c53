"""What must survive a power cut is waited for: at once, or by the next `sync` where the store gathers."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.records import NodeResult, RoundRecord, TransferRecord, Verdict
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.protocol.cohort import cohort_of
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import ModelVersion, NodeId, RoundId
from tests.rigs.model_values import arrived, committer, initialised, update

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


@pytest.mark.parametrize("saving", SAVINGS, ids=lambda one: one.name)
def test_what_others_are_told_of_is_synced_by_the_next_wait(
    saving: Saving, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.wait_later()
    saving.before(store)
    store.sync()
    saving.save(store)
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
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
