"""What never changes does not travel: it is declared, agreed by its digest, and exact under every codec."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from edge_node.training.adoption import AdoptionError, initial_model, manifest_of
from edge_node.training.worker import TrainingJob, TrainingSetup, run_round
from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Parameters, ProgramForm, TaskContext, prepare
from federation.tasks import TorchTask
from federation.tasks.check import check_task
from federation.tasks.pool.stacked import Stacked
from federation.tasks.scaffold import NODES_KEY, scaffolded, with_controls
from federation.tasks.training.local_model import LocalModel
from federation.testing import FakeClock
from federation.types import Digest, NodeId
from tests.rigs.node_doubles import announcement
from update_codec import CodecSpec, Manifest, Role, Vectors, decode, encode

NODE = TaskContext(node_index=0, node_count=1, device="cpu")
SERVER = replace(NODE, node_index=None)
STEPS = TrainSettings(local_epochs=10, batch_size=16, learning_rate=0.2)
X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


class Adapted(nn.Module):
    """A random frozen base with adapters, and every kind of what never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 40).requires_grad_(False)
        self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 40, bias=False)
        self.head = nn.Linear(40, 3)
        self.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
        self.register_buffer("kept", torch.ones(40, dtype=torch.bool))
        self.register_buffer("halved", torch.ones(2, dtype=torch.bfloat16), persistent=False)
        self.scale = nn.Parameter(torch.ones(2, dtype=torch.bfloat16), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(torch.relu(self.base(inputs) + self.up(self.down(inputs))))
        return output


class Tied(nn.Module):
    """One matrix under two names, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 3, bias=False)
        self.last = nn.Linear(6, 3, bias=False)
        self.last.weight = self.first.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.first(inputs) + self.last(inputs)
        return output


def task_of(model: Any = Adapted, context: TaskContext = NODE, **more: Any) -> TorchTask:
    data = {"train_data": lambda: (X, Y), "test_data": (X, Y), "loss": cross_entropy}
    return TorchTask(context, model=model, **{**data, **more})


CONSTANTS = {"base.weight", "base.bias", "mask", "kept", "scale"}


def travelling(task: TorchTask, seed: int = 0) -> Parameters:
    roles = task.roles()
    stays = {Role.CONSTANT, Role.TIED}
    return {name: array for name, array in task.initial_parameters(seed).items() if roles.get(name) not in stays}


def test_what_is_frozen_bool_or_not_finite_is_constant_and_the_rest_trains() -> None:
    task = task_of()
    prepare(task)
    check_task(task)
    assert {name for name, role in task.roles().items() if role is Role.CONSTANT} == CONSTANTS
    manifest = manifest_of(task)
    assert set(manifest.constants) == CONSTANTS
    assert manifest.parameter_count == 12 + 80 + 123
    start = travelling(task)
    result = task.train(start, STEPS, bool)
    assert result.parameters.keys() == start.keys()
    assert task_of(context=SERVER).evaluate(result.parameters)["accuracy"] > 0.75
    assert task.evaluate(start) != task.evaluate(result.parameters)


def test_constants_are_the_same_whatever_the_seed_and_belong_to_what_is_trained() -> None:
    manifests = {manifest_of(task_of(), seed).digest for seed in (0, 1, 2)}
    assert len(manifests) == 1

    class Teacher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = nn.Linear(6, 3)
            self.teacher = nn.Linear(6, 3).requires_grad_(False)
            self.teacher.load_state_dict(self.student.state_dict())

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.student(inputs)
            return output

    first = task_of(Teacher).initial_parameters(7)
    assert np.array_equal(first["teacher.weight"], first["student.weight"])


def test_what_is_loaded_from_a_file_leaves_the_seed_to_the_rest() -> None:
    def pretrained() -> nn.Module:
        model = Adapted()
        model.base.load_state_dict({"weight": torch.ones(40, 6), "bias": torch.zeros(40)})
        return model

    task = task_of(pretrained)
    some, other = task.initial_parameters(1), task.initial_parameters(2)
    assert np.array_equal(some["base.weight"], other["base.weight"])
    assert not np.array_equal(some["down.weight"], other["down.weight"])


@pytest.mark.parametrize("codec", ["lossless", "edge", "eden1", "stateless"])
def test_constants_are_exact_under_every_codec(codec: str) -> None:
    task = task_of()
    manifest = manifest_of(task)
    start = travelling(task)
    base = manifest.flatten(dict(start))
    trained = manifest.flatten(dict(task.train(start, STEPS, bool).parameters))
    frame = encode(trained.minus(base), manifest, CodecSpec.parse(codec), seed=1).frame
    arrays = manifest.unflatten(base.plus(decode(frame, manifest)))
    assert not arrays.keys() & CONSTANTS
    server = task_of(context=SERVER)
    assert server.evaluate(arrays)["accuracy"] > 0.5
    whole = server.complete(arrays)
    assert whole.keys() == task.initial_parameters(0).keys()
    assert all(
        np.array_equal(whole[name], array) for name, array in task.initial_parameters(0).items() if name in CONSTANTS
    )


def test_a_model_with_constants_is_written_as_a_program() -> None:
    task = task_of(context=SERVER)
    assert task.export(travelling(task), ProgramForm.PT2, {})
    assert task.export(task.complete(travelling(task)), ProgramForm.PT2, {})


def test_local_patterns_of_constants_leave_the_model_whole_at_the_coordinator() -> None:
    task = task_of(context=SERVER, local=["base.*"])
    assert task.evaluate(travelling(task))["accuracy"] >= 0
    assert task.export(travelling(task), ProgramForm.PT2, {})
    assert task.train(travelling(task), STEPS, bool).kept == {}


def test_a_second_name_does_not_travel_and_has_the_first_ones_values() -> None:
    task = task_of(Tied)
    check_task(task)
    manifest = manifest_of(task)
    assert manifest.parameter_count == 18
    start = manifest.unflatten(manifest.flatten(dict(task.initial_parameters(3))))
    assert start.keys() == {"first.weight", "last.weight"}
    trained = task.train(start, STEPS, bool).parameters
    assert np.array_equal(trained["first.weight"], trained["last.weight"])
    alone = task.train({"first.weight": start["first.weight"]}, STEPS, bool).parameters
    assert np.array_equal(alone["first.weight"], trained["first.weight"])


def test_tensors_that_come_apart_are_named() -> None:
    class Untied(Tied):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.last.weight = nn.Parameter(self.last.weight.detach().clone())
            return super().forward(inputs)

    with pytest.raises(TaskError, match=r"last\.weight"):
        prepare(task_of(Untied))


class Follower(nn.Module):
    """A teacher that follows the student by hand, and a flag that is set when it begins."""

    student: nn.Linear
    begun: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(6, 3)
        self.teacher = nn.Linear(6, 3).requires_grad_(False)
        self.register_buffer("begun", torch.zeros(1, dtype=torch.bool))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.student(inputs)
        if self.training:
            self.begun.fill_(True)
            self.teacher.weight.data.mul_(0.9).add_(0.1 * self.student.weight.detach())
        return output


def test_a_constant_that_changes_is_named_with_the_way_on() -> None:
    with pytest.raises(
        TaskError,
        match=r'begun \(it is a bool buffer\), teacher\.weight \(it has requires_grad=False\).*changing=\["begun", "t',
    ):
        prepare(task_of(Follower))
    follower = task_of(Follower, changing=["teacher.*"])
    for _ in range(2):
        with pytest.raises(TaskError, match="begun"):
            follower.train(travelling(follower), STEPS, bool)
    with pytest.raises(TaskError, match=r"changed in training.*begun \(it is a bool buffer\)"):
        prepare(task_of(Follower, changing=["teacher.*"]))
    task = task_of(Follower, changing=["teacher.*", "begun"])
    check_task(task)
    assert task.roles() == {
        "teacher.weight": Role.STATISTIC,
        "teacher.bias": Role.STATISTIC,
        "begun": Role.COUNTER,
    }
    assert task.train(travelling(task), STEPS, bool).parameters["begun"] == [True]


def test_a_table_can_be_declared_constant_and_a_pattern_without_a_match_is_refused() -> None:
    class Table(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 3)
            self.register_buffer("places", torch.arange(6.0))

    task = task_of(Table, constant=["places"])
    check_task(task)
    assert task.roles() == {"places": Role.CONSTANT}
    for wrong in (task_of(Table, constant=["nothing"]), task_of(Table, changing=["nothing"])):
        with pytest.raises(TaskError, match=r"(constant|changing): 'nothing' matches no tensor"):
            wrong.initial_parameters(0)


def test_a_node_with_another_frozen_base_declines_with_the_names() -> None:
    def other() -> nn.Module:
        model = Adapted()
        model.base.weight.data[0, 0] += 1
        return model

    task = task_of(other)
    setup = TrainingSetup(node=NodeId("node"), task=task, manifest=manifest_of(task))
    theirs = task_of()
    reference = replace(announcement(1).model, seed=0, manifest_digest=Digest(manifest_of(theirs).digest))
    with pytest.raises(AdoptionError, match=r"never changes \(scale, mask, kept, base\.weight, base\.bias"):
        initial_model(reference, setup)


@pytest.mark.parametrize("controlled", [False, True])
def test_a_run_of_an_earlier_release_goes_on_with_all_tensors(controlled: bool) -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(6, 6).requires_grad_(False)
            self.head = nn.Linear(6, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.head(self.base(inputs))
            return output

    task = task_of(Frozen)
    former = Manifest.of(dict(task.initial_parameters(0)))
    assert former.parameter_count == 42 + 21
    manifest = with_controls(former) if controlled else former
    setup = TrainingSetup(node=NodeId("node"), task=task, manifest=manifest_of(task)).suited(manifest.digest)
    assert setup.manifest == manifest
    arrays = dict((scaffolded(task) if controlled else task).initial_parameters(0))
    moved = {
        name: np.asarray(array, np.float32) + np.float32(0.01) if name.startswith("base") else array
        for name, array in arrays.items()
    }
    settings = replace(STEPS, extra={NODES_KEY: 2.0} if controlled else {})
    asked = replace(announcement(1, codec="lossless"), settings=settings)
    vectors = manifest.flatten(
        {each.name: moved.get(each.name, np.zeros(each.shape, np.float32)) for each in manifest.tensors}
    )
    asked = replace(asked, model=replace(asked.model, manifest_digest=Digest(manifest.digest)))
    done = run_round(setup, TrainingJob(announcement=asked, base=vectors, residual=None), bool, FakeClock())
    change = manifest.unflatten(decode(done.frame, manifest))
    assert not change["base.weight"].any()
    assert change["head.weight"].any()
    trained = task.train(
        {name: moved[name] for name in ("base.weight", "base.bias", "head.weight", "head.bias")}, STEPS, bool
    )
    assert np.array_equal(trained.parameters["base.weight"], moved["base.weight"])
    # Another run, of this release, has the base as it was made.
    assert task.evaluate(travelling(task)) == task_of(Frozen).evaluate(travelling(task))


def test_a_model_with_constants_or_second_names_is_not_stacked() -> None:
    for model in (Adapted, Tied):
        local = LocalModel(model(), torch.device("cpu"))
        assert "frozen" in str(Stacked(local, cross_entropy).objection(X[:4], Y[:4]))


def test_vectors_of_a_manifest_without_anything_that_travels_are_empty() -> None:
    manifest = Manifest.of({"a": np.ones(3, np.float32)}, {"a": Role.CONSTANT})
    assert manifest.unflatten(Vectors.zeros(manifest)) == {}
