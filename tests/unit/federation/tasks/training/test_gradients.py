"""Mixed precision: 16 bits in the forward pass, float32 in the weights, and steps that overflow are left out."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import CLIP_KEY, MIXED, MIXED_KEY, TaskContext, TrainResult
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
