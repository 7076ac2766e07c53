"""Nodes that a test plays by hand, all over one connection: they obey announcements and remember every receipt."""

import queue
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from federation.protocol.chunking import Bitmap, chunk_count, chunk_slice, payload_digest
from federation.protocol.cohort import includes
from federation.protocol.messages import (
    CoordinatorState,
    Grant,
    NodeState,
    Presence,
    Receipt,
    ReceiptStatus,
    RoundAnnouncement,
    UpdateOffer,
)
from federation.protocol.topics import ModelChunkTopic, NodeCommandTopic, RoundTopic, Topics
from federation.protocol.wire import decode_message, encode_message
from federation.runtime.mqtt import MqttTransport, SessionSettings, parse_broker_url
from federation.runtime.transport import Inbox, InboxItem, MessageReceived
from federation.types import FederationId, Incarnation, NodeId, RoundId, SeenRun, UpdateId, update_id
from update_codec import CodecSpec, Manifest, Vectors, encode

LIMIT_S = 30.0
CHUNK_BYTES = 61_440


@dataclass
class ScriptedNodes:
    """Some nodes of one federation.

    Attributes:
        offered: Every update that was offered, by id, with its payload inside.
        receipts: Every receipt in order of arrival.
        announcements: Every announcement in order of arrival.
        epochs: Epochs of the coordinators that were seen online.
        chunks: Topics of the model's chunks that came, for who subscribes to them.
    """

    url: str
    manifest: Manifest
    names: tuple[str, ...]
    codec: str = "lossless"
    federation: str = "it"
    client: str = "scripted-nodes"
    inline: bool = True
    obedient: bool = True
    inbox: Inbox = field(default_factory=lambda: queue.Queue(10_000))
    offered: dict[UpdateId, UpdateOffer] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    announcements: list[RoundAnnouncement] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    presences: list[Presence] = field(default_factory=list)
    chunks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.topics = Topics(FederationId(self.federation))
        session = SessionSettings(client_id=self.client, first_connect_spread_s=0.0, receive_max=64)
        self.transport = MqttTransport(parse_broker_url(self.url), session, self.inbox)

    def __enter__(self) -> Self:
        for topic_filter in (self.topics.coordinator_state, self.topics.round, f"fl/{self.federation}/n/+/cmd"):
            self.transport.subscribe(topic_filter)
        self.transport.open()
        for name in self.names:
            self.present(name, Presence.ONLINE)
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close(timeout_s=2.0)

    def present(self, name: str, presence: Presence, incarnation: int = 1, seen: SeenRun | None = None) -> None:
        """Say that a node is there, or not, and what it has seen."""
        state = NodeState(
            presence=presence, incarnation=Incarnation(incarnation), protocol_min=1, protocol_max=1, seen=seen
        )
        self.transport.publish(self.topics.node_state(NodeId(name)), encode_message(state), retain=True)

    def until(self, reached: Callable[[], bool]) -> None:
        """Live on until something is true."""
        give_up = time.monotonic() + LIMIT_S
        while not reached():
            try:
                event = self.inbox.get(timeout=max(0.0, give_up - time.monotonic())).event
            except queue.Empty:
                raise AssertionError(
                    f"after {LIMIT_S:.0f} s: {self.receipts[-5:]}, {self.announcements[-1:]}"
                ) from None
            if isinstance(event, MessageReceived):
                self._hear(event)

    def until_dead(self, process: "subprocess.Popen[str]") -> None:
        """Live on until this process has ended."""

        def tell() -> None:
            process.wait()
            self.inbox.put(InboxItem(event=None))

        threading.Thread(target=tell, daemon=True).start()
        self.until(lambda: process.poll() is not None)

    def applied(self) -> dict[UpdateId, int | None]:
        """The version that each applied update was told."""
        return {r.update: r.version for r in self.receipts if r.status is ReceiptStatus.APPLIED}

    def offer(self, offer: UpdateOffer) -> None:
        """Publish an offer as it is."""
        node = NodeId(offer.update.partition("-")[2])
        self.transport.publish(self.topics.node_event(node), encode_message(offer))

    def make_offer(self, announcement: RoundAnnouncement, name: str) -> UpdateOffer:
        """What this node sends for this round: a constant step, different for each round."""
        vectors = Vectors.zeros(self.manifest)
        vectors.parameters[:] = np.float32(0.125 * (announcement.round + 1))
        frame = encode(vectors, self.manifest, CodecSpec.parse(self.codec)).frame
        return UpdateOffer(
            run=announcement.run,
            round=announcement.round,
            update=update_id(announcement.round, NodeId(name)),
            incarnation=Incarnation(1),
            base_version=announcement.model.version,
            base_digest=announcement.model.digest,
            num_examples=10,
            metrics={"loss": 1.0},
            codec=self.codec,
            payload_bytes=len(frame),
            payload_digest=payload_digest(frame),
            chunk_bytes=CHUNK_BYTES,
            inline=frame,
        )

    def _hear(self, received: MessageReceived) -> None:
        where = self.topics.parse(received.topic)
        if isinstance(where, ModelChunkTopic):
            self.chunks.append(received.topic)
            return
        if not received.payload:  # a retained message was cleared
            return
        message = decode_message(received.payload)
        match where, message:
            case RoundTopic(), RoundAnnouncement():
                self.announcements.append(message)
                if self.obedient:
                    self._obey(message)
            case NodeCommandTopic(), Receipt():
                self.receipts.append(message)
            case NodeCommandTopic(node=node), Grant():
                self._send_chunks(node, message)
            case _, CoordinatorState():
                self._coordinator(message)
            case _:
                pass

    def _obey(self, announcement: RoundAnnouncement) -> None:
        for name in self.names:
            update = update_id(announcement.round, NodeId(name))
            asked = includes(announcement.cohort, announcement.run, announcement.round, NodeId(name))
            if asked and update not in self.offered:
                self.offered[update] = self.make_offer(announcement, name)
                self._deliver(update)

    def _coordinator(self, state: CoordinatorState) -> None:
        self.presences.append(state.presence)
        if state.presence is not Presence.ONLINE or state.epoch in self.epochs:
            return
        self.epochs.append(state.epoch)
        for update in self._unsettled():
            self._deliver(update)

    def _unsettled(self) -> list[UpdateId]:
        settled = {receipt.update for receipt in self.receipts if receipt.status.final}
        return [update for update in self.offered if update not in settled]

    def _deliver(self, update: UpdateId) -> None:
        offer = self.offered[update]
        self.offer(offer if self.inline else replace(offer, inline=None))

    def _send_chunks(self, node: NodeId, grant: Grant) -> None:
        payload = self.offered[grant.update].inline or b""
        bitmap = Bitmap.from_bytes(chunk_count(len(payload), CHUNK_BYTES), grant.bitmap)
        for index in bitmap.missing(grant.window):
            body = payload[chunk_slice(index, len(payload), CHUNK_BYTES)]
            self.transport.publish(self.topics.node_chunk(node, grant.update, index), body)


def last_round(nodes: ScriptedNodes) -> RoundId:
    """The newest round that was announced."""
    return nodes.announcements[-1].round
