"""Evaluates versions on a worker thread: the loop never waits, and a failing evaluation costs only its figure."""

import queue
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

from coordinator.engine.events import Evaluated, Event
from coordinator.runtime.task_process import IDLE_S, EvaluatedTask
from federation.runtime.log import get_log, said_while_slow
from federation.runtime.transport import Inbox, InboxItem
from federation.types import ModelVersion
from update_codec import Manifest, Vectors

__all__ = ["EVALUATIONS_MAX", "EvaluationWorker", "Evaluator", "NoEvaluator"]

EVALUATIONS_MAX = 16
"""Models that may wait for their evaluation; further ones are skipped, which bounds the memory."""


SLOW_S = 60.0
"""An evaluation that takes longer is said to be slow, again and again: one that hangs leaves no other word."""

GIVEN_UP_S = 1.0
"""How long an evaluation that is given up may take to end, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    version: ModelVersion
    model: Vectors


class Evaluator(Protocol):
    """Evaluates versions, now or in the background."""

    def submit(self, version: ModelVersion, model: Vectors) -> Iterable[Event]:
        """Evaluate a version; the `Evaluated` event is returned at once, or arrives in the inbox later."""


class NoEvaluator:
    """Answers at once, without metrics."""

    def submit(self, version: ModelVersion, model: Vectors) -> Iterable[Event]:
        """Nothing was evaluated."""
        del model
        return (Evaluated(version=version, metrics={}, skipped=True),)


class EvaluationWorker:
    """One thread that evaluates one version after the other.

    Args:
        task: Evaluates.
        manifest: The model's manifest.
        inbox: Where `Evaluated` goes.
    """

    def __init__(self, task: EvaluatedTask, manifest: Manifest, inbox: Inbox) -> None:
        self._task, self._manifest, self._inbox = task, manifest, inbox
        self._jobs: queue.Queue[_Job | None] = queue.Queue(EVALUATIONS_MAX)
        self._log = get_log("coordinator")
        self._thread = threading.Thread(target=self._run, name="evaluation", daemon=True)
        self._thread.start()

    def submit(self, version: ModelVersion, model: Vectors) -> Iterable[Event]:
        """Evaluate a version later; at once, without metrics, when too many are waiting."""
        try:
            self._jobs.put_nowait(_Job(version=version, model=model))
        except queue.Full:
            self._log.warning("evaluation_skipped", version=version, waiting=EVALUATIONS_MAX)
            return (Evaluated(version=version, metrics={}, skipped=True),)
        return ()

    def close(self, *, timeout_s: float) -> bool:
        """Finish what is being evaluated; what takes longer is given up, and False when it cannot be."""
        while True:
            try:
                self._jobs.put_nowait(None)
                break
            except queue.Full:
                self._drop_one()
        self._thread.join(timeout_s)
        self._task.close()
        self._thread.join(GIVEN_UP_S)
        return not self._thread.is_alive()

    def _drop_one(self) -> None:
        try:
            self._jobs.get_nowait()
        except queue.Empty:
            return

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_S)
            except queue.Empty:
                self._task.rest()
                continue
            if job is None:
                self._task.rest()
                return
            metrics = self._evaluate(job)
            self._inbox.put(InboxItem(event=Evaluated(version=job.version, metrics=metrics)))

    def _evaluate(self, job: _Job) -> Mapping[str, float]:
        try:
            with said_while_slow(f"evaluating version {job.version} with the task", SLOW_S):
                metrics = self._task.evaluate(self._manifest, job.model)
            return {name: float(value) for name, value in metrics.items() if isfinite(value)}
        except BaseException:  # noqa: BLE001 - the user's code may raise anything, SystemExit too; the run goes on
            self._log.exception("evaluation_failed", version=job.version)
            return {}
