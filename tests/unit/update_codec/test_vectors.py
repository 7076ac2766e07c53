"""Vectors subtract, add and hash with the same bits everywhere."""

import numpy as np
import pytest

from update_codec import Manifest, ShapeError, Vectors


def vectors(parameters: list[float], statistics: list[float], counters: list[int]) -> Vectors:
    """Build vectors from plain lists."""
    return Vectors(np.array(parameters, np.float32), np.array(statistics, np.float32), np.array(counters, np.int64))


def test_minus_subtracts_floats_and_keeps_counters_absolute() -> None:
    update = vectors([3, 5], [2], [9]).minus(vectors([1, 1], [0.5], [4]))
    assert update.parameters.tolist() == [2, 4]
    assert update.statistics.tolist() == [1.5]
    assert update.counters.tolist() == [9]


def test_plus_adds_floats_and_replaces_counters() -> None:
    model = vectors([1, 1], [0.5], [4]).plus(vectors([2, 4], [1.5], [9]))
    assert model.parameters.tolist() == [3, 5]
    assert model.statistics.tolist() == [2]
    assert model.counters.tolist() == [9]


def test_plus_is_one_float32_addition() -> None:
    base, delta = np.float32(1), np.float32(1e-8)
    assert vectors([1], [], []).plus(vectors([1e-8], [], [])).parameters[0] == base + delta


def test_results_share_no_memory_with_their_inputs() -> None:
    model = vectors([1], [2], [3])
    update = model.minus(vectors([0], [0], [0]))
    update.counters[0] = 77
    assert model.counters[0] == 3


def test_digest_depends_on_every_vector_and_on_the_bits() -> None:
    seen = {
        vectors([0], [0], [0]).digest(),
        vectors([1], [0], [0]).digest(),
        vectors([0], [1], [0]).digest(),
        vectors([0], [0], [1]).digest(),
        vectors([-0.0], [0], [0]).digest(),
    }
    assert len(seen) == 5
    assert {len(digest) for digest in seen} == {16}


def test_digest_is_fixed_for_all_time() -> None:
    assert vectors([1, -2.5], [0.125], [7]).digest().hex() == "08ade83ecf5a90ffd527673e6a72ae63"


def test_vectors_of_different_models_do_not_mix() -> None:
    for combine in (vectors([1], [], []).minus, vectors([1], [], []).plus):
        with pytest.raises(ShapeError):
            combine(vectors([1, 2], [], []))


def test_wrong_type_or_shape_is_refused() -> None:
    good = Vectors.zeros(Manifest.of({"x": np.zeros(2, np.float32)}))
    with pytest.raises(ShapeError, match="parameters"):
        Vectors(np.zeros(2), good.statistics, good.counters)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="counters"):
        Vectors(good.parameters, good.statistics, np.zeros((1, 1), np.int64))
