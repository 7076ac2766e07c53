"""Nodes whose processes never end: what they keep is in this process, for a simulation may have many thousands of them.

A file, a lock and a connection to SQLite for each node would cost more than all the rest of it, and nothing would ever
read what they hold. Where a node can crash, or its disk fail, it has a disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edge_node.records import NO_CHANGE, OutboxEntry, RecoveredNode, Residual, Seen, StateChange
from edge_node.storage.store import HeldModel, NodeStore
from edge_node.storage.task_state import added
from federation.errors import LocalProtocolError
from federation.privacy.budget import greatest
from federation.task import Parameters
from federation.types import Incarnation, ModelVersion, RoundId, RunId, SampledSteps, StateId, UpdateId
from fedmq.simulation.world.disks import Disk

__all__ = ["NoDisk", "VolatileNodeStore"]


class VolatileNodeStore:
    """A `NodeStore` about the run that was heard last, and no other.

    Args:
        state_id: Its identity.
    """

    def __init__(self, state_id: StateId) -> None:
        self.incarnation, self.state_id = Incarnation(1), state_id
        self._kept = _Kept()
        self._spent: dict[RunId, tuple[SampledSteps, ...]] = {}

    def recovered(self) -> RecoveredNode:
        """What a start finds: nothing."""
        return RecoveredNode()

    def enter_run(self, run: RunId) -> tuple[RunId, ...]:
        """Another run has begun: what is of the old one is gone."""
        former = self._kept.run
        if run == former:
            return ()
        self._kept = _Kept(run)
        return () if former is None else (former,)

    def outbox(self) -> tuple[OutboxEntry, ...]:
        """The updates without a final receipt, oldest first."""
        return tuple(self._kept.outbox.values())

    def held_model(self) -> HeldModel | None:
        """The newest model."""
        return self._kept.model

    def save_model(self, model: HeldModel) -> None:
        """Replace it."""
        self._kept.model = model

    def residual(self) -> Residual | None:
        """What was learnt and not sent, float32 (D,), or None for zero."""
        return self._kept.residual

    def residual_version(self) -> ModelVersion | None:
        """The base version of the newest update that was saved with a residual."""
        return None if self._kept.residual is None else self._kept.residual_version

    def task_state(self) -> Parameters:
        """The arrays that the task keeps."""
        return self._kept.state

    def pending(self, update: UpdateId) -> Parameters:
        """What is added to them when this update is applied."""
        return self._kept.pending.get(update, {})

    def save_outbox(
        self,
        entry: OutboxEntry,
        frame: bytes,
        residual: Residual | None,
        change: StateChange = NO_CHANGE,
        context: bytes | None = None,
    ) -> None:
        """Put an update into the outbox, and replace the residual."""
        offer = replace(entry.offer, inline=None)
        self.enter_run(offer.run)
        if offer.update in self._kept.outbox:
            raise LocalProtocolError(f"update {offer.update} is in the outbox already")
        self.save_spent(offer.run, offer.spent or ())
        self._kept.outbox[offer.update], self._kept.frames[offer.update] = replace(entry, offer=offer), frame
        if change.pending:
            self._kept.pending[offer.update] = change.pending
        if context is not None:
            self._kept.contexts[offer.update] = context
        self._kept.residual, self._kept.residual_version = residual, offer.base_version
        self._kept.state = {**self._kept.state, **change.kept} if change.kept else self._kept.state

    def frame(self, update: UpdateId) -> bytes | None:
        """The codec frame of an update in the outbox."""
        return self._kept.frames.get(update)

    def context(self, update: UpdateId) -> bytes | None:
        """What the frame needs to be decoded."""
        return self._kept.contexts.get(update)

    def entry(self, update: UpdateId) -> OutboxEntry | None:
        """An update in the outbox."""
        return self._kept.outbox.get(update)

    def mark_stored(self, update: UpdateId) -> None:
        """The coordinator has the payload."""
        if update in self._kept.outbox:
            self._kept.outbox[update] = replace(self._kept.outbox[update], stored=True)

    def settle(self, update: UpdateId, residual: Residual | None, *, applied: bool = False) -> None:
        """Drop an update from the outbox, and replace the residual."""
        if self._kept.outbox.pop(update, None) is None:
            return
        for kept in (self._kept.frames, self._kept.contexts):
            kept.pop(update, None)
        pending = self._kept.pending.pop(update, {})
        self._kept.residual = residual
        self._kept.state = added(self._kept.state, pending) if applied and pending else self._kept.state

    def spent(self) -> Mapping[RunId, tuple[SampledSteps, ...]]:
        """What was spent under differential privacy, by run."""
        return self._spent

    def save_spent(self, run: RunId, spent: tuple[SampledSteps, ...]) -> None:
        """At least so much was spent in a run."""
        if spent:
            self._spent[run] = greatest(self._spent.get(run, ()), spent)

    def save_progress(self, run: RunId, last_round: RoundId) -> None:
        """Only a restart would ask for it."""

    def save_seen(self, seen: Seen) -> None:
        """Only a restart would ask for it."""

    def close(self) -> None:
        """Nothing is open."""


@dataclass(slots=True)
class _Kept:
    """What belongs to one run."""

    run: RunId | None = None
    outbox: dict[UpdateId, OutboxEntry] = field(default_factory=dict)
    frames: dict[UpdateId, bytes] = field(default_factory=dict)
    contexts: dict[UpdateId, bytes] = field(default_factory=dict)
    pending: dict[UpdateId, Parameters] = field(default_factory=dict)
    model: HeldModel | None = None
    residual: Residual | None = None
    residual_version: ModelVersion | None = None
    state: Parameters = field(default_factory=dict)


class NoDisk(Disk[NodeStore]):
    """Stands where a disk would be, and holds a store that needs none: nothing is written, so nothing fails."""

    def __init__(self, store: NodeStore) -> None:
        self.store = store
        self.full = self.failing = self.failed = False
        self.opened = self.waited = True
        self.failures = 0

    def __enter__(self) -> None:
        """Nothing is of this disk."""

    def __exit__(self, *_error: object) -> None:
        """Nothing was."""

    def close(self) -> None:
        """Nothing is open."""
