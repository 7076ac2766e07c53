"""A coordinator that a test plays by hand: it publishes what it is told, and waits for what a node says."""

import queue
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self, TypeVar

import numpy as np

from federation.protocol.chunking import payload_digest, segments, split
from federation.protocol.cohort import EVERYONE, NOBODY
from federation.protocol.messages import (
    CoordinatorState,
    Grant,
    Message,
    ModelPart,
    ModelRef,
    NodeState,
    PartKind,
    Presence,
    Rebirth,
    Receipt,
    ReceiptStatus,
    RoundAnnouncement,
    TrainSettings,
    UpdateOffer,
)
from federation.protocol.signing import Signer, Writer
from federation.protocol.topics import NodeChunkTopic, NodeEventTopic, NodeStateTopic, NodeTelemetryTopic, Topics
from federation.protocol.wire import decode_message
from federation.runtime.mqtt import MqttTransport, SessionSettings, parse_broker_url
from federation.runtime.transport import Inbox, MessageReceived
from federation.types import Digest, Epoch, FederationId, ModelVersion, NodeId, RoundId, RunId, UpdateId
from update_codec import CodecSpec, Manifest, Vectors, encode

LIMIT_S = 30.0
CHUNK_BYTES = 61_440
SETTINGS = TrainSettings(local_epochs=1, learning_rate=0.1)
MessageT = TypeVar("MessageT")


@dataclass
class ScriptedCoordinator:
    """Keyed to one federation on one broker."""

    url: str
    federation: str = "it"
    run: RunId = field(default=RunId("00000000000000aa"))
    inbox: Inbox = field(default_factory=lambda: queue.Queue(10_000))
    signer: Signer | None = None
    topics: Topics = field(init=False)

    def __post_init__(self) -> None:
        self.topics = Topics(FederationId(self.federation))
        self.writer = Writer(self.topics, self.signer)
        session = SessionSettings(client_id="scripted", connection="control")
        self.transport = MqttTransport(parse_broker_url(self.url), session, self.inbox)

    def __enter__(self) -> Self:
        filters = (*self.topics.coordinator_subscriptions_control, *self.topics.coordinator_subscriptions_data)
        for topic_filter in filters:
            self.transport.subscribe(topic_filter)
        self.transport.open()
        self.say_online()
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close(timeout_s=2.0)

    def say_online(self, epoch: int = 1, *, run: RunId | None = None, began_ms: int | None = None) -> None:
        state = CoordinatorState(
            presence=Presence.ONLINE,
            run=run or self.run,
            epoch=Epoch(epoch),
            protocol_min=1,
            protocol_max=1,
            began_ms=began_ms,
        )
        topic = self.topics.coordinator_state
        self.transport.publish(topic, self.writer.encode(topic, state), retain=True)

    def publish_model(self, version: int, content: Vectors, manifest: Manifest) -> ModelRef:
        frame = encode(content, manifest, CodecSpec.parse("lossless")).frame
        part = ModelPart(
            kind=PartKind.KEYFRAME,
            version=ModelVersion(version),
            payload_bytes=len(frame),
            payload_digest=payload_digest(frame),
            chunk_bytes=CHUNK_BYTES,
        )
        chunks = list(split(frame, CHUNK_BYTES))
        for segment in segments(part):
            for index in range(segment.chunks):
                topic = self.topics.model_chunk(part.version, segment.name, index)
                self.transport.publish(topic, chunks[segment.first_chunk + index], retain=True)
        return ModelRef(
            version=part.version,
            digest=Digest(content.digest()),
            manifest_digest=Digest(manifest.digest),
            seed=None,
            parts=(part,),
        )

    def announce(
        self, round_number: int, model: ModelRef, *, task: str, codec: str = "lossless", final: bool = False
    ) -> bytes:
        """Publish an announcement; returns its bytes."""
        announcement = RoundAnnouncement(
            run=self.run,
            epoch=Epoch(1),
            round=RoundId(round_number),
            task=task,
            model=model,
            cohort=NOBODY if final else EVERYONE,
            settings=SETTINGS,
            codec=codec,
            min_base_version=ModelVersion(0),
            lease_s=60.0,
            spread_s=0.0,
            final=final,
        )
        payload = self.writer.encode(self.topics.round, announcement)
        self.transport.publish(self.topics.round, payload, retain=True)
        return payload

    def receipt(self, node: str, update: UpdateId, status: ReceiptStatus, version: int | None = None) -> None:
        told = None if version is None else ModelVersion(version)
        self.command(node, Receipt(run=self.run, update=update, status=status, version=told))

    def command(self, node: str, command: Receipt | Grant | Rebirth) -> None:
        topic = self.topics.node_command(NodeId(node))
        self.transport.publish(topic, self.writer.encode(topic, command))

    def offer(self) -> UpdateOffer:
        """The next offer of any node."""
        return self.wait_for(UpdateOffer, lambda _: True)

    def birth(self, presence: Presence = Presence.ONLINE) -> NodeState:
        """The next birth, or death, of any node."""
        return self.wait_for(NodeState, lambda state: state.presence is presence)

    def chunks(self, count: int) -> dict[int, bytes]:
        """The next chunks of an update, by index."""
        found: dict[int, bytes] = {}
        while len(found) < count:
            event = self.inbox.get(timeout=LIMIT_S).event
            if isinstance(event, MessageReceived):
                match self.topics.parse(event.topic):
                    case NodeChunkTopic(index=index):
                        found[index] = event.payload
        return found

    def wait_for(self, kind: type[MessageT], wanted: Callable[[MessageT], bool]) -> MessageT:
        """The next message of a kind; all others are passed over."""
        while True:
            event = self.inbox.get(timeout=LIMIT_S).event
            if not isinstance(event, MessageReceived) or not event.payload:
                continue
            match self.topics.parse(event.topic):
                case NodeStateTopic() | NodeEventTopic() | NodeTelemetryTopic():
                    message: Message = decode_message(event.payload)
                    if isinstance(message, kind) and wanted(message):
                        return message


def point_model(size: int, value: float = 0.0) -> tuple[Manifest, Vectors]:
    """A model of the ``quadratic-N`` task."""
    arrays = {"point": np.full(size, value, np.float32)}
    manifest = Manifest.of(arrays)
    return manifest, manifest.flatten(arrays)
