"""The accumulator gives the weighted mean with the same bits in every order of arrival."""

import tracemalloc
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
    ManifestMismatch,
    Role,
    Vectors,
    decode,
    encode,
)
from update_codec import inspect as inspect_frame


def model(seed: int, scale: float = 0.01) -> tuple[Manifest, Vectors]:
    """Two matrices, two biases, a statistic, two counters: large enough for two groups."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {
        "a.weight": (rng.laplace(size=(160, 150)) * scale).astype(np.float32),
        "a.bias": (rng.normal(size=160) * scale).astype(np.float32),
        "b.weight": (rng.laplace(size=(90, 160)) * scale).astype(np.float32),
        "b.bias": (rng.normal(size=90) * scale).astype(np.float32),
        "mean": rng.normal(size=160).astype(np.float32),
        "counts": rng.integers(-5, 100, size=2),
    }
    manifest = Manifest.of(arrays, {"mean": Role.STATISTIC})
    return manifest, manifest.flatten(arrays)


def frames(count: int, profile: str) -> tuple[Manifest, list[bytes]]:
    """Frames of different updates."""
    manifest, _ = model(0)
    spec = CodecSpec.parse(profile)
    return manifest, [encode(model(seed)[1], manifest, spec, seed=seed).frame for seed in range(count)]


def test_mean_has_the_same_bits_in_a_hundred_random_orders() -> None:
    manifest, received = frames(1, "fine")
    for profile in ("edge", "balanced", "lossless", "stateless", "eden2", "common(bits=16,delta=0.0001)"):
        received += frames(1, profile)[1]
    known = [inspect_frame(frame, manifest) for frame in received]
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.1, 1000, size=len(received))
    digests = set()
    for _ in range(100):
        accumulator = Accumulator(manifest)
        for index in rng.permutation(len(received)):
            accumulator.add(received[index], float(weights[index]), clip=1.0, info=known[index])
        digests.add((accumulator.mean().digest(), accumulator.weight_sum))
    assert len(digests) == 1


@pytest.mark.parametrize("profile", PROFILES)
def test_mean_is_the_weighted_mean_of_the_decoded_updates(profile: str) -> None:
    manifest, received = frames(4, profile)
    weights = [600.0, 1.0, 30.5, 7.25]
    accumulator = Accumulator(manifest)
    for frame, weight in zip(received, weights, strict=True):
        accumulator.add(frame, weight)
    decoded = [decode(frame, manifest) for frame in received]
    mean = accumulator.mean()
    for name in ("parameters", "statistics"):
        expected = np.average([getattr(update, name) for update in decoded], axis=0, weights=weights)
        np.testing.assert_allclose(getattr(mean, name), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(mean.counters, np.max([update.counters for update in decoded], axis=0))
    assert accumulator.weight_sum == sum(weights)
    assert accumulator.count == 4


def test_divisor_replaces_the_sum_of_the_weights() -> None:
    manifest, received = frames(1, "lossless")
    accumulator = Accumulator(manifest)
    accumulator.add(received[0], 3.0)
    half = accumulator.mean(divisor=6.0)
    np.testing.assert_allclose(half.parameters, model(0)[1].parameters / 2, rtol=1e-5, atol=1e-9)


def test_counters_below_zero_are_not_lost() -> None:
    manifest = Manifest.of({"n": np.array([-5])})
    accumulator = Accumulator(manifest)
    for value in (-5, -3, -9):
        update = Vectors(np.zeros(0, np.float32), np.zeros(0, np.float32), np.array([value]))
        accumulator.add(encode(update, manifest, CodecSpec.parse("lossless")).frame, 1)
    assert accumulator.mean().counters.tolist() == [-3]


@pytest.mark.parametrize("profile", ["edge", "lossless", "stateless"])
def test_clip_scales_a_long_update_down_and_leaves_a_short_one(profile: str) -> None:
    manifest, received = frames(1, profile)
    norm = inspect_frame(received[0], manifest).parameter_norm
    for clip, expected in ((norm / 4, norm / 4), (norm * 4, norm)):
        accumulator = Accumulator(manifest)
        accumulator.add(received[0], 10.0, clip=clip)
        mean = accumulator.mean().parameters.astype(np.float64)
        assert np.linalg.norm(mean) == pytest.approx(expected, rel=1e-4)


def test_clip_of_a_zero_update_changes_nothing() -> None:
    manifest, _ = model(0)
    accumulator = Accumulator(manifest)
    accumulator.add(encode(Vectors.zeros(manifest), manifest, CodecSpec.parse("edge")).frame, 1.0, clip=1.0)
    assert not accumulator.mean().parameters.any()


@pytest.mark.parametrize("weight", [0.0, -1.0, 1e-9, float("nan"), float("inf")])
def test_weight_that_is_not_a_positive_number_is_refused(weight: float) -> None:
    manifest, received = frames(1, "edge")
    accumulator = Accumulator(manifest)
    with pytest.raises(HeadroomError):
        accumulator.add(received[0], weight)
    assert accumulator.count == 0


def test_update_beyond_the_headroom_changes_nothing() -> None:
    manifest, _ = model(0)
    spec = CodecSpec.parse("lossless")
    large = encode(model(1, scale=1e5)[1], manifest, spec).frame
    small = encode(model(2)[1], manifest, spec).frame
    accumulator = Accumulator(manifest)
    accumulator.add(small, 600.0)
    before = accumulator.mean().digest()
    with pytest.raises(HeadroomError):
        accumulator.add(large, 1e6)
    assert accumulator.mean().digest() == before
    accumulator.add(large, 1e6, clip=1.0)
    assert accumulator.count == 2


def test_headroom_counts_statistics_too() -> None:
    values = np.array([1e9, 0], np.float32)
    manifest = Manifest.of({"mean": values}, {"mean": Role.STATISTIC})
    frame = encode(manifest.flatten({"mean": values}), manifest, CodecSpec.parse("edge")).frame
    with pytest.raises(HeadroomError):
        Accumulator(manifest).add(frame, 2.0)


def test_sums_that_go_on_as_a_frame_share_one_headroom() -> None:
    values = np.full(4, 1e6, np.float32)
    manifest = Manifest.of({"x": values})
    frame = encode(manifest.flatten({"x": values}), manifest, CodecSpec.parse("lossless")).frame
    accumulator = Accumulator(manifest)
    accumulator.add(frame, 500.0)
    accumulator.add(frame, 500.0)
    with pytest.raises(HeadroomError):
        accumulator.add(frame, 500.0)
    with pytest.raises(HeadroomError):
        accumulator.merge(accumulator)
    assert accumulator.count == 2
    np.testing.assert_array_equal(accumulator.mean().parameters, values)
    assert accumulator.sums().parameters.tolist() == [10**9 << 32] * 4


def test_a_sum_of_two_words_is_no_frame_of_sums() -> None:
    values = np.full(4, 1e6, np.float32)
    manifest = Manifest.of({"x": values})
    frame = encode(manifest.flatten({"x": values}), manifest, CodecSpec.parse("lossless")).frame
    accumulator = Accumulator(manifest, wide=True)
    for _ in range(3):
        accumulator.add(frame, 500.0)
    with pytest.raises(HeadroomError, match="divide the members"):
        accumulator.sums()
    with pytest.raises(HeadroomError):
        Accumulator(manifest).merge(accumulator)
    np.testing.assert_array_equal(accumulator.mean().parameters, values)


def test_known_info_saves_validating_twice_and_a_wrong_one_is_ignored() -> None:
    manifest, received = frames(2, "edge")
    right = inspect_frame(received[0], manifest)
    digests = []
    for info in (None, right, inspect_frame(received[1], manifest)):
        accumulator = Accumulator(manifest)
        accumulator.add(received[0], 2.0, clip=0.1, info=info)
        digests.append(accumulator.mean().digest())
    assert len(set(digests)) == 1


def test_frame_of_another_model_is_refused() -> None:
    _, received = frames(1, "edge")
    with pytest.raises(ManifestMismatch):
        Accumulator(Manifest.of({"x": np.zeros(3, np.float32)})).add(received[0], 1.0)


def test_mean_of_nothing_is_an_error() -> None:
    manifest, received = frames(1, "edge")
    accumulator = Accumulator(manifest)
    with pytest.raises(ValueError, match="at least one"):
        accumulator.mean()
    accumulator.add(received[0], 1.0)
    with pytest.raises(ValueError, match="positive"):
        accumulator.mean(divisor=0.0)


@pytest.mark.parametrize("profile", [one for one in PROFILES if one not in {"stateless", "compact"}])
def test_adding_needs_less_than_a_mebibyte_besides_the_sums(profile: str) -> None:
    arrays = {"x": np.random.default_rng(3).laplace(size=(5000, 100)).astype(np.float32)}
    manifest = Manifest.of(arrays)
    frame = encode(manifest.flatten(arrays), manifest, CodecSpec.parse(profile)).frame
    accumulator = Accumulator(manifest)
    tracemalloc.start()
    accumulator.add(frame, 1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 1 << 20


def test_outliers_are_added_exactly() -> None:
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    values[[3, 77]] = 20, -30
    manifest = Manifest.of({"x": values})
    for spec in ("deadzone(step=0.1)", "dither(step=0.1)"):
        frame = encode(manifest.flatten({"x": values}), manifest, CodecSpec.parse(spec)).frame
        accumulator = Accumulator(manifest)
        accumulator.add(frame, 5.0)
        assert accumulator.mean().parameters[[3, 77]].tolist() == [20, -30]


def test_controls_are_summed_as_they_are_and_come_after_the_statistics() -> None:
    arrays: dict[str, NDArray[Any]] = {
        "control.w": np.zeros(3, np.float32),
        "w": np.zeros(3, np.float32),
        "mean": np.zeros(2, np.float32),
    }
    manifest = Manifest.of(arrays, {"mean": Role.STATISTIC, "control.w": Role.CONTROL})
    accumulator = Accumulator(manifest)
    for value, weight in ((1.0, 3.0), (5.0, 1.0)):
        update = manifest.flatten({name: np.full_like(array, value) for name, array in arrays.items()})
        frame = encode(update, manifest, CodecSpec.parse("lossless")).frame
        accumulator.add(frame, weight, clip=0.5)
    for divisor in (None, 8.0):
        made = manifest.unflatten(accumulator.mean(divisor=divisor))
        np.testing.assert_array_equal(made["control.w"], np.full(3, 6.0))
        np.testing.assert_array_equal(made["mean"], np.full(2, 8.0 / (divisor or 4.0)))
    np.testing.assert_array_equal(accumulator.mean().statistics, [2.0, 2.0, 6.0, 6.0, 6.0])


def test_controls_count_in_full_when_headroom_is_judged() -> None:
    manifest = Manifest.of({"control.w": np.zeros(1, np.float32)}, {"control.w": Role.CONTROL})
    frame = encode(
        manifest.flatten({"control.w": np.full(1, 2.0**29, np.float32)}), manifest, CodecSpec.parse("lossless")
    )
    accumulator = Accumulator(manifest)
    for _ in range(2):
        accumulator.add(frame.frame, 0.001)
    with pytest.raises(HeadroomError):
        accumulator.add(frame.frame, 0.001)
