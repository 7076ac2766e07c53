"""A broker that says in CONNACK, SUBACK and DISCONNECT what a test wants it to, and else only acknowledges."""

import contextlib
import queue
import socket
import threading
from typing import IO, Self

__all__ = ["ScriptedBroker", "connack"]

CONNECT, PUBLISH, SUBSCRIBE, PINGREQ = 1, 3, 8, 12
"""Kinds of packets, the upper four bits of the first byte."""


def connack(properties: bytes = b"", *, reason: int = 0) -> bytes:
    """A CONNACK of MQTT 5.

    Args:
        properties: As they are on the wire: each one's number, and its value.
        reason: Its code.
    """
    return _packet(0x20, bytes((0, reason, len(properties))) + properties)


class ScriptedBroker:
    """Listens on a loopback port while entered.

    Args:
        answer: To CONNECT, as it is on the wire.
        then: Sent behind each SUBACK; it may end the connection.
        granted: What each filter of a SUBSCRIBE is answered with.
        pongs: Whether a PINGREQ is answered.

    Attributes:
        packets: What has come, by kind and body.
        connections: How many clients have connected.
    """

    def __init__(self, answer: bytes, *, then: bytes = b"", granted: int = 1, pongs: bool = True) -> None:
        self._answer, self._then, self._granted, self._pongs = answer, then, granted, pongs
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.packets: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self.connections = 0

    @property
    def url(self) -> str:
        """For `parse_broker_url`."""
        return f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"

    def until(self, kind: int, *, within_s: float = 30.0) -> bytes:
        """The body of the next packet of this kind."""
        while True:
            found, body = self.packets.get(timeout=within_s)
            if found == kind:
                return body

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30.0)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            while first := stream.read(1):
                kind, body = first[0] >> 4, stream.read(_length(stream))
                self.packets.put((kind, body))
                connection.sendall(self._reply(kind, first[0], body))

    def _reply(self, kind: int, first: int, body: bytes) -> bytes:
        if kind == CONNECT:
            return self._answer
        if kind == SUBSCRIBE:
            filters = _filters(body[3 + body[2] :])
            return _packet(0x90, body[:2] + b"\0" + bytes([self._granted]) * filters) + self._then
        if kind == PUBLISH and first & 6:
            named = 2 + int.from_bytes(body[:2], "big")
            return _packet(0x40, body[named : named + 2])
        return b"\xd0\x00" if kind == PINGREQ and self._pongs else b""


def _filters(body: bytes) -> int:
    count = 0
    while body:
        body = body[2 + int.from_bytes(body[:2], "big") + 1 :]
        count += 1
    return count


def _length(stream: IO[bytes]) -> int:
    size = shift = 0
    while part := stream.read(1):
        size |= (part[0] & 0x7F) << shift
        if not part[0] & 0x80:
            break
        shift += 7
    return size


def _packet(first: int, body: bytes) -> bytes:
    size, length = len(body), b""
    while True:
        size, part = size >> 7, size & 0x7F
        length += bytes([part | (0x80 if size else 0)])
        if not size:
            return bytes([first]) + length + body
