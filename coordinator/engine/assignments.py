"""Who holds a slot, for which round, until when: no slot outlives its lease."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from coordinator.engine.timers import Timers
from federation.protocol.messages import Cohort
from federation.types import ModelVersion, NodeId, RoundId

LEASE_RESTARTS_MAX = 3
"""Times that a node which keeps rebooting gets a fresh lease for the same round."""


@dataclass(slots=True)
class Slot:
    """One assignment in flight; ``invited``: its node alone was told, and the broker has kept that."""

    round: RoundId
    version: ModelVersion
    restarts: int = 0
    invited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Who was asked in one round."""

    version: ModelVersion
    nodes: frozenset[NodeId]
    cohort: Cohort
    recovered: bool


class Assignments:
    """Slots by node (each node holds at most one), and by round, oldest round first."""

    def __init__(self) -> None:
        self._slots: dict[NodeId, Slot] = {}
        self._rounds: dict[RoundId, dict[NodeId, None]] = {}
        self._leases: Timers[NodeId] = Timers()

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._slots)

    @property
    def rounds(self) -> int:
        """Rounds with a slot in flight."""
        return len(self._rounds)

    def get(self, node: NodeId) -> Slot | None:
        """The slot that a node holds."""
        return self._slots.get(node)

    def of_round(self, round_id: RoundId) -> tuple[NodeId, ...]:
        """Nodes that hold a slot of this round."""
        return tuple(self._rounds.get(round_id, ()))

    def begin(self, node: NodeId, slot: Slot, until: float) -> None:
        """Give a slot to a node that has none; ``until`` is in connected seconds."""
        self._slots[node] = slot
        self._rounds.setdefault(slot.round, {})[node] = None
        self._leases.set(node, until)

    def doubt_invitations(self) -> None:
        """The broker may have lost those that are on their way."""
        for slot in self._slots.values():
            slot.invited = False

    def end(self, node: NodeId) -> Slot | None:
        """Take the slot of a node away; None when it has none."""
        slot = self._slots.pop(node, None)
        if slot is not None:
            self._leases.cancel(node)
            nodes = self._rounds[slot.round]
            del nodes[node]
            if not nodes:
                del self._rounds[slot.round]
        return slot

    def restart(self, node: NodeId, until: float) -> bool:
        """Give a slot's holder a fresh lease, a few times; returns whether it did."""
        slot = self._slots[node]
        if slot.restarts >= LEASE_RESTARTS_MAX:
            return False
        slot.restarts += 1
        self._leases.set(node, until)
        return True

    def extend(self, node: NodeId, until: float) -> None:
        """Move a lease for a reason that is ours."""
        self._leases.set(node, until)

    def next_lease(self) -> float | None:
        """When the next lease ends, in connected seconds."""
        return self._leases.next()

    def expired(self, now: float) -> list[tuple[NodeId, Slot]]:
        """Slots whose lease has ended by ``now`` (connected seconds); each is told once, the caller ends it."""
        return [(node, self._slots[node]) for node in self._leases.pop_due(now)]

    def older_than(self, version: ModelVersion) -> list[tuple[NodeId, Slot]]:
        """Slots for work from a version before ``version``; costs only what it finds."""
        found: list[tuple[NodeId, Slot]] = []
        for nodes in self._rounds.values():
            slots = [(node, self._slots[node]) for node in nodes]
            if slots[0][1].version >= version:
                break
            found.extend(slots)
        return found


class Freed:
    """Slots that were freed, until the disk is told.

    Attributes:
        at_once: Nothing else tells the store of one of them; those of delivered updates it can infer.
    """

    def __init__(self) -> None:
        self.at_once = False
        self._slots: dict[RoundId, dict[NodeId, None]] = {}
        self._told: dict[RoundId, dict[NodeId, None]] = {}

    def add(self, round_id: RoundId, node: NodeId, *, at_once: bool) -> None:
        """A node holds its slot in this round no longer."""
        self._slots.setdefault(round_id, {})[node] = None
        self.at_once = self.at_once or at_once

    def take(self) -> Mapping[RoundId, Iterable[NodeId]]:
        """The disk is told now of all of these."""
        self._told, self._slots, self.at_once = self._slots, {}, False
        return self._told

    def not_saved(self) -> None:
        """The disk has failed, maybe at what it was told last: else the next process would hold these slots again."""
        for round_id, nodes in self._told.items():
            self._slots.setdefault(round_id, {}).update(nodes)
        self.at_once = self.at_once or bool(self._told)
        self._told = {}
