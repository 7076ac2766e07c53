"""The noise has the distribution that it says; the same key makes it again, and no other does."""

import math
import os
from collections.abc import Callable

import numpy as np
import pytest

from federation.privacy import noise
from federation.privacy.noise import gaussians, keystream, noise_key, rounded_gaussian, uniforms

KEY = bytes(range(32))


def upper_tail(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2))


def share(k: int, sigma: float) -> float:
    """P(round(N(0, sigma^2)) = k)."""
    return upper_tail((abs(k) - 0.5) / sigma) - upper_tail((abs(k) + 0.5) / sigma)


def chi_square_p(statistic: float, freedom: int) -> float:
    """By the cube root's normal approximation (Wilson and Hilferty), good to a few percent out to 1e-6."""
    cube, spread = (statistic / freedom) ** (1 / 3), 2 / (9 * freedom)
    return upper_tail((cube - (1 - spread)) / math.sqrt(spread))


def fit(drawn: np.ndarray[tuple[int], np.dtype[np.int64]], sigma: float) -> float:
    """P of a chi-square over cells of at least 20 expected draws, both tails in one cell each."""
    width, last = max(1, round(sigma / 12)), round(3.5 * sigma)
    edges = np.arange(-last, last + 2, width)
    counts = np.histogram(np.clip(drawn, edges[0] - 1, edges[-1]), np.concatenate([[-(10**9)], edges, [10**9]]))[0]
    inner = [sum(share(k, sigma) for k in range(low, low + width)) for low in edges[:-1].tolist()]
    tails = [upper_tail((abs(int(edge)) + add) / sigma) for edge, add in ((edges[0], 0.5), (edges[-1], -0.5))]
    expected = len(drawn) * np.array([tails[0], *inner, tails[1]])
    assert expected.min() > 20
    return chi_square_p(float(((counts - expected) ** 2 / expected).sum()), len(expected) - 1)


@pytest.mark.parametrize("sigma", [2.0, 20.0, 2500.0])
def test_rounded_gaussians_fit_their_distribution(sigma: float) -> None:
    drawn = rounded_gaussian(KEY, 1_000_000, sigma)
    assert drawn.dtype == np.int64
    assert drawn.var() == pytest.approx(sigma**2 + 1 / 12, rel=0.01)
    assert fit(drawn, sigma) > 1e-6


def test_the_fit_would_notice_noise_that_is_a_little_too_small() -> None:
    assert fit(rounded_gaussian(KEY, 1_000_000, 19.5), 20.0) < 1e-6


def test_gaussians_are_standard_normal() -> None:
    drawn = gaussians(KEY, 1_000_001)
    assert len(drawn) == 1_000_001
    assert abs(drawn.mean()) < 5e-3
    assert drawn.var() == pytest.approx(1.0, rel=0.01)
    assert fit(np.rint(20 * drawn).astype(np.int64), 20.0) > 1e-6
    half = len(drawn) // 2
    assert abs(np.corrcoef(drawn[:half], drawn[half : 2 * half])[0, 1]) < 5e-3


def test_the_same_key_gives_the_same_noise_and_no_other_does() -> None:
    other = os.urandom(32)
    assert np.array_equal(rounded_gaussian(KEY, 1000, 20.0), rounded_gaussian(KEY, 1000, 20.0))
    assert not np.array_equal(rounded_gaussian(KEY, 1000, 20.0), rounded_gaussian(other, 1000, 20.0))
    assert np.array_equal(gaussians(KEY, 1000), gaussians(KEY, 1000))
    assert not np.array_equal(gaussians(KEY, 1000), gaussians(other, 1000))


def test_noise_is_the_same_on_every_machine() -> None:
    assert rounded_gaussian(KEY, 8, 20.0).tolist() == [-16, -21, 5, 11, -9, -17, -27, 40]
    assert noise_key(KEY, "run", "batch").hex() == "a64917c60d8c388396fc77916326bbfd4007682c4ffb6c01b77a90fc86415509"


def test_a_key_belongs_to_all_names_and_their_borders() -> None:
    keys = {
        noise_key(KEY, "a", "b"),
        noise_key(KEY, "ab"),
        noise_key(KEY, "b", "a"),
        noise_key(os.urandom(32), "a", "b"),
    }
    assert len(keys) == 4
    with pytest.raises(ValueError, match="secret"):
        noise_key(b"short", "a")
    with pytest.raises(ValueError, match="zero"):
        noise_key(KEY, "a\0b")


def words(*values: int) -> Callable[[bytes, int], bytes]:
    """A keystream that says these words first, and then, for second words, 2^63."""

    def stream(key: bytes, size: int) -> bytes:
        said = values if key == KEY else (1 << 63,) * (size // 8)
        return b"".join(value.to_bytes(8, "little") for value in said)

    return stream


def test_words_below_2_to_the_minus_30_get_a_second_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "keystream", words(0, 1, 3 << 1, (1 << 34), (1 << 64) - 1))
    numbers, coins = uniforms(KEY, 5)
    assert numbers[0] == numbers[1] == pytest.approx(0.5 * 2.0**-63, rel=1e-12)
    assert numbers[2] == pytest.approx(3.5 * 2.0**-63, rel=1e-12)
    assert numbers[3] == pytest.approx(2.0**-30, rel=1e-9)
    assert numbers[4] == 1.0
    assert coins.tolist() == [False, True, False, False, True]
    sizes = rounded_gaussian(KEY, 5, 2.0)
    far = math.floor(2.0 * 9.2)  # P(|N| > 9.2) is about 2^-64
    assert sizes[1] < -far + 2
    assert sizes[0] == -sizes[1]
    assert sizes[4] == 0


def test_the_least_word_that_there_is_stays_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "keystream", lambda _, size: bytes(size))
    assert 13 * 20 < rounded_gaussian(KEY, 1, 20.0)[0] <= 13.3 * 20 + 2


def test_the_middle_of_the_disc_has_no_direction_and_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def first_zeros(key: bytes, size: int) -> bytes:
        asked.append(key)
        return bytes(size) if len(asked) == 1 else keystream(key, size)

    monkeypatch.setattr(noise, "keystream", first_zeros)
    assert np.isfinite(gaussians(KEY, 5)).all()
    assert len(set(asked)) == len(asked) == 2


def test_no_noise_is_0_and_what_no_table_holds_is_refused() -> None:
    assert rounded_gaussian(KEY, 3, 0.0).tolist() == [0, 0, 0]
    for wrong in (-1.0, math.nan, math.inf, 1e6):
        with pytest.raises(ValueError, match="sigma"):
            rounded_gaussian(KEY, 1, wrong)


def test_the_keystream_is_chacha20_of_rfc_8439() -> None:
    zero = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    assert keystream(bytes(32), 32).hex() == zero
