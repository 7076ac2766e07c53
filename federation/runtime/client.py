"""The client library's client as we set it up: on connections that we make, with what we ask of each session."""

import os
import socket
from typing import Protocol

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from federation.runtime.address import BrokerAddress
from federation.runtime.dial import dial
from federation.runtime.session import SessionSettings
from federation.runtime.transport import Will

__all__ = ["Client", "Connection", "make_client"]

CONNECT_WAIT_S = 5.0
"""How long a connection, and a TLS handshake, may take, in seconds."""


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
        self._tls_context = None if address.tls is None else address.tls.context()
        if self._tls_context is not None:
            self.tls_set_context(self._tls_context)
        self._peer = ""
        self._silent: set[str] = set()

    def connect_anew(self, *, clean: bool) -> None:
        """Connect, and say CONNECT; ``clean`` forgets the session.

        Raises:
            OSError: There is no connection.
            ValueError: The server speaks something else.
        """
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

    def make_connection(self) -> socket.socket:
        """A connection beside the client's own, through TLS where that is.

        Raises:
            OSError: There is none.
        """
        plain = self._create_socket_connection()
        if self._tls_context is None:
            return plain
        try:
            return self._tls_context.wrap_socket(plain, server_hostname=self._address.host)
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


def make_client(address: BrokerAddress, session: SessionSettings, will: Will | None) -> Client:
    """A client that has not connected yet.

    Raises:
        ConfigError: A certificate or a key cannot be read.
    """
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
