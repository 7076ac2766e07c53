"""The task in a process of its own gives what it gives here, says what goes wrong, and leaves nothing behind."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from coordinator.global_model.initial import InitialRequest
from coordinator.runtime.task_process import TaskApart, TaskHere, TaskSettings, build_task, end_without_coordinator
from federation.errors import TaskError
from federation.tasks.statistics.task import StatisticsRequest

SETTINGS = TaskSettings(request=InitialRequest(task="quadratic-6", seed=3))

FAILING = """
import os
from federation.tasks.registry import load_task


class Failing:
    def __init__(self, context):
        self._task = load_task("quadratic-6")(context)
        self.roles, self.initial_parameters = self._task.roles, self._task.initial_parameters

    def evaluate(self, parameters):
        if {dies}:
            os.kill(os.getpid(), 9)
        print("words of its own", flush=True)
        raise ValueError("no test data")
"""


@pytest.fixture
def apart() -> Iterator[TaskApart]:
    made = TaskApart(SETTINGS)
    yield made
    made.close()


def here() -> TaskHere:
    return TaskHere(lambda: build_task(SETTINGS), SETTINGS.request)


def failing(folder: Path, *, dies: bool) -> TaskApart:
    file = folder / "failing_task.py"
    file.write_text(FAILING.format(dies=dies))
    return TaskApart(TaskSettings(request=InitialRequest(task=f"{file}:Failing")))


def test_it_makes_the_same_model_and_finds_the_same_numbers(apart: TaskApart) -> None:
    made, expected = apart.initial(), here().initial()
    assert made.manifest == expected.manifest
    assert made.vectors.digest() == expected.vectors.digest()
    assert (made.seed, made.inputs) == (expected.seed, expected.inputs) == (3, None)
    found = apart.evaluate(made.manifest, made.vectors)
    assert found == here().evaluate(made.manifest, made.vectors)
    assert found["loss"] > 0


def test_it_is_another_process_that_ends_when_it_rests_and_comes_again(apart: TaskApart) -> None:
    assert apart.pid is None
    made = apart.initial()
    first = apart.pid
    assert first not in {None, os.getpid()}
    apart.rest()
    assert apart.pid is None
    assert not psutil.pid_exists(first or 0)
    assert apart.evaluate(made.manifest, made.vectors)
    assert apart.pid not in {None, first}


def test_what_the_task_raises_is_said_and_the_process_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = failing(tmp_path, dies=False)
    made = task.initial()
    for _ in range(2):
        with pytest.raises(TaskError, match=r"ValueError: no test data \(failing_task.py, line 15, in evaluate\)"):
            task.evaluate(made.manifest, made.vectors)
    task.close()
    told = capfd.readouterr()
    assert (told.out, "words of its own" in told.err) == ("", True)


def test_a_process_that_dies_costs_its_figure_and_is_started_again(tmp_path: Path) -> None:
    task = failing(tmp_path, dies=True)
    made = task.initial()
    with pytest.raises(TaskError, match="the task's process has ended with -9"):
        task.evaluate(made.manifest, made.vectors)
    assert task.initial().vectors.digest() == made.vectors.digest()
    task.close()


def test_a_task_that_does_not_exist_is_named() -> None:
    task = TaskApart(TaskSettings(request=InitialRequest(task="there-is-none")))
    with pytest.raises(TaskError, match="there-is-none"):
        task.initial()
    task.close()


def test_closing_ends_what_takes_too_long_from_another_thread(apart: TaskApart) -> None:
    made = apart.initial()
    os.kill(apart.pid or 0, signal.SIGSTOP)
    failed = threading.Event()

    def evaluate() -> None:
        with pytest.raises(TaskError):
            apart.evaluate(made.manifest, made.vectors)
        failed.set()

    thread = threading.Thread(target=evaluate)
    thread.start()
    apart.close()
    thread.join(10.0)
    assert failed.is_set()
    with pytest.raises(TaskError, match="stops"):
        apart.initial()


def test_one_that_does_not_end_is_killed_when_it_rests(apart: TaskApart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.runtime.task_process.END_S", 0.05)
    apart.initial()
    pid = apart.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    apart.rest()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_settings_come_back_as_they_were() -> None:
    counted = StatisticsRequest(columns=("a", "b"), bounds=(("a", 0.0, 2.5),), noise=1.5)
    request = InitialRequest(task="x", data="/d", seed=7, file="f", controls=True, statistics=counted)
    settings = TaskSettings(request=request, device="cuda", threads=3)
    assert TaskSettings.from_json(settings.to_json()) == settings
    assert TaskSettings.from_json(SETTINGS.to_json()) == SETTINGS


def test_the_coordinator_imports_no_torch_for_it(apart: TaskApart) -> None:
    before = set(sys.modules)
    made = apart.initial()
    np.testing.assert_array_equal(made.vectors.statistics, [])
    assert "torch" not in set(sys.modules) - before


def test_a_task_that_hangs_does_not_outlive_its_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _code: ended.set())
    watcher = threading.Thread(target=end_without_coordinator, args=(theirs, 0.0), daemon=True)
    watcher.start()
    ours.send(b"a request is no end")
    assert not ended.is_set()
    ours.close()
    assert ended.wait(20)
    watcher.join()
    theirs.close()
