"""What nodes and the coordinator evaluate on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from federation.task import Metrics, TaskContext
from federation.tasks import TorchTask
from federation.tasks.data.whole_data import WholeData
from federation.tasks.registry import load_task

COORDINATOR = TaskContext(node_index=None, node_count=5)
RNG = np.random.default_rng(3)
TRAIN = RNG.normal(size=(300, 4)).astype(np.float32), RNG.integers(0, 3, 300)
TEST = RNG.normal(size=(101, 4)).astype(np.float32), RNG.integers(0, 3, 101)


def dataset(pair: tuple[Any, Any]) -> TensorDataset:
    return TensorDataset(*(torch.from_numpy(array) for array in pair))


KINDS = {"pair": lambda pair: pair, "whole data": lambda pair: WholeData(lambda: pair), "data set": dataset}


def task_of(context: TaskContext, train: Any = TRAIN, test: Any = TEST) -> TorchTask:
    return TorchTask(context, model=lambda: nn.Linear(4, 3), train_data=train, test_data=test, loss=cross_entropy)


def on_nodes(build: Any, context: TaskContext = COORDINATOR) -> list[Metrics]:
    """Version 0, evaluated by every node."""
    tasks = [build(replace(context, node_index=index)) for index in range(context.node_count)]
    return [task.evaluate(task.initial_parameters(0)) for task in tasks]


def mean(found: list[Metrics], name: str) -> float:
    return float(np.average([each[name] for each in found], weights=[each["test_examples"] for each in found]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["iid", "dirichlet:2"])
def test_the_mean_over_all_nodes_is_what_the_coordinator_finds(kind: str, way: str) -> None:
    context = replace(COORDINATOR, partition=way)
    wrap = KINDS[kind]
    central = task_of(context, wrap(TRAIN), wrap(TEST))
    found = on_nodes(lambda each: task_of(each, wrap(TRAIN), wrap(TEST)), context)
    expected = central.evaluate(central.initial_parameters(0))
    assert expected.keys() == {"accuracy", "loss"}
    assert sum(each["test_examples"] for each in found) == 101
    assert mean(found, "accuracy") == pytest.approx(expected["accuracy"])
    assert mean(found, "loss") == pytest.approx(expected["loss"])


@pytest.mark.parametrize(("train", "test"), [(lambda: TRAIN, TEST), (TRAIN, lambda: TEST)], ids=["train", "test"])
def test_data_of_a_nodes_own_is_never_divided(train: Any, test: Any) -> None:
    found = on_nodes(lambda each: task_of(each, train, test))
    assert [each["test_examples"] for each in found] == [101.0] * 5


def test_a_node_without_a_test_example_evaluates_nothing() -> None:
    one = TEST[0][:1], TEST[1][:1]
    found = on_nodes(lambda each: task_of(each, test=one))
    assert sorted(each.get("test_examples", 0.0) for each in found) == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert found.count({}) == 4


def test_a_shipped_task_divides_its_test_set_like_its_training_set() -> None:
    skewed = replace(COORDINATOR, partition="dirichlet:0.1")
    sizes = [each["test_examples"] for each in on_nodes(load_task("digits"), skewed)]
    assert sum(sizes) == 359
    assert max(sizes) > 2 * min(sizes)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "count"),
    [("mnist-mlp", 10_000), ("mnist-cnn", 10_000), ("mnist-logreg", 10_000), ("mnist-wide", 10_000), ("boston", 100)],
)
def test_so_do_all_the_others(name: str, count: int, data_dir: Path) -> None:
    found = on_nodes(load_task(name), replace(COORDINATOR, node_count=2, data=data_dir))
    assert sum(each["test_examples"] for each in found) == count
