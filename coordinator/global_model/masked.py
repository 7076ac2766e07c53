"""A version of a masked sum: the members' frames minus what the helpers answered, and under which terms nodes go on.

With q_i the integers of member i, of magnitude at most L, m_i its masks and K the members,

    sum_i (q_i + m_i) - sum_i m_i = sum_i q_i   modulo 2^k,  2^k > 2 K L,

so the sum is exact, and one beyond K L tells that somebody has not kept to L: then nobody can say who, and the whole
batch goes [FED-158]. The aggregate is step / W times the sum, with W the members, or the sum of their importance.

Nobody knows the length of updates before the first version, so that one is sent finely, whatever the levels: in steps
of 2^-22 up to 1/4. From then on the step follows the updates: with s the geometric mean of the lengths of what the
members had to send (their residuals included), d the parameters and L the levels,

    step' = 1.5 L^(-3/4) s / sqrt(d).

It is the rate at which ternary updates with error feedback lose least (1.5 root mean squares at L = 1, measured 0.7 at
3 and 0.35 at 7). One batch is of one step, so it changes at most once for each version that an update may lag behind,
and after the first time by a factor of 4 at most: the lengths are the nodes' own word.

Under noise for whole nodes no length is told, and every version is coarse: step = 1.5 L^(-3/4) clip / sqrt(d), so that
clip / step, the integers' sensitivity, stays the same. The sum is divided by the most members that a batch may have,
however many there were. Where the clip adapts, the noised number of members within it moves it (arXiv 1905.03871).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.global_model.aggregation import Combined, Reading, Unusable
from coordinator.records import Member
from coordinator.strategies.strategy import Weights
from federation.errors import DamagedStore
from federation.privacy.sum_noise import adapted_clip
from federation.privacy.tail import TailSums, read_tail, tail_length
from federation.privacy.taking import Participation
from federation.privacy.terms import NOISED_TAIL, SCHEME, largest_sum, noise_deviation, noise_reach, shape_of
from federation.protocol.messages import Reason
from federation.protocol.sum_messages import PrivacyTerms, PrivacyUnit
from federation.types import Digest, UpdateId
from update_codec import CodecError, HeadroomError, Manifest, Vectors
from update_codec.masking import MaskedSum, bits_for, read_masked

__all__ = ["MaskedCombine", "MaskedModel", "NodesNoise"]

_STATE = "privacy.step"
"""In a model's state: the step, and the version since which it holds."""

_CLIP = "privacy.clip"
"""In a model's state, where the clip adapts: the clip, and the version since which it holds."""

_BITS_ROOM = 1.001
"""What rounding may do to clip over step from one version to the next: all of them have the same bits."""

FIRST_LEVELS = 2**20 - 1
_GRAIN_LEAST = 2.0**-60
"""Neither a clip nor a step is adapted to less: terms with a step below 2^-100 are no terms."""

FIRST_STEP = 2.0**-22
"""Of the first version, where no step is given."""

STEP_FACTOR_MAX = 4.0
"""Most that one change multiplies or divides the step by, after the first one."""

State = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesNoise:
    """Noise that hides whole nodes.

    Attributes:
        noise: Standard deviation of each helper's noise, in units of the clip.
        bit_noise: And on the number of members within the clip, which then adapts; None keeps the clip.
        quantile: Share of the updates that the clip is to leave as they are.
        rate: How fast the clip adapts.
        bandwidth: 1 draws the noise of each sum anew,
        participation: and more correlates it, as long as nodes keep this.
    """

    noise: float
    bit_noise: float | None = None
    quantile: float = 0.5
    rate: float = 0.2
    bandwidth: int = 1
    participation: Participation | None = None

    def added(self, terms: PrivacyTerms) -> PrivacyTerms:
        """Terms with this noise, and bits for it."""
        plan, correlated = self.participation, self.bandwidth > 1
        noised = replace(
            terms,
            noise=self.noise,
            unit=PrivacyUnit.NODES,
            tail=0 if self.bit_noise is None else NOISED_TAIL,
            bit_noise=self.bit_noise,
            bandwidth=self.bandwidth if correlated else None,
            releases=plan.releases if correlated and plan is not None else None,
            separation=plan.separation if correlated and plan is not None else None,
            participations=plan.participations if correlated and plan is not None else None,
        )
        return replace(noised, bits=bits_for(math.ceil(largest_sum(noised) * _BITS_ROOM)))


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedModel:
    """How updates are masked.

    Attributes:
        helpers: Digest of the helpers' keys.
        count: Helpers.
        threshold: Helpers that must answer.
        members: Most updates of a version.
        levels: Largest magnitude of an update's integers.
        first_step: What one is worth before any length was heard; None sends the first version finely.
        clip: L2 norm that nodes scale their updates down to; None does not.
        importance_cap: Examples from which on an update counts whole; None counts all alike.
        patience: Versions for which a step holds at least.
        noise: That helpers add; needs ``clip``. None: they add none.
        fixed: The step stays what it is: updates are whole multiples of it already.
    """

    helpers: Digest
    count: int
    threshold: int
    members: int
    levels: int
    first_step: float | None = None
    clip: float | None = None
    importance_cap: int | None = None
    patience: int = 1
    noise: NodesNoise | None = None
    fixed: bool = False

    def terms(self, manifest: Manifest, state: State) -> PrivacyTerms:
        """Under which updates from the version of this state are masked."""
        step, since = self._step(state)
        levels = FIRST_LEVELS if self.first_step is None and not since else self.levels
        clip = self.clip
        if self.noise is not None and clip is not None:
            clip, levels = self._clip(state, clip)[0], self.levels
            step = clip * self._step_rate(manifest.parameter_count, self.clip)
        plain = PrivacyTerms(
            scheme=SCHEME,
            helpers=self.helpers,
            count=self.count,
            threshold=self.threshold,
            dimension=manifest.parameter_count,
            tail=tail_length(manifest.statistic_count),
            step=step,
            levels=levels,
            members=self.members,
            bits=bits_for(self.members * levels),
            clip=clip,
            importance_cap=self.importance_cap,
        )
        return plain if self.noise is None else self.noise.added(plain)

    def settled(self, manifest: Manifest) -> PrivacyTerms:
        """Terms of the shape that all versions after the first one have."""
        return self.terms(manifest, {_STATE: np.array([1.0, 1], np.float32)})

    def follow(
        self,
        state: State,
        version: int,
        length: float | None,
        parameters: int,
        share: float | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """What the next version's state has of this.

        Args:
            state: The state of the version before.
            version: The new one.
            length: Geometric mean of the members' lengths; None where they do not say it.
            parameters: Of the model.
            share: Noised share of the members that were within the clip; None where that is not told.
        """
        if self.noise is not None:
            return self._follow_clip(state, version, share, self.noise)
        step, since = self._step(state)
        if self.fixed or length is None or (since and version - since < self.patience):
            return {_STATE: np.array([step, since], np.float32)}
        wanted = 1.5 * self.levels**-0.75 * length / math.sqrt(parameters)
        if since:
            wanted = min(max(wanted, step / STEP_FACTOR_MAX), step * STEP_FACTOR_MAX)
        usable = wanted if math.isfinite(wanted) and wanted > _GRAIN_LEAST else step
        return {_STATE: np.array([usable, version], np.float32)}

    def _follow_clip(
        self, state: State, version: int, share: float | None, noise: NodesNoise
    ) -> dict[str, NDArray[np.float32]]:
        if self.clip is None or noise.bit_noise is None or share is None:
            return {}
        clip, since = self._clip(state, self.clip)
        if since and version - since < self.patience:
            return {_CLIP: np.array([clip, since], np.float32)}
        wanted = adapted_clip(clip, share, target=noise.quantile, rate=noise.rate)
        usable = wanted if math.isfinite(wanted) and wanted > _GRAIN_LEAST else clip
        return {_CLIP: np.array([usable, version], np.float32)}

    def _clip(self, state: State, first: float) -> tuple[float, int]:
        known = state.get(_CLIP)
        return (first, 0) if known is None else (float(known[0]), int(known[1]))

    def _step_rate(self, parameters: int, clip: float | None) -> float:
        """What a unit of the integers is worth, in units of the clip."""
        if self.first_step is not None and clip is not None:
            return self.first_step / clip
        return float(1.5 * self.levels**-0.75 / math.sqrt(parameters))

    def _step(self, state: State) -> tuple[float, int]:
        known = state.get(_STATE)
        first = FIRST_STEP if self.first_step is None else self.first_step
        return (float(np.float32(first)), 0) if known is None else (float(known[0]), int(known[1]))


class MaskedCombine:
    """A `Combine` for one batch.

    Args:
        terms: Those of its members.
        sums: What helpers answered, one for each class.
        counters: The model's: nodes do not send theirs.

    Attributes:
        tail: What the batch's sums say beside the parameters, once it is combined.
        share: And the share of its members that were within the clip, where that is told.
    """

    def __init__(self, terms: PrivacyTerms, sums: Sequence[bytes], counters: NDArray[np.int64]) -> None:
        self._terms, self._sums, self._counters = terms, sums, counters
        self.tail: TailSums | None = None
        self.share: float | None = None

    def __call__(
        self,
        members: Sequence[Member],
        payload: Callable[[UpdateId], bytes],
        weights: Weights,
        how: Reading,
    ) -> Combined | Unusable:
        """The mean of the members, of which only the sum is ever seen."""
        del weights  # all are 1: other ones would give ternary values away
        integers = self.lifted(members, payload, how)
        if isinstance(integers, Unusable):
            return integers
        assert self.tail is not None  # noqa: S101 - it has just been read
        parameters = (integers * (self._terms.step / self.tail.weight)).astype(np.float32)
        return Vectors(parameters, self.tail.statistics, self._counters), {}

    def lifted(
        self, members: Sequence[Member], payload: Callable[[UpdateId], bytes], how: Reading
    ) -> NDArray[np.int64] | Unusable:
        """The exact sum of the members' integers, shape (D,); the tail is read, too."""
        terms, everyone = self._terms, tuple(member.update for member in members)
        total = MaskedSum(shape_of(terms))
        try:
            for member in members:
                total.add(read_masked(payload(member.update), how.manifest))
            for one in self._sums:
                total.take_away(one)
            # Noise of all members' room: one entry in 10^15 reaches further.
            integers, lanes = total.lift(limit=len(members) * terms.levels + noise_reach(terms))
        except HeadroomError as error:
            return Unusable(culprits=everyone, reason=Reason.NORM, detail=str(error))
        except DamagedStore as error:
            # Without one of its members the sum is noise.
            return Unusable(culprits=everyone, reason=Reason.DIGEST_MISMATCH, detail=str(error))
        except CodecError as error:
            return Unusable(culprits=everyone, reason=Reason.MALFORMED_FRAME, detail=str(error))
        found = self._too_long(integers, len(members))
        if found:
            return Unusable(culprits=everyone, reason=Reason.NORM, detail=found)
        try:
            self.tail = read_tail(lanes, terms, members=len(members))
        except ValueError as error:
            return Unusable(culprits=everyone, reason=Reason.NORM, detail=str(error))
        self.share = self.tail.within / len(members) if terms.tail else None
        return integers

    def _too_long(self, integers: NDArray[np.int64], members: int) -> str:
        """What is wrong with a sum that no honest members have."""
        terms = self._terms
        if terms.clip is None:
            return ""
        norm = terms.step * math.sqrt(float(np.square(integers, dtype=np.float64).sum()))
        rounding = terms.step * math.sqrt(terms.dimension) / 2
        # The length of Gaussian noise is its root mean square, and hardly ever more than 8 deviations above.
        noise = terms.step * noise_deviation(terms) * math.sqrt(terms.count) * (math.sqrt(terms.dimension) + 8)
        most = members * (terms.clip + rounding) + noise
        return "" if norm <= most else f"the sum's norm is {norm:.3g}, {members} members make {most:.3g} at most"
