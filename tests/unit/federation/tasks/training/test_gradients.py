"""Gradients are those of torch, whatever a model does with its parameters; and mixed precision.

In mixed precision 16 bits are in the forward pass, float32 in the weights, and steps that overflow are left out.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import ADAM_KEY, CLIP_KEY, MIXED, MIXED_KEY, Parameters, TaskContext, TrainResult
from federation.tasks import TorchTask
from federation.tasks.training.gradients import SCALE_FIRST, mixed_dtype

NODE = TaskContext(node_index=0, node_count=1, device="cpu")
CPU = torch.device("cpu")


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def classes() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    return inputs, inputs[:, :3].argmax(1)


def how(kind: str, **changes: Any) -> TrainSettings:
    extra = ({MIXED_KEY: MIXED[kind]} if kind != "off" else {}) | changes.pop("extra", {})
    return TrainSettings(**{"local_epochs": 4, "batch_size": 8, "learning_rate": 0.2, "extra": extra} | changes)


def task_of(**changes: Any) -> TorchTask:
    arguments: dict[str, Any] = {"model": net, "train_data": classes, "loss": cross_entropy} | changes
    return TorchTask(NODE, **arguments)


def trained(task: TorchTask, settings: TrainSettings) -> TrainResult:
    return task.train(task.initial_parameters(1), settings, bool)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_the_forward_pass_is_in_sixteen_bits_and_the_weights_are_not(kind: str) -> None:
    seen = set[torch.dtype]()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.add(output.dtype)
        return cross_entropy(output, target)

    result = trained(task_of(loss=loss), how(kind))
    assert seen == {getattr(torch, kind)}
    assert {array.dtype for array in result.parameters.values()} == {np.dtype(np.float32)}
    plain = trained(task_of(), how("off"))
    assert result.metrics["loss"] == pytest.approx(plain.metrics["loss"], rel=0.02)
    assert any((result.parameters[name] != plain.parameters[name]).any() for name in plain.parameters)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_an_own_optimizer_trains_in_it_as_ours_does(kind: str) -> None:
    def optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), lr=settings.learning_rate)

    settings = how(kind)
    ours, own = trained(task_of(), settings), trained(task_of(optimizer=optimizer), settings)
    for name, array in ours.parameters.items():
        assert np.allclose(own.parameters[name], array, atol=1e-5)


def test_gradients_are_clipped_after_they_are_scaled_back() -> None:
    settings = how("float16", local_epochs=1, learning_rate=1.0, max_steps=1, extra={CLIP_KEY: 0.01})
    task = task_of()
    initial = task.initial_parameters(1)
    result = task.train(initial, settings, bool)
    moved = [result.parameters[name].astype(float) - initial[name].astype(float) for name in initial]
    assert np.linalg.norm(np.concatenate([each.ravel() for each in moved])) == pytest.approx(0.01, rel=0.01)


class Added(nn.Module):
    """Two parameters that are added: one tensor is the gradient of both."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.first, self.second = nn.Linear(6, 3), nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.inner(inputs) + (self.first + self.second)
        return output


class Spread(Added):
    """One number is the gradient of all entries."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.inner(inputs) * self.first.sum() + self.second
        return output


class Choosing(nn.Module):
    """One of two heads for each batch, and one that is never used: what has no gradient is not moved by any term."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.calls = nn.ModuleList(nn.Linear(6, 3) for _ in range(3)), 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        output: torch.Tensor = self.heads[(self.calls // 2) % 2](inputs)
        return output


class Embedded(nn.Module):
    """The signs of the inputs, each with a row of a table."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(12, 4, sparse=sparse), nn.Linear(24, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.out(self.table((inputs > 0).long() + 2 * torch.arange(6)).flatten(1))
        return output


class Checkpointed(nn.Module):
    """Computes its inner layers again in the backward pass."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.out, self.reentrant = nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Linear(8, 3), reentrant

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs.clone().requires_grad_()
        output: torch.Tensor = self.out(checkpoint(self.inner, inputs, use_reentrant=self.reentrant))
        return output


TERMS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.1},
    {"extra": {CLIP_KEY: 0.1}},
    {"learning_rate": 0.01, "extra": {ADAM_KEY: 1.0}},
]


def agree(ours: Parameters, theirs: Parameters) -> None:
    for name, array in theirs.items():
        assert np.allclose(ours[name], array, atol=1e-6), name


def torch_trained(task: TorchTask, model: nn.Module, settings: TrainSettings) -> nn.Module:
    """The same full-batch steps with an optimizer of torch."""
    model.load_state_dict({name: torch.tensor(array) for name, array in task.initial_parameters(1).items()})
    rate, decay = settings.learning_rate, settings.weight_decay
    steps: Any = torch.optim.SGD(model.parameters(), lr=rate, momentum=settings.momentum, weight_decay=decay)
    if settings.extra.get(ADAM_KEY):
        steps = torch.optim.Adam(model.parameters(), lr=rate)
    inputs, targets = classes()
    for _ in range(settings.local_epochs):
        steps.zero_grad()
        cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        if longest := settings.extra.get(CLIP_KEY):
            nn.utils.clip_grad_norm_(model.parameters(), longest)
        steps.step()
    return model


@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("make", [Added, Spread, Choosing, lambda: Embedded(sparse=False)])
def test_every_term_of_a_step_is_that_of_torch(make: Callable[[], nn.Module], terms: dict[str, Any]) -> None:
    settings = how("off", **({"batch_size": 0, "local_epochs": 5, "learning_rate": 0.1} | terms))
    task = task_of(model=make)
    ours, theirs = trained(task, settings).parameters, torch_trained(task, make(), settings)
    agree(ours, {name: np.asarray(tensor) for name, tensor in theirs.state_dict().items()})


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_sparse_gradients_take_every_term(terms: dict[str, Any]) -> None:
    sparse, dense = (
        trained(task_of(model=lambda kind=kind: Embedded(sparse=kind)), how("off", **terms)).parameters
        for kind in (True, False)
    )
    agree(sparse, dense)


def test_what_is_computed_again_in_the_backward_pass_is_trained() -> None:
    again, once = (
        trained(task_of(model=lambda kind=kind: Checkpointed(reentrant=kind)), how("off")).parameters
        for kind in (True, False)
    )
    agree(again, once)


@pytest.mark.parametrize("as_loader", [False, True])
def test_data_that_was_computed_by_another_model_is_only_data(*, as_loader: bool) -> None:
    inputs, targets = classes()
    torch.manual_seed(3)
    encoder = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    encoded = encoder(inputs)
    data: Any = [(encoded[:32], targets[:32]), (encoded[32:], targets[32:])] if as_loader else (encoded, targets)
    result = trained(task_of(train_data=lambda: data), how("off"))
    assert result.metrics["loss"] < 1.1
    assert all(each.grad is None for each in encoder.parameters())


def steep(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Its gradients are beyond float16 at the first scale."""
    return 10 * cross_entropy(output, target)


def test_a_step_that_overflows_is_left_out_and_the_next_round_knows_the_scale() -> None:
    task, settings = task_of(loss=steep), how("float16", max_steps=1)
    initial = task.initial_parameters(1)
    first = task.train(initial, settings, bool)
    for name, array in initial.items():
        np.testing.assert_array_equal(first.parameters[name], array)
    scale = float(first.kept["optimizer.scale"])
    assert scale == SCALE_FIRST / 2
    assert not first.pending
    for _ in range(10):
        task.restore(first.kept)
        first = task.train(initial, settings, bool)
    assert (first.parameters["2.bias"] != initial["2.bias"]).any()
    assert float(first.kept["optimizer.scale"]) < scale


def test_gradients_that_no_scale_makes_finite_are_an_error() -> None:
    task = task_of(loss=lambda output, target: cross_entropy(output, target) + (0 * output.float()).sum().sqrt())
    with pytest.raises(TaskError, match=r"no gradient is finite in float16: set train\.mixed_precision to bfloat16"):
        trained(task, how("float16", local_epochs=10, batch_size=1))


def test_a_cpu_trains_as_ever_where_each_device_may_choose() -> None:
    assert mixed_dtype(how("auto"), CPU) is None
    ours, plain = trained(task_of(), how("auto")), trained(task_of(), how("off"))
    for name, array in plain.parameters.items():
        np.testing.assert_array_equal(ours.parameters[name], array)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((9, 0), torch.bfloat16), ((8, 7), torch.bfloat16), ((7, 2), torch.float16), ((6, 2), None)],
)
def test_a_gpu_takes_what_it_computes_fast(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert mixed_dtype(how("auto"), torch.device("cuda")) is dtype
    assert mixed_dtype(how("float16"), torch.device("cuda")) is torch.float16


def test_another_number_is_refused() -> None:
    with pytest.raises(TaskError, match="mixed_precision must be 0 or one of"):
        trained(task_of(), how("off", extra={MIXED_KEY: 7.0}))
