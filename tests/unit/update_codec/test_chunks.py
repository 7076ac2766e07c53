"""Frames read side by side give what each of them decodes to."""

import numpy as np
import pytest

from update_codec import (
    PROFILES,
    CodecSpec,
    Context,
    Manifest,
    NonFiniteFrame,
    Role,
    TruncatedFrame,
    Vectors,
    decode,
    encode,
    iter_chunks,
)
from update_codec.segments import Tag


def model(seed: int) -> tuple[Manifest, Vectors]:
    """Two matrices of different spread with their biases, and a statistic."""
    rng = np.random.default_rng(seed)
    arrays = {
        "a": rng.standard_t(3, size=(150, 200)).astype(np.float32),
        "b": rng.normal(size=150).astype(np.float32),
        "c": (rng.laplace(size=(100, 150)) * 0.05).astype(np.float32),
        "d": rng.normal(size=100).astype(np.float32),
        "mean": rng.normal(size=33).astype(np.float32),
    }
    manifest = Manifest.of(arrays, {"mean": Role.STATISTIC})
    return manifest, manifest.flatten(arrays)


@pytest.mark.parametrize("chunk", [1_000, 4_097, 50_000])
@pytest.mark.parametrize("role", [Role.PARAMETER, Role.STATISTIC])
def test_chunks_are_columns_of_the_decoded_frames(chunk: int, role: Role) -> None:
    manifest, _ = model(0)
    specs = [CodecSpec.parse(text) for text in (*PROFILES, "deadzone(step=0.1)", "deadzone(step=12)")]
    frames = [encode(model(seed)[1], manifest, spec, seed=seed).frame for seed, spec in enumerate(specs)]
    name = "parameters" if role is Role.PARAMETER else "statistics"
    expected = np.stack([getattr(decode(frame, manifest), name) for frame in frames])
    end = 0
    for start, values in iter_chunks(frames, manifest, chunk, role=role):
        assert start == end
        assert values.shape[1] <= chunk
        np.testing.assert_array_equal(values, expected[:, start : start + values.shape[1]])
        end = start + values.shape[1]
    assert end == expected.shape[1]


def test_frames_with_a_context_are_read_too() -> None:
    manifest, update = model(1)
    context = Context((np.arange(manifest.parameter_count) % 3).astype(np.uint8))
    frame = encode(update, manifest, CodecSpec.parse("edge"), context=context).frame
    columns = [values[0] for _, values in iter_chunks([frame], manifest, 777, context=context)]
    np.testing.assert_array_equal(np.concatenate(columns), decode(frame, manifest, context=context).parameters)


def test_median_over_frames_is_the_median_over_vectors() -> None:
    manifest, _ = model(0)
    frames = [encode(model(seed)[1], manifest, CodecSpec.parse("balanced")).frame for seed in range(5)]
    median = np.concatenate([np.median(values, axis=0) for _, values in iter_chunks(frames, manifest, 5000)])
    expected = np.median([decode(frame, manifest).parameters for frame in frames], axis=0)
    np.testing.assert_array_equal(median, expected)


def test_no_frames_give_empty_columns() -> None:
    manifest, _ = model(0)
    assert all(values.shape[0] == 0 for _, values in iter_chunks([], manifest, 50_000))


def test_bad_frame_and_bad_arguments_are_refused() -> None:
    manifest, update = model(0)
    frame = encode(update, manifest, CodecSpec.parse("edge")).frame
    with pytest.raises(TruncatedFrame):
        next(iter_chunks([frame, frame[:-1]], manifest, 100))
    with pytest.raises(ValueError, match="chunk"):
        next(iter_chunks([frame], manifest, 0))
    with pytest.raises(ValueError, match="parameters"):
        next(iter_chunks([frame], manifest, 100, role=Role.COUNTER))


def test_values_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.zeros(10, np.float32)
    manifest = Manifest.of({"x": values})
    values[3] = np.nan
    monkeypatch.setattr("update_codec.encoding.np.isfinite", np.ones_like)
    frame = encode(manifest.flatten({"x": values}), manifest, CodecSpec.parse("lossless")).frame
    monkeypatch.undo()
    assert frame[40 + frame[7]] == Tag.VALUES
    with pytest.raises(NonFiniteFrame):
        next(iter_chunks([frame], manifest, 100))
