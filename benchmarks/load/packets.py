"""MQTT 5 in bytes, as far as a node needs it: what it sends, and a buffer that gives back whole packets."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = [
    "CONNACK",
    "DISCONNECT",
    "GOODBYE",
    "PINGREQ",
    "PUBACK",
    "PUBLISH",
    "SUBACK",
    "Buffer",
    "Published",
    "connect",
    "puback",
    "publish",
    "published",
    "subscribe",
    "unsubscribe",
]

CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
SUBACK: Final = 9
DISCONNECT: Final = 14
PINGREQ: Final = b"\xc0\x00"
GOODBYE: Final = b"\xe0\x00"
"""A DISCONNECT without reason: the will is not said, and the session stays."""

SESSION_EXPIRY_S = 7_200
RECEIVE_MAX = 16
WILL_DELAY_S = 15
KEEPALIVE_S = 45

_NO_PROPERTIES: Final = b"\0"


@dataclass(frozen=True, slots=True)
class Published:
    """One PUBLISH that has arrived; ``mid`` is 0 with QoS 0."""

    topic: str
    payload: bytes
    mid: int


def connect(client_id: str, will: tuple[str, bytes] | None = None) -> bytes:
    """A node's CONNECT: Clean Start 0, and a retained will (topic and payload) with a delay [FED-7, FED-11]."""
    properties = b"\x11" + struct.pack(">I", SESSION_EXPIRY_S) + b"\x21" + struct.pack(">H", RECEIVE_MAX)
    flags = 0x00 if will is None else 0x2C
    body = _text("MQTT") + bytes([5, flags]) + struct.pack(">H", KEEPALIVE_S) + _length(len(properties)) + properties
    body += _text(client_id)
    if will is not None:
        will_properties = b"\x18" + struct.pack(">I", WILL_DELAY_S)
        body += _length(len(will_properties)) + will_properties
        body += _text(will[0]) + struct.pack(">H", len(will[1])) + will[1]
    return _packet(0x10, body)


def publish(topic: str, payload: bytes, *, mid: int, retain: bool = False) -> bytes:
    """A PUBLISH with QoS 1, or with QoS 0 where ``mid`` is 0."""
    identity = struct.pack(">H", mid) if mid else b""
    header = 0x30 | (0x02 if mid else 0) | int(retain)
    return _packet(header, _text(topic) + identity + _NO_PROPERTIES + payload)


def puback(mid: int) -> bytes:
    """The acknowledgement of a PUBLISH with QoS 1."""
    return b"\x40\x02" + struct.pack(">H", mid)


def subscribe(filters: Iterable[str], *, mid: int) -> bytes:
    """A SUBSCRIBE with QoS 1."""
    body = b"".join(_text(one) + b"\x01" for one in filters)
    return _packet(0x82, struct.pack(">H", mid) + _NO_PROPERTIES + body)


def unsubscribe(filters: Iterable[str], *, mid: int) -> bytes:
    """An UNSUBSCRIBE."""
    return _packet(0xA2, struct.pack(">H", mid) + _NO_PROPERTIES + b"".join(map(_text, filters)))


def published(header: int, body: bytes) -> Published:
    """What a PUBLISH carries."""
    end = 2 + int.from_bytes(body[:2], "big")
    topic, mid = body[2:end].decode(), 0
    if header & 0x06:
        mid, end = int.from_bytes(body[end : end + 2], "big"), end + 2
    size, used = _read_length(body, end) or (0, 1)
    return Published(topic=topic, payload=body[end + used + size :], mid=mid)


class Buffer:
    """Bytes as they arrive; whole packets as they are asked for."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The packets that are complete with these bytes: first byte and body of each."""
        held, at = self._bytes, 0
        held += data
        while (length := _read_length(held, at + 1)) is not None:
            size, used = length
            begin = at + 1 + used
            if len(held) < begin + size:
                break
            yield held[at], bytes(held[begin : begin + size])
            at = begin + size
        del held[:at]


def _read_length(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """A variable byte integer and how many bytes it takes; None when some are missing."""
    size = 0
    for used in range(4):
        if at + used >= len(data):
            return None
        digit = data[at + used]
        size |= (digit & 0x7F) << 7 * used
        if not digit & 0x80:
            return size, used + 1
    raise ValueError("a length of more than four bytes is not MQTT")


def _packet(header: int, body: bytes) -> bytes:
    return bytes([header]) + _length(len(body)) + body


def _length(size: int) -> bytes:
    out = bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">H", len(raw)) + raw
