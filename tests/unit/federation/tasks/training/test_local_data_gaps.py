"""Data out of which nothing comes, or no numbers: said with whose it is, where, and what to do."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks import TorchTask
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.pool.work import Work

X, Y = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 2


def never() -> bool:
    return False


def task(train: Any = None, test: Any = None, **more: Any) -> TorchTask:
    context = TaskContext(node_index=0, node_count=1, device="cpu")
    given: dict[str, Any] = {"loss": torch.nn.functional.cross_entropy} | more
    return TorchTask(
        context, model=lambda: torch.nn.Linear(3, 2), train_data=train or (lambda: (X, Y)), test_data=test, **given
    )


def with_gap(row: int = 7, column: int = 2) -> torch.Tensor:
    inputs = X.clone()
    inputs[row, column] = float("nan")
    return inputs


def nothing() -> Any:
    return DataLoader(TensorDataset(X, Y), batch_size=32, drop_last=True)


class Lazy(Dataset[Any]):
    """Reads a row when it is asked for, as a data set of files does."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self._inputs = inputs

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> Any:
        return self._inputs[index], Y[index]


def test_a_loader_that_gives_no_batch_is_said_before_the_first_round_and_in_training() -> None:
    with pytest.raises(TaskError, match="the training data of this node gives no batch"):
        task(nothing).prepare()
    empty = task(nothing)
    with pytest.raises(TaskError, match="the training data of this node gives no batch"):
        empty.train(empty.initial_parameters(0), TrainSettings(), never)


def test_test_data_that_gives_no_batch_is_said_in_evaluation_and_export() -> None:
    empty = task(test=nothing)
    with pytest.raises(TaskError, match="the test data gives no batch"):
        empty.evaluate(empty.initial_parameters(0))
    with pytest.raises(TaskError, match="own test data gives no batch"):
        task(own_test=nothing).prepare()


@pytest.mark.parametrize(
    ("train", "problem"),
    [
        (lambda: (with_gap(), Y), "input row 7, column 2 is not finite"),
        (lambda: TensorDataset(with_gap(3, 0), Y), "input row 3, column 0 is not finite"),
    ],
)
def test_a_number_that_is_none_is_found_when_the_data_is_read(train: Any, problem: str) -> None:
    with pytest.raises(TaskError, match=problem):
        task(train).prepare()


def test_a_gap_in_targets_and_in_test_data_is_found_too() -> None:
    targets = torch.ones(20, 1)
    targets[4] = float("inf")
    with pytest.raises(TaskError, match="target row 4, column 0 is not finite"):
        task(lambda: (X, targets), loss=torch.nn.functional.mse_loss).prepare()
    test = task(test=lambda: (with_gap(), Y))
    with pytest.raises(TaskError, match="test input row 7, column 2"):
        test.evaluate(test.initial_parameters(0))


@pytest.mark.parametrize(
    "train", [lambda: Lazy(with_gap(13)), lambda: DataLoader(TensorDataset(with_gap(13), Y), batch_size=8)]
)
def test_a_gap_in_data_that_is_read_lazily_is_named_when_the_training_has_failed(train: Any) -> None:
    broken = task(train)
    with pytest.raises(TaskError, match=r"diverged: input row 13, column 2 is not finite"):
        broken.train(broken.initial_parameters(0), TrainSettings(batch_size=8), never)


def test_a_training_that_diverges_by_itself_is_told_to_go_slower() -> None:
    fast = task(lambda: (X, torch.ones(20, 2)), loss=torch.nn.functional.mse_loss)
    settings = TrainSettings(learning_rate=1e12, local_epochs=9, batch_size=4)
    with pytest.raises(TaskError, match="lower learning_rate"):
        fast.train(fast.initial_parameters(0), settings, never)


def test_a_model_that_knows_gaps_may_have_them() -> None:
    class Filled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.nan_to_num(x))

    context = TaskContext(node_index=0, node_count=1, device="cpu")
    knows = TorchTask(
        context,
        model=lambda: Filled(3, 2),
        train_data=lambda: (with_gap(), Y),
        loss=torch.nn.functional.cross_entropy,
        gaps=True,
    )
    knows.prepare()
    assert knows.train(knows.initial_parameters(0), TrainSettings(), never).num_examples == 20


def test_large_numbers_whose_sum_is_not_finite_are_no_gap() -> None:
    task(lambda: (torch.full((20, 3), 3e38), Y)).prepare()


def test_a_simulation_finds_a_gap_in_the_data_of_all() -> None:
    def build(context: TaskContext) -> TorchTask:
        return TorchTask(
            context,
            model=lambda: torch.nn.Linear(3, 2),
            train_data=(with_gap(), Y),
            loss=torch.nn.functional.cross_entropy,
        )

    pool = NodePool(build, TaskContext(node_index=None, node_count=2, device="cpu"))
    with pytest.raises(TaskError, match="input row 7, column 2"):
        list(pool.train([Work(nodes=(0, 1), base=pool.initial_parameters(0), settings=TrainSettings())]))
