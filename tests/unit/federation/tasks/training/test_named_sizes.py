"""Names of classes and of columns are as many as the model gives scores and takes columns, or are refused with both."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext, prepare
from federation.tasks import TorchTask, numpy_data

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long()


def one_logit(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return binary_cross_entropy_with_logits(output[:, 0], target.float())


def squared(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return mse_loss(output[:, 0], target.float())


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 2)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layer(torch.cat([left, right], dim=1))
        return scores


def prepared(**more: Any) -> TorchTask:
    given: dict[str, Any] = {"model": lambda: nn.Linear(5, 2), "loss": cross_entropy, "train_data": (X, Y)} | more
    task = TorchTask(TaskContext(node_index=0, node_count=2), **given)
    prepare(task)
    return task


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"classes": ["a", "b", "c"]}, "classes has 3 names, and the model gives 2 scores"),
        ({"classes": ["a"]}, "classes has 1 name, and the model gives 2 scores"),
        (
            {"classes": ["a", "b"], "model": lambda: nn.Linear(5, 10)},
            "2 names, and the model gives 10 scores",
        ),
        ({"classes": ["a", "b", "c"], "model": lambda: nn.Linear(5, 1), "loss": one_logit}, "one score"),
        ({"features": ["heat", "flow"]}, "features has 2 names, and an input of this node has 5 numbers"),
        (
            {
                "features": ["heat"],
                "train_data": (X.reshape(10, 4, 5), Y[:10]),
                "model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 2)),
            },
            "features has 1 name, and an input of this node has 4 by 5 numbers",
        ),
    ],
)
def test_names_that_are_too_many_or_too_few_are_refused(more: dict[str, Any], words: str) -> None:
    """They were noticed when a prediction was told as another class, or never."""
    with pytest.raises(TaskError, match=words):
        prepared(**more)


def test_names_of_a_reader_are_counted_too(tmp_path: Any) -> None:
    np.savez(tmp_path / "d.npz", x=X.numpy(), y=Y.numpy())
    context = TaskContext(node_index=0, node_count=1, data=tmp_path)
    data = numpy_data(context, "d.npz", classes=("a", "b", "c"))
    with pytest.raises(TaskError, match="classes has 3 names, and the model gives 2 scores"):
        prepared(train_data=data.train)


@pytest.mark.parametrize(
    "more",
    [
        {"classes": ["no", "yes"], "features": list("abcde")},
        {"classes": ["no", "yes"], "model": lambda: nn.Linear(5, 1), "loss": one_logit},
        {"classes": ["cold", "mild", "hot"], "model": lambda: nn.Linear(5, 1), "loss": squared},
        {
            "features": list("abcd"),
            "train_data": (X.reshape(10, 4, 5), Y[:10]),
            "model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 2)),
        },
        {
            "features": ["left", "right"],
            "train_data": (X, X, Y),
            "model": Two,
        },
    ],
)
def test_as_many_names_as_there_are_and_names_of_what_is_not_certain_go_on(more: dict[str, Any]) -> None:
    task = prepared(**more)
    assert task.train(task.initial_parameters(0), TrainSettings(max_steps=1), bool).num_examples > 0
