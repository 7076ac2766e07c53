"""Adding values without a frame, and merging sums: the same bits as frames added to one sum."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from update_codec import (
    PROFILES,
    Accumulator,
    CodecSpec,
    HeadroomError,
    Manifest,
    NonFiniteFrame,
    Role,
    Vectors,
    encode,
    inspect,
)

ARRAYS: dict[str, NDArray[Any]] = {
    "w": np.zeros((300, 200), np.float32),
    "mean": np.zeros(5, np.float32),
    "count": np.zeros(2, np.int64),
}
MANIFEST = Manifest.of(ARRAYS, {"mean": Role.STATISTIC})


def update(seed: int, scale: float = 0.1) -> Vectors:
    rng = np.random.default_rng(seed)
    values = rng.normal(scale=scale, size=60_000).astype(np.float32)
    return Vectors(values, rng.normal(size=5).astype(np.float32), rng.integers(0, 9, 2))


def same(one: Vectors, other: Vectors) -> bool:
    return one.digest() == other.digest()


def framed(weights: dict[int, float]) -> Accumulator:
    total = Accumulator(MANIFEST)
    for seed, weight in weights.items():
        total.add(encode(update(seed), MANIFEST, CodecSpec.parse("lossless")).frame, weight)
    return total


WEIGHTS = {0: 1.0, 1: 0.37, 2: 13.5, 3: 2.0**-20}


def test_values_add_up_to_the_same_bits_as_their_lossless_frames() -> None:
    total = Accumulator(MANIFEST)
    for seed, weight in reversed(WEIGHTS.items()):
        total.add_vectors(update(seed), weight)
    assert same(total.mean(), framed(WEIGHTS).mean())
    assert (total.count, total.weight_sum) == (4, framed(WEIGHTS).weight_sum)


@pytest.mark.parametrize("spec", [*PROFILES, "deadzone(step=0.1)", "deadzone(step=0.3)", "dither(step=0.1)"])
def test_values_that_were_kept_add_up_to_the_same_bits_as_their_frames(spec: str) -> None:
    decoded, kept = Accumulator(MANIFEST), Accumulator(MANIFEST)
    for seed, weight in WEIGHTS.items():
        sent = update(seed)
        sent.parameters[[3, 77, 59_999]] = 20, -30, 1e-30
        frame = encode(sent, MANIFEST, CodecSpec.parse(spec), seed=seed).frame
        plain, whole = inspect(frame, MANIFEST), inspect(frame, MANIFEST, keep_values=True)
        assert plain == whole
        assert plain.values is None
        assert whole.values is not None
        for total, info in ((decoded, plain), (kept, whole)):
            total.add(frame, weight, info=info, clip=7.0 + seed)
    sums, again = decoded.sums(), kept.sums()
    for name in ("parameters", "statistics", "counters"):
        np.testing.assert_array_equal(getattr(sums, name), getattr(again, name))
    assert decoded.weight_sum == kept.weight_sum


def test_sums_of_parts_merge_to_the_same_bits() -> None:
    first, second, none = Accumulator(MANIFEST), Accumulator(MANIFEST), Accumulator(MANIFEST)
    for seed, weight in WEIGHTS.items():
        (first if seed % 2 else second).add_vectors(update(seed), weight)
    none.merge(first)
    none.merge(Accumulator(MANIFEST))
    none.merge(second)
    assert same(none.mean(divisor=7.0), framed(WEIGHTS).mean(divisor=7.0))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(HeadroomError, match="weight"):
        Accumulator(MANIFEST).add_vectors(update(0), weight)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_change_nothing(bad: float) -> None:
    total, broken = Accumulator(MANIFEST), update(1)
    broken.parameters[17] = bad
    total.add_vectors(update(0), 1.0)
    before = total.mean()
    with pytest.raises(NonFiniteFrame):
        total.add_vectors(broken, 1.0)
    assert same(total.mean(), before)


def test_sums_that_could_overflow_are_refused() -> None:
    total, other = Accumulator(MANIFEST), Accumulator(MANIFEST)
    total.add_vectors(update(0, 1e6), 180.0)
    other.add_vectors(update(1, 1e6), 180.0)
    with pytest.raises(HeadroomError, match="together"):
        total.merge(other)
    with pytest.raises(HeadroomError, match="reach"):
        total.add_vectors(update(1, 1e6), 1000.0)
    assert total.count == 1
