"""Scores, thresholds and points, by hand."""

import json
import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import TaskError
from federation.readings.windows import WindowSpec
from federation.tasks.sensors.plan import Kind
from federation.tasks.sensors.rules import (
    BINS,
    Scaler,
    ScoreRule,
    point_scores,
    quantile_of_shares,
    shares_of,
)

SPEC = WindowSpec(("a", "b"), 2)


def rule(kind: Kind = Kind.RECONSTRUCTION, **changes: object) -> ScoreRule:
    fields = {"kind": kind, "window": SPEC, "scaler": Scaler((1.0, 2.0), (2.0, 4.0))} | changes
    return ScoreRule(**fields)  # type: ignore[arg-type]  # what each test changes


def test_a_reconstructions_score_is_its_mean_distance_in_deviations() -> None:
    windows = np.array([[[1.0, 2.0], [3.0, 6.0]], [[1.0, 2.0], [1.0, 2.0]]])  # scaled: 0 0 1 1, and 0 0 0 0
    assert rule().score(np.zeros_like, windows).tolist() == [0.5, 0.0]
    assert rule().score(lambda inputs: inputs, windows).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [1e38, -1e38, 1e9])
def test_a_sensor_that_says_the_impossible_has_a_score_that_is_a_number(value: float) -> None:
    windows = np.array([[[1.0, 2.0], [value, 2.0]]], np.float32)
    for kind, horizon in ((Kind.RECONSTRUCTION, 0), (Kind.FORECAST, 1)):
        found = rule(kind, horizon=horizon, window=WindowSpec(("a", "b"), 2 - horizon), threshold=3.0)
        scores = found.score(np.tanh, windows)
        assert np.isfinite(scores).all()
        assert found.alarms(scores).all()


def test_units_of_a_sensor_are_not_cut_where_nothing_is_scaled() -> None:
    pascals = np.array([[1.2e6, -3e7]], np.float32)
    assert Scaler.none(2).scaled(pascals).tolist() == pascals.tolist()
    assert np.isfinite(Scaler.none(2).scaled(np.array([3.4e38, -3.4e38])) * np.float32(1e6)).all()


def test_a_forecasts_score_compares_with_the_rows_that_came() -> None:
    windows = np.array([[[1.0, 2.0], [1.0, 2.0], [3.0, 10.0]]])  # the row that came, scaled: 1 2
    forecast = rule(Kind.FORECAST, horizon=1)
    assert forecast.rows == 3
    assert forecast.score(lambda inputs: np.zeros((len(inputs), 1, 2), np.float32), windows).tolist() == [1.5]


def test_a_class_has_a_probability_and_a_number() -> None:
    outputs = np.array([[0.0, 0.0], [0.0, 1000.0]], np.float32)
    found = rule(Kind.CLASS, classes=("ok", "worn"))
    assert found.scores_of(outputs, np.zeros((2, 2, 2))).tolist() == [0.5, 1.0]
    assert found.answers(outputs).tolist() == [0, 1]


def test_what_is_left_alarms_below_its_threshold() -> None:
    found = rule(Kind.REMAINING, threshold=10.0, above=False)
    scores = found.scores_of(np.array([[30.0], [9.0]], np.float32), np.zeros((2, 2, 2)))
    assert (scores.tolist(), found.alarms(scores).tolist()) == ([30.0, 9.0], [False, True])


def test_nothing_alarms_without_a_threshold_and_what_is_unknown_never_does() -> None:
    assert rule().alarms([1e9]).tolist() == [False]
    assert rule(threshold=1.0).alarms([np.nan, 1.0, 1.1]).tolist() == [False, False, True]


def test_no_window_has_no_score_and_many_are_asked_some_at_once() -> None:
    asked: list[int] = []

    def model(inputs: np.ndarray) -> np.ndarray:
        asked.append(len(inputs))
        return inputs

    assert rule().score(model, np.empty((0, 2, 2))).shape == (0,)
    assert rule().score(model, np.zeros((600, 2, 2))).shape == (600,)
    assert asked == [256, 256, 88]


@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 2), (4, 2, 3)])
def test_windows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TaskError, match=r"windows are \(n, 2, 2\)"):
        rule().score(np.zeros_like, np.zeros(shape))


def test_an_answer_of_another_shape_is_refused() -> None:
    with pytest.raises(TaskError, match="the model answers"):
        rule().score(lambda inputs: inputs[:, :1], np.zeros((4, 2, 2)))


@pytest.mark.parametrize(
    "wanted",
    [
        rule(),
        rule(Kind.FORECAST, horizon=3, threshold=0.25, points="last", threshold_from="its own"),
        rule(Kind.CLASS, classes=("ok", "worn"), window=WindowSpec(("a", "b"), 2, 1, 0.5, "linear", 9.0)),
    ],
)
def test_a_rule_is_plain_data_and_comes_back(wanted: ScoreRule) -> None:
    said = json.loads(json.dumps(wanted.to_json()))
    assert ScoreRule.from_json(said | {"of_a_newer_release": 1}) == wanted


@pytest.mark.parametrize(
    "change", [{"kind": "magic"}, {"window": 3}, {"scaler": {}}, {"points": "most"}, {"horizon": "x"}, {"classes": 4}]
)
def test_what_is_no_rule_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(TaskError, match="the score rule cannot be read"):
        ScoreRule.from_json(rule().to_json() | change)


def test_a_rule_without_a_field_is_refused() -> None:
    said = rule().to_json()
    del said["window"]
    with pytest.raises(TaskError, match="window"):
        ScoreRule.from_json(said)


def test_a_device_scores_without_torch() -> None:
    code = "import sys, federation.tasks.sensors.rules; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"


# windows of 3 rows over 6 rows, four of them: points 2 and 3 have all three windows over them
POINTS: Mapping[str, list[float]] = {
    "all": [np.nan, np.nan, 1, 2, np.nan, np.nan],
    "any": [1, 4, 4, 4, 3, 3],
    "mean": [1, 2.5, 7 / 3, 3, 2.5, 3],
    "last": [np.nan, np.nan, 1, 4, 2, 3],
}


@pytest.mark.parametrize("points", POINTS)
def test_points_are_scored_by_the_windows_over_them(points: str) -> None:
    found = point_scores([1, 4, 2, 3], [0, 1, 2, 3], 3, 6, points)  # type: ignore[arg-type]  # a name of the rules
    np.testing.assert_allclose(found, np.array(POINTS[points], np.float32), rtol=1e-6)


def test_points_of_windows_that_are_apart_need_as_many_as_there_can_be() -> None:
    found = point_scores([1, 4, 2], [0, 2, 4], 4, 8, "all", stride=2)
    np.testing.assert_allclose(found, [np.nan, np.nan, 1, 1, 2, 2, np.nan, np.nan])
    assert np.isnan(point_scores([], [], 4, 3)).all()


def test_no_window_over_a_gap_says_anything_of_it() -> None:
    found = point_scores([1, 2], [0, 5], 3, 8, "any")
    np.testing.assert_array_equal(np.isnan(found), [False, False, False, True, True, False, False, False])


def test_a_scaler_leaves_gaps_out_and_a_column_that_does_not_vary_as_it_is() -> None:
    made = Scaler.of(np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [np.nan, 5.0, np.nan]]))
    assert (made.mean, made.std) == ((2.0, 5.0, 0.0), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(made.scaled([[3.0, 6.0, 7.0]]), np.array([[1.0, 1.0, 7.0]], np.float32))
    assert Scaler.none(2).scaled([[3.0, 4.0]]).tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize(
    ("mean", "std"),
    [((1.0,), (0.0,)), ((1.0,), (-1.0,)), ((np.nan,), (1.0,)), ((1.0, 2.0), (1.0,)), ((1.0,), (np.inf,))],
)
def test_what_is_no_scaler_is_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(TaskError, match="a scaler needs"):
        Scaler(mean, std)


def test_a_scaler_is_read_by_column_and_by_digest(tmp_path: Path) -> None:
    file = tmp_path / "scaler.json"
    file.write_text(json.dumps({"columns": {"b": {"mean": 2, "std": 0}, "a": {"mean": 1, "std": 3}, "c": {}}}))
    digest = sha256(file.read_bytes()).hexdigest()
    assert Scaler.read(file, ("a", "b"), digest[:16]) == Scaler((1.0, 2.0), (3.0, 1.0), digest)
    with pytest.raises(TaskError, match="has the digest"):
        Scaler.read(file, ("a", "b"), "0" * 16)
    with pytest.raises(TaskError, match="has no 'd'"):
        Scaler.read(file, ("a", "d"))


@pytest.mark.parametrize(
    "text", [None, "", "[]", '{"columns": 3}', '{"columns": {"a": {"mean": "x", "std": 1}}}', "{}"]
)
def test_a_file_that_is_no_scaler_is_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "scaler.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(TaskError, match="the scaler"):
        Scaler.read(file, ("a",))


def test_a_scaler_of_many_bytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "scaler.json"
    file.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(TaskError, match="more than 1,048,576 bytes"):
        Scaler.read(file, ("a",))


@given(st.lists(st.lists(st.floats(0.01, 100), min_size=1, max_size=50), min_size=1, max_size=5), st.floats(0.01, 1.0))
def test_the_mean_of_the_nodes_shares_says_the_quantile_of_all_scores_within_a_bin(
    nodes: list[list[float]], quantile: float
) -> None:
    weights = [len(scores) for scores in nodes]
    shares = np.average([shares_of(scores) for scores in nodes], axis=0, weights=weights)
    ordered = np.sort(np.concatenate([np.array(scores) for scores in nodes]))
    found = quantile_of_shares(shares, quantile)
    # the score at which so many of all scores lie at or below, give or take what float32 keeps of a share
    least = ordered[max(0, int(np.ceil(quantile * len(ordered) - 1e-4)) - 1)]
    most = ordered[min(len(ordered) - 1, int(np.floor(quantile * len(ordered) + 1e-4)))]
    bin_width = (1e6) ** (1 / BINS)
    assert found is not None
    assert least / bin_width * (1 - 1e-6) <= found <= most * bin_width * (1 + 1e-6)


@pytest.mark.parametrize("shares", [np.zeros(BINS), np.full(BINS, -1.0), np.full(BINS, np.nan), np.ones(3)])
def test_shares_that_say_nothing_have_no_quantile(shares: np.ndarray) -> None:
    assert quantile_of_shares(shares, 0.5) is None


def test_scores_beyond_the_bins_are_in_the_last_ones() -> None:
    shares = shares_of([0.0, 1e-9, 1e9, 1e9])
    assert (shares[0], shares[-1], shares.sum()) == (0.5, 0.5, 1.0)
    assert shares_of([]).sum() == 0
