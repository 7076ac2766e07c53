"""SQLite with named bodies: small ones in the row, large ones in files that the same transaction names."""

import contextlib
import sqlite3
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from edge_node.storage.state_folder import StateFolder
from federation.errors import StorageError
from federation.runtime.failpoint import failpoint
from federation.storage.disk import disk_remedy

__all__ = ["LARGE_BYTES", "Database"]

LARGE_BYTES = 1 << 20
"""A body above this size gets a file of its own, in bytes: SQLite writes a blob twice (log, then table)."""

_SUFFIX = ".body"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS body (name TEXT PRIMARY KEY, digest BLOB NOT NULL, inline BLOB, file TEXT);
CREATE TABLE IF NOT EXISTS outbox (
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  update_id TEXT NOT NULL UNIQUE,
  offer BLOB NOT NULL,
  stored INTEGER NOT NULL DEFAULT 0
);
"""


class Database:
    """One connection, used by one thread.

    Raises:
        StorageError: The database cannot be opened or is damaged.
    """

    def __init__(self, folder: StateFolder, name: str, format_number: int) -> None:
        self._folder, self._format = folder, format_number
        self._serial = 0
        self._written: list[str] = []
        self._replaced: list[str] = []
        remedy = f"move {folder.path} away to start afresh: only updates that were never delivered are in it"
        try:
            self._db = sqlite3.connect(folder.path / name, isolation_level=None)
            self._open(remedy)
        except sqlite3.Error as error:
            raise StorageError(f"the store in {folder.path} cannot be read ({error}); {remedy}") from error

    def query(self, statement: str, *values: object) -> list[Any]:
        """All rows of a query.

        Raises:
            StorageError: The disk failed.
        """
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"the store cannot be read: {error}") from error

    def change(self, statement: str, *values: object) -> int:
        """Change rows inside a `transaction`; returns how many."""
        return self._db.execute(statement, values).rowcount

    @contextlib.contextmanager
    def transaction(self, *, durable: bool) -> Iterator[None]:
        """All or nothing; ``durable`` also waits for the disk.

        Raises:
            StorageError: Nothing has changed.
        """
        self._written, self._replaced = [], []
        try:
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            yield
            failpoint("node_commit")
            self._db.execute("COMMIT")
        except BaseException as error:
            self._undo()
            if isinstance(error, sqlite3.Error | OSError):
                raise StorageError(f"the store cannot be written: {error}{disk_remedy(error)}") from error
            raise
        for name in self._replaced:
            self._folder.remove(name)

    def meta(self, name: str) -> Any:
        """One named value, or None."""
        rows = self.query("SELECT value FROM meta WHERE name = ?", name)
        return rows[0][0] if rows else None

    def set_meta(self, name: str, value: object) -> None:
        """Set one named value inside a `transaction`."""
        self.change("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", name, value)

    def body(self, name: str) -> bytes | None:
        """A named body; None when it is missing or its digest is wrong."""
        rows = self.query("SELECT digest, inline, file FROM body WHERE name = ?", name)
        if not rows:
            return None
        digest, inline, file = rows[0]
        try:
            body: bytes = inline if file is None else self._folder.read(file)
        except OSError:
            return None
        return body if _digest(body) == digest else None

    def set_body(self, name: str, body: bytes) -> None:
        """Set a named body inside a `transaction`."""
        self.drop_body(name)
        file = None
        if len(body) > LARGE_BYTES:
            self._serial += 1
            file = f"{name}.{self.meta('incarnation')}.{self._serial}{_SUFFIX}"
            self._folder.write(file, body, durable=True)
            self._written.append(file)
        row = (name, _digest(body), body if file is None else None, file)
        self.change("INSERT INTO body (name, digest, inline, file) VALUES (?, ?, ?, ?)", *row)

    def drop_body(self, name: str) -> bool:
        """Delete a named body inside a `transaction`; says whether it had a file of its own."""
        files = [row[0] for row in self.query("SELECT file FROM body WHERE name = ? AND file IS NOT NULL", name)]
        self._replaced += files
        self.change("DELETE FROM body WHERE name = ?", name)
        return bool(files)

    def drop_bodies(self) -> None:
        """Delete all bodies inside a `transaction`."""
        self._replaced += [row[0] for row in self.query("SELECT file FROM body WHERE file IS NOT NULL")]
        self.change("DELETE FROM body")

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def _open(self, remedy: str) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        if (verdict := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise StorageError(f"the store in {self._folder.path} is damaged ({verdict}); {remedy}")
        self._db.executescript(_SCHEMA)
        found = self.meta("format")
        if found not in (None, self._format):
            raise StorageError(f"the store in {self._folder.path} has format {found}, not {self._format}; {remedy}")
        with self.transaction(durable=True):
            self.set_meta("format", self._format)
            self.set_meta("incarnation", int(self.meta("incarnation") or 0) + 1)
        keep = {row[0] for row in self.query("SELECT file FROM body WHERE file IS NOT NULL")}
        self._folder.sweep(_SUFFIX, keep)

    def _undo(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        for name in self._written:
            self._folder.remove(name)


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()
