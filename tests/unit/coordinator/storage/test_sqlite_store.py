"""The durable store after power cuts, damage and full disks: nothing half-done, nothing silently lost."""

import errno
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

import pytest

from coordinator.global_model.aggregation import Unusable
from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.records import RoundRecord, TransferRecord, VersionRecord
from coordinator.storage import seals, sqlite_store, statements
from coordinator.storage.database import DATABASE, LAYOUT, open_read_only
from coordinator.storage.files import TransferFiles, model_file, model_from_bytes
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures, UpdateRow
from federation.errors import StorageError, StoreLocked
from federation.protocol.cohort import NOBODY
from federation.protocol.messages import PartKind, Reason, ReceiptStatus
from federation.storage.folder import Folder, FolderLock, ReadableFolder
from federation.storage.sqlite import Database
from federation.types import ModelVersion, NodeId, RoundId, UpdateId
from fedmq.audit.audit import audit, recompute_head
from tests.rigs.model_values import MANIFEST, arrived, committer, initialised, update
from update_codec import decode


def opened(folder: Path) -> SqliteStore:
    return SqliteStore(folder / "store")


def grown(folder: Path, versions: int, *, audit_versions: int = 1) -> SqliteStore:
    """A store with some versions of two updates each."""
    store = SqliteStore(folder / "store", audit_versions=audit_versions)
    initialised(store)
    for number in range(versions):
        sent = [arrived(name, update(0.5 + number), round_id=number) for name in ("a", "b")]
        for one in sent:
            store.save_update(one.record, one.payload)
        committer(store).commit([one.member for one in sent], "full", Figures())
    return store


def failed(folder: Path) -> set[str]:
    """Invariants that do not hold; these stores have no rounds."""
    return {finding.invariant for finding in audit(folder).findings if finding.failed}


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
    assert state.newest == 2, "nodes have heard of it"
    assert [record.update for record in state.stored] == ["1-a", "1-b"]
    members = [arrived(name, update(1.5), round_id=1).member for name in ("a", "b")]
    committer(store).commit(members, "full", Figures())
    assert store.recovered(recent=1).head.digest == digest
    store.close()


def test_a_damaged_head_goes_back_to_the_version_before_it_whichever_that_is(tmp_path: Path) -> None:
    """A gateway's site leaves out what it was away for: it could not start any more, and no remedy was said."""
    folder = tmp_path / "store"
    grown(tmp_path, 2).close()
    with closing(sqlite3.connect(folder / DATABASE)) as database, database:
        database.execute("DELETE FROM versions WHERE version = 0")
        database.execute("UPDATE versions SET version = 0 WHERE version = 1")
    blobs = folder / "blobs"
    (blobs / model_file(ModelVersion(1))).rename(blobs / model_file(ModelVersion(0)))
    (blobs / model_file(ModelVersion(2))).unlink()
    store = opened(tmp_path)
    assert store.recovered(recent=1).head.version == 0
    assert store.alarms == ["the model of version 2 was missing or damaged: back to version 0, its updates count again"]
    store.close()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_a_head_that_this_process_may_not_read_is_not_undone(tmp_path: Path, number: int) -> None:
    """As after one `sudo coordinator run`: its model is root's, and whole."""
    grown(tmp_path, 2).close()

    def barred(_: ReadableFolder, name: str) -> bytes:
        raise OSError(number, os.strerror(number), name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReadableFolder, "read", barred)
        with pytest.raises(StorageError, match=r"model-2\.safetensors cannot be read"):
            opened(tmp_path)
    store = opened(tmp_path)
    assert (store.recovered(recent=1).head.version, store.alarms) == (2, [])
    store.close()


@pytest.mark.parametrize("round_version", [None, 2])
def test_the_newest_version_is_known_over_a_repair_and_a_restart(tmp_path: Path, round_version: int | None) -> None:
    """FED-97: by its own row, and where an earlier release has undone it by the round that announced it."""
    store = grown(tmp_path, 2)
    if round_version is not None:
        version = ModelVersion(round_version)
        store.save_round(RoundRecord(round=RoundId(5), version=version, nodes=(NodeId("a"),), cohort=NOBODY))
    store.close()
    (tmp_path / "store" / "blobs" / "model-2.safetensors").unlink()
    opened(tmp_path).close()
    if round_version is not None:
        with closing(sqlite3.connect(tmp_path / "store" / DATABASE, isolation_level=None)) as database:
            database.execute("DELETE FROM meta WHERE key = 'undone_version'")
    store = opened(tmp_path)
    recovered = store.recovered(recent=1)
    assert (recovered.head.version, recovered.newest) == (1, 2)
    store.close()


def test_a_store_that_was_never_repaired_knows_its_head(tmp_path: Path) -> None:
    store = grown(tmp_path, 2)
    assert store.recovered(recent=1).newest == 2
    store.close()


def test_a_member_whose_payload_is_gone_costs_itself_when_a_damaged_head_is_undone(tmp_path: Path) -> None:
    store = grown(tmp_path, 2)
    store.close()
    with closing(sqlite3.connect(tmp_path / "store" / DATABASE, isolation_level=None)) as database:
        database.execute("DELETE FROM payloads WHERE update_id = '1-a'")
    (tmp_path / "store" / "blobs" / "model-2.safetensors").unlink()
    store = opened(tmp_path)
    assert [record.update for record in store.recovered(recent=1).stored] == ["1-b"]
    verdict = store.verdict(UpdateId("1-a"))
    assert verdict is not None
    assert (verdict.status, verdict.reason, verdict.version) == (ReceiptStatus.REFUSED, Reason.DIGEST_MISMATCH, None)
    committer(store).commit([arrived("b", update(1.5), round_id=1).member], "full", Figures())
    store.close()
    assert "I3" not in failed(tmp_path / "store")


def test_a_payload_that_is_not_what_was_offered_costs_its_update_and_the_others_count(tmp_path: Path) -> None:
    store = grown(tmp_path, 1)
    sent = [arrived(name, update(1.0), round_id=1) for name in ("a", "b", "c")]
    for one in sent:
        store.save_update(one.record, one.payload)
    store.close()
    with closing(sqlite3.connect(tmp_path / "store" / DATABASE, isolation_level=None)) as database:
        database.execute("UPDATE payloads SET body = zeroblob(length(body)) WHERE update_id = '1-a'")
        database.execute("DELETE FROM payloads WHERE update_id = '1-c'")
    store = opened(tmp_path)
    made, members = committer(store), [one.member for one in sent]
    for gone, why in (("1-a", "not what was offered"), ("1-c", "not in the store")):
        found = made.commit(members, "full", Figures())
        assert isinstance(found, Unusable)
        assert (found.culprits, found.reason) == ((gone,), Reason.DIGEST_MISMATCH)
        assert why in found.detail
        members = [member for member in members if member.update != gone]
    assert isinstance(made.commit(members, "full", Figures()), VersionRecord)
    store.close()


def test_fewer_versions_to_audit_delete_the_payloads_of_the_older_ones_at_the_start(tmp_path: Path) -> None:
    grown(tmp_path, 4, audit_versions=3).close()
    with ReadOnlyStore(tmp_path / "store") as reader:
        assert {update.partition("-")[0] for update in reader.payloads()} == {"1", "2", "3"}
    opened(tmp_path).close()
    with ReadOnlyStore(tmp_path / "store") as reader:
        assert {update.partition("-")[0] for update in reader.payloads()} == {"3"}


def test_an_identity_that_somebody_has_changed_is_an_alarm_at_the_start(tmp_path: Path) -> None:
    grown(tmp_path, 1).close()
    with closing(sqlite3.connect(tmp_path / "store" / DATABASE, isolation_level=None)) as database:
        database.execute("UPDATE meta SET value = 0 WHERE key = 'epoch'")
    store = opened(tmp_path)
    assert [alarm for alarm in store.alarms if "epoch" in alarm] == store.alarms != []
    store.close()
    store = opened(tmp_path)
    assert store.alarms == []
    store.close()


class TestPartsThatAreDamaged:
    """What nodes pull is made again from the model; the head is the same model."""

    DAMAGES = (
        "UPDATE parts SET frame = zeroblob(length(frame))",
        "UPDATE parts SET frame = NULL",
        "DELETE FROM parts",
        "DELETE FROM parts WHERE kind = 'keyframe'",
        "UPDATE parts SET payload_digest = x'00'",
        "UPDATE versions SET parts = ''",
    )

    @pytest.mark.parametrize("versions", [0, 3])
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_they_are_found_at_the_start_and_made_again(self, damage: str, versions: int, tmp_path: Path) -> None:
        grown(tmp_path, versions).close()
        with closing(sqlite3.connect(tmp_path / "store" / DATABASE, isolation_level=None)) as database:
            database.execute(damage)
        store = opened(tmp_path)
        made = committer(store)
        head = made.repair(store)
        assert head is not None
        assert head == made.head == store.recovered(recent=1).head
        (key,) = (part for part in head.parts if part.kind is PartKind.KEYFRAME)
        assert decode(store.frame(key), MANIFEST).digest() == head.digest == store.model(head.version).shadow.digest()
        assert [store.frame(part) for part in head.parts]
        assert made.repair(store) is None
        store.close()
        store = opened(tmp_path)
        made = committer(store)
        assert made.repair(store) is None
        sent = arrived("a", update(1.0), round_id=9)
        store.save_update(sent.record, sent.payload)
        following = made.commit([sent.member], "full", Figures())
        assert isinstance(following, VersionRecord)
        assert [store.frame(part) for part in following.parts]
        store.close()

    def test_a_head_in_larger_chunks_than_the_broker_takes_now_is_cut_again(self, tmp_path: Path) -> None:
        store = grown(tmp_path, 2)
        frames = [store.frame(part) for part in store.recovered(recent=1).head.parts]
        smaller = CommitterSettings(downlink=DownlinkSettings(chunk_bytes=2048))
        head = committer(store, smaller).repair(store)
        assert head is not None
        assert {part.chunk_bytes for part in head.parts} == {2048}
        assert [store.frame(part) for part in head.parts] == frames
        assert committer(store).repair(store) is None, "a larger chunk is no reason"
        store.close()
        store = opened(tmp_path)
        assert store.recovered(recent=1).head == head
        store.close()
        assert "I3" not in failed(tmp_path / "store")


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
    with pytest.raises(StorageError, match=rf"layout 99.* up to {LAYOUT.number}: install the newer release"):
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

    for wait in ("os.fsync", "os.fdatasync"):
        patch.setattr(wait, fail)


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


class FailingConnection(sqlite3.Connection):
    """Cannot commit while its disk is broken."""

    broken = False

    def commit(self) -> None:
        if self.broken:
            raise sqlite3.OperationalError("disk I/O error")
        super().commit()


def test_a_database_that_cannot_write_acknowledges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.storage.sqlite.connect", lambda path: FailingConnection(path, isolation_level=None))
    store = grown(tmp_path, 0)
    sent = arrived("a", update(1.0))
    with monkeypatch.context() as patch:
        patch.setattr(FailingConnection, "broken", True)
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
    monkeypatch.setattr("os.fdatasync", waits.append)
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


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def without_tables(path: Path) -> None:
    path.unlink()
    sqlite3.connect(path).execute("VACUUM").connection.close()


def of_no_run(path: Path) -> None:
    path.unlink()
    opened(path.parent.parent / "other").close()
    (path.parent.parent / "other" / "store" / DATABASE).rename(path)


def files(folder: Path) -> dict[str, bytes]:
    """What is in a folder; a database that was opened may have gained its tables."""
    found = (path for path in folder.rglob("*") if path.is_file() and DATABASE not in path.name and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("damage", [Path.unlink, emptied, without_tables, of_no_run])
def test_a_lost_database_beside_models_begins_no_new_run(damage: Callable[[Path], None], tmp_path: Path) -> None:
    grown(tmp_path, 1).close()
    damage(tmp_path / "store" / DATABASE)
    before = files(tmp_path / "store")
    with pytest.raises(
        StorageError, match=r"blobs/.*move .* \(coordinator restore FILE\), or begin .*; nothing has been deleted"
    ):
        opened(tmp_path)
    assert "blobs/model-1.safetensors" in before
    assert files(tmp_path / "store") == before


@pytest.mark.parametrize(
    "left", ["transfers/1-a.chunks", "status.json", "counters.json", f"{DATABASE}-wal", "blobs/update-1-a.frame"]
)
def test_anything_else_of_a_run_shows_that_its_database_is_lost(left: str, tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "store" / DATABASE).unlink()
    (tmp_path / "store" / left).write_bytes(b"something")
    with pytest.raises(StorageError, match=f"is missing, but its folder has {left}"):
        opened(tmp_path)
    assert (tmp_path / "store" / left).read_bytes() == b"something"


def test_what_a_killed_first_start_has_left_is_no_lost_run(tmp_path: Path) -> None:
    opened(tmp_path).close()
    for name in ("model-0.safetensors", "keyframe-0.frame", ".model-0.safetensors.1-1.tmp"):
        (tmp_path / "store" / "blobs" / name).write_bytes(b"half")
    store = opened(tmp_path)
    initialised(store)
    assert store.head() == 0
    store.close()


def test_what_nodes_may_still_pull_of_the_version_before_is_kept(tmp_path: Path) -> None:
    """The standing announcement names them until the next one; a coordinator that restarts publishes them again."""
    with closing(grown(tmp_path, 3)) as store:
        former = store.recovered(recent=1).head.parts
        sent = arrived("a", update(9.0), round_id=9)
        store.save_update(sent.record, sent.payload)
        committer(store).commit([sent.member], "full", Figures())
        assert [len(store.frame(part)) for part in former] == [part.payload_bytes for part in former]


def test_the_sum_of_a_row_is_of_its_values_texts_as_json_writes_them() -> None:
    values = [None, b"\x00\xff", 7, -(2**63), 0.1, 1e300, float("inf"), 'é\n"', True, ReceiptStatus.STALE]
    row = {str(index): value for index, value in enumerate(values)}
    texts = [value.hex() if isinstance(value, bytes) else None if value is None else str(value) for value in values]
    assert seals._sum(row, row) == blake2b(json.dumps(texts).encode(), digest_size=16).digest()
