"""What a coordinator's store is put together from, whichever engine keeps it, and who leads where several share one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from federation.errors import StorageError
from federation.storage.sql import Database
from federation.types import UpdateId

__all__ = ["Blobs", "Leader", "ReadableBlobs", "StoreParts", "Transfers"]


class ReadableBlobs(Protocol):
    """Large files by name."""

    def read(self, name: str) -> bytes:
        """Read a file; raises `OSError` when it is missing or unreadable."""

    def open(self, name: str) -> IO[bytes]:
        """Open a file to read, as it is now; it has a descriptor. Raises `OSError` as `read` does."""

    def has(self, name: str) -> bool:
        """Whether a file is there."""

    def names(self) -> Iterator[str]:
        """All files, unfinished ones included."""


class Blobs(ReadableBlobs, Protocol):
    """Large files that are replaced as a whole; `federation.storage.folder.Folder` is one."""

    def write(self, name: str, body: bytes | memoryview, *, durable: bool = True) -> None:
        """Replace a file."""

    def delete(self, name: str) -> None:
        """Remove a file; it may be gone already."""


class Transfers(Protocol):
    """Large updates that are still arriving; `coordinator.storage.files.TransferFiles` is one."""

    def write(self, update: UpdateId, start: int, index: int, body: bytes) -> None:
        """Keep a chunk that begins at byte ``start``."""

    def arrived(self, update: UpdateId, payload_bytes: int, chunk_bytes: int) -> frozenset[int]:
        """Which chunks are here and whole."""

    def read(self, update: UpdateId) -> bytes:
        """Everything that has arrived; raises `OSError` when there is nothing."""

    def delete(self, update: UpdateId) -> None:
        """Remove what there is."""

    def clear_all_but(self, updates: frozenset[UpdateId]) -> None:
        """Remove what belongs to no open transfer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """Who leads, as the database has it.

    Attributes:
        holder: Machine and process.
        term: Its number: one higher than the leader's before.
        lease_s: After so long without a renewal another one takes the lead, in seconds.
        since_s: How long ago it took the lead, in seconds of the server's clock.
        renewed_s: How long ago it has last said so, in seconds of the server's clock.
        session: The name of its connections.
    """

    holder: str
    term: int
    lease_s: float
    since_s: float
    renewed_s: float
    session: str = ""

    @property
    def overdue(self) -> bool:
        """Whether its lease has run out."""
        return self.renewed_s > self.lease_s

    @property
    def led_s(self) -> float:
        """For how long it has led: of one whose lease has run out until it has last said so, in seconds."""
        return max(0.0, self.since_s - self.renewed_s) if self.overdue else self.since_s


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreParts:
    """One engine's.

    Attributes:
        folder: The state folder of this process.
        database: The tables.
        blobs: The large files.
        transfers: What is arriving.
        lost: The error of tables without a version beside large files that a first start cannot have left, or None.
        release: Gives up what was locked.
    """

    folder: Path
    database: Database
    blobs: Blobs
    transfers: Transfers
    lost: Callable[[], StorageError | None]
    release: Callable[[], None]
