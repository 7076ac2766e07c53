"""What masked sums keep in the coordinator's store, each change in one transaction."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from coordinator.records import BatchRecord, ReleaseRecord, Verdict
from coordinator.storage import batches, releases, statements
from coordinator.storage.files import payload_file, reading
from coordinator.storage.transfer_files import TransferFiles
from federation.privacy.releases import Taking
from federation.runtime.failpoint import failpoint
from federation.storage.folder import Folder
from federation.storage.sqlite import Database, storing
from federation.types import ModelVersion, NodeId, UpdateId

__all__ = ["BatchStore"]


class BatchStore:
    """A part of `SqliteStore`, which shares its database and its files with it.

    Args:
        database: The database.
        transfers: What is arriving.
        blobs: The large files.
        outdate: Removes files once that no row names them is on the disk.
    """

    def __init__(
        self, database: Database, transfers: TransferFiles, blobs: Folder, outdate: Callable[[Callable[[], None]], None]
    ) -> None:
        self._database, self._transfers, self._blobs, self._outdate = database, transfers, blobs, outdate

    def freeze(self, batch: BatchRecord, release: ReleaseRecord | None = None) -> None:
        """Save who makes the next masked version, and what it costs them; the same batch again does nothing.

        Raises:
            LocalProtocolError: Another batch is frozen, or it does not follow the head.
            StorageError: Nothing was saved.
        """
        with self._database.transaction("batch"):
            batches.insert_batch(self._database, batch)
            if release is not None:
                releases.charge_release(self._database, release)
        failpoint("coordinator_after_frozen")

    def raise_takings(self, takings: Mapping[NodeId, Taking]) -> None:
        """Take over what a helper knows better of these nodes' parts in noised sums.

        Raises:
            StorageError: Nothing was saved.
        """
        releases.raise_takings(self._database, takings)

    def drop(self, version: ModelVersion, verdicts: Sequence[Verdict]) -> None:
        """Save that a frozen batch makes no version, and what became of its members.

        Raises:
            StorageError: Nothing was saved.
        """
        with self._database.transaction("batch"):
            statements.drop_batch(self._database, version, verdicts)
        for verdict in verdicts:
            self._outdate(partial(self._blobs.delete, payload_file(verdict.update)))

    def keep_chunk(self, transfer: UpdateId, start: int, index: int, body: bytes) -> None:
        """Keep one chunk of a sum, which begins at byte ``start``; a restart forgets it.

        Raises:
            StorageError: It cannot be written.
        """
        with storing("chunk of a sum"):
            self._transfers.write(transfer, start, index, body)

    def take_chunks(self, transfer: UpdateId) -> bytes:
        """What has arrived of a sum, unchecked; it is not kept any longer.

        Raises:
            StorageError: It is not there.
        """
        with reading(f"sum {transfer}"):
            body = self._transfers.read(transfer)
        with storing("sum"):
            self._transfers.delete(transfer)
        return body

    def save_sum(self, version: ModelVersion, part: int, body: bytes) -> None:
        """Save what a helper has answered for one class of a batch.

        Raises:
            StorageError: Nothing was saved.
        """
        with self._database.transaction("sum"):
            batches.insert_sum(self._database, version, part, body)
        failpoint("coordinator_after_sum")
