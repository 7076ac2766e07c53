"""Evaluations run beside the loop; what goes wrong in them costs a figure and nothing else."""

import queue
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pytest

from coordinator.engine.events import Evaluated
from coordinator.global_model.initial import InitialRequest
from coordinator.runtime import central_evaluation
from coordinator.runtime.central_evaluation import EvaluationWorker
from coordinator.runtime.task_process import TaskHere
from federation.protocol.messages import TrainSettings
from federation.runtime.transport import Inbox
from federation.task import Parameters, Stop, TrainResult
from federation.types import ModelVersion
from tests.rigs.model_values import INITIAL, MANIFEST
from update_codec import Role

LIMIT_S = 10.0
REQUEST = InitialRequest(task="null")


class Judging:
    """A task whose evaluation does what a test wants."""

    def __init__(self, metrics: Mapping[str, float] | Exception) -> None:
        self.metrics = metrics
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.seen: list[Parameters] = []

    def evaluate(self, parameters: Parameters) -> Mapping[str, float]:
        self.seen.append(parameters)
        self.begun.set()
        assert self.go_on.wait(LIMIT_S)
        if isinstance(self.metrics, Exception):
            raise self.metrics
        return self.metrics

    def initial_parameters(self, seed: int) -> Parameters:
        raise NotImplementedError

    def roles(self) -> Mapping[str, Role]:
        raise NotImplementedError

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        raise NotImplementedError


def worker(task: Judging, inbox: Inbox) -> EvaluationWorker:
    return EvaluationWorker(TaskHere(lambda: task, REQUEST), MANIFEST, inbox)


def test_metrics_arrive_in_the_inbox_and_the_task_sees_its_own_shapes() -> None:
    inbox: Inbox = queue.Queue()
    task = Judging({"accuracy": 0.5, "broken": float("nan")})
    task.go_on.set()
    working = worker(task, inbox)
    assert list(working.submit(ModelVersion(3), INITIAL)) == []
    assert inbox.get(timeout=LIMIT_S).event == Evaluated(version=ModelVersion(3), metrics={"accuracy": 0.5})
    assert working.close(timeout_s=LIMIT_S)
    assert task.seen[0]["weight"].shape == (8, 5)
    np.testing.assert_array_equal(task.seen[0]["batches"], [2, 7])


def test_a_failing_evaluation_is_answered_without_metrics() -> None:
    inbox: Inbox = queue.Queue()
    task = Judging(RuntimeError("no test data"))
    task.go_on.set()
    working = worker(task, inbox)
    working.submit(ModelVersion(1), INITIAL)
    working.submit(ModelVersion(2), INITIAL)
    assert inbox.get(timeout=LIMIT_S).event == Evaluated(version=ModelVersion(1), metrics={})
    assert inbox.get(timeout=LIMIT_S).event == Evaluated(version=ModelVersion(2), metrics={})
    assert working.close(timeout_s=LIMIT_S)


def test_a_task_that_cannot_be_built_is_answered_too() -> None:
    def build() -> Judging:
        raise ImportError("torch")

    inbox: Inbox = queue.Queue()
    working = EvaluationWorker(TaskHere(build, REQUEST), MANIFEST, inbox)
    working.submit(ModelVersion(1), INITIAL)
    assert inbox.get(timeout=LIMIT_S).event == Evaluated(version=ModelVersion(1), metrics={})
    assert working.close(timeout_s=LIMIT_S)


def test_more_than_a_few_waiting_models_are_skipped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(central_evaluation, "GIVEN_UP_S", 0.0)
    monkeypatch.setattr(central_evaluation, "EVALUATIONS_MAX", 1)
    task = Judging({"accuracy": 1.0})
    inbox: Inbox = queue.Queue()
    working = worker(task, inbox)
    working.submit(ModelVersion(1), INITIAL)
    assert task.begun.wait(LIMIT_S)
    assert list(working.submit(ModelVersion(2), INITIAL)) == []
    assert list(working.submit(ModelVersion(3), INITIAL)) == [
        Evaluated(version=ModelVersion(3), metrics={}, skipped=True)
    ]
    assert not working.close(timeout_s=0.0)
    task.go_on.set()
    assert working.close(timeout_s=LIMIT_S)
    assert inbox.get(timeout=LIMIT_S).event == Evaluated(version=ModelVersion(1), metrics={"accuracy": 1.0})


def test_the_task_is_built_once_for_all_threads() -> None:
    built: list[int] = []
    task = Judging({})

    def build() -> Judging:
        built.append(1)
        return task

    lazy = TaskHere(build, REQUEST)
    threads = [threading.Thread(target=lazy.get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert lazy.get() is task
    assert built == [1]


def test_an_evaluation_that_hangs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = list[tuple[str, float]]()

    @contextmanager
    def said_while_slow(doing: str, first_s: float) -> Iterator[None]:
        watched.append((doing, first_s))
        yield
        watched.append(("over", 0.0))

    monkeypatch.setattr(central_evaluation, "said_while_slow", said_while_slow)
    inbox: Inbox = queue.Queue()
    task = Judging({"loss": 1.0})
    task.go_on.set()
    working = worker(task, inbox)
    working.submit(ModelVersion(3), INITIAL)
    assert working.close(timeout_s=LIMIT_S)
    assert watched == [("evaluating version 3 with the task", central_evaluation.SLOW_S), ("over", 0.0)]
