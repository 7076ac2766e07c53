"""A restored run is above all that its nodes may have seen, or is a new one; nothing is written before all is well."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.backup.making import make_backup
from coordinator.backup.restoring import WORK, restore
from coordinator.global_model.committer import first_commit
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.records import RoundRecord, TransferRecord, VersionRecord
from coordinator.storage.database import DATABASE, open_database
from coordinator.storage.files import BLOBS
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.restoring import EPOCHS, ROUNDS
from coordinator.storage.seals import seal_identity
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.errors import ConfigError, DamagedStore, StorageError, StoreLocked
from federation.protocol.cohort import EVERYONE
from federation.protocol.messages import ReceiptStatus
from federation.storage.folder import FolderLock
from federation.types import ModelVersion, NodeId, RoundId
from fedmq.audit.audit import Outcome, audit
from tests.rigs.model_values import MANIFEST, arrived, committer, initialised, update
from update_codec import Manifest, Role


def advance(store: SqliteStore, first: int, count: int) -> None:
    """So many rounds, each with one update that makes a version."""
    head = committer(store)
    for number in range(first, first + count):
        store.save_round(
            RoundRecord(
                round=RoundId(number), version=ModelVersion(head.head.version), nodes=(NodeId("bob"),), cohort=EVERYONE
            )
        )
        sent = arrived("ann", update(0.5 + number % 7), round_id=number)
        store.save_update(sent.record, sent.payload)
        assert isinstance(head.commit([sent.member], "buffer_full", Figures()), VersionRecord)


def open_rounds(folder: Path) -> tuple[RoundRecord, ...]:
    """Rounds for which somebody waits, as the next start finds them."""
    store = SqliteStore(folder)
    found = store.recovered(recent=1).open_rounds
    store.close()
    return found


@pytest.fixture
def backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two starts, three versions, a waiting update and files of every kind."""
    monkeypatch.setattr("coordinator.storage.sqlite_store.INLINE_BYTES_MAX", 10)
    monkeypatch.setattr("coordinator.storage.statements.FRAME_INLINE_BYTES_MAX", 10)
    store = SqliteStore(tmp_path / "before")
    initialised(store)
    store.save_task("digits")
    store.save_inputs("{}")
    store.close()
    store = SqliteStore(tmp_path / "before")
    advance(store, 0, 3)
    waiting = arrived("bob", update(2.0), round_id=2)
    store.save_update(waiting.record, waiting.payload)
    store.close_round(RoundId(0), [NodeId("bob")])
    store.close_round(RoundId(1), [NodeId("bob")])
    sending = arrived("cid", update(3.0), round_id=2)
    store.open_transfer(TransferRecord(record=sending.record, chunk_bytes=1 << 12))
    store.save_chunk(sending.record.update, 0, sending.payload)
    store.close()
    make_backup(tmp_path / "before", tmp_path / "run.tar")
    return tmp_path / "run.tar"


@pytest.fixture
def former(backup: Path, tmp_path: Path) -> Iterator[ReadOnlyStore]:
    """What the backup was made of."""
    del backup
    with ReadOnlyStore(tmp_path / "before") as store:
        yield store


def test_a_restored_run_goes_on_above_all_that_may_have_been(
    backup: Path, former: ReadOnlyStore, tmp_path: Path
) -> None:
    """FED-122."""
    made = restore(backup, tmp_path / "again")
    assert made.restored is not None
    assert (made.run, made.version, made.waiting, made.missing, made.changed) == (former.run, 3, 1, (), False)
    assert (made.restored.epoch, made.restored.next_round) == (2 + EPOCHS, 3 + ROUNDS)
    assert (made.restored.version, made.restored.first_round) == (3, 3)
    store = SqliteStore(tmp_path / "again")
    found = store.recovered(recent=4)
    assert (store.run, store.epoch, store.alarms) == (former.run, 3 + EPOCHS, [])
    assert (found.next_round, found.restored) == (3 + ROUNDS, made.restored)
    assert (found.open_rounds, found.transfers) == ((), ())
    assert [one.nodes for one in open_rounds(tmp_path / "before")] == [("bob",)]
    assert store.reserved(RoundId(2)) is not None
    assert [row.record for row in store.history()] == [row.record for row in former.history()]
    assert list(store.updates()) == list(former.updates())
    assert store.payload(found.stored[0].update) == former.payload(found.stored[0].update)
    advance(store, found.next_round, 2)
    assert (store.head(), store.recovered(recent=1).next_round) == (5, 5 + ROUNDS)
    store.close()
    report = audit(tmp_path / "again")
    assert [one for one in report.findings if one.outcome is Outcome.FAIL] == []


def test_the_folder_holds_the_run_and_nothing_of_the_work(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [BLOBS, DATABASE, "lock"]
    assert (tmp_path / "again").stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "again").rglob("*") if path.is_file()} == {0}
    with ReadOnlyStore(tmp_path / "again") as store:
        assert store.orphans() == []
        assert store.identity_is_sealed() is True


def test_a_second_restore_of_one_backup_can_be_put_above_the_first(backup: Path, tmp_path: Path) -> None:
    first, second = restore(backup, tmp_path / "first"), restore(backup, tmp_path / "same")
    assert first.restored == second.restored
    store = SqliteStore(tmp_path / "first")
    advance(store, store.recovered(recent=1).next_round, 2)
    epoch = store.epoch
    store.close()
    third = restore(backup, tmp_path / "third", above=epoch)
    assert third.restored is not None
    assert third.restored.epoch > epoch
    assert third.restored.next_round == 3 + 2 * ROUNDS


def test_a_restored_run_can_be_backed_up_and_restored_again(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "first")
    store = SqliteStore(tmp_path / "first")
    advance(store, store.recovered(recent=1).next_round, 1)
    store.close()
    make_backup(tmp_path / "first", tmp_path / "later.tar")
    made = restore(tmp_path / "later.tar", tmp_path / "second")
    assert made.restored is not None
    assert (made.restored.epoch, made.restored.next_round) == (3 + 2 * EPOCHS, 4 + 2 * ROUNDS)
    assert audit(tmp_path / "second").holds


@pytest.mark.parametrize("lifted", [2**32 - 1, 2**32 - 1 - EPOCHS, 2**32 - 2 * EPOCHS])
def test_a_run_without_higher_numbers_is_told_to_begin_anew(backup: Path, tmp_path: Path, lifted: int) -> None:
    with pytest.raises(StorageError, match=r"no numbers left .*--new-run"):
        restore(backup, tmp_path / "again", above=lifted)
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["lock"]
    assert restore(backup, tmp_path / "again", above=lifted, new_run=True).version == 0


def test_as_many_restores_as_there_are_numbers_fit_the_wire(backup: Path, tmp_path: Path) -> None:
    made = restore(backup, tmp_path / "again", above=253 * EPOCHS)
    assert made.restored is not None
    assert made.restored.next_round + ROUNDS < 2**32
    with pytest.raises(StorageError, match="no numbers left"):
        restore(backup, tmp_path / "more", above=255 * EPOCHS)


def test_a_new_run_begins_with_the_backups_model(backup: Path, former: ReadOnlyStore, tmp_path: Path) -> None:
    made = restore(backup, tmp_path / "again", new_run=True)
    assert (made.former_run, made.former_version, made.version, made.restored) == (former.run, 3, 0, None)
    store = SqliteStore(tmp_path / "again")
    found = store.recovered(recent=1)
    assert store.run == made.run != former.run
    assert (store.manifest(), store.task(), found.next_round, found.stored) == (MANIFEST, "digits", 0, ())
    assert found.inputs == "{}"
    assert found.head.digest == former.history()[3].record.digest
    assert (found.head.seed, found.restored) == (None, None)
    advance(store, 0, 1)
    store.close()
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [BLOBS, DATABASE, "lock", "transfers"]
    assert audit(tmp_path / "again").holds


def test_a_new_run_begins_with_the_controls_at_zero_as_its_nodes_do(tmp_path: Path) -> None:
    arrays = {
        "weight": np.full(3, 2.0, np.float32),
        "mean": np.full(2, 5.0, np.float32),
        "sum": np.full(3, 7.0, np.float32),
    }
    manifest = Manifest.of(arrays, {"mean": Role.STATISTIC, "sum": Role.CONTROL})
    store = SqliteStore(tmp_path / "before")
    store.initialise(manifest, first_commit(manifest.flatten(arrays), manifest, DownlinkSettings(), seed=None))
    store.close()
    restore(tmp_path / "before", tmp_path / "again", new_run=True)
    with ReadOnlyStore(tmp_path / "again") as again:
        found = manifest.unflatten(again.model(ModelVersion(0)).shadow)
    assert {name: array.tolist() for name, array in found.items()} == {
        "weight": [2.0] * 3,
        "mean": [5.0] * 2,
        "sum": [0.0] * 3,
    }


def test_a_new_run_is_later_than_the_backups_whatever_the_clock_says(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ReadOnlyStore(tmp_path / "before") as store:
        began = store.began_ms()
    monkeypatch.setattr("time.time_ns", lambda: 1_000_000)
    restore(backup, tmp_path / "again", new_run=True)
    with ReadOnlyStore(tmp_path / "again") as store:
        assert store.began_ms() == began + 1


def test_a_folder_that_was_copied_as_it_was_is_restored_too(
    backup: Path, former: ReadOnlyStore, tmp_path: Path
) -> None:
    del backup
    shutil.copytree(tmp_path / "before", tmp_path / "copy")
    made = restore(tmp_path / "copy", tmp_path / "again")
    assert (made.run, made.version) == (former.run, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "before", "copy", "run.tar"]


@pytest.mark.parametrize("name", ["status.json", DATABASE, BLOBS])
def test_a_folder_that_is_not_empty_is_refused_and_left_alone(backup: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "again" / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match=rf"is not empty, it has {name}: move it away"):
        restore(backup, tmp_path / "again")
    assert [path.name for path in (tmp_path / "again").iterdir()] == [name]


def test_a_folder_in_use_is_refused(backup: Path, tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "again")
    with pytest.raises(StoreLocked):
        restore(backup, tmp_path / "again")
    lock.release()


def test_what_is_no_folder_or_no_backup_is_refused(backup: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        restore(backup, backup)
    with pytest.raises(ConfigError, match="there is no backup"):
        restore(tmp_path / "none", tmp_path / "again")
    (tmp_path / "other").write_text("other")
    with pytest.raises(DamagedStore, match="no whole backup"):
        restore(tmp_path / "other", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_damaged_backup_writes_nothing(backup: Path, tmp_path: Path) -> None:
    body = bytearray(backup.read_bytes())
    body[len(body) // 3] ^= 1
    backup.write_bytes(body)
    with pytest.raises(DamagedStore, match="missing or damaged"):
        restore(backup, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_restore_that_was_killed_is_repeated(backup: Path, tmp_path: Path) -> None:
    for left in (WORK, BLOBS):
        (tmp_path / "again" / left).mkdir(parents=True)
        (tmp_path / "again" / left / "model-9.safetensors").write_text("half")
    made = restore(backup, tmp_path / "again")
    assert made.version == 3
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [BLOBS, DATABASE, "lock"]
    assert not (tmp_path / "again" / BLOBS / "model-9.safetensors").exists()


def test_a_run_that_somebody_has_changed_is_told(backup: Path, tmp_path: Path) -> None:
    del backup
    database = open_database(tmp_path / "before")
    database.execute("UPDATE meta SET value = value + 7 WHERE key = 'epoch'")
    database.close()
    make_backup(tmp_path / "before", tmp_path / "changed.tar")
    assert restore(tmp_path / "changed.tar", tmp_path / "again").changed
    assert restore(tmp_path / "changed.tar", tmp_path / "anew", new_run=True).changed
    with ReadOnlyStore(tmp_path / "again") as store:
        assert store.identity_is_sealed() is True


def test_that_a_run_was_restored_cannot_be_taken_back_unseen(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "again")
    database = open_database(tmp_path / "again")
    database.execute("DELETE FROM restores")
    database.close()
    with ReadOnlyStore(tmp_path / "again") as store:
        assert store.identity_is_sealed() is False


def test_a_payload_that_the_backup_has_not_is_told(backup: Path, tmp_path: Path) -> None:
    del backup
    (tmp_path / "before" / BLOBS / "update-2-bob.frame").unlink()
    make_backup(tmp_path / "before", tmp_path / "less.tar")
    made = restore(tmp_path / "less.tar", tmp_path / "again")
    assert (made.missing, made.waiting) == (("update-2-bob.frame",), 1)


def test_a_store_without_a_version_is_no_backup_of_a_run(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    seal_identity(database)
    database.close()
    with pytest.raises(StorageError, match="has no version yet"):
        restore(tmp_path, tmp_path / "again")


def test_what_was_applied_before_the_backup_is_applied(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "again")
    with ReadOnlyStore(tmp_path / "again") as store:
        statuses = [row.verdict.status for row in store.updates()]
    assert statuses == [ReceiptStatus.APPLIED] * 3 + [ReceiptStatus.STORED]


def test_a_database_takes_its_name_after_the_files_that_it_names(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut would leave a run whose models are gone."""
    synced: list[set[str]] = []

    def sync(folder: Path) -> None:
        synced.append({path.name for path in folder.iterdir()} - {"lock", WORK})

    monkeypatch.setattr("coordinator.backup.restoring.sync_folder", sync)
    restore(backup, tmp_path / "again")
    assert synced == [{BLOBS}, {BLOBS, DATABASE}]


def test_a_folder_that_is_filled_while_the_backup_is_verified_is_left_alone(backup: Path, tmp_path: Path) -> None:
    def progress(what: str, _total: int) -> Callable[[int], None]:
        def hear(_count: int) -> None:
            if what == "verified" and not (tmp_path / "again").exists():
                SqliteStore(tmp_path / "again").close()

        return hear

    with pytest.raises(ConfigError, match="is not empty"):
        restore(backup, tmp_path / "again", progress=progress)
    with ReadOnlyStore(tmp_path / "again") as store:
        assert store.head() is None
