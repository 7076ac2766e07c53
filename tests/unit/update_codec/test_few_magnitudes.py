"""Vectors that no step fits: of few magnitudes, as one decoded update or a mean of two that are the same."""

import numpy as np
import pytest
from numpy.typing import NDArray

from update_codec import CodecSpec, Manifest, Vectors, decode, encode

SPECS = ("edge", "compact", "cosine(bpp=0.12)", "cosine(bpp=0.22)", "deadzone(bpp=0.1)")
SHAPES = {"small": (64, 65), "large": (300, 100)}
F32 = NDArray[np.float32]


def vectors(values: F32) -> Vectors:
    return Vectors(values, np.zeros(0, np.float32), np.zeros(0, np.int64))


def sparse(size: int, *, levels: int = 1, share: float = 0.03) -> F32:
    """Zeros, and a share of entries of so many magnitudes."""
    rng = np.random.default_rng(7)
    magnitudes = rng.integers(1, levels + 1, size) * np.float32(0.013)
    return np.where(rng.random(size) < share, magnitudes * rng.choice([-1.0, 1.0], size), 0.0).astype(np.float32)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_vector_of_few_magnitudes_uses_the_target(shape: str, levels: int, spec: str) -> None:
    manifest = Manifest.of({"w": np.zeros(SHAPES[shape], np.float32)})
    few = sparse(manifest.parameter_count, levels=levels)
    dense = np.random.default_rng(8).normal(size=len(few)).astype(np.float32)
    of_few, of_dense = (encode(vectors(values), manifest, CodecSpec.parse(spec)) for values in (few, dense))
    assert len(of_few.frame) <= 1.03 * len(of_dense.frame)
    assert of_few.nmse < of_dense.nmse
    decoded = decode(of_few.frame, manifest).parameters
    assert float(np.square(few - decoded).sum()) == pytest.approx(of_few.nmse * float(np.square(few).sum()), rel=1e-3)


def test_what_one_frame_brought_fits_another_of_the_same_size() -> None:
    """Two nodes with the same data, or one update a version: their mean is coded for the way down."""
    manifest = Manifest.of({"w": np.zeros((64, 65), np.float32)})
    update = np.random.default_rng(9).standard_t(4, manifest.parameter_count).astype(np.float32)
    up = encode(vectors(update), manifest, CodecSpec.parse("edge"))
    brought = decode(up.frame, manifest).parameters
    down = encode(vectors(brought), manifest, CodecSpec.parse("edge"))
    assert len(down.frame) <= 1.02 * len(up.frame)
    assert down.nmse < 0.1


def test_of_equal_magnitudes_the_seed_chooses_and_the_residual_keeps_the_others() -> None:
    manifest = Manifest.of({"w": np.zeros((64, 65), np.float32)})
    few = sparse(manifest.parameter_count, share=0.2)
    spec = CodecSpec.parse("edge")
    sent = []
    for seed in (1, 2, 1):
        found = encode(vectors(few), manifest, spec, seed=seed)
        decoded = decode(found.frame, manifest).parameters
        assert found.residual is not None
        assert np.array_equal(few - decoded, found.residual)
        assert 50 < np.count_nonzero(decoded) < np.count_nonzero(few)
        sent.append(np.flatnonzero(decoded).tolist())
    assert sent[0] == sent[2] != sent[1]


def test_one_entry_alone_is_sent() -> None:
    manifest = Manifest.of({"w": np.zeros((64, 65), np.float32)})
    one = np.zeros(manifest.parameter_count, np.float32)
    one[17] = -3.5
    found = encode(vectors(one), manifest, CodecSpec.parse("edge"))
    assert decode(found.frame, manifest).parameters[17] == pytest.approx(-3.5, rel=0.01)
    assert found.nmse < 1e-3
