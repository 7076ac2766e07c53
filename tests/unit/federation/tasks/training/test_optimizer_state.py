"""A kept optimizer goes on where it was, as long as its updates are applied; else it begins anew."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from edge_node.storage.task_state import added, change_of, expected_state
from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import KEPT_KEY, Parameters, TaskContext, TrainResult
from federation.tasks import TorchTask
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.pool.work import Work

NODE = TaskContext(node_index=0, node_count=1, device="cpu")
ADAM: dict[str, Any] = {"batch_size": 0, "learning_rate": 0.05, "extra": {"adam": 1.0}}
MOMENTUM: dict[str, Any] = {"batch_size": 0, "learning_rate": 0.05, "momentum": 0.9}


def kept(how: dict[str, Any], **changes: Any) -> TrainSettings:
    return TrainSettings(**{**how, **changes, "extra": {**how.get("extra", {}), KEPT_KEY: 1.0}})


def rows(count: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return inputs, inputs @ torch.tensor([[1.0], [-2.0], [3.0]])


def task_of(context: TaskContext = NODE, **changes: Any) -> TorchTask:
    arguments: dict[str, Any] = {"model": lambda: nn.Linear(3, 1), "train_data": rows(), "loss": mse_loss} | changes
    return TorchTask(context, **arguments)


class Node:
    """What a node's store does with a task's state: see `edge_node.storage.task_state`."""

    def __init__(self, **changes: Any) -> None:
        self.task, self.state, self.under_way = task_of(**changes), dict[str, Any](), list[Parameters]()

    def train(self, parameters: Parameters, settings: TrainSettings) -> TrainResult:
        self.task.restore(expected_state(self.state, self.under_way))
        result = self.task.train(parameters, settings, bool)
        change = change_of(result)
        self.state |= change.kept
        self.under_way.append(change.pending)
        return result

    def settle(self, *, applied: bool, which: int = 0) -> None:
        pending = self.under_way.pop(which)
        self.state = dict(added(self.state, pending)) if applied else self.state


def equal(ours: Parameters, theirs: Parameters) -> bool:
    return all(np.allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-7) for name in theirs)


@pytest.mark.parametrize("how", [ADAM, MOMENTUM])
def test_two_rounds_with_a_kept_state_are_one_long_round(how: dict[str, Any]) -> None:
    node = Node()
    initial = node.task.initial_parameters(1)
    at_once = task_of().train(initial, TrainSettings(**how, local_epochs=10), bool).parameters
    first = node.train(initial, kept(how, local_epochs=4))
    node.settle(applied=True)
    second = node.train(first.parameters, kept(how, local_epochs=6))
    assert equal(second.parameters, at_once)
    forgotten = Node()
    forgotten.train(initial, TrainSettings(**how, local_epochs=4))
    assert not equal(forgotten.train(first.parameters, TrainSettings(**how, local_epochs=6)).parameters, at_once)
    assert not forgotten.state


def test_the_state_goes_on_while_an_update_is_under_way() -> None:
    node, other = Node(), Node()
    initial = node.task.initial_parameters(1)
    first = node.train(initial, kept(ADAM))
    other.train(initial, kept(ADAM))
    other.settle(applied=True)
    assert equal(
        node.train(first.parameters, kept(ADAM)).parameters, other.train(first.parameters, kept(ADAM)).parameters
    )
    node.settle(applied=True, which=1)
    node.settle(applied=True)
    other.settle(applied=True)
    assert equal(
        node.train(first.parameters, kept(ADAM)).parameters, other.train(first.parameters, kept(ADAM)).parameters
    )


@pytest.mark.parametrize("how", [ADAM, MOMENTUM])
def test_after_an_update_that_was_not_applied_the_optimizer_begins_anew_and_goes_on_from_there(
    how: dict[str, Any],
) -> None:
    node = Node()
    initial = node.task.initial_parameters(1)
    first = node.train(initial, kept(how))
    node.settle(applied=True)
    node.train(first.parameters, kept(how))
    node.settle(applied=False)
    begun = node.train(first.parameters, kept(how, local_epochs=3))
    fresh = task_of().train(first.parameters, TrainSettings(**how, local_epochs=3), bool)
    assert equal(begun.parameters, fresh.parameters)
    node.settle(applied=True)
    going_on = node.train(begun.parameters, kept(how, local_epochs=2))
    at_once = task_of().train(first.parameters, TrainSettings(**how, local_epochs=5), bool)
    assert equal(going_on.parameters, at_once.parameters)


def test_a_velocity_that_went_wild_costs_one_update() -> None:
    node = Node()
    initial = node.task.initial_parameters(1)
    node.train(initial, kept(MOMENTUM, learning_rate=1.5, local_epochs=8))
    assert np.abs(node.state["optimizer.velocity.weight"]).max() > 10
    node.settle(applied=False)
    result = node.train(initial, kept(MOMENTUM))
    assert equal(result.parameters, task_of().train(initial, TrainSettings(**MOMENTUM), bool).parameters)


def test_a_training_that_fails_leaves_the_state_as_it_was() -> None:
    node = Node()
    initial = node.task.initial_parameters(1)
    first = node.train(initial, kept(ADAM))
    node.settle(applied=True)
    before = dict(node.state)
    with pytest.raises(TaskError, match="diverged"):
        node.train(first.parameters, kept(ADAM, learning_rate=1e30, local_epochs=3))
    assert node.state == before


def test_another_optimizer_or_another_model_begins_anew() -> None:
    node = Node()
    initial = node.task.initial_parameters(1)
    node.train(initial, kept(ADAM))
    node.settle(applied=True)
    for how in (MOMENTUM, ADAM):
        found = node.train(initial, kept(how))
        node.settle(applied=True)
        assert equal(found.parameters, task_of().train(initial, TrainSettings(**how), bool).parameters)
    wider = task_of(model=lambda: nn.Linear(3, 2), train_data=lambda: (rows()[0], rows()[0][:, :2]))
    wider.restore(node.state)
    start = wider.initial_parameters(1)
    fresh = task_of(model=lambda: nn.Linear(3, 2), train_data=lambda: (rows()[0], rows()[0][:, :2]))
    found = wider.train(start, kept(ADAM), bool)
    assert equal(found.parameters, fresh.train(start, TrainSettings(**ADAM), bool).parameters)


def test_a_state_is_not_gone_on_from_after_rounds_that_did_not_want_it() -> None:
    node = Node()
    initial = node.task.initial_parameters(1)
    for settings in (kept(ADAM), TrainSettings(**ADAM)):
        node.train(initial, settings)
        node.settle(applied=True)
    found = node.train(initial, kept(ADAM))
    assert equal(found.parameters, task_of().train(initial, TrainSettings(**ADAM), bool).parameters)


def test_it_lies_beside_personal_layers() -> None:
    node = Node(model=lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)), local=["1.*"])
    node.train(node.task.initial_parameters(1), kept(ADAM))
    assert {"local.1.weight", "optimizer.first.1.weight", "optimizer.second.0.bias", "optimizer.steps"} <= set(
        node.state
    )
    assert set(node.under_way[0]) == {"optimizer.settled"}


def test_plain_sgd_keeps_nothing() -> None:
    result = task_of().train(task_of().initial_parameters(1), kept({"batch_size": 0}), bool)
    assert not result.kept
    assert not result.pending


@pytest.mark.parametrize("shared", [True, False])
def test_a_pool_keeps_each_node_s(*, shared: bool) -> None:
    def build(context: TaskContext) -> TorchTask:
        return task_of(context, **({} if shared else {"local": ["bias"]}))

    pool = NodePool(build, TaskContext(node_index=None, node_count=2, device="cpu"))
    base = pool.initial_parameters(1)
    nodes = [build(TaskContext(node_index=index, node_count=2, device="cpu")) for index in (0, 1)]
    states: list[dict[str, Any]] = [{}, {}]
    settled: list[Parameters] = [{}, {}]
    for round_number in range(3):
        given = {index: settled[index] for index in (0, 1)}
        work = Work(nodes=(0, 1), base=base, settings=kept(ADAM), states=given)
        found = {each.node: each for each in pool.train([work])}
        for index, task in enumerate(nodes):
            task.restore({**states[index], **settled[index]})
            alone = task.train(base, kept(ADAM), bool)
            for name, array in alone.parameters.items():
                np.testing.assert_array_equal(found[index].parameters[name], array)
            states[index] |= alone.kept
            # Node 1's second update is refused.
            if (index, round_number) != (1, 1):
                settled[index] = added(settled[index], found[index].pending)
    assert int(states[0]["optimizer.steps"]) == 3
    assert int(states[1]["optimizer.steps"]) == 1
