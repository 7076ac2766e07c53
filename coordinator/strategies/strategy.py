"""Strategies: how much each update weighs, by what the sum is divided, and what the server makes of the aggregate.

For members i of one version with staleness τ_i, decoded updates Δ_i and importance p_i (from num_examples)::

    Δ̄ = Σ p_i s(τ_i) Δ_i / D        w ← w + ServerOptimizer(Δ̄)

D is Σ p_i s(τ_i) or Σ p_i. The named strategies are constants of this, in `coordinator.strategies.presets`;
FedAsync also pulls w back to the model that an update was trained from.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from coordinator.records import Member
from coordinator.strategies.mixing import remember
from coordinator.strategies.presets import STRATEGIES
from coordinator.strategies.server_optimizer import SERVER_OPTIMIZERS, ServerOptimizer, State
from federation.errors import ConfigError

__all__ = [
    "IMPORTANCE",
    "STALENESS",
    "STRATEGIES",
    "Averaging",
    "Staleness",
    "Strategy",
    "StrategySettings",
    "Weights",
    "make_strategy",
]

_T = TypeVar("_T")

WEIGHT_MAX = 16.0
"""Weights are scaled by a power of two to at most this: far below the accumulator's headroom, and exact."""

WEIGHT_MIN = 2.0**-20
"""The accumulator's smallest weight: an update never counts as nothing."""

IMPORTANCE_MAX = 10.0
"""A member counts up to this multiple of the median member, unless the configuration says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How the members of one version count.

    Attributes:
        values: One weight per member.
        divisor: What their sum is divided by; None is the sum of the weights.
        pulls: Staleness and share of the members to whose base the model is pulled back; see
            `coordinator.strategies.presets.FEDASYNC`.
        staleness: s(τ) of each member, for sums that are weighed once per base version; empty where nobody says it.
    """

    values: tuple[float, ...]
    divisor: float | None
    pulls: tuple[tuple[int, float], ...] = ()
    staleness: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Staleness:
    """s(τ), the weight of an update that lags τ versions behind (arXiv 1903.03934, section 5.2).

    Attributes:
        kind: ``constant`` 1; ``polynomial`` (1+τ)^-a; ``hinge`` 1 up to b, then 1/(a(τ-b)+1).
        a: The exponent, or the slope.
        b: Where the hinge is, in versions.
    """

    kind: str = "polynomial"
    a: float = 0.5
    b: float = 4.0

    def weight(self, staleness: int) -> float:
        """s(τ), above 0 and at most 1."""
        return STALENESS[self.kind](self, staleness)


STALENESS: Mapping[str, Callable[[Staleness, int], float]] = {
    "constant": lambda _self, _tau: 1.0,
    "polynomial": lambda self, tau: float((1.0 + tau) ** -self.a),
    "hinge": lambda self, tau: 1.0 if tau <= self.b else 1.0 / (self.a * (tau - self.b) + 1.0),
}
"""s(τ) by name."""

IMPORTANCE: Mapping[str, Callable[[int], float]] = {
    "examples": float,
    "uniform": lambda _examples: 1.0,
    "sqrt": math.sqrt,
    "log": math.log1p,
}
"""p as a function of num_examples, by name."""


class Strategy(Protocol):
    """Decides weights and the server's step. Its state is plain data, handed in and out, and is checkpointed."""

    def weigh(self, members: Sequence[Member]) -> Weights:
        """The weight of each member; must not depend on their order."""

    def step(self, aggregate: NDArray[np.float32], state: State) -> tuple[NDArray[np.float32], State]:
        """What to add to the parameters, float32, shape (D,), and the new state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaging:
    """Every strategy that is a weighted mean: FedAvg, FedBuff and FedAsync differ in their constants.

    Attributes:
        importance: p, one of `IMPORTANCE`.
        importance_max: No p may be above this multiple of the members' median p, of two in the middle the smaller one:
            a claim must not make its own bound; 0 is no bound.
        staleness: s(τ).
        by_count: Divide by Σ p (stale updates shrink the step), or by Σ p s (they only lose influence).
        history: Server steps that are kept to pull the model back to an update's base; 0 does not pull.
        optimizer: What the server makes of the aggregate.
    """

    importance: str = "examples"
    importance_max: float = IMPORTANCE_MAX
    staleness: Staleness = field(default_factory=Staleness)
    by_count: bool = False
    history: int = 0
    optimizer: ServerOptimizer = field(default_factory=ServerOptimizer)

    def weigh(self, members: Sequence[Member]) -> Weights:
        """The weight of each member."""
        # Summed in a sorted order: float addition would otherwise let the order of arrival into the last bit.
        importance = [IMPORTANCE[self.importance](member.num_examples) for member in members]
        if self.importance_max > 0:
            bound = self.importance_max * median_low(importance)
            importance = [min(p, bound) for p in importance]
        scale = _scale(max(importance))
        importance = [p * scale for p in importance]
        staleness = tuple(self.staleness.weight(member.staleness) for member in members)
        weights = [p * s for p, s in zip(importance, staleness, strict=True)]
        divisor = math.fsum(importance) if self.by_count else None
        by = math.fsum(weights) if divisor is None else divisor
        pulls = sorted((m.staleness, weight / by) for m, weight in zip(members, weights, strict=True) if m.staleness)
        return Weights(
            values=tuple(max(weight, WEIGHT_MIN) for weight in weights),
            divisor=divisor,
            pulls=tuple(pulls) if self.history else (),
            staleness=staleness,
        )

    def step(self, aggregate: NDArray[np.float32], state: State) -> tuple[NDArray[np.float32], State]:
        """The server optimizer's step."""
        step, after = self.optimizer.step(aggregate, state)
        return (step, remember(step, {**state, **after}, self.history)) if self.history else (step, after)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategySettings:
    """What the configuration says about the strategy.

    Attributes:
        name: One of `STRATEGIES`, or ``package.module:factory`` of the user's own.
        importance: See `Averaging`; None is the strategy's own.
        importance_max: See `Averaging`.
        staleness: ``constant``, ``polynomial`` or ``hinge``; None is the strategy's own.
        staleness_a: See `Staleness`.
        staleness_b: See `Staleness`.
        normalise: ``count`` or ``weight``; None is the strategy's own.
        server: Name of the server optimizer; None is the strategy's own.
        server_learning_rate: η; None is the strategy's own.
        beta1: See `ServerOptimizer`.
        beta2: See `ServerOptimizer`.
        tau: See `ServerOptimizer`.
        mixing: Whether FedAsync pulls the model back to an update's base; None is the strategy's own.
        history: Versions that an update may lag behind: so many steps are kept for the pull.
    """

    name: str = "fedavg"
    importance: str | None = None
    importance_max: float = IMPORTANCE_MAX
    staleness: str | None = None
    staleness_a: float = 0.5
    staleness_b: float = 4.0
    normalise: str | None = None
    server: str | None = None
    server_learning_rate: float | None = None
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    mixing: bool | None = None
    history: int = 10


def make_strategy(settings: StrategySettings) -> Strategy:
    """Build the strategy that the configuration names.

    Raises:
        ConfigError: A name is unknown, or the user's factory cannot be imported.
    """
    if ":" in settings.name:
        return _imported(settings)
    preset = STRATEGIES[_known("strategy.name", settings.name, STRATEGIES)]
    return Averaging(
        importance=_known("strategy.importance", settings.importance or preset.importance, IMPORTANCE),
        importance_max=settings.importance_max,
        staleness=Staleness(
            kind=_known("strategy.staleness", settings.staleness or preset.staleness, STALENESS),
            a=settings.staleness_a,
            b=settings.staleness_b,
        ),
        by_count=_known("strategy.normalise", settings.normalise or preset.normalise, ("count", "weight")) == "count",
        history=settings.history if _or(settings.mixing, preset.mixes) else 0,
        optimizer=ServerOptimizer(
            name=_known("strategy.server", settings.server or preset.server, SERVER_OPTIMIZERS),
            learning_rate=_or(settings.server_learning_rate, preset.server_learning_rate),
            beta1=settings.beta1,
            beta2=settings.beta2,
            tau=settings.tau,
        ),
    )


def _imported(settings: StrategySettings) -> Strategy:
    module, _, name = settings.name.partition(":")
    try:
        factory = cast("Callable[[StrategySettings], Strategy]", getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError("strategy.name", f"{settings.name!r} cannot be imported: {error}") from error
    return factory(settings)


def _or(given: _T | None, otherwise: _T) -> _T:
    return otherwise if given is None else given


def _known(key: str, value: str, names: Mapping[str, object] | Sequence[str]) -> str:
    if value not in names:
        raise ConfigError(key, f"{value!r} is unknown; choose one of {', '.join(names)}")
    return value


def _scale(largest: float) -> float:
    """The power of two that brings ``largest`` to at most `WEIGHT_MAX`; 1 when it is there already."""
    return 1.0 if largest <= WEIGHT_MAX else 2.0 ** -math.ceil(math.log2(largest / WEIGHT_MAX))
