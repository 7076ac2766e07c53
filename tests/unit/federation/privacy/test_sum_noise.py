"""Noise on sums: correlated noise is what its matrix says, and costs what that costs; the clip finds the median."""

import itertools
import math

import numpy as np
import pytest

from federation.privacy.sum_noise import AdaptiveClip, SumNoise, banded_inverse_root, correlated_mu
from federation.privacy.taking import Participation

SECRET = b"s" * 32


def banded(bandwidth: int, releases: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    matrix = np.zeros((releases, releases))
    for back, value in enumerate(banded_inverse_root(bandwidth)[:releases].tolist()):
        matrix += np.diag(np.full(releases - back, value), -back)
    return matrix


def test_the_root_times_itself_is_1_minus_x() -> None:
    root = banded_inverse_root(6)
    assert np.convolve(root, root)[:6] == pytest.approx([1, -1, 0, 0, 0, 0], abs=1e-12)


@pytest.mark.parametrize(
    ("bandwidth", "separation", "participations"), list(itertools.product((2, 4, 8), (2, 3, 4), (3, 5)))
)
def test_mu_is_that_of_the_worst_pattern(bandwidth: int, separation: int, participations: int) -> None:
    releases = 12
    inverse = np.linalg.inv(banded(bandwidth, releases))
    rule = Participation(releases=releases, separation=separation, participations=participations)
    worst = 0.0
    for chosen in range(1, participations + 1):
        for pattern in itertools.combinations(range(releases), chosen):
            if all(rule.allows(pattern[:place], release) for place, release in enumerate(pattern)):
                worst = max(worst, float(np.linalg.norm(inverse[:, list(pattern)].sum(1))))
    assert correlated_mu(bandwidth, 4.0, rule) == pytest.approx(worst / 4, rel=1e-9)


def test_bandwidth_1_is_independent_noise() -> None:
    rule = Participation(releases=100, separation=10, participations=10)
    assert correlated_mu(1, 4.0, rule) == pytest.approx(math.sqrt(10) / 4)


@pytest.mark.parametrize(
    ("rule", "bandwidth", "ratio"),
    [((100, 10, 10), 8, 0.45), ((100, 10, 10), 4, 0.46), ((50, 10, 5), 4, 0.50), ((1000, 100, 10), 32, 0.19)],
)
def test_the_model_has_less_noise_at_the_same_epsilon(rule: tuple[int, int, int], bandwidth: int, ratio: float) -> None:
    releases, separation, participations = rule
    held = Participation(releases=releases, separation=separation, participations=participations)
    prefix_sums = np.cumsum(banded(bandwidth, releases), axis=0)
    correlated = float(np.linalg.norm(prefix_sums)) * correlated_mu(bandwidth, 1.0, held)
    independent = math.sqrt(releases * (releases + 1) / 2) * correlated_mu(1, 1.0, held)
    assert correlated / independent == pytest.approx(ratio, abs=0.006)


def test_a_node_is_refused_too_soon_and_too_often() -> None:
    rule = Participation(releases=20, separation=5, participations=2)
    assert rule.allows((), 0)
    assert not rule.allows((3,), 7)
    assert rule.allows((3,), 8)
    assert not rule.allows((3, 8), 15)
    assert not rule.allows((), 20)


@pytest.mark.parametrize("bandwidth", [1, 4])
def test_the_same_release_has_the_same_noise(bandwidth: int) -> None:
    made = SumNoise(secret=SECRET, sigma=50.0, bandwidth=bandwidth)
    again = SumNoise(secret=SECRET, sigma=50.0, bandwidth=bandwidth)
    assert np.array_equal(made.of("run", 7, "batch", 1000), again.of("run", 7, "batch", 1000))
    for run, release in (("run", 8), ("other", 7)):
        assert not np.array_equal(made.of("run", 7, "batch", 1000), made.of(run, release, "batch", 1000))


def test_independent_noise_is_another_for_another_batch() -> None:
    made = SumNoise(secret=SECRET, sigma=50.0)
    assert not np.array_equal(made.of("run", 7, "one", 1000), made.of("run", 7, "two", 1000))


def test_correlated_noise_has_the_matrixs_covariance() -> None:
    made, entries = SumNoise(secret=SECRET, sigma=1000.0, bandwidth=3), 200_000
    drawn = np.stack([made.of("run", release, "b", entries) for release in range(5)]) / 1000.0
    assert drawn @ drawn.T / entries == pytest.approx(banded(3, 5) @ banded(3, 5).T, abs=0.015)


@pytest.mark.parametrize("first", [0.1, 10.0])
def test_the_clip_finds_the_median_within_60_versions(first: float) -> None:
    members, clip = 32, first
    rule = AdaptiveClip(noise=1.0, bit_noise=members / 20)
    random = np.random.default_rng(3)
    for _ in range(60):
        within = float((np.exp(random.normal(0, 0.3, members)) <= clip).sum()) + random.normal(0, rule.bit_noise)
        clip = rule.after(clip, within, members)
    assert clip == pytest.approx(1.0, rel=0.1)


def test_a_clip_that_all_are_within_falls_and_one_that_none_is_within_rises() -> None:
    rule = AdaptiveClip(noise=1.0, bit_noise=1.0)
    assert rule.after(2.0, 32, 32) == pytest.approx(2.0 * math.exp(-0.1))
    assert rule.after(2.0, 0, 32) == pytest.approx(2.0 * math.exp(0.1))
    assert rule.after(2.0, 900.0, 32) == rule.after(2.0, 32, 32)


def test_a_bit_that_is_too_clear_is_refused() -> None:
    with pytest.raises(ValueError, match="bit_noise must be above half of noise"):
        AdaptiveClip(noise=4.0, bit_noise=32 / 20)
    made = AdaptiveClip(noise=1.0, bit_noise=1.6)
    assert made.update_noise**-2 + (2 * made.bit_noise) ** -2 == pytest.approx(1.0)
    for wrong in ({"target": 1.0}, {"rate": 0.0}):
        with pytest.raises(ValueError, match="target"):
            AdaptiveClip(noise=1.0, bit_noise=1.6, **wrong)
