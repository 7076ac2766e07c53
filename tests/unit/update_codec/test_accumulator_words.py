"""Sums beyond 64 bits: a million nodes with a million examples each, exactly, in any order and through any hands."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from update_codec import Accumulator, Manifest, Role, Vectors
from update_codec.accumulator import HEADROOM

EXAMPLES = 1e6
"""As `limits.num_examples_max` has it."""

VALUES = {
    "w": np.zeros(3, np.float32),
    "mean": np.zeros(2, np.float32),
    "control.w": np.zeros(1, np.float32),
}
MANIFEST = Manifest.of(VALUES, {"mean": Role.STATISTIC, "control.w": Role.CONTROL})


def vectors(generator: np.random.Generator, scale: float) -> Vectors:
    return Vectors(
        (generator.standard_normal(3) * scale).astype(np.float32),
        (generator.standard_normal(MANIFEST.statistic_count) * scale).astype(np.float32),
        np.zeros(MANIFEST.counter_count, np.int64),
    )


def sent(seed: int, count: int, scale: float = 50.0) -> list[tuple[Vectors, float]]:
    generator = np.random.default_rng(seed)
    return [(vectors(generator, scale), float(generator.integers(1, int(EXAMPLES) + 1))) for _ in range(count)]


def added(*updates: tuple[Vectors, float]) -> Accumulator:
    accumulator = Accumulator(MANIFEST, wide=True)
    for update, weight in updates:
        accumulator.add_vectors(update, weight)
    return accumulator


def exact_mean(updates: list[tuple[Vectors, float]], divisor: Fraction) -> NDArray[np.float32]:
    """The mean of the parameters by integers as long as they need to be, rounded to float64 before the division."""
    sums = [
        sum(
            round(Fraction(float(np.rint(float(update.parameters[place]) * (weight * 2.0**32)))))
            for update, weight in updates
        )
        for place in range(3)
    ]
    return np.array([float(whole) / (float(divisor) * 2.0**32) for whole in sums], np.float32)


def test_the_headroom_of_one_word_ends_at_a_thousand_nodes_at_the_cap() -> None:
    ones = Vectors(np.ones(3, np.float32), np.zeros(MANIFEST.statistic_count, np.float32), np.zeros(0, np.int64))
    narrow = Accumulator(MANIFEST)
    for _ in range(int(HEADROOM / EXAMPLES)):
        narrow.add_vectors(ones, EXAMPLES)
    assert narrow.count == 1073
    with pytest.raises(Exception, match="reach the limit"):
        narrow.add_vectors(ones, EXAMPLES)


def test_a_million_nodes_at_the_cap_have_an_exact_sum() -> None:
    update = Vectors(
        np.array([1.0, -1.0, 0.3], np.float32), np.ones(MANIFEST.statistic_count, np.float32), np.zeros(0, np.int64)
    )
    total = added((update, EXAMPLES))
    for _ in range(20):
        total.merge(total)
    assert total.count == 1 << 20
    assert total.weight_sum == EXAMPLES * (1 << 20)
    np.testing.assert_array_equal(total.mean().parameters, update.parameters)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 60), scale=st.sampled_from([1e-3, 1.0, 60.0, 200.0]))
def test_the_mean_is_that_of_integers_without_a_limit(seed: int, count: int, scale: float) -> None:
    updates = sent(seed, count, scale)
    total = added(*updates)
    expected = exact_mean(updates, sum((Fraction(weight) for _, weight in updates), Fraction(0)))
    np.testing.assert_array_equal(total.mean().parameters, expected)


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 39), share=st.sampled_from([1.0, 0.5, 0.70710678]))
def test_order_and_hands_change_no_bit(seed: int, cut: int, share: float) -> None:
    updates = sent(seed, 40)
    flat, tree = Accumulator(MANIFEST, wide=True), Accumulator(MANIFEST, wide=True)
    flat.merge(added(*updates), share=share)
    whole = added(*updates[cut:][::-1])
    whole.merge(added(*updates[:cut]))
    tree.merge(whole, share=share)
    assert flat.mean().digest() == tree.mean().digest()


def test_what_fits_one_word_has_the_same_bits_in_two() -> None:
    updates = sent(3, 12, scale=0.5)
    one, two = added(*updates), added(*updates)
    two._carry()
    assert two._carried is not None
    assert one._carried is None
    assert one.mean().digest() == two.mean().digest()
    shared = [Accumulator(MANIFEST, wide=True), Accumulator(MANIFEST, wide=True)]
    for total, part in zip(shared, (one, two), strict=True):
        total.merge(part, share=0.3)
    assert shared[0].mean().digest() == shared[1].mean().digest()
