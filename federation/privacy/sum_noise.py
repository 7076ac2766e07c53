"""Noise on a sum of clipped updates: independent, or correlated from release to release; and the clip that adapts.

**Correlated.** What people use is the model, the sum of all releases, not one release. With bandwidth p the noise of
release t is sum_{i<p} r_i z_{t-i}, r the first coefficients of (1 - x)^(1/2) and z_t ~ N(0, sigma^2) anew for each t:
each release takes back some of the noise before it: the banded inverse square root (arXiv 2306.08153, 2408.08868).
With C the inverse of that banded matrix, the whole run is a Gaussian mechanism with

    mu = ||sum_{j<k} C[:, j b]|| / z,     z = sigma / B

if a node of sensitivity B is in at most k releases that are at least b apart: columns 0, b, 2b, ... are the worst, as C
is positive and falls. Whoever freezes a batch must hold b and k. No state is kept: z_t comes from HMAC(secret, t).

**Adaptive clip** (arXiv 1905.03871): C <- C exp(-rate (share - target)), ``share`` being the noisy share of nodes whose
norm was at most C. The clip bits are noised by sigma_b; so that both together cost what noise z costs, the updates'
noise is z_D = (z^-2 - (2 sigma_b)^-2)^(-1/2), which is real only for sigma_b > z / 2.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.privacy.noise import gaussians, noise_key, rounded_gaussian
from federation.privacy.taking import Participation

__all__ = ["AdaptiveClip", "SumNoise", "adapted_clip", "banded_inverse_root", "correlated_mu"]


def banded_inverse_root(bandwidth: int) -> NDArray[np.float64]:
    """The first ``bandwidth`` coefficients of (1 - x)^(1/2): 1, -1/2, -1/8, ..."""
    found = [1.0]
    for place in range(1, bandwidth):
        found.append(found[-1] * (place - 1.5) / place)
    return np.array(found)


def correlated_mu(bandwidth: int, noise: float, participation: Participation) -> float:
    """Mu of all releases together, for one node; bandwidth 1 is independent noise.

    Args:
        bandwidth: Number of coefficients p.
        noise: z, standard deviation of each z_t in units of the sensitivity of one release.
        participation: What is held for every node.
    """
    root = banded_inverse_root(bandwidth)
    column = np.zeros(participation.releases)
    column[0] = 1.0
    for row in range(1, participation.releases):
        reach = min(row, bandwidth - 1)
        column[row] = -float(root[1 : reach + 1] @ column[row - reach : row][::-1])
    total = np.zeros(participation.releases)
    for turn in range(participation.participations):
        start = turn * participation.separation
        if start >= participation.releases:
            break
        total[start:] += column[: participation.releases - start]
    return float(np.linalg.norm(total)) / noise


@dataclass(frozen=True, slots=True, kw_only=True)
class SumNoise:
    """Makes the noise of each release: the same again for the same release, of the same length.

    A release's number belongs to one batch for ever. Whoever asks keeps, on disk and before the noise is used, which
    batch a number was given to: two batches under one number would have the same noise, and their difference none.

    Attributes:
        secret: At least 32 bytes, known to nobody who sees a release.
        sigma: Standard deviation, in integer steps.
        bandwidth: 1 is independent noise.
    """

    secret: bytes
    sigma: float
    bandwidth: int = 1

    def of(self, run: str, release: int, batch: str, entries: int) -> NDArray[np.int64]:
        """The noise of one release, int64 of shape (entries,).

        Args:
            run: The run.
            release: Its number, from 0; correlated noise is a function of it.
            batch: Names the set of updates: independent noise is a function of it.
            entries: Length of the sum.
        """
        if self.bandwidth == 1:
            return rounded_gaussian(noise_key(self.secret, run, str(release), batch), entries, self.sigma)
        total = np.zeros(entries)
        for back, weight in enumerate(banded_inverse_root(self.bandwidth)[: release + 1].tolist()):
            total += weight * gaussians(noise_key(self.secret, run, str(release - back)), entries)
        return np.rint(self.sigma * total).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveClip:
    """The rule by which the clip follows the ``target`` quantile of the updates' norms.

    Attributes:
        noise: z, what update and clip bit cost together.
        bit_noise: sigma_b, noise on the number of nodes within the clip.
        target: Which quantile.
        rate: How fast, in e-folds per version.
    """

    noise: float
    bit_noise: float
    target: float = 0.5
    rate: float = 0.2

    def __post_init__(self) -> None:
        if not self.bit_noise > self.noise / 2:
            raise ValueError(
                f"bit_noise must be above half of noise ({self.noise / 2:g}), not {self.bit_noise:g}: "
                "no noise on the updates would pay for so clear a bit"
            )
        if not (0 < self.target < 1 and self.rate > 0):
            raise ValueError(f"needs a target between 0 and 1 and a rate above 0, not {self.target} and {self.rate}")

    @property
    def update_noise(self) -> float:
        """z_D, the noise that is left for the updates: above z."""
        return 1 / math.sqrt(self.noise**-2 - (2 * self.bit_noise) ** -2)

    def after(self, clip: float, noisy_within: float, members: int) -> float:
        """The next clip, of this one and of the noisy number of ``members`` whose norm was at most this clip."""
        return adapted_clip(clip, noisy_within / members, target=self.target, rate=self.rate)


def adapted_clip(clip: float, share: float, *, target: float, rate: float) -> float:
    """The next clip, of this one and the noisy ``share`` of updates that were no longer: down where it is too large."""
    return clip * math.exp(-rate * (min(1.0, max(0.0, share)) - target))
