"""One round of local work, and the worker that nothing a user's task does can break."""

import errno
import itertools
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from edge_node.engine.events import EvaluationFinished, TrainingFailed, TrainingFinished
from edge_node.training import worker
from edge_node.training.evaluation import EvaluationJob, evaluation_event
from edge_node.training.priority import NICE_IDLE, SHORT_S, Priority
from edge_node.training.update import FIRST_ENTRIES, EncodedUpdate, ResidualChange, encode_update, moves
from edge_node.training.worker import ThreadTrainer, TrainingJob, TrainingSetup, run_round, training_event
from federation.contract import described_model
from federation.errors import TaskError, user_code
from federation.inputs import Inputs
from federation.protocol.limits import METRICS_MAX
from federation.protocol.messages import EvaluationReport
from federation.runtime.clock import MonotonicClock
from federation.runtime.transport import Inbox
from federation.task import Array, Stop, TaskContext
from federation.tasks import TorchTask
from federation.testing import FakeClock
from federation.types import Digest, ModelVersion, RoundId
from tests.rigs.node_doubles import MANIFEST, RUN, ToyTask, announcement, training_setup, vectors
from update_codec import CodecSpec, Manifest, Vectors, decode

LIMIT_S = 20.0


class StepClock:
    """A clock that goes on by 2 s each time it is read."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        self._now += 2.0
        return self._now


def job(round_number: int = 7, codec: str = "lossless") -> TrainingJob:
    return TrainingJob(announcement=announcement(round_number, codec=codec), base=vectors(), residual=None)


def never() -> bool:
    return False


def test_round_gives_the_encoded_difference_and_its_numbers() -> None:
    finished = run_round(training_setup(), job(), never, StepClock())
    np.testing.assert_array_equal(decode(finished.frame, MANIFEST).parameters[:12], np.ones(12, np.float32))
    assert (finished.round, finished.run, finished.num_examples) == (7, RUN, 10)
    assert (finished.metrics, finished.train_s) == ({"loss": 0.5}, 2.0)
    assert finished.token == ResidualChange(used=None, left=None)


class NamedTask(ToyTask):
    """A task that has columns."""

    def __init__(self) -> None:
        super().__init__()
        self.own = Inputs(features=("vibration", "heat"))

    def inputs(self) -> Inputs:
        return self.own

    def adopt_inputs(self, wanted: Inputs) -> None:
        self.own = wanted


def test_a_node_trains_and_evaluates_on_what_the_run_s_inputs_mean() -> None:
    """FED-126."""
    wanted = Inputs(features=("heat", "vibration"))
    plain = job()
    model = replace(plain.announcement.model, inputs_digest=wanted.digest)
    described = replace(plain, announcement=replace(plain.announcement, model=model))
    task = NamedTask()
    with pytest.raises(TaskError, match="it will ask again"):
        run_round(training_setup(task), described, never, StepClock())
    run_round(training_setup(task), replace(described, inputs=wanted.to_text()), never, StepClock())
    assert task.own == wanted
    fresh = NamedTask()
    asked = EvaluationJob(
        run=RUN,
        version=ModelVersion(4),
        digest=Digest(b""),
        model=vectors(),
        inputs_digest=wanted.digest,
        inputs=wanted.to_text(),
    )
    evaluation_event(fresh, MANIFEST, asked, StepClock())
    assert fresh.own == wanted


def test_a_slow_uplink_lowers_the_rate_of_a_codec_with_feedback_and_the_result_says_so() -> None:
    slow = replace(job(codec="deadzone(bpp=8,feedback=1)"), payload_bytes_max=5)
    assert CodecSpec.parse(run_round(training_setup(), slow, never, StepClock()).codec).bpp == pytest.approx(40 / 15)
    assert run_round(training_setup(), replace(slow, payload_bytes_max=99), never, StepClock()).codec == (
        "deadzone(bpp=8,feedback=1)"
    )
    assert run_round(training_setup(), replace(job(), payload_bytes_max=5), never, StepClock()).codec == "lossless"


def test_base_model_is_not_changed_by_a_task_that_trains_in_place() -> None:
    def in_place(parameters: dict[str, Array]) -> None:
        parameters["bias"][...] = 9

    base = vectors()
    run_round(
        training_setup(ToyTask(change=in_place)),
        TrainingJob(announcement=announcement(), base=base, residual=None),
        never,
        StepClock(),
    )
    np.testing.assert_array_equal(base.parameters, vectors().parameters)


def test_clip_of_the_node_bounds_the_update() -> None:
    finished = run_round(training_setup(norm_max=0.5), job(), never, StepClock())
    assert np.linalg.norm(decode(finished.frame, MANIFEST).parameters) == pytest.approx(0.5, rel=1e-5)


def test_every_node_and_round_has_a_codec_seed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[object] = []

    def spy(*args: Any, **kwargs: Any) -> EncodedUpdate:
        seeds.append(kwargs["shared"].seed)
        return encode_update(*args, **kwargs)

    monkeypatch.setattr(worker, "encode_update", spy)
    for round_number in (7, 7, 8):
        run_round(training_setup(), job(round_number), never, StepClock())
    assert seeds[0] == seeds[1] != seeds[2]


def test_metrics_that_cannot_travel_are_left_out() -> None:
    metrics = {"loss": float("nan"), "x" * 100: 1.0} | {f"m{i}": 1.0 for i in range(40)}
    finished = run_round(training_setup(ToyTask(metrics=metrics)), job(), never, StepClock())
    assert "loss" not in finished.metrics
    assert len(finished.metrics) == METRICS_MAX


@pytest.mark.parametrize("count", [0, -1, True, 2.0, 2**53])
def test_num_examples_that_is_no_weight_is_the_tasks_error(count: int) -> None:
    with pytest.raises(TaskError, match="num_examples"):
        run_round(training_setup(ToyTask(num_examples=count)), job(), never, StepClock())


def test_unknown_codec_fails_the_round_with_its_name() -> None:
    event = training_event(training_setup(), job(codec="zip"), never, StepClock())
    assert isinstance(event, TrainingFailed)
    assert "zip" in event.reason


@pytest.mark.parametrize(
    "raised", [RuntimeError("no memory"), SystemExit(3), KeyboardInterrupt(), TaskError("bad data")]
)
def test_whatever_a_task_raises_becomes_a_reason(raised: BaseException) -> None:
    event = training_event(training_setup(ToyTask(raises=raised)), job(), never, StepClock())
    assert isinstance(event, TrainingFailed)
    assert str(raised) in event.reason
    assert len(event.reason.encode()) <= 200


class SpeechlessError(Exception):
    """An exception of a user's that cannot be printed."""

    def __str__(self) -> str:
        raise AttributeError("self.field was never set")


def test_an_exception_that_cannot_be_printed_does_not_end_the_worker() -> None:
    event = training_event(training_setup(ToyTask(raises=SpeechlessError())), job(), never, StepClock())
    assert isinstance(event, TrainingFailed)
    assert event.reason.startswith("SpeechlessError (")


def test_stopped_training_makes_no_update() -> None:
    event = training_event(training_setup(), job(), lambda: True, StepClock())
    assert event == TrainingFailed(round=RoundId(7), reason="stopped", run=RUN)


class Rig:
    """A worker, its inbox, and a task that waits for the test."""

    def __init__(self) -> None:
        self.inbox: Inbox = queue.Queue(100)
        self.running, self.release = threading.Event(), threading.Event()
        self.task = ToyTask(during=self._during)
        self.trainer = ThreadTrainer(training_setup(self.task), self.inbox, MonotonicClock())

    def _during(self, stop: Stop) -> None:
        self.running.set()
        assert self.release.wait(LIMIT_S)

    def event(self) -> object:
        return self.inbox.get(timeout=LIMIT_S).event


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.release.set()
    assert rig.trainer.close(timeout_s=LIMIT_S)


def test_worker_answers_through_the_inbox(rig: Rig) -> None:
    rig.release.set()
    rig.trainer.start(job())
    event = rig.event()
    assert isinstance(event, TrainingFinished)
    assert event.result.round == 7


def test_worker_goes_on_after_a_task_that_raised(rig: Rig) -> None:
    rig.release.set()
    rig.task.raises = SystemExit(1)
    rig.trainer.start(job(7))
    assert isinstance(rig.event(), TrainingFailed)
    rig.task.raises = None
    rig.trainer.start(job(8))
    assert isinstance(rig.event(), TrainingFinished)


def test_stop_reaches_the_running_job_alone(rig: Rig) -> None:
    rig.trainer.start(job(7))
    assert rig.running.wait(LIMIT_S)
    rig.trainer.start(job(8))
    rig.trainer.stop(RoundId(7))
    rig.trainer.stop(RoundId(99))
    rig.release.set()
    assert rig.event() == TrainingFailed(round=RoundId(7), reason="stopped", run=RUN)
    event = rig.event()
    assert isinstance(event, TrainingFinished)
    assert event.result.round == 8


def test_job_that_still_waits_is_replaced_by_a_newer_one(rig: Rig) -> None:
    rig.trainer.start(job(7))
    assert rig.running.wait(LIMIT_S)
    rig.trainer.start(job(8))
    rig.trainer.start(job(9))
    rig.release.set()
    events = [rig.event(), rig.event()]
    assert [event.result.round for event in events if isinstance(event, TrainingFinished)] == [7, 9]


def test_close_says_when_a_task_does_not_stop(rig: Rig) -> None:
    rig.trainer.start(job())
    assert rig.running.wait(LIMIT_S)
    assert not rig.trainer.close(timeout_s=0.0)


def test_lost_result_is_said_and_the_next_one_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "POST_TIMEOUT_S", 0.0)
    lost = threading.Event()

    class SmallInbox(queue.Queue):  # type: ignore[type-arg]
        def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
            if not lost.is_set():
                lost.set()
                raise queue.Full
            super().put(item, block, timeout)

    inbox = SmallInbox()
    trainer = ThreadTrainer(training_setup(), inbox, MonotonicClock())
    trainer.start(job(7))
    assert lost.wait(LIMIT_S)
    trainer.start(job(8))
    event = inbox.get(timeout=LIMIT_S).event
    assert isinstance(event, TrainingFinished)
    assert event.result.round == 8
    assert trainer.close(timeout_s=LIMIT_S)


def test_a_training_that_gives_no_sign_of_life_is_noticed_until_it_gives_one() -> None:
    inbox: Inbox = queue.Queue(10)
    clock, asked, steps = FakeClock(), threading.Semaphore(0), threading.Semaphore(0)

    def patient(stop: Stop) -> None:
        asked.release()
        steps.acquire(timeout=LIMIT_S)
        stop()
        asked.release()
        steps.acquire(timeout=LIMIT_S)

    trainer = ThreadTrainer(training_setup(ToyTask(during=patient)), inbox, clock, stall_s=60.0)
    clock.advance(1_000.0)
    assert trainer.gets_on  # nothing is trained: that may last
    trainer.start(job())
    assert asked.acquire(timeout=LIMIT_S)
    clock.advance(60.0)
    assert trainer.gets_on
    clock.advance(1.0)
    assert not trainer.gets_on
    steps.release()  # it asks its stop flag
    assert asked.acquire(timeout=LIMIT_S)
    assert trainer.gets_on
    steps.release()
    assert isinstance(inbox.get(timeout=LIMIT_S).event, TrainingFinished)
    clock.advance(1_000.0)
    assert trainer.gets_on
    assert trainer.close(timeout_s=LIMIT_S)
    assert not trainer.gets_on  # a worker that has ended trains nothing


def test_a_device_is_offered_what_was_evaluated_for_it_and_an_error_there_costs_nothing_else() -> None:
    offered: list[int] = []

    def offer(_setup: TrainingSetup, job: EvaluationJob, _report: EvaluationReport) -> None:
        offered.append(job.version)
        raise RuntimeError("a full disk, and more")

    inbox: Inbox = queue.Queue()
    trainer = ThreadTrainer(training_setup(), inbox, MonotonicClock(), priority=Priority(1), offer=offer)
    try:
        for version, uses in ((3, False), (4, True)):
            digest = Digest(vectors().digest())
            trainer.evaluate(
                EvaluationJob(run=RUN, version=ModelVersion(version), digest=digest, model=vectors(), uses=uses)
            )
            assert isinstance(inbox.get(timeout=LIMIT_S).event, EvaluationFinished)
    finally:
        assert trainer.close(timeout_s=LIMIT_S)
    assert offered == [4]


def test_a_service_that_may_not_lower_its_priority_trains_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit's SystemCallFilter answers setpriority with EPERM; the thread must not end of it."""

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "setpriority", refused)
    inbox: Inbox = queue.Queue()
    trainer = ThreadTrainer(training_setup(), inbox, MonotonicClock(), priority=Priority(10, threads=2))
    try:
        digest = Digest(vectors().digest())
        trainer.evaluate(EvaluationJob(run=RUN, version=ModelVersion(3), digest=digest, model=vectors(), uses=False))
        assert isinstance(inbox.get(timeout=LIMIT_S).event, EvaluationFinished)
        assert trainer.gets_on
    finally:
        assert trainer.close(timeout_s=LIMIT_S)


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Priority numbers that the thread took."""
    found: list[int] = []
    monkeypatch.setattr(os, "getpriority", lambda *_: 0)
    monkeypatch.setattr(os, "setpriority", lambda _which, _who, number: found.append(number))
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: None)
    return found


def train(trainer: ThreadTrainer, inbox: Inbox, *, rounds: int) -> None:
    """Train round by round, and end the thread."""
    try:
        for number in range(1, rounds + 1):
            trainer.start(job(number))
            assert isinstance(inbox.get(timeout=LIMIT_S).event, TrainingFinished)
    finally:
        assert trainer.close(timeout_s=LIMIT_S)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no thread has a priority of its own")
def test_a_training_goes_behind_others_once_it_takes_long(lowered: list[int]) -> None:
    inbox: Inbox = queue.Queue(10)
    clock, seen = FakeClock(), list[list[int]]()

    def slow(stop: Stop) -> None:
        for _ in range(3):
            stop()
            seen.append([*lowered])
            clock.advance(SHORT_S / 2)

    trainer = ThreadTrainer(training_setup(ToyTask(during=slow)), inbox, clock, priority=Priority(10))
    train(trainer, inbox, rounds=2)
    assert seen == [[], [], [10], [10], [10], [10]]
    assert lowered == [10], "once"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no thread has a priority of its own")
@pytest.mark.parametrize(
    ("priority", "numbers"),
    [(Priority(10), []), (Priority(NICE_IDLE), [19]), (Priority(10, threads=2), [10]), (Priority(0, threads=2), [])],
)
def test_short_trainings_go_behind_others_only_where_that_is_asked(
    priority: Priority, numbers: list[int], lowered: list[int]
) -> None:
    """Threads that a training starts keep the priority that it has at first."""
    inbox: Inbox = queue.Queue(10)
    trainer = ThreadTrainer(training_setup(), inbox, FakeClock(), priority=priority)
    train(trainer, inbox, rounds=2)
    assert lowered == numbers


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no thread has a priority of its own")
def test_a_training_that_asks_nothing_goes_behind_others_from_the_next_one_on(lowered: list[int]) -> None:
    inbox: Inbox = queue.Queue(10)
    clock = FakeClock()

    def deaf(_stop: Stop) -> None:
        clock.advance(SHORT_S)

    trainer = ThreadTrainer(training_setup(ToyTask(during=deaf)), inbox, clock, priority=Priority(10))
    train(trainer, inbox, rounds=1)
    assert lowered == [10]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no session has a priority")
def test_a_session_of_its_own_goes_behind_others_with_its_training(lowered: list[int], tmp_path: Path) -> None:
    """Threads' priorities count within a session only; a score service is in another."""
    session = tmp_path / "autogroup"
    priority = Priority(10, session=session)
    priority.passed(SHORT_S / 2)
    assert not session.exists()
    priority.passed(SHORT_S)
    assert (session.read_text(), lowered) == ("5", [10])
    session.unlink()
    priority.passed(SHORT_S)
    assert not session.exists(), "once"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no session has a priority")
@pytest.mark.parametrize(("reason", "tries"), [(errno.EAGAIN, 3), (errno.ENOENT, 1), (errno.EACCES, 1)])
def test_a_session_that_the_kernel_does_not_take_now_is_asked_for_again(
    reason: int, tries: int, lowered: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refused(_path: Path, text: str) -> int:
        asked.append(text)
        if len(asked) < 3:
            raise OSError(reason, os.strerror(reason))
        return len(text)

    monkeypatch.setattr(Path, "write_text", refused)
    priority = Priority(10, session=Path("autogroup"))
    for _ in range(5):
        priority.passed(SHORT_S)
    assert (len(asked), lowered) == (tries, [10])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no session has a priority")
def test_only_who_leads_a_session_lowers_it() -> None:
    """A node in a terminal is in its shell's session, and would slow the shell down."""
    code = "from edge_node.training.priority import own_session; print(own_session())"
    found = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, start_new_session=own
        ).stdout.strip()
        for own in (True, False)
    ]
    assert found == ["/proc/self/autogroup", "None"]


@pytest.mark.parametrize("of_the_user", [False, True])
def test_only_what_a_users_code_has_raised_is_shown_with_its_place(of_the_user: bool) -> None:
    """A device that waits for its first reading filled its log with tracebacks of this package."""

    def failing(_stop: Stop) -> None:
        if not of_the_user:
            raise TaskError("no reading has arrived yet")
        with user_code("training"):
            raise ValueError("theirs")

    inbox: Inbox = queue.Queue(10)
    with capture_logs() as said:
        trainer = ThreadTrainer(training_setup(ToyTask(during=failing)), inbox, MonotonicClock())
        try:
            trainer.start(job(1))
            assert isinstance(inbox.get(timeout=LIMIT_S).event, TrainingFailed)
        finally:
            assert trainer.close(timeout_s=LIMIT_S)
    (line,) = [line for line in said if line["event"] == "training_failed"]
    assert ("theirs" if of_the_user else "no reading has arrived yet") in line["reason"]
    assert (line["exc_info"] is not None) == of_the_user


def test_a_training_that_moves_no_parameter_is_said_once_until_one_moves_again() -> None:
    """A loss of zero times the model's output trained for ever, and nobody heard of it."""
    factors = iter((0.0, 0.0, 1.0, 0.0))

    def change(trained: dict[str, Array]) -> None:
        trained["weight"] = np.full((4, 3), next(factors), np.float32)

    inbox: Inbox = queue.Queue(10)
    with capture_logs() as said:
        trainer = ThreadTrainer(training_setup(ToyTask(change=change)), inbox, MonotonicClock())
        try:
            for number in range(4):
                trainer.start(job(number))
                event = inbox.get(timeout=LIMIT_S).event
                assert isinstance(event, TrainingFinished)
                assert event.result.moved == (number == 2)
        finally:
            assert trainer.close(timeout_s=LIMIT_S)
    assert [line["moved"] for line in said if line["event"] == "training_finished"] == [False, False, True, False]
    told = [line for line in said if line["event"] == "nothing_moved"]
    assert [line["round"] for line in told] == [0, 3]
    assert "changed no parameter" in told[0]["why"]


def test_what_has_moved_is_found_wherever_it_is() -> None:
    for place in (None, 0, FIRST_ENTRIES - 1, FIRST_ENTRIES, 2 * FIRST_ENTRIES):
        manifest = Manifest.of({"w": np.zeros(2 * FIRST_ENTRIES + 1, np.float32)})
        delta = Vectors.zeros(manifest)
        if place is not None:
            delta.parameters[place] = -1e-30
        assert moves(delta, Vectors.zeros(manifest)) == (place is not None)
    counted = Vectors.zeros(MANIFEST)
    counted.statistics[0] = 1.0
    assert moves(counted, Vectors.zeros(MANIFEST))
    assert not moves(counted, Vectors.zeros(MANIFEST), steps=3)
    assert moves(Vectors.zeros(MANIFEST), vectors())
    nothing = Vectors.zeros(Manifest.of({"steps": np.array(5, np.int64)}))
    assert moves(nothing, nothing)


class Endless:
    """A loader whose pass never ends."""

    def __init__(self) -> None:
        self.under_way = threading.Event()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number in itertools.count():
            if number == 100:
                self.under_way.set()
            yield torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)


def test_a_training_on_data_without_an_end_ends_when_it_is_told_to() -> None:
    """Which a node does after `bounds.train_s_max`: see the tests of its scheduler."""
    data = Endless()
    task = TorchTask(
        TaskContext(node_index=0, node_count=1),
        model=lambda: torch.nn.Linear(3, 2),
        loss=torch.nn.functional.cross_entropy,
        train_data=lambda: data,
    )
    model, manifest = described_model(task)
    base = manifest.flatten(dict(model))
    asked = announcement(7, codec="lossless")
    asked = replace(asked, model=replace(asked.model, manifest_digest=Digest(manifest.digest)))
    inbox: Inbox = queue.Queue(10)
    setup = TrainingSetup(node=training_setup().node, task=task, manifest=manifest)
    trainer = ThreadTrainer(setup, inbox, MonotonicClock())
    trainer.start(TrainingJob(announcement=asked, base=base, residual=None))
    assert data.under_way.wait(LIMIT_S)
    trainer.stop(RoundId(7))
    event = inbox.get(timeout=LIMIT_S).event
    assert isinstance(event, TrainingFailed)
    assert event.reason == "stopped"
    assert trainer.close(timeout_s=LIMIT_S)
