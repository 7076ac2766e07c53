"""The node's database: its tables, and named bodies: small ones in the row, large ones in files that a row names."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from edge_node.records import OutboxEntry, Seen
from edge_node.storage.model_file import MODEL
from edge_node.storage.state_folder import StateFolder
from federation.errors import RemoteProtocolError, StorageError
from federation.protocol.messages import UpdateOffer
from federation.protocol.wire import decode_message, encode_message
from federation.storage import sqlite
from federation.storage.columns import Columns, Kind
from federation.storage.sqlite import Connection, Layout, ReadOnlyDatabase, Row, SqliteError
from federation.types import Epoch, RunId, StateId, UpdateId

__all__ = [
    "DATABASE",
    "LARGE_BYTES",
    "LAYOUT",
    "Database",
    "frame_name",
    "open_read_only",
    "read_outbox",
    "read_seen",
    "remedy_of",
    "traces",
]

DATABASE = "node.sqlite"
"""File name of the database in the state folder."""

LARGE_BYTES = 1 << 20
"""A body above this size gets a file of its own, in bytes: SQLite writes a blob twice (log, then table)."""

_SUFFIX = ".body"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    name: str
    digest: bytes
    inline: bytes | None
    file: str | None


_BODY = Columns(_Body)
_ENTRY = Columns(OutboxEntry, kinds={"offer": Kind("BLOB", encode_message, decode_message)})

_OUTBOX = f"update_id TEXT NOT NULL UNIQUE, {_ENTRY.definitions(stored='INTEGER NOT NULL DEFAULT 0')}"
_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    f"CREATE TABLE IF NOT EXISTS body ({_BODY.definitions(name='TEXT PRIMARY KEY')})",
    f"CREATE TABLE IF NOT EXISTS outbox (position INTEGER PRIMARY KEY AUTOINCREMENT, {_OUTBOX})",
)


def _read_number(connection: Connection) -> int:
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
        return 0
    row = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
    if row is not None and not isinstance(row[0], int):
        raise StorageError(f"the node's store cannot be read: its layout is {row[0]!r}")
    return 0 if row is None else int(row[0])


def _write_number(connection: Connection, number: int) -> None:
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('format', ?)", (number,))


LAYOUT = Layout(tables=_TABLES, read=_read_number, write=_write_number)
"""Nothing but rows of `meta` and named bodies has come since the first one, and none of them has to be there."""


def open_read_only(folder: Path) -> ReadOnlyDatabase:
    """Open the database of a node's state folder to read.

    Raises:
        StorageError: There is none, it is of a newer layout, or it cannot be read.
    """
    return ReadOnlyDatabase(folder / DATABASE, LAYOUT, missing="has a node run with this state folder?")


def traces(folder: Path) -> list[str]:
    """What only a node's work leaves beside its database: nothing at a first start."""
    with contextlib.suppress(OSError):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        left = (MODEL, f"{DATABASE}-wal")
        return [one.name for one in entries if one.name.endswith(_SUFFIX) or (one.name in left and one.stat().st_size)]
    return []


def remedy_of(folder: Path) -> str:
    """What to do about a node's state that is lost or damaged."""
    return f"move {folder} away to start afresh: only updates that were never delivered are in it"


def read_outbox(rows: Iterable[Row]) -> Iterator[tuple[UpdateId, OutboxEntry | None]]:
    """The entries in rows of `outbox`; None for one whose offer cannot be read."""
    for row in rows:
        try:
            entry = _ENTRY.record(row)
        except RemoteProtocolError:
            yield row["update_id"], None
        else:
            yield row["update_id"], entry if isinstance(entry.offer, UpdateOffer) else None


def frame_name(update: UpdateId) -> str:
    """Name of the body with an update's frame."""
    return f"frame-{update}"


def read_seen(text: object) -> Seen | None:
    """What `meta` has of the newest coordinator that was heard."""
    if not isinstance(text, str):
        return None
    found = json.loads(text)
    return Seen(
        run=RunId(found["run"]),
        epoch=Epoch(found["epoch"]),
        began_ms=found["began_ms"],
        round=found["round"],
        version=found["version"],
    )


class Database:
    """One connection, used by one thread.

    Args:
        folder: Where it is.
        draw: Gives a new store its identity.

    Raises:
        StorageError: The database cannot be opened, is damaged, or of a newer layout.
    """

    def __init__(self, folder: StateFolder, draw: Callable[[], StateId]) -> None:
        self._folder = folder
        self._serial = 0
        self._written: list[str] = []
        self._replaced: list[str] = []
        self._tables = sqlite.Database(
            folder.path / DATABASE, LAYOUT, remedy=remedy_of(folder.path), role="node", traces=traces(folder.path)
        )
        with self.transaction(durable=True):
            self.set_meta("incarnation", int(self.meta("incarnation") or 0) + 1)
            if self.meta("state_id") is None:
                self.set_meta("state_id", str(draw()))
        keep = {row[0] for row in self.query("SELECT file FROM body WHERE file IS NOT NULL")}
        self._folder.sweep(_SUFFIX, keep)

    def query(self, statement: str, *values: object) -> list[Row]:
        """All rows of a query.

        Raises:
            StorageError: The disk failed.
        """
        try:
            return self._tables.execute(statement, *values).fetchall()
        except SqliteError as error:
            raise StorageError(f"the store cannot be read: {error}") from error

    def change(self, statement: str, *values: object) -> None:
        """Change rows inside a `transaction`."""
        self._tables.execute(statement, *values)

    def add_entry(self, entry: OutboxEntry) -> None:
        """Add an update to the outbox inside a `transaction`."""
        self._tables.insert("outbox", {"update_id": entry.offer.update} | _ENTRY.row(entry))

    @contextlib.contextmanager
    def transaction(self, *, durable: bool) -> Iterator[None]:
        """All or nothing; ``durable`` also waits for the disk.

        Raises:
            StorageError: Nothing has changed.
        """
        self._written, self._replaced = [], []
        try:
            with self._tables.transaction("change", durable=durable):
                yield
        except BaseException:
            for name in self._written:
                self._folder.remove(name)
            raise
        for name in self._replaced:
            self._folder.remove(name)

    def meta(self, name: str) -> Any:
        """One named value, or None."""
        rows = self.query("SELECT value FROM meta WHERE name = ?", name)
        return rows[0][0] if rows else None

    def set_meta(self, name: str, value: object) -> None:
        """Set one named value inside a `transaction`."""
        self._tables.insert("meta", {"name": name, "value": value}, conflict="REPLACE")

    def body(self, name: str) -> bytes | None:
        """A named body; None when it is missing or its digest is wrong."""
        rows = self.query("SELECT * FROM body WHERE name = ?", name)
        if not rows:
            return None
        kept = _BODY.record(rows[0])
        try:
            body = kept.inline if kept.file is None else self._folder.read(kept.file)
        except OSError:
            return None
        return body if body is not None and _digest(body) == kept.digest else None

    def set_body(self, name: str, body: bytes) -> None:
        """Set a named body inside a `transaction`."""
        self.drop_body(name)
        file = None
        if len(body) > LARGE_BYTES:
            self._serial += 1
            file = f"{name}.{self.meta('incarnation')}.{self._serial}{_SUFFIX}"
            self._folder.write(file, body)
            self._written.append(file)
        inline = body if file is None else None
        self._tables.insert("body", _BODY.row(_Body(name=name, digest=_digest(body), inline=inline, file=file)))

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
        self._tables.close()


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()
