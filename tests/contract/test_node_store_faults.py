"""What the durable node store does when the disk, a file or another process misbehaves."""

import contextlib
import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_node.records import Seen, StateChange
from edge_node.storage import bodies, database
from edge_node.storage.model_file import model_name
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.errors import StorageError, StoreLocked
from federation.runtime.failpoint import watch
from federation.storage.folder import ReadableFolder
from federation.types import Epoch, RoundId
from tests.rigs.node_values import OTHER_RUN, RUN, entry, model, residual

MODEL = model_name(RUN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


def test_second_process_is_refused_and_told_who_holds_the_folder(folder: Path) -> None:
    store = SqliteNodeStore(folder)
    with pytest.raises(StoreLocked, match=str(os.getpid())):
        SqliteNodeStore(folder)
    store.close()
    SqliteNodeStore(folder).close()


def test_lock_dies_with_a_killed_process(folder: Path) -> None:
    code = (
        "import os, signal, sys, pathlib; from edge_node.storage.sqlite_store import SqliteNodeStore;"
        "store = SqliteNodeStore(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False, timeout=60)
    store = SqliteNodeStore(folder)
    assert store.incarnation == 2
    store.close()


def test_failed_fsync_of_a_file_saves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LARGE_BYTES", 4)
    store = SqliteNodeStore(folder)
    store.save_outbox(entry(1), b"first frame", residual(0.5))
    with monkeypatch.context() as patch:
        full_disk(patch)
        with pytest.raises(StorageError, match="No space left"):
            store.save_outbox(entry(2), b"second frame", residual(9.0))
    np.testing.assert_array_equal(store.residual(), residual(0.5))
    assert store.entry(entry(2).offer.update) is None
    store.save_outbox(entry(2), b"second frame", residual(0.25))
    store.close()
    again = SqliteNodeStore(folder)
    assert [kept.offer.round for kept in again.recovered().outbox] == [1, 2]
    np.testing.assert_array_equal(again.residual(), residual(0.25))
    assert len(list(folder.glob("*.body"))) == 3
    again.close()


def test_full_database_saves_nothing_and_recovers(folder: Path) -> None:
    store = SqliteNodeStore(folder)
    store.save_outbox(entry(1), b"frame", residual(0.5))
    connection = store._db._tables
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StorageError, match="full"):
        store.save_outbox(entry(2), b"x" * 100_000, residual(9.0))
    connection.execute("PRAGMA max_page_count=1000000")
    assert [kept.offer.round for kept in store.recovered().outbox] == [1]
    store.save_outbox(entry(2), b"x" * 100_000, residual(0.25))
    assert store.frame(entry(2).offer.update) == b"x" * 100_000
    store.close()


def test_every_change_on_a_failing_disk_is_a_storage_error_and_changes_nothing(folder: Path) -> None:
    store = SqliteNodeStore(folder)
    store.save_outbox(entry(1), b"frame", residual(0.5))
    before = store.recovered()
    store._db._tables.execute("PRAGMA query_only=1")
    update = entry(1).offer.update
    changes: tuple[Callable[[], object], ...] = (
        lambda: store.save_outbox(entry(2), b"frame", None),
        lambda: store.mark_stored(update),
        lambda: store.settle(update, None),
        lambda: store.save_progress(RUN, RoundId(9)),
        lambda: store.save_progress(OTHER_RUN, RoundId(9)),
        lambda: store.save_seen(Seen(run=RUN, epoch=Epoch(3))),
    )
    for change in changes:
        with pytest.raises(StorageError):
            change()
    assert store.recovered() == before
    np.testing.assert_array_equal(store.residual(), residual(0.5))
    store.close()


def test_every_change_is_one_transaction_and_killed_in_it_changes_nothing(folder: Path) -> None:
    """FED-41, FED-51: update, residual, state and round together."""
    store = SqliteNodeStore(folder)
    store.save_outbox(entry(1), b"frame", residual(0.5))
    update, passed = entry(1).offer.update, list[str]()
    changes: tuple[Callable[[], object], ...] = (
        lambda: store.save_outbox(entry(2), b"frame", residual(9.0), StateChange(kept={"head": np.ones(2)})),
        lambda: store.settle(update, residual(8.0), applied=True),
    )
    for change in changes:
        for fails in (True, False):
            before, kept = store.recovered(), str(store.residual())
            watch(partial(_pass, passed, fails=fails))
            with contextlib.suppress(StorageError):
                change()
            watch(None)
            assert passed == ["node_commit_change"]
            passed.clear()
            store.close()
            store = SqliteNodeStore(folder)
            assert (store.recovered() == before) is fails
            assert (str(store.residual()) == kept) is fails
    store.close()


def _pass(passed: list[str], name: str, *, fails: bool) -> None:
    passed.append(name)
    if fails:
        raise OSError("killed here")


def test_model_that_cannot_be_written_is_a_storage_error(folder: Path) -> None:
    store = SqliteNodeStore(folder)
    store.enter_run(RUN)
    (folder / MODEL).mkdir()
    with pytest.raises(StorageError, match="model"):
        store.save_model(model())
    assert store.held_model() is None
    store.close()


@pytest.mark.parametrize("damage", [b"", b"not a model", b"\xff" * 400])
def test_damaged_model_file_is_as_good_as_none(folder: Path, damage: bytes) -> None:
    store = SqliteNodeStore(folder)
    store.enter_run(RUN)
    store.save_model(model())
    store.close()
    (folder / MODEL).write_bytes(damage)
    again = SqliteNodeStore(folder)
    assert again.held_model() is None
    assert again.recovered().held_version is None
    again.close()


def test_model_with_one_changed_byte_is_as_good_as_none(folder: Path) -> None:
    store = SqliteNodeStore(folder)
    store.enter_run(RUN)
    store.save_model(model())
    store.close()
    body = bytearray((folder / MODEL).read_bytes())
    body[-1] ^= 1
    (folder / MODEL).write_bytes(body)
    again = SqliteNodeStore(folder)
    assert again.held_model() is None
    again.close()


def test_files_that_nothing_names_are_swept_at_start(folder: Path) -> None:
    SqliteNodeStore(folder).close()
    for name in ("orphan.1.1.body", "model.safetensors.tmp"):
        (folder / name).write_bytes(b"left by a crash")
    SqliteNodeStore(folder).close()
    assert not list(folder.glob("*.body")) + list(folder.glob("*.tmp"))


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_update_whose_payload_is_lost_is_dropped_from_the_outbox(
    folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(bodies, "LARGE_BYTES", 4)
    store = SqliteNodeStore(folder)
    store.save_outbox(entry(1), b"first frame", residual(0.5))
    store.close()
    for path in folder.glob("*.body"):
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(b"another content")
    again = SqliteNodeStore(folder)
    assert again.recovered().outbox == ()
    assert again.residual() is None
    again.close()


def test_update_whose_payload_this_process_may_not_read_is_not_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after one `sudo edge-node run`: the file is root's, and whole."""
    monkeypatch.setattr(bodies, "LARGE_BYTES", 4)
    store = SqliteNodeStore(folder)
    store.save_outbox(entry(1), b"first frame", residual(0.5))
    store.close()

    def barred(_: ReadableFolder, name: str) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReadableFolder, "read", barred)
        with pytest.raises(StorageError, match=r"\.body cannot be read.*writable"):
            SqliteNodeStore(folder)
    again = SqliteNodeStore(folder)
    assert [one.offer.update for one in again.recovered().outbox] == [entry(1).offer.update]
    again.close()


def test_offer_that_cannot_be_read_is_dropped_from_the_outbox(folder: Path) -> None:
    store = SqliteNodeStore(folder)
    store.save_outbox(entry(1), b"frame", None)
    store.close()
    with sqlite3.connect(folder / "node.sqlite") as connection:
        connection.execute("UPDATE outbox SET offer = ?", (b"\xff",))
    connection.close()
    again = SqliteNodeStore(folder)
    assert again.recovered().outbox == ()
    again.close()


def test_damaged_database_is_refused_with_a_remedy(folder: Path) -> None:
    folder.mkdir()
    (folder / "node.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageError, match=r"move .* away"):
        SqliteNodeStore(folder)


def test_database_of_another_format_is_refused(folder: Path) -> None:
    SqliteNodeStore(folder).close()
    with sqlite3.connect(folder / "node.sqlite") as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE name = 'format'")
    connection.close()
    with pytest.raises(StorageError, match=rf"layout 99.* up to {database.LAYOUT.number}: install the newer release"):
        SqliteNodeStore(folder)


@pytest.mark.parametrize("body", [None, b""])
@pytest.mark.parametrize("left", ["model.safetensors", MODEL, "frame-0-a.1.1.body", "node.sqlite-wal"])
def test_lost_database_beside_a_nodes_work_is_refused_and_nothing_deleted(
    body: bytes | None, left: str, folder: Path
) -> None:
    SqliteNodeStore(folder).close()
    (folder / "node.sqlite").unlink()
    if body is not None:
        (folder / "node.sqlite").write_bytes(body)
    (folder / left).write_bytes(b"something")
    with pytest.raises(StorageError, match=rf"node.sqlite is .*{left}: move {folder} away to start afresh"):
        SqliteNodeStore(folder)
    assert (folder / left).read_bytes() == b"something"


def test_database_without_a_row_beside_a_model_is_lost(folder: Path) -> None:
    SqliteNodeStore(folder).close()
    (folder / "node.sqlite").unlink()
    sqlite3.connect(folder / "node.sqlite").execute("VACUUM").connection.close()
    (folder / MODEL).write_bytes(b"something")
    with pytest.raises(StorageError, match=r"knows of no run, but its folder has model-00000000000000aa\.safetensors"):
        SqliteNodeStore(folder)
    assert (folder / MODEL).read_bytes() == b"something"


def test_folder_that_is_lost_as_a_whole_is_a_first_start(folder: Path) -> None:
    SqliteNodeStore(folder).close()
    for path in folder.iterdir():
        path.unlink()
    (folder / ".model.safetensors.1-1.tmp").write_bytes(b"half")
    store = SqliteNodeStore(folder)
    assert store.incarnation == 1
    store.close()


def test_full_disk_at_the_start_is_told_with_its_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr("federation.storage.folder.os.getpid", raiser(full))
        with pytest.raises(StorageError, match="No space left on device; make room on this disk"):
            SqliteNodeStore(folder)
    SqliteNodeStore(folder).close()


def raiser(error: OSError) -> Callable[[], int]:
    def fail() -> int:
        raise error

    return fail


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be used"):
        SqliteNodeStore(tmp_path / "file" / "state")


def test_disk_that_cannot_be_read_is_a_storage_error(folder: Path) -> None:
    store = SqliteNodeStore(folder)
    store._db.close()
    with pytest.raises(StorageError, match="cannot be read"):
        store.recovered()
    store.close()


def test_bug_inside_a_transaction_changes_nothing_and_is_not_hidden(folder: Path) -> None:
    store = SqliteNodeStore(folder)

    def half() -> None:
        with store._db.transaction(durable=True):
            store._db.set_meta("run", "half done")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert store.recovered().run is None
    store.save_progress(RUN, RoundId(1))
    assert store.recovered().run == RUN
    store.close()


def test_database_with_overwritten_pages_is_refused_with_a_remedy(folder: Path) -> None:
    store = SqliteNodeStore(folder)
    store.save_outbox(entry(1), b"x" * 500_000, None)
    store.close()
    path = folder / "node.sqlite"
    body = bytearray(path.read_bytes())
    for page in range(4096, len(body), 4096):
        body[page : page + 64] = b"\xff" * 64
    path.write_bytes(body)
    with pytest.raises(StorageError, match=r"move .* away"):
        SqliteNodeStore(folder)


def test_database_whose_check_fails_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Suspicious(sqlite3.Connection):
        def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
            said = "SELECT 'row 3 missing from index'" if "integrity_check" in statement else statement
            return super().execute(said, values)

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **options: real(path, factory=Suspicious, **options))
    with pytest.raises(StorageError, match="row 3 missing"):
        SqliteNodeStore(folder)
