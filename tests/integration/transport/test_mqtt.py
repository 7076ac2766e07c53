"""Each trap of MQTT, Mosquitto and the client library that is ours to avoid, against a real broker."""

import contextlib
import io
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog

from federation.errors import PayloadTooLarge
from federation.runtime import mqtt, network_thread, obstacles
from federation.runtime.local_broker import BROKER_LIMITS, LocalBroker, free_port
from federation.runtime.log import configure_log
from federation.runtime.mqtt import MqttTransport, SessionSettings, parse_broker_url
from federation.runtime.network_thread import lost_on_error
from federation.runtime.transport import (
    Inbox,
    InboxItem,
    MessageReceived,
    TransportBlocked,
    TransportConnected,
    TransportDisconnected,
    TransportFailed,
    Will,
)
from federation.testing import TcpProxy

pytestmark = pytest.mark.broker

_WAIT_S = 30.0
_QUIET_S = 0.3
EventT = TypeVar("EventT")
Connect = Callable[..., "Client"]


class Client:
    """A transport with its inbox."""

    def __init__(self, url: str, session: SessionSettings, inbox: Inbox, will: Will | None) -> None:
        self.inbox = inbox
        self.transport = MqttTransport(parse_broker_url(url), session, inbox, will=will, rng=random.Random(3))

    def expect(self, kind: type[EventT]) -> EventT:
        event = self.inbox.get(timeout=_WAIT_S).event
        while isinstance(event, TransportBlocked) and kind is not TransportBlocked:
            event = self.inbox.get(timeout=_WAIT_S).event
        assert isinstance(event, kind), event
        return event

    def until(self, kind: type[EventT]) -> EventT:
        while not isinstance(event := self.inbox.get(timeout=_WAIT_S).event, kind):
            pass
        return event

    def hears(self, topic: str, payload: bytes) -> bool:
        """Whether this message comes soon."""
        with contextlib.suppress(queue.Empty):
            while True:
                match self.inbox.get(timeout=_QUIET_S).event:
                    case MessageReceived() as event if (event.topic, event.payload) == (topic, payload):
                        return True
        return False

    def is_quiet(self) -> bool:
        """Whether nothing comes but that there is no broker."""
        until_s = time.monotonic() + _QUIET_S
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                if not isinstance(self.inbox.get(timeout=left_s).event, TransportBlocked):
                    return False
            except queue.Empty:
                break
        return True


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    """The log of this test, as JSON lines."""
    stream = io.StringIO()
    configure_log(json=True, stream=stream)
    yield stream
    structlog.reset_defaults()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Make and open clients; close them afterwards."""
    made: list[Client] = []

    def make(
        url: str, name: str = "c", *filters: str, inbox: Inbox | None = None, will: Will | None = None, **session: Any
    ) -> Client:
        defaults: dict[str, Any] = {"first_connect_spread_s": 0.0, "reconnect_delay_s_max": 0.2}
        settings = SessionSettings(client_id=name, **{**defaults, **session})
        client = Client(url, settings, queue.Queue(1_000) if inbox is None else inbox, will)
        made.append(client)
        for topic_filter in filters:
            client.transport.subscribe(topic_filter)
        client.transport.open()
        return client

    yield make
    for client in made:
        client.transport.close()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("mqtt-")]
    assert not left, f"network threads are left: {left}"


def _with_limits(**limits: str) -> Mapping[str, str]:
    return {**BROKER_LIMITS, **limits}


def test_the_broker_s_packet_limit_is_known_before_anything_is_sent(connect: Connect) -> None:
    with LocalBroker(settings=_with_limits(max_packet_size="70000")) as broker:
        client = connect(broker.url, "c", "t")
        assert client.expect(TransportConnected).packet_bytes_max == 70_000
        with pytest.raises(PayloadTooLarge, match="70000"):
            client.transport.publish("t", bytes(70_000))
        client.transport.publish("t", bytes(69_980))
        assert len(client.expect(MessageReceived).payload) == 69_980


def test_an_oversize_message_from_before_the_connection_is_dropped_and_blocks_nothing(connect: Connect) -> None:
    with LocalBroker(settings=_with_limits(max_packet_size="70000")) as broker:
        client = Client(broker.url, SessionSettings(client_id="c"), queue.Queue(10), None)
        client.transport.subscribe("t")
        client.transport.publish("t", bytes(100_000))
        client.transport.publish("t", b"small")
        client.transport.open()
        client.expect(TransportConnected)
        assert client.expect(MessageReceived).payload == b"small"
        assert client.transport.dropped == 1
        client.transport.close()


def test_an_unacknowledged_message_that_a_new_broker_refuses_does_not_reconnect_for_ever(connect: Connect) -> None:
    with LocalBroker() as broker, TcpProxy(broker.host, broker.port) as proxy:
        client = connect(f"mqtt://{proxy.host}:{proxy.port}", "c", "t")
        client.expect(TransportConnected)
        proxy.partition(up=True, down=True)
        client.transport.publish("t", bytes(100_000))
        client.transport.publish("t", b"small")
        broker.settings = _with_limits(max_packet_size="70000")
        broker.restart()
        proxy.close_all()
        client.expect(TransportDisconnected)
        proxy.heal()
        client.expect(TransportConnected)
        assert client.expect(MessageReceived).payload == b"small"
        assert client.transport.dropped == 1
        assert client.is_quiet()


def test_an_exception_in_a_callback_costs_the_connection_and_neither_the_thread_nor_the_message(
    broker: LocalBroker, connect: Connect, log: io.StringIO
) -> None:
    class FailingInbox(queue.Queue[InboxItem]):
        failures = 2

        def put(self, item: InboxItem, block: bool = True, timeout: float | None = None) -> None:
            if isinstance(item.event, MessageReceived) and self.failures:
                self.failures -= 1
                raise RuntimeError("a bug")
            super().put(item, block, timeout)

    client = connect(broker.url, "c", "t", inbox=FailingInbox(100))
    client.expect(TransportConnected)
    client.transport.publish("t", b"again")
    assert client.until(MessageReceived) == MessageReceived(topic="t", payload=b"again", duplicate=True)
    assert client.transport.alive
    assert log.getvalue().count("RuntimeError: a bug") == 2


def test_a_full_inbox_costs_the_connection_and_no_message(
    broker: LocalBroker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "INBOX_WAIT_S", 0.05)
    monkeypatch.setattr(network_thread, "INBOX_WAIT_S", 0.05)

    class SmallInbox(queue.Queue[InboxItem]):
        overflowed = threading.Event()

        def put(self, item: InboxItem, block: bool = True, timeout: float | None = None) -> None:
            try:
                super().put(item, block, timeout)
            except queue.Full:
                self.overflowed.set()
                raise

    inbox = SmallInbox(2)
    slow = connect(broker.url, "slow", "t", inbox=inbox)
    slow.expect(TransportConnected)
    speaker = connect(broker.url, "speaker")
    speaker.expect(TransportConnected)
    for number in range(40):
        speaker.transport.publish("t", b"%d" % number)
    assert inbox.overflowed.wait(_WAIT_S)
    got: set[bytes] = set()
    disconnected = False
    while len(got) < 40 or not disconnected:
        event = inbox.get(timeout=_WAIT_S).event
        disconnected = disconnected or isinstance(event, TransportDisconnected)
        if isinstance(event, MessageReceived):
            got.add(event.payload)
    assert got == {b"%d" % number for number in range(40)}


def test_a_client_that_closes_in_order_does_not_say_that_its_connection_was_lost(
    broker: Any, connect: Connect, log: io.StringIO
) -> None:
    client = connect(broker.url)
    client.expect(TransportConnected)
    client.transport.close()
    assert client.until(TransportDisconnected).reason == "closed here"
    assert "connection lost" not in log.getvalue()


def test_a_client_that_rests_leaves_without_its_will_and_comes_back(broker: LocalBroker, connect: Connect) -> None:
    """FED-325: what it has said is there, what is said to it meanwhile waits in its session."""
    watcher = connect(broker.url, "watcher", "state/+")
    watcher.expect(TransportConnected)
    will = Will(topic="state/node", payload=b"lost", delay_s=0)
    node = connect(broker.url, "node", "cmd", will=will)
    node.expect(TransportConnected)
    node.transport.publish("state/node", b"away", retain=True)
    node.transport.rest(2.0)
    assert node.until(TransportDisconnected).reason == "closed here"
    assert watcher.expect(MessageReceived).payload == b"away"
    watcher.transport.publish("cmd", b"for you")
    assert node.until(TransportConnected).session_present
    assert node.until(MessageReceived).payload == b"for you"
    assert not watcher.hears("state/node", b"lost")
    node.transport.rest(3600.0)
    node.until(TransportDisconnected)
    node.transport.rest(0.0)
    node.until(TransportConnected)


def test_a_client_that_rests_can_be_closed(broker: LocalBroker, connect: Connect) -> None:
    node = connect(broker.url)
    node.expect(TransportConnected)
    node.transport.rest(3600.0)
    node.until(TransportDisconnected)
    node.transport.close()
    assert not node.transport.alive


def test_a_client_that_ends_with_an_error_leaves_its_will(broker: LocalBroker, connect: Connect) -> None:
    """A role that cannot go on would be there for ever: retained, and for whoever waits for it."""
    watcher = connect(broker.url, "watcher", "state/+")
    watcher.expect(TransportConnected)
    node = connect(broker.url, "node", will=Will(topic="state/node", payload=b"lost", delay_s=0))
    node.expect(TransportConnected)
    node.transport.publish("state/node", b"said before", retain=True)
    with pytest.raises(RuntimeError), lost_on_error(node.transport, timeout_s=_WAIT_S):
        raise RuntimeError
    assert not node.transport.alive
    assert [watcher.expect(MessageReceived).payload for _ in range(2)] == [b"said before", b"lost"]


def _present(client: Client, topic: str) -> str | None:
    """Do as a role does: say at each connection that it is there. The reason when it gives up, None at the end."""
    while True:
        match client.inbox.get(timeout=_WAIT_S).event:
            case TransportConnected():
                client.transport.publish(topic, b"here", retain=True)
            case TransportFailed(reason=reason):
                return reason
            case None:
                return None


def test_two_clients_with_one_id_end_with_one_that_says_why(broker: LocalBroker, connect: Connect) -> None:
    will = Will(topic="state/same", payload=b"lost")
    clients = [connect(broker.url, "same", will=will, reconnect_delay_s_max=0.05) for _ in range(2)]
    failed: queue.Queue[tuple[Client, str | None]] = queue.Queue()
    threads = [
        threading.Thread(target=lambda c=client: failed.put((c, _present(c, "state/same")))) for client in clients
    ]
    for thread in threads:
        thread.start()
    loser, reason = failed.get(timeout=_WAIT_S)
    assert reason is not None
    assert "another client uses the id 'same'" in reason
    before = loser.transport.dropped
    loser.transport.publish("t", b"unsent")
    assert loser.transport.dropped == before + 1
    (winner,) = (client for client in clients if client is not loser)
    watcher = connect(broker.url, "watcher", "t")
    watcher.expect(TransportConnected)
    winner.transport.publish("t", b"still here")
    assert watcher.expect(MessageReceived).payload == b"still here"
    winner.inbox.put(InboxItem(event=None))
    assert failed.get(timeout=_WAIT_S) == (winner, None)
    for thread in threads:
        thread.join(_WAIT_S)


def test_a_link_that_is_cut_again_and_again_is_not_taken_for_a_twin(broker: LocalBroker, connect: Connect) -> None:
    with TcpProxy(broker.host, broker.port) as proxy:
        will = Will(topic="state/c", payload=b"lost")
        client = connect(f"mqtt://{proxy.host}:{proxy.port}", "c", will=will, reconnect_delay_s_max=0.05)
        for _ in range(8):
            client.expect(TransportConnected)
            client.transport.publish("state/c", b"here", retain=True)
            proxy.close_all()
            client.expect(TransportDisconnected)
        assert client.expect(TransportConnected).session_present


def test_the_own_state_is_read_by_the_transport_and_by_a_role_that_asks(broker: LocalBroker, connect: Connect) -> None:
    will = Will(topic="state/c", payload=b"lost")
    client = connect(broker.url, "c", "t", will=will)
    client.expect(TransportConnected)
    client.transport.publish("state/c", b"here", retain=True)
    client.transport.publish("t", b"after it")
    assert client.expect(MessageReceived).payload == b"after it"
    own = connect(broker.url, "own", "state/own", will=Will(topic="state/own", payload=b"lost"))
    own.expect(TransportConnected)
    own.transport.publish("state/own", b"our own word", retain=True)
    assert own.expect(MessageReceived).payload == b"our own word"  # so the broker has nothing newer
    client.transport.publish("t", b"later")
    client.expect(MessageReceived)
    client.transport.publish("state/own", b"somebody else's", retain=True)
    assert own.expect(MessageReceived).payload == b"somebody else's"
    client.transport.publish("state/own", b"", retain=True)
    assert own.expect(MessageReceived).payload == b""


def test_refused_credentials_are_tried_again_for_ever_with_the_reason(connect: Connect, log: io.StringIO) -> None:
    with LocalBroker(lines=("allow_anonymous false",)) as broker:
        client = connect(broker.url, refused_delay_s_max=0.4)
        for _ in range(5):
            blocked = client.expect(TransportBlocked)
            assert "Not authorized" in blocked.reason
            assert "password" in blocked.remedy
        assert client.transport.alive
        assert not client.transport.connected
    assert '"level": "error"' in log.getvalue()


def test_who_is_let_in_after_many_refusals_connects_by_itself(connect: Connect, tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    passwords.chmod(0o644)
    with LocalBroker(lines=("allow_anonymous false", f"password_file {passwords}")) as broker:
        client = connect(broker.url.replace("//", "//me:secret@"), refused_delay_s_max=0.4)
        for _ in range(4):
            client.expect(TransportBlocked)
        subprocess.run([shutil.which("mosquitto_passwd") or "", "-b", str(passwords), "me", "secret"], check=True)
        os.kill(broker.pid, signal.SIGHUP)
        client.expect(TransportConnected)


@pytest.mark.parametrize(
    ("setting", "said"), [("retain_available false", "keeps no retained messages"), ("max_qos 0", "knows QoS 0 only")]
)
@pytest.mark.parametrize("will", [None, Will(topic="state/c", payload=b"lost")])
def test_a_broker_that_cannot_do_it_is_named_and_given_up(
    setting: str, said: str, will: Will | None, connect: Connect
) -> None:
    with LocalBroker(lines=(setting,)) as broker:
        reason = connect(broker.url, will=will).expect(TransportFailed).reason
    assert f"this broker {said}; use another broker: docs/reference/brokers.md" in reason


def test_a_broker_with_too_small_packets_is_given_up(connect: Connect) -> None:
    with LocalBroker(settings=_with_limits(max_packet_size="4096")) as broker:
        assert (
            "packets of 4,096 bytes at most, and 8,192 are needed" in connect(broker.url).expect(TransportFailed).reason
        )


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({5: b"\x20\x02\x00\x01"}, "does not speak MQTT 5"),  # aedes
        ({5: b"\x20\x02\x00\x05"}, "does not speak MQTT 5"),
        ({5: b"", 4: b"\x20\x02\x00\x00"}, "does not speak MQTT 5"),  # RabbitMQ 3.10
        ({5: None, 4: b"\x20\x02\x00\x05"}, "does not speak MQTT 5"),  # amqtt
        ({5: b"\x20\x02\x00\x00"}, "does not speak MQTT 5"),  # accepts anything
    ],
)
def test_a_broker_of_an_older_mqtt_is_named_and_given_up(
    answers: dict[int, bytes | None], said: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "CONNACK_WAIT_S", 0.2)
    monkeypatch.setattr(obstacles, "PROBE_S", 0.2)
    with OldBroker({4: b"\x20\x02\x00\x00"} | answers) as url:
        assert said in connect(url).until(TransportFailed).reason


@pytest.mark.parametrize("answer", [b"", None])
def test_a_server_that_says_nothing_at_all_is_asked_again_and_again(
    answer: bytes | None, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "CONNACK_WAIT_S", 0.2)
    monkeypatch.setattr(obstacles, "PROBE_S", 0.2)
    with OldBroker({4: answer, 5: answer}) as url:
        client = connect(url)
        for _ in range(5):
            blocked = client.expect(TransportBlocked)
            assert "the broker has not answered CONNECT" in blocked.reason
            assert "whether it speaks MQTT 5 (docs/reference/brokers.md), whether this port wants TLS" in blocked.remedy
        assert client.transport.alive


def test_a_broker_that_wants_to_hear_of_us_sooner_than_we_offer_does(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Server Keep Alive of 3 s was heard of every 5 s: such a broker ended the connection, again and again."""
    monkeypatch.setattr(mqtt, "TICK_S_MAX", 3_600.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(_WAIT_S)
        connect(f"mqtt://127.0.0.1:{listener.getsockname()[1]}", keepalive_s=3_600)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(_WAIT_S)
            connection.recv(4_096)
            connection.sendall(b"\x20\x06\x00\x00\x03\x13\x00\x01")
            while (packet := connection.recv(4_096)) and b"\xc0\x00" not in packet:
                pass
    assert packet


LEVEL = 8
"""Where a CONNECT has the protocol's level."""


class OldBroker:
    """Answers CONNECT of each level with some bytes, and closes; None keeps the connection without a word."""

    def __init__(self, answers: Mapping[int, bytes | None]) -> None:
        self._answers, self._kept = answers, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            packet = self._packet(connection)
            if len(packet) <= LEVEL:  # who asked has given up before it said anything
                connection.close()
                continue
            answer = self._answers[packet[LEVEL]]
            if answer is None:
                self._kept.append(connection)
                continue
            with contextlib.suppress(OSError):
                connection.sendall(answer)
            connection.close()

    @staticmethod
    def _packet(connection: socket.socket) -> bytes:
        with contextlib.suppress(OSError):
            return connection.recv(4096)
        return b""

    def __enter__(self) -> str:
        self._thread.start()
        return f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_WAIT_S)
        for one in self._kept:
            one.close()


def test_two_federations_whose_broker_gives_them_one_id_end_with_one_that_says_why(
    broker: LocalBroker, connect: Connect
) -> None:
    """As with one certificate in two federations: Mosquitto says nothing, but each hears what the other asked for."""
    clients = [
        connect(broker.url, "edge-01", f"fl/{name}/srv", will=Will(topic=f"fl/{name}/n/edge-01/state", payload=b"lost"))
        for name in ("a", "b")
    ]
    speaker = connect(broker.url, "coordinators")
    until_s = time.monotonic() + _WAIT_S
    while all(client.transport.alive for client in clients) and time.monotonic() < until_s:
        for name in ("a", "b"):
            speaker.transport.publish(f"fl/{name}/srv", b"here")
        time.sleep(0.02)
    (loser,) = (client for client in clients if not client.transport.alive)
    (winner,) = (client for client in clients if client is not loser)
    assert "another client uses the id 'edge-01'" in loser.until(TransportFailed).reason
    mine = "a" if winner is clients[0] else "b"
    for number in range(1_000):  # a session that the other one has left behind is begun anew once more
        for name in ("a", "b"):
            speaker.transport.publish(f"fl/{name}/srv", b"%d" % number)
        if winner.hears(f"fl/{mine}/srv", b"%d" % number):
            break
    for name in ("a", "b"):
        speaker.transport.publish(f"fl/{name}/srv", b"last")
    assert winner.expect(MessageReceived) == MessageReceived(topic=f"fl/{mine}/srv", payload=b"last")
    assert winner.is_quiet()


def test_a_name_whose_first_address_is_silent_reaches_the_second(
    broker: LocalBroker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one takes the connection and never answers CONNECT."""
    monkeypatch.setattr(mqtt, "CONNACK_WAIT_S", 0.3)
    monkeypatch.setattr(obstacles, "PROBE_S", 0.1)
    with socket.create_server(("127.0.0.2", broker.port)):
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, broker.port)) for host in ("127.0.0.2", broker.host)
        ]
        monkeypatch.setattr("federation.runtime.dial.socket.getaddrinfo", lambda *_, **__: found)
        connect(f"mqtt://broker.example:{broker.port}").expect(TransportConnected)


def test_a_broker_that_is_away_is_waited_for(broker: LocalBroker, connect: Connect) -> None:
    broker.kill()
    client = connect(broker.url)
    assert client.is_quiet()
    broker.restart()
    client.expect(TransportConnected)


def test_a_server_that_never_answers_is_left(
    broker: LocalBroker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "CONNACK_WAIT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(_WAIT_S)
        connect(f"mqtt://127.0.0.1:{silent.getsockname()[1]}", keepalive_s=1)
        first, _ = silent.accept()
        second, _ = silent.accept()
        first.close()
        second.close()


def test_a_silent_partition_is_noticed_by_the_keep_alive(broker: LocalBroker, connect: Connect) -> None:
    with TcpProxy(broker.host, broker.port) as proxy:
        client = connect(f"mqtt://{proxy.host}:{proxy.port}", "c", "t", keepalive_s=1)
        client.expect(TransportConnected)
        proxy.partition(down=True, up=False)
        client.expect(TransportDisconnected)
        proxy.heal()
        assert client.expect(TransportConnected).session_present


def test_the_will_comes_after_its_delay_and_not_when_the_client_is_back_in_time(
    broker: LocalBroker, connect: Connect
) -> None:
    watcher = connect(broker.url, "watcher", "state/+")
    watcher.expect(TransportConnected)
    with TcpProxy(broker.host, broker.port) as bad, TcpProxy(broker.host, broker.port) as dead:
        will = Will(topic="state/back", payload=b"lost", delay_s=2)
        back = connect(f"mqtt://{bad.host}:{bad.port}", "back", will=will)
        back.expect(TransportConnected)
        bad.close_all()
        back.expect(TransportDisconnected)
        back.expect(TransportConnected)
        will = Will(topic="state/gone", payload=b"lost", delay_s=3)
        gone = connect(f"mqtt://{dead.host}:{dead.port}", "gone", will=will)
        gone.expect(TransportConnected)
        dead.refuse()
        assert watcher.expect(MessageReceived) == MessageReceived(topic="state/gone", payload=b"lost")
        late = connect(broker.url, "late", "state/#")
        late.expect(TransportConnected)
        assert late.expect(MessageReceived) == MessageReceived(topic="state/gone", payload=b"lost", retained=True)
        assert late.is_quiet()


def test_a_session_survives_an_orderly_restart_of_a_broker_with_a_store(broker: LocalBroker, connect: Connect) -> None:
    client = connect(broker.url, "c", "t")
    client.expect(TransportConnected)
    client.transport.publish("kept", b"1", retain=True)
    client.transport.publish("t", b"")
    client.expect(MessageReceived)
    broker.restart()
    client.expect(TransportDisconnected)
    assert client.expect(TransportConnected).session_present
    client.transport.subscribe("kept")
    while not client.expect(MessageReceived).retained:
        pass  # the message from before, when the broker went before it saw our acknowledgement
    broker.restart(wipe_store=True)
    client.expect(TransportDisconnected)
    assert not client.expect(TransportConnected).session_present
    assert client.is_quiet()


def test_the_outgoing_queue_is_bounded_while_the_broker_is_away(broker: LocalBroker, connect: Connect) -> None:
    broker.kill()
    client = connect(broker.url, "c", "t", queue_messages_max=5)
    for number in range(8):
        client.transport.publish("t", b"%d" % number)
    assert client.transport.dropped == 3
    broker.restart()
    client.expect(TransportConnected)
    assert [client.expect(MessageReceived).payload for _ in range(5)] == [b"%d" % number for number in range(5)]


def test_a_broker_that_refuses_a_publish_says_so_and_the_next_one_passes(connect: Connect, tmp_path: Path) -> None:
    rules = tmp_path / "acl"
    rules.write_text("user edge\ntopic readwrite allowed\n")
    rules.chmod(0o600)
    with LocalBroker(lines=(f"acl_file {rules}",)) as broker:
        client = connect(broker.url.replace("//", "//edge:any@"), "c", "allowed")
        client.expect(TransportConnected)
        client.transport.publish("forbidden", b"1")
        client.transport.publish("allowed", b"2")
        assert client.expect(MessageReceived).payload == b"2"
        assert client.transport.refused == 1


def test_a_subscription_forgotten_while_the_link_was_down_is_forgotten_by_the_session(
    broker: LocalBroker, connect: Connect
) -> None:
    with TcpProxy(broker.host, broker.port) as proxy:
        client = connect(f"mqtt://{proxy.host}:{proxy.port}", "c", "a", "b")
        client.expect(TransportConnected)
        proxy.refuse()
        client.expect(TransportDisconnected)
        client.transport.unsubscribe("a")
        proxy.heal()
        assert client.expect(TransportConnected).session_present
        client.transport.publish("a", b"unheard")
        client.transport.publish("b", b"heard")
        assert client.expect(MessageReceived).topic == "b"


def test_close_does_not_wait_longer_than_it_may(broker: LocalBroker, connect: Connect) -> None:
    with TcpProxy(broker.host, broker.port) as proxy:
        client = connect(f"mqtt://{proxy.host}:{proxy.port}")
        client.expect(TransportConnected)
        proxy.partition()
        client.transport.publish("t", b"never acknowledged")
        client.transport.close(timeout_s=0.1)
        assert not client.transport.alive


def test_small_messages_leave_at_once(broker: LocalBroker, connect: Connect) -> None:
    client = connect(broker.url)
    client.expect(TransportConnected)
    connection = client.transport._client.socket()
    assert isinstance(connection, socket.socket)
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_bulk_beyond_every_window_arrives_whole(broker: LocalBroker, connect: Connect) -> None:
    hearer = connect(broker.url, "hearer", "up/#", receive_max=64)
    hearer.expect(TransportConnected)
    speakers = [connect(broker.url, f"s{number}") for number in range(3)]
    body = random.Random(1).randbytes(61_440)
    for speaker in speakers:
        for index in range(100):
            speaker.transport.publish(f"up/{index}", body)
    topics = [hearer.expect(MessageReceived) for _ in range(300)]
    assert all(message.payload == body for message in topics)
    assert sorted(message.topic for message in topics) == sorted(
        f"up/{index}" for index in range(100) for _ in range(3)
    )


def test_websockets_carry_the_same(connect: Connect) -> None:
    port = free_port()
    # A listener beside the plain one: Mosquitto 2.0.11 does not start with websockets alone.
    with LocalBroker(lines=(f"listener {port} 127.0.0.1", "protocol websockets")):
        client = connect(f"ws://127.0.0.1:{port}", "c", "t")
        client.expect(TransportConnected)
        client.transport.publish("t", bytes(60_000))
        assert client.expect(MessageReceived).payload == bytes(60_000)


def test_an_acknowledgement_of_a_former_connection_is_none_of_this_one(broker: LocalBroker, connect: Connect) -> None:
    """The same packet id may belong to another message there, which nobody has seen."""
    client = connect(broker.url, "c", "work", "echo", manual_ack=True)
    client.expect(TransportConnected)
    client.transport.publish("work", b"")

    def taken(topic: str) -> InboxItem:
        item = client.inbox.get(timeout=_WAIT_S)
        while not (isinstance(item.event, MessageReceived) and item.event.topic == topic):
            item = client.inbox.get(timeout=_WAIT_S)
        return item

    former = taken("work")
    for _ in range(2):
        broker.restart()
        assert taken("work").event == MessageReceived(topic="work", payload=b"", retained=False, duplicate=True)
        former.acknowledge()
        client.transport.publish("echo", b"")
        taken("echo").acknowledge()  # by now the broker has what was sent before


def test_all_that_is_retained_comes_however_much_it_is(connect: Connect) -> None:
    """FED-193: more than the broker queues of QoS 1 for one subscriber; what follows comes with QoS 1, once."""
    count, filters = 600, "fl/t/n/+/state"
    with LocalBroker(settings=_with_limits(max_queued_messages="200")) as broker:
        made = connect(broker.url, "maker", inflight_max=50)
        made.expect(TransportConnected)
        for number in range(count):
            made.transport.publish(f"fl/t/n/{number}/state", b"here", retain=True)
        made.transport.publish("fl/t/n/last/state", b"here", retain=True)
        assert connect(broker.url, "watch", "fl/t/n/last/state").until(MessageReceived).topic

        def heard(name: str, **session: Any) -> tuple["Client", set[str]]:
            inbox: Inbox = queue.Queue(10_000)
            client = connect(broker.url, name, filters, inbox=inbox, **session)
            topics = set()
            with contextlib.suppress(queue.Empty):
                while True:
                    event = inbox.get(timeout=1.0).event
                    topics |= {event.topic} if isinstance(event, MessageReceived) else set()
            return client, topics

        assert len(heard("without")[1]) < count
        client, topics = heard("with", census=frozenset({filters}), manual_ack=True)
        assert len(topics) == count + 1
        made.transport.publish("fl/t/n/7/state", b"gone", retain=True)
        assert client.until(MessageReceived).payload == b"gone"
        assert client.is_quiet()
