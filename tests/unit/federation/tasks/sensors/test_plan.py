"""What a sensor task is told, and what it answers to what is wrong."""

from pathlib import Path

import pytest

from federation.errors import ConfigError
from federation.tasks.sensors.plan import Kind, SensorPlan, read_plan

PAGE = (Path(__file__).parents[5] / "docs" / "how-to" / "sensors.md").read_text()

GOOD = {"columns": ["a", "b"], "window": 60}


def test_columns_and_a_window_are_enough() -> None:
    plan = read_plan(GOOD, Kind.RECONSTRUCTION)
    assert (plan.model, plan.points, plan.spec.columns, plan.spec.length) == ("conv", "all", ("a", "b"), 60)
    assert read_plan({"columns": "a, b", "window": 60}, Kind.RECONSTRUCTION) == plan


def test_readings_are_held_out_where_a_task_needs_no_whole_life() -> None:
    plan = SensorPlan(columns=("a",), window=2)
    assert [plan.held_out(kind) for kind in Kind] == [0.2, 0.2, 0.0, 0.0]
    assert SensorPlan(columns=("a",), window=2, holdout=0.5).held_out(Kind.CLASS) == 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"windw": 60}, "task.arguments.windw: there is no such argument; did you mean window"),
        ({"zzz": 60}, "no such argument: there are columns, window"),
        ({"window": 1}, "task.arguments.window"),
        ({"window": "x"}, "task.arguments.window"),
        ({"columns": []}, "task.arguments.columns"),
        ({"columns": ["a", "a"]}, "each once"),
        ({"columns": ["a", ""]}, "each once"),
        ({"model": "transformer"}, "'dense', 'conv' or 'gru'"),
        ({"target": "a"}, "cannot be a column and the target"),
        ({"quantile": 0.0}, "task.arguments.quantile"),
        ({"threshold": "mine"}, "task.arguments.threshold"),
        ({"scaler_digest": "xyz"}, "task.arguments.scaler_digest"),
        ({"points": "most"}, "'all', 'any', 'mean' or 'last'"),
        ({"holdout": 1.0}, "task.arguments.holdout"),
        ({"cap": float("inf")}, "task.arguments.cap"),
        ({"threshold": float("inf")}, "task.arguments.threshold"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_right(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_plan(GOOD | change, Kind.RECONSTRUCTION)


@pytest.mark.parametrize(("lacking", "said"), [("columns", "needs it, such as columns ="), ("window", "window = 60")])
def test_what_is_missing_is_shown(lacking: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_plan({name: value for name, value in GOOD.items() if name != lacking}, Kind.RECONSTRUCTION)


def test_a_classifier_needs_classes_and_the_column_that_says_them() -> None:
    for change in ({}, {"target": "state"}, {"classes": ["ok", "worn"]}, {"target": "state", "classes": ["ok"]}):
        with pytest.raises(ConfigError, match="target = "):
            read_plan(GOOD | change, Kind.CLASS)
    assert read_plan(GOOD | {"target": "state", "classes": "ok, worn"}, Kind.CLASS).classes == ("ok", "worn")


@pytest.mark.parametrize("kind", [Kind.CLASS, Kind.REMAINING])
def test_a_quantile_of_scores_is_no_threshold_of_classes_and_lives(kind: Kind) -> None:
    told = GOOD | {"target": "state", "classes": ["ok", "worn"]}
    with pytest.raises(ConfigError, match="takes a number"):
        read_plan(told | {"threshold": "own"}, kind)
    assert read_plan(told | {"threshold": 20}, kind).threshold == 20.0


def test_the_page_has_every_argument_and_its_default() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert [name for name in SensorPlan.model_fields if not any(f"`{name}`" in line for line in lines)] == []
    assert "| `conv`, 32 |" in PAGE
    plan = SensorPlan(**GOOD)
    assert (plan.model, plan.width, plan.quantile, plan.factor, plan.horizon, plan.cap) == ("conv", 32, 0.99, 1, 1, 125)
