"""The nodes that are known: presence by incarnation, and who may be asked; O(1) for each message."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from types import MappingProxyType

from coordinator.engine.timers import Timers
from coordinator.strategies.codecs import CodecChoice, reads_cosine
from coordinator.strategies.selection import NodeRecord, Pool, is_able
from federation.protocol.messages import NodeState, Presence
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION
from federation.types import NodeId, StateId

NODES_MAX = 100_000
"""Nodes that are remembered; further ones are ignored."""

REST_BASE_S = 5.0
"""A node that declined, or whose update was refused, is left alone this long at first; doubled each time in a row."""

REST_MAX_S = 3_600.0
"""Longest pause between two questions to a node that keeps failing, in seconds."""

RETRY_AFTER_MAX_S = 86_400.0
"""Longest pause that a node can ask for, in seconds."""

STRIKES_MAX = 16


class Sighting(Enum):
    """What a node state tells that was not known."""

    OUTDATED = auto()
    """From an older incarnation than the one that is known: ignored."""
    OVERFLOW = auto()
    """One node too many: ignored."""
    BORN = auto()
    """A new process: whatever the old one did is gone."""
    BACK = auto()
    """The same process is online again."""
    HERE = auto()
    """The same process, still online."""
    GONE = auto()
    """It left, or its will says so."""
    AWAY = auto()
    """It was not there before, and is not there now."""


@dataclass(slots=True)
class Entry:
    """One known node: of what it said last, what is asked for later, since there may be 100,000.

    Silence and refusal are counted apart: a node that is slower than the lease and then declines once would otherwise
    rest as long as one that has declined a dozen times.

    Attributes:
        state_id: Of its store; None where it names none.
        incarnation: Which start of that store this is.
        online: Whether it is there.
        capabilities: What it has, by name.
        codec: The best codec of the updates that it agrees to; None: there is none.
        cosine: Whether it reads frames of the cosine kind.
        invitable: Whether it reads an announcement on its own command topic.
        compatible: Whether it can take part.
        strikes: Declines and refused updates in a row.
        silences: Leases in a row that it let expire.
        asked: Assignments since this process started.
        delivered: Updates that it delivered for them.
        train_s: How long its last training took, in seconds; 0 is unknown.
        payload_bytes: How large its last update was; 0 is unknown.
        able: Whether it has what training needs.
        backoff_until: When it is asked again at the earliest, whatever has changed there, in monotonic seconds.
    """

    state_id: StateId | None = None
    incarnation: int = 0
    online: bool = False
    capabilities: Mapping[str, float] = field(default_factory=dict)
    codec: str | None = None
    cosine: bool = False
    invitable: bool = False
    compatible: bool = False
    strikes: int = 0
    silences: int = 0
    asked: int = 0
    delivered: int = 0
    train_s: float = 0.0
    payload_bytes: int = 0
    able: bool = True
    backoff_until: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether it is there, and reads no frames of the cosine kind."""
        return self.online and self.compatible and not self.cosine

    def strike(self) -> int:
        """Count a decline or a refusal; returns those in a row before it."""
        before = self.strikes
        self.strikes = min(STRIKES_MAX, before + 1)
        return before

    def silence(self) -> int:
        """Count a lease that expired; returns those in a row before it."""
        before = self.silences
        self.silences = min(STRIKES_MAX, before + 1)
        return before


class Registry:
    """Known nodes, and the two pools to choose from.

    A node is in ``candidates`` when it is online, compatible, able, not assigned, within its quota and not resting; it
    is in ``suspects`` instead when it also let a lease expire and has been silent since.
    """

    def __init__(
        self,
        *,
        task: str,
        codecs: tuple[str, ...],
        quota: int,
        needs: Mapping[str, float] | None = None,
        sealed: bool = False,
    ) -> None:
        self._task, self._quota, self._sealed = task, quota, sealed
        self._codecs = CodecChoice(codecs)
        self._needs = {} if needs is None else needs
        self._entries: dict[NodeId, Entry] = {}
        self._assigned: set[NodeId] = set()
        self._excluded: dict[NodeId, set[str]] = {}
        self._used: dict[NodeId, int] = {}
        self._resting: Timers[NodeId] = Timers()
        self._suspected: Timers[NodeId] = Timers()
        self.candidates = Pool()
        self.suspects = Pool()
        self.online = self.plain = 0

    def __contains__(self, node: NodeId) -> bool:
        return node in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def observe(self, node: NodeId, state: NodeState, *, repeated: bool = False) -> Sighting:
        """Take in a birth, a death or an activity; ``repeated``: it was asked whether its incarnation went back."""
        entry = self._entries.get(node)
        if entry is None and len(self._entries) >= NODES_MAX:
            return Sighting.OVERFLOW
        if entry is not None and not repeated and _is_past(entry, state):
            return Sighting.OUTDATED
        other_life = entry is None or repeated or _is_other_life(entry, state)
        sighting = _compare(entry, state, other_life=other_life)
        if entry is not None:
            self._count(entry, -1)
        if entry is None or other_life:
            # A store that was lost: what its former life did says nothing of this one.
            entry = self._entries[node] = Entry()
            self._resting.cancel(node)
        elif sighting is Sighting.BORN and node in self._resting:
            # Its owner may have changed what it declined for, and started it again: it is not left alone as long as it
            # has asked for.
            self._resting.set(node, entry.backoff_until)
        self._note(entry, state)
        self._count(entry, 1)
        self._suspected.cancel(node)
        self._refresh(node)
        return sighting

    def _note(self, entry: Entry, state: NodeState) -> None:
        entry.state_id, entry.incarnation = state.state_id, state.incarnation
        entry.online, entry.invitable = state.presence is Presence.ONLINE, state.invitable is True
        entry.capabilities = _held_once(tuple((state.capabilities or {}).items()))
        entry.codec, entry.cosine = self._codecs.of(state), reads_cosine(state)
        entry.compatible, entry.able = self.is_compatible(state), is_able(state.capabilities, self._needs)

    def _count(self, entry: Entry, by: int) -> None:
        self.online += by * entry.online
        self.plain += by * entry.plain

    def nodes(self) -> Iterator[NodeId]:
        """All that are known, in the order in which they became known."""
        return iter(self._entries)

    def remove(self, node: NodeId) -> None:
        """A node has left the federation: it is as if it had never been there."""
        entry = self._entries.pop(node, None)
        if entry is not None:
            self._count(entry, -1)
        self._resting.cancel(node)
        self._suspected.cancel(node)
        self._refresh(node)

    def present(self) -> Iterator[NodeId]:
        """The nodes that are online and can take part, busy ones and resting ones included."""
        return (node for node, entry in self._entries.items() if entry.online and entry.compatible)

    def is_present(self, node: NodeId) -> bool:
        """Whether this node is one of them."""
        entry = self._entries.get(node)
        return entry is not None and entry.online and entry.compatible

    def is_compatible(self, state: NodeState) -> bool:
        """Whether a node that says this can take part: protocol, task, codec, and sealing where asked."""
        return (
            state.protocol_min <= PROTOCOL_VERSION
            and state.protocol_max >= PROTOCOL_MIN
            and state.task in ("", self._task)
            and self._codecs.of(state) is not None
            and not self.lacks_seal(state)
        )

    def lacks_seal(self, state: NodeState) -> bool:
        """Whether all that a node says and pulls must be sealed, and this one names no key for it."""
        return self._sealed and state.presence is Presence.ONLINE and state.seal is None

    def is_invitable(self, node: NodeId) -> bool:
        """Whether this node reads an announcement on its own command topic."""
        entry = self._entries.get(node)
        return entry is not None and entry.invitable

    def codec_for(self, node: NodeId) -> str:
        """The best codec that the node agrees to, as far as it has said; else the best one."""
        entry = self._entries.get(node)
        return (None if entry is None else entry.codec) or self._codecs.best

    def assign(self, node: NodeId) -> None:
        """The node holds a slot."""
        self._assigned.add(node)
        if node in self._entries:
            self._entries[node].asked += 1
        self._refresh(node)

    def release(self, node: NodeId) -> None:
        """The node's slot is free."""
        self._assigned.discard(node)
        self._refresh(node)

    def used(self, node: NodeId) -> int:
        """Updates of the node on their way into the next version."""
        return self._used.get(node, 0)

    @property
    def quota_used(self) -> int:
        """Updates of all nodes that count in their quotas."""
        return sum(self._used.values())

    def take(self, node: NodeId) -> None:
        """One more update of the node is on its way."""
        self._used[node] = self.used(node) + 1
        self._refresh(node)

    def give(self, node: NodeId) -> None:
        """One update of the node has come to its end."""
        self._used[node] -= 1
        if self._used[node] == 0:
            del self._used[node]
        self._refresh(node)

    def exclude(self, node: NodeId, why: str = "budget") -> None:
        """Do not ask this node again in this run, for this reason."""
        self._excluded.setdefault(node, set()).add(why)
        self._refresh(node)

    def include(self, node: NodeId, why: str = "budget") -> None:
        """This reason to leave a node out is over."""
        self._excluded.get(node, set()).discard(why)
        self._refresh(node)

    def gone(self) -> Iterator[NodeId]:
        """Known nodes that are not online, in the order in which they became known."""
        return (node for node, entry in self._entries.items() if not entry.online)

    def alive(self, node: NodeId) -> None:
        """A sign of life: suspicion ends."""
        if node in self._suspected:
            self._suspected.cancel(node)
            self._refresh(node)

    def suspect(self, node: NodeId, now: float, lease_s: float) -> None:
        """The node let a lease expire: others go first, for a time that doubles with each expiry in a row."""
        entry = self._entries.get(node)
        if entry is not None:
            self._suspected.set(node, now + min(REST_MAX_S, lease_s * 2.0 ** entry.silence()))
            self._refresh(node)

    def rest(self, node: NodeId, now: float, seconds: float = 0.0) -> None:
        """The node declined or failed: leave it alone for what it asked, and longer each time in a row."""
        entry = self._entries.get(node)
        if entry is not None:
            entry.backoff_until = now + min(REST_MAX_S, REST_BASE_S * 2.0 ** entry.strike())
            self._resting.set(node, max(entry.backoff_until, now + min(seconds, RETRY_AFTER_MAX_S)))
            self._refresh(node)

    def pausing(self) -> Iterator[NodeId]:
        """Nodes that are left alone for now, as they have declined, or sent what was refused."""
        return iter(self._resting)

    def praise(self, node: NodeId, train_s: float = 0.0, payload_bytes: int = 0) -> None:
        """The node delivered: its failures in a row are over."""
        entry = self._entries.get(node)
        if entry is not None:
            entry.strikes = entry.silences = 0
            entry.delivered += 1
            entry.train_s, entry.payload_bytes = train_s, payload_bytes

    def record(self, node: NodeId) -> NodeRecord:
        """What is known of a node, for a selector."""
        entry = self._entries[node]
        return NodeRecord(
            asked=entry.asked,
            delivered=entry.delivered,
            train_s=entry.train_s,
            payload_bytes=entry.payload_bytes,
            capabilities=entry.capabilities,
        )

    def next_timer(self) -> float | None:
        """When `wake` is due, in monotonic seconds; None when nobody rests."""
        return min((due for due in (self._resting.next(), self._suspected.next()) if due is not None), default=None)

    def wake(self, now: float) -> None:
        """End the rests that are over."""
        for node in (*self._resting.pop_due(now), *self._suspected.pop_due(now)):
            self._refresh(node)

    def _refresh(self, node: NodeId) -> None:
        entry = self._entries.get(node)
        ready = (
            entry is not None
            and entry.online
            and entry.compatible
            and entry.able
            and node not in self._assigned
            and not self._excluded.get(node)
            and self.used(node) < self._quota
            and node not in self._resting
        )
        suspected = node in self._suspected
        (self.candidates.add if ready and not suspected else self.candidates.discard)(node)
        (self.suspects.add if ready and suspected else self.suspects.discard)(node)


@lru_cache(maxsize=1_024)
def _held_once(capabilities: tuple[tuple[str, float], ...]) -> Mapping[str, float]:
    """The same capabilities, held once for all nodes that say so at about the same time."""
    return MappingProxyType(dict(capabilities))


def _is_other_life(known: Entry, state: NodeState) -> bool:
    """Whether this is said by a node with another store: one that has lost its state, or was set up anew [FED-99].

    A birth after its known life has ended tells it, too, where its counter has gone back: nothing that the ended life
    said before its end comes after it.
    """
    if known.state_id is not None and state.state_id is not None and known.state_id != state.state_id:
        return True
    ended = not known.online and state.presence is Presence.ONLINE
    return ended and state.incarnation < known.incarnation


def _is_past(known: Entry, state: NodeState) -> bool:
    """Whether this was said before what is known [FED-21]; the counters of two stores are not compared."""
    online = state.presence is Presence.ONLINE
    if _is_other_life(known, state) or (known.state_id is not None and state.state_id is None and not online):
        return not online
    return state.incarnation < known.incarnation


def _compare(entry: Entry | None, state: NodeState, *, other_life: bool) -> Sighting:
    online = state.presence is Presence.ONLINE
    if entry is None or other_life or state.incarnation > entry.incarnation:
        return Sighting.BORN if online else (Sighting.AWAY if entry is None else Sighting.GONE)
    if online:
        return Sighting.HERE if entry.online else Sighting.BACK
    return Sighting.GONE if entry.online else Sighting.AWAY
