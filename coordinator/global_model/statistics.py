"""A version of statistics: exact sums of what nodes have counted, and the bins that they count into next.

What a node says is looked at before it is added, so that a lie that contradicts itself costs the liar. Under masks only
the sum is seen: then it costs the whole batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coordinator.global_model.aggregation import AggregateLimits, Combined, Reading, Unusable
from coordinator.global_model.masked import MaskedCombine, MaskedModel
from coordinator.records import Member
from coordinator.strategies.strategy import Averaging, Weights
from federation.errors import TaskError
from federation.protocol.messages import Reason
from federation.tasks.statistics.judging import check_counts, check_pieces, next_plan
from federation.tasks.statistics.layout import PASSES, PREFIX, Counts, Plan, columns_of
from federation.types import UpdateId
from update_codec import CodecError, CodecSpec, Manifest, Vectors, decode

__all__ = [
    "LOSSLESS",
    "NORM_MAX",
    "PIECE_LEVELS",
    "STRATEGY",
    "StatisticsCombine",
    "is_statistics",
    "limits_for",
    "statistics_terms",
]

NORM_MAX = 1e12
"""Pieces of sums have no meaning as a length: no bound of it is one for them."""


PIECE_LEVELS = 255
"""Largest magnitude of a piece."""


def is_statistics(manifest: Manifest) -> bool:
    """Whether a model is what nodes have counted."""
    # Asked first: to know all digests takes a moment, and few models are called so.
    named = all(tensor.name.startswith(PREFIX) for tensor in manifest.tensors)
    return named and columns_of(manifest.digest) is not None


def limits_for(limits: AggregateLimits) -> AggregateLimits:
    """What may enter a model of statistics."""
    return replace(limits, step_norm_max=NORM_MAX, clip_norm=0.0, rule=None)


def statistics_terms(masked: MaskedModel) -> MaskedModel:
    """How counts are masked: each piece of eight bits is one whole number, of which nothing is rounded away."""
    return replace(masked, levels=PIECE_LEVELS, first_step=1.0, clip=None, importance_cap=None, noise=None, fixed=True)


STRATEGY = Averaging(importance="uniform")
"""Sums have no weights, and the step is what the combination says."""

LOSSLESS = CodecSpec.parse("lossless")


@dataclass(frozen=True)
class StatisticsCombine:
    """A `Combine` for one pass.

    Attributes:
        before: The model that nodes were told.
        masked: Has the sum of a masked batch; None reads each update.
    """

    before: Vectors
    masked: MaskedCombine | None = None

    def __call__(
        self,
        members: Sequence[Member],
        payload: Callable[[UpdateId], bytes],
        weights: Weights,
        how: Reading,
    ) -> Combined | Unusable:
        """From what the model was to what it shall be."""
        del weights
        told = how.manifest.unflatten(self.before)
        plan = Plan.of(told)
        total = self._masked(members, payload, how, plan) if self.masked else _added(members, payload, how, plan)
        if isinstance(total, Unusable):
            return total
        counts = Counts.of(_arrays(how.manifest, total))
        try:
            made = {**next_plan(plan, counts, len(members)).arrays(), **counts.arrays()}
        except TaskError as error:
            return _unusable([member.update for member in members], str(error))
        if plan.counted >= PASSES:
            return _unusable([member.update for member in members], "all passes are counted")
        wanted = how.manifest.flatten(made)
        # Whole numbers below 2^24, so the difference and the model that it leads to are exact.
        step = wanted.parameters - self.before.parameters
        return Vectors(step, np.zeros_like(self.before.statistics), self.before.counters), {}

    def _masked(
        self, members: Sequence[Member], payload: Callable[[UpdateId], bytes], how: Reading, plan: Plan
    ) -> NDArray[np.int64] | Unusable:
        assert self.masked is not None  # noqa: S101 - the caller has just looked
        found = self.masked.lifted(members, payload, how)
        if isinstance(found, Unusable):
            return found
        try:
            check_counts(Counts.of(_arrays(how.manifest, found)), plan)
        except TaskError as error:
            return _unusable([member.update for member in members], f"nobody can say whose, but {error}")
        return found


def _added(
    members: Sequence[Member], payload: Callable[[UpdateId], bytes], how: Reading, plan: Plan
) -> NDArray[np.int64] | Unusable:
    """The sum of all members, each looked at before it is added."""
    total = np.zeros(how.manifest.parameter_count, np.int64)
    for member in members:
        frame = payload(member.update)
        try:
            arrays = how.manifest.unflatten(decode(frame, how.manifest))
            check_pieces(arrays)
            check_counts(Counts.of(arrays), plan, rows=member.num_examples)
        except CodecError as error:
            return Unusable(culprits=(member.update,), reason=Reason.MALFORMED_FRAME, detail=str(error))
        except TaskError as error:
            return _unusable([member.update], f"{member.node}: {error}")
        total += how.manifest.flatten(arrays).parameters.astype(np.int64)
    return total


def _arrays(manifest: Manifest, total: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """A sum by name: its numbers may be larger than a float32 holds."""
    found, start = {}, 0
    for tensor in manifest.tensors:
        found[tensor.name] = total[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size
    return found


def _unusable(culprits: Sequence[UpdateId], detail: str) -> Unusable:
    return Unusable(culprits=tuple(culprits), reason=Reason.NORM, detail=detail)
