"""Accuracy is reported where it is certain, and metrics of the task's own beside the loss."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    gaussian_nll_loss,
    l1_loss,
    mse_loss,
    multi_margin_loss,
    nll_loss,
    poisson_nll_loss,
)

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks import TorchTask

SERVER = TaskContext(node_index=None, node_count=2, device="cpu")
X = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
YES = (X.sum(1) > 0).long()
KIND = X[:, :4].argmax(1)
COUNTS = (3 * X[:, 0].abs()).long()
STEPS = TrainSettings(local_epochs=30, batch_size=32, learning_rate=0.2)


class Shaped(nn.Module):
    """A linear model with any shape of outputs."""

    def __init__(self, *shape: int, last: nn.Module | None = None) -> None:
        super().__init__()
        self.out, self.shape, self.last = nn.Linear(6, int(torch.tensor(shape).prod())), shape, last or nn.Identity()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.last(self.out(inputs)).unflatten(1, self.shape)
        return output


def squeezed(loss: Any, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = loss(output.reshape(target.shape), target.float())
    return found


def by_place(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return cross_entropy(output.flatten(0, 1), target.flatten())


def half_of_it(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return gaussian_nll_loss(output[:, 0], target.float(), output[:, 1].exp())


def quantiles(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    away = target.float()[:, None] - output
    levels = torch.tensor([0.1, 0.5, 0.9])
    return torch.maximum(levels * away, (levels - 1) * away).mean()


def measured(model: Any, targets: torch.Tensor, loss: Any, **more: Any) -> dict[str, float]:
    """Of a trained model, by the task; training is the same for everybody."""
    task = TorchTask(SERVER, model=model, train_data=lambda: (X, targets), test_data=(X, targets), loss=loss, **more)
    start = task.initial_parameters(0)
    task.evaluate(start)
    return dict(task.evaluate(task.train(start, STEPS, bool).parameters))


PLACES = torch.stack([KIND, 3 - KIND, KIND % 2], 1)
SQUARE = torch.stack([KIND, 3 - KIND, KIND % 2, KIND], 1)
PADDED = PLACES.masked_fill(torch.arange(3) == 2, -100)
ZERO_PAD = (PLACES + 1).masked_fill(torch.arange(3) == 2, 0)
VOID = KIND.masked_fill(X[:, 5] > 0, 255)


@pytest.mark.parametrize(
    ("model", "targets", "loss", "least"),
    [
        (lambda: Shaped(4), KIND, cross_entropy, 0.85),
        (lambda: Shaped(4), KIND, nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.ones(4)), 0.85),
        (lambda: Shaped(4, last=nn.LogSoftmax(1)), KIND, nll_loss, 0.85),
        (lambda: Shaped(4), KIND, multi_margin_loss, 0.85),
        (lambda: Shaped(3, 4), PLACES, by_place, 0.8),
        (lambda: Shaped(4, 4), SQUARE, by_place, 0.8),
        (lambda: Shaped(4, 4), SQUARE, cross_entropy, 0.8),
        (lambda: Shaped(4, 3), PLACES, cross_entropy, 0.8),
        (lambda: Shaped(3, 4), PADDED, by_place, 0.85),
        (lambda: Shaped(5, 3), ZERO_PAD, partial(cross_entropy, ignore_index=0), 0.85),
        (lambda: Shaped(4), VOID, partial(cross_entropy, ignore_index=255), 0.85),
        (lambda: Shaped(1), YES, partial(squeezed, binary_cross_entropy_with_logits), 0.9),
        (lambda: Shaped(1), YES.float()[:, None], nn.BCEWithLogitsLoss(), 0.9),
        (lambda: Shaped(1), YES.bool(), partial(squeezed, binary_cross_entropy_with_logits), 0.9),
        (lambda: Shaped(1, last=nn.Sigmoid()), YES, partial(squeezed, binary_cross_entropy), 0.9),
    ],
)
def test_accuracy_counts_what_the_loss_takes_for_answers(model: Any, targets: Any, loss: Any, least: float) -> None:
    assert measured(model, targets, loss)["accuracy"] >= least


def test_accuracy_leaves_out_exactly_what_the_loss_leaves_out() -> None:
    found = measured(lambda: Shaped(5, 3), ZERO_PAD, partial(cross_entropy, ignore_index=0))["accuracy"]
    assert round(found * 600) == pytest.approx(found * 600)
    assert measured(lambda: Shaped(4), VOID, partial(cross_entropy, ignore_index=255))["accuracy"] * int(
        (VOID != 255).sum()
    ) % 1 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("model", "targets", "loss"),
    [
        (lambda: Shaped(1), COUNTS, partial(squeezed, poisson_nll_loss)),
        (lambda: Shaped(1), YES, partial(squeezed, poisson_nll_loss)),
        (lambda: Shaped(1), COUNTS, partial(squeezed, mse_loss)),
        (lambda: Shaped(1), YES, partial(squeezed, mse_loss)),
        (lambda: Shaped(2), COUNTS, half_of_it),
        (lambda: Shaped(2), YES, half_of_it),
        (lambda: Shaped(3), COUNTS.clamp(max=2), quantiles),
        (lambda: Shaped(3), X[:, :3], l1_loss),
        (lambda: Shaped(4), torch.stack([YES, KIND % 2, 1 - YES, YES], 1), partial(squeezed, mse_loss)),
    ],
)
def test_numbers_that_are_no_classes_have_no_accuracy(model: Any, targets: Any, loss: Any) -> None:
    assert set(measured(model, targets, loss)) == {"loss"}


def recall(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output[target == 1] > 0).float().mean()


class Largest:
    """A metric with a state over the batches, as torchmetrics has them."""

    def __init__(self) -> None:
        self.seen: list[float] = [99.0]

    def reset(self) -> None:
        self.seen = []

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        assert len(output) == len(target)
        self.seen.append(float(output.max()))

    def compute(self) -> torch.Tensor:
        return torch.tensor(max(self.seen))


class Several(Largest):
    def compute(self) -> Any:
        return {"largest": super().compute(), "batches": len(self.seen)}


def test_own_metrics_are_means_over_the_examples_or_over_what_they_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.tasks.training.metrics.EVALUATION_BATCH", 128)
    share: Any = lambda output, target: float(len(target) == 128)  # noqa: E731 - one use
    loss = partial(squeezed, binary_cross_entropy_with_logits)
    own = {"share": share, "largest": Largest(), "collection": Several(), "accuracy": lambda output, target: 0.25}
    found = measured(lambda: Shaped(1), YES, loss, metrics=own)
    assert set(found) == {"loss", "share", "largest", "batches", "accuracy"}
    assert found["share"] == pytest.approx(256 / 300)
    assert found["batches"] == 3
    assert found["accuracy"] == 0.25
    assert measured(lambda: Shaped(1), YES, loss, metrics={"recall": recall})["accuracy"] > 0.9


class Counted:
    """As torchmetrics' collections answer."""

    def __init__(self, answer: dict[str, float]) -> None:
        self.answer = answer

    def reset(self) -> None:
        """Nothing is gathered."""

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """The same."""

    def compute(self) -> dict[str, float]:
        return self.answer


def test_an_accuracy_of_ones_own_wins_wherever_it_comes_from() -> None:
    found = measured(lambda: Shaped(4), KIND, cross_entropy, metrics={"all": Counted({"accuracy": 0.125, "f1": 0.5})})
    assert (found["accuracy"], found["f1"]) == (0.125, 0.5)
    assert list(measured(lambda: Shaped(4), KIND, cross_entropy))[:2] == ["loss", "accuracy"]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"all": Counted({"f1": 0.5, "loss": 9.0})}, "all gives loss, which is reported anyway: call it otherwise"),
        ({"all": Counted({"test_examples": 9.0})}, "all gives test_examples"),
        ({"loss": recall}, "loss is reported anyway"),
        ({"f1": 3}, "f1 must be a function"),
        ({"f1": lambda output, target: "much"}, "f1 must give one number, not str"),
        ({"f1": lambda output, target: output}, "f1 must give one number, not Tensor"),
    ],
)
def test_a_metric_that_cannot_be_used_is_named(metrics: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        measured(lambda: Shaped(4), KIND, cross_entropy, metrics=metrics)
