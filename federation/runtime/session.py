"""How one MQTT session behaves: lifetimes, windows, sizes and the patience of its reconnects."""

import random
from collections import deque
from dataclasses import dataclass
from typing import Literal

from federation.runtime.obstacles import Outlook

_HEADER_BYTES_MAX = 5
"""MQTT fixed header: one type byte and up to four length bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """Settings of one connection; the defaults are an edge node's.

    Attributes:
        client_id: MQTT client id; a second client with the same id takes the session over.
        session_expiry_s: How long the broker keeps the session of a client that is gone, in seconds.
        keepalive_s: Silence after which a ping is sent, in seconds; a dead link is noticed within twice that.
        receive_max: Unacknowledged messages that the broker may have in flight to us.
        inflight_max: Unacknowledged messages that we have in flight to the broker.
        packet_bytes_max: Largest packet that we take, and that we send unless the broker allows less.
        manual_ack: Acknowledge a message only when its inbox item is acknowledged, after its effects have run.
        filters_max: Topic filters in one SUBSCRIBE.
        connection: Which of a role's connections this is; names it in events and logs.
        queue_messages_max: Outgoing messages that wait for the broker; further ones are dropped and counted.
        queue_bytes_max: The same in payload bytes.
        first_connect_spread_s: The first connect waits a random time up to this, in seconds, so that a fleet which
            gets its power back does not arrive at one instant.
        reconnect_delay_s_max: Cap of the reconnect delay, in seconds. 15 and not 60: a fleet must be back within 15 s
            of the broker's return, and 1,000 nodes over 15 s are 70 connects a second.
        refused_delay_s_max: Cap of the delay after the broker has refused us again and again, in seconds; half of it is
            the least. Minutes: it takes a person to change that, who need not visit the device then.
        perishable: Topics that begin so are not sent again after a reconnect, nor kept while there is no connection:
            their receiver asks for what it misses, and knows better what has arrived. Nothing is none.
        as_published: Filters whose messages say that they are retained also when they arrive as they are published.
        census: Filters of which all that is retained must come, however much it is. Mosquitto queues 20,000 messages of
            QoS 1 for a subscriber and drops the rest of them without a word; of QoS 0 it holds back none.
        tells_answer: Say so once the broker has answered what was subscribed to at the connect.
    """

    client_id: str
    session_expiry_s: int = 7200
    keepalive_s: int = 45
    receive_max: int = 16
    inflight_max: int = 10
    packet_bytes_max: int = 262_144
    manual_ack: bool = False
    filters_max: int = 1_000
    connection: Literal["control", "data", "node"] = "node"
    queue_messages_max: int = 8_192
    queue_bytes_max: int = 268_435_456
    first_connect_spread_s: float = 0.2
    reconnect_delay_s_max: float = 15.0
    refused_delay_s_max: float = 300.0
    perishable: str = ""
    as_published: frozenset[str] = frozenset()
    census: frozenset[str] = frozenset()
    tells_answer: bool = False


class Backoff:
    """Full jitter: a uniform delay between nothing and a bound that doubles from 1 s up to the cap."""

    base_s = 1.0
    good_s = 10.0

    def __init__(self, settings: SessionSettings, rng: random.Random) -> None:
        self._settings, self._rng = settings, rng
        self._attempts = 0
        self._refused = False

    def next_s(self) -> float:
        """The next delay, in seconds; the first one is the first connect's own spread."""
        if self._refused:
            self._refused = False
            return self._rng.uniform(self._settings.refused_delay_s_max / 2, self._settings.refused_delay_s_max)
        if self._attempts == 0:
            bound = self._settings.first_connect_spread_s
        else:
            # The exponent is capped too: 2.0 ** 5000 overflows after a long outage.
            bound = min(self._settings.reconnect_delay_s_max, self.base_s * 2.0 ** min(self._attempts - 1, 16))
        self._attempts += 1
        return self._rng.uniform(0.0, bound)

    def refused(self) -> None:
        """The broker does not want us as we are: the next attempt is minutes away."""
        self._refused = True

    def ended(self, lived_s: float) -> None:
        """An accepted connection ended. Only one that was good for a while lets the delays begin again."""
        if lived_s >= self.good_s:
            self._attempts = 1


class TakeoverDetector:
    """Notices that another process uses our client id: the two kick each other, and Mosquitto 2.0 gives no reason code.

    From one side that looks like a bad link. So each process signs what it retains on its will's topic, and reads that
    topic: a foreign signature that has replaced ours is the proof. One counts per signature of ours.

    Both see the same. The process whose signature stood alone for a while outlasts one that has just come; else the
    larger signature outlasts the smaller.

    Args:
        signature: Of this process: random, and never the same twice.
    """

    takeovers_max = 3
    window_s = 120.0
    established_s = 5.0
    _lead = 2
    """Takeovers of the two differ by one at most: with this lead only one gives up."""
    _eviction_lead = 4
    """Evictions do not: one may hear what the other asked for several times before the other hears anything."""

    def __init__(self, signature: str) -> None:
        self.signature = signature
        self._standing = False
        self._first_s: float | None = None
        self._established = False
        self._other = ""
        self._takeovers: deque[float] = deque(maxlen=self.takeovers_max + 3 * self._lead)
        self._evictions: deque[float] = deque(maxlen=self.takeovers_max + 3 * self._eviction_lead)

    def signed(self, now: float) -> None:
        """The broker has acknowledged our signature at ``now`` (monotonic seconds)."""
        self._standing = True
        self._first_s = now if self._first_s is None else self._first_s

    def seen(self, signature: str, now: float) -> bool:
        """This signature is on the topic at ``now``; True when it is time to give up."""
        # What stands there before we sign for the first time may be of our former process.
        if signature == self.signature or not self._standing or self._first_s is None:
            return False
        self._standing = False
        if signature != self._other:
            self._other = signature
            self._takeovers.clear()
            self._established = now - self._first_s >= self.established_s
        self._takeovers.append(now)
        recent = sum(now - at <= self.window_s for at in self._takeovers)
        return recent >= self.takeovers_max + self._lead * (2 * self._established + (self.signature > signature))

    def evicted(self, now: float, *, outlasts: bool = False) -> bool:
        """At ``now`` somebody who signs elsewhere had our session: True when it is time to give up.

        The broker says so, or it gives us what another federation's node with our id has asked for.

        Args:
            now: Monotonic seconds.
            outlasts: Whether we are the one of the two who stays when both have just come.
        """
        if not self._evictions or now - self._evictions[-1] > self.window_s:
            self._established = self._first_s is not None and now - self._first_s >= self.established_s
        self._evictions.append(now)
        recent = sum(now - at <= self.window_s for at in self._evictions)
        return recent >= self.takeovers_max + self._eviction_lead * (2 * self._established + outlasts)


class Refusals:
    """Notices that an obstacle is no passing one, such as a broker that is just starting."""

    in_a_row_max = 3

    def __init__(self) -> None:
        self._outlook, self._in_a_row = Outlook.AWAY, 0

    def met(self, outlook: Outlook) -> bool:
        """An attempt has failed; True when it is one too many to go on as before."""
        self._in_a_row = self._in_a_row + 1 if outlook is self._outlook else 1
        self._outlook = outlook
        return outlook is not Outlook.AWAY and self._in_a_row >= self.in_a_row_max

    def accepted(self) -> None:
        """CONNACK was a success."""
        self._outlook = Outlook.AWAY


def publish_packet_bytes(topic: str, payload: bytes, *, qos: int) -> int:
    """Upper bound of an MQTT 5 PUBLISH packet without properties, in bytes."""
    return _HEADER_BYTES_MAX + 2 + len(topic.encode()) + (2 if qos else 0) + 1 + len(payload)
