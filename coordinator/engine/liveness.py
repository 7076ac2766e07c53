"""Who is there: what a node's state, silence and refusal mean for its slot, and calls on nodes that seem gone.

A will that was delayed, or a birth that a full queue has dropped, leaves a node idle and unasked, and nothing but a
reconnect would show it. So a coordinator that finds nobody asks for a sign of life, with growing pauses [FED-61].
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final, assert_never

from coordinator.engine.assignments import Slot
from coordinator.engine.columns import Columns
from coordinator.engine.effects import ClearNodeState, SaveAttendance
from coordinator.engine.fencing import Behind, Fence
from coordinator.engine.registry import NODES_MAX, Sighting
from coordinator.engine.round import WaitReason
from coordinator.engine.state import MachineState
from coordinator.engine.timers import RateLimit, Timers
from coordinator.records import Attendance
from federation.protocol.limits import AWAY_GRACE_S, AWAY_S_MAX
from federation.protocol.messages import Decline, NodeState, Presence, Rebirth
from federation.types import Incarnation, NodeId, RoundId

__all__ = ["ROLL_CALL_S", "AttendanceRecorder", "Liveness"]

PAUSE_S = 1.0
"""It is saved this often at most, in seconds: a fleet that is born at once costs one transaction."""

NO_ANSWER: Final = "no answer"
"""The reason of a lease that expired."""

INCOMPATIBLE: Final = "incompatible"
"""The reason of a node whose protocol, task or codec is another one."""

ROLL_CALL_S = 60.0
"""How long nobody can be asked before the first call, in seconds; doubled with each further one."""

REBIRTH_PAUSE_S = 10.0
"""Between two answers to one unknown node, in seconds."""

REBIRTHS_BURST = 3
REBIRTHS_PER_S = 500.0
"""Answers to all unknown nodes, each second: whoever invents names gets no more."""

ROLL_CALL_S_MAX = 3_600.0
"""Longest pause between two calls, in seconds."""

ROLL_CALL_NODES_MAX = 100
"""Nodes called at once, in turn: a call to a node that is really gone waits in its session at the broker."""

UNSEALED = "the run is sealed and the node cannot seal: give it this release, and security.require_signatures = true"
"""Why a node is not asked whose word the broker could read."""

STARVING = frozenset({WaitReason.NO_CANDIDATES, WaitReason.NODES_MIN})
"""Nobody is there who could be asked."""

DOUBLINGS_MAX = 6


class AttendanceRecorder:
    """What was seen of nodes and is not on the disk yet. It only tells: a full disk is no reason to stop."""

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self._incarnations: dict[NodeId, Incarnation] = {}
        self._absences: dict[NodeId, Counter[str]] = {}
        self._saving = False
        self._next_s = 0.0

    def came(self, node: NodeId, incarnation: Incarnation) -> None:
        """A node is there, which was not, or is another process now."""
        self._incarnations[node] = incarnation

    def declined(self, node: NodeId, reason: str) -> None:
        """A node does not train; its own words will be shown on a terminal."""
        self.absent(node, "".join(filter(str.isprintable, reason)) or "no reason")

    def absent(self, node: NodeId, reason: str) -> None:
        """A node does not train."""
        # A decline may come from a node that nobody knows.
        if node in self._absences or len(self._absences) < NODES_MAX:
            self._absences.setdefault(node, Counter())[reason] += 1

    def due(self) -> float | None:
        """When `save` has something to do, in monotonic seconds; None when there is nothing, or the disk is asked."""
        return self._next_s if (self._incarnations or self._absences) and not self._saving else None

    def save(self, *, at_once: bool = False) -> None:
        """Ask for what is due to be saved; ``at_once``: also what has waited too short a time."""
        due, now = self.due(), self._state.now
        if due is None or (now < due and not at_once):
            return
        self._saving, self._next_s = True, now + PAUSE_S
        absences = {node: dict(reasons) for node, reasons in self._absences.items()}
        seen = Attendance(incarnations=dict(self._incarnations), absences=absences)
        self._state.emit(SaveAttendance(attendance=seen))

    def saved(self, attendance: Attendance) -> None:
        """This much is on the disk; more may have been seen since it was asked."""
        self._saving = False
        for node, incarnation in attendance.incarnations.items():
            if self._incarnations.get(node) == incarnation:
                del self._incarnations[node]
        for node, reasons in attendance.absences.items():
            self._absences[node].subtract(reasons)
            self._absences[node] = +self._absences[node]
            if not self._absences[node]:
                del self._absences[node]

    def storage_failed(self) -> None:
        """The disk did not take it: it stays for the next time."""
        self._saving = False


class Liveness:
    """Follows who is there; a node that vanishes never keeps a slot."""

    def __init__(self, state: MachineState, fence: Fence, attendance: AttendanceRecorder, behind: Behind) -> None:
        self._state, self._fence, self._attendance, self._behind = state, fence, attendance, behind
        self._asked_who = RateLimit[NodeId](per_s=1 / REBIRTH_PAUSE_S, burst=REBIRTHS_BURST)
        self._asked_any = RateLimit[str](per_s=REBIRTHS_PER_S, burst=REBIRTHS_PER_S)
        self._doubted: dict[NodeId, Incarnation] = {}
        self._starved_round: RoundId | None = None
        self._calls = 0
        self._called = 0
        self._call_due: float | None = None
        self._away: Timers[NodeId] = Timers()
        self._columns = Columns(state, attendance.absent)

    @property
    def call_due(self) -> float | None:
        """When `consider` has something to do, in monotonic seconds: nodes are called, or should be back by then."""
        return min((due for due in (self._call_due, self._away.next()) if due is not None), default=None)

    def expire_leases(self) -> None:
        """Free the slots of those who stayed silent for a whole lease."""
        state = self._state
        for node, slot in state.assignments.expired(state.connected_s):
            state.end_slot(node)
            state.registry.suspect(node, state.now, state.settings.lease_s)
            state.count("leases_expired")
            state.note("lease_expired", node=node, round=slot.round)
            if not state.obeyed and slot.round >= state.first_round and state.registry.is_present(node):
                # Nobody has done anything for this process yet: perhaps they obey a later one.
                state.send(node, Rebirth())
            self._attendance.absent(node, NO_ANSWER)

    def declined(self, node: NodeId, decline: Decline) -> None:
        """The node will not train: it is left alone for a while."""
        state = self._state
        if decline.run != state.run:
            return
        state.count("declines")
        state.note("node_declined", node=node, round=decline.round, reason=decline.reason)
        self._attendance.declined(node, decline.reason)
        slot = state.assignments.get(node)
        # What waited for a broken link, or comes twice, answers nothing: it must not count as declines in a row.
        if slot is not None and slot.round == decline.round:
            state.registry.rest(node, state.now, decline.retry_after_s)
            state.fails(node, decline.reason)
        state.declined(node, decline.round)
        if decline.missing:
            self._starved(node, decline.round)

    def _starved(self, node: NodeId, round_id: RoundId) -> None:
        """Only whoever was asked costs a model, once per round, and only what is published now [FED-90]."""
        state = self._state
        news = self._starved_round is None or round_id > self._starved_round
        if news and state.base_asked(node, round_id) == state.head.version:
            self._starved_round = round_id
            self._fence.lost()

    def observe(self, node: NodeId, node_state: NodeState) -> None:
        """Take in a birth, a death or an activity."""
        state = self._state
        repeated = self._doubted.get(node) == node_state.incarnation
        sighting = state.registry.observe(node, node_state, repeated=repeated)
        if node in state.registry and sighting is not Sighting.OUTDATED:
            self._doubted.pop(node, None)
            self._expect(node, node_state)
            self._behind.born(node, node_state)
            if node_state.seen is not None and node_state.seen.run != state.run:
                self._fence.astray()
        match sighting:
            case Sighting.OUTDATED:
                state.count("outdated_states")
                self._doubt(node, node_state)
            case Sighting.OVERFLOW:
                state.count("node_limit")
                if state.counters["node_limit"] == 1:
                    state.note("node_limit", node=node, known=len(state.registry))
            case Sighting.GONE | Sighting.AWAY:
                state.end_slot(node)
                state.serves(node)
                if sighting is Sighting.GONE:
                    word = "node_gone" if node not in self._away else "node_away"
                    state.note(word, node=node, presence=node_state.presence.value, online=state.registry.online)
            case Sighting.BORN | Sighting.BACK | Sighting.HERE:
                self._on_online(node, node_state, sighting)
            case _:
                assert_never(sighting)
        if node in state.registry and sighting is not Sighting.OUTDATED:
            self._columns.observe(node, node_state)

    def _expect(self, node: NodeId, node_state: NodeState) -> None:
        """A node that leaves by the pace has said when it comes back; until then nobody misses it [FED-327]."""
        if node_state.away_s is None or node_state.presence is not Presence.OFFLINE:
            self._away.cancel(node)
        else:
            self._away.set(node, self._state.now + min(node_state.away_s, AWAY_S_MAX) + AWAY_GRACE_S)

    def _doubt(self, node: NodeId, node_state: NodeState) -> None:
        """A birth of a lower incarnation than the one that is online came late, or the node's counter went back.

        Its state was lost or restored, and no state id tells: it is asked. Who says so once more is there [FED-21].
        """
        if node_state.presence is Presence.ONLINE and self._ask(node):
            self._doubted[node] = node_state.incarnation

    def _on_online(self, node: NodeId, node_state: NodeState, sighting: Sighting) -> None:
        state = self._state
        self._fence.met(node)
        slot = state.assignments.get(node)
        fresh = sighting is not Sighting.HERE
        if fresh:
            state.note("node_online", node=node, incarnation=node_state.incarnation, online=state.registry.online)
            self._attendance.came(node, node_state.incarnation)
            state.serves(node)  # it may have been repaired meanwhile, and has not been asked since
        if not state.registry.is_compatible(node_state):
            state.end_slot(node)
            state.count("incompatible_states")
            lacks_seal = state.registry.lacks_seal(node_state)
            why = f"its task is {node_state.task}, its codecs are {node_state.codecs}"
            state.fails(node, UNSEALED if lacks_seal else f"incompatible: {why}")
            if fresh:
                fields = {"task": node_state.task, "codecs": node_state.codecs, "seals": node_state.seal is not None}
                state.note("node_incompatible", node=node, **fields)
                self._attendance.absent(node, INCOMPATIBLE)
        elif slot is None:
            if fresh:
                state.reinstate(node)
        elif state.current is not None and slot.round == state.current.record.round:
            # It reads the retained announcement again and starts over.
            if sighting is Sighting.BORN:
                state.assignments.restart(node, state.lease_until)
        elif node_state.round != slot.round and (fresh or not self._may_be_on_its_way(node_state, slot)):
            # What named it is gone, or was for a former life, and it is not at that work: it never will be.
            state.end_slot(node)

    def _may_be_on_its_way(self, node_state: NodeState, slot: Slot) -> bool:
        """Whether a node that has heard of no later round reads its invitation yet, or has answered: update or decline.

        States and updates come on two connections, so that what was said last may be heard first. The lease bounds it.
        """
        seen = node_state.seen
        heard = None if seen is None or seen.run != self._state.run else seen.round
        return slot.invited and (heard is None or heard <= slot.round)

    def ask_who(self, node: NodeId) -> None:
        """An unknown node has spoken: ask who it is, but neither one node often nor many at once [FED-23]."""
        if node not in self._state.registry:
            self._ask(node)

    def _ask(self, node: NodeId) -> bool:
        state = self._state
        if self._asked_who.admits(node, state.now) and self._asked_any.admits("", state.now):
            state.send(node, Rebirth())
            return True
        state.count("rebirths_withheld")
        return False

    @property
    def expected(self) -> set[NodeId]:
        """Who is known, or is at work."""
        return {*self._state.registry.nodes(), *self._state.assignments}

    def expel(self, nodes: frozenset[NodeId]) -> None:
        """These have left the federation: nobody asks them, waits for them, or hears of them from the broker."""
        self._behind.expel(nodes)
        for node in sorted(nodes):
            self._doubted.pop(node, None)
            self._away.cancel(node)
            self._state.remove_node(node)
            self._state.emit(ClearNodeState(node=node))
            self._state.note("node_revoked", node=node, online=self._state.registry.online)

    def consider(self, reason: WaitReason | None) -> None:
        """Look at what the machine waits for now (None: for nobody), and call when it has starved for long enough."""
        state = self._state
        self._away.pop_due(state.now)
        if reason not in STARVING or not self._missing:
            self._call_due, self._calls = None, 0
        elif self._call_due is None:
            self._call_due = state.now + ROLL_CALL_S
        elif state.now >= self._call_due:
            self._call()

    @property
    def _missing(self) -> int:
        """How many nodes are neither there nor away by the pace."""
        return len(self._state.registry) - self._state.registry.online - len(self._away)

    def _gone(self) -> Iterator[NodeId]:
        return (node for node in self._state.registry.gone() if node not in self._away)

    def missing(self, reason: WaitReason | None, most: int) -> Mapping[str, object]:
        """Who is not there, as plain data.

        ``gone`` are some of those that are believed gone, looked for only where somebody is missing; ``away`` is how
        many have left by the pace, and ``back_s`` when the first of them is due, in seconds from now.
        """
        gone = list(islice(self._gone(), most)) if reason in STARVING and self._missing else []
        due = self._away.next()
        back_s = None if due is None else max(0.0, due - AWAY_GRACE_S - self._state.now)
        return {"gone": gone, "away": len(self._away), "back_s": back_s}

    def _call(self) -> None:
        state = self._state
        self._calls += 1
        self._call_due = state.now + min(ROLL_CALL_S_MAX, ROLL_CALL_S * 2.0 ** min(DOUBLINGS_MAX, self._calls))
        gone = self._missing
        count, start = min(gone, ROLL_CALL_NODES_MAX), self._called % gone
        # The pool of those who are gone may have changed since: to call one twice, or a little later, does no harm.
        twice = [*self._gone(), *self._gone()]
        for node in islice(twice, start, start + count):
            state.send(node, Rebirth())
        self._called = start + count
        state.count("roll_calls")
        state.note("roll_call", nodes=count, gone=gone)
