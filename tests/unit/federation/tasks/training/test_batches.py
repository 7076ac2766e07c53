"""Batches of every structure train, weigh and are evaluated by one definition of an example."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext, prepare
from federation.tasks import TorchTask
from federation.tasks.check import check_task
from federation.tasks.training.batches import Reading, mapped, num_examples

NODE = TaskContext(node_index=0, node_count=2, device="cpu")
SETTINGS = TrainSettings(local_epochs=15, batch_size=16, learning_rate=0.3)
X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


class Output(NamedTuple):
    loss: torch.Tensor | None
    logits: torch.Tensor


class ByName(nn.Module):
    """As Hugging Face's models: everything by name, and the loss within."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(
        self, values: torch.Tensor | None = None, mask: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> Output:
        assert values is not None
        logits = self.out(values if mask is None else values * mask)
        return Output(None if labels is None else cross_entropy(logits, labels), logits)


class WithoutLabels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.out(values)
        return output


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.left(left) + self.right(right)
        return output


class OneTuple(TwoInputs):
    def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        return super().forward(*pair)


class Rows(Dataset[Any]):
    def __init__(self, row: Any, count: int = 200) -> None:
        self.row, self.count = row, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.row(index)


def own_loss(output: Any, batch: Any) -> torch.Tensor:
    found: torch.Tensor = output.loss
    return found


def of_labels(output: torch.Tensor, batch: Any) -> torch.Tensor:
    loss: torch.Tensor = cross_entropy(output, batch["labels"])
    return loss


def of_last(output: torch.Tensor, batch: Any) -> torch.Tensor:
    return cross_entropy(output, batch[-1])


def weighted(output: torch.Tensor, rest: Any) -> torch.Tensor:
    loss: torch.Tensor = (cross_entropy(output, rest[0], reduction="none") * rest[1]).mean()
    return loss


BY_NAME = {"values": X, "mask": torch.ones(200, 1), "labels": Y}
HALVES = (X[:, :3], X[:, 3:])
CASES: dict[str, tuple[Any, Any, Any]] = {
    "dict of tensors": (ByName, BY_NAME, own_loss),
    "dict of arrays, labels apart": (WithoutLabels, {"values": X.numpy(), "labels": Y.numpy()}, of_labels),
    "rows that are dicts": (ByName, Rows(lambda i: {name: each[i] for name, each in BY_NAME.items()}), own_loss),
    "three tensors": (TwoInputs, (*HALVES, Y), cross_entropy),
    "a tuple of inputs": (TwoInputs, (HALVES, Y), cross_entropy),
    "one argument for a tuple of inputs": (OneTuple, (HALVES, Y), cross_entropy),
    "named inputs": (TwoInputs, ({"right": HALVES[1], "left": HALVES[0]}, Y), cross_entropy),
    "rows of three": (TwoInputs, Rows(lambda i: (X[i, :3], X[i, 3:], Y[i])), cross_entropy),
    "rows with a tuple of inputs": (TwoInputs, Rows(lambda i: ((X[i, :3], X[i, 3:]), Y[i])), cross_entropy),
    "weights beside the targets": (WithoutLabels, (X, Y, torch.ones(200)), weighted),
    "a loss of the whole batch": (WithoutLabels, (X, Y), of_last),
}


@pytest.mark.parametrize("case", CASES)
def test_batches_of_every_structure_train(case: str) -> None:
    model, data, loss = CASES[case]
    task = TorchTask(NODE, model=model, train_data=data, test_data=data, loss=loss)
    prepare(task)
    check_task(task)
    start = task.initial_parameters(0)
    result = task.train(start, SETTINGS, bool)
    assert result.num_examples == 100
    before, after = task.evaluate(start), task.evaluate(result.parameters)
    assert after["loss"] < 0.6 < before["loss"]
    assert after["test_examples"] == 100


@pytest.mark.parametrize("case", CASES)
def test_the_structure_does_not_change_what_is_learnt(case: str) -> None:
    model, data, loss = CASES[case]
    if model is not WithoutLabels:
        return
    plain = TorchTask(NODE, model=model, train_data=(X, Y), loss=cross_entropy)
    task = TorchTask(NODE, model=model, train_data=data, loss=loss)
    ours, theirs = (each.train(each.initial_parameters(0), SETTINGS, bool).parameters for each in (task, plain))
    assert all(np.allclose(ours[name], array, atol=1e-5) for name, array in theirs.items())


def two_targets(count: int) -> Rows:
    return Rows(lambda i: (X[i], (Y[i], X[i].sum())), count)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.kind, self.size = nn.BatchNorm1d(6), nn.Linear(6, 3), nn.Linear(6, 1)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = self.norm(inputs)
        return self.kind(inputs), self.size(inputs).squeeze(1)


def both(output: Any, target: Any) -> torch.Tensor:
    return cross_entropy(output[0], target[0]) + mse_loss(output[1], target[1])


def test_two_outputs_and_targets_are_weighed_and_evaluated_by_rows() -> None:
    loader: DataLoader[Any] = DataLoader(two_targets(100), batch_size=8)
    task = TorchTask(NODE, model=TwoOutputs, train_data=lambda: loader, test_data=two_targets(60), loss=both)
    check_task(task)
    cut = TrainSettings(batch_size=8, max_steps=2)
    assert task.train(task.initial_parameters(0), cut, bool).num_examples == 100
    assert set(task.evaluate(task.initial_parameters(0))) == {"loss", "test_examples"}


def test_a_last_batch_of_one_row_is_left_out_before_batch_norm_meets_it() -> None:
    task = TorchTask(NODE, model=TwoOutputs, train_data=lambda: two_targets(17), loss=both)
    result = task.train(task.initial_parameters(0), TrainSettings(batch_size=16), bool)
    assert result.num_examples == 17
    assert result.parameters["norm.num_batches_tracked"] == 1


def test_packed_sequences_count_their_rows() -> None:
    packed = pack_sequence([torch.zeros(5, 2), torch.zeros(3, 2), torch.zeros(1, 2)])
    assert num_examples((packed, torch.zeros(3))) == 3


def test_a_batch_without_rows_or_without_a_target_is_refused() -> None:
    with pytest.raises(TaskError, match="how many examples"):
        num_examples((torch.zeros(()), "text"))
    reading = Reading.of(WithoutLabels(), cross_entropy)
    for batch in (torch.zeros(3, 6), [torch.zeros(3, 6)], "text"):
        with pytest.raises(TaskError, match="inputs, targets"):
            reading(batch)


def test_a_structure_keeps_its_kinds() -> None:
    class Pair(NamedTuple):
        some: int
        other: list[int]

    assert mapped(lambda each: each + 1, {"pair": Pair(1, [2, 3]), "rest": (4,)}) == {
        "pair": Pair(2, [3, 4]),
        "rest": (5,),
    }


def pictures(*sizes: int) -> list[torch.Tensor]:
    return [torch.zeros(3, size, size) for size in sizes]


def boxes(*counts: int) -> list[dict[str, torch.Tensor]]:
    return [{"boxes": torch.zeros(count, 4), "labels": torch.zeros(count)} for count in counts]


@pytest.mark.parametrize(
    ("batch", "examples"),
    [
        ((pictures(8, 9), boxes(1, 5)), 2),
        ((tuple(pictures(8, 8, 8, 8)), tuple(boxes(2, 2, 2, 2))), 4),
        ((pictures(8), boxes(3)), 1),
        ({"pictures": pictures(8, 9), "targets": boxes(3, 3)}, 2),
        ((pictures(8, 9, 10, 11), torch.zeros(4)), 4),
        (([torch.zeros(5), torch.zeros(9)], torch.zeros(2)), 2),
        (([torch.zeros(10, 4), torch.zeros(10, 7)], torch.zeros(10)), 10),
        (([torch.zeros(10, 4), torch.zeros(10, 7)], [torch.zeros(10), torch.zeros(10)]), 10),
        ((({"a": torch.zeros(10)}, {"a": torch.zeros(10)}), torch.zeros(10)), 10),
        (((torch.zeros(10, 5, 2), torch.zeros(1, 10, 3)), torch.zeros(10)), 10),
        ({"input_ids": torch.zeros(10, 5), "labels": torch.zeros(10), "names": ["a"] * 10}, 10),
    ],
)
def test_examples_that_cannot_be_stacked_are_counted_by_their_lists(batch: Any, examples: int) -> None:
    assert num_examples(batch) == examples
