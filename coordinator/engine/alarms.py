"""What somebody should know: what is waited for, what is no message, what the broker drops, and a disk that is full.

Each is said once. While the disk cannot be written to, nothing is acknowledged: for a while, longer with each failure
in a row.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from coordinator.engine.effects import AcceptFailure, CountIncident
from coordinator.engine.events import MessageRefused, StorageFailed
from coordinator.engine.round import WaitReason
from coordinator.engine.state import MachineState
from coordinator.engine.timers import RateLimit
from coordinator.engine.transfers import CHUNKS_UNDER_WAY_MAX
from coordinator.engine.update_receiver import BUSY_RETRY_S
from coordinator.strategies.selection import Rng
from federation.types import ModelVersion, NodeId

__all__ = ["NAMES_MAX", "STORAGE_RETRY_MAX_S", "Alarms", "StoragePause", "Waiting", "failing_nodes"]

NAMES_MAX = 10
"""Nodes named in one line of the log, or in one snapshot."""

TOPIC_KINDS = frozenset({"state", "evt", "tel", "up"})
TOPIC_CHARS_MAX = 200

USELESS_CHUNKS_PER_S = 5.0
"""So many of one node, each second, are no incident; all that was under way may come a second time at once."""


STORAGE_RETRY_S = 1.0
"""First pause after a storage failure; doubled with each failure in a row."""

STORAGE_RETRY_MAX_S = 60.0
"""Longest pause after a storage failure, in seconds."""

FAILURES_MAX = 16


class Alarms:
    """One machine's."""

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self._refused_kinds: set[str] = set()
        self._broker_dropped: int | None = None
        self._nobody_since: ModelVersion | None = None
        self._useless_chunks = RateLimit[NodeId](per_s=USELESS_CHUNKS_PER_S, burst=CHUNKS_UNDER_WAY_MAX)

    def look(self) -> None:
        """Say that nobody trains, and why, once for each version after which it is so."""
        state = self._state
        if state.nobody_trains and self._nobody_since != state.head.version:
            self._nobody_since = state.head.version
            state.note("nobody_trains", version=state.head.version, **failing_nodes(state))

    def refused(self, event: MessageRefused) -> None:
        """Count, and log the first of each kind of topic."""
        self._state.count("messages_refused")
        kind = next((level for level in reversed(event.topic.split("/")) if level in TOPIC_KINDS), "")
        if kind not in self._refused_kinds:
            self._refused_kinds.add(kind)
            self._state.note("message_refused", topic=event.topic[:TOPIC_CHARS_MAX], reason=event.reason)

    def useless_chunk(self, node: NodeId) -> None:
        """A chunk that nobody wants: some come twice after a reconnect, or late; more than that is somebody's fault."""
        self._state.count("chunks_useless")
        if not self._useless_chunks.admits(node, self._state.now):
            self._state.emit(CountIncident(node=node, kind="useless_chunk"))

    def dropped(self, total: int) -> None:
        """Say that the broker loses messages; what it had dropped before is no news."""
        before, self._broker_dropped = self._broker_dropped, total
        if before is not None and total > before:
            self._state.count("broker_dropped", total - before)
            self._state.note("broker_drops", messages=total - before, total=total)


class Waiting:
    """What the machine waits for.

    Attributes:
        reason: Why; None before it has decided anything.
        since: Since when, in monotonic seconds.
    """

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self.reason: WaitReason | None = None
        self.since = 0.0
        self._tenths = 0

    def wait(self, reason: WaitReason, names: Callable[[], Sequence[str]]) -> None:
        """Remember for what, and say it when it changes; ``names`` gives some of those who are waited for."""
        news = reason != self.reason
        if news:
            self.reason, self.since = reason, self._state.now
        if news or self._more_came():
            self._tell(names())

    def _more_came(self) -> bool:
        """Whether another tenth of those who must be online before the first round is."""
        tenths = 10 * self._state.registry.online // self._state.settings.nodes_min
        before, self._tenths = self._tenths, tenths
        return self.reason is WaitReason.NODES_MIN and tenths > before

    def _tell(self, names: Sequence[str]) -> None:
        state = self._state
        live, buffered = len(state.assignments), len(state.buffer.records)
        reason = "" if self.reason is None else self.reason.value
        fields: dict[str, object] = {"reason": reason, "nodes": list(names), "live": live, "buffered": buffered}
        online = state.registry.online
        if self.reason is WaitReason.NODES_MIN:
            fields["why"] = f"{online} of {state.settings.nodes_min} online (round.nodes_min)"
        state.note("waiting", **fields, online=online)

    def row(self, names: Sequence[str], missing: Mapping[str, object]) -> dict[str, object]:
        """The same as plain data; ``missing``: who is not there."""
        state = self._state
        return {
            "reason": "" if self.reason is None else self.reason.value,
            "since": self.since,
            "nodes": list(names),
            **missing,
            "buffer": state.settings.buffer,
            "nodes_min": state.settings.nodes_min,
            "pausing": list(islice(state.registry.pausing(), NAMES_MAX)),
            **masked_wait(state),
            "nobody_trains": state.nobody_trains,
            **failing_nodes(state),
        }


def masked_wait(state: MachineState) -> dict[str, object]:
    """What a masked version still lacks: how many updates of how many, and some of the nodes that rest between sums."""
    if state.settings.masking is None:
        return {}
    resting = list(islice(state.masked.resting, NAMES_MAX))
    return {
        "ready": state.masked.ready,
        "quorum": state.settings.quorum,
        "resting": resting,
        "rest": len(state.masked.resting),
    }


def failing_nodes(state: MachineState) -> dict[str, object]:
    """Some of the nodes whose work comes to nothing, why, and how many there are."""
    return {"failing": dict(islice(state.failing.items(), NAMES_MAX)), "failed": len(state.failing)}


class StoragePause:
    """One machine's.

    Attributes:
        until: When saving is tried again, in monotonic seconds; None while nothing is wrong.
    """

    def __init__(self, state: MachineState, rng: Rng) -> None:
        self._state, self._rng = state, rng
        self._failures = 0
        self.until: float | None = None

    def begin(self, event: StorageFailed) -> None:
        """Pause, and say so."""
        state = self._state
        pause = min(STORAGE_RETRY_MAX_S, STORAGE_RETRY_S * 2.0 ** min(self._failures, FAILURES_MAX))
        self._failures += 1
        self.until = state.now + pause
        state.count("storage_failures")
        state.pause()
        state.emit(AcceptFailure())
        state.note("storage_failed", detail=event.detail, retry_s=pause)

    def ends(self) -> bool:
        """Whether the pause ends now; then saving may be tried again."""
        if self.until is None or self._state.now < self.until:
            return False
        self.until = None
        self._state.resume()
        self._state.note("storage_resumed")
        return True

    def saved(self) -> None:
        """Something is on the disk: the failures in a row are over."""
        self._failures = 0

    def retry_s(self) -> float:
        """What a node that must come later is told, in seconds: after the pause, and not all at once."""
        pause = max(0.0, (self.until or 0.0) - self._state.now)
        return pause + BUSY_RETRY_S * (1.0 + self._rng())
