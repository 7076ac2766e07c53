"""Layouts go up in one step or not at all, and an error of the disk says what to do about it."""

import contextlib
import errno
import os
import resource
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from federation.errors import StorageError, StoreGone
from federation.storage.folder import FolderLock
from federation.storage.remedies import ROOM_BYTES
from federation.storage.sqlite import Connection, Database, Layout, disk_remedy
from federation.storage.sqlite_reading import ReadOnlyDatabase


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EROFS, "writable"),
        (errno.EACCES, "writable for this user"),
        (errno.ENOLCK, "a local disk"),
        (errno.EIO, "kernel's log"),
    ],
)
def test_an_error_of_the_system_has_its_remedy(number: int, remedy: str) -> None:
    assert remedy in disk_remedy(OSError(number, "?"))


def test_an_error_of_sqlite_has_its_remedy(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "small", isolation_level=None)
    database.execute("PRAGMA max_page_count = 2")
    database.execute("CREATE TABLE t (body)")
    with pytest.raises(sqlite3.Error) as full:
        database.execute("INSERT INTO t VALUES (zeroblob(100000))")
    database.execute("PRAGMA query_only = 1")
    with pytest.raises(sqlite3.Error) as barred:
        database.execute("DROP TABLE t")
    database.close()
    assert "make room" in disk_remedy(full.value)
    assert "writable" in disk_remedy(barred.value)
    broken = sqlite3.OperationalError("disk I/O error")
    broken.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    assert "kernel's log" in disk_remedy(broken)


@pytest.mark.parametrize(("free", "remedy"), [(ROOM_BYTES - 1, "make room"), (ROOM_BYTES, "kernel's log")])
def test_an_error_of_a_full_disk_that_sqlite_calls_another_is_told_as_what_it_is(
    free: int, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It cannot enlarge the file that its readers share, and says ``disk I/O error``."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert remedy in disk_remedy(error, tmp_path)


def test_another_error_has_none() -> None:
    assert disk_remedy(OSError(errno.ENOENT, "?")) == disk_remedy(sqlite3.IntegrityError("?")) == ""


def number(connection: Connection) -> int:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def write(connection: Connection, layout: int) -> None:
    connection.execute(f"PRAGMA user_version = {layout}")


def second(connection: Connection) -> None:
    connection.execute("ALTER TABLE t ADD COLUMN more INTEGER NOT NULL DEFAULT 7")


def third(connection: Connection) -> None:
    connection.execute("CREATE TABLE later (x)")


def broken(connection: Connection) -> None:
    third(connection)
    connection.execute("INSERT INTO nowhere VALUES (1)")


FIRST = Layout(tables=("CREATE TABLE t (x INTEGER)",), read=number, write=write)
NEWEST = Layout(
    tables=("CREATE TABLE t (x INTEGER, more INTEGER NOT NULL)", "CREATE TABLE later (x)"),
    read=number,
    write=write,
    steps={3: third, 2: second},
)


def opened(path: Path, layout: Layout) -> Database:
    return Database(path, layout, remedy="restore a copy", role="test")


def of_first(path: Path) -> Path:
    database = opened(path, FIRST)
    with database.transaction("row"):
        database.insert("t", {"x": 1}, {"x": 2})
    database.close()
    return path


def test_a_database_goes_up_by_every_step_in_order(tmp_path: Path) -> None:
    path = of_first(tmp_path / "db")
    database = opened(path, NEWEST)
    assert [tuple(row) for row in database.execute("SELECT x, more FROM t")] == [(1, 7), (2, 7)]
    assert database.execute("PRAGMA user_version").fetchone()[0] == NEWEST.number == 3
    assert database.execute("SELECT COUNT(*) FROM later").fetchone()[0] == 0
    database.close()
    opened(path, NEWEST).close()


def test_nothing_goes_into_a_database_that_no_start_would_find(tmp_path: Path) -> None:
    """SQLite writes on into a file that was moved or deleted, and says that all is well."""
    folder, moved = tmp_path / "state", tmp_path / "moved"
    folder.mkdir()
    database = opened(folder / "db", FIRST)
    folder.rename(moved)
    with pytest.raises(StoreGone, match="was moved or deleted"):
        database.transaction("row")
    folder.mkdir()
    opened(folder / "db", FIRST).close()
    with pytest.raises(StoreGone, match="was moved or deleted"):
        database.transaction("row")
    shutil.rmtree(folder)
    moved.rename(folder)
    with database.transaction("row"):
        database.insert("t", {"x": 1})
    database.close()


def test_a_step_that_fails_leaves_the_layout_that_was_there(tmp_path: Path) -> None:
    path = of_first(tmp_path / "db")
    failing = Layout(tables=(), read=number, write=write, steps={2: second, 3: broken})
    with pytest.raises(StorageError, match="nowhere"):
        opened(path, failing)
    database = opened(path, FIRST)
    assert [tuple(row) for row in database.execute("SELECT * FROM t")] == [(1,), (2,)]
    assert database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 1
    database.close()


@pytest.mark.parametrize("layout", [FIRST, NEWEST])
def test_a_newer_layout_is_refused_and_left_alone(layout: Layout, tmp_path: Path) -> None:
    opened(tmp_path / "db", NEWEST).close()
    with sqlite3.connect(tmp_path / "db") as connection:
        write(connection, 4)
    connection.close()
    said = rf"has layout 4, and this release knows those up to {layout.number}: install the newer release again"
    with pytest.raises(StorageError, match=said):
        opened(tmp_path / "db", layout)
    with pytest.raises(StorageError, match=said):
        ReadOnlyDatabase(tmp_path / "db", layout, missing="?")


def test_a_file_that_was_copied_in_part_is_told_from_none(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"db cannot be read; has a run begun here\?$"):
        ReadOnlyDatabase(tmp_path / "db", NEWEST, missing="has a run begun here?")
    database = opened(tmp_path / "db", NEWEST)
    database.execute("CREATE TABLE much AS SELECT randomblob(9000) FROM t UNION ALL SELECT randomblob(9000)")
    database.close()
    whole = (tmp_path / "db").read_bytes()
    for part in (whole[: len(whole) // 2], b"no database of SQLite"):
        (tmp_path / "db").write_bytes(part)
        with pytest.raises(StorageError, match=r"cannot be read: .*copied in part: copy it again, with db-wal"):
            ReadOnlyDatabase(tmp_path / "db", NEWEST, missing="has a run begun here?")
    (tmp_path / "db").unlink()
    (tmp_path / "db").mkdir()
    with pytest.raises(StorageError, match=r"cannot be read; has a run begun here\?$"):
        ReadOnlyDatabase(tmp_path / "db", NEWEST, missing="has a run begun here?")


def test_a_reader_upgrades_a_copy_and_sees_what_has_been_written_by_then(tmp_path: Path) -> None:
    path = of_first(tmp_path / "db")
    writer = opened(path, FIRST)
    with writer.transaction("row"):
        writer.insert("t", {"x": 3})
    reader = ReadOnlyDatabase(path, NEWEST, missing="?")
    assert [row["more"] for row in reader.execute("SELECT * FROM t")] == [7, 7, 7]
    assert reader.damage() == ""
    reader.close()
    assert writer.execute("PRAGMA user_version").fetchone()[0] == FIRST.number
    writer.close()


def test_what_nobody_writes_is_read_on_a_disk_that_is_full(tmp_path: Path) -> None:
    """The page of a run that was over had only `disk I/O error`: a reader makes a file that it shares with a writer."""
    path = of_first(tmp_path / "db")
    opened(path, FIRST).close()
    held = FolderLock(tmp_path)

    def read() -> int:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            with contextlib.closing(ReadOnlyDatabase(path, FIRST, missing="?", at_once=True)) as reader:
                return int(reader.execute("SELECT COUNT(*) FROM t").fetchone()[0])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with pytest.raises(StorageError, match="db cannot be read: disk I/O error"):
        read()  # somebody has the folder, and may write
    held.release()
    assert read() == 2
    (tmp_path / "db-wal").write_bytes(b"something that is in no table yet")
    with pytest.raises(StorageError, match="db cannot be read: disk I/O error"):
        read()


def test_rows_of_one_insert_are_all_there_or_none(tmp_path: Path) -> None:
    database = opened(tmp_path / "db", FIRST)

    def half() -> None:
        with database.transaction("row"):
            database.insert("t", {"x": 1})
            database.insert("t", {"x": 2}, {"x": object()})

    with pytest.raises(StorageError, match="row cannot be stored"):
        half()
    database.insert("t")
    assert database.execute("SELECT COUNT(*) FROM t").fetchone()[0] == 0
    database.close()


def _write_number(connection: Connection, number: int) -> None:
    connection.execute(f"PRAGMA user_version = {number}")


NOTES = Layout(
    tables=("CREATE TABLE IF NOT EXISTS note (text)",),
    read=lambda connection: int(connection.execute("PRAGMA user_version").fetchone()[0]),
    write=_write_number,
)


def test_a_database_and_what_is_beside_it_is_its_owners(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        database = Database(tmp_path / "notes", NOTES, remedy="", role="coordinator")
        with database.transaction("note"):
            database.execute("INSERT INTO note VALUES ('a')")
        assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
            "notes": 0o600,
            "notes-wal": 0o600,
            "notes-shm": 0o600,
        }
        database.close()
    finally:
        os.umask(before)


def test_a_database_that_an_earlier_release_left_open_to_others_is_closed(tmp_path: Path) -> None:
    Database(tmp_path / "notes", NOTES, remedy="", role="coordinator").close()
    (tmp_path / "notes").chmod(0o644)
    Database(tmp_path / "notes", NOTES, remedy="", role="coordinator").close()
    assert (tmp_path / "notes").stat().st_mode & 0o777 == 0o600


def test_a_database_whose_rights_cannot_be_changed_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Database(tmp_path / "notes", NOTES, remedy="", role="coordinator").close()
    (tmp_path / "notes").chmod(0o644)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", forbidden)
    Database(tmp_path / "notes", NOTES, remedy="", role="coordinator").close()


def test_a_database_that_may_not_be_written_is_told_with_its_folder(tmp_path: Path) -> None:
    database = opened(tmp_path / "db", FIRST)
    database.execute("PRAGMA query_only = 1")
    with (
        pytest.raises(StorageError, match=f"the row cannot be stored: .*; make {tmp_path} writable for this user"),
        database.transaction("row"),
    ):
        database.insert("t", {"x": 1})
    database.close()
