"""A node and its releases, message by message: a real trial in a process of its own, everything else by hand."""

import datetime as dt
import hashlib
import queue
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_node.engine.events import StopRequested, TrainingFailed, TrainingFinished
from edge_node.records import FinishedTraining
from edge_node.rollout.installed import Installed
from edge_node.rollout.receiver import Rollout, RolloutParts
from edge_node.rollout.trial import TrialEnded, TrialPlan
from federation.identity.certificates import new_authority
from federation.identity.task_release import TaskRelease, sign_release
from federation.protocol.task_messages import TaskReport, TaskState
from federation.protocol.topics import Topics
from federation.rollout.archive import pack
from federation.rollout.transfer import chunk_filter, chunk_topic, release_topic, takes_part, to_chunks
from federation.runtime.transport import Inbox, MessageReceived, TransportConnected
from federation.types import FederationId, NodeId, RoundId
from tests.rigs.node_doubles import MANIFEST, RecordingTransport

pytestmark = pytest.mark.usefixtures("programs_start_warm")

TOPICS, NODE = Topics(FederationId("plant")), NodeId("pi-3")
AUTHORITY = new_authority("plant", now=dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
GOOD = "from tests.rigs.node_doubles import ToyTask\ndef build(context):\n    return ToyTask()\n"
OTHER_MODEL = """
from tests.rigs.node_doubles import ToyTask, tensors
class Other(ToyTask):
    def initial_parameters(self, seed):
        return {**tensors(float(seed)), "more": tensors()["bias"]}
def build(context):
    return Other()
"""
DONE = TrainingFinished(result=FinishedTraining(round=RoundId(1), frame=b"", num_examples=1, metrics={}, train_s=0.1))


@pytest.fixture(autouse=True)
def _path_as_before() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


@dataclass
class Device:
    """One process of a node; ``again`` is the next one."""

    folder: Path
    transport: RecordingTransport = field(default_factory=RecordingTransport)
    inbox: Inbox = field(default_factory=queue.Queue)
    said: list[TaskReport] = field(default_factory=list)
    busy: bool = False
    seconds: float = 100.0

    def __post_init__(self) -> None:
        self.installed = Installed(self.folder)
        self.installed.began()
        context = {
            "node_index": 0, "node_count": 1, "data": None, "device": "cpu", "seed": 0, "partition": None,
        }  # fmt: skip
        plan = TrialPlan(
            context=context, arguments="", trains=True, manifest=MANIFEST.digest.hex(), seconds=self.seconds
        )
        parts = RolloutParts(
            topics=TOPICS,
            node=NODE,
            authority=AUTHORITY.certificate_pem,
            installed=self.installed,
            plan=plan,
            transport=self.transport,
            inbox=self.inbox,
            say=self.said.append,
            busy=lambda: self.busy,
        )
        self.rollout = Rollout(parts)
        self.passed: list[object] = []
        self.translate = self.rollout.watching(self.passed.append)

    def hear(self, text: str) -> None:
        topic = release_topic(TOPICS)
        assert self.translate(MessageReceived(topic=topic, payload=text.encode(), retained=True)) is None

    def fetch(self, release: TaskRelease, body: bytes) -> None:
        for index, piece in enumerate(to_chunks(body, release.chunk_bytes)):
            self.translate(MessageReceived(topic=chunk_topic(TOPICS, release.name, index), payload=piece))

    def tried(self) -> TrialEnded:
        ended = self.inbox.get(timeout=100).event
        assert isinstance(ended, TrialEnded)
        self.translate(ended)
        return ended

    @property
    def states(self) -> list[TaskState]:
        return [report.state for report in self.said]

    @property
    def leaves(self) -> bool:
        return [item.event for item in self.inbox.queue] == [StopRequested()]

    def again(self) -> "Device":
        return Device(self.folder)


def made(tmp_path: Path, source: str = GOOD, **changed: object) -> tuple[TaskRelease, bytes, str]:
    file = tmp_path / "my_task.py"
    file.write_text(source)
    body = pack(file)
    fields = {
        "federation": "plant",
        "number": 1,
        "task": "my_task.py:build",
        "sha256": hashlib.sha256(body).hexdigest(),
        "archive_bytes": len(body),
        "chunk_bytes": 1_024,
    }
    release = TaskRelease.model_validate({**fields, **changed})
    return release, body, sign_release(release, AUTHORITY)


def on_trial(tmp_path: Path, number: int = 1) -> tuple[Device, TaskRelease, str]:
    """A process that has just started with a release that nothing was tried of."""
    release, body, text = made(tmp_path, number=number)
    (tmp_path / "state").mkdir()
    installed = Installed(tmp_path / "state")
    installed.hear(release.order)
    installed.place_archive(release, body)
    installed.begin(release)
    return Device(tmp_path / "state"), release, text


def device(tmp_path: Path) -> Device:
    (tmp_path / "state").mkdir()
    return Device(tmp_path / "state")


@pytest.mark.slow
def test_a_release_is_fetched_tried_run_and_kept_after_its_first_training(tmp_path: Path) -> None:
    """FED-243, FED-244."""
    one, (release, body, text) = device(tmp_path), made(tmp_path)
    assert one.transport.filters == [release_topic(TOPICS)]
    one.hear(text)
    assert one.transport.filters[1:] == [chunk_filter(TOPICS, release.name)]
    one.hear(text)
    one.fetch(release, body)
    assert one.transport.filters == [release_topic(TOPICS)]
    one.busy = True
    assert one.tried().problem is None
    assert one.rollout.restarts
    assert not one.leaves  # a training is under way
    one.busy = False
    one.translate(DONE)
    assert one.passed == [DONE]  # the machine has it, and it was no training of the release
    assert one.leaves
    assert one.installed.on_trial
    two = one.again()
    two.hear(text)
    two.translate(DONE)
    assert (one.states, two.states) == ([TaskState.FETCHING], [TaskState.TRYING, TaskState.ACTIVE])
    assert two.said[-1] == TaskReport(number=1, step=0, state=TaskState.ACTIVE, running=1)
    assert not two.again().installed.on_trial


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("raise ImportError('no such sensor')", "no such sensor"),
        ("import a_module_that_is_not_there", "needs the module 'a_module_that_is_not_there': install it"),
        ("def build(context):\n    raise SystemExit(3)", "SystemExit"),
        ("import os\ndef build(context):\n    os.kill(os.getpid(), 9)", "without an answer, with exit code -9"),
        ("import os\ndef build(context):\n    os._exit(0)", "SystemExit: 0"),
        ("def other(context): ...", "there is no function 'build'"),
        (GOOD.replace("ToyTask()", "ToyTask(num_examples=0)"), "num_examples must be"),
        (OTHER_MODEL, "other tensors than the present one"),
    ],
)
def test_a_release_that_fails_its_trial_never_runs(source: str, problem: str, tmp_path: Path) -> None:
    """FED-244: the process that tries it may do whatever it likes."""
    one, (release, body, text) = device(tmp_path), made(tmp_path, source)
    one.hear(text)
    one.fetch(release, body)
    one.tried()
    assert one.states == [TaskState.FETCHING, TaskState.REFUSED]
    assert problem in one.said[-1].reason
    assert not one.rollout.restarts
    two = one.again()
    two.hear(text)
    assert (two.states, two.transport.filters) == ([TaskState.REFUSED], [release_topic(TOPICS)])


@pytest.mark.slow
def test_another_model_runs_where_the_release_says_so(tmp_path: Path) -> None:
    one, (release, body, text) = device(tmp_path), made(tmp_path, OTHER_MODEL, new_model=True)
    one.hear(text)
    one.fetch(release, body)
    assert one.tried().problem is None


@pytest.mark.slow
def test_a_trial_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    one = Device(tmp_path / "state", seconds=0.2)
    release, body, text = made(tmp_path, "import signal\nsignal.pause()")
    one.hear(text)
    one.fetch(release, body)
    assert one.tried().problem == "its trial was not over after 0.2 s"


def test_a_trial_ends_with_its_node(tmp_path: Path) -> None:
    one, (release, body, text) = device(tmp_path), made(tmp_path, "import signal\nsignal.pause()")
    one.hear(text)
    one.fetch(release, body)
    one.rollout.close()
    assert one.inbox.empty()


def test_a_first_training_that_fails_brings_the_one_before_back(tmp_path: Path) -> None:
    """FED-244, FED-245."""
    one, _, text = on_trial(tmp_path)
    one.hear(text)
    failed = TrainingFailed(round=RoundId(1), reason="RuntimeError: a sensor is missing")
    one.translate(failed)
    assert one.passed == [failed]
    assert one.leaves
    assert one.said[-1] == TaskReport(
        number=1,
        step=0,
        state=TaskState.FAILED,
        running=0,
        reason="its first training failed: RuntimeError: a sensor is missing",
    )
    two = one.again()
    two.hear(text)
    two.translate(failed)  # of the owner's task, which is on no trial
    assert (two.states, two.leaves, two.installed.name("digits")) == ([TaskState.FAILED], False, "digits")


def test_a_training_that_was_told_to_stop_says_little_of_the_release(tmp_path: Path) -> None:
    one, _, text = on_trial(tmp_path)
    one.hear(text)
    stopped = TrainingFailed(round=RoundId(1), reason="stopped")
    one.translate(stopped)
    one.translate(stopped)
    assert not one.rollout.restarts
    one.translate(stopped)
    assert one.leaves
    assert "longer than anybody waited" in one.said[-1].reason


def test_a_release_that_has_trained_is_not_given_up_for_one_failure(tmp_path: Path) -> None:
    one, _, text = on_trial(tmp_path)
    one.hear(text)
    one.translate(DONE)
    one.translate(TrainingFailed(round=RoundId(2), reason="ValueError: x"))
    assert (one.states, one.rollout.restarts) == ([TaskState.TRYING, TaskState.ACTIVE], False)


def test_an_older_release_is_refused_and_nothing_is_fetched(tmp_path: Path) -> None:
    """FED-241: the broker may retain what it likes."""
    one = device(tmp_path)
    _, _, newer = made(tmp_path, number=5, share=0.0001)
    _, _, older = made(tmp_path, number=4)
    one.hear(newer)
    one.hear(older)
    two = one.again()
    two.hear(older)
    assert (one.states, two.states) == ([TaskState.WAITING], [])
    assert two.transport.filters == [release_topic(TOPICS)]


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b"x" * 100_000])
def test_what_nobody_has_signed_is_not_answered(payload: bytes, tmp_path: Path) -> None:
    """FED-240."""
    one = device(tmp_path)
    one.translate(MessageReceived(topic=release_topic(TOPICS), payload=payload))
    release, _, _ = made(tmp_path)
    stranger = new_authority("plant", now=dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
    one.hear(sign_release(release, stranger))
    assert (one.said, one.transport.filters) == ([], [release_topic(TOPICS)])
    assert one.installed.state.heard == (0, 0)


def test_an_archive_that_was_altered_is_refused(tmp_path: Path) -> None:
    one, (release, body, text) = device(tmp_path), made(tmp_path)
    one.hear(text)
    one.fetch(release, bytes(len(body)))
    assert one.states == [TaskState.FETCHING, TaskState.REFUSED]
    assert "not the one that was signed" in one.said[-1].reason
    assert not (tmp_path / "state" / "tasks").exists()


def test_a_node_outside_the_share_waits_and_takes_part_when_it_grows(tmp_path: Path) -> None:
    """FED-242."""
    one = device(tmp_path)
    small, _, text = made(tmp_path, share=0.01)
    assert not takes_part(small, NODE)
    one.hear(text)
    large, _, text = made(tmp_path, share=1.0, step=1)
    one.hear(text)
    assert one.states == [TaskState.WAITING, TaskState.FETCHING]
    assert one.said[-1].step == 1
    assert one.transport.filters[-1] == chunk_filter(TOPICS, large.name)


def test_a_release_that_is_withdrawn_is_left_and_never_fetched(tmp_path: Path) -> None:
    one, release, text = on_trial(tmp_path)
    one.translate(DONE)
    one.hear(text)
    withdrawn = sign_release(release.model_copy(update={"step": 1, "withdrawn": True}), AUTHORITY)
    one.hear(withdrawn)
    assert one.leaves
    assert one.said[-1] == TaskReport(number=1, step=1, state=TaskState.WITHDRAWN, running=0)
    two = one.again()
    two.hear(withdrawn)
    two.hear(text)  # a replay of what was there before
    assert (two.states, two.transport.filters) == ([TaskState.WITHDRAWN], [release_topic(TOPICS)])


def test_the_fetching_of_a_release_ends_when_it_is_withdrawn_or_replaced(tmp_path: Path) -> None:
    one = device(tmp_path)
    first, _, text = made(tmp_path)
    one.hear(text)
    second, _, text = made(tmp_path, number=2)
    one.hear(text)
    assert one.transport.filters == [release_topic(TOPICS), chunk_filter(TOPICS, second.name)]
    one.hear(sign_release(second.model_copy(update={"step": 1, "withdrawn": True}), AUTHORITY))
    assert one.transport.filters == [release_topic(TOPICS)]
    assert first.name != second.name


def test_what_was_said_is_said_again_only_on_another_connection(tmp_path: Path) -> None:
    """FED-245."""
    one, _, text = on_trial(tmp_path)
    one.hear(text)
    one.hear(text)
    assert one.states == [TaskState.TRYING]
    one.translate(TransportConnected(connection="node", session_present=True, packet_bytes_max=1 << 18))
    one.hear(text)
    assert one.states == [TaskState.TRYING, TaskState.TRYING]
