"""Epsilon against published numbers, against itself by other ways, and against dp-accounting where it is installed."""

import math
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from federation.privacy.accountant import (
    NoisePlan,
    gaussian_delta,
    gaussian_epsilon,
    noise_for,
    renyi_epsilon,
    sampled_epsilon,
)
from federation.privacy.loss_distribution import composed_epsilon
from federation.types import SampledSteps

DELTA = 1e-5


def sampled(rate: float, noise: float, steps: int) -> SampledSteps:
    return SampledSteps(sampling_rate=rate, noise=noise, steps=steps)


@pytest.mark.parametrize(
    ("noise", "releases", "epsilon"),
    [(1, 1, 4.37718), (2, 1, 1.99309), (4, 10, 3.34141), (8, 50, 3.79654), (4, 100, 13.20671), (1, 100, 91.81729)],
)
def test_the_gaussian_mechanisms_epsilon_is_exact(noise: float, releases: int, epsilon: float) -> None:
    assert gaussian_epsilon(math.sqrt(releases) / noise, DELTA) == pytest.approx(epsilon, abs=1e-5)
    assert sampled_epsilon([sampled(1.0, noise, releases)], DELTA) == pytest.approx(epsilon, abs=1e-5)


@pytest.mark.parametrize(
    ("noise", "releases", "epsilon"), [(1, 1, 4.72851), (2, 1, 2.16572), (4, 10, 3.61710), (8, 50, 4.10566)]
)
def test_renyi_divergences_bound_the_gaussian_mechanism(noise: float, releases: int, epsilon: float) -> None:
    assert renyi_epsilon([sampled(1.0, noise, releases)], DELTA) == pytest.approx(epsilon, rel=1e-3)


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "renyi", "distribution"),
    [
        (0.04, 1.5, 2250, 7.32933, 6.76878),
        (0.004, 1.3, 3750, 0.92205, 0.83354),
        (0.2, 3, 100, 3.25398, 2.97696),
    ],
)
def test_poisson_sampling_costs_what_is_published(
    rate: float, noise: float, steps: int, renyi: float, distribution: float
) -> None:
    plan = [sampled(rate, noise, steps)]
    assert renyi_epsilon(plan, DELTA) == pytest.approx(renyi, rel=1e-3)
    assert sampled_epsilon(plan, DELTA) == pytest.approx(distribution, rel=1e-3)


@pytest.mark.parametrize(("noise", "releases"), [(1.0, 1), (4.0, 10), (8.0, 50), (4.0, 100)])
def test_the_loss_distribution_is_just_above_the_exact_epsilon(noise: float, releases: int) -> None:
    exact = gaussian_epsilon(math.sqrt(releases) / noise, DELTA)
    assert exact <= composed_epsilon([sampled(1.0, noise, releases)], DELTA) <= exact * (1 + 1e-5)


def exact_delta_of_one_step(rate: float, noise: float, epsilon: float) -> float:
    """By integration on a fine grid, the larger of both ways."""
    x = np.linspace(-14 * noise, 1 + 14 * noise, 800_001)
    without = np.exp(-(x**2) / (2 * noise**2))
    mixed = (1 - rate) * without + rate * np.exp(-((x - 1) ** 2) / (2 * noise**2))
    scale = (x[1] - x[0]) / (noise * math.sqrt(2 * math.pi))
    both = [
        float(np.maximum(0, one - math.exp(epsilon) * other).sum() * scale)
        for one, other in ((mixed, without), (without, mixed))
    ]
    return max(both)


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 0.6), (0.1, 1.0), (0.5, 2.0), (0.9, 0.8)])
def test_one_sampled_step_is_never_below_its_integral_and_close_to_it(rate: float, noise: float) -> None:
    epsilon = sampled_epsilon([sampled(rate, noise, 1)], 1e-4)
    assert exact_delta_of_one_step(rate, noise, epsilon) <= 1e-4 * (1 + 1e-5)
    assert exact_delta_of_one_step(rate, noise, epsilon - 1e-3) > 1e-4


def test_steps_of_different_kinds_add_up_in_any_order() -> None:
    parts = [sampled(0.02, 1.0, 100), sampled(0.1, 2.0, 30), sampled(1.0, 20.0, 3)]
    together = sampled_epsilon(parts, DELTA)
    assert together == pytest.approx(sampled_epsilon(parts[::-1], DELTA), rel=1e-9)
    assert together > max(sampled_epsilon([each], DELTA) for each in parts)
    split = [sampled(0.02, 1.0, 40), *parts[1:], sampled(0.02, 1.0, 60)]
    assert sampled_epsilon(split, DELTA) == pytest.approx(together, rel=1e-9)


def test_nothing_taken_costs_nothing_and_no_noise_costs_all() -> None:
    assert sampled_epsilon([], DELTA) == 0.0
    assert sampled_epsilon([sampled(0.1, 1.0, 0)], DELTA) == 0.0
    assert sampled_epsilon([sampled(0.1, 0.0, 1)], DELTA) == math.inf
    assert renyi_epsilon([sampled(0.1, 0.0, 1)], DELTA) == math.inf
    assert gaussian_epsilon(0.0, DELTA) == 0.0
    assert gaussian_epsilon(math.inf, DELTA) == math.inf


@pytest.mark.parametrize("mu", [1e-12, 1e-8, 1e-4, 9e-4, 1.1e-3, 0.1, 5.0])
def test_delta_at_epsilon_0_is_the_distance_of_the_two(mu: float) -> None:
    assert gaussian_delta(mu, 0.0) == pytest.approx(math.erf(mu / math.sqrt(8)), rel=1e-9)


def test_epsilon_is_stable_at_both_ends() -> None:
    assert gaussian_epsilon(2e-5, DELTA) == 0.0
    below, above = gaussian_epsilon(9.999999e-4, 1e-7), gaussian_epsilon(1.0000001e-3, 1e-7)
    assert 0 < below <= above == pytest.approx(below, rel=1e-5)
    for mu in (100.0, 1e3, 1e4):  # e to this is no float any more
        epsilon = gaussian_epsilon(mu, DELTA)
        assert epsilon == pytest.approx(mu * mu / 2 + 4.2649 * mu, rel=1e-3)
    assert gaussian_delta(40.0, 2000.0) < 1e-100


@given(mu=st.floats(1e-6, 50), delta=st.floats(1e-9, 1e-2), factor=st.floats(1.0, 3.0))
def test_more_is_never_cheaper(mu: float, delta: float, factor: float) -> None:
    assert gaussian_epsilon(mu * factor, delta) >= gaussian_epsilon(mu, delta) * (1 - 1e-9)
    assert gaussian_epsilon(mu, min(0.5, delta * factor)) <= gaussian_epsilon(mu, delta) * (1 + 1e-9)


@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(rate=st.floats(0.001, 1.0), noise=st.floats(0.5, 20.0), steps=st.integers(1, 2000))
def test_sampling_never_costs_more_than_no_sampling(rate: float, noise: float, steps: int) -> None:
    epsilon = sampled_epsilon([sampled(rate, noise, steps)], DELTA)
    assert 0 <= epsilon <= gaussian_epsilon(math.sqrt(steps) / noise, DELTA) * (1 + 1e-4)


def test_noise_for_a_budget_keeps_it_and_wastes_little() -> None:
    plan = NoisePlan(sampling_rate=0.1, steps=200)
    noise = noise_for(3.0, DELTA, plan)
    assert noise == pytest.approx(2.178, abs=2e-3)
    assert sampled_epsilon([sampled(0.1, noise, 200)], DELTA) <= 3.0
    assert sampled_epsilon([sampled(0.1, noise - 5e-4, 200)], DELTA) > 3.0


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="delta"):
            gaussian_epsilon(1.0, wrong)
    with pytest.raises(ValueError, match="delta"):
        sampled_epsilon([], 1e-12)
    with pytest.raises(ValueError, match="epsilon"):
        noise_for(0.0, DELTA, NoisePlan(sampling_rate=0.1, steps=1))
    with pytest.raises(ValueError, match="no noise"):
        noise_for(1e-9, 1e-9, NoisePlan(sampling_rate=1.0, steps=10**9))


@pytest.mark.frameworks
@pytest.mark.skipif(find_spec("dp_accounting") is None, reason="needs dp-accounting: pip install dp-accounting")
@pytest.mark.parametrize(
    ("rate", "noise", "steps"), [(0.02, 1.557, 300), (0.02, 0.611, 300), (0.1, 5.428, 200), (0.3, 2.0, 17)]
)
def test_dp_accounting_finds_the_same(rate: float, noise: float, steps: int) -> None:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant: Any = PLDAccountant(value_discretization_interval=1e-4)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise)), steps)
    assert sampled_epsilon([sampled(rate, noise, steps)], DELTA) == pytest.approx(
        accountant.get_epsilon(DELTA), rel=1e-3
    )
