"""A bad task is refused with the same words wherever it is met: by its author's check, by a node, in a simulation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import structlog

import fedmq
from coordinator.global_model.initial import InitialRequest, initial_model
from edge_node.engine.events import TrainingFailed
from edge_node.training.adoption import manifest_of
from edge_node.training.evaluation import EvaluationJob, evaluation_event
from edge_node.training.worker import TrainingJob, TrainingSetup, training_event
from federation.contract import Wanted, checked_metrics, checked_result, given_arrays
from federation.errors import FederationError, TaskError, user_code
from federation.protocol.limits import EXAMPLES_MAX
from federation.protocol.messages import TrainSettings
from federation.task import Metrics, Parameters, Stop, Task, TrainResult, prepare
from federation.tasks.check import check_task
from federation.testing import FakeClock
from federation.types import Digest, NodeId
from tests.rigs.node_doubles import announcement
from update_codec import Role

WEIGHT = np.zeros(3, np.float32)


def moved(given: Parameters, /, **changes: Any) -> Any:
    arguments: dict[str, Any] = {"parameters": {name: array + 1 for name, array in given.items()}}
    return TrainResult(**{**arguments, "num_examples": 5, **changes})


def returning(**changes: Any) -> Callable[[Parameters], Any]:
    return lambda parameters: moved(parameters, **changes)


def raising(*_: Any) -> Any:
    raise ValueError("boom")


@dataclass
class Scripted:
    """A task that is right but for what a test changes."""

    made: Callable[[int], Any] = lambda _: {"w": WEIGHT.copy()}
    said: Any = field(default_factory=dict)
    result: Callable[[Parameters], Any] = moved
    measured: Callable[[Parameters], Any] = lambda _: {"loss": 1.0}
    ready: Callable[[], None] = lambda: None

    def initial_parameters(self, seed: int) -> Parameters:
        found: Parameters = self.made(seed)
        return found

    def roles(self) -> Mapping[str, Role]:
        found: Mapping[str, Role] = self.said
        return found

    def prepare(self) -> None:
        self.ready()

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        del settings, stop
        result: TrainResult = self.result(parameters)
        return result

    def evaluate(self, parameters: Parameters) -> Metrics:
        found: Metrics = self.measured(parameters)
        return found


MODELS = [
    (Scripted(made=lambda _: None), "initial_parameters must give a dict of arrays, not NoneType"),
    (Scripted(made=lambda _: {}), "initial_parameters is empty"),
    (Scripted(made=lambda _: {"w": [1.0, 2.0]}), "w must be a NumPy array, not list"),
    (Scripted(made=lambda _: {"w": np.array(["a"])}), "w must be an array of floats or integers, not <U1"),
    (Scripted(made=lambda _: {"w": np.full(3, np.nan, np.float32)}), "w is not finite at first"),
    (
        Scripted(made=lambda _: {"w" * 300: WEIGHT}),
        "the task's model cannot be described: a tensor name takes 1 to 256",
    ),
    (Scripted(made=raising), "the task cannot make its initial model: ValueError: boom"),
    (Scripted(said=None), "roles must give a dict, empty where all have their default, not NoneType"),
    (Scripted(said={"x": Role.STATISTIC}), "roles names x, which is no tensor of the model"),
    (Scripted(said={"w": Role.COUNTER}), "w has dtype float32, which does not suit the role counter"),
]
RESULTS = [
    (Scripted(result=lambda _: None), "the task's train() must give a TrainResult, not NoneType"),
    (Scripted(result=returning(num_examples=0)), f"num_examples must be a whole number from 1 to {EXAMPLES_MAX}"),
    (Scripted(result=returning(num_examples=1.5)), f"num_examples must be a whole number from 1 to {EXAMPLES_MAX}"),
    (Scripted(result=returning(num_examples=10**30)), f"num_examples must be a whole number from 1 to {EXAMPLES_MAX}"),
    (Scripted(result=returning(metrics=None)), "train: the metrics must be a dict of numbers by name, not NoneType"),
    (Scripted(result=returning(parameters=None)), "train must return a dict of arrays, not NoneType"),
    (Scripted(result=returning(parameters={})), "train must return the tensors that came in; it differs in ['w']"),
    (Scripted(result=returning(parameters={"w": WEIGHT, "x": WEIGHT})), "it differs in ['x']"),
    (Scripted(result=returning(parameters={"w": [1.0, 2.0, 3.0]})), "w came back as list, which is no NumPy array"),
    (Scripted(result=returning(parameters={"w": np.zeros(3)})), "w was float32[3] and came back as float64[3]"),
    (Scripted(result=returning(parameters={"w": WEIGHT[None]})), "w was float32[3] and came back as float32[1, 3]"),
    (Scripted(result=returning(parameters={"w": WEIGHT + np.inf})), "w is not finite after training"),
    (Scripted(result=raising), "ValueError: boom"),
    (Scripted(ready=raising), "ValueError: boom"),
]
EVALUATIONS = [
    (Scripted(measured=lambda _: None), "evaluate: the metrics must be a dict of numbers by name, not NoneType"),
    (Scripted(measured=raising), "ValueError: boom"),
]


def said(ask: Callable[[], object]) -> str:
    """What it is refused with; nothing else than an error of ours may be raised."""
    with pytest.raises(FederationError) as caught:
        ask()
    return str(caught.value)


def simulated(task: Task, **changes: Any) -> fedmq.Study:
    return fedmq.simulate(lambda _: task, nodes=2, rounds=1, progress=False, **changes)


def on_a_node(task: Task) -> None:
    """What a node does with its task, from its start to its first update; its worker takes whatever is raised."""
    with user_code("the task cannot be built"):
        prepare(task)
    manifest = manifest_of(task)
    asked = announcement(1)
    asked = replace(asked, model=replace(asked.model, manifest_digest=Digest(manifest.digest)))
    base = manifest.flatten(dict(task.initial_parameters(0)))
    setup = TrainingSetup(node=NodeId("n"), task=task, manifest=manifest)
    with structlog.testing.capture_logs():
        found = training_event(setup, TrainingJob(announcement=asked, base=base, residual=None), bool, FakeClock())
    if isinstance(found, TrainingFailed):
        raise TaskError(found.reason)


def at_a_coordinator(task: Task) -> None:
    initial_model(InitialRequest(task="mine.py:build"), task)


@pytest.mark.parametrize(("task", "words"), MODELS)
def test_a_model_that_cannot_travel_is_refused_everywhere_with_the_same_words(task: Scripted, words: str) -> None:
    for entry in (check_task, simulated, on_a_node, at_a_coordinator):
        assert words in said(lambda entry=entry: entry(task)), entry  # type: ignore[misc]


@pytest.mark.parametrize("codec", ["lossless", "edge"])
@pytest.mark.parametrize(("task", "words"), RESULTS)
def test_a_training_that_gives_no_update_is_refused_everywhere_with_the_same_words(
    task: Scripted, words: str, codec: str
) -> None:
    assert words in said(lambda: on_a_node(task))
    assert words in said(lambda: check_task(task))
    assert words in said(lambda: simulated(task, codec=codec))


@pytest.mark.parametrize(("task", "words"), EVALUATIONS)
def test_an_evaluation_that_gives_no_numbers_is_told_everywhere_with_the_same_words(task: Scripted, words: str) -> None:
    manifest = manifest_of(task)
    model = manifest.flatten(dict(task.initial_parameters(0)))
    asked = announcement(1)
    job = EvaluationJob(run=asked.run, version=asked.model.version, digest=asked.model.digest, model=model)
    assert words in evaluation_event(task, manifest, job, FakeClock()).report.reason
    assert words in said(lambda: check_task(task))
    assert words in said(lambda: simulated(task))


def test_what_is_no_finite_number_among_the_metrics_is_left_out_by_nodes_real_and_simulated() -> None:
    odd = {"loss": np.float32(0.5), "auc": float("nan"), "device": "cpu", "none": None}
    assert checked_metrics(odd) == {"loss": 0.5}
    task = Scripted(result=returning(metrics=odd), measured=lambda _: odd)
    assert simulated(task, codec="edge").seeds[0].report["rounds"][-1]["metrics"] == {"loss": 0.5}
    on_a_node(task)
    assert "the metric auc must be a finite number, not nan" in said(lambda: check_task(task))


def test_a_task_that_writes_into_what_it_gets_changes_no_other_node_s_model() -> None:
    """A simulated node has gotten the very arrays of the others, and trained from what the one before had made."""

    def in_place(parameters: Parameters) -> TrainResult:
        np.add(parameters["w"], np.float32(1), out=parameters["w"])
        return TrainResult(parameters=parameters, num_examples=1)

    task = Scripted(result=in_place)
    check_task(task)
    np.testing.assert_array_equal(simulated(task).seeds[0].parameters["w"], np.ones(3, np.float32))


def test_a_reader_gets_what_the_others_have_and_everybody_else_a_copy() -> None:
    @dataclass
    class Reading(Scripted):
        reads_only: bool = True

    model = {"w": WEIGHT}
    assert given_arrays(Reading(), model)["w"] is WEIGHT
    assert not np.shares_memory(given_arrays(Scripted(), model)["w"], WEIGHT)


def test_what_stays_may_come_back_or_not_and_a_number_is_an_array_without_axes() -> None:
    wanted, number = Wanted({"w": np.zeros((), np.float32)}, ("mask",)), {"w": np.zeros((), np.float32) + 1}
    for more in ({}, {"mask": np.array([np.inf])}):
        assert checked_result(TrainResult(parameters={**number, **more}, num_examples=1), wanted)
    with pytest.raises(TaskError, match=r"it differs in \['other'\]"):
        checked_result(TrainResult(parameters={**number, "other": WEIGHT}, num_examples=1), wanted)
    large = np.full(4, 3e38, np.float32)  # finite, and its sum is not
    assert checked_result(TrainResult(parameters={"w": large}, num_examples=1), Wanted({"w": large}))
