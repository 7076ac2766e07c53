r"""The learning rate of local training, by the version that is trained from: constant, in steps, or a cosine.

With base rate r, version v (from 0), W versions of warm-up, and t = v - W::

    warm-up   r (v + 1) / W                                                   while v < W
    step      r F^floor(t / E)                                                F: factor, E: every
    cosine    r (F + (1 - F) (1 + cos(pi min(1, t / (V - W)))) / 2)           V: versions of the run (arXiv 1608.03983)

The coordinator announces each round's own rate, so nodes of every release follow it, within their own bounds.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from federation.errors import ConfigError

__all__ = ["RateSchedule", "ScheduleKind"]


class ScheduleKind(StrEnum):
    """How the rate goes on after the warm-up."""

    CONSTANT = "constant"
    STEP = "step"
    COSINE = "cosine"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSchedule:
    """How the learning rate changes.

    Attributes:
        kind: After the warm-up.
        warmup: Versions in which it rises; 0 is none.
        every: Versions between two steps.
        factor: Of a step; of a cosine the share of the rate that is left at the end.

    Raises:
        ConfigError: A step has no length.
    """

    kind: ScheduleKind = ScheduleKind.CONSTANT
    warmup: int = 0
    every: int = 0
    factor: float = 0.1

    def __post_init__(self) -> None:
        """Refuse steps of no length."""
        if self.kind is ScheduleKind.STEP and not self.every:
            raise ConfigError("train.decay_every", "a step schedule needs the versions between two steps")

    def rate(self, base: float, version: int, versions: int) -> float:
        """The rate of a round that trains from this version.

        Args:
            base: ``train.learning_rate``.
            version: From 0.
            versions: How many the run makes; a cosine needs it.
        """
        if version < self.warmup:
            return base * (version + 1) / self.warmup
        after = version - self.warmup
        match self.kind:
            case ScheduleKind.CONSTANT:
                return base
            case ScheduleKind.STEP:
                return base * self.factor ** (after // self.every)
            case ScheduleKind.COSINE:
                done = min(1.0, after / max(1, versions - self.warmup))
                return base * (self.factor + (1 - self.factor) * (1 + math.cos(math.pi * done)) / 2)
