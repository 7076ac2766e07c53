"""A broker without sockets, threads or time: Mosquitto 2.0's behaviour as a value, for tests and the simulator.

Modelled, since each has cost somebody an update: a full queue drops the newest message and says nothing; a session
outlives its connection until it expires; wills wait for their delay; retained messages come with each subscription;
what was not acknowledged comes again; a crash forgets, or brings back what was saved long ago (``autosave_interval``).
Not modelled: bytes, access rules, QoS 2, shared subscriptions.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from federation.errors import LocalProtocolError, PayloadTooLarge
from federation.testing.topics import SubscriptionTree, is_wildcard, matches


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Limits, by Mosquitto's names, and one that Mosquitto has not.

    Attributes:
        max_queued_messages: Messages that wait for one client; beyond it the newest is dropped without a word.
        max_inflight_messages: Messages that one client may leave unacknowledged.
        max_packet_size: Bytes of a payload that is taken; the headers are not counted here.
        retained_to_wildcards: Whether a subscription with a wildcard gets retained messages.
    """

    max_queued_messages: int = 20_000
    max_inflight_messages: int = 20
    max_packet_size: int = 262_144
    retained_to_wildcards: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WillMessage:
    """What is published for a client that vanishes; retained, QoS 1."""

    topic: str
    payload: bytes
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message on its way to one connected client; `mid` is 0 when it needs no acknowledgement."""

    client_id: str
    topic: str
    payload: bytes
    qos: int = 1
    retained: bool = False
    duplicate: bool = False
    mid: int = 0


def _for(message: Delivery, client_id: str, *, qos: int | None = None, mid: int = 0) -> Delivery:
    """The same message, to a client: each delivery passes here, and `replace` takes several times as long."""
    return Delivery(
        client_id=client_id,
        topic=message.topic,
        payload=message.payload,
        qos=message.qos if qos is None else qos,
        retained=message.retained,
        duplicate=message.duplicate,
        mid=mid,
    )


@dataclass(slots=True)
class _Session:
    client_id: str
    connected: bool = False
    session_present: bool = False
    manual_ack: bool = False
    window: int = 20
    expiry_s: float = 0.0
    expires_at: float | None = None
    will: WillMessage | None = None
    will_at: float | None = None
    filters: dict[str, int] = field(default_factory=dict)
    inflight: dict[int, Delivery] = field(default_factory=dict)
    waiting: deque[Delivery] = field(default_factory=deque)
    last_mid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectSettings:
    """What a client says in CONNECT.

    Attributes:
        clean_start: Forget an earlier session.
        session_expiry_s: Seconds that the session outlives its connection.
        receive_max: Messages that the client lets the broker leave unacknowledged.
        manual_ack: The client calls `MemoryBroker.ack`; otherwise a delivery counts as acknowledged at once.
        will: Published when the client vanishes.
    """

    clean_start: bool = False
    session_expiry_s: float = 7200.0
    receive_max: int = 65_535
    manual_ack: bool = False
    will: WillMessage | None = None


@dataclass(frozen=True, slots=True)
class _Saved:
    """What was written to the disk at one moment."""

    retained: dict[str, Delivery]
    sessions: list[tuple[str, float, dict[str, int], list[Delivery]]]


class MemoryBroker:
    """Every method says what to deliver to whom, in order; deterministic. Times are monotonic seconds.

    Attributes:
        dropped: Messages that a full queue dropped, by client.
    """

    def __init__(self, settings: BrokerSettings | None = None) -> None:
        self._settings = BrokerSettings() if settings is None else settings
        self._sessions: dict[str, _Session] = {}
        self._tree = SubscriptionTree()
        self._retained: dict[str, Delivery] = {}
        self._folders: dict[str, dict[str, None]] = {}  # retained topics by what stands before the last level
        self._timed: set[str] = set()
        self._saved = _Saved({}, [])
        self.dropped: dict[str, int] = {}

    @property
    def packet_bytes_max(self) -> int:
        """Largest payload that `publish` takes."""
        return self._settings.max_packet_size

    @property
    def retained(self) -> dict[str, bytes]:
        """Retained payloads by topic."""
        return {topic: message.payload for topic, message in self._retained.items()}

    def connected(self, client_id: str) -> bool:
        """Whether this client has a connection."""
        session = self._sessions.get(client_id)
        return session is not None and session.connected

    def session_present(self, client_id: str) -> bool:
        """Whether the last `connect` of this client found an earlier session (CONNACK's flag)."""
        return self._sessions[client_id].session_present

    def connect(self, client_id: str, settings: ConnectSettings | None = None, *, now: float) -> list[Delivery]:
        """A client connects; an older connection with the same id ends without its will.

        Returns:
            First wills and expiries that were due, then what waited for this client.
        """
        wanted = ConnectSettings() if settings is None else settings
        out = self.advance(now)
        session = self._sessions.get(client_id)
        present = session is not None and not wanted.clean_start
        if session is None or wanted.clean_start:
            self._forget(client_id)
            session = self._sessions[client_id] = _Session(client_id)
        session.connected, session.session_present, session.manual_ack = True, present, wanted.manual_ack
        session.window = min(wanted.receive_max, self._settings.max_inflight_messages)
        session.expiry_s, session.expires_at = wanted.session_expiry_s, None
        session.will, session.will_at = wanted.will, None
        self._timed.discard(client_id)
        again = [replace(message, duplicate=True) for message in session.inflight.values()]
        session.inflight = {message.mid: message for message in again}
        return [*out, *again, *self._flow(session)]

    def disconnect(self, client_id: str, *, now: float, clean: bool = True) -> list[Delivery]:
        """A connection ends; not ``clean``: the will follows after its delay, or with the session's expiry."""
        out = self.advance(now)
        session = self._sessions.get(client_id)
        if session is None or not session.connected:
            return out
        session.connected = False
        session.expires_at = now + session.expiry_s
        if clean:
            session.will = None
        elif session.will is not None:
            session.will_at = min(now + session.will.delay_s, session.expires_at)
        self._timed.add(client_id)
        return [*out, *self.advance(now)]

    def subscribe(self, client_id: str, topic_filter: str, *, qos: int = 1) -> list[Delivery]:
        """Subscribe (again): all matching retained messages come."""
        session = self._online(client_id)
        session.filters[topic_filter] = qos
        self._tree.add(topic_filter, client_id, qos)
        out: list[Delivery] = []
        for message in self._matching(topic_filter):
            self._hand(out, session, _for(message, "", qos=min(qos, message.qos)))
        return out

    def unsubscribe(self, client_id: str, topic_filter: str) -> None:
        """Forget a subscription; what waits already still comes."""
        session = self._online(client_id)
        if session.filters.pop(topic_filter, None) is not None:
            self._tree.remove(topic_filter, client_id)

    def publish(
        self, client_id: str, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False
    ) -> list[Delivery]:
        """A connected client publishes; an empty retained payload clears the topic.

        Raises:
            PayloadTooLarge: The broker would end the connection.
            LocalProtocolError: The client is not connected, or publishes to a wildcard.
        """
        self._online(client_id)
        if len(payload) > self._settings.max_packet_size:
            raise PayloadTooLarge(f"{topic}: {len(payload)} B, the broker takes {self._settings.max_packet_size} B")
        if is_wildcard(topic):
            raise LocalProtocolError(f"{topic}: a wildcard is not a topic")
        return self._route(topic, payload, qos, retain=retain)

    def ack(self, client_id: str, mid: int) -> list[Delivery]:
        """The client acknowledges a delivery; the next ones in its queue move up. Unknown ids change nothing."""
        session = self._sessions.get(client_id)
        if session is None or not session.connected or session.inflight.pop(mid, None) is None:
            return []
        return self._flow(session)

    def next_due(self) -> float | None:
        """When the next will or expiry is due."""
        times = [time for name in self._timed for time in self._times(self._sessions[name])]
        return min(times, default=None)

    def advance(self, now: float) -> list[Delivery]:
        """Publish the wills and forget the sessions that are due."""
        if not self._timed:
            return []
        out: list[Delivery] = []
        for name in sorted(name for name in self._timed if min(self._times(self._sessions[name])) <= now):
            session = self._sessions[name]
            if session.will is not None and session.will_at is not None and session.will_at <= now:
                will, session.will, session.will_at = session.will, None, None
                out += self._route(will.topic, will.payload, 1, retain=True)
            if session.expires_at is not None and session.expires_at <= now:
                self._forget(name)
        return out

    def save(self) -> None:
        """Write retained messages, sessions and what waits in them to the disk, as Mosquitto does now and then."""
        sessions = [
            (name, one.expiry_s, dict(one.filters), [*one.inflight.values(), *one.waiting])
            for name, one in self._sessions.items()
            if one.expiry_s > 0
        ]
        self._saved = _Saved(dict(self._retained), sessions)

    def crash(self, *, wipe_sessions: bool = True, wipe_retained: bool = True, rewind: bool = False) -> list[str]:
        """`kill -9` and a start from what was on disk; no will is sent, all wills are forgotten.

        Args:
            wipe_sessions: No session was on the disk; otherwise each as it was.
            wipe_retained: The same for retained messages.
            rewind: The disk has what the last `save` wrote, whatever has happened since; the other two do not count.

        Returns:
            The clients that were connected, in the order of their names.
        """
        wipe_sessions, wipe_retained = wipe_sessions or rewind, wipe_retained or rewind
        cut = sorted(name for name, session in self._sessions.items() if session.connected)
        if wipe_retained:
            self._retained.clear()
            self._folders.clear()
        for name in list(self._sessions):
            session = self._sessions[name]
            session.connected, session.will, session.will_at = False, None, None
            if wipe_sessions or session.expiry_s <= 0:
                self._forget(name)
        if rewind:
            self._restore()
        return cut

    def _restore(self) -> None:
        for topic, message in self._saved.retained.items():
            self._retain(topic, message)
        for name, expiry_s, filters, queued in self._saved.sessions:
            again = deque(replace(message, duplicate=True, mid=0) for message in queued)
            self._sessions[name] = _Session(name, expiry_s=expiry_s, filters=dict(filters), waiting=again)
            for topic_filter, qos in filters.items():
                self._tree.add(topic_filter, name, qos)

    def _retain(self, topic: str, message: Delivery) -> None:
        self._retained[topic] = message
        self._folders.setdefault(topic.rpartition("/")[0], {})[topic] = None

    def _route(self, topic: str, payload: bytes, qos: int, *, retain: bool) -> list[Delivery]:
        if retain and payload:
            self._retain(topic, Delivery(client_id="", topic=topic, payload=payload, qos=qos, retained=True))
        elif retain and self._retained.pop(topic, None) is not None:
            self._clear(topic)
        out: list[Delivery] = []
        for name, granted in self._tree.subscribers(topic):
            message = Delivery(client_id=name, topic=topic, payload=payload, qos=min(qos, granted))
            self._hand(out, self._sessions[name], message)
        return out

    def _hand(self, out: list[Delivery], session: _Session, message: Delivery) -> None:
        if message.qos == 0 or (session.connected and not session.manual_ack):
            if session.connected:
                out.append(message if message.client_id else _for(message, session.client_id))
        elif len(session.waiting) >= self._settings.max_queued_messages + self._room(session):
            self.dropped[session.client_id] = self.dropped.get(session.client_id, 0) + 1
        else:
            session.waiting.append(message)
            out += self._flow(session)

    def _room(self, session: _Session) -> int:
        return max(0, session.window - len(session.inflight)) if session.connected else 0

    def _flow(self, session: _Session) -> list[Delivery]:
        """Send what waits, as far as the window allows."""
        out: list[Delivery] = []
        while session.waiting and session.connected and (not session.manual_ack or self._room(session)):
            message, name = session.waiting.popleft(), session.client_id
            if session.manual_ack:
                mid = session.last_mid = session.last_mid % 65_535 + 1
                message = session.inflight[mid] = _for(message, name, mid=mid)
            elif message.client_id != name:
                message = _for(message, name)
            out.append(message)
        if not session.manual_ack:
            session.inflight.clear()
        return out

    def _matching(self, topic_filter: str) -> Iterable[Delivery]:
        if not is_wildcard(topic_filter):
            message = self._retained.get(topic_filter)
            return () if message is None else (message,)
        if not self._settings.retained_to_wildcards:
            return ()
        folder, _, last = topic_filter.rpartition("/")
        if last == "+" and folder and not is_wildcard(folder):  # a model segment: not a look at every node's state
            return [self._retained[topic] for topic in self._folders.get(folder, ())]
        return [message for topic, message in self._retained.items() if matches(topic_filter, topic)]

    def _clear(self, topic: str) -> None:
        folder = topic.rpartition("/")[0]
        del self._folders[folder][topic]
        if not self._folders[folder]:
            del self._folders[folder]

    def _online(self, client_id: str) -> _Session:
        session = self._sessions.get(client_id)
        if session is None or not session.connected:
            raise LocalProtocolError(f"{client_id} is not connected")
        return session

    def _times(self, session: _Session) -> list[float]:
        return [time for time in (session.will_at, session.expires_at) if time is not None]

    def _forget(self, client_id: str) -> None:
        session = self._sessions.pop(client_id, None)
        self._timed.discard(client_id)
        if session is not None:
            for topic_filter in session.filters:
                self._tree.remove(topic_filter, client_id)
