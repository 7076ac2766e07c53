"""A `Transport` in virtual time: a bounded queue while it is offline, reconnects with jitter, and can be killed."""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from federation.errors import PayloadTooLarge
from federation.runtime.session import Backoff, SessionSettings, TakeoverDetector, publish_packet_bytes
from federation.runtime.subscriptions import Subscriptions
from federation.runtime.transport import (
    MessageReceived,
    TransportAnswered,
    TransportConnected,
    TransportDisconnected,
    TransportFailed,
    Will,
)
from federation.testing import ConnectSettings, WillMessage
from fedmq.simulation.world.clock import World
from fedmq.simulation.world.faults import Dice

__all__ = ["Network", "Packet", "SimTransport"]

Acknowledge = Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class Packet:
    """One packet from a client to the broker; each is itself, whatever it says."""

    kind: Literal["publish", "subscribe", "unsubscribe", "asked"]
    topic: str
    payload: bytes = b""
    qos: int = 1
    retain: bool = False

    @property
    def exposed(self) -> bool:
        """Whether it can be lost, doubled or overtaken: MQTT keeps retained messages and subscriptions in order."""
        return self.kind == "publish" and not self.retain


class Network(Protocol):
    """What a transport needs of `SimNetwork`."""

    world: World
    dice: Dice

    @property
    def packet_bytes_max(self) -> int:
        """Largest payload that the broker takes."""

    def reachable(self, client_id: str) -> bool:
        """Whether a connect would succeed now."""

    def signature(self, client_id: str) -> str:
        """Another one for each process of a client."""

    def attach(self, transport: "SimTransport") -> bool:
        """Connect; returns whether the broker still had a session."""

    def detach(self, transport: "SimTransport", *, clean: bool) -> None:
        """A connection ends at the broker's side."""

    def send_up(self, transport: "SimTransport", packet: Packet) -> None:
        """Put a packet on its way."""

    def take(self, transport: "SimTransport", packet: Packet) -> None:
        """A packet has reached the broker."""


class SimTransport:
    """One connection of one process.

    Args:
        network: Where the broker is.
        session: How the session behaves.
        deliver: Takes events, each with its acknowledgement or None.
        will: What the broker says when the connection is lost.

    Attributes:
        connected: Whether the broker has accepted us.
        generation: Counts connections: what was on its way on an older one is lost.
        on_wire: Packets that have not arrived yet, in the order of sending.
        dropped: Messages that were never sent.
    """

    def __init__(
        self,
        network: Network,
        session: SessionSettings,
        deliver: Callable[[object, Acknowledge | None], None],
        *,
        will: Will | None = None,
    ) -> None:
        self.session = session
        self.connect_settings = ConnectSettings(
            session_expiry_s=session.session_expiry_s,
            receive_max=session.receive_max,
            manual_ack=session.manual_ack,
            will=None if will is None else WillMessage(topic=will.topic, payload=will.payload, delay_s=will.delay_s),
        )
        self.connected = False
        self.generation = 0
        self.on_wire: dict[Packet, None] = {}
        self.dropped = 0
        self._network, self._deliver = network, deliver
        self._subscriptions = Subscriptions()
        self._waiting: deque[Packet] = deque()
        self._open = False
        self._since = self._rests_until = 0.0
        self._backoff = Backoff(session, random.Random(network.dice.rng.random()))  # noqa: S311 - a simulation
        self._takeovers = TakeoverDetector(network.signature(session.client_id))

    # --- what a role calls ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start to connect, and stay connected until `close`."""
        self._open = True
        self._network.world.after(self._backoff.next_s(), self._connect)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, now or after the reconnect; a full queue drops the message and counts it.

        Raises:
            PayloadTooLarge: The packet exceeds what the broker takes.
        """
        size = publish_packet_bytes(topic, payload, qos=qos)
        if size > self._network.packet_bytes_max:
            raise PayloadTooLarge(f"{topic}: a packet of {size} B, the broker takes {self._network.packet_bytes_max} B")
        packet = Packet("publish", topic, payload, qos, retain)
        if self.connected:
            self._network.send_up(self, packet)
        elif qos == 0 or len(self._waiting) >= self.session.queue_messages_max:
            self.dropped += 1
        else:
            self._waiting.append(packet)

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        """Subscribe now and after every reconnect."""
        self._subscriptions.add(topic_filter, qos)
        if self.connected:
            self._network.send_up(self, Packet("subscribe", topic_filter, qos=qos))

    def unsubscribe(self, topic_filter: str) -> None:
        """Forget a subscription."""
        if self._subscriptions.remove(topic_filter, connected=self.connected):
            self._network.send_up(self, Packet("unsubscribe", topic_filter))

    def rest(self, seconds: float) -> None:
        """Flush what is on its way, disconnect without a will, and connect again after so many seconds; 0: now."""
        world = self._network.world
        self._rests_until = world.now + seconds
        # Its own role is at work: nothing is delivered to it before that has ended.
        world.after(0.0, self._leave if seconds else self._connect)

    def _leave(self) -> None:
        if self._open and self.connected:
            self._flush_wire(len(self.on_wire) if self._reaches_broker() else 0)
            self._network.detach(self, clean=True)
            self.lost("closed here")

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Flush what is on its way and disconnect without a will."""
        del timeout_s
        self._open = False
        if self.connected:
            self._flush_wire(len(self.on_wire) if self._reaches_broker() else 0)
            self.connected = False
            self._network.detach(self, clean=True)

    # --- what happens to it -----------------------------------------------------------------------------------------

    def kill(self) -> None:
        """The process is gone; what the system had taken may still arrive."""
        self._open = False
        if self.connected:
            self._flush_some()
            self.connected = False
            self._network.detach(self, clean=False)

    def break_off(self, reason: str) -> None:
        """The connection is lost; some of what was on its way had arrived, and all of it is sent again."""
        if not self.connected:
            return
        self._flush_some()
        self._network.detach(self, clean=False)
        self.lost(reason)

    def lost(self, reason: str) -> None:
        """There is no connection any more."""
        if not self.connected:
            return
        self.connected = False
        unacknowledged = [packet for packet in self.on_wire if packet.kind == "publish" and packet.qos > 0]
        self.on_wire.clear()
        self._waiting.extendleft(reversed(unacknowledged))
        self._backoff.ended(self._network.world.now - self._since)
        self._deliver(TransportDisconnected(connection=self.session.connection, reason=reason), None)
        if self._open:
            self._network.world.after(self._backoff.next_s(), self._connect)

    def signed(self) -> None:
        """The broker retains our own word on our will's topic."""
        self._takeovers.signed(self._network.world.now)

    def taken_over(self, other: "SimTransport") -> None:
        """The broker gives our session to another process, and says so; one of the two gives up in the end."""
        self.lost("taken over")
        outlasts = self._takeovers.signature > other._takeovers.signature  # noqa: SLF001 - of its own class
        if self._takeovers.evicted(self._network.world.now, outlasts=outlasts):
            self._open = False
            reason = f"another client uses the id {self.session.client_id!r}"
            self._deliver(TransportFailed(connection=self.session.connection, reason=reason), None)

    def deliver(self, event: MessageReceived, acknowledge: Acknowledge | None) -> None:
        """A message has arrived."""
        self._deliver(event, acknowledge)

    def answered(self) -> None:
        """The broker has answered what was subscribed to at the connect."""
        self._deliver(TransportAnswered(connection=self.session.connection), None)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _reaches_broker(self) -> bool:
        return self._network.reachable(self.session.client_id)

    def _flush_some(self) -> None:
        self._flush_wire(self._network.dice.rng.randrange(len(self.on_wire) + 1) if self._reaches_broker() else 0)

    def _flush_wire(self, count: int) -> None:
        """Let the first packets arrive now: a retained one that arrives after a later one would win over it."""
        for packet in list(self.on_wire)[:count]:
            self._network.take(self, packet)

    def _connect(self) -> None:
        world = self._network.world
        if not self._open or self.connected:
            return
        if (left_s := self._rests_until - world.now) > 0.0:
            world.after(left_s, self._connect)
            return
        if not self._network.reachable(self.session.client_id):
            world.after(max(0.05, self._backoff.next_s()), self._connect)
            return
        self.connected, self._since = True, world.now
        self.generation += 1
        present = self._network.attach(self)
        for topic_filter in self._subscriptions.take_forgotten():
            self._network.send_up(self, Packet("unsubscribe", topic_filter))
        for topic_filter, qos in self._subscriptions.wanted():
            self._network.send_up(self, Packet("subscribe", topic_filter, qos=qos))
        if self.session.tells_answer:
            self._network.send_up(self, Packet("asked", ""))
        waiting, self._waiting = self._waiting, deque()
        for packet in waiting:
            self._network.send_up(self, packet)
        connected = TransportConnected(
            connection=self.session.connection,
            session_present=present,
            packet_bytes_max=self._network.packet_bytes_max,
        )
        self._deliver(connected, None)
