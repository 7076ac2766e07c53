"""What masked sums keep in the coordinator's store, each change in one transaction."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from coordinator.records import BatchRecord, NodesEvaluation, ReleaseLedger, ReleaseRecord, Verdict
from coordinator.storage import batches, evaluations, hidden_reports, releases, statements
from coordinator.storage.files import payload_file, reading
from coordinator.storage.parts import Blobs, Transfers
from federation.privacy.metrics import Measured
from federation.privacy.taking import Taking
from federation.protocol.messages import EvaluationReport
from federation.protocol.sum_messages import MaskedReport, SumRequest
from federation.runtime.failpoint import failpoint
from federation.storage.sql import Database
from federation.storage.sqlite import storing
from federation.types import ModelVersion, NodeId, UpdateId

__all__ = ["BatchStore"]


class BatchStore:
    """A part of `SqlStore`, which shares its database and its files with it.

    Args:
        database: The database.
        transfers: What is arriving.
        blobs: The large files.
        outdate: Removes files once that no row names them is on the disk.
    """

    def __init__(
        self, database: Database, transfers: Transfers, blobs: Blobs, outdate: Callable[[Callable[[], None]], None]
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

    def begin_noise(self, noise: float) -> None:
        """From now on the coordinator itself adds noise of this deviation, in units of the clip.

        Raises:
            StorageError: Nothing was saved.
        """
        with self._database.transaction("ledger"):
            releases.begin_noise(self._database, noise)

    def take_over(self, ledger: ReleaseLedger) -> None:
        """Begin with what another run over the same data has spent.

        Raises:
            StorageError: Nothing was saved.
        """
        with self._database.transaction("ledger"):
            releases.take_over(self._database, ledger)

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

    def forget_chunks(self, transfer: UpdateId) -> None:
        """Nobody waits for this sum any more; one of which nothing is kept does no harm.

        Raises:
            StorageError: It cannot be removed.
        """
        with storing("sum"):
            self._transfers.delete(transfer)

    def save_sum(self, version: ModelVersion, part: int, body: bytes) -> None:
        """Save what a helper has answered for one class of a batch.

        Raises:
            StorageError: Nothing was saved.
        """
        with self._database.transaction("sum"):
            batches.insert_sum(self._database, version, part, body)
        failpoint("coordinator_after_sum")

    def keep_report(self, node: NodeId, report: EvaluationReport) -> None:
        """Save a node's masked report, until the evaluation is closed.

        Raises:
            StorageError: Nothing was saved.
        """
        with self._database.transaction("report"):
            hidden_reports.insert_report(self._database, node, report)

    def reports(self, version: ModelVersion) -> Mapping[NodeId, MaskedReport]:
        """The masked reports on a version, by node.

        Raises:
            StorageError: They cannot be read.
        """
        with storing("report"):
            return hidden_reports.read_reports(self._database, version)

    def freeze_evaluation(self, request: SumRequest) -> None:
        """Save which reports are summed, before helpers are asked; the same again does nothing.

        Raises:
            LocalProtocolError: Others are frozen.
            StorageError: Nothing was saved.
        """
        with self._database.transaction("evaluation"):
            hidden_reports.insert_request(self._database, request)

    def evaluation_request(self, version: ModelVersion) -> SumRequest | None:
        """What `freeze_evaluation` has saved; None is nothing.

        Raises:
            StorageError: It cannot be read.
        """
        with storing("evaluation"):
            return hidden_reports.read_request(self._database, version)

    def close_evaluation(self, version: ModelVersion, measured: Measured | None) -> NodesEvaluation:
        """Save what the sum of the reports says, or that there is none; a closed one is returned as it is.

        Raises:
            LocalProtocolError: No evaluation of this version was reserved with a round.
            StorageError: Nothing was saved.
        """
        with self._database.transaction("evaluation on the nodes"):
            survey = evaluations.read_survey(self._database, version)
            return survey if survey.closed else hidden_reports.close_hidden(self._database, survey, measured)
