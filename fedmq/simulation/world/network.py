"""The broker and every link to it: delays, losses, cuts, half-dead links and crashes between clients and broker."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

from federation.runtime.transport import MessageReceived
from federation.testing import BrokerSettings, Delivery, MemoryBroker
from fedmq.simulation.world.clock import World
from fedmq.simulation.world.faults import Dice
from fedmq.simulation.world.transcript import Transcript
from fedmq.simulation.world.transport import Packet, SimTransport

__all__ = ["SimNetwork"]

PACKET_OVERHEAD_BYTES = 100
"""MQTT, TCP and IP headers of a publish on a link with a rate."""

KEEPALIVE_TIMEOUT_S = 67.5
"""A link that stands still for longer is given up: 1.5 times the keep-alive of 45 s."""


@dataclass(slots=True)
class _Link:
    """When the newest packet of each direction arrives (TCP keeps their order), and until when each stands still.

    A link with a rate sends one byte after the other: ``up_free_s`` is when it has sent what it was given.
    """

    bytes_per_s: float = 0.0
    up_free_s: float = 0.0
    up_s: float = 0.0
    down_s: float = 0.0
    up_frozen_s: float = 0.0
    down_frozen_s: float = 0.0

    @property
    def frozen_until(self) -> float:
        """When both directions work again."""
        return max(self.up_frozen_s, self.down_frozen_s)


@dataclass(slots=True)
class Counts:
    """What the network did."""

    messages: int = 0
    bytes: int = 0
    dropped: int = 0
    duplicated: int = 0
    reordered: int = 0
    cuts: int = 0


class SimNetwork:
    """One broker; clients are known by their MQTT id.

    Attributes:
        broker: The broker's behaviour.
        down: Whether the broker is dead.
        counts: What happened so far.
        sees: Hears of each message that reaches the broker.
    """

    def __init__(self, world: World, dice: Dice, transcript: Transcript, settings: BrokerSettings) -> None:
        self.world, self.dice, self.transcript = world, dice, transcript
        self.broker = MemoryBroker(settings)
        self.counts = Counts()
        self.down = False
        self.sees: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self._links: dict[str, _Link] = {}
        self._clients: dict[str, SimTransport] = {}
        self._processes: Counter[str] = Counter()

    @property
    def packet_bytes_max(self) -> int:
        """Largest payload that the broker takes."""
        return self.broker.packet_bytes_max

    def reachable(self, client_id: str) -> bool:
        """Whether a connect would succeed now."""
        return not self.down and self._link(client_id).frozen_until <= self.world.now

    def connected(self, client_id: str) -> bool:
        """Whether the broker has a connection of this client."""
        return client_id in self._clients

    def signature(self, client_id: str) -> str:
        """Another one for each process of a client."""
        self._processes[client_id] += 1
        return blake2b(f"{client_id}/{self._processes[client_id]}".encode(), digest_size=8).hexdigest()

    # --- connections ------------------------------------------------------------------------------------------------

    def attach(self, transport: SimTransport) -> bool:
        """Connect; returns whether the broker still had a session."""
        name = transport.session.client_id
        older = self._clients.get(name)
        if older is not None:
            older.taken_over(transport)
        self._clients[name] = transport
        link = self._link(name)
        link.up_s = link.down_s = link.up_free_s = self.world.now  # nothing of the old connection is in its way
        waited = self.broker.connect(name, transport.connect_settings, now=self.world.now)
        present = self.broker.session_present(name)
        self.transcript.note(self.world.now, name, f"connected, session present: {present}")
        # What waited follows the connection's own event, so it must not be handled before that.
        self.send_down(waited)
        return present

    def detach(self, transport: SimTransport, *, clean: bool) -> None:
        """A connection ends at the broker's side; not ``clean``: its will follows."""
        name = transport.session.client_id
        if self._clients.get(name) is transport:
            del self._clients[name]
            out = self.broker.disconnect(name, now=self.world.now, clean=clean)
            self.send_down(out)
            self._plan_wills()

    def cut(self, client_id: str) -> None:
        """The link breaks: part of what was on its way has arrived, the rest must be sent again."""
        transport = self._clients.get(client_id)
        if transport is not None:
            self.counts.cuts += 1
            self.transcript.note(self.world.now, client_id, "connection lost")
            transport.break_off("connection lost")

    def freeze(self, client_id: str, seconds: float, *, up: bool, down: bool) -> None:
        """The link stands still; when it does so for longer than the keep-alive allows, the connection is lost."""
        link, until = self._link(client_id), self.world.now + seconds
        link.up_frozen_s = until if up else link.up_frozen_s
        link.down_frozen_s = until if down else link.down_frozen_s
        self.transcript.note(self.world.now, client_id, f"link frozen for {seconds:.1f} s, up {up}, down {down}")
        if seconds > KEEPALIVE_TIMEOUT_S:
            self.world.after(KEEPALIVE_TIMEOUT_S, partial(self._give_up, client_id))

    def _give_up(self, client_id: str) -> None:
        if self._link(client_id).frozen_until > self.world.now:
            self.cut(client_id)

    def thaw(self) -> None:
        """No link stands still any more; those that did are made anew."""
        for client_id, link in self._links.items():
            frozen = link.frozen_until > self.world.now
            link.up_frozen_s = link.down_frozen_s = 0.0
            if frozen:
                self.cut(client_id)

    def save(self) -> None:
        """The broker writes its state to the disk."""
        if not self.down:
            self.transcript.note(self.world.now, "broker", "saved")
            self.broker.save()

    def crash(self, down_s: float, *, wipe_sessions: bool, wipe_retained: bool, rewind: bool = False) -> None:
        """``kill -9`` of the broker; it starts again after a time."""
        if self.down:
            return
        self.down = True
        text = f"killed, loses sessions: {wipe_sessions}, retained: {wipe_retained}, goes back: {rewind}"
        self.transcript.note(self.world.now, "broker", text)
        for name in self.broker.crash(wipe_sessions=wipe_sessions, wipe_retained=wipe_retained, rewind=rewind):
            transport = self._clients.get(name)  # None: the loss of another connection has killed its process
            if transport is not None:
                transport.break_off("the broker is gone")
        self.world.after(down_s, self._restart)

    def _restart(self) -> None:
        self.down = False
        self.transcript.note(self.world.now, "broker", "started")

    # --- from clients to the broker ---------------------------------------------------------------------------------

    def send_up(self, transport: SimTransport, packet: Packet) -> None:
        """Put a packet of a connected client on its way."""
        dice, name, times = self.dice, transport.session.client_id, 1
        if packet.exposed and dice.active:
            if dice.happens(dice.plan.drop):
                self._dropped(name, "↛", packet.topic, packet.payload)
                return
            times += self._duplicated()
        for _ in range(times):
            at = self._up_time(name, len(packet.payload), held_back=packet.exposed and self._held_back())
            transport.on_wire[packet] = None
            self.world.at(at, partial(self._arrive_up, transport, transport.generation, packet))

    def _arrive_up(self, transport: SimTransport, generation: int, packet: Packet) -> None:
        if transport.connected and transport.generation == generation:
            transport.on_wire.pop(packet, None)
            self.take(transport, packet)

    def take(self, transport: SimTransport, packet: Packet) -> None:
        """A packet has reached the broker."""
        name = transport.session.client_id
        match packet.kind:
            case "publish":
                self._count(packet.payload)
                self.sees(packet.topic, packet.payload)
                self.transcript.message(self.world.now, name, "→", packet.topic, packet.payload)
                out = self.broker.publish(name, packet.topic, packet.payload, qos=packet.qos, retain=packet.retain)
                will = transport.connect_settings.will
                if packet.retain and will is not None and packet.topic == will.topic:
                    transport.signed()
                self.send_down(out)
            case "subscribe":
                self.send_down(self.broker.subscribe(name, packet.topic, qos=packet.qos))
            case "asked":
                answer = partial(self._answer_down, transport, transport.generation)
                self.world.at(self._down_time(name, held_back=0.0), answer)
            case _:
                self.broker.unsubscribe(name, packet.topic)

    # --- from the broker to clients ---------------------------------------------------------------------------------

    def send_down(self, deliveries: Iterable[Delivery]) -> None:
        """Put the broker's deliveries on their way."""
        todo = list(deliveries)
        for delivery in todo:  # grows where a lost message makes room in its window
            transport = self._clients.get(delivery.client_id)
            if transport is None:
                continue
            dice = self.dice
            if dice.active and dice.happens(dice.plan.drop):
                self._dropped(delivery.client_id, "↚", delivery.topic, delivery.payload)
                # As if it had never been queued: Mosquitto drops like that when a queue is full.
                todo += self.broker.ack(delivery.client_id, delivery.mid) if delivery.mid else []
                continue
            arrive = partial(self._arrive_down, transport, transport.generation, delivery)
            for _ in range(1 + (self._duplicated() if dice.active else 0)):
                self.world.at(self._down_time(delivery.client_id, held_back=self._held_back()), arrive)

    def _arrive_down(self, transport: SimTransport, generation: int, delivery: Delivery) -> None:
        if not transport.connected or transport.generation != generation:
            return
        self._count(delivery.payload)
        self.transcript.message(self.world.now, delivery.client_id, "←", delivery.topic, delivery.payload)
        event = MessageReceived(
            topic=delivery.topic, payload=delivery.payload, retained=delivery.retained, duplicate=delivery.duplicate
        )
        acknowledge: Callable[[], None] | None = None
        if delivery.mid:
            acknowledge = partial(self._acknowledge, transport, generation, delivery.mid)
        transport.deliver(event, acknowledge)

    def _answer_down(self, transport: SimTransport, generation: int) -> None:
        if transport.connected and transport.generation == generation:
            transport.answered()

    def _acknowledge(self, transport: SimTransport, generation: int, mid: int) -> None:
        if transport.connected and transport.generation == generation:
            self.send_down(self.broker.ack(transport.session.client_id, mid))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _link(self, client_id: str) -> _Link:
        link = self._links.get(client_id)
        if link is None:
            link = self._links[client_id] = _Link()
        return link

    def limit_uplink(self, client_id: str, bytes_per_s: float) -> None:
        """What this client publishes takes its time; 0 is no limit."""
        self._link(client_id).bytes_per_s = bytes_per_s

    def _up_time(self, client_id: str, size: int, *, held_back: float) -> float:
        link, begins = self._link(client_id), self.world.now
        if link.bytes_per_s:
            link.up_free_s = max(begins, link.up_free_s) + (size + PACKET_OVERHEAD_BYTES) / link.bytes_per_s
            begins = link.up_free_s
        at = max(begins + self.dice.delay(), link.up_frozen_s)
        if held_back:
            return at + held_back
        link.up_s = max(at, link.up_s)
        return link.up_s

    def _down_time(self, client_id: str, *, held_back: float) -> float:
        link = self._link(client_id)
        at = max(self.world.now + self.dice.delay(), link.down_frozen_s)
        if held_back:
            return at + held_back
        link.down_s = max(at, link.down_s)
        return link.down_s

    def _held_back(self) -> float:
        dice = self.dice
        if not dice.happens(dice.plan.reorder):
            return 0.0
        self.counts.reordered += 1
        return dice.plan.reorder_s * dice.rng.random()

    def _duplicated(self) -> int:
        twice = self.dice.happens(self.dice.plan.duplicate)
        self.counts.duplicated += twice
        return int(twice)

    def _dropped(self, client_id: str, mark: str, topic: str, payload: bytes) -> None:
        self.counts.dropped += 1
        self.transcript.message(self.world.now, client_id, mark, topic, payload)

    def _count(self, payload: bytes) -> None:
        self.counts.messages += 1
        self.counts.bytes += len(payload)

    def _plan_wills(self) -> None:
        due = self.broker.next_due()
        if due is not None:
            self.world.at(due, self._publish_wills)

    def _publish_wills(self) -> None:
        if not self.down:
            self.send_down(self.broker.advance(self.world.now))
        due = self.broker.next_due()
        if due is not None and due > self.world.now:
            self.world.at(due, self._publish_wills)
