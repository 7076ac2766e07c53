"""Where a model or a loss fails, the batch and what may mend it stand beside the library's words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from federation.errors import TaskError
from federation.task import TaskContext, prepare
from federation.tasks import TorchTask

X = np.random.default_rng(1).normal(size=(24, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
PICTURES = np.arange(96).reshape(24, 4).astype(np.uint8)
CROSS_ENTROPY: Any = functional.cross_entropy
BCE: Any = functional.binary_cross_entropy_with_logits


class Rows(Dataset[Any]):
    def __init__(self, row: Callable[[int], Any]) -> None:
        self.row = row

    def __len__(self) -> int:
        return 24

    def __getitem__(self, place: int) -> Any:
        return self.row(place)


@pytest.mark.parametrize(
    ("data", "loss", "words"),
    [
        ((X, Y.astype(np.float32)), CROSS_ENTROPY, r"input float32\[2, 4\], target float32\[2\]; classes are whole"),
        ((X, Y[:, None]), CROSS_ENTROPY, r"target int64\[2, 1\] from \d to \d; classes are one number for each row"),
        ((PICTURES, Y), CROSS_ENTROPY, r"input int64\[2, 4\] from \d+ to \d+, .*; where the model wants floats"),
        ((X, Y + 1), CROSS_ENTROPY, r"target int64\[2\] from \d to 2; classes and tokens are numbered from 0"),
        ((X, np.stack([Y, 1 - Y], 1)), BCE, r"target int64\[2, 2\] from \d to \d; this loss compares with floats"),
        ((torch.tensor(X).double(), Y), CROSS_ENTROPY, "input float64.*; give inputs the type of the model's weights"),
        (
            (Y, X),
            CROSS_ENTROPY,
            r"input int64\[2\] from \d to \d, target float32\[2, 4\]; where the model wants floats",
        ),
        (
            (X, Y, np.arange(24)),
            CROSS_ENTROPY,
            r"part 0 float32\[2, 4\], part 1 .*, part 2 int64\[2\] .*, of which the model gets 1 and the loss 2",
        ),
        (Rows(lambda place: (X[place].tolist(), int(Y[place]))), CROSS_ENTROPY, "input list of 4, .* are stacked"),
        (Rows(lambda place: (X[place], str(Y[place]))), CROSS_ENTROPY, "target tuple of 2; a data set gives tensors"),
        (
            Rows(lambda place: {"heat": X[place], "y": Y[place]}),
            CROSS_ENTROPY,
            "heat float32.*no argument of these names",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_told_with_what_may_mend_it(data: Any, loss: Any, words: str) -> None:
    task = TorchTask(TaskContext(node_index=0, node_count=1), model=lambda: nn.Linear(4, 2), loss=loss, train_data=data)
    with pytest.raises(TaskError, match=words) as caught:
        prepare(task)
    assert str(caught.value).count("; ") <= 2, "one hint, and no wrong one beside it"


def test_a_batch_that_cannot_be_looked_at_hides_no_error() -> None:
    def failing(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        target.min = None  # type: ignore[assignment, method-assign]
        raise ValueError("the loss is at fault")

    task = TorchTask(
        TaskContext(node_index=0, node_count=1), model=lambda: nn.Linear(4, 2), loss=failing, train_data=(X, Y)
    )
    with pytest.raises(TaskError, match="ValueError: the loss is at fault"):
        prepare(task)
