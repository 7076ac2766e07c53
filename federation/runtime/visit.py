"""A short visit to the broker, under a name of its own: what it accepts, and what others have left there."""

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from federation.runtime.address import BrokerAddress
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.transport import (
    Inbox,
    MessageReceived,
    TransportConnected,
    TransportDisconnected,
    TransportFailed,
)

__all__ = ["Seen", "visit_broker"]

ANSWER_S = 10.0
"""How long the broker may take to accept us, in seconds."""

RETAINED_S = 1.0
"""How long retained messages may take, in seconds."""

CLOSE_S = 2.0
"""How long the answer to the last publish may take, in seconds."""

SESSION_EXPIRY_S = 7200
"""As long as a node's own session, in seconds."""

MESSAGES_MAX = 1_000
"""Retained messages that are looked at."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """What a visit has seen.

    Attributes:
        accepted: Whether the broker accepted the connection.
        reason: Why not.
        packet_bytes_max: The largest packet that it takes.
        refused: How many of our publishes it refused.
        refused_topics: Their topics, as far as they are known.
        messages: What was retained, by topic.
    """

    accepted: bool = False
    reason: str = "no answer"
    packet_bytes_max: int = 0
    refused: int = 0
    refused_topics: list[str] = field(default_factory=list)
    messages: dict[str, bytes] = field(default_factory=dict)


def visit_broker(
    address: BrokerAddress,
    client_id: str,
    *,
    filters: Sequence[str],
    probes: Sequence[tuple[str, bytes]],
    enough: Callable[[Seen], bool],
) -> Seen:
    """Connect, look, publish, and leave.

    Args:
        address: Where.
        client_id: Not the role's own: that would end the session of one that runs.
        filters: What to read.
        probes: Topics and payloads that nobody acts on: an access rule that forbids one answers.
        enough: Whether what has been seen is all that can be there.
    """
    inbox: Inbox = queue.Queue(MESSAGES_MAX)
    # With a certificate the broker may give us the role's own id: then its session must outlive the visit.
    expiry_s = 0 if address.tls is None else SESSION_EXPIRY_S
    session = SessionSettings(client_id=client_id, session_expiry_s=expiry_s, first_connect_spread_s=0.0)
    transport, seen = MqttTransport(address, session, inbox), Seen()
    for topic_filter in filters:
        transport.subscribe(topic_filter)
    transport.open()
    _listen(inbox, seen, ANSWER_S, lambda: seen.accepted or seen.reason != "no answer")
    if seen.accepted:
        for topic, payload in probes:
            transport.publish(topic, payload)
        _listen(inbox, seen, RETAINED_S, lambda: enough(seen))
    transport.close(timeout_s=CLOSE_S)
    seen.refused, seen.refused_topics = transport.refused, transport.refused_topics
    return seen


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
        case TransportFailed() | TransportDisconnected():
            seen.reason = event.reason
        case MessageReceived() if event.payload:
            seen.messages[event.topic] = event.payload
