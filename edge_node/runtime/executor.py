"""Carries out what the node's machine decides: publishes, saves, adopts models, starts training.

Failpoints, in the order of a round: ``node_fetching`` ``node_adopting`` ``node_training`` ``node_trained``
``node_before_outbox`` ``node_after_outbox`` ``node_before_offer`` ``node_after_offer`` ``node_mid_upload``
``node_stored`` ``node_before_settle`` ``node_after_settle``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import assert_never

from edge_node.engine import events
from edge_node.engine.effects import (
    AdoptModel,
    Effect,
    EnterRun,
    MakeInitialModel,
    MarkStored,
    Note,
    PublishEvent,
    PublishProgress,
    PublishState,
    Rest,
    SaveOutbox,
    SaveProgress,
    SaveSeen,
    SaveSpent,
    SendChunks,
    SendOffer,
    SettleUpdate,
    StartEvaluation,
    StartTraining,
    Stop,
    StopTraining,
    SubscribeSegment,
    UnsubscribeSegment,
)
from edge_node.records import Held, OutboxEntry, RecoveredNode, Residual
from edge_node.runtime.sealing import NodeSealing
from edge_node.storage.store import HeldModel, NodeStore, OutboxFrames
from edge_node.storage.task_state import expected_state
from edge_node.training.adoption import AdoptionError, compose, initial_model
from edge_node.training.evaluation import EvaluationJob, HiddenMetrics
from edge_node.training.masking import Masking, give_back_offered
from edge_node.training.update import ResidualChange, merge
from edge_node.training.worker import Trainer, TrainingJob, TrainingSetup
from federation.errors import LocalProtocolError, PayloadTooLarge, StorageError, StoreGone
from federation.protocol.chunking import chunk_count, chunk_slice
from federation.protocol.limits import CHUNK_BYTES
from federation.protocol.messages import Message, NodeState, UpdateOffer
from federation.protocol.signing import Signer, Writer
from federation.protocol.sum_messages import Ticket
from federation.protocol.topics import Topics
from federation.runtime.failpoint import failpoint
from federation.runtime.log import get_log
from federation.runtime.transport import Transport
from federation.task import Parameters
from federation.types import Digest, RunId
from update_codec import CodecError, CodecSpec, Manifest, frame_manifest

__all__ = ["NodeExecutor", "NodeParts"]

KEPT_BYTES_MIN = CHUNK_BYTES
"""Parameters of a model that is kept on disk, in bytes: a smaller one is pulled again in one message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParts:
    """What one node is made of.

    Attributes:
        setup: The task and who trains it.
        store: The durable state.
        trainer: The worker.
        transport: The broker connection.
        topics: The federation's topics.
        signer: The node's own key; None says everything without a signature.
        inputs_of: Finds what has been heard of a run's inputs, by its digest.
        sealing: Closes to the broker what is said; shared with `Inbound`. None says everything openly.
        helpers: Gives what it takes to mask, with a way to sign tickets, or says which helper is missing.
        rest: Leaves the broker for so many seconds.
    """

    setup: TrainingSetup
    store: NodeStore
    trainer: Trainer
    transport: Transport
    topics: Topics
    signer: Signer | None = None
    inputs_of: Callable[[Digest | None], str | None] = lambda _: None
    sealing: NodeSealing | None = None
    helpers: Callable[[Callable[[Ticket], bytes]], Masking | str] = lambda _: "helpers: none is pinned here"
    rest: Callable[[float], None] = lambda _: None


class NodeExecutor:
    """Runs effects on the driver's thread; the only one that touches the store.

    Attributes:
        stopped: Whether the machine asked to leave.
        stop_reason: Why.
    """

    def __init__(self, parts: NodeParts) -> None:
        self.stopped = False
        self.stop_reason = ""
        self._setup, self._store, self._trainer = parts.setup, parts.store, parts.trainer
        self._transport, self._topics, self._node = parts.transport, parts.topics, parts.setup.node
        self._inputs_of, self._parts = parts.inputs_of, parts
        self._writer, self._sealing = Writer(parts.topics, parts.signer, parts.sealing), parts.sealing
        if parts.sealing is not None:
            parts.sealing.renewed = self._say_state
        self._said: NodeState | None = None
        self._log = get_log("node")
        self._held = self._fitting(self._store.held_model())
        self._unsaved = False
        self._frames = OutboxFrames(self._store)

    def recovered(self) -> RecoveredNode:
        """Where the last process left off; a held model of another manifest is as good as none."""
        recovered = self._store.recovered()
        return recovered if self._held is not None else replace(recovered, held_version=None, held_digest=None)

    def execute(self, effect: Effect) -> Iterable[events.Event]:  # noqa: C901, PLR0912 - one case per effect, each one line
        """Run one effect; returns what it answers.

        Raises:
            LocalProtocolError: The machine asked for something that cannot be.
        """
        match effect:
            case PublishState():
                self._said = effect.state
                self._say_state()
            case PublishEvent():
                topic, said, sealing = self._topics.node_event(self._node), effect.message, self._sealing
                self._say(topic, said if sealing is None else sealing.sealed_for(effect.reader, topic, said))
            case PublishProgress():
                self._say(self._topics.node_telemetry(self._node), effect.progress, qos=0)
            case SubscribeSegment():
                for topic_filter in self._segment_filters(effect):
                    self._transport.subscribe(topic_filter)
                failpoint("node_fetching")
            case UnsubscribeSegment():
                for topic_filter in self._segment_filters(effect):
                    self._transport.unsubscribe(topic_filter)
            case AdoptModel() | MakeInitialModel():
                return [self._adopt(effect)]
            case StartTraining():
                return self._start_training(effect)
            case StartEvaluation():
                return self._start_evaluation(effect)
            case StopTraining():
                self._trainer.stop(effect.round)
            case SendOffer():
                self._send_offer(effect)
            case SendChunks():
                self._send_chunks(effect)
            case SaveOutbox() | SaveProgress() | SaveSeen() | SaveSpent() | MarkStored() | SettleUpdate() | EnterRun():
                return self._save(effect)
            case Note():
                self._log.info(effect.event, **effect.fields)
            case Rest():
                self._parts.rest(effect.seconds)
            case Stop():
                self._log.info("stopping", reason=effect.reason)
                self.stopped, self.stop_reason = True, effect.reason
            case _:
                assert_never(effect)
        return ()

    def _say_state(self) -> None:
        """Say what was said last of the node, with the key that it has now."""
        if self._said is not None:
            state = self._said if self._sealing is None else self._sealing.stated(self._said)
            self._say(self._topics.node_state(self._node), state, retain=True)

    def _say(self, topic: str, message: Message, *, qos: int = 1, retain: bool = False) -> None:
        if self._sealing is None or not self._sealing.would_show(topic, message):
            self._transport.publish(topic, self._writer.encode(topic, message), qos=qos, retain=retain)

    def _segment_filters(self, effect: SubscribeSegment | UnsubscribeSegment) -> list[str]:
        place, topics = (effect.version, effect.segment), self._topics
        return [topics.model_chunk(*place, index) for index in effect.indices or ()] or [topics.model_segment(*place)]

    def _fitting(self, model: HeldModel | None) -> HeldModel | None:
        if model is None:
            return None
        suited = self._setup.suited(model.manifest_digest)
        return model if model.manifest_digest == suited.manifest.digest else None

    def _adopt(self, effect: AdoptModel | MakeInitialModel) -> events.Event:
        model, setup = effect.model, self._setup
        failpoint("node_adopting")
        try:
            if isinstance(effect, AdoptModel):
                self._held = compose(model, effect.parts, self._held, setup, averaging=effect.averaging)
            else:
                self._held = initial_model(model, setup, averaging=effect.averaging)
        except AdoptionError as error:
            self._log.warning("model_rejected", version=model.version, reason=str(error))
            return events.ModelRejected(version=model.version, reason=str(error))
        self._unsaved = self._held.vectors.parameters.nbytes >= KEPT_BYTES_MIN
        fetched = sum(len(frame) for _, frame in effect.parts) if isinstance(effect, AdoptModel) else 0
        self._log.info("model_ready", version=model.version, bytes=fetched)
        return events.ModelReady(version=model.version, digest=model.digest)

    def _start_training(self, effect: StartTraining) -> Iterable[events.Event]:
        announcement, held = effect.announcement, self._held
        if held is None or held.digest != announcement.model.digest:
            return [events.ModelRejected(version=announcement.model.version, reason="the announced model is not held")]
        masking = None if announcement.privacy is None else self._parts.helpers(self._sign_ticket)
        if isinstance(masking, str):
            run, attempt = announcement.run, effect.attempt
            return [events.TrainingFailed(round=announcement.round, reason=masking, run=run, attempt=attempt)]
        share = self._setup.aging.share(self._store.residual_version(), held.version)
        residual = self._residual(self._setup.suited(held.manifest_digest).manifest)
        job = TrainingJob(
            announcement=announcement,
            base=held.vectors,
            residual=residual,
            residual_share=share,
            payload_bytes_max=effect.payload_bytes_max,
            state=self._task_state(),
            average=held.average,
            attempt=effect.attempt,
            inputs=self._inputs_of(announcement.model.inputs_digest),
            masking=masking,
        )
        self._trainer.start(job)
        self._save_held(held)
        return ()

    def _sign_ticket(self, ticket: Ticket) -> bytes:
        """Signed and never closed: helpers read it."""
        return Writer(self._topics, self._parts.signer).encode(self._topics.node_ticket(self._node), ticket)

    def _start_evaluation(self, effect: StartEvaluation) -> Iterable[events.Event]:
        model, held = effect.model, self._held
        if held is None or held.digest != model.digest:
            return [events.ModelRejected(version=model.version, reason="the announced model is not held")]
        job = EvaluationJob(
            run=effect.run,
            version=model.version,
            digest=model.digest,
            model=held.vectors,
            manifest_digest=held.manifest_digest,
            state=self._task_state(),
            inputs_digest=model.inputs_digest,
            inputs=self._inputs_of(model.inputs_digest),
            uses=effect.uses,
            hidden=effect.hidden and HiddenMetrics(*effect.hidden, self._parts.helpers(self._sign_ticket)),
        )
        self._trainer.evaluate(job)
        self._save_held(held)
        return ()

    def _save_held(self, held: HeldModel) -> None:
        """Write the model while the worker trains: the copy only saves a download after the next start."""
        if not self._unsaved:
            return
        try:
            self._store.save_model(held)
            self._unsaved = False
        except StorageError as error:
            self._log.warning("model_not_saved", version=held.version, reason=str(error))

    def _residual(self, manifest: Manifest | None = None) -> Residual | None:
        """What is kept of this run; None where it is of another model than the manifest's, or than the task's own."""
        residual, own = self._store.residual(), self._setup.manifest
        known = (own, own.former) if manifest is None else (manifest,)
        fits = residual is not None and any(residual.size == each.parameter_count for each in known)
        return residual if fits else None

    def _task_state(self) -> Parameters:
        under_way = (self._store.pending(entry.offer.update) for entry in self._store.outbox())
        return expected_state(self._store.task_state(), under_way)

    def _save(
        self, effect: SaveOutbox | SaveProgress | SaveSeen | SaveSpent | MarkStored | SettleUpdate | EnterRun
    ) -> Iterable[events.Event]:
        try:
            match effect:
                case SaveOutbox():
                    return [self._save_outbox(effect)]
                case SaveProgress():
                    self._store.save_progress(effect.run, effect.last_round)
                case SaveSeen():
                    self._store.save_seen(effect.seen)
                case SaveSpent():
                    self._store.save_spent(effect.run, effect.spent)
                case MarkStored():
                    self._store.mark_stored(effect.update)
                    failpoint("node_stored")
                case SettleUpdate():
                    self._settle(effect)
                case EnterRun():
                    return [self._enter(effect.run)]
                case _:
                    assert_never(effect)
        except StoreGone:
            raise
        except StorageError as error:
            self._log.error("storage_failed", doing=type(effect).__name__, reason=str(error))
            return [events.StorageFailed(detail=str(error), effect=effect)]
        return ()

    def _enter(self, run: RunId) -> events.Event:
        try:
            forgotten = self._store.enter_run(run)
        finally:
            self._held, self._unsaved = self._fitting(self._store.held_model()), False
            self._frames.forget()
        held = None if self._held is None else Held(version=self._held.version, digest=self._held.digest)
        return events.RunEntered(run=run, held=held, forgotten=forgotten)

    def _save_outbox(self, effect: SaveOutbox) -> events.Event:
        residual, frame, context = self._residual(), effect.result.frame, None
        if isinstance(effect.result.token, ResidualChange):
            residual = merge(residual, effect.result.token)
            used = effect.result.token.context
            context = None if used is None else used.to_bytes()
        if effect.result.masked is not None:
            context = effect.result.masked.seeds
        entry = OutboxEntry(offer=replace(effect.offer, inline=None))
        failpoint("node_before_outbox")
        self._store.save_outbox(entry, frame, residual, effect.result.change, context)
        failpoint("node_after_outbox")
        self._frames.keep(effect.offer.update, frame)
        return events.OutboxSaved(entry=entry)

    def _settle(self, effect: SettleUpdate) -> None:
        entry = self._store.entry(effect.update)
        if entry is None:
            return
        failpoint("node_before_settle")
        residual, context = self._residual(), self._store.context(effect.update)
        try:
            if effect.unfit:
                if residual is not None:
                    self._log.warning("residual_dropped", update=effect.update)
                residual = None
            elif not effect.applied and CodecSpec.parse(entry.offer.codec).feedback:
                frame = self._frames.read(effect.update)
                if frame is not None:
                    manifest = self._setup.suited(frame_manifest(frame)).manifest
                    residual = give_back_offered(residual, entry.offer, frame, manifest, context)
        except CodecError as error:  # the task's model, or this software, has changed since: nothing to give back to
            self._log.warning("update_not_given_back", update=effect.update, reason=str(error))
        self._store.settle(effect.update, residual, applied=effect.applied)
        if effect.misread and context is not None and entry.offer.ticket is None and self._held is not None:
            # The coordinator's average is another one: go on without, until the model comes from version 0 again.
            self._log.warning("context_dropped", update=effect.update)
            self._held, self._unsaved = replace(self._held, average=None), True
        failpoint("node_after_settle")

    def _send_offer(self, effect: SendOffer) -> None:
        failpoint("node_before_offer")
        topic, offer = self._topics.node_event(self._node), effect.offer
        entry = self._store.entry(offer.update)
        stored = entry is not None and entry.stored
        frame = self._frames.read(offer.update) if effect.inline or not stored else None
        if frame is None and not stored:
            return  # who grants chunks that never come keeps a place from others
        sent = replace(offer, inline=frame) if effect.inline else self._without_payload(offer)
        try:
            self._say(topic, sent)
        except PayloadTooLarge:
            # This broker takes smaller packets than the offer with its payload: the coordinator will grant chunks.
            self._say(topic, self._without_payload(offer))
        told = {"bytes": offer.payload_bytes, "inline": effect.inline}
        self._log.info("update_offered", run=offer.run, update=offer.update, **told)
        failpoint("node_after_offer")

    def _without_payload(self, offer: UpdateOffer) -> UpdateOffer:
        """An offer whose payload is to be granted, with what opens its chunks where they are sealed."""
        bare = replace(offer, inline=None)
        return bare if self._sealing is None else self._sealing.offered(bare)

    def _send_chunks(self, effect: SendChunks) -> None:
        entry = self._store.entry(effect.update)
        if entry is None:
            return
        frame, chunk_bytes = self._frames.read(effect.update), effect.chunk_bytes
        if frame is None:
            return
        count = chunk_count(len(frame), chunk_bytes)
        for index in effect.indices:
            if index >= count:
                raise LocalProtocolError(f"update {effect.update} has {count} chunks, not one of index {index}")
            topic = self._topics.node_chunk(self._node, effect.update, index)
            try:
                body = frame[chunk_slice(index, len(frame), chunk_bytes)]
                if self._sealing is not None:
                    body = self._sealing.chunk(entry.offer, chunk_bytes, index, body)
                self._transport.publish(topic, body)
            except PayloadTooLarge as error:
                # The broker takes less than its profile says; to end here would repeat at each start.
                self._log.error("chunks_too_large", update=effect.update, chunk_bytes=chunk_bytes, reason=str(error))
                return
            failpoint("node_mid_upload")
