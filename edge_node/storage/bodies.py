"""Named bytes of a run: small ones in the database, a large one in a file of its own beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from edge_node.storage.state_folder import StateFolder
from federation.errors import StorageError
from federation.storage import sqlite
from federation.storage.columns import Columns, DamagedRow
from federation.storage.remedies import is_gone, remedy_for
from federation.storage.sql import Row
from federation.types import RunId

__all__ = ["BODY", "LARGE_BYTES", "SUFFIX", "Bodies", "body_of", "placed"]

LARGE_BYTES = 1 << 20
"""A body above this size gets a file of its own, in bytes: SQLite writes a blob twice (log, then table)."""

SUFFIX = ".body"
"""Of these files' names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    run: RunId
    name: str
    digest: bytes
    inline: bytes | None
    file: str | None


BODY = Columns(_Body)
"""The columns of the table ``body``; run and name are its key."""


def body_of(row: Row, read: Callable[[str], bytes]) -> bytes | None:
    """What was written; None where it is something else now.

    Args:
        row: Of the table ``body``.
        read: Gives the content of a file.

    Raises:
        OSError: As ``read``: after a power cut a file may be gone.
    """
    try:
        kept = BODY.record(row)
    except DamagedRow:
        return None
    body = kept.inline if kept.file is None else read(kept.file)
    return body if body is not None and _digest(body) == kept.digest else None


def placed(columns: str, key: Sequence[str]) -> str:
    """The end of a statement that adds a row, or changes the one of its key in its place.

    To replace that row would move it, and change each index with it.

    Args:
        columns: All, comma-separated.
        key: Those of its key.
    """
    names = columns.split(", ")
    others = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
    return f"VALUES ({', '.join('?' * len(names))}) ON CONFLICT ({', '.join(key)}) DO UPDATE SET {others}"


_PUT = f"INSERT INTO body ({BODY.names}) {placed(BODY.names, ('run', 'name'))}"


class Bodies:
    """The bodies of all runs. They change inside a transaction, which says when it begins and how it ends.

    Args:
        folder: Where the files are.
        tables: The database; nobody else writes the table ``body``.
        serial: Of this process: no other one has written a file with it.

    Raises:
        sqlite3.Error: The disk failed.
    """

    def __init__(self, folder: StateFolder, tables: sqlite.Database, serial: int) -> None:
        self._folder, self._tables, self._process, self._serial = folder, tables, serial, 0
        rows = tables.execute("SELECT run, name, file FROM body WHERE file IS NOT NULL").fetchall()
        self._files: dict[tuple[RunId, str], str] = {(row["run"], row["name"]): row["file"] for row in rows}
        self.begin()

    def sweep(self) -> None:
        """Remove the files that no row names, such as those of a crash between file and transaction."""
        self._folder.sweep(SUFFIX, set(self._files.values()))

    def begin(self) -> None:
        """A transaction begins."""
        self._before = dict(self._files)
        self._written: list[str] = []
        self._replaced: list[str] = []

    def undo(self) -> None:
        """Nothing of it is in the database."""
        self._files = self._before
        for name in self._written:
            self._folder.remove(name)

    def end(self) -> None:
        """It is in the database."""
        for name in self._replaced:
            self._folder.remove(name)

    def read(self, run: RunId, name: str) -> bytes | None:
        """A body; None when it is missing or its digest is wrong.

        Raises:
            StorageError: This process may not read its file, or cannot just now: it is not lost.
        """
        row = self._tables.execute("SELECT * FROM body WHERE run = ? AND name = ?", run, name).fetchone()
        if row is None:
            return None
        try:
            return body_of(row, self._folder.read)
        except OSError as error:
            if is_gone(error):
                return None
            problem = f"{row['file']} cannot be read: {error}{remedy_for(error, self._folder.path)}"
            raise StorageError(problem) from error

    def put(self, run: RunId, name: str, body: bytes) -> None:
        """Set a body inside a transaction."""
        self._forget(run, name)
        file = None
        if len(body) > LARGE_BYTES:
            self._serial += 1
            file = self._files[run, name] = f"{name}.{self._process}.{self._serial}{SUFFIX}"
            self._folder.write(file, body)
            self._written.append(file)
        kept = _Body(run=run, name=name, digest=_digest(body), inline=body if file is None else None, file=file)
        self._tables.execute(_PUT, *BODY.row(kept).values())

    def drop(self, run: RunId, *names: str) -> None:
        """Delete bodies inside a transaction."""
        for name in names:
            self._forget(run, name)
            self._tables.execute("DELETE FROM body WHERE run = ? AND name = ?", run, name)

    def drop_run(self, run: RunId) -> None:
        """Delete all bodies of a run inside a transaction."""
        for known, name in [key for key in self._files if key[0] == run]:
            self._forget(known, name)
        self._tables.execute("DELETE FROM body WHERE run = ?", run)

    def _forget(self, run: RunId, name: str) -> None:
        file = self._files.pop((run, name), None)
        if file is not None:
            self._replaced.append(file)


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()
