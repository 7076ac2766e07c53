"""The tail of a masked update: the few numbers beside the parameters that are also known only as sums over a batch.

In this order, each modulo 2^32 in two's complement: the importance; 1 if the update was within the clip; the loss; the
importance of those that have said a loss; the length; then the float statistics of the model. Loss and statistics are
multiples of 2^-16, times the weight of the update; what would leave a member's share of the range is cut to it. The
length is log2 of the L2 norm of what was to be sent, from -64 to 64, plus 64, in multiples of 2^-12: the next step
follows its mean.

Under noise there is none of this: at most one number, 1 from each member within the clip and -1 from each other one,
whose sum has noise of its own. The updates then count all the same, and their sum is divided by the most members that a
batch may have, however many there were.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.protocol.sum_messages import PrivacyTerms

__all__ = ["TAIL_HEAD", "TailSums", "TailValues", "read_tail", "tail_length", "weight_of", "write_tail"]

TAIL_HEAD: Final = 5
"""Numbers before the statistics."""
_SCALE: Final = 1 << 16
_LENGTH_SCALE: Final = 1 << 12
_LENGTH_LOG2: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TailValues:
    """What one node says of its update beside the parameters.

    Attributes:
        num_examples: Local examples.
        within: Whether the update was within the clip.
        loss: Its training loss, or None.
        length: L2 norm of what was to be sent, before it was clipped or rounded.
        statistics: Differences of the float statistics, float32, shape (S,), not weighted.
    """

    num_examples: int
    within: bool
    loss: float | None
    length: float
    statistics: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TailSums:
    """What is known of a whole batch.

    Attributes:
        weight: Sum of the members' weights: what sums are divided by for a mean.
        within: How many were within the clip; under noise an estimate, which may be below 0 or above the members.
        loss: Their mean training loss by weight, or None where nobody has said one.
        length: Geometric mean of the lengths of what they had to send, or None without a tail.
        statistics: Their mean differences by weight, float32, shape (S,).
    """

    weight: float
    within: float
    loss: float | None
    length: float | None
    statistics: NDArray[np.float32]


def tail_length(statistics: int) -> int:
    """Numbers of a tail, for a model with so many float statistics."""
    return TAIL_HEAD + statistics


def weight_of(num_examples: int, terms: PrivacyTerms) -> float:
    """By what a node multiplies its update before it makes it integer: min(n, cap) / cap, or 1 without a cap."""
    cap = terms.importance_cap
    return 1.0 if cap is None else min(num_examples, cap) / cap


def write_tail(values: TailValues, terms: PrivacyTerms) -> NDArray[np.int64]:
    """The integers of one node's tail, shape (``terms.tail``,); none where the terms have no tail.

    Raises:
        ValueError: The model has another number of statistics than the terms say.
    """
    if not terms.tail:
        return np.zeros(0, np.int64)
    if terms.noise is not None:
        return np.array([1 if values.within else -1], np.int64)
    if terms.tail != tail_length(len(values.statistics)):
        raise ValueError(f"a tail of {terms.tail} numbers is not for {len(values.statistics)} statistics")
    share, weight = ((1 << 31) - 1) // terms.members, weight_of(values.num_examples, terms)
    importance = 1 if terms.importance_cap is None else min(values.num_examples, terms.importance_cap)
    told = values.loss is not None and math.isfinite(values.loss)
    loss = round(min(max((values.loss or 0.0) * weight * _SCALE, -share), share)) if told else 0
    with np.errstate(over="ignore"):
        fixed = np.rint(values.statistics.astype(np.float64) * (weight * _SCALE))
    return np.concatenate(
        [
            np.array([importance, values.within, loss, importance if told else 0, _log2(values.length)], np.int64),
            np.clip(np.nan_to_num(fixed), -share, share).astype(np.int64),
        ]
    )


def read_tail(sums: NDArray[np.int64], terms: PrivacyTerms, *, members: int) -> TailSums:
    """What the sums of a batch's tails say.

    Args:
        sums: Int64, shape (``terms.tail``,).
        terms: Those of the batch.
        members: How many updates it has.

    Raises:
        ValueError: No honest batch has such sums.
    """
    if not terms.tail or terms.noise is not None:
        nothing = np.zeros(0, np.float32)
        divisor = members if terms.noise is None else terms.members
        share = (members + float(sums[0])) / 2 if terms.tail else float(members)
        return TailSums(weight=float(divisor), within=share, loss=None, length=None, statistics=nothing)
    importance, inside, loss, told, length = (int(one) for one in sums[:TAIL_HEAD])
    cap = terms.importance_cap or 1
    if not (0 < importance <= members * cap and 0 <= inside <= members and 0 <= told <= importance):
        raise ValueError("the sum of the importances, or of what is counted, is one that no batch can have")
    if not 0 <= length <= members * 2 * _LENGTH_LOG2 * _LENGTH_SCALE:
        raise ValueError("the sum of the lengths is one that no batch can have")
    weight = importance / cap
    return TailSums(
        weight=weight,
        within=float(inside),
        loss=loss / _SCALE / (told / cap) if told else None,
        length=2.0 ** (length / _LENGTH_SCALE / members - _LENGTH_LOG2),
        statistics=(sums[TAIL_HEAD:] / (_SCALE * weight)).astype(np.float32),
    )


def _log2(length: float) -> int:
    """A length as it travels; what is not above 0 is the shortest, and what is not finite the longest."""
    if not length > 0.0:
        return 0
    power = math.log2(length) if math.isfinite(length) else float(_LENGTH_LOG2)
    return round((min(max(power, -_LENGTH_LOG2), _LENGTH_LOG2) + _LENGTH_LOG2) * _LENGTH_SCALE)
