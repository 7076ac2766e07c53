"""DP-SGD: every row's share is bounded, the draw and the noise are the node's secret, and nothing else leaves."""

import math
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks.training.loader_data import LoaderData
from federation.tasks.training.local_data import TensorData
from federation.tasks.training.local_model import LocalModel
from federation.tasks.training.local_sgd import TrainingPlan
from federation.tasks.training.private_sgd import (
    GRID,
    MARGIN,
    ClippedSums,
    noisy,
    poisson_rows,
    private_objection,
    train_privately,
)
from federation.tasks.training.torch_task import TorchTask
from federation.types import ExamplePrivacy

CPU = torch.device("cpu")
KEY = b"k" * 32
PRIVACY = ExamplePrivacy(clip=0.5, noise=1.0, sampling_rate=0.25, epsilon=8.0, delta=1e-5)
HOW = TrainSettings(local_epochs=2, batch_size=10, learning_rate=0.1, privacy=PRIVACY)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5, bias=False), nn.ReLU(), nn.Linear(5, 3))


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(8, 3)
    )


class Tokens(nn.Module):
    """A linear layer on several vectors a row, and one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(2, 4), nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.second(torch.tanh(self.first(rows.view(-1, 3, 2)))))
        return self.last(self.second(hidden).mean(1))  # type: ignore[no-any-return]


def frozen() -> nn.Module:
    made = mlp()
    made[0].weight.requires_grad_(False)  # type: ignore[index]
    return made


def rows(count: int = 40) -> TensorData:
    made = torch.Generator().manual_seed(1)
    return TensorData((3 * torch.randn(count, 6, generator=made), torch.randint(3, (count,), generator=made)), CPU)


def by_a_plain_loop(model: nn.Module, data: TensorData, chosen: torch.Tensor, clip: float) -> list[torch.Tensor]:
    """As anyone would write it: one row at a time."""
    weights = [each for each in model.parameters() if each.requires_grad]
    total = [torch.zeros_like(each) for each in weights]
    for row in chosen.tolist():
        inputs, targets = next(iter(data.rows(torch.tensor([row])).in_order(1)))
        gradients = torch.autograd.grad(cross_entropy(model(inputs), targets), weights)
        norm = math.sqrt(sum(float(each.double().square().sum()) for each in gradients))
        for place, each in enumerate(gradients):
            total[place] = total[place] + each * min(1.0, clip * (1 - MARGIN) / norm)
    return total


@pytest.mark.parametrize("make", [mlp, cnn, Tokens, frozen])
@pytest.mark.parametrize("clip", [0.2, 1.0, 1e6])
def test_the_sum_is_that_of_a_plain_loop(make: Callable[[], nn.Module], clip: float) -> None:
    model, data, chosen = LocalModel(make(), CPU), rows(), torch.tensor([3, 0, 17, 31, 22, 9])
    found = ClippedSums(model, cross_entropy).of(data, chosen, clip)
    wanted = by_a_plain_loop(model.module, data, chosen, clip)
    assert [each.shape for each in found] == [each.shape for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


def test_many_rows_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = LocalModel(cnn(), CPU), rows()
    whole = ClippedSums(model, cross_entropy).of(data, torch.arange(40), 1.0)
    monkeypatch.setattr("federation.tasks.training.private_sgd._VMAP_ROWS", 7)
    pieces = ClippedSums(model, cross_entropy).of(data, torch.arange(40), 1.0)
    batch = ClippedSums(model, cross_entropy).of_batch(next(iter(data.in_order(40))), 1.0)
    for one, other, third in zip(whole, pieces, batch, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
        assert torch.allclose(one, third, atol=1e-5)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_no_row_counts_for_more_than_the_clip(make: Callable[[], nn.Module]) -> None:
    model, data = LocalModel(make(), CPU), rows()
    sums = ClippedSums(model, cross_entropy)
    for row in range(10):
        found = sums.of(data, torch.tensor([row]), 0.01)
        assert math.sqrt(sum(float(each.double().square().sum()) for each in found)) <= 0.01


@pytest.mark.parametrize("make", [mlp, cnn])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e30])
def test_a_row_whose_gradient_is_not_finite_counts_nothing(make: Callable[[], nn.Module], wrong: float) -> None:
    model = LocalModel(make(), CPU)
    inputs, targets = next(iter(rows().in_order(6)))
    sums = ClippedSums(model, mse_loss)
    targets = nn.functional.one_hot(targets, 3).float()
    good = sums.of(TensorData((inputs[1:], targets[1:]), CPU), torch.arange(5), 1.0)
    spoiled = targets.clone()
    spoiled[0] = wrong
    found = sums.of(TensorData((inputs, spoiled), CPU), torch.arange(6), 1.0)
    for one, other in zip(good, found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_no_rows_are_zeros() -> None:
    model = LocalModel(mlp(), CPU)
    found = ClippedSums(model, cross_entropy).of(rows(), torch.arange(0), 1.0)
    assert [each.shape for each in found] == [each.shape for each in model.trainable]
    assert not any(each.any() for each in found)


def test_each_row_is_drawn_on_its_own() -> None:
    drawn = [poisson_rows(bytes([turn]) * 32, 1000, 0.1) for turn in range(200)]
    sizes = np.array([len(each) for each in drawn])
    assert sizes.mean() == pytest.approx(100, abs=2.5)
    assert sizes.std() == pytest.approx(math.sqrt(90), rel=0.2)
    assert len(poisson_rows(KEY, 3, 1e-9)) == 0
    assert len(poisson_rows(KEY, 50, 1.0)) == 50
    together = np.bincount(np.concatenate([each.numpy() for each in drawn]), minlength=1000)
    assert together.std() == pytest.approx(math.sqrt(200 * 0.09), rel=0.1)


def test_noise_has_the_clips_size_and_lies_on_the_grid() -> None:
    total = [torch.full((300, 400), 7.0), torch.zeros(5)]
    found = noisy(total, KEY, PRIVACY, 10)
    assert [each.shape for each in found] == [each.shape for each in total]
    added = 10 * found[0].double() - 7.0
    assert float(added.std()) == pytest.approx(PRIVACY.noise * PRIVACY.clip, rel=0.01)
    steps = 10 * found[1].double() / (PRIVACY.noise * PRIVACY.clip * GRID)
    assert torch.allclose(steps, steps.round(), atol=0.2)  # float32 keeps 24 bits of up to 22
    assert all(torch.equal(a, b) for a, b in zip(found, noisy(total, KEY, PRIVACY, 10), strict=True))
    assert not torch.equal(found[1], noisy(total, b"o" * 32, PRIVACY, 10)[1])


def plan(how: TrainSettings = HOW, seed: int = 7) -> TrainingPlan:
    return TrainingPlan(settings=how, seed=seed, stop=bool)


def trained(key: bytes, how: TrainSettings = HOW, seed: int = 7) -> list[torch.Tensor]:
    model = LocalModel(mlp(), CPU)
    train_privately(model, cross_entropy, rows(), plan(how, seed), key)
    return [each.detach().clone() for each in model.trainable]


def test_a_turn_depends_on_the_secret_and_not_on_the_announced_seed() -> None:
    assert all(torch.equal(a, b) for a, b in zip(trained(KEY, seed=1), trained(KEY, seed=2), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(trained(KEY), trained(b"o" * 32), strict=True))


def test_a_turn_is_the_steps_that_it_says() -> None:
    """Two epochs at a rate of 1 in 4 are 8 steps; each as written out here."""
    model, data = LocalModel(mlp(), CPU), rows()
    outcome = train_privately(model, cross_entropy, data, plan(), KEY)
    assert (outcome.steps, outcome.loss) == (8, 0.0)
    from federation.privacy.noise import noise_key

    again = LocalModel(mlp(), CPU)
    for step in range(8):
        chosen = poisson_rows(noise_key(KEY, "rows", str(step)), 40, 0.25)
        total = by_a_plain_loop(again.module, data, chosen, PRIVACY.clip)
        for weight, gradient in zip(
            again.trainable, noisy(total, noise_key(KEY, "noise", str(step)), PRIVACY, 10), strict=True
        ):
            weight.data -= 0.1 * gradient
    for one, other in zip(model.trainable, again.trainable, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_divisor_is_fixed_however_many_rows_there_are() -> None:
    silent = replace(HOW, privacy=replace(PRIVACY, noise=1e-9, sampling_rate=1.0, clip=1e3), local_epochs=1)
    few, many = LocalModel(mlp(), CPU), LocalModel(mlp(), CPU)
    before = [each.detach().clone() for each in few.trainable]
    train_privately(few, cross_entropy, rows(10), plan(silent), KEY)
    twice = next(iter(rows(10).in_order(10)))
    train_privately(
        many, cross_entropy, TensorData(tuple(torch.cat([each, each]) for each in twice), CPU), plan(silent), KEY
    )
    for start, one, two in zip(before, few.trainable, many.trainable, strict=True):
        assert torch.allclose(2 * (one - start), two - start, atol=1e-4)


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layer(rows - rows.mean(0))  # type: ignore[no-any-return]


class Elsewhere(nn.Module):
    """Uses a linear layer's weights beside the layer: its gradient is more than the layer's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layer(rows) + rows @ self.layer.weight.T  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), "BatchNorm1d mixes the rows"),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.1)), "Dropout is not supported"),
        (Mixing, "mean of its rows"),
        (Elsewhere, "used elsewhere"),
    ],
)
def test_models_that_mix_rows_are_refused(make: Callable[[], nn.Module], said: str) -> None:
    model = LocalModel(make(), CPU)
    assert said in str(private_objection(model, cross_entropy, rows()))


def test_losses_and_data_without_rows_are_refused() -> None:
    model = LocalModel(mlp(), CPU)
    summed: Any = nn.CrossEntropyLoss(reduction="sum")
    assert "mean of its rows" in str(private_objection(model, summed, rows()))
    loader = LoaderData([next(iter(rows().in_order(4)))], CPU)
    assert "chosen one by one" in str(private_objection(model, cross_entropy, loader))
    with pytest.raises(TaskError, match="rows can be chosen"):
        train_privately(model, cross_entropy, loader, plan(), KEY)
    with pytest.raises(TaskError, match="batch_size"):
        train_privately(model, cross_entropy, rows(), plan(replace(HOW, batch_size=0)), KEY)
    for make in (mlp, cnn, Tokens):
        assert private_objection(LocalModel(make(), CPU), cross_entropy, rows()) is None


def task(make: Callable[[], nn.Module] = mlp) -> TorchTask:
    context = TaskContext(node_index=0, node_count=1, device="cpu")
    return TorchTask(context, model=make, train_data=next(iter(rows().in_order(40))), loss=cross_entropy, own_test=0.2)


def test_a_task_says_nothing_of_its_data_beside_the_update() -> None:
    made = task()
    result = made.train(made.initial_parameters(0), HOW, bool)
    assert (result.num_examples, dict(result.metrics)) == (1, {})
    assert result.spent is not None
    assert (result.spent.steps, result.spent.noise, result.spent.sampling_rate) == (8, 1.0, 0.25)
    other = made.train(made.initial_parameters(0), HOW, bool)
    assert any(not np.array_equal(result.parameters[name], other.parameters[name]) for name in result.parameters)


def test_a_task_refuses_what_has_no_guarantee() -> None:
    mixing = task(lambda: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)))
    assert "BatchNorm1d" in str(mixing.private_objection())
    with pytest.raises(TaskError, match="no training with differential privacy: BatchNorm1d"):
        mixing.train(mixing.initial_parameters(0), HOW, bool)
    made = task()
    assert made.private_objection() is None
    with pytest.raises(TaskError, match="SCAFFOLD"):
        made.train_corrected(made.initial_parameters(0), HOW, bool, {})


@pytest.mark.frameworks
@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.skipif(find_spec("opacus") is None, reason="needs Opacus: pip install opacus")
@pytest.mark.parametrize("make", [mlp, cnn])
def test_opacus_clips_to_the_same_sum(make: Callable[[], nn.Module]) -> None:
    from opacus import GradSampleModule

    batch = next(iter(rows().in_order(12)))
    found = ClippedSums(LocalModel(make(), CPU), cross_entropy).of_batch(batch, 0.3)
    theirs: Any = GradSampleModule(make())
    loss: Any = cross_entropy(theirs(batch[0]), batch[1])
    loss.backward()
    samples = [each.grad_sample for each in theirs.parameters()]
    norms = torch.stack([each.flatten(1).norm(dim=1) for each in samples]).norm(dim=0)
    factors = (0.3 * (1 - MARGIN) / norms).clamp(max=1)
    for one, each in zip(found, samples, strict=True):
        assert torch.allclose(one, torch.einsum("n,n...->...", factors, each), atol=1e-5)
