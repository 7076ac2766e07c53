"""The durable store after power cuts, damage and full disks: nothing half-done, nothing silently lost."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.global_model.committer import CommitterSettings
from coordinator.records import RoundRecord, TransferRecord
from coordinator.storage import sqlite_store, statements
from coordinator.storage.database import DATABASE, open_read_only
from coordinator.storage.files import model_from_bytes
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures, UpdateRow
from coordinator.storage.transfer_files import TransferFiles
from federation.errors import StorageError, StoreLocked
from federation.protocol.cohort import NOBODY
from federation.protocol.messages import ReceiptStatus
from federation.storage.folder import Folder, FolderLock
from federation.storage.sqlite import Database
from federation.types import ModelVersion, NodeId, RoundId, UpdateId
from fedmq.audit.audit import recompute_head
from tests.rigs.model_values import arrived, committer, initialised, update


def opened(folder: Path) -> SqliteStore:
    return SqliteStore(folder / "store")


def grown(folder: Path, versions: int) -> SqliteStore:
    """A store with some versions of two updates each."""
    store = opened(folder)
    initialised(store)
    for number in range(versions):
        sent = [arrived(name, update(0.5 + number), round_id=number) for name in ("a", "b")]
        for one in sent:
            store.save_update(one.record, one.payload)
        committer(store).commit([one.member for one in sent], "full", Figures())
    return store


def test_a_second_process_on_the_same_folder_is_told_who_has_it(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(StoreLocked, match=str(os.getpid())):
        opened(tmp_path)
    store.close()
    opened(tmp_path).close()


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from federation.storage.folder import FolderLock;"
        "lock = FolderLock(Path(sys.argv[1])); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert (tmp_path / "lock").read_text().strip().isdecimal()
    FolderLock(tmp_path).release()


def test_a_damaged_head_is_undone_and_the_same_updates_make_it_again(tmp_path: Path) -> None:
    store = grown(tmp_path, 2)
    digest = store.recovered(recent=1).head.digest
    store.save_round(RoundRecord(round=RoundId(5), version=ModelVersion(2), nodes=(NodeId("a"),), cohort=NOBODY))
    store.close()
    blob = tmp_path / "store" / "blobs" / "model-2.safetensors"
    blob.write_bytes(blob.read_bytes()[:-1])
    store = opened(tmp_path)
    assert len(store.alarms) == 1
    state = store.recovered(recent=3)
    assert (state.head.version, state.open_rounds, state.next_round) == (1, (), 6)
    assert [record.update for record in state.stored] == ["1-a", "1-b"]
    members = [arrived(name, update(1.5), round_id=1).member for name in ("a", "b")]
    committer(store).commit(members, "full", Figures())
    assert store.recovered(recent=1).head.digest == digest
    store.close()


def test_a_damaged_best_model_is_the_best_no_longer_and_the_run_goes_on(tmp_path: Path) -> None:
    store = grown(tmp_path, 1)
    store.retain([], ModelVersion(0))
    for number in (1, 2):
        sent = arrived("a", update(1.0), round_id=10 + number)
        store.save_update(sent.record, sent.payload)
        committer(store).commit([sent.member], "full", Figures())
    assert store.best() == 0
    store.close()
    blob = tmp_path / "store" / "blobs" / "model-0.safetensors"
    blob.write_bytes(blob.read_bytes()[:-1])
    store = opened(tmp_path)
    assert [alarm for alarm in store.alarms if "best" in alarm] == store.alarms != []
    assert store.best() is None
    assert not blob.exists()
    assert store.recovered(recent=1).head.version == 3
    store.close()


def test_a_store_without_any_whole_model_says_so_and_does_not_start(tmp_path: Path) -> None:
    grown(tmp_path, 2).close()
    for version in (1, 2):
        (tmp_path / "store" / "blobs" / f"model-{version}.safetensors").unlink()
    with pytest.raises(StorageError, match="restore"):
        opened(tmp_path)
    # The failed start holds nothing.
    with pytest.raises(StorageError, match="restore"):
        opened(tmp_path)


def test_a_damaged_first_model_cannot_be_made_again(tmp_path: Path) -> None:
    grown(tmp_path, 0).close()
    (tmp_path / "store" / "blobs" / "model-0.safetensors").write_bytes(b"")
    with pytest.raises(StorageError, match="restore"):
        opened(tmp_path)


def test_a_model_that_is_damaged_while_it_is_in_use_is_not_read(tmp_path: Path) -> None:
    store = grown(tmp_path, 1)
    (tmp_path / "store" / "blobs" / "model-1.safetensors").write_bytes(b"short")
    with pytest.raises(StorageError, match="damaged"):
        store.model(ModelVersion(1))
    store.close()


def test_a_damaged_database_is_refused_with_the_remedy(tmp_path: Path) -> None:
    grown(tmp_path, 1).close()
    (tmp_path / "store" / DATABASE).write_bytes(b"no database" * 500)
    with pytest.raises(StorageError):
        opened(tmp_path)


def test_a_database_of_another_layout_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "store" / DATABASE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match=r"layout 99.* up to 4: install the newer release"):
        opened(tmp_path)


def test_a_corrupt_page_is_found_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = Database.execute

    def corrupt(self: Database, statement: str, *values: object) -> sqlite3.Cursor:
        return execute(self, "SELECT 'page 3 is wrong'" if "integrity_check" in statement else statement, *values)

    monkeypatch.setattr(Database, "execute", corrupt)
    with pytest.raises(StorageError, match="page 3 is wrong"):
        opened(tmp_path)


def full_disk(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr("os.fsync", fail)


def test_a_full_disk_leaves_the_head_where_it_is_and_the_updates_waiting(tmp_path: Path) -> None:
    store = grown(tmp_path, 1)
    sent = arrived("a", update(1.0), round_id=8)
    store.save_update(sent.record, sent.payload)
    maker = committer(store)
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch)
        with pytest.raises(StorageError, match="No space"):
            maker.commit([sent.member], "full", Figures())
    assert maker.head.version == 1
    maker.commit([sent.member], "full", Figures())
    assert store.recovered(recent=1).head.version == 2
    assert recompute_head(store, CommitterSettings()) == maker.head.digest
    store.close()


def test_a_large_frame_on_a_full_disk_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = grown(tmp_path, 0)
    monkeypatch.setattr(sqlite_store, "INLINE_BYTES_MAX", 4)
    sent = arrived("a", update(1.0))
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch)
        with pytest.raises(StorageError):
            store.save_update(sent.record, sent.payload)
    assert store.verdict(sent.record.update) is None
    store.save_update(sent.record, sent.payload)
    assert store.payload(sent.record.update) == sent.payload
    store.close()


def test_a_database_that_cannot_write_acknowledges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = grown(tmp_path, 0)
    execute = Database.execute

    def fail(self: Database, statement: str, *values: object) -> sqlite3.Cursor:
        if statement == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return execute(self, statement, *values)

    sent = arrived("a", update(1.0))
    with monkeypatch.context() as patch:
        patch.setattr(Database, "execute", fail)
        with pytest.raises(StorageError, match="disk I/O error"):
            store.save_update(sent.record, sent.payload)
        with pytest.raises(StorageError):
            store.close_round(RoundId(0), [NodeId("a")])
    assert store.verdict(sent.record.update) is None
    store.save_update(sent.record, sent.payload)
    store.close()
    assert [row.verdict.status for row in opened_rows(tmp_path)] == [ReceiptStatus.STORED]


def opened_rows(folder: Path) -> list[UpdateRow]:
    store = opened(folder)
    rows = list(store.updates())
    store.close()
    return rows


def test_large_frames_are_files_and_small_ones_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(folder: Path) -> set[str]:
        return {path.name for path in (folder / "store" / "blobs").iterdir()}

    small = grown(tmp_path / "small", 3)
    monkeypatch.setattr(statements, "FRAME_INLINE_BYTES_MAX", 8)
    large = grown(tmp_path / "large", 3)
    assert files(tmp_path / "small") == {"model-2.safetensors", "model-3.safetensors"}
    assert {"keyframe-2.frame", "keyframe-3.frame"} <= files(tmp_path / "large")
    assert "keyframe-1.frame" not in files(tmp_path / "large")
    head = small.recovered(recent=1).head
    assert head == large.recovered(recent=1).head
    for part in head.parts:
        assert small.frame(part) == large.frame(part)
    small.close()
    large.close()


def test_files_that_no_row_names_are_swept_at_the_start(tmp_path: Path) -> None:
    grown(tmp_path, 3).close()
    folder = tmp_path / "store" / "blobs"
    for stray in ("model-9.safetensors", ".model-4.safetensors.tmp", "update-9-x.frame"):
        (folder / stray).write_bytes(b"left by a crash")
    opened(tmp_path).close()
    names = {path.name for path in folder.iterdir()}
    assert {"model-2.safetensors", "model-3.safetensors"} <= names
    assert not names & {"model-9.safetensors", ".model-4.safetensors.tmp", "update-9-x.frame", "model-1.safetensors"}


def test_disk_use_does_not_grow_with_the_number_of_versions(tmp_path: Path) -> None:
    store = grown(tmp_path, 12)
    assert len(list((tmp_path / "store" / "blobs").iterdir())) == 2
    assert store._database.execute("SELECT COUNT(frame) FROM parts").fetchone()[0] <= 2 + 9
    assert store._database.execute("SELECT COUNT(*) FROM payloads").fetchone()[0] == 2
    store.close()


def test_a_chunk_that_the_disk_did_not_keep_counts_as_missing(tmp_path: Path) -> None:
    store = grown(tmp_path, 0)
    record = arrived("a", update(1.0)).record
    store.open_transfer(TransferRecord(record=record, chunk_bytes=16))
    store.save_chunk(record.update, 0, b"x" * 16)
    store.save_chunk(record.update, 1, b"y" * 16)
    store.close()
    body = tmp_path / "store" / "transfers" / f"{record.update}.chunks"
    body.write_bytes(b"x" * 16 + b"?" * 16)
    (tmp_path / "store" / "transfers" / "9-stray.chunks").write_bytes(b"z")
    store = opened(tmp_path)
    (transfer,) = store.recovered(recent=1).transfers
    assert transfer.arrived == {0}
    assert not (tmp_path / "store" / "transfers" / "9-stray.chunks").exists()
    store.close()


def test_a_transfer_of_which_nothing_arrived_is_empty(tmp_path: Path) -> None:
    files = TransferFiles(tmp_path)
    assert files.arrived(UpdateId("0-a"), 100, 16) == frozenset()
    with pytest.raises(OSError, match="0-a"):
        files.read(UpdateId("0-a"))


def test_a_blob_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("x", b"old")
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch)
        with pytest.raises(OSError, match="No space"):
            folder.write("x", b"new")
    assert folder.read("x") == b"old"
    assert list(folder.names()) == ["x"]


@pytest.mark.parametrize("body", [b"", b"\0" * 64, b"not safetensors at all, but long enough to try"])
def test_bytes_that_are_no_model_are_a_storage_error(body: bytes) -> None:
    with pytest.raises(StorageError):
        model_from_bytes(ModelVersion(1), body)


def test_a_reader_sees_the_run_while_the_coordinator_writes(tmp_path: Path) -> None:
    store = grown(tmp_path, 1)
    reader = open_read_only(tmp_path / "store")
    sent = arrived("c", update(1.0), round_id=5)
    store.save_update(sent.record, sent.payload)
    assert reader.execute("SELECT COUNT(*) FROM updates").fetchone()[0] == 3
    reader.close()
    store.close()


def test_a_reader_without_a_store_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has a coordinator run"):
        open_read_only(tmp_path / "nothing")
    (tmp_path / DATABASE).write_bytes(b"")
    with pytest.raises(StorageError, match="has a coordinator run"):
        open_read_only(tmp_path)


def test_a_store_that_waits_later_waits_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = grown(tmp_path, 1)
    store.wait_later()
    waits: list[int] = []
    monkeypatch.setattr("os.fsync", waits.append)
    for name in ("a", "b", "c"):
        sent = arrived(name, update(1.0), round_id=1)
        store.save_update(sent.record, sent.payload)
    assert waits == []
    store.sync()
    assert len(waits) == 1
    store.close_round(RoundId(0), [NodeId("a")])
    store.sync()
    assert len(waits) == 1, "what may be lost is not waited for"
    store.close()
    assert [row.verdict.status for row in opened_rows(tmp_path)][-3:] == [ReceiptStatus.STORED] * 3


def test_files_stay_until_the_disk_has_it_that_no_row_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "INLINE_BYTES_MAX", 4)
    store = grown(tmp_path, 2)
    blobs = tmp_path / "store" / "blobs"
    store.wait_later()
    sent = arrived("a", update(1.0), round_id=2)
    store.save_update(sent.record, sent.payload)
    committer(store).commit([sent.member], "full", Figures())
    assert (blobs / "model-1.safetensors").exists()
    assert (blobs / "update-1-a.frame").exists()
    store.sync()
    assert not (blobs / "model-1.safetensors").exists()
    assert not (blobs / "update-1-a.frame").exists()
    assert (blobs / "model-2.safetensors").exists()
    store.close()


def test_a_disk_that_fails_at_the_wait_is_a_storage_error(tmp_path: Path) -> None:
    store = grown(tmp_path, 1)
    store.wait_later()
    store.save_round(RoundRecord(round=RoundId(9), version=ModelVersion(1), nodes=(), cohort=NOBODY))
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch)
        with pytest.raises(StorageError, match="No space"):
            store.sync()
    store.close()
