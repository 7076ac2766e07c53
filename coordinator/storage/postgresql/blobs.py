"""What SQLite's store keeps in files, in tables: large files in pieces, and the chunks of what is arriving."""

import tempfile
from collections.abc import Iterator
from typing import IO

from federation.storage.postgresql import PostgresDatabase, PostgresSession
from federation.types import UpdateId

__all__ = ["BlobTable", "ChunkTable", "ReadableBlobTable", "arriving"]

PIECE_BYTES = 4 << 20
"""Of a large file in one row, in bytes: a row is in memory several times on its way."""


class ReadableBlobTable:
    """Large files by name.

    Args:
        session: Where.
    """

    def __init__(self, session: PostgresSession) -> None:
        self._session = session

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            FileNotFoundError: It is missing.
            StorageError: The database has failed.
        """
        rows = self._session.execute("SELECT body FROM blobs WHERE name = ? ORDER BY piece", name)
        pieces = [row["body"] for row in rows]
        if not pieces:
            raise FileNotFoundError(name)
        return b"".join(pieces)

    def open(self, name: str) -> IO[bytes]:
        """A copy of a file, which is gone when it is closed; errors as of `read`."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            file.write(self.read(name))
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return self._session.execute("SELECT 1 FROM blobs WHERE name = ? AND piece = 0", name).fetchone() is not None

    def names(self) -> Iterator[str]:
        """All files."""
        return (row["name"] for row in self._session.execute("SELECT name FROM blobs WHERE piece = 0 ORDER BY name"))


class BlobTable(ReadableBlobTable):
    """Large files that are replaced as a whole.

    Args:
        database: Where.
    """

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(database)
        self._database = database

    def write(self, name: str, body: bytes | memoryview, *, durable: bool = True) -> None:
        """Replace a file.

        Raises:
            StorageError: It is as it was.
        """
        with self._database.transaction("file", durable=durable):
            self._database.execute("DELETE FROM blobs WHERE name = ?", name)
            for piece, start in enumerate(range(0, max(1, len(body)), PIECE_BYTES)):
                part = bytes(body[start : start + PIECE_BYTES])
                self._database.insert("blobs", {"name": name, "piece": piece, "body": part})

    def delete(self, name: str) -> None:
        """Remove a file; it may be gone already."""
        with self._database.transaction("file", durable=False):
            self._database.execute("DELETE FROM blobs WHERE name = ?", name)


class ChunkTable:
    """Large updates that are still arriving; a chunk is whole, or not there.

    Args:
        database: Where.
    """

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    def write(self, update: UpdateId, start: int, index: int, body: bytes) -> None:
        """Keep a chunk that begins at byte ``start``.

        Raises:
            StorageError: It is not kept.
        """
        del index
        with self._database.transaction("chunk", durable=False):
            row = {"transfer": update, "start": start, "body": body}
            self._database.insert("chunks", row, conflict="REPLACE")

    def arrived(self, update: UpdateId, payload_bytes: int, chunk_bytes: int) -> frozenset[int]:
        """Which chunks are here and whole."""
        rows = self._database.execute("SELECT start, LENGTH(body) AS size FROM chunks WHERE transfer = ?", update)
        sizes = {row["start"]: row["size"] for row in rows}
        return frozenset(
            index
            for index in range(-(-payload_bytes // chunk_bytes))
            if sizes.get(index * chunk_bytes) == min(chunk_bytes, payload_bytes - index * chunk_bytes)
        )

    def read(self, update: UpdateId) -> bytes:
        """Everything that has arrived, with zeros for what is missing; raises `OSError` when there is nothing."""
        rows = self._database.execute("SELECT start, body FROM chunks WHERE transfer = ? ORDER BY start", update)
        made = bytearray()
        for row in rows:
            made += bytes(max(0, row["start"] - len(made)))
            made[row["start"] : row["start"] + len(row["body"])] = row["body"]
        if not made:
            raise FileNotFoundError(update)
        return bytes(made)

    def delete(self, update: UpdateId) -> None:
        """Remove what there is."""
        with self._database.transaction("chunk", durable=False):
            self._database.execute("DELETE FROM chunks WHERE transfer = ?", update)

    def clear_all_but(self, updates: frozenset[UpdateId]) -> None:
        """Remove what belongs to no open transfer."""
        for update in arriving(self._database):
            if update not in updates:
                self.delete(update)


def arriving(session: PostgresSession) -> list[UpdateId]:
    """The transfers of which there are chunks."""
    rows = session.execute("SELECT DISTINCT transfer FROM chunks ORDER BY transfer")
    return [UpdateId(row["transfer"]) for row in rows]
