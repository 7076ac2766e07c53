"""The one way to SQLite, for both roles: opened and checked, a transaction at a time, its errors as `StorageError`."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from federation.errors import StorageError, StoreGone
from federation.runtime.failpoint import failpoint
from federation.storage.folder import file_place, has_content, lost, sync_bytes
from federation.storage.remedies import access_remedy, is_full, remedy_for

__all__ = [
    "Connection",
    "Cursor",
    "Database",
    "DuplicateRow",
    "Layout",
    "Row",
    "SqliteError",
    "Step",
    "connect",
    "connect_in_memory",
    "connect_to_read",
    "disk_remedy",
    "found_damage",
    "is_unshared",
    "storing",
]

Connection = sqlite3.Connection
Cursor = sqlite3.Cursor
Row = sqlite3.Row
SqliteError = sqlite3.Error
DuplicateRow = sqlite3.IntegrityError

BUSY_S: Final = 5.0
"""How long a reader of another process, such as `coordinator status`, may hold a writer up, and the other way round."""

_MOVED: Final = "was moved or deleted while it is in use: put it back where it was, and start again"

_PRIMARY: Final = 0xFF
"""SQLite's extended codes have the plain one in their lowest byte."""

_UNSHARED: Final = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY})

Step = Callable[[Connection], None]
"""Makes one layout of the one before, inside a transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The tables of a database, and how those of earlier releases become so.

    A new number goes to a new layout that an earlier release would misread or refuse to write.

    Attributes:
        tables: Statements that make the tables where there are none.
        read: The number of a database; 0 where nothing is in it yet.
        write: Writes a number down.
        steps: By number, what makes this layout of the one before; statements as of then, whatever ``tables`` says now.
        page_bytes: Of a new file's pages, a power of two from 512; one that is there keeps its own.
    """

    tables: tuple[str, ...]
    read: Callable[[Connection], int]
    write: Callable[[Connection, int], None]
    steps: Mapping[int, Step] = field(default_factory=dict)
    page_bytes: int = 4_096

    @property
    def number(self) -> int:
        """The layout that this release writes."""
        return max(self.steps, default=1)

    def check(self, connection: Connection, path: Path) -> int:
        """The layout that is there.

        Raises:
            StorageError: A newer release has made it, or its number is damaged.
        """
        found = self.read(connection)
        if found > self.number:
            raise StorageError(
                f"{path} has layout {found}, and this release knows those up to {self.number}: "
                "install the newer release again, or restore a backup from before it"
            )
        return found

    def upgrade(self, connection: Connection, found: int) -> None:
        """Make this layout of an earlier one, or of nothing, in one transaction."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in self.tables if not found else ():
                connection.execute(statement)
            for number in sorted(self.steps) if found else ():
                if number > found:
                    self.steps[number](connection)
            self.write(connection, self.number)
            connection.commit()
        except BaseException:
            _roll_back(connection)
            raise


def connect(path: Path) -> Connection:
    """Open a file to write. A simulated disk puts itself in this place for a while, to see what is committed."""
    return sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)


def connect_to_read(path: Path, *, shared: bool = True) -> Connection:
    """Open a file to read.

    Args:
        path: The file.
        shared: Whether somebody may write it meanwhile: both share a file beside it, which needs a disk with room.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro{'' if shared else '&immutable=1'}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_S)


def connect_in_memory() -> Connection:
    """A database of nobody else."""
    return sqlite3.connect(":memory:", isolation_level=None)


def is_unshared(error: sqlite3.Error) -> bool:
    """Whether the file that readers share with a writer cannot be made: the disk may be full, or read-only."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY in _UNSHARED


class Database:
    """One connection that writes, in WAL mode; used by one thread.

    Args:
        path: The file; created when it is missing.
        layout: What shall be in it; an earlier one is upgraded.
        remedy: What to do about a damaged one.
        role: Who it is, for failpoints.
        traces: Files beside it that only a run leaves: with one of them an empty database is a lost one.

    Attributes:
        waits_later: Whether a durable transaction is on the disk only after the next `sync`.

    Raises:
        StorageError: It is damaged, lost, of a newer layout, or cannot be opened.
    """

    def __init__(self, path: Path, layout: Layout, *, remedy: str, role: str, traces: Sequence[str] = ()) -> None:
        self._path, self._log, self._role = path, path.with_name(f"{path.name}-wal"), role
        self.waits_later = self._unsynced = self._waits = False
        # Before SQLite looks: it deletes the log of a database without a byte.
        if traces and not has_content(path):
            raise lost(path, traces, remedy)
        _make_private(path)
        try:
            self._connection = connect(path)
        except sqlite3.Error as error:
            problem = f"{path} cannot be opened: {error}{disk_remedy(error, path.parent) or f'; {remedy}'}"
            raise StorageError(problem) from error
        try:
            self._prepare(path, layout, remedy, traces)
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                problem = f"{path} cannot be read: {error}{disk_remedy(error, path.parent) or f'; {remedy}'}"
                raise StorageError(problem) from error
            raise
        self._place = file_place(path)

    def execute(self, statement: str, *values: object) -> Cursor:
        """Run one statement."""
        return self._connection.execute(statement, values)

    def execute_all(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Run one statement for each row."""
        self._connection.executemany(statement, rows)

    def insert(self, table: str, *rows: Mapping[str, object], conflict: str = "ABORT") -> None:
        """Add rows, which have the same columns."""
        for row in rows:
            self.execute(_insertion(table, tuple(row), conflict), *row.values())

    def transaction(self, what: str, *, durable: bool = True) -> "storing":
        """One transaction; one that is not durable survives a killed process, not a power cut, and costs no fsync.

        Raises:
            StoreGone: The file is not where it was opened.
            StorageError: Nothing of it is in the database.
        """
        if durable and file_place(self._path) != self._place:
            raise StoreGone(f"the {what} cannot be stored: {self._path} {_MOVED}")
        self._unsynced |= durable and self.waits_later
        wait = durable and not self.waits_later
        if wait is not self._waits:
            with storing(what):
                self._wait_at_commit(wait=wait)
        return _Transaction(self._connection, what, f"{self._role}_commit_{what}")

    def wait_later(self) -> None:
        """From now on a durable transaction is on the disk only after the next `sync`."""
        self.waits_later = True

    def sync(self) -> None:
        """Wait for the disk once for all transactions since the last call: they are in one file, in order.

        Raises:
            StorageError: The disk has failed; what it has kept is unknown.
        """
        if not self._unsynced:
            return
        with storing("log"):
            # SQLite keeps its locks on other files: closing this one gives none of them up.
            handle = os.open(self._log, os.O_RDONLY)
            try:
                failpoint(f"{self._role}_fsync")
                sync_bytes(handle)
            finally:
                os.close(handle)
        self._unsynced = False

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _prepare(self, path: Path, layout: Layout, remedy: str, traces: Sequence[str]) -> None:
        self._connection.row_factory = Row
        self.execute(f"PRAGMA page_size = {layout.page_bytes}")  # of a new file: before its first byte
        self.execute("PRAGMA journal_mode = WAL")
        self._wait_at_commit(wait=True)
        damage = found_damage(self.execute)
        if damage:
            raise StorageError(f"{path} is damaged ({damage}): {remedy}")
        found = layout.check(self._connection, path)
        if not found and traces:
            raise lost(path, traces, remedy)
        if found < layout.number:
            layout.upgrade(self._connection, found)

    def _wait_at_commit(self, *, wait: bool) -> None:
        self.execute(f"PRAGMA synchronous = {'FULL' if wait else 'NORMAL'}")
        self._waits = wait


@cache
def _insertion(table: str, columns: tuple[str, ...], conflict: str) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT OR {conflict} INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - our own names


def found_damage(execute: Callable[[str], Cursor]) -> str:
    """What SQLite itself finds wrong; empty where a file is whole."""
    return "" if (found := str(execute("PRAGMA integrity_check(1)").fetchone()[0])) == "ok" else found


def _roll_back(connection: Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        connection.rollback()


class storing:  # noqa: N801 - reads as a statement
    """Turns what SQLite and the file system raise into a `StorageError`.

    A class, as `_Transaction` is: each message passes several of them, and a generator takes three times as long.
    """

    __slots__ = ("_what",)
    _folder: Path | None = None

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Say it in our words."""
        if isinstance(error, (sqlite3.Error, OSError)):
            remedy = disk_remedy(error, self._folder)
            raise StorageError(f"the {self._what} cannot be stored: {error}{remedy}") from error


class _Transaction(storing):
    __slots__ = ("_connection", "_point")

    def __init__(self, connection: Connection, what: str, point: str) -> None:
        super().__init__(what)
        self._connection, self._point = connection, point

    @property
    def _folder(self) -> Path | None:  # type: ignore[override]
        with contextlib.suppress(sqlite3.Error):
            return Path(self._connection.execute("PRAGMA database_list").fetchone()[2]).parent
        return None

    def __enter__(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            super().__exit__(type(error), error, None)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                failpoint(self._point)
                self._connection.commit()
        except BaseException as failure:
            _roll_back(self._connection)
            super().__exit__(kind, failure, trace)
            raise
        if error is not None:
            _roll_back(self._connection)
            super().__exit__(kind, error, trace)


def disk_remedy(error: sqlite3.Error | OSError, folder: Path | None = None) -> str:
    """A remedy to follow the error's text, or nothing; ``folder``, where known, is looked at for what is not ours."""
    if isinstance(error, OSError):
        return remedy_for(error, folder)
    match getattr(error, "sqlite_errorcode", 0) & _PRIMARY:
        case sqlite3.SQLITE_FULL:
            return "; make room on this disk"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN:
            return access_remedy(folder)
        case sqlite3.SQLITE_IOERR:
            return remedy_for(OSError(errno.ENOSPC if is_full(folder) else errno.EIO, ""), folder)
        case _:
            return ""


def _make_private(path: Path) -> None:
    """A database is its owner's alone, and with it the files that SQLite makes beside it."""
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for file in (f"{path}", f"{path}-wal", f"{path}-shm"):
        with contextlib.suppress(OSError):
            if os.stat(file).st_mode & 0o077:  # noqa: PTH116 - at each start, and twice as fast
                os.chmod(file, 0o600)  # noqa: PTH101
