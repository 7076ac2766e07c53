"""Moves the model ahead by what error feedback still holds back at the nodes.

With error feedback nothing is lost, it comes later: a codec that captures the share c of its input leaves (1 - c) / c
of a node's steps under way. A few entries come at a time, so the next aggregate alone does not tell which ones these
are; the mean m of the aggregates g does. For a lag of L versions the server takes ::

    β = L / (1 + L)        step_t = g_t + β (g_t - m_{t-1})        m_t = m_{t-1} + (1 - β) (g_t - m_{t-1})

All steps together add up to Σ g + L m: the model is about where it would be if what is under way had arrived. Nothing
piles up, an aggregate counts at most twice, and what was added goes when the aggregates do. `benchmarks.codec_system`
has the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from coordinator.records import Member
from coordinator.strategies.codecs import with_frame_min
from coordinator.strategies.server_optimizer import State
from coordinator.strategies.strategy import Strategy, Weights
from update_codec import CodecSpec
from update_codec.spec import Kind

__all__ = ["LAG_VERSIONS_MAX", "LagCompensation", "lag_of"]

LAG_VERSIONS_MAX = 8.0
"""More than this is a guess: at such rates most of what is under way is older than the mean knows."""

_LAG_BITS = 2.1
"""Lag in versions times bits per parameter: measured on J1 with half of the nodes in each round."""

_LAG_BITS_PLAIN = 1.4
"""The same where versions go down plainly."""

_LAG_BITS_TURNED = 0.72
"""The same of the cosine kind, whose bits carry three times as much."""

_LAG_BITS_DOWN = 0.075
"""The same of versions of the cosine kind alone: every node pulls each of them."""

_MEAN = "lag.mean"


def lag_of(up: CodecSpec, down: CodecSpec) -> float:
    """The lag in versions that suits the codecs of updates and versions: 0 where nothing is held back.

    What versions hold back is part of what was measured for updates with feedback.
    """
    is_turned = down.kind is Kind.COSINE
    if not up.feedback:
        return _LAG_BITS_DOWN / down.bpp if is_turned and down.bpp else 0.0
    bits = _LAG_BITS if is_turned else _LAG_BITS_PLAIN
    if up.kind is Kind.COSINE:
        bits = _LAG_BITS_TURNED
    return min(LAG_VERSIONS_MAX, bits / up.bpp) if up.bpp else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LagCompensation:
    """A strategy whose steps are moved ahead.

    Attributes:
        strategy: Makes weights and steps.
        versions: L, above 0.
        up: The codec of updates from whose rate L was made; None where somebody chose L.
        down: That of versions.
    """

    strategy: Strategy
    versions: float
    up: CodecSpec | None = None
    down: CodecSpec | None = None

    def for_model(self, parameters: int) -> Self:
        """The same for a model whose updates have another rate, see `with_frame_min`."""
        if self.up is None or self.down is None:
            return self
        up = with_frame_min(self.up, parameters)
        return self if up == self.up else replace(self, versions=lag_of(up, self.down), up=up)

    def weigh(self, members: Sequence[Member]) -> Weights:
        """The strategy's own weights."""
        return self.strategy.weigh(members)

    def step(self, aggregate: NDArray[np.float32], state: State) -> tuple[NDArray[np.float32], State]:
        """The strategy's step, moved ahead."""
        own = {name: array for name, array in state.items() if name != _MEAN}
        step, after = self.strategy.step(aggregate, own)
        mean = state.get(_MEAN)
        if mean is None or mean.shape != step.shape:
            mean = np.zeros_like(step)
        beta = np.float32(self.versions / (1.0 + self.versions))
        # What is not finite is refused by name at the commit; a warning would say less.
        with np.errstate(over="ignore", invalid="ignore"):
            news = step - mean
            return step + beta * news, {**after, _MEAN: mean + (np.float32(1) - beta) * news}
