"""One round of local work, as a function; and the one worker thread that runs it off the driver's thread."""

import contextlib
import math
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_node.engine.events import EvaluationFinished, TrainingFailed, TrainingFinished
from edge_node.records import FinishedTraining, Residual
from edge_node.storage.task_state import change_of
from edge_node.training.evaluation import EvaluationJob, evaluation_event, reason_of
from edge_node.training.masked_report import told
from edge_node.training.masking import Learnt, Masking, mask_update
from edge_node.training.priority import Priority
from edge_node.training.process import TrainingMark, end_if_forked
from edge_node.training.update import Delta, ResidualAging, Shared, difference, encode_update, moves, taken, within
from federation.contract import Wanted, checked_result, given, unmoved
from federation.errors import TaskError, unexplained
from federation.inputs import agree
from federation.process_state import process_state_kept
from federation.protocol.limits import fit_metrics, fit_text
from federation.protocol.messages import EvaluationReport, RoundAnnouncement
from federation.runtime.clock import Clock
from federation.runtime.failpoint import failpoint
from federation.runtime.log import get_log
from federation.runtime.transport import Inbox, InboxItem
from federation.task import Correctable, Metrics, Parameters, Stateful, Stop, Task, TrainResult
from federation.tasks.scaffold import ScaffoldTask, with_controls
from federation.tasks.statistics.layout import columns_of, statistics_manifest
from federation.tasks.statistics.task import StatisticsTask
from federation.types import NodeId, RoundId, update_id
from update_codec import CodecSpec, Context, Manifest, ManifestError, SpecError, Vectors

__all__ = [
    "ModelOffer",
    "ThreadTrainer",
    "Trainer",
    "TrainingJob",
    "TrainingSetup",
    "codec_seed",
    "evaluated",
    "run_round",
    "training_event",
]

POST_TIMEOUT_S = 60.0
"""How long a result waits for a place in the inbox: a driver that takes nothing for this long is dead, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """What a node trains with.

    Attributes:
        node: Who trains.
        task: The user's model, data and training.
        manifest: Names, shapes and types of its tensors.
        norm_max: Bound of an update's L2 norm, which longer ones are scaled down to; None is no bound.
        aging: How much a residual still counts after missed versions.
        observe: A training is over: what is to be said of the data that it was on, as metrics; None says nothing.
        counted: Whether the owner lets the node's rows be counted (``coordinator analyze``).
        mark: Says at the next start that a training has ended the process.
    """

    node: NodeId
    task: Task
    manifest: Manifest
    norm_max: float | None = None
    aging: ResidualAging = field(default_factory=ResidualAging)
    observe: Callable[[], Metrics] | None = None
    counted: bool = True
    mark: TrainingMark | None = None

    def suited(self, manifest_digest: bytes) -> "TrainingSetup":
        """The set-up for a model of this manifest: itself, or the task under SCAFFOLD, or its readings to be counted.

        A run that began under an earlier release sends what never changes, too.
        """
        for plain in dict.fromkeys((self.manifest, self.manifest.former)):
            if manifest_digest == plain.digest:
                return replace(self, manifest=plain)
            if not isinstance(self.task, Correctable):
                continue
            try:
                manifest = with_controls(plain)
            except ManifestError:  # names too long, or too many tensors: no coordinator can have made it either
                continue
            if manifest_digest == manifest.digest:
                return replace(self, task=ScaffoldTask(self.task), manifest=manifest)
        columns = columns_of(manifest_digest)
        if columns is None:
            return self
        # Counts are whole numbers: there is no norm that they could be scaled down to.
        task, manifest = StatisticsTask(self.task, columns, allowed=self.counted), statistics_manifest(columns)
        return replace(self, task=task, manifest=manifest, norm_max=None, observe=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """One round's assignment.

    Attributes:
        announcement: What is asked for.
        base: The model to start from.
        residual: What earlier updates did not send, float32 (D,), or None.
        residual_share: How much of it still counts.
        payload_bytes_max: What the uplink carries in time, or None.
        state: What the node keeps for its task.
        average: Moving average of the global updates up to the base, for the codec's context; None where it is not had.
        attempt: Comes back with what is made of it.
        inputs: What the run's inputs mean, where that has been heard.
        masking: What it takes to mask the update, where that is asked.
    """

    announcement: RoundAnnouncement
    base: Vectors
    residual: Residual | None
    residual_share: float = 1.0
    payload_bytes_max: int | None = None
    state: Parameters = field(default_factory=dict)
    average: NDArray[np.float32] | None = None
    attempt: int | None = None
    inputs: str | None = None
    masking: Masking | None = None


ModelOffer = Callable[[TrainingSetup, EvaluationJob, EvaluationReport], None]
"""What the device makes of a model that was evaluated on it."""


class Trainer(Protocol):
    """Runs jobs, one at a time, and answers each with `TrainingFinished` or `TrainingFailed`."""

    def start(self, job: TrainingJob) -> None:
        """Run this job as soon as the running one is over; a job that still waits is replaced."""

    def evaluate(self, job: EvaluationJob) -> None:
        """Evaluate as soon as the running job is over; answers with `EvaluationFinished`. Replaces one that waits."""

    def stop(self, round_id: RoundId) -> None:
        """Ask the job of this round to give up."""

    def close(self, *, timeout_s: float) -> bool:
        """Stop everything; says whether the worker ended within the time, in seconds."""


def run_round(setup: TrainingSetup, job: TrainingJob, stop: Stop, clock: Clock) -> FinishedTraining:
    """Train from the job's model and encode what changed.

    Raises:
        TaskError: The task broke its contract, was stopped, or the codec is unknown.
    """
    announcement = job.announcement
    setup = setup.suited(announcement.model.manifest_digest)
    task, manifest = setup.task, setup.manifest
    try:
        asked = CodecSpec.parse(announcement.codec)
    except SpecError as error:
        raise TaskError(str(error)) from error
    spec, began_s = within(asked, job.payload_bytes_max, manifest.parameter_count), clock.now()
    failpoint("node_training")
    if isinstance(task, Stateful):
        task.restore(job.state)
    agree(task, announcement.model.inputs_digest, job.inputs)
    result = task.train(given(task, manifest, job.base), announcement.settings, stop)
    train_s = clock.now() - began_s
    if stop():
        raise TaskError("stopped")
    result = checked_result(result, Wanted.of(manifest))
    if setup.observe is not None:
        result = replace(result, metrics={**result.metrics, **setup.observe()})
    if announcement.settings.privacy is not None:
        result = _only_the_update(result)
    failpoint("node_trained")
    tensors, result = taken(result.parameters), replace(result, parameters={})
    delta = difference(job.base, tensors, manifest, norm_max=setup.norm_max)
    done = FinishedTraining(
        round=announcement.round,
        frame=b"",
        num_examples=result.num_examples,
        metrics=fit_metrics(result.metrics),
        train_s=train_s,
        run=announcement.run,
        codec=str(spec),
        change=change_of(result),
        attempt=job.attempt,
        spent=result.spent,
        moved=moves(delta, job.base, result.steps),
    )
    if announcement.privacy is not None:
        return _masked(setup, job, delta, done)
    update = encode_update(
        delta,
        manifest,
        spec,
        residual=job.residual,
        share=job.residual_share,
        shared=Shared(seed=codec_seed(announcement, setup.node), context=_context(asked, job.average)),
        norm_max=setup.norm_max,
        own=True,
    )
    return replace(done, frame=update.frame, token=update.change)


def _masked(setup: TrainingSetup, job: TrainingJob, delta: Delta, done: FinishedTraining) -> FinishedTraining:
    """The same, hidden.

    Raises:
        TaskError: There is nobody to seal the seeds to, or the announced terms are not for this model.
    """
    if job.masking is None:
        raise TaskError("helpers: no key to seal seeds to has been heard")
    learnt = Learnt(
        delta=delta,
        num_examples=done.num_examples,
        loss=done.metrics.get("loss"),
        residual=job.residual,
        share=job.residual_share,
    )
    name = update_id(job.announcement.round, setup.node)
    update = mask_update(learnt, job.announcement, name, setup.manifest, job.masking)
    return replace(done, frame=update.frame, token=update.change, masked=update.offer)


def _only_the_update(result: TrainResult) -> TrainResult:
    """Whatever a task says beside its update is of its data, and had no noise [FED-181]."""
    if result.spent is None:
        raise TaskError("the task does not say that it has kept differential privacy: nothing of it is sent")
    return replace(result, num_examples=1, metrics={})


def training_event(
    setup: TrainingSetup, job: TrainingJob, stop: Stop, clock: Clock
) -> TrainingFinished | TrainingFailed:
    """What `run_round` comes to: whatever the user's task raises becomes an event with its reason."""
    announcement = job.announcement
    try:
        return TrainingFinished(result=run_round(setup, job, stop, clock))
    except BaseException as error:  # noqa: BLE001 - even SystemExit from a user's task must not end the worker silently
        if not stop():
            said = {"round": announcement.round, "reason": reason_of(error)}
            get_log("training").warning("training_failed", **said, exc_info=unexplained(error))
        # Under differential privacy what went wrong may be of the data: only this node's log says it.
        why = "training failed" if announcement.settings.privacy is not None else fit_text(reason_of(error))
        return TrainingFailed(round=announcement.round, reason=why, run=announcement.run, attempt=job.attempt)


def evaluated(setup: TrainingSetup, job: EvaluationJob, clock: Clock) -> EvaluationFinished:
    """What evaluating a model comes to, also one that carries control variates."""
    suited = setup.suited(job.manifest_digest)
    return evaluation_event(suited.task, suited.manifest, job, clock)


class ThreadTrainer:
    """The worker thread: results go into the driver's inbox.

    Args:
        setup: What to train with.
        inbox: The driver's.
        clock: For durations.
        stall_s: A training that has not asked its stop flag for so long does not get on any more, in seconds.
        priority: Lets other processes of the device go first; None: none does.
        offer: Gets each evaluated model that the device may use, on the worker's thread.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        inbox: Inbox,
        clock: Clock,
        *,
        stall_s: float = math.inf,
        priority: Priority | None = None,
        offer: ModelOffer | None = None,
    ) -> None:
        self._setup, self._inbox, self._clock = setup, inbox, clock
        self._priority, self._offer, self._pid = priority or Priority(), offer, os.getpid()
        self._stall_s, self._sign_s, self._stalled = stall_s, math.inf, False
        self._began_s, self._moved = 0.0, True
        self._log = get_log("training")
        self._jobs: queue.Queue[tuple[TrainingJob, threading.Event] | EvaluationJob | None] = queue.Queue(maxsize=1)
        self._flags: deque[tuple[RoundId, threading.Event]] = deque(maxlen=4)
        # A daemon: a training that ignores its stop flag must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="training", daemon=True)
        self._thread.start()

    def start(self, job: TrainingJob) -> None:
        """Run this job as soon as the running one is over; a job that still waits is replaced."""
        flag = threading.Event()
        self._flags.append((job.announcement.round, flag))
        self._replace((job, flag))

    def evaluate(self, job: EvaluationJob) -> None:
        """Evaluate as soon as the running job is over; a job that still waits is replaced."""
        self._replace(job)

    def stop(self, round_id: RoundId) -> None:
        """Ask the job of this round to give up."""
        for known, flag in self._flags:
            if known == round_id:
                flag.set()

    @property
    def gets_on(self) -> bool:
        """Whether the worker lives, and its training has given a sign of life lately; no work at all is fine."""
        # Infinity while nothing is trained, and one value that two threads may read and write as they like.
        stalled = self._clock.now() - self._sign_s > self._stall_s
        if stalled and not self._stalled:
            self._log.error("training_stalled", seconds=self._stall_s, why="the task does not ask its stop flag")
        self._stalled = stalled
        return self._thread.is_alive() and not stalled

    @property
    def trains(self) -> bool:
        """Whether a training is under way."""
        return self._sign_s != math.inf

    def close(self, *, timeout_s: float) -> bool:
        """Stop everything; says whether the worker ended within the time, in seconds."""
        for _, flag in self._flags:
            flag.set()
        self._replace(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _replace(self, item: tuple[TrainingJob, threading.Event] | EvaluationJob | None) -> None:
        # Only the driver's thread puts, so after taking what waits there is room.
        with contextlib.suppress(queue.Empty):
            self._jobs.get_nowait()
        self._jobs.put_nowait(item)

    def _work(self) -> None:
        self._priority.passed(0.0)
        while (item := self._jobs.get()) is not None:
            self._began_s = self._clock.now()
            with process_state_kept():
                event: object = self._evaluate(item) if isinstance(item, EvaluationJob) else self._run(*item)
            end_if_forked(self._pid)
            self._priority.passed(self._clock.now() - self._began_s)
            try:
                self._inbox.put(InboxItem(event=event), timeout=POST_TIMEOUT_S)
            except queue.Full:
                self._log.error("result_lost", result=type(event).__name__, why="the inbox stayed full")

    def _evaluate(self, job: EvaluationJob) -> EvaluationFinished:
        """The report waits until the device has the model: a node that leaves at the end of a run leaves after it."""
        event = evaluated(self._setup, job, self._clock)
        try:
            if self._offer is not None and job.uses:
                self._offer(self._setup, job, event.report)
        except Exception:  # noqa: BLE001 - a user's task may raise anything, and training goes on
            self._log.exception("model_not_taken", version=job.version)
        return told(self._setup.node, job, event)

    def _run(self, job: TrainingJob, flag: threading.Event) -> TrainingFinished | TrainingFailed:
        announcement = job.announcement
        self._log.info("training_started", round=announcement.round, version=announcement.model.version)
        self._sign_s = self._clock.now()
        mark = self._setup.mark
        try:
            with contextlib.nullcontext() if mark is None else mark.training(announcement.round):
                event = training_event(self._setup, job, lambda: self._asked(flag), self._clock)
        finally:
            self._sign_s = math.inf
        if isinstance(event, TrainingFinished):
            result = event.result
            numbers = {"seconds": round(result.train_s, 3), "loss": result.metrics.get("loss"), "moved": result.moved}
            self._log.info("training_finished", round=result.round, bytes=len(result.frame), **numbers)
            if self._moved and not result.moved:
                self._log.warning("nothing_moved", round=result.round, why=unmoved(announcement.settings))
            self._moved = result.moved
        return event

    def _asked(self, flag: threading.Event) -> bool:
        self._sign_s = self._clock.now()
        self._priority.passed(self._sign_s - self._began_s)
        return flag.is_set()


def _context(spec: CodecSpec, average: NDArray[np.float32] | None) -> Context | None:
    """The classes of the parameters, where the codec wants them and both ends have an average that says something."""
    return Context.of(average) if spec.context and average is not None and average.any() else None


def codec_seed(announcement: RoundAnnouncement, node: NodeId) -> int:
    """Every node and round draws another dither."""
    text = f"{announcement.run}/{announcement.round}/{node}".encode()
    return int.from_bytes(blake2b(text, digest_size=4).digest(), "little")
