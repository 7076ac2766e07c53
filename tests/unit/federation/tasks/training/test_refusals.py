"""What cannot train is refused by its name and with a way on; what only looks so trains."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import MIXED, MIXED_KEY, TaskContext, prepare
from federation.tasks import TorchTask
from federation.tasks.check import check_task
from federation.tasks.training.batches import Reading
from update_codec import Role

NODE = TaskContext(node_index=0, node_count=1, device="cpu")
SETTINGS = TrainSettings(local_epochs=2, batch_size=8, learning_rate=0.1)


def classes(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return inputs, inputs[:, :3].argmax(1)


def task_of(**changes: Any) -> TorchTask:
    arguments: dict[str, Any] = {"model": lambda: nn.Linear(6, 3), "train_data": classes, "loss": cross_entropy}
    return TorchTask(NODE, **(arguments | changes))


class Beside(nn.Linear):
    """A model with one more tensor."""

    def __init__(self, tensor: torch.Tensor, *, frozen: bool = False) -> None:
        super().__init__(6, 3)
        if frozen:
            self.beside = nn.Parameter(tensor, requires_grad=False)
        else:
            self.register_buffer("beside", tensor)


FLOAT8 = torch.zeros(3, dtype=torch.float32).to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda output, target: (cross_entropy(output, target), 1), "a tensor of one number, not a tuple of 2"),
        (lambda output, target: cross_entropy(output, target).item(), "not a float"),
        (nn.CrossEntropyLoss(reduction="none"), r"not a tensor of shape \[\d+\]"),
        (lambda output, target: cross_entropy(output.detach(), target), "does not depend on anything that is trained"),
    ],
)
def test_a_loss_that_is_none_is_told_what_it_must_be(loss: Any, words: str) -> None:
    for check in (prepare, check_task):
        with pytest.raises(TaskError, match=words):
            check(task_of(loss=loss))


def test_a_loss_of_one_number_in_a_row_trains() -> None:
    rows = task_of(loss=lambda output, target: cross_entropy(output, target)[None])
    found, plain = (task.train(task.initial_parameters(0), SETTINGS, bool) for task in (rows, task_of()))
    assert found.metrics == plain.metrics
    assert all(np.array_equal(found.parameters[name], array) for name, array in plain.parameters.items())


@pytest.mark.parametrize("model", [nn.Identity, lambda: nn.Linear(6, 3).requires_grad_(False)])
def test_a_model_of_which_nothing_is_trained_is_said_to_be_that(model: Any) -> None:
    with pytest.raises(TaskError, match="nothing of the model is trained"):
        prepare(task_of(model=model))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (lambda: torch.eye(3).to_sparse(), "beside is sparse_coo"),
        (lambda: torch.eye(3).to_sparse_csr(), "beside is sparse_csr"),
        (lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), "beside is quantized"),
        (lambda: FLOAT8, "beside has dtype torch.float8_e4m3fn"),
        (lambda: torch.zeros(3, dtype=torch.uint64), "beside has dtype torch.uint64"),
        (lambda: torch.zeros(3, device="meta"), "beside is on the meta device"),
        (lambda: nn.Parameter(torch.zeros(1).expand(3)), "beside is expanded"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor.*")
def test_a_tensor_without_an_array_is_named(tensor: Callable[[], torch.Tensor], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        prepare(task_of(model=lambda: Beside(tensor())))


def test_a_frozen_tensor_of_eight_bit_floats_is_constant() -> None:
    task = task_of(model=lambda: Beside(FLOAT8, frozen=True))
    check_task(task)
    assert task.roles() == {"beside": Role.CONSTANT}


def test_statistics_over_a_last_batch_of_one_are_named_where_they_are_not_finite() -> None:
    class Scaled(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward((inputs - inputs.mean(0)) / inputs.std(0))

    task = task_of(model=lambda: Scaled(6, 3), train_data=lambda: classes(41))
    with pytest.warns(UserWarning, match="degrees of freedom"), pytest.raises(TaskError, match="last batch, of one"):
        task.train(task.initial_parameters(0), SETTINGS, bool)


@pytest.mark.parametrize("metrics", [[lambda output, target: 1.0], {1: lambda output, target: 1.0}])
def test_metrics_without_names_are_refused(metrics: Any) -> None:
    with pytest.raises(TaskError, match="each with a name of text"):
        check_task(task_of(test_data=classes(), metrics=metrics))


@pytest.fixture
def without_gradients() -> Iterator[None]:
    """As a user's file leaves it that calls `torch.set_grad_enabled`."""
    with torch.no_grad():
        yield


@pytest.mark.usefixtures("without_gradients")
def test_gradients_that_a_file_has_turned_off_are_on_in_training() -> None:
    def data() -> Any:
        torch.set_grad_enabled(False)
        return classes()

    task = task_of(train_data=data)
    prepare(task)
    initial = task.initial_parameters(0)
    found = task.train(initial, SETTINGS, bool)
    assert all((found.parameters[name] != initial[name]).any() for name in initial)


def amounts(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = classes(count)[0]
    return inputs, inputs[:, 0].clone()


OWN_SQUARES: Any = lambda output, target: ((output - target) ** 2).mean()  # noqa: E731
SUM_OF_SQUARES: Any = lambda output, target: ((output - target) ** 2).sum() / 1e3  # noqa: E731


@pytest.mark.parametrize("loss", [nn.functional.mse_loss, nn.L1Loss(), nn.HuberLoss(), OWN_SQUARES, SUM_OF_SQUARES])
@pytest.mark.parametrize("flat_output", [True, False])
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_a_loss_that_compares_each_output_with_every_target_is_refused(loss: Any, flat_output: Any) -> None:
    inputs, target = amounts()
    ends = [nn.Flatten(0)] if flat_output else []
    data = (inputs, target[:, None] if flat_output else target)
    for check in (prepare, check_task):
        task = task_of(model=lambda: nn.Sequential(nn.Linear(6, 1), *ends), loss=loss, train_data=data)
        with pytest.raises(
            TaskError, match=r"the outputs are \[.*\] and the targets \[.*\], so that the loss compares"
        ):
            check(task)


@pytest.mark.parametrize(
    "loss",
    [
        lambda output, target: nn.functional.mse_loss(output.squeeze(1), target),
        lambda output, target: nn.functional.mse_loss(output.squeeze(-1), target),
        lambda output, target: nn.functional.mse_loss(output, target[:, None]),
        lambda output, target: nn.functional.mse_loss(output.reshape(target.shape), target),
        lambda output, target: -torch.corrcoef(torch.stack([output.squeeze(1), target]))[0, 1],
    ],
)
def test_a_loss_that_brings_both_into_one_shape_trains(loss: Any) -> None:
    task = task_of(model=lambda: nn.Linear(6, 1), loss=loss, train_data=amounts())
    trained = task.train(task.initial_parameters(0), SETTINGS, bool).parameters
    assert abs(trained["weight"][0, 0]) > abs(trained["weight"][0, 1:]).max()


_squares = nn.functional.mse_loss
PAIRED: dict[str, tuple[int, Any]] = {
    "root": (1, lambda output, target: torch.sqrt(_squares(output, target))),
    "explained": (1, lambda output, target: ((output - target) ** 2).sum() / ((target - target.mean()) ** 2).sum()),
    "median": (1, lambda output, target: (output - target).abs().median()),
    "quantile": (1, lambda output, target: torch.maximum(0.9 * (target - output), 0.1 * (output - target)).mean()),
    "hinge": (1, lambda output, target: torch.relu(1 - output * target.sign()).mean()),
    "gaussian": (2, lambda o, t: (o[:, 1:] + (o[:, :1] - t) ** 2 * torch.exp(-o[:, 1:])).mean()),
    "one_of_three": (3, lambda output, target: ((output[:, :1] - target) ** 2).mean()),
}
"""Losses of (rows, columns) and (rows,) that broadcast by mistake; the mean of all pairs is not the loss."""


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("scale", [1.0, 1e5, 1e-3])
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_a_loss_of_all_pairs_is_refused_whatever_it_makes_of_them(name: str, scale: float) -> None:
    columns, loss = PAIRED[name]
    inputs, target = amounts()
    task = task_of(model=lambda: nn.Linear(6, columns), loss=loss, train_data=(inputs, target * scale))
    with pytest.raises(TaskError, match="compares each output with the targets of all rows"):
        task.train(task.initial_parameters(0), SETTINGS, bool)


def _first(output: Any) -> Any:
    return output[:, 0]


ROWWISE: dict[str, tuple[int, Any]] = {
    "gaussian": (2, lambda o, t: (o[:, 1] + (o[:, 0] - t) ** 2 * torch.exp(-o[:, 1])).mean()),
    "quantiles": (3, lambda o, t: torch.maximum(0.9 * (t[:, None] - o), 0.1 * (o - t[:, None])).mean()),
    "classes_in_floats": (2, lambda o, t: cross_entropy(o, (t > 0).long())),
    "root": (2, lambda o, t: torch.sqrt(_squares(_first(o), t))),
    "correlation": (2, lambda o, t: -torch.corrcoef(torch.stack([_first(o), t]))[0, 1]),
    "hinge": (2, lambda o, t: torch.relu(1 - _first(o) * t.sign()).mean()),
    "without_targets": (2, lambda o, t: (o**2).mean() + 0 * t.sum()),
    "equal_labels": (2, lambda o, t: (torch.cdist(o, o) * (t[:, None].sign() == t.sign())).mean() + (o**2).mean()),
    "ranking": (2, lambda o, t: torch.relu(1 - (_first(o)[:, None] - _first(o)) * (t[:, None] - t).sign()).mean()),
}
"""Losses of several outputs for each row and one target."""


@pytest.mark.parametrize("name", ROWWISE)
@pytest.mark.parametrize("scale", [1.0, 1e5, 1e-3])
def test_a_loss_of_rows_trains_with_several_outputs_for_one_target(name: str, scale: float) -> None:
    columns, loss = ROWWISE[name]
    inputs, target = amounts()
    prepare(task_of(model=lambda: nn.Linear(6, columns), loss=loss, train_data=(inputs, target * scale)))


def test_looking_at_a_loss_draws_nothing_and_leaves_it_as_it_is() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            drawn.append(torch.rand(()).item())
            return _squares(_first(output), target)

    drawn: list[float] = []
    torch.manual_seed(5)
    expected = [torch.rand(()).item() for _ in range(2)]
    loss, reading_model = Counted(), nn.Linear(6, 2)
    torch.manual_seed(5)
    reading = Reading.of(reading_model, loss)
    for _ in range(2):
        reading(amounts())
    assert loss.calls == 2
    assert (drawn[0], drawn[-1]) == (expected[0], expected[1])


def test_targets_that_are_all_one_have_one_loss_however_they_are_compared() -> None:
    task = task_of(model=lambda: nn.Linear(6, 1), loss=OWN_SQUARES, train_data=(classes()[0], torch.ones(40)))
    assert task.train(task.initial_parameters(0), SETTINGS, bool).num_examples == 40


def test_a_batch_of_which_no_target_counts_is_said_to_be_that() -> None:
    task = task_of(train_data=lambda: (classes()[0], torch.full((40,), -100)))
    with pytest.raises(TaskError, match=r"diverged.*all targets of a batch were -100.*leave such rows out"):
        task.train(task.initial_parameters(0), SETTINGS, bool)


def test_one_example_for_a_model_that_normalizes_batches_is_said() -> None:
    with pytest.raises(TaskError, match="BatchNorm, which needs two examples, and the first batch"):
        prepare(task_of(model=lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)), train_data=lambda: classes(1)))


def test_batches_of_one_example_for_a_model_that_normalizes_batches_are_said() -> None:
    task = task_of(model=lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)))
    settings = TrainSettings(local_epochs=1, batch_size=1, learning_rate=0.1)
    with pytest.raises(TaskError, match="BatchNorm, which needs two examples in a batch, and batch_size is 1"):
        task.train(task.initial_parameters(0), settings, bool)


@pytest.mark.parametrize("first", ["nan", "inf"])
def test_a_loss_that_is_no_number_before_anything_was_learnt_is_not_blamed_on_the_rate(first: str) -> None:
    task = task_of(loss=lambda output, target: cross_entropy(output, target) * float(first))
    with pytest.raises(TaskError, match=f"its loss was {first} before the first step: see the loss"):
        task.train(task.initial_parameters(0), SETTINGS, bool)


def test_what_is_no_example_is_called_by_its_kind() -> None:
    row = SimpleNamespace(x=torch.zeros(6), y=0)
    for data, words in (([row, row], "SimpleNamespace: give numbers, in tuples or dicts"), ([], "an empty list")):
        with pytest.raises(TaskError, match=words):
            prepare(task_of(train_data=data))


class LeftOpen(nn.Linear):
    """Enters mixed precision in each pass, and never leaves it."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        torch.autocast("cpu", dtype=torch.bfloat16).__enter__()  # type: ignore[no-untyped-call]
        return super().forward(inputs).float()


def test_mixed_precision_that_is_never_left_is_refused_or_without_effect() -> None:
    """Weights stayed as they were when it was entered: accuracy of a coin, and no word."""
    plain = task_of()
    wanted = plain.train(plain.initial_parameters(0), SETTINGS, bool).parameters
    opened = torch.autocast("cpu", dtype=torch.bfloat16)
    opened.__enter__()  # type: ignore[no-untyped-call]
    try:
        within = task_of()
        found = within.train(within.initial_parameters(0), SETTINGS, bool).parameters
        assert all(np.array_equal(np.asarray(found[name]), np.asarray(array)) for name, array in wanted.items())
        assert torch.is_autocast_enabled("cpu")
    finally:
        opened.__exit__(None, None, None)
    with pytest.raises(TaskError, match=r"torch\.autocast was entered and never left: write it as with"):
        prepare(task_of(model=lambda: LeftOpen(6, 3)))
    assert not torch.is_autocast_enabled("cpu")


def test_a_task_that_left_mixed_precision_open_costs_the_next_one_nothing() -> None:
    """In one process, as in a notebook: the next task's mixed precision kept the weights of its first step for ever."""
    mixed = replace(SETTINGS, extra={MIXED_KEY: MIXED["bfloat16"]})
    first = task_of()
    wanted = first.train(first.initial_parameters(0), mixed, bool).parameters
    with pytest.raises(TaskError, match="never left"):
        prepare(task_of(model=lambda: LeftOpen(6, 3)))
    second = task_of()
    found = second.train(second.initial_parameters(0), mixed, bool).parameters
    assert all(np.array_equal(np.asarray(found[name]), np.asarray(array)) for name, array in wanted.items())
