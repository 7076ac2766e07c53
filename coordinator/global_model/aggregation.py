"""From the stored updates of one version to the step of the global model: exact, bounded, and the same in any order."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.global_model.codec_contexts import KnownContexts, state_of
from coordinator.global_model.sums import SumsPerBase
from coordinator.global_model.update_checks import Examine, Inspections
from coordinator.records import Member
from coordinator.strategies.mixing import pulled_back
from coordinator.strategies.robust.updates import RobustRule, Updates
from coordinator.strategies.server_optimizer import State
from coordinator.strategies.strategy import Strategy, Weights
from federation.errors import DamagedStore
from federation.protocol.messages import Reason
from federation.types import UpdateId
from update_codec import Accumulator, CodecError, Contexts, FrameInfo, HeadroomError, Manifest, NonFiniteFrame, Vectors

__all__ = ["AggregateLimits", "Aggregated", "Combine", "Combined", "Reading", "Unusable", "aggregate", "reason_of"]


NORM_ENTRIES = 1 << 16
"""Entries that are widened at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateLimits:
    """Bounds of what may enter a model.

    Attributes:
        step_norm_max: A larger L2 norm of the server's step is not committed.
        clip_norm: Updates are scaled down to this L2 norm; 0 is no clipping. Without effect under a rule.
        rule: Takes the place of the weighted mean where not every node can be trusted; None is the mean.
        per_base: Examples are the weights, and staleness is weighed once per base version (`SumsPerBase`).
    """

    step_norm_max: float = 1e6
    clip_norm: float = 0.0
    rule: RobustRule | None = None
    per_base: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregated:
    """The server's step.

    Attributes:
        step: What to add: parameters and statistics as differences, counters absolute.
        state: The strategy's new state.
    """

    step: Vectors
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """The members cannot make a version together: these must go, the others may try again.

    Attributes:
        culprits: At least one update.
        reason: Why, for the receipt.
        detail: Why, for the log.
    """

    culprits: tuple[UpdateId, ...]
    reason: Reason
    detail: str


def aggregate(
    members: Sequence[Member],
    payload: Callable[[UpdateId], bytes],
    strategy: Strategy,
    context: tuple[Manifest, State, AggregateLimits],
    examine: Examine | None = None,
    combine: "Combine | None" = None,
) -> Aggregated | Unusable:
    """Aggregate the members and take the server's step.

    One payload is in memory at a time; a robust rule needs all of them, still coded.

    Args:
        members: At least one update, in any order.
        payload: Gives the codec frame of a member.
        strategy: Weights and step.
        context: The model's manifest, the strategy's state, and the limits.
        examine: Describes a frame; None looks at each one anew.
        combine: Makes one update of all; None decodes the frames, and takes their mean or the robust rule's choice.

    Returns:
        The step, or who is to blame; the culprits are never empty, so that trying again comes to an end.
    """
    manifest, state, limits = context
    # Float sums may depend on their order: not on that of the arrival.
    members = sorted(members, key=lambda member: member.update)
    weights = strategy.weigh(members)
    if combine is None:
        combine = _per_base if limits.per_base else _mean if limits.rule is None else _robust
    contexts, state = KnownContexts(state, manifest.parameter_count), state_of(state)
    described = examine or Inspections(manifest, lambda: contexts)
    combined = _combined(combine, members, payload, weights, Reading(manifest, limits, described, contexts))
    if isinstance(combined, Unusable):
        return combined
    mean, norms = combined
    step, new_state = strategy.step(pulled_back(mean.parameters, state, weights.pulls), state)
    norm = _norm(step)
    if not norm <= limits.step_norm_max or not np.isfinite(mean.statistics).all():
        # Of a sum nobody can say who has made it so long.
        largest = max(norms, key=lambda update: (norms[update], update), default=None)
        culprits = tuple(member.update for member in members) if largest is None else (largest,)
        return Unusable(culprits=culprits, reason=Reason.NORM, detail=f"the step's norm would be {norm:.3g}")
    return Aggregated(step=Vectors(step, mean.statistics, mean.counters), state=new_state)


@dataclass(frozen=True, slots=True)
class Reading:
    """What it takes to read the members.

    Attributes:
        manifest: The model's.
        limits: Of what may enter it.
        examine: Describes a frame.
        contexts: The codec's, which frames may need.
    """

    manifest: Manifest
    limits: AggregateLimits
    examine: Examine
    contexts: Contexts


Combined = tuple[Vectors, dict[UpdateId, float]]
"""The aggregate, and the norm of every update; no norms where only their sum is seen."""

Combine = Callable[
    [Sequence[Member], Callable[[UpdateId], bytes], Weights, Reading],
    Combined | Unusable,
]
"""From members, payloads, weights and how to read them to the aggregate."""


def _combined(
    combine: Combine,
    members: Sequence[Member],
    payload: Callable[[UpdateId], bytes],
    weights: Weights,
    how: Reading,
) -> Combined | Unusable:
    """One update of all; a payload that its store has lost costs its update, and no other."""
    asked = list[UpdateId]()

    def read(update: UpdateId) -> bytes:
        asked.append(update)
        return payload(update)

    try:
        return combine(members, read, weights, how)
    except DamagedStore as error:
        return Unusable(culprits=(asked[-1],), reason=Reason.DIGEST_MISMATCH, detail=str(error))


def _mean(
    members: Sequence[Member],
    payload: Callable[[UpdateId], bytes],
    weights: Weights,
    how: Reading,
) -> Combined | Unusable:
    manifest, limits, examine = how.manifest, how.limits, how.examine
    total, norms, sizes = Accumulator(manifest), dict[UpdateId, float](), dict[UpdateId, float]()
    for member, weight in zip(members, weights.values, strict=True):
        frame = payload(member.update)
        try:
            info = examine(frame)
            sizes[member.update] = weight * max(info.parameter_abs_max, info.statistic_abs_max)
            total.add(frame, weight, clip=limits.clip_norm or None, info=info, context=how.contexts)
        except HeadroomError as error:
            return _too_large(sizes, error)
        except CodecError as error:
            return Unusable(culprits=(member.update,), reason=reason_of(error), detail=str(error))
        norms[member.update] = info.parameter_norm
    return total.mean(divisor=weights.divisor), norms


def _per_base(
    members: Sequence[Member],
    payload: Callable[[UpdateId], bytes],
    weights: Weights,
    how: Reading,
) -> Combined | Unusable:
    total = SumsPerBase(how.manifest, how.contexts, by_count=weights.divisor is not None)
    norms, sizes = dict[UpdateId, float](), dict[UpdateId, float]()
    for member, staleness in zip(members, weights.staleness, strict=True):
        frame = payload(member.update)
        try:
            info = how.examine(frame)
            sizes[member.update] = member.num_examples * max(info.parameter_abs_max, info.statistic_abs_max)
            total.add(frame, info, member.num_examples, staleness)
        except HeadroomError as error:
            return _too_large(sizes, error)
        except CodecError as error:
            return Unusable(culprits=(member.update,), reason=reason_of(error), detail=str(error))
        norms[member.update] = info.parameter_norm
    return total.mean(), norms


def _too_large(sizes: Mapping[UpdateId, float], error: HeadroomError) -> Unusable:
    """Whoever has no room has none alone: it is the largest."""
    largest = max(sizes, key=lambda update: (sizes[update], update))
    return Unusable(culprits=(largest,), reason=Reason.NORM, detail=str(error))


def _robust(
    members: Sequence[Member],
    payload: Callable[[UpdateId], bytes],
    weights: Weights,
    how: Reading,
) -> Combined | Unusable:
    manifest, limits, examine = how.manifest, how.limits, how.examine
    frames, infos = list[bytes](), list[FrameInfo]()
    for member in members:
        frame = payload(member.update)
        try:
            info = examine(frame)
        except CodecError as error:
            return Unusable(culprits=(member.update,), reason=reason_of(error), detail=str(error))
        if not info.finite:
            return Unusable(culprits=(member.update,), reason=Reason.NOT_FINITE, detail="it holds NaN or infinity")
        frames.append(frame)
        infos.append(info)
    norms = {member.update: info.parameter_norm for member, info in zip(members, infos, strict=True)}
    assert limits.rule is not None  # noqa: S101 - the caller has just looked
    try:
        updates = Updates(frames=frames, infos=infos, weights=weights.values, manifest=manifest, contexts=how.contexts)
        combined = limits.rule.combine(updates)
    except CodecError as error:
        largest = max(norms, key=lambda update: (norms[update], update))
        return Unusable(culprits=(largest,), reason=reason_of(error), detail=str(error))
    return _shrunk(combined, weights), norms


def _shrunk(combined: Vectors, weights: Weights) -> Vectors:
    """A rule gives the whole step; where stale updates shrink the mean, they shrink it as much."""
    if weights.divisor is None:
        return combined
    share = np.float32(math.fsum(weights.values) / weights.divisor)
    return Vectors(combined.parameters * share, combined.statistics * share, combined.counters)


def _norm(step: np.ndarray) -> float:
    """L2 norm in float64, so that it cannot overflow before it is judged; NaN stays NaN."""
    squares = 0.0
    for start in range(0, len(step), NORM_ENTRIES):
        wide = step[start : start + NORM_ENTRIES].astype(np.float64)
        squares += float(np.dot(wide, wide))
    return math.sqrt(squares)


def reason_of(error: CodecError) -> Reason:
    """What a receipt says of an update that the codec refuses."""
    if isinstance(error, HeadroomError):
        return Reason.NORM
    return Reason.NOT_FINITE if isinstance(error, NonFiniteFrame) else Reason.MALFORMED_FRAME
