"""What a node's state, its silence and its refusal mean for its slot."""

from typing import assert_never

from coordinator.engine.announcer import Announcer
from coordinator.engine.fencing import Fence
from coordinator.engine.registry import Sighting
from coordinator.engine.state import Desk
from federation.protocol.messages import Decline, NodeState
from federation.types import NodeId, RoundId


class Attendance:
    """Follows who is there; a node that vanishes never keeps a slot."""

    def __init__(self, desk: Desk, announcer: Announcer, fence: Fence) -> None:
        self._desk, self._announcer, self._fence = desk, announcer, fence
        self._starved_round: RoundId | None = None

    def expire_leases(self) -> None:
        """Free the slots of those who stayed silent for a whole lease."""
        desk = self._desk
        for node, slot in desk.assignments.expired(desk.connected_s):
            desk.end_slot(node)
            desk.registry.suspect(node, desk.now, desk.settings.lease_s)
            desk.count("leases_expired")
            desk.note("lease_expired", node=node, round=slot.round)

    def declined(self, node: NodeId, decline: Decline) -> None:
        """The node will not train: it is left alone for a while."""
        desk = self._desk
        if decline.run != desk.run:
            return
        desk.count("declines")
        desk.note("node_declined", node=node, round=decline.round, reason=decline.reason)
        slot = desk.assignments.get(node)
        # What waited for a broken link, or comes twice, answers nothing: it must not count as declines in a row.
        if slot is not None and slot.round == decline.round:
            desk.registry.rest(node, desk.now, decline.retry_after_s)
        desk.declined(node, decline.round)
        if decline.missing:
            self._starved(node, decline.round)

    def _starved(self, node: NodeId, round_id: RoundId) -> None:
        """Only whoever was asked costs a model, once per round, and only what is published now [FED-90]."""
        desk = self._desk
        news = self._starved_round is None or round_id > self._starved_round
        if news and desk.base_asked(node, round_id) == desk.head.version:
            self._starved_round = round_id
            self._fence.lost()

    def observe(self, node: NodeId, state: NodeState) -> None:
        """Take in a birth, a death or an activity."""
        desk = self._desk
        sighting = desk.registry.observe(node, state)
        match sighting:
            case Sighting.OUTDATED:
                desk.count("outdated_states")
            case Sighting.OVERFLOW:
                desk.count("node_limit")
                if desk.counters["node_limit"] == 1:
                    desk.note("node_limit", node=node, known=len(desk.registry))
            case Sighting.GONE | Sighting.AWAY:
                desk.end_slot(node)
                if sighting is Sighting.GONE:
                    desk.note("node_gone", node=node, presence=state.presence.value, online=desk.registry.online)
            case Sighting.BORN | Sighting.BACK | Sighting.HERE:
                self._on_online(node, state, sighting)
            case _:
                assert_never(sighting)

    def _on_online(self, node: NodeId, state: NodeState, sighting: Sighting) -> None:
        desk = self._desk
        slot = desk.assignments.get(node)
        fresh = sighting is not Sighting.HERE
        if fresh:
            desk.note("node_online", node=node, incarnation=state.incarnation, online=desk.registry.online)
        if not desk.registry.is_compatible(state):
            desk.end_slot(node)
            desk.count("incompatible_states")
            if fresh:
                desk.note("node_incompatible", node=node, task=state.task, codecs=state.codecs)
        elif slot is None:
            if fresh:
                self._announcer.reinstate(node)
        elif desk.current is not None and slot.round == desk.current.record.round:
            # It reads the retained announcement again and starts over.
            if sighting is Sighting.BORN:
                desk.assignments.restart(node, desk.lease_until)
        elif state.round != slot.round:
            # The announcement that named it is gone, and it is not at that work: it never will be.
            desk.end_slot(node)
