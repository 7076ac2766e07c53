"""A run in PostgreSQL for those who only read: no lead, no new start, no repair."""

from pathlib import Path

from coordinator.storage.postgresql.blobs import ReadableBlobTable
from coordinator.storage.postgresql.layout import check_layout, copy_to_file
from federation.errors import StorageError
from federation.storage.postgresql import PostgresSession
from federation.storage.sql import Cursor

__all__ = ["PostgresReader"]


class PostgresReader:
    """The tables, while a coordinator may be writing them.

    Args:
        url: The database.
        at_once: Whether all that is read is of this moment, whatever is written meanwhile.

    Attributes:
        files: The large files.

    Raises:
        StorageError: There is no run, a newer release has made it, or it cannot be read.
    """

    def __init__(self, url: str, *, at_once: bool = False) -> None:
        self._session = PostgresSession(url, "fedmq-reader")
        self.files = ReadableBlobTable(self._session)
        try:
            self.layout = _layout_of(self._session)
            if at_once:
                # The moment is that of the first look.
                self._session.script("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SELECT 1 FROM layout")
        except BaseException:
            self._session.close()
            raise

    def execute(self, statement: str, *values: object) -> Cursor:
        """Run one statement."""
        return self._session.execute(statement, *values)

    def damage(self) -> str:
        """What the engine itself finds; it compares its pages' own sums as they are read."""
        return ""

    def copy(self, path: Path) -> None:
        """Write all tables to a new file of SQLite, as a coordinator without a server has it.

        Raises:
            StorageError: The disk is full or broken.
        """
        copy_to_file(self, path)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _layout_of(session: PostgresSession) -> int:
    if session.own("SELECT to_regclass('layout')::text AS found")[0]["found"] is None:
        raise StorageError("the database of store.url has no run: has a coordinator run with it?")
    return check_layout(session)
