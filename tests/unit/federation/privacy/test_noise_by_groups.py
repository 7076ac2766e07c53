"""The figures of ADR 87: what noise costs where it is added group by group, and what clipped bad nodes can do."""

import math

import numpy as np
import pytest

from federation.privacy.noise import gaussians, noise_key
from federation.privacy.releases import mu_within

SECRET = bytes(32)


def drawn(name: str, *shape: int) -> np.ndarray:
    return gaussians(noise_key(SECRET, name), math.prod(shape)).reshape(shape)


def spread(values: np.ndarray) -> float:
    return float(values.std())


@pytest.mark.parametrize(("groups", "times"), [(5, 2.8), (9, 3.8), (15, 4.9)])
def test_a_median_of_noised_means_has_so_much_more_noise(groups: int, times: float) -> None:
    """Each group has a g-th of the members, so its mean has g times the noise of a mean over all."""
    means = groups * drawn(f"{groups} groups", groups, 200_000)
    found = spread(np.median(means, axis=0))
    assert math.sqrt(math.pi * groups / 2) == pytest.approx(times, abs=0.06)
    # For few groups a median is a little better than for many: 4 % at five.
    assert 0.93 * times < found < 1.02 * times


@pytest.mark.parametrize("groups", [3, 5, 8])
def test_a_median_moves_by_no_more_than_the_one_mean_that_moved(groups: int) -> None:
    """So noise after it would have the sensitivity of one group's mean."""
    before = drawn("before", groups, 5_000)
    moved = before.copy()
    moved[groups // 2] += 3.0 * drawn("moves", 5_000)
    change = np.abs(np.median(moved, axis=0) - np.median(before, axis=0))
    assert (change <= np.abs(moved - before).max(axis=0) + 1e-12).all()
    assert np.linalg.norm(change) <= np.linalg.norm(moved - before)


@pytest.mark.parametrize(("parameters", "least"), [(14, 1.0), (10_000, 27.0), (100_000, 85.0)])
def test_groups_add_more_noise_than_clipped_bad_nodes_can_do_harm(parameters: int, least: float) -> None:
    """Five groups, two bad nodes, one helper, epsilon 8: the ratio holds for every number of versions and members."""
    groups, bad, versions, members, clip = 5, 2, 400, 300, 0.7
    mu = mu_within(8.0, 1e-5)
    noise = math.sqrt(versions) / mu
    deviation = noise * clip / members
    added = math.sqrt(versions * parameters) * deviation * (math.sqrt(math.pi * groups / 2) - 1)
    harm = versions * 2 * bad * clip / members
    assert added / harm == pytest.approx(math.sqrt(parameters) * (math.sqrt(math.pi * groups / 2) - 1) / (2 * bad * mu))
    assert added / harm >= least
    assert added / harm < 1.1 * least
