"""Tries a release in a process of its own, before it may take this one's place: built, trained twice, evaluated.

The process is ``python -m edge_node.rollout.trial FILE`` with what to try as JSON in the file; what came of it is in
another file. It has a lower priority, and is ended when it takes too long.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_node.rollout.installed import task_of
from edge_node.training.adoption import manifest_of
from federation.documents import read_json
from federation.errors import FederationError, described
from federation.identity.task_release import TaskRelease
from federation.storage.folder import write_file
from federation.task import TaskContext, prepare
from federation.tasks.check import check_task
from federation.tasks.registry import load_task

__all__ = ["Trial", "TrialEnded", "TrialPlan"]

NICE: Final = 10
ASKED, ANSWERED = "trial.json", "tried.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPlan:
    """What a trial is like on this device.

    Attributes:
        context: What the task is built with: arguments of `TaskContext`, as JSON has them.
        arguments: What the owner's task is told: ``?`` and the rest of its name, or nothing.
        trains: Whether it trains; a task that reads the sensors' store can only be imported beside the agent.
        manifest: Digest of the present model's manifest, in hexadecimal digits.
        seconds: After which it has failed.
    """

    context: dict[str, Any]
    arguments: str
    trains: bool
    manifest: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnded:
    """What came of it; ``problem`` is None where the release may run."""

    release: TaskRelease
    problem: str | None


class Trial:
    """One trial on a thread of its own, in a process of its own.

    Args:
        release: What is tried.
        place: Where it was unpacked.
        plan: How.
        tell: Gets the end of it, on that thread.
    """

    def __init__(self, release: TaskRelease, place: Path, plan: TrialPlan, tell: Callable[[TrialEnded], None]) -> None:
        self.release = release
        self._place, self._plan, self._tell = place, plan, tell
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trial", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop it, if it still runs; nobody is told."""
        self._ended.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join()

    def _run(self) -> None:
        try:
            problem = self._tried()
        except (OSError, ValueError) as error:
            problem = f"cannot be tried: {error}"
        if not self._ended.is_set():
            self._tell(TrialEnded(release=self.release, problem=problem))

    def _tried(self) -> str | None:
        folder = self._place.parent
        asked, answered = folder / ASKED, folder / ANSWERED
        answered.unlink(missing_ok=True)
        question = {
            "place": str(self._place),
            "task": self.release.task,
            "arguments": self._plan.arguments,
            "context": self._plan.context,
            "trains": self._plan.trains,
            "answer": str(answered),
        }
        write_file(asked, json.dumps(question).encode())
        self._process = subprocess.Popen([sys.executable, "-m", __name__, str(asked)], stdin=subprocess.DEVNULL)
        if self._ended.is_set():  # closed while it started
            self._process.kill()
        try:
            code = self._process.wait(self._plan.seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return f"its trial was not over after {self._plan.seconds:g} s"
        if not answered.exists():
            return f"its trial ended without an answer, with exit code {code}"
        return self._judged(read_json(answered.read_bytes()))

    def _judged(self, answer: dict[str, Any]) -> str | None:
        problem, manifest = answer.get("problem"), answer.get("manifest")
        if problem is not None:
            return str(problem)
        if self._plan.trains and manifest != self._plan.manifest and not self.release.new_model:
            return "its model has other tensors than the present one, and the release does not say so"
        return None


def main(file: Path) -> None:
    """Try what the file says, and write what came of it."""
    with suppress(OSError):  # a service's unit refuses it, and has a Nice of its own
        os.nice(NICE)
    question = read_json(file.read_bytes())
    answer: dict[str, str | None] = {"problem": None, "manifest": None}
    try:
        answer["manifest"] = _try(question)
    except FederationError as error:
        answer["problem"] = str(error)
    except BaseException as error:  # noqa: BLE001 - whatever a task raises is an answer
        answer["problem"] = described(error)
    write_file(Path(question["answer"]), json.dumps(answer).encode())


def _try(question: dict[str, Any]) -> str | None:
    build = load_task(task_of(Path(question["place"]), question["task"]) + question["arguments"])
    if not question["trains"]:
        return None
    context = question["context"]
    data = None if context["data"] is None else Path(context["data"])
    task = build(TaskContext(**{**context, "data": data}))
    prepare(task)
    check_task(task, may_stand=True)  # its own data may already be learnt
    return manifest_of(task).digest.hex()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
