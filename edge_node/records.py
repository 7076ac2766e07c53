"""The values that the node's machine, worker and store hand to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from federation.protocol.messages import Proof, UpdateOffer
from federation.task import Parameters
from federation.types import NO_START, Digest, Epoch, ModelVersion, RoundId, RunId, SampledSteps, Start

__all__ = [
    "NO_CHANGE",
    "FinishedTraining",
    "Held",
    "MaskedOffer",
    "OutboxEntry",
    "RecoveredNode",
    "RecoveredRun",
    "Residual",
    "Seen",
    "StateChange",
]

Residual = NDArray[np.float32]
"""What was learnt and not sent, float32, shape (D,): treated as immutable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The newest that a run's coordinator has said.

    Attributes:
        run: Which run.
        epoch: Its highest epoch.
        start: The start of that epoch; of two, the higher one. 0 is that of an older coordinator, which says none.
        began_ms: When the run's store was made, by the coordinator's clock, for people.
        round: The newest round that this start has announced, or None.
        version: Its model version.
        applied: The newest version of which an update of this node became part, as this start has said, or None.
        proof: The coordinator's own words of the highest pair, of the highest round of any pair, and of ``applied``,
            as it signed them.
    """

    run: RunId
    epoch: Epoch
    start: Start = NO_START
    began_ms: int | None = None
    round: RoundId | None = None
    version: ModelVersion | None = None
    applied: ModelVersion | None = None
    proof: Proof | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """What one training does to the task's state.

    Attributes:
        kept: Replace the arrays of the same names at once.
        pending: Are added to the arrays of the same names when the update is applied.
    """

    kept: Parameters = field(default_factory=dict)
    pending: Parameters = field(default_factory=dict)


NO_CHANGE = StateChange()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """A finished update in the durable outbox: its offer without the payload, and how far it got."""

    offer: UpdateOffer
    stored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedOffer:
    """What goes to the helpers with a masked update, and what stays here of it.

    Attributes:
        ticket: The signed `Ticket`.
        boxes: The seeds, sealed to one helper each, by the order of the helpers' keys.
        seeds: The seeds themselves, joined: whoever has them can read the update, so they stay in the outbox.
    """

    ticket: bytes
    boxes: tuple[bytes, ...]
    seeds: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTraining:
    """What the worker made of one round: the encoded update and its numbers; the residual stays in the worker's store.

    Attributes:
        round: The round that it was made for.
        frame: The codec frame.
        num_examples: Local examples.
        metrics: The task's own numbers.
        train_s: Seconds of local training.
        token: Opaque handle under which the executor finds the new residual.
        run: The run that it was made for; None when the trainer does not say.
        codec: The codec that made the frame; "" is the announced one.
        change: What the task wants to be kept on this node.
        attempt: The attempt that made it; None when the trainer does not say.
        masked: What goes to the helpers; None where the update is not masked.
        spent: What it took of the node's budget.
        members: What a gateway claims for its site with it; None of any other node.
        moved: Whether training has changed a parameter, or there is none.
    """

    round: RoundId
    frame: bytes
    num_examples: int
    metrics: Mapping[str, float]
    train_s: float
    token: object = None
    run: RunId | None = None
    codec: str = ""
    change: StateChange = NO_CHANGE
    attempt: int | None = None
    masked: MaskedOffer | None = None
    spent: SampledSteps | None = None
    members: bytes | None = None
    moved: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The model that the node has.

    Attributes:
        version: Its version.
        digest: Its digest.
    """

    version: ModelVersion
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredRun:
    """What the state folder has of one run.

    Attributes:
        run: Which run; None is that none was heard of yet.
        last_round: Its newest round that is finished or declined, or None.
        held_version: The model version on disk, or None.
        held_digest: Its digest, or None.
        outbox: Updates without a final receipt, oldest first.
        seen: The newest that was heard of the coordinator, or None.
    """

    run: RunId | None = None
    last_round: RoundId | None = None
    held_version: ModelVersion | None = None
    held_digest: Digest | None = None
    outbox: tuple[OutboxEntry, ...] = ()
    seen: Seen | None = None

    @property
    def held(self) -> Held | None:
        """The model on disk."""
        if self.held_version is None or self.held_digest is None:
            return None
        return Held(version=self.held_version, digest=self.held_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredNode(RecoveredRun):
    """Everything the machine needs to go on where the state folder was left: the run that was heard last, and others.

    Attributes:
        hidden: What is kept of other runs, in any order.
        spent: What was spent under differential privacy, by run; those that were forgotten since are among them.
    """

    hidden: tuple[RecoveredRun, ...] = ()
    spent: Mapping[RunId, tuple[SampledSteps, ...]] = field(default_factory=dict)
