"""State in no tensor that travels: refused by name where predictions depend on it, and left alone where not."""

import copy
import itertools
import random
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import fedmq
from federation.errors import FederationError, TaskError
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext, prepare
from federation.tasks import TorchTask
from federation.tasks.check import check_task
from federation.tasks.training import nonpersistent_state
from federation.tasks.training.nonpersistent_state import NonPersistentState

X = np.random.default_rng(3).normal(size=(64, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


class Named(NamedTuple):
    number: int
    values: list[float]


class Scaled(nn.Module):
    """Divides by something that it learns beside its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.scale = self.first()

    def first(self) -> Any:
        return 1.0

    def learn(self, x: torch.Tensor) -> None:
        self.scale = 0.9 * self.scale + 0.1 * float(x.detach().abs().max())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.learn(x)
        found: torch.Tensor = self.layer(x / self.divisor())
        return found

    def divisor(self) -> Any:
        return self.scale


class OfTensor(Scaled):
    def first(self) -> Any:
        return torch.ones(4)

    def learn(self, x: torch.Tensor) -> None:
        self.scale = 0.9 * self.scale + 0.1 * x.detach().abs().amax(0)


class InPlace(OfTensor):
    def learn(self, x: torch.Tensor) -> None:
        self.scale.mul_(0.9).add_(0.1 * x.detach().abs().amax(0))


class OfArray(OfTensor):
    def first(self) -> Any:
        return np.ones(4, np.float32)

    def learn(self, x: torch.Tensor) -> None:
        self.scale *= 0.5

    def divisor(self) -> Any:
        return torch.from_numpy(self.scale)


class InAList(Scaled):
    def first(self) -> Any:
        return [{"max": 1.0}]

    def learn(self, x: torch.Tensor) -> None:
        self.scale[0]["max"] += float(x.detach().abs().max())

    def divisor(self) -> Any:
        return self.scale[0]["max"]


class NotPersistent(OfTensor):
    def __init__(self) -> None:
        super().__init__()
        del self.scale
        self.register_buffer("scale", torch.ones(4), persistent=False)


class Running:
    """What a user writes who does not know of buffers."""

    def __init__(self) -> None:
        self.scale = torch.ones(4)

    def learn(self, x: torch.Tensor) -> None:
        self.scale = 0.9 * self.scale + 0.1 * x.detach().abs().amax(0)


class InAnObject(Scaled):
    """Keeps it in an object of its own."""

    def first(self) -> Any:
        return Running()

    def learn(self, x: torch.Tensor) -> None:
        self.scale.learn(x)

    def divisor(self) -> Any:
        return self.scale.scale


class InANewObject(InAnObject):
    """Makes another object at each step."""

    def learn(self, x: torch.Tensor) -> None:
        before, self.scale = self.scale, Running()
        self.scale.scale = before.scale + x.detach().abs().amax(0)


class MadeLater(Scaled):
    """Begins without it."""

    def __init__(self) -> None:
        super().__init__()
        del self.scale

    def learn(self, x: torch.Tensor) -> None:
        self.scale = float(x.detach().abs().max())

    def divisor(self) -> Any:
        return getattr(self, "scale", 1.0)


class Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), Scaled())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.block(x)
        return found


class AsBuffer(OfTensor):
    """As it should be."""

    def __init__(self) -> None:
        super().__init__()
        del self.scale
        self.register_buffer("scale", torch.ones(4))


class Remembers(Scaled):
    """Caches and counters that no prediction reads."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.seen = 0, list[float]()
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen.append(float(x.detach().sum()))
        self.last = self.layer(x)
        return self.last


class Cached(Scaled):
    """What it keeps is always what it would make again."""

    table: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None or self.table.shape[0] < x.shape[1]:
            self.table = torch.arange(x.shape[1], dtype=x.dtype)
        found: torch.Tensor = self.layer(x + self.table[: x.shape[1]])
        return found


class Random(Scaled):
    """Draws in evaluation mode, too: nothing can be said of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.rand(())


class InEvaluation(OfTensor):
    """Learns in evaluation mode, too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.learn(x)
        found: torch.Tensor = self.layer(x / self.scale)
        return found


class Annealed(Scaled):
    """Counts its steps, and is colder after each."""

    def first(self) -> Any:
        return 1

    def learn(self, x: torch.Tensor) -> None:
        self.scale += 1


class Alternating(Scaled):
    """Counts its calls, and takes another way at each."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        found: torch.Tensor = self.layer(x if self.calls // 2 % 2 else -x)
        return found


def task(model: Callable[[], nn.Module], **fields: Any) -> TorchTask:
    context = TaskContext(node_index=0, node_count=1)
    return TorchTask(context, model=model, train_data=(X, Y), loss=nn.functional.cross_entropy, **fields)


def train(made: TorchTask) -> None:
    made.train(made.initial_parameters(0), TrainSettings(local_epochs=1, batch_size=16), bool)


@pytest.mark.parametrize("using", [TorchTask.prepare, train, check_task])
@pytest.mark.parametrize(
    ("model", "name"),
    [
        *((each, "scale") for each in (Scaled, OfTensor, InPlace, OfArray, InAList, NotPersistent)),
        *((each, "scale") for each in (MadeLater, InEvaluation, Annealed)),
        (Inside, "block.1.scale"),
        (InAnObject, "scale.scale"),
        (InANewObject, "scale"),
    ],
)
def test_a_prediction_that_depends_on_what_nobody_hears_of_is_refused_by_name(
    model: Callable[[], nn.Module], name: str, using: Callable[[TorchTask], None]
) -> None:
    with pytest.raises(TaskError, match=rf"training changes {name}, .*register_buffer"):
        using(task(model))


def test_it_is_refused_again_at_each_training() -> None:
    made = task(Scaled)
    for _ in range(2):
        with pytest.raises(TaskError, match="training changes scale"):
            train(made)


def test_what_is_put_back_is_what_it_was() -> None:
    """Also of collections that add, that are of a greatest length, or that have a default."""
    module: Any = AsBuffer()
    held: dict[str, Any] = {
        "counted": Counter({"a": 2}),
        "newest": deque([1.0, 2.0], maxlen=2),
        "sums": defaultdict(float, a=1.0),
        "pair": (1, torch.ones(2)),
        "named": Named(1, [2.0]),
    }
    for name, value in held.items():
        setattr(module, name, value)
    state = NonPersistentState.of(module)
    module.counted["a"] += 1
    module.newest.append(3.0)
    module.sums["b"] += 1.0
    module.pair[1].add_(1.0)
    module.named.values.append(3.0)
    assert {name for _, name in NonPersistentState.of(module).changed(since=state)} == set(held)
    state.put()
    assert NonPersistentState.of(module).changed(since=state) == []
    assert (module.counted, module.newest.maxlen, module.sums["c"]) == (Counter({"a": 2}), 2, 0.0)
    assert module.named == Named(1, [2.0])


@pytest.mark.parametrize("model", [AsBuffer, Remembers, Cached, Random, Alternating])
def test_other_state_is_left_alone(model: Callable[[], nn.Module]) -> None:
    made = task(model)
    made.prepare()
    train(made)
    check_task(made)


def test_what_travels_or_stays_is_taken() -> None:
    made = task(AsBuffer, local=["scale"])
    made.prepare()
    train(made)


def test_the_step_of_prepare_leaves_nothing_behind() -> None:
    made = task(Remembers)
    made.prepare()
    module = made._training.model.module
    assert isinstance(module, Remembers)
    assert (module.calls, module.seen, module.last) == (0, [], None)


class FromItsFirstBatch(nn.Module):
    """Takes the mean of the first batch that it sees for that of all."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "mean"):
            self.register_buffer("mean", x.detach().mean(0) + 5, persistent=False)
        found: torch.Tensor = self.layer(x - self.mean)
        return found


@pytest.mark.parametrize("check", [prepare, check_task])
def test_what_is_made_of_the_first_batch_is_refused_before_and_in_training(check: Callable[[TorchTask], None]) -> None:
    node = TaskContext(node_index=0, node_count=1, device="cpu")
    task = TorchTask(node, model=FromItsFirstBatch, train_data=(X, Y), loss=nn.functional.cross_entropy)
    with pytest.raises(TaskError, match="training changes mean"):
        check(task)


class Following(nn.Module):
    """Predicts with a copy that follows what is trained, and that torch does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.hide(copy.deepcopy(self.layer))

    def hide(self, copied: nn.Linear) -> None:
        self.hidden: Any = [copied]

    def follower(self) -> Any:
        return self.hidden[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                for own, trained in zip(self.follower().parameters(), self.layer.parameters(), strict=True):
                    own.mul_(0.5).add_(0.5 * trained)
        found: torch.Tensor = (self.layer if self.training else self.follower())(x)
        return found


class FollowingInADict(Following):
    def hide(self, copied: nn.Linear) -> None:
        self.hidden = {"copied": nn.Sequential(copied)}

    def follower(self) -> Any:
        return self.hidden["copied"]


class FollowingInItsOwn(Following):
    def hide(self, copied: nn.Linear) -> None:
        self.__dict__["hidden"] = copied

    def follower(self) -> Any:
        return self.__dict__["hidden"]


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize(
    ("model", "name"),
    [(Following, r"hidden\[0\]"), (FollowingInADict, r"hidden\['copied'\]\.0"), (FollowingInItsOwn, "hidden")],
)
def test_a_module_that_torch_does_not_see_is_state_too(model: Callable[[], nn.Module], name: str, steps: int) -> None:
    """It stayed on its node: the coordinator predicted with the copy as it was made."""
    made, settings = task(model), TrainSettings(local_epochs=1, batch_size=16, max_steps=steps)
    now = made.initial_parameters(0)
    with pytest.raises(TaskError, match=rf"training changes {name}\.weight, .*a part of the model"):  # noqa: PT012
        for _ in range(2):
            now = made.train(now, settings, bool).parameters


class Distilled(Following):
    """The teacher is hidden so that it is neither trained nor sent: torch trains so, and so do we."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            taught = self.follower()(x)
        found: torch.Tensor = self.layer(x) + 0.1 * taught
        return found


class TooLargeToCopy(Following):
    def hide(self, copied: nn.Linear) -> None:
        with torch.device("meta"):
            self.hidden = [copied, nn.Linear(1 << 13, 1 << 13)]


@pytest.mark.parametrize("model", [Distilled, TooLargeToCopy])
def test_a_hidden_module_that_stays_as_it_is_is_left_alone(model: Callable[[], nn.Module]) -> None:
    prepare(task(model))


class InAPlainList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(4, 4)]
        self.out = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(torch.relu(self.layers[0](x)))
        return found


class ParameterInAPlainList(InAPlainList):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, torch.Tensor] = {"weight": nn.Parameter(torch.eye(4))}
        self.layers: Any = [lambda x: x @ self.kept["weight"]]


@pytest.mark.parametrize(
    ("model", "name"), [(InAPlainList, r"layers\[0\]\.weight"), (ParameterInAPlainList, r"kept\['weight'\]")]
)
def test_a_parameter_that_torch_does_not_see_is_refused_where_it_would_be_trained(
    model: Callable[[], nn.Module], name: str
) -> None:
    for check in (prepare, train):
        with pytest.raises(TaskError, match=rf"{name} has a gradient, and is no parameter of the model: .*ModuleList"):
            check(task(model))


def test_a_frozen_one_is_taken() -> None:
    def frozen() -> nn.Module:
        made = InAPlainList()
        made.layers[0].requires_grad_(False)
        return made

    prepare(task(frozen))


class LeavesOut(nn.Module):
    """Its own state_dict has no bias, and a buffer less."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 2), nn.BatchNorm1d(4)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        made = super().state_dict(*args, **kwargs)
        return {name: each for name, each in made.items() if not name.endswith(self.without)}

    without = "layer.bias"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(self.norm(x))
        return found


class LeavesOutABuffer(LeavesOut):
    without = "running_mean"


def test_what_an_own_state_dict_leaves_out_is_named() -> None:
    """The bias of each node stayed there: no two of them had one model, and none of them the exported one."""
    with pytest.raises(TaskError, match=r"layer\.bias: trained, and not in the model's state_dict"):
        prepare(task(LeavesOut))
    with pytest.raises(TaskError, match=r"training changes norm\.running_mean"):
        train(task(LeavesOutABuffer))


class Permuted(nn.Module):
    """Draws what it keeps beside its tensors, as flows do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.order = [*np.random.permutation(4), random.random()]  # noqa: NPY002 - what users write

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x[:, list(map(int, self.order[:4]))])
        return found


def test_what_a_model_draws_beside_its_tensors_is_the_same_on_every_node() -> None:
    """Each node, and the model that was exported, had an order of its own."""
    made = []
    for index in range(2):
        random.seed(index)
        np.random.seed(index)  # noqa: NPY002 - as processes differ
        drawn = np.random.random(), random.random()  # noqa: NPY002
        random.seed(index)
        np.random.seed(index)  # noqa: NPY002
        one = TorchTask(
            TaskContext(node_index=index, node_count=2),
            model=Permuted,
            loss=nn.functional.cross_entropy,
            train_data=(X, Y),
        )
        prepare(one)
        made += [one._training.model.module.order, one.module_with(one.initial_parameters(7)).order]
        assert drawn == (np.random.random(), random.random()), "the process goes on drawing as before"  # noqa: NPY002
    assert all(each == made[0] for each in made)


class Shuffled(nn.Module):
    """Has an order of its inputs that somebody else has drawn."""

    def __init__(self, order: Any) -> None:
        super().__init__()
        self.layer, self.order = nn.Linear(4, 2), order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x[:, self.order])
        return found


class Hidden(Shuffled):
    """Keeps it where nobody can look."""

    def __init__(self, order: Any) -> None:
        super().__init__(None)
        self.chosen: Callable[[torch.Tensor], torch.Tensor] = lambda x: x[:, order]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(self.chosen(x))
        return found


class Frozen(Shuffled):
    def __init__(self, order: Any) -> None:
        super().__init__([0, 1, 2, 3])
        self.first = nn.Parameter(torch.tensor(order, dtype=torch.float32), requires_grad=False)


ORDERS = itertools.cycle(itertools.permutations(range(4)))
"""What the system's randomness would be: another one at each call, whatever the seeds."""

WIDTHS = itertools.count(2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Shuffled(list(next(ORDERS))), "another order, and predictions depend on it"),
        (lambda: nn.Sequential(nn.Identity(), Shuffled(torch.tensor(next(ORDERS)))), r"another 1\.order, and"),
        (lambda: Hidden(list(next(ORDERS))), "another way to predict, and"),
        (lambda: Frozen(next(ORDERS)), "another first: every device would have its own"),
        (lambda: nn.Linear(4, next(WIDTHS)), "another weight, bias: every"),
    ],
)
def test_a_model_that_is_another_in_each_process_is_refused(make: Callable[[], nn.Module], words: str) -> None:
    """Each node trained an order of its own, and the mean of them predicted nothing; a simulation did not see it."""
    for check in (prepare, check_task):
        with pytest.raises(TaskError, match=words):
            check(task(make))
    with pytest.raises(FederationError, match=words):
        fedmq.simulate(model=make, data=(X, Y), nodes=2, rounds=1, progress=False)


def test_what_is_drawn_and_does_not_matter_or_is_sent_is_no_reason_to_refuse() -> None:
    class Marked(nn.Linear):
        """Has a name of its own, and first weights that nobody can draw again."""

        def __init__(self) -> None:
            super().__init__(4, 2)
            self.mark = next(ORDERS)
            with torch.no_grad():
                self.weight[0].copy_(torch.tensor(self.mark))

    class Drawing(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.rand(1)

    for model in (Marked, lambda: Drawing(4, 2)):
        prepare(task(model))


def test_to_look_for_it_loads_no_compiler_and_holds_no_large_model_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's start took half a second more, and one of a model of 100 MB held 4.9 times its size."""
    made = list[nn.Module]()

    def make() -> nn.Module:
        made.append(nn.Linear(4, 2))
        return made[-1]

    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    monkeypatch.setattr(torch.compiler, "set_stance", None)
    prepare(task(make))
    small = len(made)
    made.clear()
    monkeypatch.setattr(nonpersistent_state, "_HIDDEN_BYTES_MAX", 1)
    prepare(task(make))
    assert len(made) == small - 1


def test_a_task_that_is_prepared_again_is_in_training_mode_again() -> None:
    """The second time a model was in evaluation mode, in which detectors give answers in place of losses."""
    modes = list[bool]()

    def step(module: nn.Module, batch: Any) -> torch.Tensor:
        modes.append(module.training)
        found: torch.Tensor = nn.functional.cross_entropy(module(batch[0]), batch[1])
        return found

    one = task(lambda: nn.Linear(4, 2))
    one.step = step
    prepare(one)
    prepare(one)
    assert modes == [True, True]
