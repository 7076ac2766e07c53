"""The distribution of the privacy loss of Poisson-sampled Gaussian steps, and epsilon from it.

With P and Q the outputs with and without one row, the loss at x is log P(x) / Q(x). Over many steps losses add, so
their distributions convolve: one transform for all steps (arXiv 2106.08567). On a grid of losses each interval's mass
under P goes to its two ends so that its mass under Q stays what it was, too. This "connects the dots" of the curve
delta(epsilon) from above (arXiv 2207.04380): the result is an upper bound, with an error of second order in the grid.
Both ways of one row are computed, removed and added, and the larger epsilon counts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from federation.types import SampledSteps

__all__ = ["LOSS_MAX", "composed_epsilon"]

Floats = NDArray[np.float64]

LOSS_MAX = 60.0
"""Losses beyond are not looked at: nobody needs so large an epsilon to the last digit."""

_GRID = 1e-4
_POINTS_MAX = 2**21
_TAIL_SIGMAS = 8.8
"""P(N > 8.8) is 7e-19."""
_LOST_SHARE = 1e-6
"""Of delta, for what falls out of the transform's window."""
_RATES = np.concatenate([np.geomspace(1e-3, 1, 40), np.geomspace(1.1, 300, 40)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Losses:
    """One step's loss: ``masses[i]`` at ``(first + i) * grid``, and what may be infinite."""

    first: int
    masses: Floats
    infinite: float
    steps: int

    def cumulant(self, rate: float, grid: float) -> float:
        """Log E e^(rate loss), of all steps."""
        logs = rate * grid * (self.first + np.arange(len(self.masses)))
        top = float(logs[self.masses > 0].max())
        return self.steps * (top + math.log(float((self.masses * np.exp(np.minimum(0.0, logs - top))).sum())))


def composed_epsilon(steps: Sequence[SampledSteps], delta: float) -> float:
    """Upper bound of epsilon at ``delta`` after all of ``steps``; infinite where losses are beyond `LOSS_MAX`."""
    merged: dict[tuple[float, float], int] = {}
    for each in steps:
        key = (each.sampling_rate, each.noise)
        merged[key] = merged.get(key, 0) + each.steps
    reach = max(_reach(noise) for _, noise in merged)
    if reach > LOSS_MAX:
        return math.inf
    return max(_one_way(merged, delta, removed=removed) for removed in (True, False))


def _reach(noise: float) -> float:
    return (2 * _TAIL_SIGMAS * noise + 1) / (2 * noise**2)


def _one_way(merged: dict[tuple[float, float], int], delta: float, *, removed: bool) -> float:
    grid = _GRID
    while True:
        parts = [_losses(rate, noise, count, grid, removed) for (rate, noise), count in merged.items()]
        low, high = (_quantile(parts, grid, delta * _LOST_SHARE, sign) for sign in (-1, 1))
        points = 1 << max(8, math.ceil((high - low) / grid) + 1).bit_length()
        if high > LOSS_MAX:
            return math.inf
        if points <= _POINTS_MAX:
            return _epsilon(parts, grid, delta, (low, points))
        grid *= 2


def _losses(rate: float, noise: float, count: int, grid: float, removed: bool) -> _Losses:  # noqa: FBT001
    """The loss of one step on the grid; ``removed``: P has the row and Q has not, else the other way."""
    ends = [_loss(-_TAIL_SIGMAS * noise, rate, noise), _loss(1 + _TAIL_SIGMAS * noise, rate, noise)]
    if not removed:
        ends = [-ends[1], -ends[0]]
    first, last = math.floor(ends[0] / grid), math.ceil(ends[1] / grid)
    at: Floats = grid * np.arange(first, last + 1, dtype=np.float64)
    places = _place(at if removed else -at[::-1], rate, noise)
    without = _between(places / noise)
    with_row = rate * _between((places - 1) / noise) + (1 - rate) * without
    p, q = (with_row, without) if removed else (without[::-1], with_row[::-1])
    inner_p, inner_q = p[1:-1], q[1:-1]
    right = np.clip((inner_p - inner_q * np.exp(at[:-1])) / -math.expm1(-grid), 0.0, inner_p)
    masses = np.zeros(len(at))
    masses[:-1] += inner_p - right
    masses[1:] += right
    masses[0] += p[0]
    return _Losses(first=first, masses=masses, infinite=float(p[-1]), steps=count)


def _loss(x: float, rate: float, noise: float) -> float:
    """Log of the density with the row over that without it, at x; rises with x."""
    return float(np.logaddexp(_log(1 - rate), math.log(rate) + (2 * x - 1) / (2 * noise**2)))


def _place(loss: Floats, rate: float, noise: float) -> Floats:
    """Where the loss has these values; -inf where it is always above."""
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.expm1(loss) + rate
        return np.where(above > 0, noise**2 * np.log(np.maximum(above, 0) / rate) + 0.5, -np.inf)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _between(points: Floats) -> Floats:
    """Masses of a standard normal below, between and above the points: one more than there are points."""
    tails = np.array([0.5 * math.erfc(abs(point) / math.sqrt(2)) for point in points.tolist()])
    below = np.where(points < 0, tails, 1 - tails)
    above = np.where(points < 0, 1 - tails, tails)
    inner = np.where(points[:-1] >= 0, above[:-1] - above[1:], below[1:] - below[:-1])
    return np.concatenate([below[:1], np.maximum(0.0, inner), above[-1:]])


def _quantile(parts: Sequence[_Losses], grid: float, lost: float, sign: int) -> float:
    """A bound that the sum of all losses passes with a probability of at most ``lost`` (Chernoff); sign -1: below.

    Over the rates the bound first falls and then rises, for a cumulant is convex: the least one is halved for. Each
    rate gives a valid bound, so that rounding at the bottom does no harm.
    """

    @cache
    def bound(index: int) -> float:
        rate = float(_RATES[index])
        return (sum(part.cumulant(sign * rate, grid) for part in parts) - math.log(lost)) / rate

    first, last = 0, len(_RATES) - 1
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if bound(middle) <= bound(middle + 1) else (middle + 1, last)
    return sign * bound(first)


def _epsilon(parts: Sequence[_Losses], grid: float, delta: float, window: tuple[float, int]) -> float:
    """From the losses of single steps to the epsilon of all."""
    low, points = window
    product: NDArray[np.complex128] = np.ones(points // 2 + 1, dtype=np.complex128)
    finite = 1.0
    for part in parts:
        wrapped = np.zeros(points)
        np.add.at(wrapped, (part.first + np.arange(len(part.masses))) % points, part.masses)
        product *= np.fft.rfft(wrapped) ** part.steps
        finite *= (1 - part.infinite) ** part.steps
    start = math.floor(low / grid)
    masses = np.roll(np.maximum(0.0, np.fft.irfft(product, points)), -(start % points))
    losses: Floats = grid * (start + np.arange(points, dtype=np.float64))
    left = delta - (1 - finite) - 2 * _LOST_SHARE * delta
    positive = losses > 0
    return _cut(losses[positive], masses[positive], left)


def _cut(losses: Floats, masses: Floats, delta: float) -> float:
    """The epsilon at which sum over losses above it of mass (1 - e^(epsilon - loss)) is ``delta``."""
    backwards: Callable[[Floats], Floats] = lambda values: np.cumsum(values[::-1])[::-1]  # noqa: E731
    p, q = backwards(masses), backwards(masses * np.exp(-losses))
    fits = np.flatnonzero(p - np.exp(losses) * q <= delta)
    if not len(fits):
        return math.inf
    at = int(fits[0])
    return max(0.0, math.log((p[at] - delta) / q[at])) if p[at] > delta and q[at] > 0 else 0.0
