"""What no sensor has measured is told from what is only rare."""

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from federation.readings.live import Readings
from federation.readings.outliers import outliers

NOISE = np.random.default_rng(0).normal(20.0, 0.1, 500)


@pytest.mark.parametrize("value", [1e38, -1e38, 3.4e38, 1e9, -1e9])
def test_one_value_far_beyond_all_others_is_an_outlier(value: float) -> None:
    column = NOISE.copy()
    column[[7, 300]] = value
    assert np.flatnonzero(outliers(column)).tolist() == [7, 300]
    assert np.flatnonzero(outliers(np.where(NOISE > 0, 3.0, 0.0))).tolist() == []


@pytest.mark.parametrize(
    "column",
    [
        NOISE,
        np.zeros(500),
        np.r_[np.zeros(499), 50.0],  # a switch that was on once
        np.r_[np.full(499, 3.0), 65_535.0],
        np.r_[NOISE, -9_999.0, 4_095.0],  # only whoever knows the sensor knows of these
        np.random.default_rng(0).pareto(0.5, 5_000),  # as heavy a tail as there is
        np.arange(1e6),
        np.r_[NOISE, np.nan, np.inf],
        np.r_[np.zeros(18), 1e38],  # too few
        np.empty(0),
    ],
)
def test_what_is_only_rare_stays(column: NDArray[np.float64]) -> None:
    assert not outliers(column).any()


def test_a_column_that_never_changes_has_outliers_too() -> None:
    assert np.flatnonzero(outliers(np.r_[np.full(300, 3.0), -1e38])).tolist() == [300]


def test_readings_lose_their_strays_alone_and_it_is_said_once() -> None:
    times = np.repeat(np.arange(100.0), 2)
    values = np.tile([20.0, 3.0], 100) + np.sin(times)
    values[51] = 1e38
    found = Readings(("heat", "flow"), times, np.tile([0, 1], 100), values)
    told = set[str]()
    with capture_logs() as log_lines:
        kept = found.without_outliers(told)
        assert found.without_outliers(told) is not found
    assert len(kept.times) == 199
    assert np.abs(kept.values).max() < 22
    assert kept.without_outliers(told) is kept
    (line,) = [line for line in log_lines if line["event"] == "outliers_left_out"]
    assert (line["column"], line["count"], line["first"]) == ("flow", 1, 1e38)
