"""A release over a real broker, with certificates: taken by one device, not by another, and gone back from."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.cli import make_app
from edge_node.cli import app as node_app
from federation.runtime.local_broker import free_port

pytestmark = [pytest.mark.broker, pytest.mark.cold, pytest.mark.slow, pytest.mark.timeout(300)]

LIMIT_S = 60.0
TASK = """
import numpy as np
from federation.task import TrainResult

NAME = "by hand"


class Pump:
    def initial_parameters(self, seed):
        return {"w": np.full(4, seed, np.float32)}

    def roles(self):
        return {}

    def train(self, parameters, settings, stop):
        return TrainResult(parameters={"w": parameters["w"] + np.float32(1)}, num_examples=8, metrics={"loss": 1.0})

    def evaluate(self, parameters):
        return {}


def build(context):
    return Pump()
"""
BROKEN = TASK.replace(
    "        return TrainResult",
    "        import __main__\n        assert 'trial' in __main__.__file__\n        return TrainResult",
)


def run_command(*arguments: str) -> str:
    done = CliRunner().invoke(make_app(list(arguments)), arguments)
    assert done.exit_code == 0, done.output
    return done.output


class Program:
    """One of our programs, whose log is read line by line."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log: list[str] = []
        # What is not read would fill the pipe, and the program would wait for it.
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def until(self, pattern: str) -> str:
        """The next line that matches; a program that ends before it, or takes too long, fails the test."""
        deadline = time.monotonic() + LIMIT_S
        try:
            while (line := self.lines.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
                self.log.append(line)
                if re.search(pattern, line):
                    return line
        except queue.Empty:
            pass
        raise AssertionError(f"no {pattern!r} in:\n{''.join(self.log[-100:])}")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=LIMIT_S)
        finally:
            self.process.kill()
            self.process.wait()
            self.reader.join()
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pump.py").write_text(TASK)
    run_command(
        *("init", "plant", "--host", "127.0.0.1", "--port", str(free_port()), "--task", "pump.py:build"),
        *("--no-evaluate", "--enroll", "takes", "--enroll", "refuses"),
    )
    for node, updates in (("takes", ("--updates", "signed")), ("refuses", ())):
        done = CliRunner().invoke(
            node_app, ["join", f"plant/enrolled/{node}.fedmq", "--task", str(tmp_path / "pump.py:build"), *updates]
        )
        assert done.exit_code == 0, done.output
    return tmp_path


@pytest.fixture
def programs(plant: Path) -> Iterator[dict[str, Program]]:
    coordinator = ("coordinator", "run", "--config", "plant", "--with-broker", "--versions", "100000")
    started = {"coordinator": Program(*coordinator, cwd=plant)}
    try:
        started["coordinator"].until("coordinator_started")
        for node in ("takes", "refuses"):
            started[node] = Program("edge_node", "run", "--config", node, cwd=plant)
        yield started
    finally:
        for program in reversed(started.values()):
            program.end()


def state_of(node: str) -> Any:
    return json.loads(Path(node, "state", "rollout.json").read_text())


def test_a_device_takes_a_release_and_goes_back_from_one_that_fails(programs: dict[str, Program]) -> None:
    """FED-240 to FED-245: nothing runs on the device whose owner has not allowed it."""
    coordinator, takes = programs["coordinator"], programs["takes"]
    takes.until("training_finished")
    pid = takes.process.pid
    Path("good").mkdir()
    Path("good/pump.py").write_text(TASK.replace("by hand", "released"))
    run_command("task", "publish", "plant", "good")
    takes.until(r"task_release +.*number=1 on_trial=True")
    coordinator.until("task_release_on_node.*node=takes number=1 state=active")
    assert (takes.process.pid, takes.process.poll()) == (pid, None)
    assert state_of("takes")["running"] == 1

    Path("bad").mkdir()
    Path("bad/pump.py").write_text(BROKEN)
    run_command("task", "publish", "plant", "bad")
    takes.until(r"task_release +.*number=2 on_trial=True")
    takes.until(r"task_release +.*number=1 on_trial=False")
    takes.until("training_finished")
    told = coordinator.until("task_release_on_node.*node=takes number=2 .*state=failed")
    assert "its first training failed: AssertionError" in told
    assert (state_of("takes")["running"], [*state_of("takes")["ended"]]) == (1, ["2"])

    run_command("task", "withdraw", "plant")
    coordinator.until("task_release_on_node.*node=takes number=2 state=withdrawn")
    assert not Path("refuses", "state", "rollout.json").exists()
    assert not Path("refuses", "state", "tasks").exists()
    assert programs["refuses"].process.poll() is None
