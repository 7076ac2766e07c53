"""What a CONNECT packet says, read from the wire by a server that is no broker."""

import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from federation.runtime.mqtt import MqttTransport, SessionSettings, parse_broker_url
from federation.runtime.transport import Inbox

CLEAN_START = 0x02
SESSION_EXPIRY_INTERVAL = 0x11
RECEIVE_MAXIMUM = 0x21


class Listener:
    """Takes one connection and keeps its first packet."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(20)
        self.packet: queue.Queue[bytes] = queue.Queue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.socket.getsockname()[1]}"

    def _serve(self) -> None:
        connection, _ = self.socket.accept()
        with connection:
            connection.settimeout(20)
            self.packet.put(connection.recv(4096))

    def close(self) -> None:
        self._thread.join(20)
        self.socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def test_the_first_connect_of_a_node_already_keeps_its_session(listener: Listener) -> None:
    """[FED-7] MQTT 5, Clean Start 0, keep-alive 45 s, session expiry 7200 s, receive maximum 16."""
    inbox: Inbox = queue.Queue(100)
    transport = MqttTransport(parse_broker_url(listener.url), SessionSettings(client_id="node-1"), inbox)
    transport.open()
    try:
        packet = listener.packet.get(timeout=20)
    finally:
        transport.close()
    assert packet[0] == 0x10
    header = packet.index(b"\x00\x04MQTT") + 6
    version, flags = packet[header], packet[header + 1]
    assert version == 5
    assert flags & CLEAN_START == 0
    assert int.from_bytes(packet[header + 2 : header + 4], "big") == 45
    length = packet[header + 4]
    properties = packet[header + 5 : header + 5 + length]
    expiry = properties.index(SESSION_EXPIRY_INTERVAL)
    assert int.from_bytes(properties[expiry + 1 : expiry + 5], "big") == 7200
    assert bytes([RECEIVE_MAXIMUM, 0, 16]) in properties
