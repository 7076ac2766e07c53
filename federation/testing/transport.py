"""A transport without a network: the broker in memory puts messages straight into inboxes, when a test says so."""

import queue
import threading
from collections import deque
from collections.abc import Iterable
from functools import partial

from federation.errors import PayloadTooLarge
from federation.runtime.clock import Clock
from federation.runtime.outbound import Outbound, Outgoing
from federation.runtime.session import SessionSettings, publish_packet_bytes
from federation.runtime.subscriptions import Subscriptions
from federation.runtime.transport import (
    Inbox,
    InboxItem,
    MessageReceived,
    TransportAnswered,
    TransportConnected,
    TransportDisconnected,
    TransportEvent,
    Will,
)
from federation.testing.broker import BrokerSettings, ConnectSettings, Delivery, MemoryBroker, WillMessage


class FakeClock:
    """Monotonic seconds that stand still until `advance`."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Seconds since an arbitrary start."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Let ``seconds`` pass, and return the new time.

        Raises:
            ValueError: Time does not go back.
        """
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds}")
        self._now += seconds
        return self._now


class MemoryNetwork:
    """One broker in memory and the transports at it. Thread-safe; nothing happens by itself.

    Args:
        clock: Moves the wills and expiries; default: a clock that stands still.
        settings: The broker's limits.
    """

    def __init__(self, clock: Clock | None = None, settings: BrokerSettings | None = None) -> None:
        self.clock: Clock = FakeClock() if clock is None else clock
        self.broker = MemoryBroker(settings)
        self.lock = threading.RLock()
        self._transports: dict[str, MemoryTransport] = {}
        self._deliveries: deque[Delivery] = deque()
        self._delivering = False
        self._down = False

    def tick(self) -> None:
        """Publish the wills and forget the sessions that are due at the clock's time."""
        with self.lock:
            self.deliver(self.broker.advance(self.clock.now()))

    def crash(self, *, wipe_sessions: bool = True, wipe_retained: bool = True) -> None:
        """Kill the broker; transports stay without it until `restart`."""
        with self.lock:
            self._down = True
            for name in self.broker.crash(wipe_sessions=wipe_sessions, wipe_retained=wipe_retained):
                transport = self._transports[name]
                self._detach(name)
                transport.lost("the broker is gone", waiting=True)

    def restart(self, transports: Iterable["MemoryTransport"]) -> None:
        """The broker is back; these transports reconnect in this order."""
        with self.lock:
            self._down = False
            for transport in transports:
                transport.reconnect()

    def cut(self, transport: "MemoryTransport") -> None:
        """End one connection without a word: the will follows in its time. `MemoryTransport.reconnect` heals it."""
        with self.lock:
            if self._transports.get(transport.session.client_id) is transport:
                self._detach(transport.session.client_id)
                transport.lost("connection lost", waiting=True)
                out = self.broker.disconnect(transport.session.client_id, now=self.clock.now(), clean=False)
                self.deliver(out)

    def attach(self, transport: "MemoryTransport", settings: ConnectSettings) -> list[Delivery] | None:
        """Connect; an older connection with this id ends. Returns what waited, or None when the broker is down."""
        if self._down:
            return None
        name = transport.session.client_id
        older = self._transports.get(name)
        if older is not None:
            self._detach(name)
            older.lost("another client took the session over", waiting=False)
        self._transports[name] = transport
        return self.broker.connect(name, settings, now=self.clock.now())

    def detach(self, transport: "MemoryTransport") -> None:
        """Disconnect cleanly: no will."""
        if self._transports.get(transport.session.client_id) is transport:
            self._detach(transport.session.client_id)
            self.deliver(self.broker.disconnect(transport.session.client_id, now=self.clock.now()))

    def deliver(self, deliveries: Iterable[Delivery]) -> None:
        """Hand deliveries to their transports, in order; what their acknowledgements release follows."""
        self._deliveries.extend(deliveries)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._deliveries:
                delivery = self._deliveries.popleft()
                transport = self._transports.get(delivery.client_id)
                if transport is not None:
                    transport.receive(delivery)
        finally:
            self._delivering = False

    def _detach(self, client_id: str) -> None:
        # What is on its way to this connection does not arrive; it is unacknowledged, so it comes again to the next.
        self._transports.pop(client_id, None)
        self._deliveries = deque(delivery for delivery in self._deliveries if delivery.client_id != client_id)


class MemoryTransport:
    """A `Transport` on a `MemoryNetwork`: what is published arrives before `publish` returns.

    The same session settings, events and promises as over MQTT. It does not reconnect by itself: a test says when.
    """

    def __init__(
        self, network: MemoryNetwork, session: SessionSettings, inbox: Inbox, *, will: Will | None = None
    ) -> None:
        self.session = session
        self._network, self._inbox = network, inbox
        self._connect = ConnectSettings(
            session_expiry_s=session.session_expiry_s,
            receive_max=session.receive_max,
            manual_ack=True,  # as over MQTT: what the inbox does not take is not acknowledged
            will=None if will is None else WillMessage(topic=will.topic, payload=will.payload, delay_s=will.delay_s),
        )
        self._outbound = Outbound(
            messages_max=session.queue_messages_max, bytes_max=session.queue_bytes_max, perishable=session.perishable
        )
        self._packet_bytes_max = min(session.packet_bytes_max, network.broker.packet_bytes_max)
        self._subscriptions = Subscriptions()
        self._untold: deque[InboxItem] = deque()
        self._generation = 0
        self._open = False
        self.connected = False

    @property
    def dropped(self) -> int:
        """Messages that were never sent: the queue was full, or QoS 0 while offline."""
        return self._outbound.dropped

    def open(self) -> None:
        """Connect, when the broker is up."""
        with self._network.lock:
            self._open = True
            self.reconnect()

    def reconnect(self) -> None:
        """Connect again after a loss, subscribe again, and send what waited."""
        with self._network.lock:
            waited = self._network.attach(self, self._connect) if self._open and not self.connected else None
            if waited is None:
                return
            self.connected = True
            self._generation += 1
            client_id, broker = self.session.client_id, self._network.broker
            present = broker.session_present(client_id)
            self._tell(
                TransportConnected(
                    connection=self.session.connection, session_present=present, packet_bytes_max=self._packet_bytes_max
                )
            )
            for topic_filter in self._subscriptions.take_forgotten():
                broker.unsubscribe(client_id, topic_filter)
            self._network.deliver(waited)
            for topic_filter, qos in self._subscriptions.wanted():
                if self.connected:  # a full inbox may have cost this connection already
                    self._network.deliver(broker.subscribe(client_id, topic_filter, qos=qos))
            if self.connected and self.session.tells_answer:
                self._tell(TransportAnswered(connection=self.session.connection))
            self._flush()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish now or after the reconnect; a full queue drops the message and counts it.

        Raises:
            PayloadTooLarge: The packet exceeds the broker's Maximum Packet Size.
        """
        size = publish_packet_bytes(topic, payload, qos=qos)
        if size > self._packet_bytes_max:
            raise PayloadTooLarge(f"{topic}: a packet of {size} B, the broker takes {self._packet_bytes_max} B")
        with self._network.lock:
            if not (self.connected or self._outbound.survives(topic, qos)):
                self._outbound.refuse()
            elif self._outbound.offer(Outgoing(topic, payload, qos, retain)) and self.connected:
                self._flush()

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        """Subscribe now and after every reconnect."""
        with self._network.lock:
            self._subscriptions.add(topic_filter, qos)
            if self.connected:
                broker = self._network.broker
                self._network.deliver(broker.subscribe(self.session.client_id, topic_filter, qos=qos))

    def unsubscribe(self, topic_filter: str) -> None:
        """Forget a subscription."""
        with self._network.lock:
            if self._subscriptions.remove(topic_filter, connected=self.connected):
                self._network.broker.unsubscribe(self.session.client_id, topic_filter)

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Disconnect without a will; `timeout_s` is for transports that wait."""
        del timeout_s
        with self._network.lock:
            self._open, self.connected = False, False
            self._network.detach(self)

    def lost(self, reason: str, *, waiting: bool) -> None:
        """The connection is gone; not ``waiting``: it must not come back by itself."""
        self.connected = False
        self._open = self._open and waiting
        self._outbound.forget_unreliable()
        self._tell(TransportDisconnected(connection=self.session.connection, reason=reason))

    def receive(self, delivery: Delivery) -> None:
        """Put one delivery into the inbox; a full inbox costs the connection, as over MQTT."""
        event = MessageReceived(
            topic=delivery.topic, payload=delivery.payload, retained=delivery.retained, duplicate=delivery.duplicate
        )
        acknowledge = partial(self._acknowledge, self._generation, delivery.mid)
        manual = self.session.manual_ack and delivery.qos > 0
        taken = self._put(InboxItem(event=event, acknowledge=acknowledge) if manual else InboxItem(event=event))
        if not taken:
            self._network.cut(self)
        elif not manual:
            acknowledge()

    def _acknowledge(self, generation: int, mid: int) -> None:
        with self._network.lock:
            if self.connected and generation == self._generation:
                self._network.deliver(self._network.broker.ack(self.session.client_id, mid))

    def _flush(self) -> None:
        while self.connected and (message := self._outbound.take(1)) is not None:
            # In flight for one call: a publish that an inbox of ours answers must not overtake it.
            self._outbound.sent(0, message)
            out = self._network.broker.publish(
                self.session.client_id, message.topic, message.payload, qos=message.qos, retain=message.retain
            )
            self._outbound.settle(0)
            self._network.deliver(out)

    def _tell(self, event: TransportEvent) -> None:
        """An event of ours is never lost: it waits for room, and goes before all that follows."""
        self._untold.append(InboxItem(event=event))
        self._put(None)

    def _put(self, item: InboxItem | None) -> bool:
        try:
            while self._untold:
                self._inbox.put_nowait(self._untold[0])
                self._untold.popleft()
            if item is not None:
                self._inbox.put_nowait(item)
        except queue.Full:
            return False
        return True
