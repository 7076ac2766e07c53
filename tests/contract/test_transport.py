"""What every transport promises, checked on the one in memory and on MQTT with a real Mosquitto."""

import queue
import random
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import paho.mqtt
import pytest

from federation.errors import PayloadTooLarge
from federation.runtime.local_broker import LocalBroker
from federation.runtime.mqtt import MqttTransport, SessionSettings, parse_broker_url
from federation.runtime.transport import (
    Inbox,
    InboxItem,
    MessageReceived,
    Transport,
    TransportAnswered,
    TransportBlocked,
    TransportConnected,
    TransportDisconnected,
    Will,
)
from federation.testing import MemoryNetwork, MemoryTransport

_WAIT_S = 20.0
_QUIET_S = 0.3
EventT = TypeVar("EventT")


class _World(Protocol):
    """A broker, and transports to it."""

    def transport(self, session: SessionSettings, inbox: Inbox, will: Will | None = None) -> Transport: ...
    def crash(self) -> None: ...
    def restart(self) -> None: ...
    def close(self) -> None: ...


class _MemoryWorld:
    def __init__(self) -> None:
        self._network = MemoryNetwork()
        self._transports: list[MemoryTransport] = []

    def transport(self, session: SessionSettings, inbox: Inbox, will: Will | None = None) -> Transport:
        self._transports.append(MemoryTransport(self._network, session, inbox, will=will))
        return self._transports[-1]

    def crash(self) -> None:
        self._network.crash()

    def restart(self) -> None:
        self._network.restart(self._transports)

    def close(self) -> None:
        for transport in self._transports:
            transport.close()


class _MqttWorld:
    def __init__(self) -> None:
        self._broker = LocalBroker().start()
        self._transports: list[MqttTransport] = []

    def transport(self, session: SessionSettings, inbox: Inbox, will: Will | None = None) -> Transport:
        address = parse_broker_url(self._broker.url)
        transport = MqttTransport(address, session, inbox, will=will, rng=random.Random(7))
        self._transports.append(transport)
        return transport

    def crash(self) -> None:
        self._broker.kill()

    def restart(self) -> None:
        self._broker.restart()

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        self._broker.stop()


MQTT, OTHER_LIBRARY = "mqtt", "mqtt by a library of another release"


@pytest.fixture(params=["memory", *(pytest.param(name, marks=pytest.mark.broker) for name in (MQTT, OTHER_LIBRARY))])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[_World]:
    if request.param == OTHER_LIBRARY:
        monkeypatch.setattr(paho.mqtt, "__version__", "2.3.0")
    factories: dict[str, Callable[[], _World]] = {"memory": _MemoryWorld, MQTT: _MqttWorld, OTHER_LIBRARY: _MqttWorld}
    made = factories[request.param]()
    yield made
    made.close()


class _Client:
    """A transport and what came into its inbox, in order."""

    def __init__(
        self,
        world: _World,
        name: str,
        *,
        manual_ack: bool = False,
        receive_max: int = 16,
        census: str = "",
    ) -> None:
        self.inbox: Inbox = queue.Queue(1_000)
        session = SessionSettings(
            client_id=name,
            manual_ack=manual_ack,
            receive_max=receive_max,
            first_connect_spread_s=0.0,
            reconnect_delay_s_max=0.2,
            census=frozenset({census} - {""}),
            tells_answer=bool(census),
        )
        self.transport = world.transport(session, self.inbox)

    def open(self, *filters: str) -> "_Client":
        for topic_filter in filters:
            self.transport.subscribe(topic_filter)
        self.transport.open()
        assert self.expect(TransportConnected).packet_bytes_max > 65_536
        return self

    def item(self) -> InboxItem:
        """The next thing that happened; that a broker is still away is not told by each world."""
        while isinstance((found := self.inbox.get(timeout=_WAIT_S)).event, TransportBlocked):
            pass
        return found

    def expect(self, kind: type[EventT]) -> EventT:
        event = self.item().event
        assert isinstance(event, kind), event
        return event

    def message(self) -> MessageReceived:
        return self.expect(MessageReceived)

    def is_quiet(self) -> bool:
        try:
            self.inbox.get(timeout=_QUIET_S)
        except queue.Empty:
            return True
        return False


def test_messages_arrive_whole_and_in_order(world: _World) -> None:
    hearer, speaker = _Client(world, "hearer").open("t/+"), _Client(world, "speaker").open()
    payloads = [random.Random(number).randbytes(number * 500) for number in range(1, 60)]
    for payload in payloads:
        speaker.transport.publish("t/x", payload)
    assert [hearer.message().payload for _ in payloads] == payloads


def test_a_transport_hears_itself(world: _World) -> None:
    client = _Client(world, "c").open("t")
    client.transport.publish("t", b"me")
    assert client.message() == MessageReceived(topic="t", payload=b"me")


def test_retained_messages_come_with_the_subscription_and_are_cleared_by_an_empty_one(world: _World) -> None:
    client = _Client(world, "c").open("done")
    client.transport.publish("t/1", b"kept", retain=True)
    client.transport.publish("t/2", b"cleared", retain=True)
    client.transport.publish("t/2", b"", retain=True)
    client.transport.publish("done", b"")
    client.message()
    client.transport.subscribe("t/#")
    assert client.message() == MessageReceived(topic="t/1", payload=b"kept", retained=True)
    assert client.is_quiet()


def test_the_answer_to_what_was_subscribed_comes_after_what_was_retained_of_it(world: _World) -> None:
    """FED-97: once in each connection; what a census asks for has come by then, however much it is."""
    speaker = _Client(world, "speaker").open("done")
    for number in range(50):
        speaker.transport.publish(f"t/{number}", b"kept", retain=True)
    speaker.transport.publish("done", b"")
    speaker.message()
    client = _Client(world, "c", census="t/+").open("t/+", "other")
    assert {client.message().topic for _ in range(50)} == {f"t/{number}" for number in range(50)}
    assert client.expect(TransportAnswered) == TransportAnswered(connection="node")
    client.transport.subscribe("late")
    assert client.is_quiet()
    world.crash()
    client.expect(TransportDisconnected)
    world.restart()
    client.expect(TransportConnected)
    client.expect(TransportAnswered)


def test_after_unsubscribe_nothing_comes(world: _World) -> None:
    client = _Client(world, "c").open("a", "b")
    client.transport.unsubscribe("a")
    client.transport.unsubscribe("never/asked")
    client.transport.publish("a", b"unheard")
    client.transport.publish("b", b"heard")
    assert client.message().topic == "b"


def test_what_is_published_before_the_first_connection_is_sent(world: _World) -> None:
    hearer = _Client(world, "hearer").open("t")
    speaker = _Client(world, "speaker")
    speaker.transport.publish("t", b"early")
    speaker.open()
    assert hearer.message().payload == b"early"


def test_after_a_broker_crash_it_reconnects_subscribes_and_sends_what_waited(world: _World) -> None:
    """[FED-8] The broker kept nothing, and the subscriptions are there again."""
    client = _Client(world, "c").open("t")
    world.crash()
    client.expect(TransportDisconnected)
    client.transport.publish("t", b"offline")
    client.transport.publish("t", b"droppable", qos=0)
    world.restart()
    assert not client.expect(TransportConnected).session_present
    assert client.message().payload == b"offline"
    assert client.is_quiet()


def test_a_subscription_forgotten_while_offline_stays_forgotten(world: _World) -> None:
    client = _Client(world, "c").open("a", "b")
    world.crash()
    client.expect(TransportDisconnected)
    client.transport.unsubscribe("a")
    client.transport.subscribe("late")
    world.restart()
    client.expect(TransportConnected)
    for topic in ("a", "b", "late"):
        client.transport.publish(topic, b"")
    assert [client.message().topic, client.message().topic] == ["b", "late"]
    assert client.is_quiet()


def test_an_oversize_payload_is_refused_before_it_is_sent(world: _World) -> None:
    client = _Client(world, "c").open("t")
    with pytest.raises(PayloadTooLarge, match="262144"):
        client.transport.publish("t", bytes(262_144))
    client.transport.publish("t", b"still here")
    assert client.message().payload == b"still here"


def test_the_window_holds_messages_back_until_they_are_acknowledged(world: _World) -> None:
    hearer = _Client(world, "hearer", manual_ack=True, receive_max=2).open("t")
    speaker = _Client(world, "speaker").open()
    for number in range(5):
        speaker.transport.publish("t", b"%d" % number)
    first, second = hearer.item(), hearer.item()
    assert hearer.is_quiet()
    first.acknowledge()
    assert hearer.message().payload == b"2"
    second.acknowledge()
    assert hearer.message().payload == b"3"


def test_what_was_not_acknowledged_comes_again_to_the_next_connection(world: _World) -> None:
    hearer = _Client(world, "hearer", manual_ack=True).open("t")
    speaker = _Client(world, "speaker").open()
    for number in range(3):
        speaker.transport.publish("t", b"%d" % number)
    first, second, _third = (hearer.item() for _ in range(3))
    first.acknowledge()
    hearer.transport.close()
    second.acknowledge()  # of a connection that is gone: must change nothing
    again = _Client(world, "hearer", manual_ack=True)
    again.transport.open()
    assert again.expect(TransportConnected).session_present
    events = [again.message(), again.message()]
    assert [(event.payload, event.duplicate) for event in events] == [(b"1", True), (b"2", True)]
    assert again.is_quiet()


def test_a_clean_close_sends_what_is_queued_and_no_will(world: _World) -> None:
    watcher = _Client(world, "watcher").open("state", "t")
    inbox: Inbox = queue.Queue(100)
    session = SessionSettings(client_id="c", first_connect_spread_s=0.0)
    transport = world.transport(session, inbox, Will(topic="state", payload=b"lost", delay_s=0))
    transport.open()
    assert isinstance(inbox.get(timeout=_WAIT_S).event, TransportConnected)
    for number in range(50):
        transport.publish("t", b"%d" % number)
    transport.close()
    assert [watcher.message().payload for _ in range(50)] == [b"%d" % number for number in range(50)]
    assert watcher.is_quiet()


def test_a_transport_that_was_never_opened_closes(world: _World) -> None:
    _Client(world, "c").transport.close()
