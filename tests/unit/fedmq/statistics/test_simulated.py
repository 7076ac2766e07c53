"""A whole run of statistics: the real machine, store and committer, and nodes that are honest, broken or liars."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.config.sections import CoordinatorConfig, read_config
from edge_node.training.worker import TrainingSetup
from federation.errors import ConfigError, TaskError
from federation.inputs import Inputs
from federation.privacy.budget import epsilon_of
from federation.task import Array, Metrics, Parameters, Stop, TaskContext, TrainResult
from federation.tasks.registry import named_task
from fedmq.simulation.experiment.direct import Question
from fedmq.statistics.findings import Findings
from fedmq.statistics.simulated import Answer, simulated, train
from update_codec import Role, Vectors

NAMES = ("heat", "flow", "step")


class Rows:
    """A task that has rows, and a model of one number."""

    def __init__(self, context: TaskContext, parts: Sequence[NDArray[Any]], names: Sequence[str] = NAMES) -> None:
        self.names = tuple(names)
        self.own = np.zeros((0, len(names))) if context.node_index is None else parts[context.node_index]

    def initial_parameters(self, seed: int) -> Parameters:
        return {"w": np.full(1, seed, np.float32)}

    def roles(self) -> dict[str, Role]:
        return {}

    def train(self, parameters: Parameters, settings: Any, stop: Stop) -> TrainResult:
        raise NotImplementedError

    def evaluate(self, parameters: Parameters) -> Metrics:
        return {}

    def inputs(self) -> Inputs:
        return Inputs(features=self.names)

    def adopt_inputs(self, wanted: Inputs) -> None:
        if missing := set(wanted.features) - set(self.names):
            raise TaskError(f"there is no column {', '.join(sorted(missing))}")
        self.own = self.own[:, [self.names.index(name) for name in wanted.features]]
        self.names = wanted.features

    def column_names(self) -> Sequence[str]:
        return self.names

    def rows(self) -> Array:
        return self.own


def parts_of(seed: int = 0, sizes: Sequence[int] = (400, 1, 150)) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return [
        np.stack([rng.normal(50, 0.3, size), rng.lognormal(0, 2, size), rng.integers(0, 5, size) * 1.0], 1)
        for size in sizes
    ]


def config(**settings: Any) -> CoordinatorConfig:
    flags = {"broker.url": "mqtt://localhost", "federation.id": "simulation", "statistics.only": True}
    flags |= {name.replace("__", "."): value for name, value in settings.items()}
    return read_config(None, flags, environ={})


def run(
    parts: Sequence[NDArray[Any]],
    answer: Answer = train,
    build: Callable[[TaskContext, Sequence[NDArray[Any]]], Any] = Rows,
    **settings: Any,
) -> Findings:
    with named_task(lambda context: build(context, parts)) as name:
        return simulated(config(task__name=name, **settings), len(parts), answer)


def check_pooled(found: Findings, rows: NDArray[np.float64]) -> None:
    assert found.statistics.rows == len(rows)
    for column, values in zip(found.statistics.columns, rows.T, strict=True):
        assert column.count == len(values)
        assert column.mean == pytest.approx(values.mean(), rel=1e-12)
        assert column.variance == pytest.approx(values.var(), rel=1e-9)
        assert column.minimum <= values.min() <= column.minimum + column.bin_width
        for share in (0.05, 0.5, 0.95):
            inside = np.quantile(values, share, method="inverted_cdf")
            assert abs(column.quantile(share) - inside) <= column.bin_width


def test_three_nodes_find_what_one_machine_with_all_rows_finds() -> None:
    found = run(parts_of())
    check_pooled(found, np.concatenate(parts_of()))
    assert (found.nodes, found.left_out) == (("node-0", "node-1", "node-2"), {})
    assert [column.name for column in found.statistics.columns] == list(NAMES)


@given(st.lists(st.integers(0, 30), min_size=2, max_size=5).filter(any), st.integers(0, 100))
@settings(max_examples=10)
def test_who_has_which_row_changes_no_figure(sizes: list[int], seed: int) -> None:
    rows = np.concatenate(parts_of(seed, sizes))
    divided = run(np.split(rows, np.cumsum(sizes)[:-1])).statistics.to_dict()
    assert divided == run([rows]).statistics.to_dict()


def lying(change: Callable[[dict[str, NDArray[np.float32]]], None], examples: int = 0) -> Answer:
    def answer(setup: TrainingSetup, question: Question, model: Vectors) -> TrainResult:
        result = train(setup, question, model)
        if setup.node != "node-1":
            return result
        arrays = {name: np.array(array, np.float32) for name, array in result.parameters.items()}
        change(arrays)
        return replace(result, parameters=arrays, num_examples=examples or result.num_examples)

    return answer


def huge_sum(arrays: dict[str, NDArray[np.float32]]) -> None:
    arrays["statistics.sums"][0, 20] += 200


def huge_counts(arrays: dict[str, NDArray[np.float32]]) -> None:
    arrays["statistics.bins"][:, 200, 4] += 255


def a_part(arrays: dict[str, NDArray[np.float32]]) -> None:
    arrays["statistics.squares"][0, 0] += np.float32(0.5)


def other_bins(arrays: dict[str, NDArray[np.float32]]) -> None:
    arrays["statistics.span"][0, 0, 7] += 1


@pytest.mark.parametrize("lie", [huge_sum, huge_counts, a_part, other_bins])
def test_a_lie_that_contradicts_itself_costs_the_liar_alone(lie: Callable[..., None]) -> None:
    """[FED-233]."""
    parts = parts_of()
    found = run(parts, lying(lie))
    check_pooled(found, np.concatenate([parts[0], parts[2]]))
    assert list(found.left_out) == ["node-1"]


def test_more_rows_than_a_node_may_have_are_refused() -> None:
    found = run(parts_of(), lying(lambda _arrays: None, examples=10**9))
    assert (list(found.left_out), found.statistics.rows) == (["node-1"], 550)


def test_a_node_that_says_other_rows_than_it_counts_is_left_out() -> None:
    found = run(parts_of(), lying(lambda _arrays: None, examples=77))
    assert (list(found.left_out), found.statistics.rows) == (["node-1"], 550)


def test_a_node_that_vanishes_in_the_middle_leaves_the_others_figures() -> None:
    parts = parts_of()

    def answer(setup: TrainingSetup, question: Question, model: Vectors) -> TrainResult | None:
        late = question.announcement.model.version == 2
        return None if late and setup.node == "node-0" else train(setup, question, model)

    found = run(parts, answer)
    check_pooled(found, np.concatenate(parts[1:]))
    assert list(found.left_out) == ["node-0"]


def test_a_node_without_rows_counts_none() -> None:
    found = run([*parts_of(), np.zeros((0, 3))])
    check_pooled(found, np.concatenate(parts_of()))
    assert found.nodes[-1] == "node-3"


def test_nobody_with_a_row_is_no_error() -> None:
    found = run([np.zeros((0, 3))] * 2)
    assert (found.statistics.rows, found.statistics.columns[0].to_dict()["mean"]) == (0, None)


def test_a_node_without_a_column_is_left_out_by_the_columns_name() -> None:
    def build(context: TaskContext, parts: Sequence[NDArray[Any]]) -> Rows:
        return Rows(context, parts, NAMES[:2] if context.node_index == 1 else NAMES)

    parts = parts_of()
    parts[1] = parts[1][:, :2]
    found = run(parts, build=build)
    assert "step" in found.left_out["node-1"]
    check_pooled(found, np.concatenate([parts[0], parts[2]]))


def test_columns_are_taken_by_name_whatever_their_order() -> None:
    def build(context: TaskContext, parts: Sequence[NDArray[Any]]) -> Rows:
        return Rows(context, parts, NAMES[::-1] if context.node_index == 1 else NAMES)

    parts = parts_of()
    parts[1] = parts[1][:, ::-1]
    check_pooled(run(parts, build=build), np.concatenate(parts_of()))


def test_some_columns_are_enough() -> None:
    found = run(parts_of(), statistics__columns=("flow", "heat"))
    assert [column.name for column in found.statistics.columns] == ["flow", "heat"]
    check_pooled(found, np.concatenate(parts_of())[:, [1, 0]])


def test_bounds_leave_out_what_a_broken_sensor_says() -> None:
    parts = parts_of()
    parts[0][:7, 0] = -9999.0
    found = run(parts, statistics__bounds={"heat": (-40.0, 125.0)})
    heat = found.statistics.columns[0]
    assert (heat.outside, heat.count) == (7, 544)
    assert 48 < heat.minimum < heat.maximum < 52


def test_whole_numbers_near_the_end_of_their_type_do_not_overflow() -> None:
    parts = [np.full((3, 3), 2**63 - 1, np.int64), np.full((2, 3), -(2**63), np.int64)]
    column = run(parts).statistics.columns[0]
    assert column.mean == (3 * (2**63 - 1) - 2 * 2**63) / 5
    assert column.std == pytest.approx(2**64 * np.sqrt(0.24))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"statistics__columns": ("heat", "speed")}, "then too few nodes answered: node-0: .*speed"),
        ({"statistics__columns": ("heat", "heat")}, "different ones"),
        ({"statistics__bounds": {"speed": (0.0, 1.0)}}, "no column 'speed'"),
        ({"statistics__bounds": {"heat": (1.0, 1.0)}}, "must rise"),
        ({"privacy__unit": "examples", "privacy__epsilon": 1e-6}, "privacy"),
        ({"privacy__unit": "nodes"}, "count with examples"),
        ({"privacy__masked": True, "privacy__helpers": ("h=" + "A" * 43,)}, "privacy"),
    ],
)
def test_what_cannot_be_counted_is_said(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, TaskError), match=words):
        run(parts_of(), **settings)


class Bare:
    """A task of an earlier release."""

    def initial_parameters(self, seed: int) -> Parameters:
        return {"w": np.full(1, seed, np.float32)}

    def roles(self) -> dict[str, Role]:
        return {}


def test_a_task_without_readings_is_told_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match="columns: not known here"):
        run(parts_of(), build=lambda _context, _parts: Bare())
    with pytest.raises(TaskError, match="a Bare has no readings to count"):
        run(parts_of(), build=lambda _context, _parts: Bare(), statistics__columns=("3",))


def test_with_noise_only_noisy_counts_leave_a_node_and_the_budget_is_kept() -> None:
    """[FED-234]."""
    parts, seen = parts_of(3, (3000, 2500, 2800)), []

    def answer(setup: TrainingSetup, question: Question, model: Vectors) -> TrainResult:
        result = train(setup, question, model)
        seen.append((question.announcement.settings, result))
        return result

    found = run(parts, answer, privacy__unit="examples", privacy__epsilon=4.0)
    spent = [result.spent for settings, result in seen if result.spent is not None]
    assert len(spent) == len(seen) == 9
    assert epsilon_of(spent[:3], 1e-5) == pytest.approx(4.0, abs=0.01)
    for _, result in seen:
        own = {name: np.asarray(result.parameters[name]) for name in ("statistics.sums", "statistics.squares")}
        assert (result.num_examples, dict(result.metrics), any(map(np.any, own.values()))) == (1, {}, False)
    rows = np.concatenate(parts)
    noise = found.statistics.columns[0].noise
    assert noise == pytest.approx(spent[0].noise * np.sqrt(3 * 3))
    assert found.statistics.rows == pytest.approx(len(rows), abs=5 * noise * np.sqrt(260 / 3))
    heat, _, step = found.statistics.columns
    assert heat.mean == pytest.approx(rows[:, 0].mean(), abs=0.1)
    assert heat.std == pytest.approx(rows[:, 0].std(), abs=0.2)
    assert abs(heat.quantile(0.5) - np.median(rows[:, 0])) < 0.1
    assert step.mean == pytest.approx(rows[:, 2].mean(), abs=0.2)
    assert heat.to_dict()["noise"] == noise


def test_noise_in_the_model_and_none_in_the_settings_is_refused() -> None:
    parts = parts_of()

    def answer(setup: TrainingSetup, question: Question, model: Vectors) -> TrainResult:
        plain = replace(question.announcement.settings, privacy=None)
        return setup.task.train(setup.manifest.unflatten(model), plain, lambda: False)

    with pytest.raises(TaskError, match="announced noise is 0 on a count"):
        run(parts, answer, privacy__unit="examples")


def test_sums_beside_noisy_counts_are_refused() -> None:
    def answer(setup: TrainingSetup, question: Question, model: Vectors) -> TrainResult:
        result = train(setup, question, model)
        arrays = {name: np.array(array, np.float32) for name, array in result.parameters.items()}
        arrays["statistics.sums"][0, 0] += 1
        return replace(result, parameters=arrays) if setup.node == "node-1" else result

    found = run(parts_of(0, (900, 900, 900)), answer, privacy__unit="examples")
    assert list(found.left_out) == ["node-1"]


def test_an_owner_may_forbid_it() -> None:
    def answer(setup: TrainingSetup, question: Question, model: Vectors) -> TrainResult:
        task = replace(setup.task, allowed=setup.node != "node-2")  # type: ignore[type-var]
        return train(replace(setup, task=task), question, model)

    found = run(parts_of(), answer)
    assert "owner" in found.left_out["node-2"]


def test_a_columns_number_is_enough_where_nobody_has_names() -> None:
    class Numbered(Rows):
        def inputs(self) -> Inputs:
            return Inputs()

    found = run(parts_of(), build=Numbered, statistics__columns=("3",))
    assert [column.name for column in found.statistics.columns] == ["0", "1", "2"]
    check_pooled(found, np.concatenate(parts_of()))
