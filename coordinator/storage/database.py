"""The coordinator's SQLite connection: opened and checked, one transaction at a time, its errors as `StorageError`."""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.storage.participation import ATTENDANCE_SCHEMA
from coordinator.storage.schema import EVALUATION_SCHEMA, SCHEMA, SCHEMA_VERSION
from federation.errors import StorageError
from federation.runtime.failpoint import failpoint
from federation.storage.disk import disk_remedy

__all__ = ["DATABASE", "Database", "storing"]

DATABASE = "coordinator.sqlite3"
"""File name of the database in the state folder."""

BUSY_MS = 5000
"""How long a reader of another process, such as `coordinator status`, may hold a writer up."""


class Database:
    """One connection that writes, in WAL mode with ``synchronous=FULL``.

    Args:
        path: The file; created when it is missing.

    Attributes:
        waits_later: Whether a durable transaction is on the disk only after the next `sync`.

    Raises:
        StorageError: It is damaged, of another layout, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._log = path.with_name(f"{path.name}-wal")
        self.waits_later = self._unsynced = False
        with storing("database"):
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            try:
                self._prepare(path)
            except BaseException:
                self._connection.close()
                raise

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Run one statement."""
        return self._connection.execute(statement, values)

    def execute_all(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Run one statement for each row."""
        self._connection.executemany(statement, rows)

    @contextmanager
    def transaction(self, what: str, *, durable: bool = True) -> Iterator[None]:
        """One transaction; one that is not durable survives a killed process, not a power cut, and costs no fsync.

        Raises:
            StorageError: Nothing of it is in the database.
        """
        self._unsynced |= durable and self.waits_later
        relaxed = not durable and not self.waits_later
        with storing(what):
            if relaxed:
                self.execute("PRAGMA synchronous = NORMAL")
            try:
                self.execute("BEGIN IMMEDIATE")
                yield
                failpoint(f"coordinator_commit_{what}")
                self.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self.execute("ROLLBACK")
                raise
            finally:
                if relaxed:
                    self.execute("PRAGMA synchronous = FULL")

    def wait_later(self) -> None:
        """From now on a durable transaction is on the disk only after the next `sync`."""
        self.execute("PRAGMA synchronous = NORMAL")
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
                failpoint("coordinator_fsync")
                os.fsync(handle)
            finally:
                os.close(handle)
        self._unsynced = False

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _prepare(self, path: Path) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {BUSY_MS}"):
            self.execute(f"PRAGMA {pragma}")
        verdict = self.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StorageError(f"{path} is damaged ({verdict}): restore a copy, or begin with an empty store.folder")
        layout = self.execute("PRAGMA user_version").fetchone()[0]
        if layout not in (0, SCHEMA_VERSION):
            raise StorageError(f"{path} has layout {layout}, this release knows {SCHEMA_VERSION}")
        self._connection.executescript(SCHEMA + EVALUATION_SCHEMA + ATTENDANCE_SCHEMA)
        self.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Turn what SQLite and the file system raise into a `StorageError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"the {what} cannot be stored: {error}{disk_remedy(error)}") from error
