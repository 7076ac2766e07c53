"""A node store in memory, for the simulator and for tests: it survives a simulated crash, not the process."""

from dataclasses import dataclass, field, replace

from edge_node.records import NO_CHANGE, OutboxEntry, RecoveredNode, Residual, Seen, StateChange
from edge_node.storage.store import HeldModel
from edge_node.storage.task_state import added
from federation.errors import LocalProtocolError, StorageError
from federation.task import Parameters
from federation.types import Incarnation, ModelVersion, RoundId, RunId, UpdateId

__all__ = ["MemoryNodeStore"]


@dataclass(slots=True)
class MemoryNodeStore:
    """One node's state.

    Attributes:
        incarnation: Boot number.
        failing: Set it to make every change raise `StorageError`, as a full disk does.
    """

    incarnation: Incarnation = field(default=Incarnation(1))
    failing: bool = False
    _run: RunId | None = None
    _last_round: RoundId | None = None
    _seen: Seen | None = None
    _model: HeldModel | None = None
    _residual: Residual | None = None
    _residual_version: ModelVersion | None = None
    _outbox: dict[UpdateId, tuple[OutboxEntry, bytes]] = field(default_factory=dict)
    _state: Parameters = field(default_factory=dict)
    _pending: dict[UpdateId, Parameters] = field(default_factory=dict)
    _contexts: dict[UpdateId, bytes] = field(default_factory=dict)

    def reopen(self) -> "MemoryNodeStore":
        """The store as the next process finds it: the same state, one incarnation later."""
        return replace(
            self,
            incarnation=Incarnation(self.incarnation + 1),
            failing=False,
            _outbox=dict(self._outbox),
            _pending=dict(self._pending),
            _contexts=dict(self._contexts),
        )

    def recovered(self) -> RecoveredNode:
        """Where the last process left off."""
        return RecoveredNode(
            run=self._run,
            last_round=self._last_round,
            held_version=self._model.version if self._model else None,
            held_digest=self._model.digest if self._model else None,
            outbox=tuple(entry for entry, _ in self._outbox.values()),
            seen=self._seen,
        )

    def held_model(self) -> HeldModel | None:
        """The model as it was saved last."""
        return self._model

    def save_model(self, model: HeldModel) -> None:
        """Replace the held model."""
        self._check()
        self._model = model

    def residual(self) -> Residual | None:
        """What was learnt and not sent."""
        return self._residual

    def residual_version(self) -> ModelVersion | None:
        """The base version of the newest update that was saved with a residual."""
        return None if self._residual is None else self._residual_version

    def task_state(self) -> Parameters:
        """The arrays that the task keeps here."""
        return self._state

    def pending(self, update: UpdateId) -> Parameters:
        """What is added to the task's state when this update is applied."""
        return self._pending.get(update, {})

    def save_outbox(
        self,
        entry: OutboxEntry,
        frame: bytes,
        residual: Residual | None,
        change: StateChange = NO_CHANGE,
        context: bytes | None = None,
    ) -> None:
        """In one step: put an update into the outbox, replace the residual, and finish the update's round."""
        self._check()
        offer = entry.offer
        if offer.update in self._outbox:
            raise LocalProtocolError(f"update {offer.update} is in the outbox already")
        self._outbox[offer.update] = (replace(entry, offer=replace(offer, inline=None)), frame)
        if context is not None:
            self._contexts[offer.update] = context
        self._residual, self._residual_version = residual, offer.base_version
        self._state = {**self._state, **change.kept}
        self._pending[offer.update] = change.pending
        self._advance(offer.run, offer.round)

    def frame(self, update: UpdateId) -> bytes | None:
        """The codec frame of an update in the outbox."""
        return self._outbox[update][1] if update in self._outbox else None

    def context(self, update: UpdateId) -> bytes | None:
        """What the frame of an update in the outbox needs to be decoded."""
        return self._contexts.get(update)

    def entry(self, update: UpdateId) -> OutboxEntry | None:
        """An update in the outbox."""
        return self._outbox[update][0] if update in self._outbox else None

    def mark_stored(self, update: UpdateId) -> None:
        """Remember that the coordinator has the payload."""
        self._check()
        if update in self._outbox:
            entry, frame = self._outbox[update]
            self._outbox[update] = (replace(entry, stored=True), frame)

    def settle(self, update: UpdateId, residual: Residual | None, *, applied: bool = False) -> None:
        """In one step: drop an update from the outbox, replace the residual, settle the task's state."""
        self._check()
        self._contexts.pop(update, None)
        if self._outbox.pop(update, None) is not None:
            self._residual = residual
            pending = self._pending.pop(update)
            self._state = added(self._state, pending) if applied else self._state

    def save_progress(self, run: RunId, last_round: RoundId) -> None:
        """Remember the run and its newest round that is finished or declined."""
        self._check()
        self._advance(run, last_round)

    def save_seen(self, seen: Seen) -> None:
        """Remember the newest that was heard of the coordinator."""
        self._check()
        self._seen = seen

    def forget_run(self, run: RunId) -> None:
        """Another run has begun: drop outbox, residual, task state, model and round of the old one."""
        self._check()
        self._run, self._last_round, self._model, self._residual = run, None, None, None
        self._state = {}
        self._outbox.clear()
        self._pending.clear()
        self._contexts.clear()

    def close(self) -> None:
        """Nothing to release."""

    def _advance(self, run: RunId, round_id: RoundId) -> None:
        newer = self._run != run or self._last_round is None or round_id > self._last_round
        if newer:
            self._run, self._last_round = run, round_id

    def _check(self) -> None:
        if self.failing:
            raise StorageError("the simulated disk is full")
