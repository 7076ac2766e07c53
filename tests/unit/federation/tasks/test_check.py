"""The conformance check names everything that a task does wrong."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import nn

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Metrics, Parameters, Stop, TaskContext, TrainResult
from federation.tasks import TorchTask
from federation.tasks.check import check_task
from update_codec import Role


def initial(seed: int) -> Parameters:
    return {"w": np.full(3, seed, np.float32), "n": np.zeros((), np.int64)}


def trained(parameters: Parameters) -> TrainResult:
    return TrainResult(parameters={name: array + 1 for name, array in parameters.items()}, num_examples=5)


@dataclass
class Scripted:
    """A task that is right but for what a test changes."""

    initial: Callable[[int], Parameters] = initial
    result: Callable[[Parameters], TrainResult] = trained
    metrics: Metrics = field(default_factory=dict)
    role: Mapping[str, Role] = field(default_factory=dict)

    def initial_parameters(self, seed: int) -> Parameters:
        return self.initial(seed)

    def roles(self) -> Mapping[str, Role]:
        return self.role

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        assert not stop()
        return self.result(parameters)

    def evaluate(self, parameters: Parameters) -> Metrics:
        return self.metrics


def returning(**changes: object) -> Callable[[Parameters], TrainResult]:
    def result(parameters: Parameters) -> TrainResult:
        arguments: dict[str, object] = {"parameters": dict(parameters), "num_examples": 1} | changes
        return TrainResult(**arguments)  # type: ignore[arg-type]

    return result


def test_a_right_task_passes() -> None:
    check_task(Scripted(metrics={"loss": 0.5, "classes": 3}, role={"n": Role.COUNTER, "w": Role.STATISTIC}))


@pytest.mark.parametrize(
    ("loss", "module"),
    [
        (lambda output, target: nn.functional.cross_entropy(output, target) * 0, lambda: nn.Linear(4, 2)),
        (nn.functional.cross_entropy, lambda: nn.Sequential(never_above_zero(), nn.ReLU())),
    ],
)
def test_a_training_that_moves_no_parameter_is_named_with_what_to_look_at(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], module: Callable[[], nn.Module]
) -> None:
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 2
    here = TaskContext(node_index=0, node_count=1)
    task = TorchTask(here, model=module, loss=loss, train_data=rows)
    with pytest.raises(TaskError, match=r"changed no parameter.*depends on the model.*ReLU.*learning_rate is 0\.01"):
        check_task(task)
    check_task(task, may_stand=True)


def never_above_zero() -> nn.Linear:
    layer = nn.Linear(4, 2)
    nn.init.constant_(layer.bias, -1000.0)
    return layer


def test_what_has_no_parameters_or_moves_a_statistic_beside_them_is_judged_by_the_parameters() -> None:
    still = Scripted(result=returning(), role={"w": Role.STATISTIC})
    check_task(still)
    counted = {"w": np.zeros(3, np.float32), "n": np.zeros((), np.int64), "mean": np.ones(1, np.float32)}
    counting = Scripted(
        initial=lambda seed: {**initial(seed), "mean": np.zeros(1, np.float32)},
        result=returning(parameters=counted),
        role={"mean": Role.STATISTIC},
    )
    check_task(counting)
    with pytest.raises(TaskError, match="changed no parameter"):
        check_task(replace(counting, result=returning(parameters=counted, steps=2)))
    with pytest.raises(TaskError, match="changed no parameter"):
        check_task(Scripted(result=returning()))


COUNTING = iter(range(1000))
KEPT = np.zeros(3, np.float32)


def reused(parameters: Parameters) -> TrainResult:
    KEPT[:] += 1
    return TrainResult(parameters={"w": KEPT, "n": parameters["n"]}, num_examples=1)


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (Scripted(initial=lambda _: {}, result=returning(parameters={})), "is empty"),
        (Scripted(initial=lambda _: {"w": np.full(2, next(COUNTING))}), "other bits for the same seed"),
        (Scripted(initial=lambda _: {"w": np.array(["a"])}, result=returning(parameters={})), "floats or integers"),
        (Scripted(initial=lambda _: {"w": np.array([np.nan])}), "not finite at first"),
        (Scripted(role={"x": Role.STATISTIC}), "no tensor of the model"),
        (Scripted(role={"w": Role.COUNTER}), "does not suit the role"),
        (Scripted(role={"n": Role.STATISTIC}), "does not suit the role"),
        (Scripted(result=returning(num_examples=0)), "num_examples"),
        (Scripted(result=returning(num_examples=1.5)), "num_examples"),
        (Scripted(result=returning(parameters={"w": np.zeros(3, np.float32)})), r"differs in \['n'\]"),
        (Scripted(result=returning(parameters={"w": np.zeros(3), "n": np.zeros((), int)})), "came back as float64"),
        (
            Scripted(result=returning(parameters={"w": np.full(3, np.inf, np.float32), "n": np.zeros((), int)})),
            "not finite after training",
        ),
        (Scripted(result=returning(metrics={"loss": float("nan")})), "train: the metric loss"),
        (Scripted(metrics={"loss": 10**400}), "evaluate: the metric loss must be a finite number, not 1000"),
        (Scripted(initial=lambda _: {1: np.zeros(2)}), "a tensor's name must be text, not 1"),  # type: ignore[dict-item]
        (Scripted(initial=lambda _: {"a\ud800": np.zeros(2)}), "a tensor's name must be text"),
        (Scripted(initial=lambda _: {"w": np.ma.masked_less(np.zeros(2), 1)}), "w has masked entries"),
        (
            Scripted(result=returning(parameters={"w": np.ma.masked_less(np.zeros(3, "f4"), 1), "n": np.array(0)})),
            "w has masked entries: fill them",
        ),
        (Scripted(metrics={"loss": "low"}), "evaluate: the metric loss"),  # type: ignore[dict-item]
        (Scripted(result=reused), "return copies"),
    ],
)
def test_each_fault_is_named(task: Scripted, problem: str) -> None:
    with pytest.raises(TaskError, match=problem):
        check_task(task)


def test_all_faults_are_listed_at_once() -> None:
    task = Scripted(initial=lambda _: {"w": np.array([np.nan])}, role={"x": Role.STATISTIC})
    with pytest.raises(TaskError, match=r"w is not finite at first; roles names x"):
        check_task(task)
    unlike = returning(num_examples=0, parameters={"w": np.zeros(3), "n": np.zeros((), int)})
    with pytest.raises(TaskError, match=r"num_examples.*; w was float32"):
        check_task(Scripted(result=unlike))
    with pytest.raises(TaskError, match=r"return copies; evaluate: the metric loss"):
        check_task(Scripted(result=reused, metrics={"loss": float("inf")}))


def test_numpys_numbers_are_numbers() -> None:
    result = TrainResult(parameters={}, num_examples=np.int64(7), steps=np.uint8(3))  # type: ignore[arg-type]
    assert (type(result.num_examples), result.num_examples) == (int, 7)
    assert (type(result.steps), result.steps) == (int, 3)
    good = Scripted(result=returning(num_examples=np.int32(4), metrics={"loss": np.float32(0.5)}))
    check_task(good, may_stand=True)
    assert TrainResult(parameters={}, num_examples=True).num_examples is True


def test_another_order_of_bytes_is_the_same_type() -> None:
    """It was "float32[3] and came back as float32[3]"."""
    swapped = {"w": np.ones(3, ">f4"), "n": np.zeros((), ">i8")}
    check_task(Scripted(result=returning(parameters=swapped)))


class Follows(nn.Module):
    """A teacher that moves behind what is trained: at the first step both are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.teacher = copy.deepcopy(self.layer).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.teacher.weight.lerp_(self.layer.weight, 0.1)
        found: torch.Tensor = self.layer(x)
        return found


def test_what_the_second_step_alone_shows_is_found() -> None:
    """A node refused it in its first round, which no check had said."""
    rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 2
    here = TaskContext(node_index=0, node_count=1)
    with pytest.raises(TaskError, match=r"changed in training, and does not travel: teacher\.weight"):
        check_task(TorchTask(here, model=Follows, loss=nn.functional.cross_entropy, train_data=rows))
