"""A short visit to the broker, under a name of its own: what it accepts, and what others have left there.

Or a knock, under somebody's name: whether the broker lets them in.
"""

import contextlib
import queue
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from federation.errors import ConfigError
from federation.runtime.address import BrokerAddress
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.transport import (
    Inbox,
    MessageReceived,
    TransportBlocked,
    TransportConnected,
    TransportDisconnected,
    TransportFailed,
)

__all__ = ["Answer", "Seen", "clear_retained", "knock", "stay_at_broker", "visit_broker"]

ANSWER_S = 20.0
"""How long the broker may take to accept us, in seconds: longer than the transport waits and asks what it speaks."""

RETAINED_S = 1.0
"""How long retained messages may take, in seconds."""

CLOSE_S = 2.0
"""How long the answer to the last publish may take, in seconds."""

SESSION_EXPIRY_S = 7200
"""As long as a node's own session, in seconds."""

NO_ANSWER = "no answer"

MESSAGES_MAX = 1_000
"""Retained messages that are looked at."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """What a visit has seen.

    Attributes:
        accepted: Whether the broker accepted the connection.
        reason: Why not.
        remedy: What to do about it; empty where nothing is known.
        packet_bytes_max: The largest packet that it takes.
        unanswered: How many of our publishes it has not answered, or were never sent.
        refused: How many it refused.
        refused_topics: Their topics, as far as they are known.
        messages: What was retained, by topic.
        failed: Whether the broker refuses us for good.
    """

    accepted: bool = False
    reason: str = NO_ANSWER
    remedy: str = ""
    packet_bytes_max: int = 0
    unanswered: int = 0
    refused: int = 0
    refused_topics: list[str] = field(default_factory=list)
    messages: dict[str, bytes] = field(default_factory=dict)
    failed: bool = False

    @property
    def answered(self) -> bool:
        """Whether the broker, or the way to it, has said anything yet."""
        return self.accepted or self.reason != NO_ANSWER


def visit_broker(
    address: BrokerAddress,
    client_id: str,
    *,
    filters: Sequence[str],
    probes: Sequence[tuple[str, bytes]],
    enough: Callable[[Seen], bool],
    close_s: float = CLOSE_S,
) -> Seen:
    """Connect, look, publish, and leave.

    Args:
        address: Where.
        client_id: Not the role's own: that would end the session of one that runs.
        filters: What to read.
        probes: Topics and payloads that nobody acts on: an access rule that forbids one answers.
        enough: Whether what has been seen is all that can be there.
        close_s: How long the answers to all publishes may take, in seconds.
    """
    (transport, inbox), seen = _opened(address, client_id, filters), Seen()
    _listen(inbox, seen, ANSWER_S, lambda: seen.answered)
    if seen.accepted:
        for topic, payload in probes:
            transport.publish(topic, payload)
        _listen(inbox, seen, RETAINED_S, lambda: enough(seen))
    transport.close(timeout_s=close_s)
    seen.unanswered = transport.unanswered + transport.dropped
    seen.refused, seen.refused_topics = transport.refused, transport.refused_topics
    return seen


def stay_at_broker(
    address: BrokerAddress, client_id: str, *, filters: Sequence[str], enough: Callable[[Seen], bool], patience_s: float
) -> Seen:
    """Connect, and wait there for messages, also over a lost connection; nothing is asked twice.

    Args:
        address: Where.
        client_id: As of `visit_broker`.
        filters: What to read.
        enough: Whether that is all; asked at the start, and after each message and each change of the connection.
        patience_s: How long to stay at most, in seconds.
    """
    (transport, inbox), seen = _opened(address, client_id, filters), Seen()
    _listen(inbox, seen, patience_s, lambda: enough(seen) or seen.failed)
    transport.close(timeout_s=CLOSE_S)
    return seen


def _opened(address: BrokerAddress, client_id: str, filters: Sequence[str]) -> tuple[MqttTransport, Inbox]:
    inbox: Inbox = queue.Queue(MESSAGES_MAX)
    # With a certificate the broker may give us the role's own id: then its session must outlive the visit.
    expiry_s = 0 if address.tls is None else SESSION_EXPIRY_S
    session = SessionSettings(client_id=client_id, session_expiry_s=expiry_s, first_connect_spread_s=0.0)
    transport = MqttTransport(address, session, inbox)
    for topic_filter in filters:
        transport.subscribe(topic_filter)
    transport.open()
    return transport, inbox


def clear_retained(address: BrokerAddress, client_id: str, topic_filter: str) -> None:
    """Take what is retained on some topics off the broker, as far as it can be reached and lets us."""
    inbox: Inbox = queue.Queue(MESSAGES_MAX)
    session = SessionSettings(client_id=client_id, session_expiry_s=0, first_connect_spread_s=0.0)
    transport = MqttTransport(address, session, inbox)
    transport.subscribe(topic_filter)
    transport.open()
    until_s = time.monotonic() + ANSWER_S
    with contextlib.suppress(queue.Empty):
        wait_s = ANSWER_S
        while time.monotonic() < until_s:
            match inbox.get(timeout=wait_s).event:
                case MessageReceived(topic=topic, payload=payload, retained=True) if payload:
                    transport.publish(topic, b"", retain=True)
                case TransportConnected():
                    wait_s = RETAINED_S
                case TransportBlocked() | TransportFailed():
                    break
    transport.close(timeout_s=CLOSE_S)


def _listen(inbox: Inbox, seen: Seen, limit_s: float, over: Callable[[], bool]) -> None:
    """Until something is true, at most ``limit_s``."""
    until_s = time.monotonic() + limit_s
    while not over() and (left_s := until_s - time.monotonic()) > 0:
        try:
            _note(seen, inbox.get(timeout=left_s).event)
        except queue.Empty:
            return


def _note(seen: Seen, event: object) -> None:
    match event:
        case TransportConnected():
            seen.accepted, seen.packet_bytes_max = True, event.packet_bytes_max
        case TransportBlocked():
            seen.reason, seen.remedy = event.reason, event.remedy
        case TransportFailed() | TransportDisconnected():
            seen.reason, seen.failed = event.reason, isinstance(event, TransportFailed)
        case MessageReceived() if event.payload:
            seen.messages[event.topic] = event.payload


class Answer(Enum):
    """How a broker answers a knock."""

    ACCEPTED = auto()
    REVOKED = auto()
    """It says that the certificate was revoked."""
    REFUSED = auto()
    """It does not let us in, for another reason or without one."""
    ABSENT = auto()
    """Nobody answers there, or somebody whom we do not trust."""


def knock(address: BrokerAddress, client_id: str, *, limit_s: float = ANSWER_S) -> Answer:
    """Connect with a clean session, and leave again: nobody else is connected by that name after it was accepted.

    Args:
        address: Where; with TLS and the certificate of that name.
        client_id: The name.
        limit_s: Patience for each step, in seconds.

    Raises:
        ConfigError: The certificate cannot be loaded.
    """
    if address.tls is None:
        raise ConfigError("broker.url", "a certificate needs mqtts://")
    context = address.tls.context()
    try:
        plain = socket.create_connection((address.host, address.port), timeout=limit_s)
    except OSError:
        return Answer.ABSENT
    try:
        with plain, context.wrap_socket(plain, server_hostname=address.host) as secure:
            secure.sendall(_connect_packet(client_id))
            # CONNACK: its type, its length, whether there was a session, and 0 for success.
            head = secure.recv(4)
            if len(head) == 4 and head[0] == 0x20 and head[3] == 0:
                secure.sendall(b"\xe0\x00")
                return Answer.ACCEPTED
    except (ssl.SSLCertVerificationError, TimeoutError):  # one that hangs has refused nobody
        return Answer.ABSENT
    except ssl.SSLError as error:
        return Answer.REVOKED if "CERTIFICATE_REVOKED" in (error.reason or "") else Answer.REFUSED
    except OSError:
        return Answer.REFUSED
    return Answer.REFUSED


def _connect_packet(client_id: str) -> bytes:
    """MQTT 5 CONNECT: clean start, a keep-alive of 10 s, no properties; short enough for a length of one byte."""
    name = client_id.encode()
    body = b"\x00\x04MQTT\x05\x02\x00\x0a\x00" + len(name).to_bytes(2, "big") + name
    return bytes((0x10, len(body))) + body
