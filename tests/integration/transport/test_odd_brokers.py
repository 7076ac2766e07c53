"""Brokers that say unusual things in CONNACK, SUBACK or DISCONNECT: taken at their word, or told as what they are."""

import queue
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from federation.runtime import mqtt, obstacles
from federation.runtime.mqtt import MqttTransport, SessionSettings, parse_broker_url
from federation.runtime.transport import (
    Inbox,
    TransportBlocked,
    TransportConnected,
    TransportDisconnected,
    TransportFailed,
)
from tests.rigs.scripted_broker import PINGREQ, PUBLISH, ScriptedBroker, connack

LIMIT_S = 30.0
EventT = TypeVar("EventT")
Connect = Callable[..., "Client"]

HEARD_SELDOM = [b"\x13\x00\x00", b"\x13\x0e\x10", b""]
"""Server Keep Alive: never, once an hour, and as we offer."""

SERVER = b"\x1c\x00\x0bhub:1883, x"
"""Server Reference."""


class Client:
    """A transport with its inbox."""

    def __init__(self, url: str, settings: SessionSettings) -> None:
        self.inbox: Inbox = queue.Queue(100)
        self.transport = MqttTransport(parse_broker_url(url), settings, self.inbox, rng=random.Random(3))
        self.transport.subscribe("fl/f/round")
        self.transport.open()

    def until(self, kind: type[EventT]) -> EventT:
        while not isinstance(event := self.inbox.get(timeout=LIMIT_S).event, kind):
            pass
        return event


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Make and open clients; close them afterwards."""
    monkeypatch.setattr(mqtt, "CONNACK_WAIT_S", 5.0)
    monkeypatch.setattr(obstacles, "PROBE_S", 0.2)
    made: list[Client] = []

    def make(broker: ScriptedBroker, **session: Any) -> Client:
        defaults: dict[str, Any] = {"first_connect_spread_s": 0.0, "reconnect_delay_s_max": 0.05}
        made.append(Client(broker.url, SessionSettings(client_id="c", **{**defaults, **session})))
        return made[-1]

    yield make
    for client in made:
        client.transport.close()


@pytest.mark.parametrize("properties", HEARD_SELDOM)
def test_a_dead_link_is_noticed_although_the_broker_wants_to_hear_of_us_seldom(
    connect: Connect, properties: bytes
) -> None:
    """The library adopts the broker's keep-alive: with 0 it said nothing any more, and waited for ever."""
    with ScriptedBroker(connack(properties), pongs=False) as broker:
        client = connect(broker, keepalive_s=1)
        client.until(TransportConnected)
        broker.until(PINGREQ)
        assert client.until(TransportDisconnected).reason == "nothing came in answer to a ping"


def test_a_broker_that_wants_to_hear_of_us_often_does(connect: Connect) -> None:
    with ScriptedBroker(connack(b"\x13\x00\x01")) as broker:
        client = connect(broker, keepalive_s=3_600)
        for _ in range(2):
            broker.until(PINGREQ)
        assert client.transport.connected


def test_one_publish_at_a_time_is_one_at_a_time(connect: Connect) -> None:
    """Receive Maximum 1."""
    with ScriptedBroker(connack(b"\x21\x00\x01")) as broker:
        client = connect(broker)
        client.until(TransportConnected)
        for number in range(5):
            client.transport.publish("t", bytes([number]))
        assert [broker.until(PUBLISH)[-1] for _ in range(5)] == list(range(5))


@pytest.mark.parametrize(
    "properties",
    [b"\x22\xff\xff", b"\x12\x00\x05other", b"\x11\x00\x00\x00\x00", b"\x1f\x00\x02hi\x26\x00\x01a\x00\x01b"],
    ids=["topic aliases", "another client id", "no session", "words"],
)
def test_what_we_do_not_need_changes_nothing(connect: Connect, properties: bytes) -> None:
    with ScriptedBroker(connack(properties)) as broker:
        client = connect(broker)
        client.until(TransportConnected)
        client.transport.publish("t", b"x")
        assert broker.until(PUBLISH).endswith(b"x")


@pytest.mark.parametrize("size", [1, 20, 8_191])
def test_packets_that_are_too_small_end_it_with_the_remedy(connect: Connect, size: int) -> None:
    with ScriptedBroker(connack(b"\x27" + size.to_bytes(4, "big"))) as broker:
        reason = connect(broker).until(TransportFailed).reason
    assert f"packets of {size:,} bytes at most, and 8,192 are needed; raise its limit" in reason


@pytest.mark.parametrize(
    "answer",
    [
        connack(b"\x21\x00\x00"),
        connack(b"\x27\x00\x00\x00\x00"),
        connack(b"\x13\x00\x01\x13\x00\x02"),
        connack(b"\x1f\x00\x02\xff\xfe"),
        b"\xf0\x02\x18\x00",
    ],
    ids=["nothing may be sent", "no packet is small enough", "said twice", "no text", "AUTH"],
)
def test_a_garbled_answer_is_told_as_that_and_asked_for_again(connect: Connect, answer: bytes) -> None:
    with ScriptedBroker(answer) as broker:
        client = connect(broker)
        for _ in range(4):
            assert client.until(TransportBlocked).reason == "an answer that is no MQTT 5"
        assert client.transport.alive


@pytest.mark.parametrize(("code", "words"), [(0x9C, "Use another server"), (0x9D, "Server moved")])
def test_a_broker_that_has_moved_names_the_other_one(connect: Connect, code: int, words: str) -> None:
    """It is not followed: whoever stands in between could say so, too."""
    with ScriptedBroker(connack(SERVER, reason=code)) as broker:
        told = connect(broker).until(TransportBlocked)
    assert told.reason == f"refused by the broker: {words}, and it names 'hub:1883, x'"
    assert "set broker.url" in told.remedy


def test_a_broker_that_moves_later_names_the_other_one(connect: Connect) -> None:
    goodbye = bytes((0xE0, 2 + len(SERVER), 0x9D, len(SERVER))) + SERVER
    with ScriptedBroker(connack(), then=goodbye) as broker:
        told = connect(broker).until(TransportDisconnected)
    said = "the broker said: Server moved, and it names 'hub:1883, x'; let whoever runs it say its address"
    assert told.reason.startswith(said)


def test_a_refused_subscription_is_told_with_its_filter(connect: Connect) -> None:
    """Nothing is ever heard of it: a node would wait for rounds in silence."""
    with ScriptedBroker(connack(), granted=0x87) as broker:
        client = connect(broker)
        client.until(TransportConnected)
        told = client.until(TransportBlocked)
    assert told.reason == "the broker refuses what we ask to hear: fl/f/round (Not authorized)"
    assert "access rules" in told.remedy
