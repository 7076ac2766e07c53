"""What node, helper and coordinator must agree on: who helps, under which terms, which batch, and in which integers.

The digests are those of PROTOCOL.md, FED-149 and FED-150.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import RemoteProtocolError
from federation.privacy.classes import check_threshold
from federation.protocol.sum_messages import PrivacyTerms, PrivacyUnit, Ticket
from federation.protocol.sum_schema import PRIVACY_TERMS
from federation.protocol.wire import decode_message
from federation.types import DIGEST_BYTES, Digest, ModelVersion, RunId
from update_codec import NonFiniteError
from update_codec.masking import Shape, bits_for

__all__ = [
    "NOISED_TAIL",
    "SCHEME",
    "Quantized",
    "batch_digest",
    "bit_deviation",
    "check_terms",
    "helpers_digest",
    "largest_sum",
    "noise_deviation",
    "noise_reach",
    "quantize",
    "read_ticket",
    "rounded",
    "shape_of",
    "shortened",
    "terms_digest",
]

SCHEME: Final = 1
"""The only scheme of masks that there is."""
_NOISE_REACH: Final = 8.0
"""Standard deviations of noise that the modulus has room for: one entry in 10^15 reaches beyond."""
_SHRINKS_MAX: Final = 64
_GRAIN_REACH: Final = 2.0**100
"""A step, and noise, are at least the inverse of this and at most this: what float32 and an account can hold."""
NOISED_TAIL: Final = 1
"""Numbers of a tail under noise, where there is one: 1 from each member within the clip, -1 from the others."""

F32 = NDArray[np.float32]


def helpers_digest(keys: Collection[bytes], threshold: int) -> Digest:
    """Who the helpers are: over h, t and their identity keys (Ed25519, 32 bytes each) in ascending order."""
    said = bytes([len(keys), threshold]) + b"".join(sorted(keys))
    return Digest(blake2b(said, digest_size=DIGEST_BYTES, person=b"fedmq-helpers").digest())


def read_ticket(body: bytes) -> Ticket | None:
    """What a node has signed for the helpers; None where it is no ticket. Helpers look at the signature."""
    try:
        ticket = decode_message(body)
    except RemoteProtocolError:
        return None
    return ticket if isinstance(ticket, Ticket) else None


def terms_digest(terms: PrivacyTerms) -> Digest:
    """Digest of all terms: only updates with equal ones are added."""
    given = ((row.number, getattr(terms, row.name)) for row in PRIVACY_TERMS.fields)
    said = [f"{number}={_spelled(value)}" for number, value in given if value is not None]
    return _digest("|".join(said).encode("ascii"), b"fedmq-terms")


def batch_digest(run: RunId, version: ModelVersion, terms: PrivacyTerms, members: Iterable[Digest]) -> Digest:
    """Identity of a batch: the run, the version that it makes, its terms, and its members' tickets, ascending."""
    said = f"{run}|{version}|".encode("ascii") + terms_digest(terms) + b"".join(sorted(members))
    return _digest(said, b"fedmq-batch")


def noise_deviation(terms: PrivacyTerms) -> float:
    """Standard deviation of one helper's noise in units of the integers; 0 without noise."""
    return 0.0 if terms.noise is None or terms.clip is None else terms.noise * terms.clip / terms.step


def bit_deviation(terms: PrivacyTerms) -> float:
    """Standard deviation of one helper's noise on the tail of 1 and -1; 0 where there is no such tail."""
    return 0.0 if terms.noise is None or terms.bit_noise is None else 2 * terms.bit_noise


def noise_reach(terms: PrivacyTerms) -> int:
    """How far the noise of all helpers together may reach in an entry of a sum; 0 without noise."""
    return math.ceil(_NOISE_REACH * noise_deviation(terms) * math.sqrt(terms.count))


def largest_sum(terms: PrivacyTerms) -> int:
    """Largest magnitude of an entry of a whole batch's sum, noise included."""
    return terms.members * terms.levels + noise_reach(terms)


def check_terms(terms: PrivacyTerms) -> None:
    """Refuse terms under which nobody may mask.

    Raises:
        ValueError: The scheme is unknown, a single bad helper is one too many, the modulus is too small for sum and
            noise, a number is beyond what can be reckoned with, the noise is for anybody but whole nodes, or the terms
            would hide one part of an update and not the other.
    """
    if terms.scheme != SCHEME:
        raise ValueError(f"scheme {terms.scheme} of masks is not known here: upgrade")
    check_threshold(terms.count, terms.threshold)
    _check_reach(terms)
    if terms.unit is not (None if terms.noise is None else PrivacyUnit.NODES):
        raise ValueError("noise on a sum is for whole nodes, and no other unit is protected by a sum")
    if terms.bits < bits_for(largest_sum(terms)):
        raise ValueError(f"{terms.bits} bits are too few for the sum: {bits_for(largest_sum(terms))} hold it")
    if terms.importance_cap is not None and terms.importance_cap * terms.members >= 1 << 31:
        raise ValueError("importance_cap times members is beyond the tail's 32 bits")
    if terms.noise is not None and terms.threshold != terms.count:
        raise ValueError("noise needs every helper to answer: two helpers would add two noises to one class")
    if terms.noise is None:
        return
    if terms.tail != (0 if terms.bit_noise is None else NOISED_TAIL):
        raise ValueError("noise hides parameters and clip bits, and nothing else: there must be no other tail")
    if terms.importance_cap is not None:
        raise ValueError("under noise all updates count the same: the sum of their importance would be told without")


def _check_reach(terms: PrivacyTerms) -> None:
    """Whoever makes terms may choose numbers of which a square, an inverse or a product is beyond a float."""
    for name in ("step", "clip", "noise", "bit_noise"):
        value = getattr(terms, name)
        if value is not None and not 1 / _GRAIN_REACH <= value <= _GRAIN_REACH:
            raise ValueError(f"{name} is {value}, beyond what can be reckoned with: 2^-100 to 2^100")


def shape_of(terms: PrivacyTerms) -> Shape:
    """The shape of the sums."""
    return Shape(dimension=terms.dimension, tail=terms.tail, bits=terms.bits)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantized:
    """An update as integers.

    Attributes:
        integers: int32, shape (D,), at most ``terms.levels`` in magnitude.
        residual: What they do not say, float32, shape (D,): adopt it when the receipt says `applied`.
        within: Whether the update was no longer than the clip.
    """

    integers: NDArray[np.int32]
    residual: F32
    within: bool


def quantize(update: F32, residual: F32 | None, terms: PrivacyTerms) -> Quantized:
    """Add the residual, clip, round to the step, and keep what was not said.

    The clip comes after the residual: what is sent is then never longer. With noise for whole nodes the integers
    themselves are within clip / step in the L2 norm: rounding can lengthen, so they are shortened until they are.

    Args:
        update: Float32, shape (D,), already weighted by its importance.
        residual: What earlier updates did not say, or None.
        terms: Those of the batch.

    Raises:
        NonFiniteError: The sum of update and residual is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = update if residual is None else update + residual
        norm = math.sqrt(float(np.square(wanted, dtype=np.float64).sum()))
    if not math.isfinite(norm):
        raise NonFiniteError("the update holds NaN or infinity: the training diverged; do not send it")
    within = terms.clip is None or norm <= terms.clip
    if not within and terms.clip is not None:
        wanted = wanted * np.float32(terms.clip / norm)
    integers = rounded(wanted, (terms.step, terms.levels))
    if terms.noise is not None and terms.clip is not None and terms.unit is PrivacyUnit.NODES:
        integers = shortened(wanted, integers, (terms.step, terms.levels), terms.clip / terms.step)
    said = integers.astype(np.float32)
    said *= np.float32(terms.step)
    return Quantized(integers=integers, residual=np.subtract(wanted, said, out=said), within=within)


def rounded(wanted: F32, grid: tuple[float, int], factor: float = 1.0) -> NDArray[np.int32]:
    """``factor`` times what is wanted, in whole steps: int32, shape (D,).

    Args:
        wanted: Float32, shape (D,).
        grid: What a step is worth, and how many of them an entry has at most.
        factor: What it is multiplied by.
    """
    step, levels = grid
    with np.errstate(over="ignore"):
        scaled = wanted * np.float32(factor / step)
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -levels, levels, out=scaled).astype(np.int32)


def shortened(wanted: F32, integers: NDArray[np.int32], grid: tuple[float, int], bound: float) -> NDArray[np.int32]:
    """The integers, made of less of what is wanted until they are no longer than ``bound`` steps in the L2 norm."""
    factor = 1.0
    for _ in range(_SHRINKS_MAX):
        square = int(np.square(integers, dtype=np.int64).sum())
        if square <= bound * bound:
            return integers
        factor *= 0.999 * bound / math.sqrt(square)
        integers = rounded(wanted, grid, factor)
    return np.zeros_like(integers)


def _digest(said: bytes, person: bytes) -> Digest:
    return Digest(blake2b(said, digest_size=DIGEST_BYTES, person=person).digest())


def _spelled(value: object) -> str:
    match value:
        case float() | bytes():
            return value.hex()
        case _:
            return str(value)
