"""A module is asked for its tensors at each use: what replaces them trains as what changes them, or is named."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from torch.nn.utils import parametrizations

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Parameters, TaskContext, prepare
from federation.tasks import TorchTask
from federation.tasks.check import check_task
from federation.tasks.pool.stacked import Stacked
from federation.tasks.training.local_model import LocalModel

NODE = TaskContext(node_index=0, node_count=1, device="cpu")
SETTINGS = [
    TrainSettings(local_epochs=2, batch_size=16, learning_rate=0.1),
    TrainSettings(local_epochs=2, batch_size=16, learning_rate=0.1, momentum=0.9, weight_decay=0.01, proximal_mu=0.1),
]


class Layer(nn.Linear):
    """The twin: it bounds its weights in place."""

    def __init__(self) -> None:
        super().__init__(6, 3)

    def bounded(self) -> torch.Tensor:
        return torch.renorm(self.weight.detach(), p=2, dim=0, maxnorm=0.4)

    def bound(self) -> None:
        with torch.no_grad():
            self.weight.copy_(self.bounded())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.bound()
        return super().forward(inputs)


class NewData(Layer):
    def bound(self) -> None:
        self.weight.data = self.bounded()


class NewParameter(Layer):
    def bound(self) -> None:
        self.weight = nn.Parameter(self.bounded())


class Clamped(Layer):
    def bound(self) -> None:
        self.weight.data.clamp_(-50, 50)


class BoundedAfter(Layer):
    """The twin of what replaces a parameter once it has been used."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        used = self.weight.clone()
        self.bound()
        return linear(inputs, used, self.bias)


class NewParameterAfter(BoundedAfter):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output = linear(inputs, self.weight, self.bias)
        self.weight = nn.Parameter(self.bounded())
        return output


class Wrapped(nn.Module):
    """The twin of what swaps a whole module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.inner(inputs)
        return output


class Swapped(Wrapped):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.inner = copy.deepcopy(self.inner)
        return super().forward(inputs)


class Counting(nn.Module):
    """The twin of what assigns its buffers anew."""

    mean: torch.Tensor
    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("steps", torch.tensor(0))
        self.out = nn.Linear(6, 3)

    def learn(self, inputs: torch.Tensor) -> None:
        self.mean.mul_(0.9).add_(0.1 * inputs.mean(0))
        self.steps.add_(1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.learn(inputs)
        output: torch.Tensor = self.out(inputs - self.mean)
        return output


class Assigning(Counting):
    def learn(self, inputs: torch.Tensor) -> None:
        self.mean = 0.9 * self.mean + 0.1 * inputs.mean(0)
        self.steps = self.steps + 1


class Registering(Counting):
    def learn(self, inputs: torch.Tensor) -> None:
        self.register_buffer("mean", 0.9 * self.mean + 0.1 * inputs.mean(0))
        self.register_buffer("steps", self.steps + 1)


def classes() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    return inputs, inputs[:, :3].argmax(1)


def task_of(model: Any, **changes: Any) -> TorchTask:
    arguments: dict[str, Any] = {"train_data": classes, "test_data": classes(), "loss": cross_entropy} | changes
    return TorchTask(NODE, model=model, **arguments)


def trained(task: TorchTask, settings: TrainSettings, correction: Parameters | None = None) -> Parameters:
    """Three rounds in a row."""
    parameters = task.initial_parameters(0)
    for _ in range(3):
        if correction is None:
            result = task.train(parameters, settings, bool)
        else:
            result = task.train_corrected(parameters, settings, bool, correction)
        parameters = result.parameters
    return parameters


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(
    ("replacing", "twin"),
    [
        (NewData, Layer),
        (NewParameter, Layer),
        (NewParameterAfter, BoundedAfter),
        (Swapped, Wrapped),
        (Assigning, Counting),
        (Registering, Counting),
    ],
)
def test_what_replaces_its_tensors_trains_as_its_twin_in_place(
    replacing: Any, twin: Any, settings: TrainSettings
) -> None:
    found, expected = task_of(replacing), task_of(twin)
    prepare(found)
    check_task(found, settings)
    ours, theirs = trained(found, settings), trained(expected, settings)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert np.array_equal(ours[name], array), name
        assert not np.array_equal(array, expected.initial_parameters(0)[name]), name
    assert found.evaluate(ours) == expected.evaluate(theirs)


@pytest.mark.parametrize(("replacing", "twin"), [(NewData, Layer), (NewParameter, Layer)])
def test_corrected_steps_and_personal_layers_follow_replaced_tensors(replacing: Any, twin: Any) -> None:
    correction = {"weight": np.full((3, 6), 0.01, np.float32), "bias": np.full(3, -0.02, np.float32)}
    ours, theirs = (trained(task_of(each), SETTINGS[0], correction) for each in (replacing, twin))
    assert all(np.array_equal(ours[name], array) for name, array in theirs.items())
    kept = [
        task_of(each, local=["weight"]).train({"bias": np.zeros(3, np.float32)}, SETTINGS[0], bool).kept
        for each in (replacing, twin)
    ]
    assert np.array_equal(kept[0]["local.weight"], kept[1]["local.weight"])


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, parametrizations.weight_norm])
def test_parametrized_weights_train(norm: Any) -> None:
    task = task_of(lambda: norm(nn.Linear(6, 3)))
    check_task(task)
    accuracy = task.evaluate(trained(task, TrainSettings(local_epochs=20, batch_size=16, learning_rate=0.3)))[
        "accuracy"
    ]
    assert accuracy > 0.85


def test_a_compiled_model_trains_as_it_does_uncompiled() -> None:
    ours = trained(task_of(lambda: torch.compile(Counting(), backend="eager")), SETTINGS[0])
    theirs = trained(task_of(Counting), SETTINGS[0])
    assert all(np.allclose(ours[f"_orig_mod.{name}"], array, atol=1e-6) for name, array in theirs.items())


def test_data_that_a_buffer_shows_is_not_written_to() -> None:
    class Remembering(Counting):
        def learn(self, inputs: torch.Tensor) -> None:
            self.mean = inputs[0]

    inputs, targets = classes()
    before = inputs.clone()
    task = task_of(Remembering, train_data=lambda: (inputs, targets))
    trained(task, TrainSettings(batch_size=0, local_epochs=2))
    task.train(task.initial_parameters(0), SETTINGS[0], bool)
    assert torch.equal(inputs, before)


class Late(nn.Module):
    """Makes its layer when it is first used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.last: nn.Linear | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.last is None:
            self.last = nn.Linear(4, 3)
        output: torch.Tensor = self.last(self.first(inputs))
        return output


class Growing(Counting):
    def learn(self, inputs: torch.Tensor) -> None:
        self.mean = inputs


class Unfreezing(Wrapped):
    def __init__(self) -> None:
        super().__init__()
        self.inner.bias.requires_grad_(False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.inner.bias.requires_grad_(True)
        return super().forward(inputs)


class Retyped(Counting):
    def learn(self, inputs: torch.Tensor) -> None:
        self.steps = self.steps + 0.5


class Copied(Wrapped):
    def state_dict(self, *args: Any, **more: Any) -> Any:
        return {name: tensor.clone() for name, tensor in super().state_dict(*args, **more).items()}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Late, "last.weight"),
        (Growing, r"mean was float32\[6\].* is float32\[2, 6\]"),
        (Retyped, r"steps was int64\[\].* is float32"),
        (Unfreezing, "inner.bias"),
        (Copied, "inner.weight.*copy"),
        (lambda: nn.LazyLinear(3), "weight has no shape"),
        (nn.Linear(6, 3), "lambda"),
        (lambda: torch.zeros(3), "not Tensor"),
    ],
)
def test_a_tensor_that_cannot_be_followed_is_named(model: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        prepare(task_of(model))
    with pytest.raises(TaskError, match=words.partition(".*")[0]):
        check_task(task_of(model))


def test_a_loss_with_parameters_of_its_own_is_refused() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return self.scale * cross_entropy(output, target)

    with pytest.raises(TaskError, match="scale"):
        task_of(Wrapped, loss=Weighted()).initial_parameters(0)
    check_task(task_of(Wrapped, loss=nn.CrossEntropyLoss()))


@pytest.mark.parametrize("model", [Layer, NewData, NewParameter, Clamped])
def test_a_model_that_changes_its_own_tensors_is_not_stacked(model: Any) -> None:
    inputs, targets = classes()
    local = LocalModel(model(), torch.device("cpu"))
    before = local.dump()
    assert Stacked(local, cross_entropy).objection(inputs[:4], targets[:4]) is not None
    assert all(np.array_equal(array, before[name]) for name, array in local.dump().items())


def test_settings_of_the_process_that_a_model_changes_are_put_back() -> None:
    """The next model was of float64 then, and the codec of the update ended with "underflow"."""

    class Setting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.set_default_dtype(torch.float64)
            np.seterr(all="raise")
            return super().forward(x)

    handling = np.geterr()
    task = task_of(Setting)
    check_task(task)
    assert torch.get_default_dtype() is torch.float32
    assert np.geterr() == handling
