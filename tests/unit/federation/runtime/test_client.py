"""What arrives is read in large pieces and mostly decoded here: the library must not be able to tell."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho import mqtt
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from federation.runtime import client as module
from federation.runtime.address import parse_broker_url
from federation.runtime.client import READ_BYTES, WRITE_BYTES, Client, FastClient, make_client, suits
from federation.runtime.session import SessionSettings

USER_PROPERTY = bytes([0x26, 0, 1]) + b"k" + bytes([0, 1]) + b"v"


@dataclass(slots=True)
class Wire:
    """A socket whose other end has said all that it will say; it comes in pieces.

    Attributes:
        pieces: What each call gets at most.
        calls: How often it was read.
    """

    pieces: list[bytes]
    calls: int = 0

    def recv(self, size: int) -> bytes:
        self.calls += 1
        if not self.pieces:
            raise BlockingIOError
        piece = self.pieces.pop(0)
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def close(self) -> None:
        """The library closes its socket when it goes."""


@dataclass(slots=True)
class Heard:
    """What a client has told of what it read."""

    messages: list[tuple[Any, ...]] = field(default_factory=list)
    settled: list[tuple[int, int, str]] = field(default_factory=list)
    codes: list[MQTTErrorCode] = field(default_factory=list)


ADDRESS, SESSION = parse_broker_url("mqtt://127.0.0.1"), SessionSettings(client_id="c", connection="node")


def ours() -> FastClient:
    made = make_client(ADDRESS, SESSION, None)
    assert isinstance(made, FastClient)
    return made


def slow() -> Client:
    """What is taken with another release of the library."""
    made = Client(ADDRESS, SESSION)
    assert not isinstance(made, FastClient)
    return made


def theirs() -> paho.Client:
    return paho.Client(CallbackAPIVersion.VERSION2, client_id="c", protocol=paho.MQTTv5, manual_ack=True)


def read(client: paho.Client, pieces: Sequence[bytes], *, in_flight: Sequence[int] = ()) -> tuple[Heard, Wire]:
    """All that a client makes of these bytes."""
    heard, wire = Heard(), Wire([piece for piece in pieces if piece])
    client.suppress_exceptions = False
    client._sock = wire  # type: ignore[assignment]
    for mid in in_flight:
        client._out_messages[mid] = paho.MQTTMessage(mid=mid, topic=b"t")
        client._out_messages[mid].info = paho.MQTTMessageInfo(mid)
    client.on_message = lambda _c, _u, m: heard.messages.append(
        (m._topic, bytes(m.payload), m.qos, m.retain, m.dup, m.mid, getattr(m.properties, "UserProperty", []))
    )
    client.on_publish = lambda _c, _u, mid, reason, _p: heard.settled.append((mid, reason.value, str(reason)))
    for _ in range(200):
        code = client._packet_read()
        if code not in {MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN}:
            heard.codes.append(code)
            break
        if code == MQTTErrorCode.MQTT_ERR_AGAIN and not wire.pieces:
            break
    return heard, wire


def packet(kind: int, body: bytes) -> bytes:
    length, left = b"", len(body)
    while True:
        left, low = left >> 7, left & 127
        length += bytes([low | (128 if left else 0)])
        if not left:
            return bytes([kind]) + length + body


def publish(topic: bytes, payload: bytes, flags: int, *, mid: int = 7, properties: bytes = b"") -> bytes:
    identity = mid.to_bytes(2, "big") if flags & 6 else b""
    rest = bytes([len(properties)]) + properties + payload
    return packet(0x30 | flags, len(topic).to_bytes(2, "big") + topic + identity + rest)


@dataclass(slots=True)
class Sink:
    """A socket that takes so much at each call; 0 is one that would block.

    Attributes:
        takes: How much, call by call; then everything.
        sent: What each call was given and has taken.
    """

    takes: list[int]
    sent: list[bytes] = field(default_factory=list)

    def send(self, data: bytes) -> int:
        size = self.takes.pop(0) if self.takes else len(data)
        if not size:
            raise BlockingIOError
        self.sent.append(bytes(data[:size]))
        return len(self.sent[-1])

    def close(self) -> None:
        """The library closes its socket after a DISCONNECT."""


Said = tuple[str, int]
WORDS = st.one_of(
    st.tuples(st.just("publish"), st.integers(0, 40)),
    st.tuples(st.just("whisper"), st.integers(0, 40)),
    st.tuples(st.just("ack"), st.integers(1, 9)),
    st.tuples(st.just("large"), st.integers(WRITE_BYTES - 30, WRITE_BYTES + 30)),
    st.tuples(st.just("write"), st.just(0)),
)


def write(client: paho.Client, words: Sequence[Said], takes: Sequence[int]) -> tuple[list[bytes], list[int]]:
    """What leaves a client that says these words and a farewell, call by call, and what it then calls sent."""
    sink, told = Sink([*takes]), list[int]()
    client.suppress_exceptions = False
    client.on_socket_register_write = lambda _client, _userdata, _socket: None
    client.on_publish = lambda _c, _u, mid, _r, _p: told.append(mid)
    client._sock = sink  # type: ignore[assignment]
    for word, number in words:
        match word:
            case "ack":
                client.ack(number, 1)
            case "write":
                client.loop_write()
            case _:
                client.publish("t", bytes(number), qos=word != "whisper")
    client.disconnect()
    for _ in range(2 * len(words) + len(takes) + 2):
        client.loop_write()
    return sink.sent, told


@given(words=st.lists(WORDS, max_size=8), takes=st.lists(st.sampled_from([0, 1, 7, 200]), max_size=6))
def test_it_writes_what_the_library_writes_however_much_the_connection_takes(
    words: list[Said], takes: list[int]
) -> None:
    bound = {"max_inflight_messages": SESSION.inflight_max, "max_queued_messages": SESSION.inflight_max + 1}
    reference = theirs()
    for name, value in bound.items():
        setattr(reference, name, value)
    sent, told = write(reference, words, takes)
    for client in (ours(), slow()):
        for name, value in bound.items():
            setattr(client, name, value)
        ours_sent, ours_told = write(client, words, takes)
        assert (b"".join(ours_sent), ours_told) == (b"".join(sent), told)


def test_small_packets_that_wait_leave_in_one_call() -> None:
    words = [("publish", 10), ("ack", 3), ("publish", 20), ("publish", WRITE_BYTES), ("ack", 4), ("ack", 5)]
    sent, _ = write(ours(), words, [])
    assert [len(part) for part in sent] == [18 + 4 + 28, WRITE_BYTES + 10, 8, 2]


@pytest.mark.parametrize("at", range(1, 4))
def test_what_another_thread_adds_while_packets_are_joined_is_written_behind_them(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's other threads put packets at the end of its queue, whatever we do with it then."""
    client, sink, seen = ours(), Sink([]), 0
    client.on_socket_register_write = lambda _client, _userdata, _socket: None
    client._sock = sink  # type: ignore[assignment]
    for number in (1, 2, 3):
        client.ack(number, 1)
    ends = module._ends_without_a_word

    def meanwhile(command: int, qos: int) -> bool:
        nonlocal seen
        seen += 1
        if seen == at:
            client.ack(4, 1)
        return ends(command, qos)

    monkeypatch.setattr(module, "_ends_without_a_word", meanwhile)
    client.loop_write()
    client.loop_write()
    acknowledgements = b"".join(sink.sent)
    assert [acknowledgements[start + 3] for start in range(0, len(acknowledgements), 4)] == [1, 2, 3, 4]


PACKETS = st.one_of(
    st.builds(
        publish,
        st.binary(max_size=8),
        st.binary(max_size=300),
        st.sampled_from([0, 1, 2, 3, 8 + 2]),
        mid=st.integers(1, 65_535),
        properties=st.sampled_from([b"", USER_PROPERTY]),
    ),
    st.builds(lambda mid: packet(0x40, mid.to_bytes(2, "big")), st.integers(0, 9)),
    st.builds(
        lambda mid, code: packet(0x40, bytes([0, mid, code])), st.integers(0, 9), st.sampled_from([0, 0x10, 0x87])
    ),
    st.builds(packet, st.sampled_from([0x30, 0x32, 0x40, 0x34]), st.binary(max_size=6)),
)


@given(packets=st.lists(PACKETS, max_size=6), cuts=st.lists(st.integers(1, 40), max_size=8))
def test_it_hears_what_the_library_hears_however_the_bytes_are_cut(packets: list[bytes], cuts: list[int]) -> None:
    stream, pieces = b"".join(packets), list[bytes]()
    for cut in cuts:
        pieces.append(stream[:cut])
        stream = stream[cut:]
    pieces.append(stream)
    expected, _ = read(theirs(), pieces, in_flight=range(10))
    for client in (ours(), slow()):
        assert read(client, pieces, in_flight=range(10))[0] == expected


def test_many_small_packets_are_read_in_one_call() -> None:
    stream = b"".join(publish(b"fl/a", b"x" * 30, 2, mid=mid) for mid in range(1, 51))
    client = ours()
    heard, wire = read(client, [stream])
    assert [message[5] for message in heard.messages] == list(range(1, 51))
    assert wire.calls <= 2
    assert not client.has_read
    assert read(theirs(), [stream])[1].calls > 150


def test_a_body_larger_than_what_is_read_at_once_comes_whole() -> None:
    body = bytes(range(256)) * (READ_BYTES // 64)
    heard, _ = read(ours(), [publish(b"fl/a", body, 2) + publish(b"fl/b", b"after", 2)])
    assert [message[1] for message in heard.messages] == [body, b"after"]


@pytest.mark.parametrize(
    ("release", "suited"),
    [
        ("2.2.0", True),
        ("2.2.7", True),
        ("2.2.1rc1", True),
        ("2.1.0", False),
        ("2.3.0", False),
        ("3.1", False),
        ("21.2", False),
        ("2", False),
        ("", False),
        ("unknown", False),
    ],
)
def test_only_releases_that_were_tested_are_read_fast(release: str, suited: bool) -> None:
    assert suits(release, slow()) is suited


@pytest.mark.parametrize(
    "name", ["_sock_recv", "_handle_publish", "_handle_pubackcomp", "_handle_on_message", "_do_on_publish"]
)
def test_a_library_that_has_renamed_a_method_is_left_to_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert suits("2.2.0", slow())
    monkeypatch.delattr(paho.Client, name)
    assert not suits("2.2.0", slow())


@pytest.mark.parametrize("name", ["_in_packet", "_out_messages", "_out_message_mutex"])
def test_a_library_that_keeps_its_state_elsewhere_is_left_to_itself(name: str) -> None:
    client = slow()
    kept = getattr(client, name)
    delattr(client, name)
    assert not suits("2.2.0", client)
    setattr(client, name, kept)  # the library's own end of a client needs it


def test_another_release_of_the_library_reads_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "__version__", "2.3.0")
    client = make_client(ADDRESS, SESSION, None)
    for name in ("_sock_recv", "_handle_publish", "_handle_pubackcomp"):
        assert getattr(type(client), name) is getattr(paho.Client, name)
    body = bytes(range(256)) * (READ_BYTES // 64)
    stream = publish(b"fl/a", body, 2) + publish(b"fl/b", b"after", 2) + packet(0x40, b"\0\3")
    heard, _ = read(client, [stream[:100], stream[100:]], in_flight=[3])
    assert [message[1] for message in heard.messages] == [body, b"after"]
    assert heard.settled == [(3, 0, "Success")]
    assert not client.has_read


def test_what_was_read_of_one_connection_is_not_taken_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    client = ours()
    client._sock = Wire([b"\x32\x40half of a packet"])  # type: ignore[assignment]
    client._packet_read()
    client._read, client._taken = b"left over", 0
    assert client.has_read
    monkeypatch.setattr(client, "reconnect", lambda: None)
    client.connect_anew(clean=False)
    assert not client.has_read
