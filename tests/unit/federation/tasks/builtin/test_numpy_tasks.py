"""The tasks that need no torch: null and quadratic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Parameters, TaskContext
from federation.tasks.builtin.synthetic import NullTask, QuadraticTask, node_optimum
from federation.tasks.check import check_task


def floats(parameters: Parameters, name: str) -> NDArray[np.float32]:
    return np.asarray(parameters[name], np.float32)


def never() -> bool:
    return False


def quadratic(node_index: int | None, node_count: int = 4, size: int = 8) -> QuadraticTask:
    return QuadraticTask(TaskContext(node_index=node_index, node_count=node_count, seed=3), size=size)


def test_both_keep_the_contract_of_a_task() -> None:
    check_task(NullTask(TaskContext(node_index=1, node_count=2)))
    check_task(quadratic(1))


def test_null_changes_every_node_and_round_differently_but_a_little() -> None:
    changes = set()
    for node_index in (0, 1):
        task = NullTask(TaskContext(node_index=node_index, node_count=2), size=64)
        initial = task.initial_parameters(0)
        for seed in (0, 10):
            after = task.train(initial, TrainSettings(seed=seed), never).parameters
            change = floats(after, "weights") - floats(initial, "weights")
            assert 0 < np.abs(change).max() < 2e-3
            changes.add(change.tobytes())
    assert len(changes) == 4


def test_null_measures_nothing() -> None:
    task = NullTask(TaskContext(node_index=None, node_count=2))
    assert task.evaluate(task.initial_parameters(0)) == {}
    assert task.roles() == {}


def test_parameters_of_another_task_are_refused() -> None:
    wrong = {"other": np.zeros(8, np.float32)}
    for task in (NullTask(TaskContext(node_index=0, node_count=1), size=8), quadratic(0)):
        with pytest.raises(TaskError, match="one tensor"):
            task.train(wrong, TrainSettings(), never)


@settings(deadline=None)
@given(epochs=st.integers(1, 20), max_steps=st.integers(0, 20), rate=st.floats(0.01, 0.9))
def test_quadratic_steps_follow_the_closed_form(epochs: int, max_steps: int, rate: float) -> None:
    task = quadratic(2)
    start = floats(task.initial_parameters(0), "point")
    settings = TrainSettings(local_epochs=epochs, max_steps=max_steps, learning_rate=rate)
    end = floats(task.train({"point": start}, settings, never).parameters, "point")
    steps = min(epochs, max_steps) if max_steps else epochs
    centre = node_optimum(3, 2, 8)
    np.testing.assert_allclose(end, centre + (1 - rate) ** steps * (start - centre), rtol=1e-4, atol=1e-5)


def test_the_proximal_term_keeps_a_node_near_its_base() -> None:
    task = quadratic(0)
    start = task.initial_parameters(0)
    near = task.train(start, TrainSettings(local_epochs=200, learning_rate=0.1, proximal_mu=1.0), never)
    # The minimum of 1/2 |w - c|^2 + 1/2 |w - w0|^2 is half-way.
    half_way = (node_optimum(3, 0, 8) + floats(start, "point")) / 2
    np.testing.assert_allclose(floats(near.parameters, "point"), half_way, atol=1e-4)


def test_averaging_quadratic_nodes_finds_the_global_optimum() -> None:
    nodes = [quadratic(index) for index in range(4)]
    coordinator = quadratic(None)
    point = floats(coordinator.initial_parameters(0), "point")
    first = coordinator.evaluate({"point": point})["loss"]
    for _ in range(30):
        settings = TrainSettings(local_epochs=3, learning_rate=0.2)
        results = [node.train({"point": point}, settings, never) for node in nodes]
        point = np.mean([floats(result.parameters, "point") for result in results], axis=0)
    assert coordinator.evaluate({"point": point})["loss"] < 1e-6 * first
    np.testing.assert_allclose(point, coordinator.optimum, atol=1e-3)


def test_a_stopped_quadratic_node_takes_no_further_step() -> None:
    task = quadratic(0)
    start = task.initial_parameters(0)
    result = task.train(start, TrainSettings(local_epochs=5), lambda: True)
    np.testing.assert_array_equal(result.parameters["point"], start["point"])


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_divergence_is_an_error_that_says_what_to_do() -> None:
    task = quadratic(0)
    with pytest.raises(TaskError, match="lower learning_rate"):
        task.train(task.initial_parameters(0), TrainSettings(local_epochs=500, learning_rate=1e4), never)


def test_the_coordinator_cannot_train() -> None:
    task = quadratic(None)
    with pytest.raises(TaskError, match="no training data"):
        task.train(task.initial_parameters(0), TrainSettings(), never)
