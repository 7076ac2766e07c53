"""Local SGD equals torch's own optimizer, obeys its limits, and refuses nonsense."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.tasks.training.batches import Batch
from federation.tasks.training.local_data import TensorData
from federation.tasks.training.local_model import LocalModel
from federation.tasks.training.local_sgd import TrainingPlan, train_locally

CPU = torch.device("cpu")
RATES = st.sampled_from([0.0, 0.1, 0.5, 0.9])


def never() -> bool:
    return False


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def examples(count: int = 21) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, generator=generator), torch.randn(count, 2, generator=generator)


def plan(how: TrainSettings, seed: int = 7) -> TrainingPlan:
    return TrainingPlan(settings=how, seed=seed, stop=never)


def reference(how: TrainSettings, seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """The same training as anyone would write it, with FedProx's term in the loss."""
    model, (inputs, targets) = network().to(dtype), (part.to(dtype) for part in examples())
    base = [tensor.detach().clone() for tensor in model.parameters()]
    given: dict[str, Any] = {"lr": how.learning_rate, "weight_decay": how.weight_decay}
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), momentum=how.momentum, **given)
    if how.extra.get("adam"):
        kind = torch.optim.AdamW if how.extra.get("adam_decoupled") else torch.optim.Adam
        optimizer = kind(model.parameters(), **given)
    generator = torch.Generator().manual_seed(seed)
    steps = 0
    for _ in range(how.local_epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for start in range(0, len(inputs), how.batch_size):
            if how.max_steps and steps == how.max_steps:
                break
            rows = order[start : start + how.batch_size]
            loss = mse_loss(model(inputs[rows]), targets[rows])
            for tensor, before in zip(model.parameters(), base, strict=True):
                loss = loss + how.proximal_mu / 2 * (tensor - before).square().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation
            if how.extra.get("clip_norm"):
                nn.utils.clip_grad_norm_(model.parameters(), how.extra["clip_norm"])
            optimizer.step()
            steps += 1
    return [tensor.detach() for tensor in model.parameters()]


@settings(max_examples=40, deadline=None)
@given(
    how=st.builds(
        TrainSettings,
        local_epochs=st.integers(1, 3),
        batch_size=st.integers(1, 20),
        learning_rate=st.sampled_from([0.01, 0.1]),
        momentum=RATES,
        weight_decay=RATES,
        proximal_mu=RATES,
        max_steps=st.integers(0, 30),
    ),
    seed=st.integers(0, 2**63 - 1),
)
def test_it_equals_torchs_optimizer_on_the_same_shuffle(how: TrainSettings, seed: int) -> None:
    # In float64: a large step size with momentum makes of a last bit of float32 whatever it likes.
    model = LocalModel(network().double(), CPU)
    inputs, targets = (part.double() for part in examples())
    train_locally(model, mse_loss, TensorData((inputs, targets), CPU), plan(how, seed))
    for ours, theirs in zip(model.trainable, reference(how, seed, torch.float64), strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("clip_norm", [0.0, 0.05, 1e6])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", [{}, {"adam": 1.0}, {"adam": 1.0, "adam_decoupled": 1.0}])
def test_every_optimizer_equals_torch_s(kind: dict[str, float], weight_decay: float, clip_norm: float) -> None:
    how = TrainSettings(
        local_epochs=4,
        batch_size=4,
        learning_rate=0.02,
        weight_decay=weight_decay,
        extra={**kind, **({"clip_norm": clip_norm} if clip_norm else {})},
    )
    model = LocalModel(network().double(), CPU)
    inputs, targets = examples()
    train_locally(model, mse_loss, TensorData((inputs.double(), targets.double()), CPU), plan(how))
    for ours, theirs in zip(model.trainable, reference(how, 7, torch.float64), strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-9, atol=1e-12)


def test_an_optimizer_forgets_what_it_gathered_with_the_round() -> None:
    how = TrainSettings(batch_size=4, learning_rate=0.02, extra={"adam": 1.0})
    twice = LocalModel(network(), CPU)
    begin = twice.dump()
    train_locally(twice, mse_loss, TensorData(examples(), CPU), plan(how))
    first = {name: np.array(array) for name, array in twice.dump().items()}
    twice.load(begin)
    train_locally(twice, mse_loss, TensorData(examples(), CPU), plan(how))
    assert all(np.array_equal(array, first[name]) for name, array in twice.dump().items())


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        (TrainSettings(extra={"clip_norm": -1.0}), "clip_norm must be"),
        (TrainSettings(extra={"adam": 1.0}, momentum=0.9), "momentum must be 0"),
    ],
)
def test_an_optimizer_that_makes_no_sense_is_named(how: TrainSettings, problem: str) -> None:
    with pytest.raises(TaskError, match=problem):
        train_locally(LocalModel(network(), CPU), mse_loss, TensorData(examples(), CPU), plan(how))


def test_batch_size_0_is_one_step_on_everything() -> None:
    model = LocalModel(network(), CPU)
    how = TrainSettings(batch_size=0, local_epochs=1, learning_rate=0.1)
    outcome = train_locally(model, mse_loss, TensorData(examples(), CPU), plan(how))
    assert outcome.steps == 1
    whole = reference(replace(how, batch_size=len(examples()[0])), seed=0)
    for ours, theirs in zip(model.trainable, whole, strict=True):
        torch.testing.assert_close(ours.detach(), theirs)


@settings(deadline=None)
@given(epochs=st.integers(1, 4), batch=st.integers(1, 30), limit=st.integers(0, 40))
def test_the_number_of_steps_is_what_was_asked_for(epochs: int, batch: int, limit: int) -> None:
    how = TrainSettings(local_epochs=epochs, batch_size=batch, max_steps=limit, learning_rate=1e-3)
    outcome = train_locally(LocalModel(network(), CPU), mse_loss, TensorData(examples(), CPU), plan(how))
    everything = epochs * -(-21 // batch)
    assert outcome.steps == (min(limit, everything) if limit else everything)


def test_stop_is_asked_before_every_step() -> None:
    answers = iter([False, False, False, True])
    asked = TrainingPlan(settings=TrainSettings(batch_size=1), seed=0, stop=lambda: next(answers))
    outcome = train_locally(LocalModel(network(), CPU), mse_loss, TensorData(examples(), CPU), asked)
    assert outcome.steps == 3


def test_a_training_stopped_at_once_changes_nothing() -> None:
    model = LocalModel(network(), CPU)
    asked = TrainingPlan(settings=TrainSettings(), seed=0, stop=lambda: True)
    assert train_locally(model, mse_loss, TensorData(examples(), CPU), asked).steps == 0
    for ours, before in zip(model.trainable, network().parameters(), strict=True):
        assert torch.equal(ours, before)


def test_the_reported_loss_is_the_mean_over_the_steps() -> None:
    model = LocalModel(network(), CPU)
    inputs, targets = examples()
    losses: list[float] = []

    def recorded(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = mse_loss(output, target)
        losses.append(loss.item())
        return loss

    outcome = train_locally(model, recorded, TensorData((inputs, targets), CPU), plan(TrainSettings(batch_size=4)))
    assert outcome.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert len(losses) == outcome.steps == 6


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"local_epochs": 0}, "local_epochs"),
        ({"batch_size": -1}, "batch_size"),
        ({"max_steps": -1}, "max_steps"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"momentum": float("inf")}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"proximal_mu": -1.0}, "proximal_mu"),
    ],
)
def test_settings_that_make_no_sense_are_named(change: dict[str, float], name: str) -> None:
    how = replace(TrainSettings(), **change)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match=name):
        train_locally(LocalModel(network(), CPU), mse_loss, TensorData(examples(), CPU), plan(how))


def test_divergence_is_an_error_that_says_what_to_do() -> None:
    how = TrainSettings(local_epochs=50, learning_rate=1e12)
    with pytest.raises(TaskError, match="lower learning_rate"):
        train_locally(LocalModel(network(), CPU), mse_loss, TensorData(examples(), CPU), plan(how))


def test_batch_normalization_leaves_out_a_last_batch_of_one() -> None:
    model = LocalModel(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), CPU)
    outcome = train_locally(model, mse_loss, TensorData(examples(21), CPU), plan(TrainSettings(batch_size=5)))
    assert outcome.steps == 4
    with pytest.raises(TaskError, match="gives no batch"):
        train_locally(model, mse_loss, TensorData(examples(1), CPU), plan(TrainSettings(batch_size=5)))


def test_frozen_tensors_stay_and_unused_ones_are_allowed() -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.used, self.unused = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(9, 9)
            self.frozen.requires_grad_(requires_grad=False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.used(self.frozen(inputs))
            return output

    model = LocalModel(Partial(), CPU)
    before = model.dump()
    train_locally(model, mse_loss, TensorData(examples(), CPU), plan(TrainSettings(learning_rate=0.1)))
    changed = {name for name, array in model.dump().items() if array.tobytes() != before[name].tobytes()}
    assert changed == {"used.weight", "used.bias"}
