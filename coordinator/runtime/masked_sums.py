"""Carries out what masked sums ask for: the store's part, and what is said to helpers."""

import contextlib
from collections.abc import Iterator
from typing import assert_never

from coordinator.engine.events import Event, FederatedEvaluationClosed
from coordinator.engine.masked.effects import (
    CloseHidden,
    DropBatch,
    ForgetSums,
    FreezeBatch,
    FreezeEvaluation,
    KeepReport,
    MaskedEffect,
    RaiseTaking,
    SendToHelper,
    StoreSum,
    StoreSumChunk,
)
from coordinator.engine.masked.events import (
    BatchDropped,
    BatchFrozen,
    EvaluationFrozen,
    ReportKept,
    SumChunkStored,
    SumRejected,
    SumStored,
)
from coordinator.runtime.publisher import Publisher
from coordinator.storage.store import CoordinatorStore
from federation.errors import StorageError
from federation.privacy.metrics import read_sums
from federation.protocol.chunking import payload_digest
from federation.protocol.signing import Writer
from federation.protocol.sum_messages import SumOffer, transfer_id
from federation.types import ModelVersion

__all__ = ["MaskedExecution"]


class MaskedExecution:
    """A part of the executor.

    Args:
        store: Where everything is kept.
        control: The connection.
        writer: Signs what is said.
    """

    def __init__(self, store: CoordinatorStore, control: Publisher, writer: Writer) -> None:
        self._store, self._control, self._writer = store, control, writer

    def run(self, effect: MaskedEffect) -> Iterator[Event]:  # noqa: C901 - one case per effect
        """Run one effect.

        Raises:
            StorageError: Nothing could be saved.
        """
        match effect:
            case FreezeBatch(batch=batch, release=release):
                self._store.batches.freeze(batch, release)
                yield BatchFrozen(batch=batch, release=release)
            case RaiseTaking(node=node, taking=taking):
                self._store.batches.raise_takings({node: taking})
            case DropBatch(version=version, verdicts=verdicts):
                self._store.batches.drop(version, verdicts)
                yield BatchDropped(verdicts=verdicts)
            case StoreSumChunk(offer=offer, index=index, body=body):
                name = transfer_id(offer.batch, offer.part)
                self._store.batches.keep_chunk(name, index * offer.chunk_bytes, index, body)
                yield SumChunkStored(offer=offer, index=index)
            case ForgetSums(transfers=transfers):
                for name in transfers:
                    self._store.batches.forget_chunks(name)
            case StoreSum(version=version, offer=offer, part=part):
                yield self._store_sum(version, offer, part)
            case KeepReport(node=node, report=report):
                self._store.batches.keep_report(node, report)
                yield ReportKept(report=report)
            case FreezeEvaluation(request=request):
                self._store.batches.freeze_evaluation(request)
                yield EvaluationFrozen(request=request)
            case CloseHidden():
                yield self._close(effect)
            case SendToHelper(helper=helper, command=command):
                topic = self._writer.topics.helper_command(helper)
                self._control.publish(topic, self._writer.encode(topic, command), qos=1)
            case _:
                assert_never(effect)

    def _close(self, effect: CloseHidden) -> Event:
        """The means; none where there is no sum, or one that no honest reports have."""
        measured, request = None, self._store.batches.evaluation_request(effect.version)
        if effect.sums and request is not None:
            reports = {payload_digest(one.ticket): one for one in self._store.batches.reports(effect.version).values()}
            payloads = [reports[ticket].payload for ticket in request.tickets if ticket in reports]
            if len(payloads) == len(request.tickets):
                with contextlib.suppress(ValueError):
                    measured = read_sums(payloads, effect.sums, request.terms, effect.metrics)
        return FederatedEvaluationClosed(evaluation=self._store.batches.close_evaluation(effect.version, measured))

    def _store_sum(self, version: ModelVersion, offer: SumOffer, part: int) -> Event:
        """Only what the helper has promised is kept; chunks that are not there any more are asked for again."""
        body = offer.inline
        if body is None:
            try:
                body = self._store.batches.take_chunks(transfer_id(offer.batch, offer.part))
            except StorageError as error:
                return SumRejected(offer=offer, detail=str(error))
        if len(body) != offer.payload_bytes or payload_digest(body) != offer.payload_digest:
            return SumRejected(offer=offer, detail=f"{len(body)} bytes are not the sum that was offered")
        self._store.batches.save_sum(version, part, body)
        return SumStored(part=part)
