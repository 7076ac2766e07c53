"""One masked update: weighted, rounded to the announced step, hidden under fresh masks, and their seeds sealed.

With d the difference of this round, w its weight and e the residual, a round sends and keeps

    x = w d + e,   q = round(clip(x) / step) within the levels,   e' = clip(x) - step q,

and what travels is q plus one mask for each class of helpers, modulo 2^k. A verdict other than ``applied`` gives step q
back: the masks come off again, because their seeds are kept with the update in the outbox.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_node.records import MaskedOffer, Residual
from edge_node.training.update import Delta, ResidualChange, added, give_back
from federation.errors import BadSeal, TaskError
from federation.privacy.boxes import PublicKey
from federation.privacy.classes import classes
from federation.privacy.seeds import SEED_BYTES, SeedMask, seal_seeds
from federation.privacy.tail import TailValues, weight_of, write_tail
from federation.privacy.terms import quantize, shape_of, terms_digest
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import RoundAnnouncement, UpdateOffer
from federation.protocol.sum_messages import PrivacyTerms, Ticket
from federation.types import RunId, UpdateId
from update_codec import CodecSpec, DeviceUpdate, Manifest, NonFiniteError
from update_codec.masking import MaskedSum, masked, read_masked

__all__ = [
    "Learnt",
    "MaskedFrame",
    "MaskedUpdate",
    "Masking",
    "give_back_offered",
    "mask_update",
    "masked_frame",
    "unmasked",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """What it takes to mask, beside the announcement.

    Attributes:
        keys: Where to seal to, in the order of the helpers' identity keys: from their own signed states.
        draw: So many bytes of the system's randomness: never those of the announced seed.
        sign: A ticket's bytes with the node's signature.
    """

    keys: Sequence[PublicKey]
    draw: Callable[[int], bytes]
    sign: Callable[[Ticket], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedUpdate:
    """What one training comes to.

    Attributes:
        frame: What is sent to the coordinator.
        change: What it did to the residual.
        offer: What is sent to the helpers, and the seeds themselves, which stay here.
    """

    frame: bytes
    change: ResidualChange
    offer: MaskedOffer


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What training has made, before anything of it is hidden.

    Attributes:
        delta: What it changed.
        num_examples: Local examples.
        loss: Its training loss, or None.
        residual: What earlier updates did not say, float32 (D,); None is zero.
        share: How much of it still counts.
    """

    delta: Delta
    num_examples: int
    loss: float | None
    residual: Residual | None = None
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedFrame:
    """A masked update without what goes to the helpers: its frame, and what it did to the residual."""

    frame: bytes
    change: ResidualChange


def masked_frame(
    learnt: Learnt, announcement: RoundAnnouncement, update: UpdateId, manifest: Manifest, seeds: Sequence[bytes]
) -> MaskedFrame:
    """Weigh, round and hide what was learnt.

    Args:
        learnt: What training has made.
        announcement: What is asked for, with its terms.
        update: The update's id.
        manifest: Of the model.
        seeds: One for each class of helpers; a simulation may take none, and hides nothing.

    Raises:
        TaskError: The terms are not for this model, or a value is not finite.
    """
    terms = announcement.privacy
    if terms is None or terms.dimension != manifest.parameter_count:
        raise TaskError("the announced terms of masks are not for this model")
    parameters, weight = _host(learnt.delta), weight_of(learnt.num_examples, terms)
    weighted = parameters if weight == 1.0 else parameters * np.float32(weight)
    added = learnt.residual if learnt.residual is None else learnt.residual * np.float32(learnt.share)
    try:
        found = quantize(weighted, added, terms)
    except NonFiniteError as error:
        raise TaskError(f"training made values that are not finite: {error}") from error
    values = TailValues(
        num_examples=learnt.num_examples,
        within=found.within,
        loss=learnt.loss,
        length=_length(weighted, added),
        statistics=learnt.delta.statistics,
    )
    total = _total(terms, found.integers, values, seeds, (announcement.run, update))
    frame = total.frame(manifest, step=terms.step, spec=CodecSpec.parse(announcement.codec))
    return MaskedFrame(frame=frame, change=ResidualChange(used=learnt.residual, left=found.residual))


def mask_update(
    learnt: Learnt, announcement: RoundAnnouncement, update: UpdateId, manifest: Manifest, masking: Masking
) -> MaskedUpdate:
    """Make a masked update; nothing but random numbers and sealed boxes leaves.

    Args:
        learnt: What training has made.
        announcement: What is asked for, with its terms.
        update: The update's id.
        manifest: Of the model.
        masking: Keys, randomness and signature.

    Raises:
        TaskError: The terms are not for this model, a value is not finite, or a helper's key is none.
    """
    terms = announcement.privacy
    if terms is None:
        raise TaskError("the announced terms of masks are not for this model")
    seeds = [masking.draw(SEED_BYTES) for _ in classes(terms.count, terms.threshold)]
    made = masked_frame(learnt, announcement, update, manifest, seeds)
    ticket = Ticket(
        run=announcement.run,
        update=update,
        base_version=announcement.model.version,
        base_digest=announcement.model.digest,
        terms=terms_digest(terms),
        payload_digest=payload_digest(made.frame),
        boxes=(),
    )
    try:
        ticket, boxes = seal_seeds(ticket, seeds, masking.keys, threshold=terms.threshold)
    except (BadSeal, ValueError) as error:
        raise TaskError(f"helpers: {error}") from error
    offer = MaskedOffer(ticket=masking.sign(ticket), boxes=boxes, seeds=b"".join(seeds))
    return MaskedUpdate(frame=made.frame, change=made.change, offer=offer)


def give_back_offered(
    residual: Residual | None, offer: UpdateOffer, frame: bytes, manifest: Manifest, kept: bytes | None
) -> Residual | None:
    """The residual after no version took what was offered, masked or not: the whole difference goes back.

    Args:
        residual: What it is added to.
        offer: What was offered.
        frame: Its payload.
        manifest: Of the model.
        kept: What the outbox keeps beside the frame: the seeds of its masks, or what it was coded with.

    Raises:
        CodecError: The frame cannot be read with these.
    """
    if offer.ticket is None:
        return give_back(residual, frame, manifest, kept)
    return added(residual, unmasked(frame, manifest, kept or b"", (offer.run, offer.update)))


def unmasked(frame: bytes, manifest: Manifest, seeds: bytes, owner: tuple[RunId, UpdateId]) -> NDArray[np.float32]:
    """What an update of this node has said: its masks come off with the seeds from its outbox.

    Raises:
        CodecError: The frame is not masked, or not of this model.
    """
    found = read_masked(frame, manifest)
    masks = MaskedSum(found.shape)
    for start in range(0, len(seeds), SEED_BYTES):
        masks.add_mask(SeedMask(seeds[start : start + SEED_BYTES], *owner))
    total = MaskedSum(found.shape)
    total.add(found)
    total.take_away(masks.to_bytes())
    integers, _ = total.lift(limit=1 << (found.shape.bits - 1))
    return integers.astype(np.float32) * np.float32(found.step)


def _total(
    terms: PrivacyTerms,
    integers: NDArray[np.int32],
    values: TailValues,
    seeds: Sequence[bytes],
    owner: tuple[RunId, UpdateId],
) -> MaskedSum:
    try:
        return masked(shape_of(terms), integers, write_tail(values, terms), [SeedMask(seed, *owner) for seed in seeds])
    except ValueError as error:
        raise TaskError(f"the announced terms of masks are not for this model: {error}") from error


def _host(delta: Delta) -> NDArray[np.float32]:
    parameters: NDArray[np.float32] = delta.parameters
    return delta.arrays.host(parameters) if isinstance(delta, DeviceUpdate) else parameters


def _length(update: NDArray[np.float32], residual: Residual | None) -> float:
    wanted = update if residual is None else update + residual
    return math.sqrt(float(np.square(wanted, dtype=np.float64).sum()))
