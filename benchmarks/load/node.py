"""One node of the load: the node's own machine, a training that takes a while and makes an update made beforehand."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from edge_node.engine.effects import (
    AdoptModel,
    Effect,
    EnterRun,
    MakeInitialModel,
    PublishEvent,
    PublishProgress,
    PublishState,
    Rest,
    SaveOutbox,
    SendChunks,
    SendOffer,
    StartEvaluation,
    StartTraining,
    StopTraining,
    SubscribeSegment,
    UnsubscribeSegment,
)
from edge_node.engine.events import (
    AnnouncementReceived,
    BrokerConnected,
    BrokerDisconnected,
    CommandReceived,
    CoordinatorStateReceived,
    Event,
    ModelChunkReceived,
    ModelReady,
    OutboxSaved,
    RunEntered,
    TrainingFinished,
)
from edge_node.engine.machine import NodeMachine, NodeSettings
from edge_node.engine.settings import PACE_LINGER_S
from edge_node.records import FinishedTraining, OutboxEntry, RecoveredNode
from federation.protocol.chunking import chunk_slice
from federation.protocol.messages import CoordinatorState, Message, NodeState, Presence, Receipt, RoundAnnouncement
from federation.protocol.signing import Reader, Signer, Writer
from federation.protocol.topics import CoordinatorStateTopic, ModelChunkTopic, NodeCommandTopic, RoundTopic, Topics
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION
from federation.types import Incarnation, NodeId, RoundId, StateId, UpdateId

__all__ = ["Counts", "LoadNode", "Shared", "Wire"]

DECODED_MAX = 64


class Wire(Protocol):
    """A node's connection."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish."""

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe."""

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe."""

    def rest(self, seconds: float) -> None:
        """Leave when all is said, and connect again after so many seconds; 0: now."""


@dataclass(slots=True)
class Counts:
    """What has happened to all nodes together.

    Attributes:
        deliveries: Messages that the broker has delivered to nodes.
        down: Bytes on the nodes' sockets, acknowledgements of every kind included.
        model: Bytes of model chunks among them.
        announcements: Deliveries of announcements.
        offers: Updates that were offered for the first time.
        stored: Updates whose first receipt said that the coordinator has them.
        applied: Updates of which a receipt said that they are part of a version.
        stale: The same of those that came too late.
        refused: The same of those that cannot be used.
        declines: Rounds that nodes would not train for.
        lost_connections: Connections that have ended by themselves.
        reasons: Why updates were refused, in the whole run.
        receipt_s: From an update's first offer to its first receipt, in seconds.
    """

    deliveries: int = 0
    down: int = 0
    model: int = 0
    announcements: int = 0
    offers: int = 0
    stored: int = 0
    applied: int = 0
    stale: int = 0
    refused: int = 0
    declines: int = 0
    lost_connections: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    receipt_s: list[float] = field(default_factory=list)

    def copy(self) -> "Counts":
        """As it is now; the times are those since the last copy."""
        taken, self.receipt_s = replace(self), []
        return taken


@dataclass(slots=True, kw_only=True)
class Shared:
    """What all nodes have in common.

    Attributes:
        topics: The federation's tree.
        task: Name of the task.
        frames: Updates that were made beforehand, taken in turn.
        rng: Uniform numbers in [0, 1).
        train_s: How long a training takes, in seconds, drawn anew for each.
        linger_s: By a pace a node leaves when so long nothing was at hand, in seconds.
        reader: Reads what the coordinator says to everybody, and checks its signature where there are any.
        training: Whether trainings still begin: when the time is over, only what is under way goes on.
        counts: What has happened.
        confirmed: Updates that a receipt has called stored or applied.
    """

    topics: Topics
    task: str
    frames: Sequence[bytes]
    rng: Callable[[], float]
    train_s: Callable[[], float]
    reader: Reader
    linger_s: float = PACE_LINGER_S
    training: bool = True
    counts: Counts = field(default_factory=Counts)
    confirmed: set[UpdateId] = field(default_factory=set)
    _decoded: dict[tuple[str, bytes], Message] = field(default_factory=dict)
    _next_frame: int = 0

    def decode(self, topic: str, payload: bytes) -> Message:
        """A message that everybody gets: read once, as if each had a core of its own."""
        known = self._decoded.get((topic, payload))
        if known is None:
            known = self.reader.decode(topic, payload)
            while len(self._decoded) >= DECODED_MAX:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[topic, payload] = known
        return known

    def frame(self) -> bytes:
        """The next update's payload."""
        self._next_frame += 1
        return self.frames[self._next_frame % len(self.frames)]


class LoadNode:
    """One node: what arrives goes to its machine, and what that decides goes to the wire.

    Attributes:
        name: Its name.
        armed: The earliest moment at which somebody has promised to call `wake`, in monotonic seconds.
    """

    __slots__ = (
        "_frames",
        "_machine",
        "_offered",
        "_shared",
        "_train",
        "_training",
        "_wire",
        "_writer",
        "armed",
        "name",
    )

    def __init__(self, name: NodeId, shared: Shared, wire: Wire, signer: Signer | None, *, number: int) -> None:
        self.name, self._shared, self._wire = name, shared, wire
        self._writer = Writer(shared.topics, signer)
        settings = NodeSettings(node=name, task=shared.task, signed=signer is not None, pace_linger_s=shared.linger_s)
        self._machine = NodeMachine(
            settings, Incarnation(1), RecoveredNode(), rng=shared.rng, state_id=StateId(number + 1)
        )
        self._frames: dict[UpdateId, bytes] = {}
        self._offered: dict[UpdateId, float] = {}
        self._train: StartTraining | None = None
        self._training: float | None = None
        self.armed = float("inf")

    def will(self) -> tuple[str, bytes]:
        """Topic and payload of what the broker says for a node that is gone."""
        topic = self._shared.topics.node_state(self.name)
        lost = NodeState(
            presence=Presence.LOST, incarnation=Incarnation(1), protocol_min=PROTOCOL_MIN, protocol_max=PROTOCOL_VERSION
        )
        return topic, self._writer.encode(topic, lost)

    def connected(self, now: float) -> None:
        """The broker has accepted the connection."""
        self._wire.subscribe(self._shared.topics.node_subscriptions(self.name))
        self._handle(BrokerConnected(), now)

    def disconnected(self, now: float) -> None:
        """The connection has ended by itself."""
        self._shared.counts.lost_connections += 1
        self._handle(BrokerDisconnected(reason="ended"), now)

    def waits_for(self) -> set[UpdateId]:
        """Updates that were offered and of which no receipt has come."""
        return set(self._offered)

    def next_due(self) -> float | None:
        """When `wake` is due, in monotonic seconds."""
        times = [time for time in (self._machine.deadline(), self._training) if time is not None]
        return min(times, default=None)

    def wake(self, now: float) -> None:
        """Do what is due."""
        if self._training is not None and now >= self._training and self._train is not None:
            start, self._train, self._training = self._train, None, None
            self._handle(TrainingFinished(result=self._result(start)), now)
        deadline = self._machine.deadline()
        if deadline is not None and now >= deadline:
            self._handle(None, now)

    def message(self, topic: str, payload: bytes, now: float) -> None:
        """A message has arrived."""
        counts, shared = self._shared.counts, self._shared
        counts.deliveries += 1
        if not payload:
            return
        place = shared.topics.parse(topic)
        match place:
            case ModelChunkTopic(version=version, segment=segment, index=index):
                counts.model += len(payload)
                self._handle(ModelChunkReceived(version=version, segment=segment, index=index, body=payload), now)
            case RoundTopic() | CoordinatorStateTopic():
                counts.announcements += 1
                self._everybodys(shared.decode(topic, payload), payload, now)
            case NodeCommandTopic():
                self._command(shared.reader.decode(topic, payload), payload, now)
            case _:
                raise AssertionError(f"nobody has subscribed to {topic}")

    def _everybodys(self, message: Message, payload: bytes, now: float) -> None:
        match message:
            case RoundAnnouncement():
                self._handle(AnnouncementReceived(announcement=message, payload=payload), now)
            case CoordinatorState():
                self._handle(CoordinatorStateReceived(state=message, payload=payload), now)
            case _:
                raise AssertionError(f"a {type(message).__name__} for everybody")

    def _command(self, message: Message, payload: bytes, now: float) -> None:
        if isinstance(message, RoundAnnouncement):
            self._handle(AnnouncementReceived(announcement=message, payload=payload, invited=True), now)
            return
        if isinstance(message, Receipt):
            self._receipt(message, now)
        self._handle(CommandReceived(command=message, payload=payload), now)  # type: ignore[arg-type]  # what it is, it checks

    def _receipt(self, receipt: Receipt, now: float) -> None:
        counts, confirmed = self._shared.counts, self._shared.confirmed
        since = self._offered.pop(receipt.update, None)
        if since is not None:
            counts.receipt_s.append(now - since)
        match receipt.status.value:
            case "stored":
                counts.stored += 1
                confirmed.add(receipt.update)
            case "applied":
                counts.applied += receipt.update in self._frames
                confirmed.add(receipt.update)
            case "stale":
                counts.stale += receipt.update in self._frames
            case _:
                counts.refused += receipt.update in self._frames
                counts.reasons[receipt.reason.value] += 1
        if receipt.status.final:
            self._frames.pop(receipt.update, None)

    # --- what the machine decides -----------------------------------------------------------------------------------

    def _handle(self, event: Event | None, now: float) -> None:
        pending: deque[Event | None] = deque([event])
        while pending:
            for effect in self._machine.handle(pending.popleft(), now):
                pending.extend(self._execute(effect, now))

    def _execute(self, effect: Effect, now: float) -> Iterable[Event]:  # noqa: C901, PLR0912 - one case per effect
        topics, wire = self._shared.topics, self._wire
        match effect:
            case PublishState(state=state):
                self._say(topics.node_state(self.name), state, retain=True)
            case PublishEvent(message=message):
                self._shared.counts.declines += 1
                self._say(topics.node_event(self.name), message)
            case PublishProgress(progress=progress):
                self._say(topics.node_telemetry(self.name), progress, qos=0)
            case SubscribeSegment():
                wire.subscribe(self._filters(effect))
            case UnsubscribeSegment():
                wire.unsubscribe(self._filters(effect))
            case AdoptModel(model=model) | MakeInitialModel(model=model):
                return (ModelReady(version=model.version, digest=model.digest),)
            case StartTraining():
                self._begin(effect, now)
            case StopTraining(round=round_id):
                self._stop(round_id)
            case SaveOutbox(offer=offer, result=result):
                self._frames[offer.update] = result.frame
                return (OutboxSaved(entry=OutboxEntry(offer=offer)),)
            case SendOffer():
                self._offer(effect, now)
            case SendChunks():
                self._send_chunks(effect)
            case Rest(seconds=seconds):
                wire.rest(seconds)
            case EnterRun(run=run):
                return (RunEntered(run=run),)
            case StartEvaluation():
                raise AssertionError("nobody is asked to evaluate here")
            case _:
                pass  # a disk that keeps everything, and a log that nobody reads
        return ()

    def _say(self, topic: str, message: Message, *, qos: int = 1, retain: bool = False) -> None:
        self._wire.publish(topic, self._writer.encode(topic, message), qos=qos, retain=retain)

    def _filters(self, effect: SubscribeSegment | UnsubscribeSegment) -> list[str]:
        topics = self._shared.topics
        if not effect.indices:
            return [topics.model_segment(effect.version, effect.segment)]
        return [topics.model_chunk(effect.version, effect.segment, index) for index in effect.indices]

    def _begin(self, effect: StartTraining, now: float) -> None:
        if self._shared.training:
            self._train, self._training = effect, now + self._shared.train_s()

    def _stop(self, round_id: RoundId) -> None:
        if self._train is not None and self._train.announcement.round == round_id:
            self._train = self._training = None

    def _result(self, start: StartTraining) -> FinishedTraining:
        announcement = start.announcement
        return FinishedTraining(
            round=announcement.round,
            frame=self._shared.frame(),
            num_examples=1,
            metrics={"loss": 0.5},
            train_s=0.0,
            run=announcement.run,
            codec=announcement.codec,
            attempt=start.attempt,
        )

    def _offer(self, effect: SendOffer, now: float) -> None:
        offer = effect.offer
        if offer.update not in self._offered and offer.update not in self._shared.confirmed:
            self._offered[offer.update] = now
            self._shared.counts.offers += 1
        inline = self._frames[offer.update] if effect.inline else None
        self._say(self._shared.topics.node_event(self.name), replace(offer, inline=inline))

    def _send_chunks(self, effect: SendChunks) -> None:
        frame, topics = self._frames[effect.update], self._shared.topics
        for index in effect.indices:
            body = frame[chunk_slice(index, len(frame), effect.chunk_bytes)]
            self._wire.publish(topics.node_chunk(self.name, effect.update, index), body)
