"""The cosine kind: exact on every machine, few bits where neighbours move together, no worse where they do not."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from update_codec import (
    Accumulator,
    CodecSpec,
    HeaderError,
    Manifest,
    Role,
    TruncatedFrame,
    Vectors,
    decode,
    encode,
    frame_kind,
    inspect,
)
from update_codec.bands import Bands, matrices
from update_codec.frame import seal_frame
from update_codec.limits import BANDS_MAX, BLOCK_MAX
from update_codec.quantizers.cosine import Matrix, backward, cosines, forward
from update_codec.segments import parse
from update_codec.spec import Kind

SPEC = CodecSpec.parse("cosine(bpp=0.12,feedback=1)")


def smooth(rows: int, length: int, seed: int = 0) -> NDArray[np.float32]:
    """Rows in which neighbours are alike, as of weights on pictures or windows of readings."""
    steps = np.random.default_rng(seed).normal(size=(rows, length)) * 0.01
    return np.cumsum(steps, axis=1).astype(np.float32)


def model(weight: NDArray[np.float32]) -> tuple[Manifest, Vectors]:
    arrays = {"weight": weight, "bias": np.full(len(weight), 0.01, np.float32), "mean": np.ones(3, np.float32)}
    manifest = Manifest.of(arrays, {"mean": Role.STATISTIC})
    return manifest, manifest.flatten(arrays)


@pytest.mark.parametrize("size", [1, 2, 7, 64, 784, BLOCK_MAX])
def test_the_factors_are_those_of_the_formula_and_far_from_every_tie(size: int) -> None:
    k, j = np.arange(size)[:, np.newaxis], np.arange(size)
    real = np.sqrt(np.where(k == 0, 1, 2) / size) * np.cos(np.pi * (2 * j + 1) * k / (2 * size)) * 2.0**16
    assert np.abs(cosines(size) - real).max() <= 0.5 + 1e-6
    assert np.abs(np.abs(real - np.floor(real)) - 0.5).min() > 1e-9
    gram = cosines(size) @ cosines(size).T / 2.0**32
    assert np.abs(gram - np.eye(size)).max() < 1e-3


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), length=st.integers(1, 2300), scale=st.floats(-30, 30), seed=st.integers(0, 99))
def test_what_is_turned_comes_back_as_near_as_the_step_allows(rows: int, length: int, scale: float, seed: int) -> None:
    values = (smooth(rows, length, seed) * np.float32(2.0**scale)).reshape(-1)
    matrix = Matrix(0, rows, length)
    coefficients = forward(values, matrix)
    step = float(np.float32(np.abs(values).max() / 50 + 1e-30))
    back = np.concatenate([piece for _, piece in backward(coefficients, matrix, step)])
    # Coefficients are rounded to 1/128 of the step, up to 1,024 of them add up, and factors have 17 bits.
    assert np.abs(back - values).max() <= step / 2
    assert not np.signbit(back[back == 0]).any()


def test_any_order_of_addition_gives_the_same_bits() -> None:
    values, matrix = smooth(6, 300).reshape(-1), Matrix(0, 6, 300)
    exponent = 24 - int(np.frexp(np.abs(values).max())[1])
    whole = [[int(value) for value in row] for row in np.rint(np.ldexp(values.astype(float), exponent)).reshape(6, 300)]
    factors = cosines(300).astype(np.int64)
    exact = [[sum(int(f) * x for f, x in zip(one, row, strict=True)) for one in factors] for row in whole]
    expected = np.array([np.float32(float(total) * 2.0 ** (-exponent - 16)) for row in exact for total in row])
    assert forward(values, matrix).tobytes() == expected.astype(np.float32).tobytes()


def test_smooth_matrices_take_a_third_of_the_bits_for_the_same_error() -> None:
    manifest, update = model(smooth(100, 400))
    turned = encode(update, manifest, CodecSpec.parse("cosine(bpp=0.3)"))
    plain = encode(update, manifest, CodecSpec.parse("deadzone(bpp=0.9)"))
    assert turned.nmse < plain.nmse
    assert parse(turned.frame, manifest).header.kind == Kind.COSINE == frame_kind(turned.frame)


def test_a_matrix_for_which_it_does_not_pay_is_not_turned() -> None:
    rough = (np.random.default_rng(1).normal(size=(100, 400)) ** 3).astype(np.float32)
    arrays = {"rough": rough, "smooth": smooth(20, 64), "empty": np.zeros((0, 4), np.float32)}
    manifest = Manifest.of(arrays)
    update = manifest.flatten(arrays)
    turned = encode(update, manifest, CodecSpec.parse("cosine(bpp=0.5)"))
    plain = encode(update, manifest, CodecSpec.parse("deadzone(bpp=0.5)"))
    assert turned.nmse < 1.05 * plain.nmse  # classes and flags take 30 bytes of 1,300
    (segment,) = (one for one in inspect(turned.frame, manifest).segments if one.layout == "codes")
    assert segment.bytes == 1 + 1 + -(-(1 + 64) * 3 // 8)  # tag, flags, one band of the rough one and 64 of the other


@pytest.mark.parametrize(
    "weight", [smooth(40, 1500), smooth(30, 600).reshape(30, 6, 10, 10), np.zeros((5, 9), np.float32)]
)
@pytest.mark.parametrize("bpp", [0.1, 1.0, 9.0])
def test_decoder_inspection_sum_and_encoder_agree(weight: NDArray[np.float32], bpp: float) -> None:
    manifest, update = model(weight)
    encoded = encode(update, manifest, CodecSpec.parse(f"cosine(bpp={bpp},feedback=1)"))
    decoded = decode(encoded.frame, manifest)
    assert encoded.residual is not None
    np.testing.assert_array_equal(encoded.residual, update.parameters - decoded.parameters)
    np.testing.assert_array_equal(decoded.statistics, update.statistics)
    info = inspect(encoded.frame, manifest)
    assert info.parameter_norm == pytest.approx(float(np.linalg.norm(decoded.parameters.astype(float))), rel=1e-6)
    total = Accumulator(manifest)
    total.add(encoded.frame, 1.0)
    np.testing.assert_allclose(total.mean().parameters, decoded.parameters, atol=2.0**-32)


def test_peaks_beyond_the_last_symbol_are_sent_as_they_are() -> None:
    weight = smooth(100, 400)
    weight[3] += np.float32(1000)
    manifest, update = model(weight)
    encoded = encode(update, manifest, CodecSpec.parse("cosine(step=0.1)"))
    assert any(one.layout == "exact" for one in inspect(encoded.frame, manifest).segments)
    assert encoded.nmse < 1e-5


@pytest.mark.parametrize("arrays", [{"bias": np.ones(9, np.float32)}, {"count": np.array(3)}])
def test_models_without_matrices_have_frames_too(arrays: dict[str, NDArray[np.generic]]) -> None:
    manifest = Manifest.of(arrays)
    update = manifest.flatten(arrays)
    decoded = decode(encode(update, manifest, SPEC).frame, manifest)
    assert decoded.counters.tolist() == update.counters.tolist()
    assert matrices(manifest) == ()


def test_bands_come_back_from_their_bytes() -> None:
    manifest, _ = model(smooth(20, 200))
    (matrix,) = matrices(manifest)
    count = matrix.bands(turned=True)
    assert count <= BANDS_MAX
    bands = Bands((True,), (np.arange(count) % 8,))
    data = memoryview(bands.to_bytes())
    again = Bands.from_bytes(data[:1], data[1:], manifest)
    assert again.turned == (True,)
    assert again.classes[0].tolist() == bands.classes[0].tolist()
    assert sum(group.size for group in bands.groups(manifest)) == manifest.parameter_count


def test_every_prefix_and_a_wrong_tag_are_refused() -> None:
    manifest, update = model(smooth(20, 60))
    frame = encode(update, manifest, CodecSpec.parse("cosine(bpp=2)")).frame
    for size in range(len(frame)):
        with pytest.raises((TruncatedFrame, HeaderError)):
            decode(frame[:size], manifest)
    content = parse(frame, manifest)
    with pytest.raises(HeaderError):
        decode(seal_frame(content.header, [b"\x01"]), manifest)
    with pytest.raises(TruncatedFrame):
        frame_kind(frame[:39])


def test_adding_needs_thirteen_bytes_a_parameter_and_the_factors() -> None:
    arrays = {"x": smooth(5000, 100)}
    manifest = Manifest.of(arrays)
    frame = encode(manifest.flatten(arrays), manifest, SPEC).frame
    accumulator = Accumulator(manifest)
    tracemalloc.start()
    accumulator.add(frame, 1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 13 * manifest.parameter_count + (1 << 21)


def test_frequencies_that_no_row_has_change_no_bit_and_make_no_factors() -> None:
    rows, length = 5, 2 * BLOCK_MAX + 30
    wide = np.zeros((rows, length), np.float32)
    rng = np.random.default_rng(2)
    for first in (0, 3, BLOCK_MAX, 2 * BLOCK_MAX + 7):
        wide[:, first : first + 5] = rng.normal(size=(rows, 5)).astype(np.float32)
    matrix, step = Matrix(0, rows, length), float(np.float32(0.01))
    found = np.concatenate([piece for _, piece in backward(wide.reshape(-1), matrix, step)])
    units = np.rint(wide.astype(np.float64) * 128.0 / step)
    blocks = [units[:, first : first + size] @ cosines(size) for first, size in matrix.blocks()]
    expected = (np.concatenate(blocks, axis=1) * (step * 2.0**-23)).astype(np.float32).reshape(-1) + np.float32(0)
    assert found.tobytes() == expected.tobytes()
