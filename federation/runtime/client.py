"""The client library's client as we set it up: on connections that we make, with what we ask of each session.

`FastClient` reads and decodes most packets by itself, and joins those that it writes, through names that the library
keeps for itself. So it is taken only with releases of the library that the tests hold it against (`FAST_RELEASES`), and
where all of these names are there. With any other release `Client` leaves reading and writing to the library: slower,
and as right.
"""

import datetime as dt
import os
import re
import socket
import ssl
from typing import Any, Literal, Protocol

from paho import mqtt
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from federation.identity.certificate_facts import CertificateFacts, presented, rejected, untrusted
from federation.runtime.address import BrokerAddress, TlsContexts, alert_of, read_password
from federation.runtime.dial import dial
from federation.runtime.obstacles import Obstacle, away
from federation.runtime.session import SessionSettings
from federation.runtime.transport import Will

__all__ = ["Client", "Connection", "FastClient", "make_client", "suits"]

CONNECT_WAIT_S = 5.0
"""How long a connection, and a TLS handshake, may take, in seconds."""

READ_BYTES = 16_384
"""So much is read at once, in bytes: some small messages, and less than a chunk of a model."""

WRITE_BYTES = 65_536
"""So much of small packets is written at once, in bytes: about what a connection takes."""

FAST_RELEASES: tuple[tuple[str, str], ...] = (("2", "2"),)
"""Releases of the library, by their first two numbers, with which `FastClient` hears what the library hears."""

_METHODS = ("_sock_recv", "_handle_publish", "_handle_pubackcomp", "_handle_on_message", "_do_on_publish")
_ATTRIBUTES = ("_in_packet", "_out_packet", "_out_messages", "_out_message_mutex")

_PUBLISH, _DISCONNECT = PacketTypes.PUBLISH << 4, PacketTypes.DISCONNECT << 4

PLAIN_PUBACK_BYTES = 2
PLAIN_TOPIC_AT = 2
"""Where a topic begins; one that ends there stands for another, which the library knows."""

DONE = MQTTErrorCode.MQTT_ERR_SUCCESS
_SUCCESS = ReasonCode(PacketTypes.PUBACK, "Success")
_NOTHING = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]


class Connection(Protocol):
    """What the library gives us as its socket: plain, TLS or websocket."""

    def fileno(self) -> int:
        """Its descriptor."""

    def close(self) -> None:
        """End it."""


class Client(paho.Client):
    """The library's client, on connections that we make: to the first address that answers."""

    def __init__(self, address: BrokerAddress, session: SessionSettings) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=session.client_id,
            protocol=paho.MQTTv5,
            transport=address.transport,
            reconnect_on_failure=False,
            manual_ack=True,  # always: an automatic PUBACK would follow also a message that the inbox did not take
        )
        self._address, self._session = address, session
        self._contexts = None if address.tls is None else TlsContexts(address.tls)
        if self._contexts is not None:
            self.tls_set_context(self._contexts)  # type: ignore[arg-type]
        self._alert: ssl.SSLError | None = None
        self._peer = ""
        self._silent: set[str] = set()

    def renew_credentials(self) -> None:
        """Read certificates, key and password again, as they may have been renewed while this process runs.

        Raises:
            ConfigError: One cannot be used: what was read before goes on being used.
        """
        file = self._address.password_file
        if file is not None and file.is_file():  # a pipe is filled once
            self.username_pw_set(self._address.username, read_password(file))
        if self._contexts is not None:
            self._contexts.renew()

    def connect_anew(self, *, clean: bool) -> None:
        """Connect, and say CONNECT; ``clean`` forgets the session.

        Raises:
            OSError: There is no connection.
            ValueError: The server speaks something else.
        """
        self._alert = None
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._session.session_expiry_s
        properties.ReceiveMaximum = self._session.receive_max
        properties.MaximumPacketSize = self._session.packet_bytes_max
        self.connect_async(
            self._address.host,
            self._address.port,
            keepalive=self._session.keepalive_s,
            clean_start=clean,
            properties=properties,
        )
        self.reconnect()

    def ping_within(self, seconds: int) -> None:
        """Say something after so long at the latest, though the broker asks for it seldom, or never.

        It may want to hear of us seldom; we want to hear of it: of a dead link nothing comes.
        """
        self._keepalive = min(self._keepalive or seconds, seconds)

    @property
    def has_read(self) -> bool:
        """Whether bytes were read of the connection that no packet was made of yet: no selector can see them."""
        return False

    def make_connection(self) -> socket.socket:
        """A connection beside the client's own, through TLS where that is.

        Raises:
            OSError: There is none.
        """
        plain = self._create_socket_connection()
        return plain if self._contexts is None else self._secured(plain, self._contexts)

    def obstacle(self, problem: Exception) -> Obstacle:
        """Why `connect_anew` has failed."""
        tls = self._address.tls
        if tls is None or not isinstance(problem, ssl.SSLError):
            return away(str(problem) or type(problem).__name__)
        return untrusted(problem, self._address.host, tls, self._presented, dt.datetime.now(dt.UTC))

    def refusal(self) -> Obstacle | None:
        """Why a connection may have ended without an answer, where TLS or our own certificate says it."""
        tls = self._address.tls
        if tls is None:
            return None
        return rejected(self._alert or alert_of(self.make_connection), tls, dt.datetime.now(dt.UTC))

    def _presented(self) -> CertificateFacts | None:
        return presented(lambda context: self._secured(self._create_socket_connection(), context))

    def _secured(self, plain: socket.socket, context: ssl.SSLContext | TlsContexts) -> ssl.SSLSocket:
        try:
            return context.wrap_socket(plain, server_hostname=self._address.host)
        except BaseException:
            plain.close()
            raise

    def distrust(self) -> None:
        """The address that has taken the connection says nothing: others come first."""
        self._silent.add(self._peer)

    def _create_socket_connection(self) -> socket.socket:
        made = dial(self._address.host, self._address.port, timeout_s=CONNECT_WAIT_S, last=self._silent)
        self._peer = str(made.getpeername()[0])
        return made


class FastClient(Client):
    """One that reads and writes in large pieces, and decodes most packets without the library's objects for them."""

    def __init__(self, address: BrokerAddress, session: SessionSettings) -> None:
        super().__init__(address, session)
        self._read, self._taken = b"", 0

    def connect_anew(self, *, clean: bool) -> None:
        """The same; what was read of the connection before is not taken for this one's."""
        self._read, self._taken = b"", 0
        super().connect_anew(clean=clean)

    @property
    def has_read(self) -> bool:
        """Whether bytes were read of the connection that no packet was made of yet: no selector can see them."""
        return self._taken < len(self._read)

    def _sock_recv(self, bufsize: int) -> bytes:
        """What the library asks for: a packet's first byte, its length, its rest, each apart; read in one call for all.

        A body that is larger than what is read at once comes as it does without this.
        """
        if not self.has_read:
            if bufsize >= READ_BYTES or self._address.transport != "tcp":
                return self._received(bufsize)
            self._read, self._taken = self._received(READ_BYTES), 0
        part = self._read[self._taken : self._taken + bufsize]
        self._taken += len(part)
        return part

    def _received(self, bufsize: int) -> bytes:
        try:
            return super()._sock_recv(bufsize)
        except ssl.SSLError as alert:
            self._alert = alert  # the library says only that the connection is lost
            raise

    def loop_write(self) -> MQTTErrorCode:
        """The same, with small packets in one call: the interpreter goes to another thread, and back, with each."""
        if len(self._out_packet) > 1:
            self._join_waiting()
        return super().loop_write()

    def _join_waiting(self) -> None:
        """Put in place of small packets that stand behind each other one with the bytes of all.

        Another thread may add packets at the end meanwhile: what is here is taken from the front, and goes back there.
        """
        joined, run, size = list[Any](), list[bytes | bytearray](), 0
        for _ in range(len(self._out_packet)):
            one = self._out_packet.popleft()
            joins = one["to_process"] < WRITE_BYTES and _ends_without_a_word(one["command"], one["qos"])
            if run and not (joins and size + one["to_process"] <= WRITE_BYTES):
                joined.append(_joined(run, size))
                run, size = [], 0
            if joins:
                run.append(one["packet"][one["pos"] :])
                size += one["to_process"]
            else:
                joined.append(one)
        if run:
            joined.append(_joined(run, size))
        self._out_packet.extendleft(reversed(joined))

    def _handle_publish(self) -> MQTTErrorCode:
        """A PUBLISH without properties, as nearly all are: the library would make an object for them, and copies."""
        header, packet = self._in_packet["command"], self._in_packet["packet"]
        qos, named = header >> 1 & 3, 2 + int.from_bytes(packet[:2], "big")
        begin = named + 2 * (qos > 0)
        if qos > 1 or named == PLAIN_TOPIC_AT or len(packet) <= begin or packet[begin]:
            return super()._handle_publish()
        message = paho.MQTTMessage(mid=int.from_bytes(packet[named:begin], "big"), topic=bytes(packet[2:named]))
        message.dup, message.qos, message.retain = bool(header & 8), qos, bool(header & 1)
        message.payload = bytes(packet[begin + 1 :])
        self._handle_on_message(message)
        return DONE

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        """A PUBACK of two bytes says success and nothing else, as nearly all do: there is no more to decode."""
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) != PLAIN_PUBACK_BYTES:
            return super()._handle_pubackcomp(cmd)
        mid = int.from_bytes(packet, "big")
        with self._out_message_mutex:
            return self._do_on_publish(mid, _SUCCESS, _NOTHING) if mid in self._out_messages else DONE


def _joined(packets: list[bytes | bytearray], size: int) -> dict[str, Any]:
    """One of the library's packets with the bytes of several, of which it knows nothing else."""
    return {
        "command": 0,
        "mid": 0,
        "qos": 1,
        "pos": 0,
        "to_process": size,
        "packet": b"".join(packets),
        "info": None,
    }


def _ends_without_a_word(command: int, qos: int) -> bool:
    """Whether the library does nothing more once it has written such a packet."""
    return command & 0xF0 != _DISCONNECT and (qos > 0 or command & 0xF0 != _PUBLISH)


def suits(release: str, client: paho.Client) -> bool:
    """Whether `FastClient` knows this release of the library, and finds in its client all that it goes by."""
    known = tuple(re.split(r"\D", release)[:2]) in FAST_RELEASES
    methods = all(hasattr(paho.Client, name) for name in _METHODS)
    return known and methods and all(hasattr(client, name) for name in _ATTRIBUTES)


def make_client(address: BrokerAddress, session: SessionSettings, will: Will | None) -> Client:
    """A client that has not connected yet.

    Raises:
        ConfigError: A certificate or a key cannot be read.
    """
    client: Client = FastClient(address, session)
    if not suits(mqtt.__version__, client):
        client = Client(address, session)
    # Our thread catches what a callback raises, says it, and connects anew: suppressing would lose the message.
    client.suppress_exceptions = False
    client.connect_timeout = CONNECT_WAIT_S
    client.max_inflight_messages = session.inflight_max
    client.max_queued_messages = session.inflight_max + 1
    if address.username is not None:
        client.username_pw_set(address.username, address.password)
    if address.transport == "websockets":
        client.ws_set_options(path=address.path)
    if will is not None:
        delay = None
        if will.delay_s:  # some brokers know no such property
            delay = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
            delay.WillDelayInterval = will.delay_s
        client.will_set(will.topic, will.payload, qos=1, retain=True, properties=delay)
    client.on_socket_open = _without_delay
    # With this callback the library never writes by itself: all bytes leave in `_send_all`, after bookkeeping.
    client.on_socket_register_write = lambda _client, _userdata, _socket: None
    return client


def _without_delay(_client: paho.Client, _userdata: object, connection: Connection) -> None:
    # A twin of the descriptor: the library's websocket wrapper has no setsockopt.
    with socket.socket(fileno=os.dup(connection.fileno())) as twin:
        twin.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
