"""What statements need of a database, whichever engine runs them: SQLite (`sqlite`) or PostgreSQL (`postgresql`).

The statements are SQLite's; what the other engine says otherwise is translated there.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

__all__ = ["Cursor", "Database", "Readable", "Row"]


class Row(Protocol):
    """One row: values by name or number, iterated in the order of the columns."""

    def __getitem__(self, key: str, /) -> Any:
        """One value."""

    def __iter__(self) -> Iterator[Any]:
        """All values."""

    def keys(self) -> list[str]:
        """The names of the columns."""


class Cursor(Protocol):
    """What a statement has given."""

    @property
    def rowcount(self) -> int:
        """How many rows it has changed."""

    def fetchone(self) -> Any:
        """The next row, or None."""

    def fetchall(self) -> list[Any]:
        """All rows that are left."""

    def __iter__(self) -> Iterator[Any]:
        """The rows that are left."""


class Readable(Protocol):
    """A database of which somebody reads; it may be one that is written, too."""

    def execute(self, statement: str, *values: object) -> Cursor:
        """Run one statement."""


class Database(Readable, Protocol):
    """A database that one thread writes."""

    @property
    def waits_later(self) -> bool:
        """Whether a durable transaction is on the disk only after the next `sync`."""

    def execute_all(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Run one statement for each row."""

    def insert(self, table: str, *rows: Mapping[str, object], conflict: str = "ABORT") -> None:
        """Add rows, which have the same columns; ``conflict`` is ``ABORT``, ``IGNORE`` or ``REPLACE``."""

    def transaction(self, what: str, *, durable: bool = True) -> AbstractContextManager[None]:
        """One transaction; one that is not durable survives a killed process, not a power cut, and waits for no disk.

        Raises:
            StorageError: Nothing of it is in the database.
        """

    def wait_later(self) -> None:
        """From now on a durable transaction is on the disk only after the next `sync`."""

    def sync(self) -> None:
        """Wait for the disk once for all transactions since the last call.

        Raises:
            StorageError: The disk has failed; what it has kept is unknown.
        """

    def close(self) -> None:
        """Close the connection."""
