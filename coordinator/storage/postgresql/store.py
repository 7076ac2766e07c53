"""The coordinator's store in PostgreSQL: what must survive the machine is there, the rest in the state folder."""

from collections.abc import Callable
from pathlib import Path

from coordinator.storage.compaction.moving import UPDATES_KEPT
from coordinator.storage.files import model_file
from coordinator.storage.parts import StoreParts
from coordinator.storage.places import remember_url
from coordinator.storage.postgresql.blobs import BlobTable, ChunkTable
from coordinator.storage.postgresql.layout import prepare_tables
from coordinator.storage.postgresql.lead import Lead
from coordinator.storage.sqlite_store import SqlStore
from federation.errors import StorageError
from federation.storage.folder import FolderLock
from federation.storage.postgresql import PostgresDatabase

__all__ = ["PostgresStore"]


_LOST = (
    "the database of store.url knows of no version, but its table blobs has {found}: restore a backup "
    "(coordinator restore FILE), or begin with an empty database; nothing has been deleted"
)


class PostgresStore(SqlStore):
    """A run in a database, written for as long as its lead lasts. As `SqlStore` else.

    Args:
        folder: The state folder of this process: its status, its keys, and a note of where the store is.
        url: The database.
        lead: The lead of the run.
        lock: Of the folder; the store releases both.
        audit_versions: How many versions keep the payloads that they were made of.
        updates_kept: How many of the newest updates keep their whole row.
        patience_s: How long the network may swallow everything before the connection counts as lost, in seconds.
        connect: Opens the database to write; a simulation watches what is committed.

    Raises:
        StorageError: The database cannot be used.
        LeadershipLost: Another process leads by now.
    """

    def __init__(  # noqa: PLR0913 - what a store is, and where
        self,
        folder: Path,
        url: str,
        lead: Lead,
        lock: FolderLock,
        *,
        audit_versions: int = 1,
        updates_kept: int = UPDATES_KEPT,
        patience_s: float = 30.0,
        connect: Callable[..., PostgresDatabase] = PostgresDatabase,
    ) -> None:
        database = connect(url, lead.name, term=lead.term, role="coordinator", patience_s=patience_s)
        try:
            prepare_tables(database)
            remember_url(folder, url)
            blobs = BlobTable(database)

            def lost() -> StorageError | None:
                found = [name for name in blobs.names() if not name.endswith((model_file(0), "-0.frame"))]
                return StorageError(_LOST.format(found=", ".join(found[:3]))) if found else None

            def release() -> None:
                lead.release()
                lock.release()

            parts = StoreParts(
                folder=folder,
                database=database,
                blobs=blobs,
                transfers=ChunkTable(database),
                lost=lost,
                release=release,
            )
            super().__init__(parts, audit_versions=audit_versions, updates_kept=updates_kept)
        except BaseException:
            database.close()
            raise
