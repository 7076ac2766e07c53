"""Many nodes in one process: what each makes is what its own task would make."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Task, TaskContext, TrainResult
from federation.tasks.builtin.mlp import cross_entropy, mlp
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.pool.stacked import Stacked
from federation.tasks.pool.work import Trained, Work
from federation.tasks.registry import load_task
from federation.tasks.scaffold import NODES_KEY, scaffolded
from federation.tasks.training.local_model import LocalModel
from federation.tasks.training.torch_task import TorchTask
from update_codec import Role

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(150, 12)).astype(np.float32)
LABELS = RNG.integers(0, 4, 150)
CONTEXT = TaskContext(node_index=None, node_count=7, device="cpu")
SKEWED = replace(CONTEXT, partition="dirichlet:0.5")


def build(context: TaskContext, model: partial[nn.Module] | None = None, loss: object = cross_entropy) -> TorchTask:
    make = partial(mlp, 12, 8, 4) if model is None else model
    return TorchTask(context, model=make, train_data=(INPUTS, LABELS), loss=loss)  # type: ignore[arg-type]


def trained(pool: NodePool, settings: TrainSettings) -> dict[int, Trained]:
    work = Work(nodes=tuple(range(7)), base=pool.initial_parameters(0), settings=settings)
    return {each.node: each for each in pool.train([work])}


SETTINGS = [
    TrainSettings(local_epochs=2, batch_size=8, learning_rate=0.1, seed=3),
    TrainSettings(local_epochs=3, batch_size=5, learning_rate=0.05, momentum=0.9, proximal_mu=0.1, seed=3),
    TrainSettings(local_epochs=2, batch_size=8, learning_rate=0.1, weight_decay=0.01, max_steps=4, seed=3),
    TrainSettings(local_epochs=4, batch_size=0, learning_rate=0.1, seed=3),
    TrainSettings(local_epochs=4, batch_size=0, learning_rate=0.1, momentum=0.5, proximal_mu=0.2, seed=3),
    TrainSettings(local_epochs=4, batch_size=0, learning_rate=0.1, weight_decay=0.1, seed=3),
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("context", [CONTEXT, SKEWED], ids=["iid", "skewed"])
def test_one_after_the_other_is_what_each_task_makes_bit_for_bit(context: TaskContext, settings: TrainSettings) -> None:
    pool = NodePool(build, context, stacked=False)
    for node, found in trained(pool, settings).items():
        alone = build(replace(context, node_index=node)).train(pool.initial_parameters(0), settings, bool)
        assert found.num_examples == alone.num_examples == pool.num_examples(node)
        assert found.metrics == alone.metrics
        for name, array in alone.parameters.items():
            assert np.array_equal(found.parameters[name], array)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("context", [CONTEXT, SKEWED], ids=["iid", "skewed"])
@pytest.mark.parametrize("widths", [(12, 8, 4), (12, 4)], ids=["hidden", "linear"])
def test_stacked_is_the_same_within_rounding(
    context: TaskContext, settings: TrainSettings, widths: tuple[int, ...]
) -> None:
    make = partial(build, model=partial(mlp, *widths))
    plain, stacked = (trained(NodePool(make, context, stacked=way), settings) for way in (False, True))
    assert plain.keys() == stacked.keys()
    for node, expected in plain.items():
        found = stacked[node]
        assert found.num_examples == expected.num_examples
        assert found.metrics["loss"] == pytest.approx(expected.metrics["loss"], abs=1e-4)
        for name, array in expected.parameters.items():
            assert np.allclose(
                np.asarray(found.parameters[name], float), np.asarray(array, float), rtol=1e-3, atol=1e-5
            )


def test_nodes_that_take_different_numbers_of_steps_train_in_one_stack() -> None:
    stacked = Stacked(LocalModel(mlp(12, 8, 4), torch.device("cpu")), cross_entropy)
    rows = [torch.arange(count) for count in (22, 9, 3, 40)]
    settings = TrainSettings(local_epochs=2, batch_size=8)
    groups = list(stacked.groups(rows, settings, [1, 2, 3, 4], nodes_max=3))
    assert [group.places for group in groups] == [(3, 0, 1), (2,)]
    assert [len(own) for own in groups[0].batches] == [10, 6, 4]


class Added(nn.Module):
    """Two parameters that are added: one tensor is the gradient of both."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.first, self.second = (
            nn.Linear(12, 4),
            nn.Parameter(torch.ones(4)),
            nn.Parameter(torch.zeros(4)),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(inputs) + (self.first + self.second)
        return out


@pytest.mark.parametrize("settings", SETTINGS)
def test_parameters_that_are_added_are_stacked_as_they_train_alone(settings: TrainSettings) -> None:
    make = partial(build, model=cast("partial[nn.Module]", partial(Added)))
    plain, stacked = (trained(NodePool(make, CONTEXT, stacked=way), settings) for way in (False, True))
    for node, expected in plain.items():
        for name, array in expected.parameters.items():
            assert np.allclose(np.asarray(stacked[node].parameters[name]), np.asarray(array), rtol=1e-3, atol=1e-5), (
                name
            )


def objection(module: nn.Module, loss: object = cross_entropy) -> str | None:
    stacked = Stacked(LocalModel(module, torch.device("cpu")), loss)  # type: ignore[arg-type]
    return stacked.objection(torch.from_numpy(INPUTS[:4]), torch.from_numpy(LABELS[:4]))


def frozen() -> nn.Module:
    module = nn.Linear(12, 4)
    module.bias.requires_grad = False
    return module


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(inputs)
        return out if out.sum().item() > 0 else -out


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4)), "buffers"),
        (nn.Sequential(nn.Dropout(0.5), nn.Linear(12, 4)), "dropout"),
        (frozen(), "frozen"),
        (Branching(), "cannot be stacked"),
    ],
)
def test_a_model_that_cannot_be_stacked_is_trained_alone(module: nn.Module, why: str) -> None:
    assert why in str(objection(module))


def test_a_loss_that_is_no_mean_of_rows_is_not_stacked() -> None:
    assert "not the mean" in str(objection(mlp(12, 4), partial(nn.functional.cross_entropy, reduction="sum")))
    assert objection(mlp(12, 4)) is None


def test_a_model_of_half_precision_is_looked_at_like_any_other() -> None:
    """Its gradients by rows come in another type: comparing them ended the simulation."""
    stacked = Stacked(LocalModel(mlp(12, 4).half(), torch.device("cpu")), cross_entropy)
    found = stacked.objection(torch.from_numpy(INPUTS[:4]).half(), torch.from_numpy(LABELS[:4]))
    assert found is None or "mean" in found


def test_where_stacking_is_impossible_the_bits_are_those_of_each_task() -> None:
    make = partial(build, model=partial(with_dropout))
    plain, stacked = (trained(NodePool(make, CONTEXT, stacked=way), SETTINGS[0]) for way in (False, True))
    for node in plain:
        for name, array in plain[node].parameters.items():
            assert np.array_equal(stacked[node].parameters[name], array)


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 4), nn.Dropout(0.3))


@pytest.mark.parametrize("stacked", [True, False])
def test_a_training_that_diverges_fails_alone_and_says_why(stacked: bool) -> None:
    settings = TrainSettings(local_epochs=40, batch_size=4, learning_rate=1e30, seed=1)
    found = trained(NodePool(build, CONTEXT, stacked=stacked), settings)
    assert all("learning_rate" in str(each.failure) for each in found.values())


def test_nodes_that_bring_their_own_data_are_trained_by_their_own_tasks() -> None:
    pool = NodePool(load_task("quadratic"), CONTEXT)
    assert pool.num_examples(0) is None
    settings = TrainSettings(local_epochs=2, learning_rate=0.1)
    found = trained(pool, settings)
    for node in (0, 6):
        alone = load_task("quadratic")(replace(CONTEXT, node_index=node))
        expected = alone.train(pool.initial_parameters(0), settings, bool)
        for name, array in expected.parameters.items():
            assert np.array_equal(found[node].parameters[name], array)


def build_quadratic(context: TaskContext) -> Task:
    return load_task("quadratic-12")(context)


@pytest.mark.parametrize(("make", "name"), [(build, "fc2.bias"), (build_quadratic, "point")], ids=["shared", "own"])
def test_under_scaffold_each_node_makes_what_its_own_task_makes_bit_for_bit(
    make: Callable[[TaskContext], Task], name: str
) -> None:
    pool = NodePool(make, SKEWED, controlled=True)
    pool.prepare()
    assert pool.roles()[f"control.{name}"] is Role.CONTROL
    model = dict(pool.initial_parameters(0))
    assert pool.evaluate(model) == make(CONTEXT).evaluate(pool.initial_parameters(0))
    named = [key for key in model if key.startswith("control.")]
    controls = {key: RNG.normal(size=model[key].shape).astype(np.float32) for key in named}
    own = {node: {key: array / 2 + node for key, array in controls.items()} for node in (2, 3)}
    base = {**model, **{key: np.zeros_like(array) for key, array in controls.items()}}
    settings = replace(SETTINGS[0], extra={NODES_KEY: 7.0})
    work = Work(nodes=(2, 3), base=base, settings=settings, controls=controls, states=own)
    for found in pool.train([work]):
        alone = scaffolded(make(replace(SKEWED, node_index=found.node)))
        alone.restore(own[found.node])
        expected = alone.train({**model, **controls}, settings, bool)
        assert found.parameters.keys() == expected.parameters.keys()
        assert all(np.array_equal(found.parameters[key], array) for key, array in expected.parameters.items())
        assert np.any(found.parameters[f"control.{name}"])


def test_layers_that_stay_on_their_node_are_never_another_nodes() -> None:
    def personal(context: TaskContext) -> TorchTask:
        task = build(context)
        task.local = ("fc2.*",)
        return task

    pool, alone = NodePool(personal, CONTEXT), personal(replace(CONTEXT, node_index=3))
    assert pool.num_examples(3) is None
    base = pool.initial_parameters(0)
    for seed in (1, 2):
        settings = replace(SETTINGS[0], seed=seed)
        found = {each.node: each for each in pool.train([Work(nodes=(2, 3), base=base, settings=settings)])}[3]
        expected = alone.train(base, settings, bool)
        alone.restore(expected.kept)
        assert found.parameters.keys() == expected.parameters.keys()
        assert all(np.array_equal(found.parameters[name], array) for name, array in expected.parameters.items())


def test_a_training_that_gives_nothing_costs_that_node_its_work_alone() -> None:
    class Forgetful(TorchTask):
        def train(self, *_: object) -> TrainResult:
            return None  # type: ignore[return-value]

    def made(context: TaskContext) -> TorchTask:
        kind = Forgetful if context.node_index == 1 else TorchTask
        return kind(context, model=partial(mlp, 12, 8, 4), train_data=lambda: (INPUTS, LABELS), loss=cross_entropy)

    found = trained(NodePool(made, CONTEXT), TrainSettings(batch_size=0))
    assert "must give a TrainResult, not NoneType" in str(found[1].failure)
    assert all(found[node].failure is None for node in found if node != 1)


def test_data_with_gradients_of_its_own_is_only_data() -> None:
    """A simulation could not read it; a real node did."""
    wanted = torch.tensor(INPUTS, requires_grad=True)

    def made(context: TaskContext) -> TorchTask:
        return TorchTask(context, model=partial(mlp, 12, 4), train_data=(wanted, LABELS), loss=cross_entropy)

    pool = NodePool(made, CONTEXT)
    pool.prepare()
    assert not any(each.failure for each in trained(pool, SETTINGS[0]).values())


def test_a_node_that_cannot_begin_fails_alone_and_where_none_can_everybody_hears_why() -> None:
    """As real nodes do: a batch of one row is nothing for BatchNorm."""

    def built(context: TaskContext, count: int) -> TorchTask:
        model = lambda: nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4))  # noqa: E731 - as users write it
        return TorchTask(context, model=model, train_data=(INPUTS[:count], LABELS[:count]), loss=cross_entropy)

    pool = NodePool(partial(built, count=8), CONTEXT)
    pool.prepare()
    found = trained(pool, replace(SETTINGS[0], batch_size=0))
    assert sum(each.failure is None for each in found.values()) == 1
    with pytest.raises(TaskError, match="the first batch of this node has one"):
        NodePool(partial(built, count=7), CONTEXT).prepare()


class Keeping(nn.Module):
    """Keeps what it has seen last, as hooks for pictures of activations do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(12, 4), list[torch.Tensor]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x)
        self.last = [found]
        return found


OWN = torch.ones(4, requires_grad=True)


def weighted(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss with a tensor of its own, which nobody trains."""
    return nn.functional.cross_entropy(output * OWN, target)


@pytest.mark.parametrize(("model", "loss"), [(partial(Keeping), cross_entropy), (partial(nn.Linear, 12, 4), weighted)])
def test_what_a_stack_leaves_in_a_model_or_a_loss_stops_no_simulation(model: partial[nn.Module], loss: object) -> None:
    """Tensors of a transformation that was over were copied later, and a loss that wants a gradient was read."""
    pool = NodePool(partial(build, model=model, loss=loss), CONTEXT)
    pool.prepare()
    found = trained(pool, SETTINGS[0])
    assert not any(each.failure for each in found.values())
    alone = build(replace(CONTEXT, node_index=2), model=model, loss=loss)
    wanted = alone.train(pool.initial_parameters(0), SETTINGS[0], bool).parameters
    for name, array in found[2].parameters.items():
        assert float(np.max(np.abs(np.subtract(array, wanted[name])))) < 1e-5
