"""What the broker has refused, read from its own log: who is turned away at the door never reaches the coordinator.

Mosquitto publishes its log below `$SYS/broker/log` (``log_dest topic``). Of a denied publish it only speaks at debug
level, which never goes to a topic: a broker that is started with the coordinator says so over its standard error, once
``log_type debug`` is on.
"""

import re
from typing import Final, NamedTuple

from federation.protocol.tables import ID_PATTERN
from federation.protocol.topics import Topics

__all__ = ["BROKER_LOG", "STRANGER", "Incident", "denied_publish", "incident_of"]

BROKER_LOG: Final = "$SYS/broker/log/"
"""Prefix of the topics of the broker's log."""

STRANGER: Final = "unknown"
LINE_CHARS_MAX: Final = 1_024


class Incident(NamedTuple):
    """Who tried what they may not."""

    who: str
    what: str


_SUBSCRIBED: Final = "M/subscribe"
_TLS_FAILED: Final = r"(?:Client connection from \S+ failed|OpenSSL Error\[0\]): error:[^:]*:SSL routines:[^:]*:"
_LINES: Final = (
    # Which of the two lines it is depends on how much of the handshake has arrived with the connection.
    (re.compile(rf"{_TLS_FAILED}(?:wrong version number|http request)"), "no_tls"),
    (re.compile(rf"{_TLS_FAILED}.*certificate"), "certificate_refused"),
    (re.compile(r"New client connected from \S+ as (?P<who>\S+) \(p[12],"), "old_protocol"),
    (re.compile(r"Client (?P<who>\S+) disconnected due to oversize packet"), "oversize_packet"),
    (re.compile(r"Client (?P<who>\S+) disconnected due to (?:malformed packet|protocol error)"), "malformed_packet"),
    (re.compile(r"Client (?P<who>\S+) already connected, closing old connection"), "taken_over"),
    (re.compile(r"Client (?P<who>\S+) disconnected, not authorised"), "not_authorised"),
)
_DENIED: Final = re.compile(r"Denied PUBLISH from (?P<who>\S+) \(")


def incident_of(topic: str, payload: bytes, topics: Topics) -> Incident | None:
    """What a line of the broker's log tells of somebody who tried what they may not; None when it tells nothing."""
    line = payload[:LINE_CHARS_MAX].decode("utf-8", errors="replace")
    line = re.sub(r"^\d+: ", "", line)
    if topic.removeprefix(BROKER_LOG) == _SUBSCRIBED:
        who, _, asked = line.partition(" ")
        return (
            None
            if _may_subscribe(who, asked.partition(" ")[2], topics)
            else Incident(_name(who), "foreign_subscription")
        )
    for pattern, kind in _LINES:
        found = pattern.search(line)
        if found is not None:
            return Incident(_name(found.groupdict().get("who")), kind)
    return None


def denied_publish(line: str) -> Incident | None:
    """The same of a line of its standard error: only what no topic says."""
    found = _DENIED.search(line[:LINE_CHARS_MAX])
    return None if found is None else Incident(_name(found["who"]), "denied_publish")


def _may_subscribe(who: str, topic_filter: str, topics: Topics) -> bool:
    """Whether a filter is one that a node or a helper asks for; the coordinator's own connections ask for more."""
    if not ID_PATTERN.fullmatch(who):
        return False
    own = f"{topics.root}/{topics.federation}"
    if who.startswith(f"coordinator-{topics.federation}"):
        return True
    fixed = {f"{own}/srv", f"{own}/round", *(f"{own}/n/{who}/{branch}" for branch in ("cmd", "key", "state"))}
    masks = {f"{own}/h/+/state", *(f"{own}/h/{who}/{branch}" for branch in ("cmd", "state"))}
    return (
        topic_filter in fixed | masks or re.fullmatch(rf"{own}/model/\d+/[kd]\d+/(?:\+|\d+)", topic_filter) is not None
    )


def _name(who: str | None) -> str:
    return who if who is not None and ID_PATTERN.fullmatch(who) else STRANGER
