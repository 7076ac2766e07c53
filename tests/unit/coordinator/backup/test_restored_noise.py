"""A trusted coordinator's accounts outlive its store: a restore charges what the backup does not know of."""

from pathlib import Path

import pytest

from coordinator.backup.making import make_backup
from coordinator.backup.restoring import restore
from coordinator.monitoring.noised_sums import nodes_report, nodes_row
from coordinator.records import ReleaseLedger, ReleaseRecord
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.releases import charge_release
from coordinator.storage.sqlite_store import SqliteStore
from federation.errors import StorageError
from federation.privacy.releases import Taking
from federation.types import Digest, ModelVersion, NodeId
from tests.rigs.model_values import initialised

A, B, NEW = NodeId("a"), NodeId("b"), NodeId("new")
Z = 4.0
PRICE = Z**-2


def record(number: int, *nodes: NodeId) -> ReleaseRecord:
    return ReleaseRecord(
        release=number,
        batch=Digest(bytes([number]) * 16),
        version=ModelVersion(number + 1),
        noise=Z,
        clip=1.0,
        epsilon=8.0,
        delta=1e-5,
        prices=dict.fromkeys(nodes, PRICE),
    )


def charge(folder: Path, *records: ReleaseRecord) -> None:
    store = SqliteStore(folder)
    for one in records:
        with store._database.transaction("test"):
            charge_release(store._database, one, by_coordinator=True)
    store.close()


def ledger(folder: Path) -> ReleaseLedger:
    with ReadOnlyStore(folder) as store:
        return store.released()


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Of a run at version 0 that has charged two sums already: what its model was is no matter here."""
    store = SqliteStore(tmp_path / "before")
    initialised(store)
    store.batches.begin_noise(Z)
    store.close()
    charge(tmp_path / "before", record(0, A, B), record(1, A))
    make_backup(tmp_path / "before", tmp_path / "run.tar")
    return tmp_path / "run.tar"


@pytest.mark.parametrize("new_run", [False, True])
def test_without_the_newest_version_it_is_refused(backup: Path, tmp_path: Path, *, new_run: bool) -> None:
    with pytest.raises(StorageError, match="--released VERSION"):
        restore(backup, tmp_path / "again", new_run=new_run)


def test_all_nodes_pay_for_the_versions_that_are_lost(backup: Path, tmp_path: Path) -> None:
    """Nobody knows who was in them: each may have been in each, also a node that came after the backup."""
    restore(backup, tmp_path / "again", released=3)
    found = ledger(tmp_path / "again")
    assert found.takings == {
        A: Taking(releases=5, last=1, spent=5 * PRICE),
        B: Taking(releases=4, last=0, spent=4 * PRICE),
    }
    assert found.floor == Taking(releases=3, last=-1, spent=3 * PRICE)
    charge(tmp_path / "again", record(2, B, NEW))
    assert ledger(tmp_path / "again").takings[NEW] == Taking(releases=4, last=2, spent=4 * PRICE)
    assert ledger(tmp_path / "again").takings[B] == Taking(releases=5, last=2, spent=5 * PRICE)


def test_a_second_restore_adds_to_the_first(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "again", released=1)
    restore(tmp_path / "again", tmp_path / "third", released=2)
    assert ledger(tmp_path / "third").floor == Taking(releases=3, last=-1, spent=3 * PRICE)


@pytest.mark.parametrize("new_run", [False, True])
def test_who_restores_one_backup_again_pays_for_both_runs_that_are_lost(
    backup: Path, tmp_path: Path, *, new_run: bool
) -> None:
    """Each has made versions since, up to the same number: a node may have been in all of them."""
    restore(backup, tmp_path / "again", released=3)
    lost = SqliteStore(tmp_path / "again")
    lost.close()
    restore(backup, tmp_path / "third", released=3, above=lost.epoch, new_run=new_run)
    found = ledger(tmp_path / "third")
    assert found.takings[A].spent == (2 + 2 * 3) * PRICE
    assert found.floor.releases == 2 * 3


def test_nothing_is_lost_where_the_backup_has_the_newest_version(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "again", released=0)
    assert ledger(tmp_path / "again") == ledger(tmp_path / "before")


def test_a_new_run_from_a_backup_goes_on_with_its_accounts(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "again", new_run=True, released=2)
    found = ledger(tmp_path / "again")
    assert found.takings == {
        A: Taking(releases=4, last=-1, spent=4 * PRICE),
        B: Taking(releases=3, last=-1, spent=3 * PRICE),
    }
    assert (found.floor.releases, found.releases, found.own) == (2, 0, 0)


def test_a_backup_of_before_the_first_noised_version_knows_that_there_will_be_some(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "before")
    initialised(store)
    store.batches.begin_noise(8.0)
    store.batches.begin_noise(Z)
    store.batches.begin_noise(8.0)
    store.close()
    with pytest.raises(StorageError, match="--released"):
        restore(tmp_path / "before", tmp_path / "again")
    restore(tmp_path / "before", tmp_path / "again", released=2)
    assert ledger(tmp_path / "again").floor.spent == 2 * PRICE, "at the price of the least noise that there was"


def test_a_run_without_such_noise_needs_no_word(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "before")
    initialised(store)
    store.close()
    restore(tmp_path / "before", tmp_path / "again")
    assert ledger(tmp_path / "again") == ReleaseLedger()


def test_a_new_run_knows_whose_noise_it_has_taken_over(backup: Path, tmp_path: Path) -> None:
    """Before its first sum it said that helpers had added it."""
    restore(backup, tmp_path / "again", new_run=True, released=0)
    with ReadOnlyStore(tmp_path / "again") as store:
        assert store.released().drawn.here == Z
        row = nodes_row(nodes_report(store))
    assert row is not None
    assert row["noise_by"] == "coordinator"
