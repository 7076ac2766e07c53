"""An MQTT client without manners: each packet is sent as an attacker would, and each answer is read at once."""

import contextlib
import socket
import ssl
import struct
from typing import Self

from federation.runtime.transport import Will

LIMIT_S = 30.0
NOT_AUTHORIZED = 0x87
NO_SUBSCRIBERS = 0x10
_CONNACK, _PUBLISH, _PUBACK, _SUBACK = 2, 3, 4, 9


class Refused(Exception):  # noqa: N818 - the name says what it is
    """The broker ended the connection, or never began it."""


class RawClient:
    """One connection; `Refused` when the broker does not accept it. A session ends with its connection.

    Attributes:
        topics: Of the messages that have arrived.
    """

    def __init__(
        self,
        port: int,
        tls: ssl.SSLContext | None,
        *,
        client_id: str = "any",
        level: int = 5,
        will: Will | None = None,
        user: tuple[str, str] | None = None,
    ) -> None:
        self._level = level
        self._mid = 0
        self.topics: list[str] = []
        plain = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        try:
            self._socket = plain if tls is None else tls.wrap_socket(plain, server_hostname="localhost")
            self._send(0x10, self._connect(client_id, will, user))
            code = self._await(_CONNACK)[1]
        except (OSError, Refused) as error:
            plain.close()
            with contextlib.suppress(AttributeError):
                self._socket.close()
            raise Refused(str(error)) from error
        if code:
            self._socket.close()
            raise Refused(f"CONNACK {code:#x}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> int:
        """The reason code of its acknowledgement; MQTT 3.1.1 has none, which reads as success."""
        self._mid += 1
        body = _text(topic) + struct.pack(">H", self._mid) + self._properties + payload
        self._send(0x32 | retain, body)
        answer = self._await(_PUBACK)
        return answer[2] if len(answer) > 2 else 0

    def flood(self, topic: str, payload: bytes, count: int) -> None:
        """Publish as fast as the broker takes it, with QoS 0: nothing is waited for."""
        for _ in range(count):
            self._send(0x30, _text(topic) + self._properties + payload)

    def subscribe(self, topic_filter: str) -> int:
        """The reason code of its acknowledgement."""
        self._mid += 1
        self._send(0x82, struct.pack(">H", self._mid) + self._properties + _text(topic_filter) + b"\x01")
        return self._await(_SUBACK)[-1]

    def listen_until(self, topic: str) -> list[str]:
        """The topics of all messages until one on ``topic``, which is left out."""
        while topic not in self.topics:
            self._receive()
        heard = self.topics[: self.topics.index(topic)]
        del self.topics[: len(heard) + 1]
        return heard

    def vanish(self) -> None:
        """End the connection without a word: a will is said."""
        self._socket.close()

    @property
    def _properties(self) -> bytes:
        return b"\0" if self._level == 5 else b""

    def _connect(self, client_id: str, will: Will | None, user: tuple[str, str] | None) -> bytes:
        flags = 0x02 | (0 if will is None else 0x2C) | (0 if user is None else 0xC0)
        body = _text("MQTT") + bytes([self._level, flags]) + struct.pack(">H", 60) + self._properties + _text(client_id)
        if will is not None:
            body += self._properties + _text(will.topic) + struct.pack(">H", len(will.payload)) + will.payload
        for text in user or ():
            body += _text(text)
        return body

    def _await(self, kind: int) -> bytes:
        while True:
            found, body = self._receive()
            if found == kind:
                return body

    def _receive(self) -> tuple[int, bytes]:
        header = self._exactly(1)[0]
        size, shift = 0, 0
        while (digit := self._exactly(1)[0]) & 0x80:
            size, shift = size | (digit & 0x7F) << shift, shift + 7
        body = self._exactly(size | digit << shift)
        if header >> 4 == _PUBLISH:
            length = struct.unpack(">H", body[:2])[0]
            self.topics.append(body[2 : 2 + length].decode())
            if header & 0x06:
                self._send(0x40, body[2 + length : 4 + length])
        return header >> 4, body

    def _exactly(self, count: int) -> bytes:
        body = b""
        while len(body) < count:
            part = self._socket.recv(count - len(body))
            if not part:
                raise Refused("the broker has ended the connection")
            body += part
        return body

    def _send(self, header: int, body: bytes) -> None:
        size, left = b"", len(body)
        while left > 0x7F:
            size, left = size + bytes([left & 0x7F | 0x80]), left >> 7
        self._socket.sendall(bytes([header]) + size + bytes([left]) + body)


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text.encode())) + text.encode()
