"""Why a broker does not take us: what it said, in words, what to do about it, and whether to go on trying.

A broker that is away is tried again within seconds, one that refuses us within minutes. Only one that cannot do what
the protocol needs, whoever we are, is given up: docs/reference/brokers.md has others.

``trouble.json`` in a role's state folder says it to the commands that only read: each of its connections by its name,
and the disk. It only explains: a folder without it says nothing. What people ask about may be a full disk, so the file
has its block from the start on, and is written over in place.
"""

import contextlib
import json
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from federation.documents import read_json
from federation.storage.folder import lock_holder, open_file, write_file

__all__ = [
    "DISK",
    "GARBLED",
    "OBSTACLES",
    "PACKET_BYTES_MIN",
    "Obstacle",
    "ObstacleFile",
    "Outlook",
    "away",
    "ending",
    "lacking",
    "read_obstacles",
    "refused",
    "speaks_only_older",
    "unanswered",
    "unheard",
]

PACKET_BYTES_MIN = 8_192
"""An announcement of 4 KiB with its signature fits; a broker that takes less is of no use, in bytes."""

GARBLED = "an answer that is no MQTT 5"
PAGE = "use another broker: docs/reference/brokers.md"
PROBE_S = 2.0
"""How long a broker may take to answer a CONNECT that only asks what it speaks, in seconds."""

_CONNACK = 0x20
_OLD_CONNACK_BYTES = 2
"""What follows its length before MQTT 5; since then a third byte at least."""


OBSTACLES: Final = "trouble.json"
DISK: Final = "disk"
"""The name of what is no connection."""

FILE_BYTES: Final = 4_096
CHARS_MAX: Final = 300
"""Of one reason: a page has room for all that a role can have."""


class Outlook(StrEnum):
    """What trying again can bring."""

    AWAY = "away"
    """It is not there, or too busy: soon."""

    REFUSED = "refused"
    """It does not want us as we are: somebody must change something there or here."""

    UNFIT = "unfit"
    """It cannot do what is needed: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """What is in the way of a connection.

    Attributes:
        reason: What was seen.
        remedy: What a person can do; empty when time may be enough.
        outlook: What trying again can bring.
    """

    reason: str
    remedy: str = ""
    outlook: Outlook = Outlook.AWAY

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


OLD = Obstacle(
    reason="this broker does not speak MQTT 5, only an older MQTT",
    remedy=PAGE,
    outlook=Outlook.UNFIT,
)

_UNFIT = {
    0x84: OLD,
    0x9A: Obstacle(reason="this broker keeps no retained messages", remedy=PAGE, outlook=Outlook.UNFIT),
    0x9B: Obstacle(reason="this broker knows QoS 0 only", remedy=PAGE, outlook=Outlook.UNFIT),
}
# Unspecified, unavailable, busy, shutting down, quota, rate: the next attempt may be taken.
_BUSY = frozenset({0x80, 0x88, 0x89, 0x8B, 0x97, 0x9F})
_CLIENT_ID = 0x85
_ELSEWHERE = frozenset({0x9C, 0x9D})
"""Use another server, server moved."""
_GARBLED, _SILENT = 0x82, 0x8D
"""Protocol error, keep alive timeout: also what the library makes of what it finds itself."""
_REFERENCE_CHARS_MAX = 100

_OF_DATES = {
    "certificate is not yet valid": "see this machine's clock (NTP): a device without a battery begins in 1970",
    "certificate has expired": "see this machine's clock; if it is right, renew the broker's certificate",
}


def away(reason: str) -> Obstacle:
    """Nobody is there, or nobody whom we trust; of a certificate at the wrong time it says what to look at."""
    return Obstacle(reason=reason, remedy=next((_OF_DATES[words] for words in _OF_DATES if words in reason), ""))


def refused(code: int, said: str, *, client_id: str, properties: object = None) -> Obstacle:
    """CONNACK had a failure.

    Args:
        code: Its reason code.
        said: The code's name.
        client_id: Ours.
        properties: Of the CONNACK.
    """
    if code in _UNFIT:
        return _UNFIT[code]
    reason = f"refused by the broker: {said}"
    if code in _BUSY:
        return Obstacle(reason=reason)
    if code in _ELSEWHERE:  # not followed: whoever is in between could say so, too
        return Obstacle(reason=reason + _named(properties), remedy=_MOVED, outlook=Outlook.REFUSED)
    remedy = "see broker.username, broker.password_file or the certificate, the ACL, and the broker's own log"
    if code == _CLIENT_ID:
        remedy = f"let it take the client id {client_id!r}, or set broker.client_id"
    return Obstacle(reason=reason, remedy=remedy, outlook=Outlook.REFUSED)


_MOVED = "let whoever runs it say its address, and set broker.url"


def _named(properties: object) -> str:
    """The server that it names, as a part of a sentence."""
    reference = str(getattr(properties, "ServerReference", ""))[:_REFERENCE_CHARS_MAX]
    return f", and it names {reference!r}" if reference else ""


def ending(code: int, said: str, *, by_broker: bool, properties: object = None) -> str | None:
    """Why a connection has ended; None where nothing is known of it.

    Args:
        code: The reason code of DISCONNECT, or what the library takes for one.
        said: The code's name.
        by_broker: Whether the broker has sent it.
        properties: Of the DISCONNECT.
    """
    if by_broker:
        moved = f"{_named(properties)}; {_MOVED}" if code in _ELSEWHERE else ""
        return f"the broker said: {said}{moved}"
    return {_GARBLED: GARBLED, _SILENT: "nothing came in answer to a ping"}.get(code)


def unheard(refused_filters: Mapping[str, str]) -> Obstacle:
    """The broker has refused subscriptions: what is said there is never heard.

    Args:
        refused_filters: From each filter to what the broker said.
    """
    told = ", ".join(f"{one} ({said})" for one, said in refused_filters.items())
    remedy = "let this client read them: the broker's access rules"
    return Obstacle(reason=f"the broker refuses what we ask to hear: {told}", remedy=remedy, outlook=Outlook.REFUSED)


def lacking(limits: object) -> Obstacle | None:
    """What a broker that has accepted us says that it cannot do; ``limits`` are the properties of its CONNACK."""
    if not getattr(limits, "RetainAvailable", 1):
        return _UNFIT[0x9A]
    if not getattr(limits, "MaximumQoS", 1):
        return _UNFIT[0x9B]
    if not getattr(limits, "WildcardSubscriptionAvailable", 1):
        return Obstacle(reason="this broker takes no subscriptions with wildcards", remedy=PAGE, outlook=Outlook.UNFIT)
    packet_bytes_max = getattr(limits, "MaximumPacketSize", PACKET_BYTES_MIN)
    if packet_bytes_max < PACKET_BYTES_MIN:
        reason = f"this broker takes packets of {packet_bytes_max:,} bytes at most, and {PACKET_BYTES_MIN:,} are needed"
        return Obstacle(reason=reason, remedy=f"raise its limit, or {PAGE}", outlook=Outlook.UNFIT)
    return None


def unanswered(reason: str, *, encrypted: bool, with_certificate: bool) -> Obstacle:
    """There was a connection, and no CONNACK that says anything.

    Args:
        reason: How it ended.
        encrypted: Whether it was over TLS.
        with_certificate: Whether we have shown a certificate: a broker that does not trust it says so in no other way.
    """
    doubts = ["whether it speaks MQTT 5 (docs/reference/brokers.md)"]
    doubts += [] if encrypted else ["whether this port wants TLS"]
    doubts += ["whether it trusts broker.tls_certificate, and has not revoked it"] if with_certificate else []
    told = reason if reason.startswith(GARBLED) else f"{reason}: the broker has not answered CONNECT"
    return Obstacle(reason=told, remedy=f"see {', '.join(doubts)}")


def speaks_only_older(connect: Callable[[], socket.socket]) -> bool:
    """Whether a broker answers a CONNECT of MQTT 3.1.1, and none of MQTT 5; ``connect`` makes a connection."""
    if not _answer(connect, 4):
        return False
    answer = _answer(connect, 5)
    return len(answer) < 2 or answer[1] == _OLD_CONNACK_BYTES


def _answer(connect: Callable[[], socket.socket], level: int) -> bytes:
    """The first bytes of a CONNACK; empty for anything else."""
    name = f"probe-{secrets.token_hex(4)}".encode()
    properties = b"\0" if level > 4 else b""
    body = b"\0\4MQTT" + bytes([level, 2, 0, 60]) + properties + len(name).to_bytes(2) + name
    with contextlib.suppress(OSError), connect() as connection:
        connection.settimeout(PROBE_S)
        connection.sendall(bytes([0x10, len(body)]) + body)
        answer = connection.recv(4)
        return answer if answer[:1] == bytes([_CONNACK]) else b""
    return b""


class ObstacleFile:
    """The only writer.

    Args:
        folder: The state folder; what a former start has said is not true any more. None: nothing is written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / OBSTACLES
        self._said: dict[str, str] = {}
        self._write()

    def met(self, name: str, why: str) -> None:
        """A connection, or `DISK`, does not work; ``why`` says the reason, and what to do."""
        why = why.replace("\n", " ")[:CHARS_MAX]
        if self._said.get(name) != why:
            self._said[name] = why
            self._write()

    def gone(self, name: str) -> None:
        """It works."""
        if self._said.pop(name, None) is not None:
            self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        # Blanks at the end mean nothing in JSON.
        body = json.dumps(self._said).encode().ljust(FILE_BYTES)
        with contextlib.suppress(OSError):
            try:
                with self._path.open("r+b", buffering=0) as file:
                    file.write(body)
                    file.truncate()
            except (FileNotFoundError, PermissionError):  # one that somebody else has left is replaced
                write_file(self._path, body, durable=False)


def read_obstacles(folder: Path) -> Mapping[str, str]:
    """What is in the way of the process that runs on a state folder, by name; empty where nothing is, or none runs."""
    with contextlib.suppress(OSError, ValueError):
        if lock_holder(folder) is not None:
            with open_file(folder / OBSTACLES) as file:
                said = read_json(file.read(2 * FILE_BYTES))
            return {str(name): str(why) for name, why in said.items()} if isinstance(said, dict) else {}
    return {}
