"""What noise is worth: epsilon of the Gaussian mechanism, exact, and of its Poisson-sampled form, as upper bounds.

Adding N(0, sigma^2 S^2) to a value of sensitivity S is a Gaussian mechanism with mu = 1 / sigma; k of them, chosen one
after the other with all that was seen before, are one with mu^2 = sum 1 / sigma^2 (arXiv 1905.02383). Its

    delta(epsilon) = Phi(mu / 2 - epsilon / mu) - e^epsilon Phi(-mu / 2 - epsilon / mu)

is exact (arXiv 1805.06530). Where each step takes each row with a secret probability q, the loss is smaller:
`renyi_epsilon` bounds it by Renyi divergences (arXiv 1908.10530, conversion of 2004.00010), `sampled_epsilon` by the
distribution of the loss itself (loss_distribution.py), which is tighter. Both hold for adding or removing one row.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from federation.types import SampledSteps

__all__ = [
    "DELTA_MAX",
    "DELTA_MIN",
    "NoisePlan",
    "gaussian_delta",
    "gaussian_epsilon",
    "noise_for",
    "renyi_epsilon",
    "sampled_epsilon",
]

DELTA_MIN, DELTA_MAX = 1e-9, 1e-2
"""What delta may be: below the first, the transforms' own rounding is no longer small beside it."""

_HALVINGS = 100
_SMALL_MU = 1e-3
_FAR = 5.0
_MILLS_TERMS = 80
_ORDERS = np.concatenate(
    [1 + np.geomspace(1e-3, 0.1, 20), np.arange(1.15, 12, 0.05), np.arange(12, 64), np.geomspace(64, 4096, 49)]
)
_NOISE_MAX = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePlan:
    """How many Poisson-sampled steps are to be paid for.

    Attributes:
        sampling_rate: Probability with which a step takes a row, above 0 and at most 1.
        steps: How many.
    """

    sampling_rate: float
    steps: int


@cache
def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of Gauss and Legendre; NumPy's polynomials are a megabyte that few processes need."""
    nodes, weights = np.polynomial.legendre.leggauss(6)
    return nodes, weights


def gaussian_delta(mu: float, epsilon: float) -> float:
    """The exact delta of a Gaussian mechanism with sensitivity over noise of ``mu``, at this ``epsilon``."""
    if mu <= 0:
        return 0.0
    if math.isinf(mu):
        return 1.0
    at = epsilon / mu - mu / 2
    if mu < _SMALL_MU:  # the two terms are equal in most digits: integrate the derivative of Mills' ratio instead
        nodes, weights = _quadrature()
        points = at + mu * (nodes + 1) / 2
        slopes = [1 - point * _mills(point) for point in points.tolist()]
        return math.exp(-at * at / 2) / math.sqrt(2 * math.pi) * mu / 2 * float(np.dot(weights, slopes))
    beyond = at + mu
    if beyond < _FAR:
        return max(0.0, _upper_tail(at) - math.exp(epsilon) * _upper_tail(beyond))
    # e^epsilon times the density at `beyond` is that at `at`: so no digit of a large epsilon is lost.
    return max(0.0, _upper_tail(at) - math.exp(-at * at / 2) / math.sqrt(2 * math.pi) * _mills(beyond))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The exact epsilon of a Gaussian mechanism with sensitivity over noise of ``mu``, at this ``delta``.

    Raises:
        ValueError: ``delta`` is not between 0 and 1, or ``mu`` is negative.
    """
    if not 0 < delta < 1 or not mu >= 0:
        raise ValueError(f"needs a delta between 0 and 1 and a mu of at least 0, not {delta} and {mu}")
    if math.isinf(mu):
        return math.inf
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(mu, high) > delta:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(mu, middle) > delta else (low, middle)
    return high


def renyi_epsilon(steps: Sequence[SampledSteps], delta: float) -> float:
    """An upper bound of epsilon after all of ``steps``, by Renyi divergences; holds for any noise."""
    if not all(each.noise > 0 for each in steps if each.steps):
        return math.inf
    total = np.zeros(len(_ORDERS))
    for each in steps:
        total += each.steps * _divergences(each.sampling_rate, each.noise)
    bounds = total + np.log1p(-1 / _ORDERS) - (math.log(delta) + np.log(_ORDERS)) / (_ORDERS - 1)
    return max(0.0, float(bounds.min())) if total.any() else 0.0


def sampled_epsilon(steps: Sequence[SampledSteps], delta: float) -> float:
    """The least upper bound of epsilon that we know after all of ``steps``, in any order; 0 after none.

    Raises:
        ValueError: ``delta`` is not between `DELTA_MIN` and `DELTA_MAX`.
    """
    # Each role's process has this module for its settings, and few of them an account.
    from federation.privacy.loss_distribution import LOSS_MAX, composed_epsilon  # noqa: PLC0415

    if not DELTA_MIN <= delta <= DELTA_MAX:
        raise ValueError(f"delta must be between {DELTA_MIN} and {DELTA_MAX}, not {delta}")
    real = [each for each in steps if each.steps and each.sampling_rate]
    if not real:
        return 0.0
    if not all(each.noise > 0 for each in real):
        return math.inf
    if all(each.sampling_rate == 1 for each in real):
        return gaussian_epsilon(math.sqrt(sum(each.steps / each.noise**2 for each in real)), delta)
    # Without sampling it costs at least as much: what is sampled is a mixture.
    whole = gaussian_epsilon(math.sqrt(sum(each.steps / each.noise**2 for each in real)), delta)
    coarse = min(whole, renyi_epsilon(real, delta))
    return coarse if coarse > LOSS_MAX else min(coarse, composed_epsilon(real, delta))


@lru_cache(maxsize=64)
def noise_for(epsilon: float, delta: float, plan: NoisePlan) -> float:
    """The least noise, in units of the clip, with which ``plan`` stays within ``epsilon``; to 4 digits, never below.

    Raises:
        ValueError: No noise does.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, not {epsilon}")

    def spent(noise: float) -> float:
        return sampled_epsilon([SampledSteps(sampling_rate=plan.sampling_rate, noise=noise, steps=plan.steps)], delta)

    def bounded(noise: float) -> float:
        steps = SampledSteps(sampling_rate=plan.sampling_rate, noise=noise, steps=plan.steps)
        return renyi_epsilon([steps], delta)

    enough = _least(bounded, epsilon, (0.0, 1.0), 1e-2)
    return math.ceil(_least(spent, epsilon, (enough / 2, enough), 2e-5) * 1e4) / 1e4


def _least(spent: Callable[[float], float], epsilon: float, between: tuple[float, float], share: float) -> float:
    """The least noise that spends at most ``epsilon``; above it by no more than this share of it."""
    low, high = between
    over, under = math.inf, spent(high)
    while under > epsilon:
        low, over, high = high, under, 2 * high
        if high > _NOISE_MAX:
            raise ValueError(f"no noise keeps this plan within epsilon {epsilon}")
        under = spent(high)
    turn = 0
    while high - low > share * high:
        middle = (low + high) / 2
        if turn % 4 < 3 and low > 0 and under > 0 and over < math.inf:
            # It falls much like a power of the noise. A step to either side of the guess, and no more is between.
            power = math.log(over / under) / math.log(low / high)
            guess = high * (epsilon / under) ** (1 / power) * (1 + (share / 3 if turn % 2 else -share / 3))
            middle = guess if low < guess < high else middle
        found = spent(middle)
        low, over, high, under = (middle, found, high, under) if found > epsilon else (low, over, middle, found)
        turn += 1
    return high


def _upper_tail(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2))


def _mills(x: float) -> float:
    """P(N > x) over the density at x; beyond `_FAR` by Laplace's continued fraction."""
    if x < _FAR:
        return _upper_tail(x) * math.sqrt(2 * math.pi) * math.exp(x * x / 2)
    below = x
    for term in range(_MILLS_TERMS, 0, -1):
        below = x + term / below
    return 1 / below


@lru_cache(maxsize=64)
def _divergences(rate: float, noise: float) -> NDArray[np.float64]:
    """Renyi divergences of one step for all of `_ORDERS`, by the trapezoid rule, which is exact here to rounding."""
    if rate == 1:
        return np.asarray(_ORDERS / (2 * noise**2), dtype=np.float64)
    found = []
    for order in _ORDERS.tolist():
        step = noise / 16
        x = np.arange(-12 * noise, order + 12 * noise, max(step, (order + 24 * noise) / 100_000))
        ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
        logs = order * ratio - (x / noise) ** 2 / 2
        top = float(logs.max())
        spacing = float(x[1] - x[0]) / (noise * math.sqrt(2 * math.pi))
        found.append((top + math.log(float(np.exp(logs - top).sum()) * spacing)) / (order - 1))
    return np.asarray(np.maximum(0.0, np.array(found)), dtype=np.float64)
