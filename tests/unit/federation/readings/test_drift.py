"""A column that has moved is told from one that has not, and a reference is kept as plain data."""

import json
import math
from typing import Any

import numpy as np
import pytest

from federation.readings.drift import Reference, drift_of

RNG = np.random.default_rng(5)
NORMAL = RNG.normal(10, 2, 5_000)


def reference(values: Any = NORMAL) -> Reference:
    made = Reference.of(values)
    assert made is not None
    return made


def test_more_of_the_same_is_stable() -> None:
    stability = reference().stability(RNG.normal(10, 2, 2_000))
    shift = reference().shift(RNG.normal(10, 2, 2_000))
    assert stability is not None
    assert shift is not None
    assert 0 <= stability < 0.05
    assert abs(shift) < 0.1


@pytest.mark.parametrize(("mean", "std"), [(13, 2), (10, 6), (10, 0.2), (-50, 2)])
def test_another_mean_or_spread_has_moved(mean: float, std: float) -> None:
    stability = reference().stability(RNG.normal(mean, std, 2_000))
    assert stability is not None
    assert stability > 0.25


def test_the_index_is_the_one_of_the_formula() -> None:
    made = Reference(mean=0.0, std=1.0, edges=(0.0,), shares=(0.5, 0.5))
    values = np.repeat([-1.0, 1.0], [80, 20])
    expected = (0.8 - 0.5) * math.log(0.8 / 0.5) + (0.2 - 0.5) * math.log(0.2 / 0.5)
    assert made.stability(values) == pytest.approx(expected)


def test_too_few_values_say_nothing() -> None:
    assert Reference.of(NORMAL[:49]) is None
    assert reference().stability([1.0] * 49) is None
    assert reference().shift([math.nan] * 500) is None


def test_a_column_of_one_value_moves_when_it_gets_another() -> None:
    still = reference(np.full(100, 5.0))
    assert still.stability(np.full(100, 5.0)) == 0
    stability = still.stability(np.full(100, 6.0))
    assert stability is not None
    assert stability > 1
    assert still.shift(np.full(100, 5.0)) == 0


def test_a_reference_is_plain_data_and_what_is_none_is_refused() -> None:
    made = reference()
    assert Reference.from_plain(json.loads(json.dumps(made.plain()))) == made
    for wrong in (None, {}, {"mean": 1}, made.plain() | {"shares": [1.0]}, made.plain() | {"mean": math.nan}, [1]):
        assert Reference.from_plain(wrong) is None


def test_columns_without_reference_or_values_are_left_out() -> None:
    values = np.stack([NORMAL[:500], NORMAL[:500] + 6, np.full(500, np.nan)], axis=1).astype(np.float32)
    drift = drift_of({"a": reference(), "b": reference(), "c": reference()}, ("a", "b", "c"), values)
    assert set(drift) == {"a", "b"}
    assert drift["b"][0] > 0.25
    assert drift["b"][1] == pytest.approx(3, abs=0.3)
    assert drift_of({}, ("a",), values[:, :1]) == {}
