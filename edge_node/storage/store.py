"""What a node keeps across a crash, and the interface that every store offers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_node.records import NO_CHANGE, OutboxEntry, RecoveredNode, Residual, Seen, StateChange
from federation.errors import LocalProtocolError
from federation.runtime.log import get_log
from federation.task import Parameters
from federation.types import Digest, Incarnation, ModelVersion, RoundId, RunId, SampledSteps, StateId, UpdateId
from update_codec import Vectors

__all__ = ["HeldModel", "NodeStore", "OutboxFrames"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldModel:
    """The global model that the node has.

    Attributes:
        version: Its version.
        digest: `Vectors.digest` of it.
        manifest_digest: Digest of its manifest.
        vectors: The model itself.
        average: Moving average of the global updates that led to it, float32 (D,), for the codec's context; None where
            this node has not followed them all.
    """

    version: ModelVersion
    digest: Digest
    manifest_digest: bytes
    vectors: Vectors
    average: NDArray[np.float32] | None = None


class NodeStore(Protocol):
    """One node's durable state: used by one thread, owned by one process. It is about one run at a time.

    Every method that changes something raises `StorageError` when it cannot persist, and has then changed nothing.
    """

    @property
    def incarnation(self) -> Incarnation:
        """Boot number: 1 at the first start on this state, one more at each."""

    @property
    def state_id(self) -> StateId:
        """Drawn when this state was made: a folder that was lost and made again has another."""

    def recovered(self) -> RecoveredNode:
        """Where the last process left off."""

    def enter_run(self, run: RunId) -> tuple[RunId, ...]:
        """Everything is about this run from now on; what another one has left stays as it is, and can be entered again.

        At most 4 runs are kept: the longest unheard goes first, but none with an update of the last 30 days that nobody
        has received.

        Returns:
            The runs that had to go for it, for good.

        Raises:
            StorageError: It is entered, and a restart will not know it.
        """

    def outbox(self) -> tuple[OutboxEntry, ...]:
        """The updates of the run without a final receipt, oldest first."""

    def held_model(self) -> HeldModel | None:
        """The model as it was saved last; None when there is none or its digest is wrong."""

    def save_model(self, model: HeldModel) -> None:
        """Replace the held model. It can be pulled again, so a power cut may lose it: `held_model` then says None."""

    def residual(self) -> Residual | None:
        """What was learnt and not sent, float32 (D,), or None for zero."""

    def residual_version(self) -> ModelVersion | None:
        """The base version of the newest update that was saved with a residual; None when there is no residual."""

    def task_state(self) -> Parameters:
        """The arrays that the task keeps here, as they are settled."""

    def pending(self, update: UpdateId) -> Parameters:
        """What is added to the task's state when this update of the outbox is applied."""

    def save_outbox(
        self,
        entry: OutboxEntry,
        frame: bytes,
        residual: Residual | None,
        change: StateChange = NO_CHANGE,
        context: bytes | None = None,
    ) -> None:
        """In one step: put an update into the outbox, replace the residual, and finish the update's round.

        In the same step what the offer says of ``spent`` is charged: what the run's ledger lacks of it.
        In the same step the task's state takes over ``change.kept``, and ``change.pending`` waits with the update.
        ``context`` is what the frame needs to be decoded, see `update_codec.Context.to_bytes`.

        Raises:
            StorageError: Nothing was saved.
            LocalProtocolError: The update is in the outbox already.
        """

    def frame(self, update: UpdateId) -> bytes | None:
        """The codec frame of an update in the outbox, or None when there is no such entry."""

    def context(self, update: UpdateId) -> bytes | None:
        """What the frame of an update in the outbox needs to be decoded; None when it needs nothing."""

    def entry(self, update: UpdateId) -> OutboxEntry | None:
        """An update in the outbox, or None when there is no such entry."""

    def mark_stored(self, update: UpdateId) -> None:
        """Remember that the coordinator has the payload. Losing this costs one more offer."""

    def settle(self, update: UpdateId, residual: Residual | None, *, applied: bool = False) -> None:
        """In one step: drop an update from the outbox and replace the residual.

        In the same step what was pending with it is added to the task's state if it was ``applied``, else dropped.
        """

    def spent(self) -> Mapping[RunId, tuple[SampledSteps, ...]]:
        """What was spent under differential privacy, by run; it stays where a run is forgotten."""

    def save_spent(self, run: RunId, spent: tuple[SampledSteps, ...]) -> None:
        """Take over that at least so much was spent in a run: what is missing is charged, and nothing is taken back."""

    def save_progress(self, run: RunId, last_round: RoundId) -> None:
        """Remember the run and its newest round that is finished or declined. Losing this costs one more decline."""

    def save_seen(self, seen: Seen) -> None:
        """Remember the newest that was heard of a run's coordinator. Losing this costs one round of work for nothing.

        A last round beyond it is forgotten: the coordinator's store has gone back since.
        """

    def close(self) -> None:
        """Release the state folder."""


class OutboxFrames:
    """The payloads of what is in the outbox; the newest is kept in memory, because a large one is sent in many windows.

    Args:
        store: Where they are.
    """

    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._recent: tuple[UpdateId, bytes] | None = None

    def keep(self, update: UpdateId, frame: bytes) -> None:
        """This one was saved just now."""
        self._recent = (update, frame)

    def forget(self) -> None:
        """Another run's outbox is at hand."""
        self._recent = None

    def read(self, update: UpdateId) -> bytes | None:
        """The payload of an update; None where the disk does not give it as it was written.

        Then it is tried again later, and the next start goes on without what it cannot read.

        Raises:
            LocalProtocolError: There is no such update.
        """
        if self._recent is not None and self._recent[0] == update:
            return self._recent[1]
        frame = self._store.frame(update)
        if frame is not None:
            self._recent = (update, frame)
        elif self._store.entry(update) is None:
            raise LocalProtocolError(f"update {update} is not in the outbox")
        else:
            remedy = "its file is gone, changed, or cannot be read: see the kernel's log"
            get_log("node").error("update_unreadable", update=update, remedy=remedy)
        return frame
