"""Gaussian noise that can be proven: ChaCha20 under a secret, and distributions whose error is known.

`rounded_gaussian` draws round(N(0, sigma^2)). Added to integers of sensitivity S it is a Gaussian mechanism that was
rounded afterwards: its accounting is exact (the discrete Gaussian's is not). It inverts the survival function
P(|X| >= k) = erfc((k - 1/2) / (sigma sqrt 2)), which float64 has to a relative 2^-52 also far out. `gaussians` draws
N(0, 1) by the polar method for whoever combines draws before rounding. ADR 0040 bounds what the floats' errors cost.

One key gives one noise, for ever: whoever asks twice for the same batch must get the same bytes, since the mean of
fresh noises tells what they hide. `noise_key` makes that key of a secret and of what the noise is for.
"""

import math
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

__all__ = ["KEY_BYTES", "NOISE_SIGMA_MAX", "gaussians", "keystream", "noise_key", "rounded_gaussian", "uniforms"]

KEY_BYTES = 32

NOISE_SIGMA_MAX = 100_000.0
"""Largest sigma of a table: 1.3 million entries, 11 MB."""

_BLOCK_BYTES = 1 << 16
"""Of the keystream at a time: what is made of it stays in a core's cache."""

_TAIL_SIGMAS = 13.2
"""P(|N| > 13.2) is 9e-40, below the least uniform number 2^-128."""
_WORD_BITS = 63
_FINE_BELOW = 1 << 33
"""Words below, numbers below 2^-30, get a second word: 63 bits alone would be too coarse for a relative 2^-33."""


def noise_key(secret: bytes, *names: str) -> bytes:
    """HMAC-SHA256 of ``names`` under ``secret``: a key for one noise.

    Raises:
        ValueError: The secret is shorter than a key, or a name has a zero byte, which separates them.
    """
    if len(secret) < KEY_BYTES or any("\0" in name for name in names):
        raise ValueError(f"needs a secret of at least {KEY_BYTES} bytes and names without zero bytes")
    mac = hmac.HMAC(secret, hashes.SHA256())
    mac.update("\0".join(("fedmq/noise/1", *names)).encode())
    return mac.finalize()


def keystream(key: bytes, size: int) -> bytes:
    """The first ``size`` bytes of ChaCha20 (RFC 8439, nonce and counter 0) under a key that has no other use."""
    return Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(size))


def uniforms(key: bytes, count: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Numbers between 0 and 1, none of them 0, to a relative 2^-33 or better wherever they lie; and as many coins."""
    words = np.frombuffer(keystream(key, 8 * count), dtype="<u8")
    high = words >> np.uint64(1)
    numbers = (high.astype(np.float64) + 0.5) * 2.0**-_WORD_BITS
    fine = np.flatnonzero(high < _FINE_BELOW)
    if len(fine):
        more = np.frombuffer(keystream(noise_key(key, "second words"), 8 * len(fine)), dtype="<u8")
        for at, low in zip(fine.tolist(), more.tolist(), strict=True):
            numbers[at] = math.ldexp((int(high[at]) << 64) + low + 0.5, -_WORD_BITS - 64)
    return numbers, (words & np.uint64(1)).astype(np.bool_)


def rounded_gaussian(key: bytes, count: int, sigma: float) -> NDArray[np.int64]:
    """``count`` draws of round(N(0, sigma^2)), int64; the same key gives the same draws on every machine.

    Raises:
        ValueError: ``sigma`` is negative, not finite or above `NOISE_SIGMA_MAX`.
    """
    if not 0 <= sigma <= NOISE_SIGMA_MAX:
        raise ValueError(f"sigma must be between 0 and {NOISE_SIGMA_MAX:.0f}, not {sigma}")
    if sigma == 0:
        return np.zeros(count, dtype=np.int64)
    numbers, negative = uniforms(key, count)
    rising = _survival(sigma)
    sizes = len(rising) - np.searchsorted(rising, numbers, side="left")
    return np.where(negative, -sizes, sizes).astype(np.int64)


def gaussians(key: bytes, count: int) -> NDArray[np.float64]:
    """``count`` draws of N(0, 1), float64 (the polar method); the last digits are those of the machine's libm.

    A point in the unit disc has the radius and direction of two normal draws. It is drawn to 2^-62, so its squared
    radius, which the tails come from, is right to a relative 2^-30 down to 2^-60.
    """
    pairs, have, turn = (count + 1) // 2, 0, 0
    drawn = np.empty((2, pairs))
    while have < pairs:
        missing = pairs - have
        points = round(1.274 * missing + 6 * math.sqrt(missing)) + 16  # of which pi / 4 are in the disc
        stream = memoryview(keystream(noise_key(key, "disc", str(turn)), 16 * points))
        for start in range(0, len(stream), _BLOCK_BYTES):
            have += _polar(stream[start : start + _BLOCK_BYTES], drawn[:, have:])
        turn += 1
    return drawn.reshape(-1)[:count]


def _polar(stream: memoryview, out: NDArray[np.float64]) -> int:
    """Put the draws of a block's points into ``out`` (2, n), as many as there is room for; says how many."""
    places = np.frombuffer(stream, dtype="<i8").reshape(-1, 2).T.astype(np.float64)
    places *= 2.0**-63
    square = places[0] * places[0]
    square += places[1] * places[1]
    inside = np.flatnonzero(square < 1)[: out.shape[1]]
    if not square.all():  # the middle has no direction
        inside = inside[square[inside] > 0]
    square = square[inside]
    length = np.log(square)
    length *= -2
    length /= square
    np.sqrt(length, out=length)
    for axis in (0, 1):
        np.multiply(places[axis, inside], length, out=out[axis, : len(inside)])
    return len(inside)


@lru_cache(maxsize=4)
def _survival(sigma: float) -> NDArray[np.float64]:
    """P(|X| >= k) for X = round(N(0, sigma^2)), from the largest k down to 1: rising."""
    scale = sigma * math.sqrt(2)
    last = math.ceil(_TAIL_SIGMAS * sigma) + 1
    table = np.array([math.erfc((k - 0.5) / scale) for k in range(last, 0, -1)])
    table.flags.writeable = False
    return table
