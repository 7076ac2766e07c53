"""Frames carry updates: exactly for lossless parts, within the stated error otherwise."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from update_codec import (
    PROFILES,
    Accumulator,
    CodecSpec,
    DeviceUpdate,
    Manifest,
    NonFiniteError,
    Role,
    ShapeError,
    Vectors,
    decode,
    encode,
)
from update_codec import inspect as inspect_frame
from update_codec.arrays import HostArrays
from update_codec.spec import Kind

LOSSLESS = CodecSpec.parse("lossless")


def network(seed: int = 0, width: int = 128) -> tuple[Manifest, Vectors]:
    """A two-layer network's worth of Laplace values, one statistic and one counter."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {
        "first.weight": rng.laplace(size=(width, 200)).astype(np.float32) * np.float32(0.01),
        "first.bias": rng.normal(size=width).astype(np.float32) * np.float32(0.01),
        "norm.mean": rng.normal(size=width).astype(np.float32),
        "norm.batches": np.array(1234),
        "second.weight": rng.laplace(size=(10, width)).astype(np.float32) * np.float32(0.02),
        "second.bias": rng.normal(size=10).astype(np.float32) * np.float32(0.01),
    }
    manifest = Manifest.of(arrays, {"norm.mean": Role.STATISTIC})
    return manifest, manifest.flatten(arrays)


def vector(values: NDArray[np.float32]) -> tuple[Manifest, Vectors]:
    """One vector as a model."""
    manifest = Manifest.of({"x": values})
    return manifest, manifest.flatten({"x": values})


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_keeps_statistics_and_counters_exact_and_says_its_error(profile: str) -> None:
    manifest, update = network()
    spec = CodecSpec.parse(profile)
    encoded = encode(update, manifest, spec)
    decoded = decode(encoded.frame, manifest)
    np.testing.assert_array_equal(decoded.statistics, update.statistics)
    np.testing.assert_array_equal(decoded.counters, update.counters)
    error = update.parameters.astype(np.float64) - decoded.parameters
    nmse = float(np.dot(error, error) / np.dot(update.parameters.astype(np.float64), update.parameters))
    assert encoded.nmse == pytest.approx(nmse, rel=1e-3)
    assert (nmse > 0) == spec.lossy
    assert encoded.bits_per_parameter == 8 * len(encoded.frame) / manifest.parameter_count


@pytest.mark.parametrize("profile", PROFILES)
def test_inspect_agrees_with_decode(profile: str) -> None:
    manifest, update = network(1)
    frame = encode(update, manifest, CodecSpec.parse(profile)).frame
    info = inspect_frame(frame, manifest)
    decoded = decode(frame, manifest)
    assert info.spec == profile
    assert info.finite
    assert info.parameter_norm == pytest.approx(float(np.linalg.norm(decoded.parameters.astype(np.float64))), rel=1e-6)
    assert info.parameter_abs_max == np.abs(decoded.parameters).max()
    assert info.statistic_abs_max == np.abs(decoded.statistics).max()
    assert info.frame_bytes == len(frame)
    parts = info.parameter_bytes + info.statistic_bytes + info.counter_bytes
    assert parts == sum(segment.bytes for segment in info.segments)
    assert len(frame) - parts <= 96


def test_residual_is_exactly_what_was_not_sent() -> None:
    manifest, update = network(2)
    encoded = encode(update, manifest, CodecSpec.parse("edge"))
    assert encoded.residual is not None
    decoded = decode(encoded.frame, manifest)
    np.testing.assert_array_equal(encoded.residual, update.parameters - decoded.parameters)
    again = encode(update, manifest, CodecSpec.parse("edge"), residual=encoded.residual)
    second = decode(again.frame, manifest)
    np.testing.assert_array_equal(again.residual, update.parameters + encoded.residual - second.parameters)


def test_feedback_delivers_in_the_long_run_what_one_frame_cannot() -> None:
    manifest, update = network(3)
    sent = np.zeros(manifest.parameter_count)
    residual = None
    for _ in range(60):
        encoded = encode(update, manifest, CodecSpec.parse("edge"), residual=residual)
        residual = encoded.residual
        sent += decode(encoded.frame, manifest).parameters
    missing = sent / 60 - update.parameters
    assert np.linalg.norm(missing) < 0.2 * np.linalg.norm(update.parameters)


def test_lossless_flushes_a_residual() -> None:
    manifest, update = network(4)
    residual = np.full(manifest.parameter_count, 0.5, np.float32)
    encoded = encode(update, manifest, LOSSLESS, residual=residual)
    np.testing.assert_array_equal(decode(encoded.frame, manifest).parameters, update.parameters + residual)
    assert encoded.residual is None


@pytest.mark.parametrize("profile", PROFILES)
def test_zero_update_is_small_and_stays_zero(profile: str) -> None:
    manifest, _ = network()
    zero = Vectors.zeros(manifest)
    encoded = encode(zero, manifest, CodecSpec.parse(profile))
    assert not decode(encoded.frame, manifest).parameters.any()
    assert encoded.nmse == 0
    if not profile.startswith("eden"):  # the kinds of fixed length always take their length
        assert len(encoded.frame) <= 256


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("magnitude", [1e-45, 1e-38, 1e-20, 1.0, 1e20, 3e38])
def test_every_magnitude_survives(profile: str, magnitude: float) -> None:
    rng = np.random.default_rng(5)
    values = (rng.choice([-1.0, 1.0, 0.5], size=300) * magnitude).astype(np.float32)
    manifest, update = vector(values)
    decoded = decode(encode(update, manifest, CodecSpec.parse(profile)).frame, manifest)
    assert np.isfinite(decoded.parameters).all()
    assert np.abs(decoded.parameters.astype(np.float64)).max() <= 8 * magnitude


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", [0, 1, 2, 7, 255, 256])
def test_tiny_models_work(profile: str, size: int) -> None:
    manifest, update = vector(np.linspace(-1, 1, size, dtype=np.float32))
    encoded = encode(update, manifest, CodecSpec.parse(profile))
    decoded = decode(encoded.frame, manifest).parameters
    assert decoded.shape == (size,)
    assert len(encoded.frame) <= 120 + 4 * size
    if profile == "lossless":
        np.testing.assert_array_equal(decoded, update.parameters)


def test_single_large_entry_travels_exactly() -> None:
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    values[77] = 1e6
    manifest, update = vector(values)
    decoded = decode(encode(update, manifest, CodecSpec.parse("deadzone(step=0.1)")).frame, manifest).parameters
    assert decoded[77] == pytest.approx(1e6, rel=0.01)
    manifest, update = vector(np.where(np.arange(20_000) == 77, np.float32(15), values))
    frame = encode(update, manifest, CodecSpec.parse("deadzone(step=0.1)")).frame
    assert decode(frame, manifest).parameters[77] == 15
    assert [segment.layout for segment in inspect_frame(frame, manifest).segments][-1] == "exact"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("profile", PROFILES)
def test_update_that_is_not_finite_is_refused(bad: float, profile: str) -> None:
    manifest, update = network()
    for name in ("parameters", "statistics"):
        arrays = {"parameters": update.parameters.copy(), "statistics": update.statistics.copy()}
        arrays[name][3] = bad
        with pytest.raises(NonFiniteError):
            encode(Vectors(**arrays, counters=update.counters), manifest, CodecSpec.parse(profile))


@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays(
        np.float32, st.integers(0, 400), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    ),
    profile=st.sampled_from(sorted(PROFILES)),
    remade=st.booleans(),
)
def test_any_finite_vector_decodes_to_what_the_encoder_believes(
    values: NDArray[np.float32], profile: str, remade: bool
) -> None:
    manifest, update = vector(values)
    encoded = encode(update, manifest, CodecSpec.parse(profile), remade=remade)
    decoded = decode(encoded.frame, manifest).parameters
    if encoded.residual is not None:
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(encoded.residual, update.parameters - decoded)
    if profile == "lossless":
        np.testing.assert_array_equal(decoded.view(np.uint32), values.view(np.uint32))
    accumulator = Accumulator(manifest)
    if len(values) == 0 or np.abs(decoded).max() < 1e6:
        accumulator.add(encoded.frame, 100.0)
        np.testing.assert_allclose(accumulator.mean().parameters, decoded, atol=1e-9, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    profile=st.sampled_from(["edge", "extreme", "deadzone(bytes=64,feedback=1)", "deadzone(step=1)"]),
    remade=st.booleans(),
)
def test_any_finite_residual_is_carried_on(data: st.DataObject, profile: str, remade: bool) -> None:
    elements = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**126), max_value=2.0**126)
    size = data.draw(st.integers(1, 200))
    values, residual = (data.draw(hnp.arrays(np.float32, size, elements=elements)) for _ in range(2))
    manifest, update = vector(values)
    encoded = encode(update, manifest, CodecSpec.parse(profile), residual=residual, remade=remade)
    decoded = decode(encoded.frame, manifest).parameters
    if encoded.residual is not None:
        np.testing.assert_array_equal(encoded.residual, values + residual - decoded)


@pytest.mark.parametrize("remade", [True, False])
@pytest.mark.parametrize("target_bytes", [1000, 1600, 4000])
def test_byte_budget_is_kept_with_everything_counted(target_bytes: int, remade: bool) -> None:
    manifest, update = network(6)
    spec = CodecSpec.parse(f"deadzone(bytes={target_bytes},feedback=1)")
    frame = encode(update, manifest, spec, remade=remade).frame
    assert 0.9 * target_bytes <= len(frame) <= target_bytes


@pytest.mark.parametrize("remade", [True, False])
@pytest.mark.parametrize("bpp", [0.1, 0.35, 1.0, 1.8, 3.0])
def test_rate_target_is_met_with_the_header_counted(bpp: float, remade: bool) -> None:
    rng = np.random.default_rng(9)
    arrays = {
        "weight": rng.laplace(size=(300, 365)).astype(np.float32),
        "bias": rng.normal(size=365).astype(np.float32),
    }
    manifest = Manifest.of(arrays)
    for kind in ("deadzone", "dither"):
        encoded = encode(manifest.flatten(arrays), manifest, CodecSpec.parse(f"{kind}(bpp={bpp})"), remade=remade)
        assert 0.9 * bpp <= encoded.bits_per_parameter <= bpp


@pytest.mark.parametrize("remade", [True, False])
@pytest.mark.parametrize("growth", [1.0, 30.0, 1e4])
def test_promised_size_holds_when_the_residual_outgrows_the_update(growth: float, remade: bool) -> None:
    manifest, update = network(11, width=256)
    residual = np.random.default_rng(1).standard_t(3, manifest.parameter_count).astype(np.float32)
    residual *= np.float32(growth * 0.01)
    encoded = encode(update, manifest, CodecSpec.parse("edge"), residual=residual, remade=remade)
    statistics = 8 * 4 * manifest.statistic_count / manifest.parameter_count
    assert encoded.bits_per_parameter <= 0.35 + statistics + 0.01
    assert encoded.nmse < 0.95


@pytest.mark.parametrize("profile", ["edge", "balanced", "extreme", "deadzone(bytes=9000)"])
def test_what_nobody_makes_again_is_as_large_and_as_exact(profile: str) -> None:
    # As after training: most rows hardly move, and an estimate by entropy is far off, so that several steps are tried.
    rng = np.random.default_rng(4)
    scales = rng.choice([0.003, 0.01, 0.2, 1.0], (400, 1), p=[0.4, 0.3, 0.2, 0.1])
    manifest, update = vector((rng.laplace(size=(400, 300)) * scales).astype(np.float32))
    again, once = (encode(update, manifest, CodecSpec.parse(profile), remade=remade) for remade in (True, False))
    assert 0.97 * len(again.frame) <= len(once.frame) <= len(again.frame) * 1.02
    left = update.parameters - decode(once.frame, manifest).parameters
    assert float(np.square(left).sum()) == pytest.approx(
        once.nmse * float(np.square(update.parameters).sum()), rel=1e-4
    )
    assert once.nmse <= 1.05 * again.nmse


def test_residual_that_does_not_fit_is_refused() -> None:
    manifest, update = network()
    for residual in (np.zeros(3, np.float32), np.zeros(manifest.parameter_count)):
        with pytest.raises(ShapeError):
            encode(update, manifest, CodecSpec.parse("edge"), residual=residual)


def test_residual_waits_when_nothing_was_learned() -> None:
    manifest, _ = network()
    residual = np.ones(manifest.parameter_count, np.float32)
    encoded = encode(Vectors.zeros(manifest), manifest, CodecSpec.parse("edge"), residual=residual)
    np.testing.assert_array_equal(encoded.residual, residual)


def test_dither_is_unbiased_and_depends_on_the_seed() -> None:
    manifest, update = network(8)
    spec = CodecSpec.parse("dither(bpp=0.5)")
    decoded = [decode(encode(update, manifest, spec, seed=seed).frame, manifest).parameters for seed in range(60)]
    one = float(np.linalg.norm(decoded[0] - update.parameters))
    mean = float(np.linalg.norm(np.mean(decoded, axis=0) - update.parameters))
    assert mean < 1.3 * one / 60**0.5
    assert not np.array_equal(decoded[0], decoded[1])


@pytest.mark.parametrize(("bits", "nmse"), [(1, 0.571), (2, 0.133), (3, 0.036), (4, 0.0096)])
def test_eden_reaches_the_error_of_its_paper(bits: int, nmse: float) -> None:
    rng = np.random.default_rng(2)
    manifest, update = vector(rng.standard_t(3, size=40_960).astype(np.float32))
    encoded = encode(update, manifest, CodecSpec.parse(f"eden{bits}"), seed=5)
    assert encoded.nmse == pytest.approx(nmse, rel=0.05)
    assert encoded.bits_per_parameter < bits + 0.03


def test_common_grid_sums_as_integers() -> None:
    manifest, update = network(7)
    frame = encode(update, manifest, CodecSpec.parse("common(bits=12,delta=0.001)")).frame
    decoded = decode(frame, manifest).parameters
    np.testing.assert_allclose(decoded, np.rint(update.parameters / 0.001) * 0.001, atol=0.0011)
    limit = 2047 * 0.001
    assert np.abs(decoded).max() <= limit * 1.001


class Elsewhere(HostArrays):
    """A backend that is not `HOST`, in the same memory."""


@pytest.mark.parametrize("profile", PROFILES)
def test_an_update_of_another_backend_makes_the_same_frame(profile: str) -> None:
    manifest, update = network()
    there = DeviceUpdate(
        arrays=Elsewhere(), parameters=update.parameters, statistics=update.statistics, counters=update.counters
    )
    spec = CodecSpec.parse(profile)
    ours, theirs = encode(update, manifest, spec, seed=3), encode(there, manifest, spec, seed=3)
    assert theirs.frame == ours.frame
    if ours.residual is not None:
        np.testing.assert_array_equal(theirs.residual, ours.residual)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("with_residual", [False, True])
def test_an_update_that_may_be_overwritten_makes_the_same_frame_and_residual(profile: str, with_residual: bool) -> None:
    manifest, update = network()
    residual = np.random.default_rng(1).normal(0, 0.01, len(update.parameters)).astype(np.float32)
    before = residual.copy()
    spec, given = CodecSpec.parse(profile), residual if with_residual else None
    expected = encode(update, manifest, spec, residual=given, seed=3)
    copy = Vectors(update.parameters.copy(), update.statistics, update.counters)
    found = encode(copy, manifest, spec, residual=given, seed=3, own=True)
    assert found.frame == expected.frame
    np.testing.assert_array_equal(residual, before)
    if spec.feedback:
        np.testing.assert_array_equal(found.residual, expected.residual)
    if spec.kind in (Kind.DEADZONE, Kind.LOSSLESS) and spec.feedback:
        assert found.residual is copy.parameters
    assert found.nmse == pytest.approx(expected.nmse)
