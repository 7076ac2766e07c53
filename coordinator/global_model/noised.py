"""A version with noise for whole nodes that a trusted coordinator adds: it alone sees updates without noise.

With u_i the decoded update of member i and s the step of a grid,

    q_i = round(u_i min(1, C / ||u_i||) / s),  ||q_i|| <= C / s,    mean = s / B (sum_i q_i + round(N(0, (z C / s)^2))),

so the sum is of whole numbers and has a sensitivity of exactly C / s, whatever a node has sent: each one is clipped
here, rounded, and shortened until its integers are no longer than that. All count alike, and B is the round's buffer, a
constant, however many there were. Adding to an integer what was rounded is rounding the sum: a Gaussian mechanism with
mu = 1 / z for each node (federation/privacy/releases.py). Statistics and counters would be told without noise: there
are none of the former, and the latter stay the model's.

The noise follows from a secret that is drawn anew for each version and kept with it, in one transaction, before
anybody hears of it: so it is drawn once, and the audit can make the version again. A version that was undone is another
release, with other noise, and charged again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.global_model.aggregation import Combined, Reading, Unusable, reason_of
from coordinator.records import Member
from coordinator.strategies.strategy import Weights
from federation.privacy.noise import KEY_BYTES, noise_key, rounded_gaussian
from federation.privacy.terms import rounded, shortened
from federation.types import UpdateId
from update_codec import CodecError, Vectors, decode

__all__ = ["SECRET_BYTES", "CoordinatorNoise", "NoisedCombine", "secret_of", "secret_state"]

SECRET_BYTES = KEY_BYTES
_STATE = "privacy.noise"
"""In a model's state: of which its noise was made."""
_FINEST = 2.0**-14
_SIGMA = 2.0**15
"""Steps: an update has up to 2^14 of them, and the noise a deviation of 2^15 at most (ADR 0040)."""

State = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorNoise:
    """What a trusted coordinator adds.

    Attributes:
        noise: Standard deviation z of the noise on a sum, in units of ``clip``.
        clip: L2 norm that updates are scaled down to here.
        members: What sums are divided by: most updates of a version.
    """

    noise: float
    clip: float
    members: int

    @property
    def step(self) -> float:
        """What a whole number of the sum is worth."""
        return self.clip * max(_FINEST, self.noise / _SIGMA)


def secret_state(secret: bytes) -> dict[str, NDArray[np.uint8]]:
    """What a version's state has of its noise."""
    return {_STATE: np.frombuffer(secret, np.uint8)}


def secret_of(state: State) -> bytes | None:
    """Of which a version's noise was made; None where it has none."""
    found = state.get(_STATE)
    return None if found is None else bytes(found.tobytes())


class NoisedCombine:
    """A `Combine` for one version.

    Args:
        noise: What is added.
        secret: Of which it is made, 32 bytes: never for two versions.
        counters: The model's, int64: those of nodes are not looked at.
    """

    def __init__(self, noise: CoordinatorNoise, secret: bytes, counters: NDArray[np.int64]) -> None:
        self._noise, self._secret, self._counters = noise, secret, counters

    def __call__(
        self,
        members: Sequence[Member],
        payload: Callable[[UpdateId], bytes],
        weights: Weights,
        how: Reading,
    ) -> Combined | Unusable:
        """The noised mean; no norm of an update leaves."""
        del weights  # all are 1
        noise, entries = self._noise, how.manifest.parameter_count
        total = np.zeros(entries, np.int64)
        for member in members:
            frame = payload(member.update)
            try:
                how.examine(frame)
                update = decode(frame, how.manifest, context=how.contexts).parameters
            except CodecError as error:
                return Unusable(culprits=(member.update,), reason=reason_of(error), detail=str(error))
            total += clipped(update, noise.clip, noise.step)
        key = noise_key(self._secret, "sum of a version")
        total += rounded_gaussian(key, entries, noise.noise * noise.clip / noise.step)
        parameters = (total * (noise.step / noise.members)).astype(np.float32)
        return Vectors(parameters, np.zeros(how.manifest.statistic_count, np.float32), self._counters), {}


def clipped(update: NDArray[np.float32], clip: float, step: float) -> NDArray[np.int32]:
    """An update in whole steps, of which the L2 norm is at most ``clip``: int32, shape (D,).

    Args:
        update: Float32, shape (D,), finite.
        clip: Most of its L2 norm.
        step: What a whole number is worth.
    """
    norm = math.sqrt(float(np.square(update, dtype=np.float64).sum()))
    wanted = update if norm <= clip else update * np.float32(clip / norm)
    grid = (step, math.ceil(clip / step))
    return shortened(wanted, rounded(wanted, grid), grid, clip / step)
