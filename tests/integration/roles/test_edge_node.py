"""A real node process against a real broker, with a coordinator that the test plays by hand."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.protocol.chunking import Bitmap, chunk_count, payload_digest
from federation.protocol.messages import (
    Activity,
    Decline,
    Grant,
    NodeState,
    Presence,
    Progress,
    ReceiptStatus,
    UpdateOffer,
)
from federation.runtime.address import parse_broker_url
from federation.runtime.local_broker import LocalBroker
from federation.runtime.visit import visit_broker
from federation.task import TaskContext
from federation.tasks.registry import load_task
from tests.rigs.scripted_coordinator import LIMIT_S, SETTINGS, ScriptedCoordinator, point_model
from update_codec import decode

pytestmark = pytest.mark.broker

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(broker: LocalBroker, tmp_path: Path) -> Iterator[Start]:
    """Starts node processes, and ends what is still alive."""
    processes: list[subprocess.Popen[str]] = []

    def start_one(
        *extra: str, node: str = "n1", task: str = "quadratic-50", environ: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "edge_node", "run", "--broker", broker.url, "--federation", "it"]
        command += ["--id", node, "--task", task, "--state", str(tmp_path / "state"), "--log-json", *extra]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})},
        )
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        if process.poll() is None:
            process.kill()
        # Shown by pytest when the test has failed: what the node itself said.
        print(*process.communicate(timeout=LIMIT_S))  # noqa: T201


@pytest.fixture
def coordinator(broker: LocalBroker) -> Iterator[ScriptedCoordinator]:
    with ScriptedCoordinator(broker.url) as playing:
        yield playing


def events(stream: IO[str] | None) -> list[str]:
    """The event keys of all log lines of a process that has ended."""
    assert stream is not None
    return [json.loads(line)["event"] for line in stream]


def finish(process: "subprocess.Popen[str]") -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(LIMIT_S)


def node_step(size: int) -> NDArray[np.float32]:
    """What one round of the task changes in a model of zeros."""
    task = load_task(f"quadratic-{size}")(TaskContext(node_index=0, node_count=1))
    zeros = {"point": np.zeros(size, np.float32)}
    trained = task.train(zeros, SETTINGS, lambda: False).parameters["point"]
    return np.asarray(trained, np.float32)


def announce(coordinator: ScriptedCoordinator, round_number: int = 1, size: int = 50, codec: str = "lossless") -> None:
    manifest, content = point_model(size)
    model = coordinator.publish_model(3, content, manifest)
    coordinator.announce(round_number, model, task=f"quadratic-{size}", codec=codec)


def test_announced_round_is_trained_offered_and_receipted(start: Start, coordinator: ScriptedCoordinator) -> None:
    manifest, _ = point_model(50)
    announce(coordinator)
    process = start()
    birth = coordinator.birth()
    offer = coordinator.offer()
    assert (birth.incarnation, birth.task, birth.device) == (1, "quadratic-50", "cpu")
    assert (offer.round, offer.base_version, offer.update) == (1, 3, "1-n1")
    assert offer.inline is not None
    assert payload_digest(offer.inline) == offer.payload_digest
    assert decode(offer.inline, manifest).parameters.any()
    coordinator.receipt("n1", offer.update, ReceiptStatus.STORED)
    coordinator.receipt("n1", offer.update, ReceiptStatus.APPLIED, 4)
    announce(coordinator, 2)
    assert coordinator.offer().update == "2-n1"
    assert finish(process) == 0
    assert coordinator.birth(Presence.OFFLINE).incarnation == 1
    said = events(process.stdout)
    expected = [
        "node_started", "connected", "round_joined", "model_ready", "training_started", "training_finished",
        "update_offered", "receipt", "stopping",
    ]  # fmt: skip
    assert [event for event in dict.fromkeys(said) if event in expected] == expected


def test_receipted_update_leaves_the_outbox_and_the_other_one_stays(
    start: Start, coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    announce(coordinator, codec="deadzone(bpp=2,feedback=1)")
    process = start()
    coordinator.receipt("n1", coordinator.offer().update, ReceiptStatus.APPLIED, 4)
    announce(coordinator, 2, codec="deadzone(bpp=2,feedback=1)")
    coordinator.offer()
    assert finish(process) == 0
    store = SqliteNodeStore(tmp_path / "state")
    assert [entry.offer.update for entry in store.recovered().outbox] == ["2-n1"]
    assert store.recovered().held_version is None, "a model of one message is pulled again"
    assert store.residual() is not None
    store.close()


BEFORE_THE_RECEIPT = (
    "node_fetching",
    "node_adopting",
    "node_training",
    "node_trained",
    "node_before_outbox",
    "node_after_outbox",
    "node_before_offer",
    "node_after_offer",
)


@pytest.mark.parametrize("point", BEFORE_THE_RECEIPT)
def test_node_killed_at_any_point_delivers_the_same_update_after_its_restart(
    start: Start, coordinator: ScriptedCoordinator, point: str
) -> None:
    announce(coordinator)
    first = start(environ={"FEDMQ_FAILPOINT": point})
    assert first.wait(LIMIT_S) == -signal.SIGKILL
    again = start()
    offer = coordinator.wait_for(UpdateOffer, lambda offer: offer.inline is not None)
    assert offer.update == "1-n1"
    coordinator.receipt("n1", offer.update, ReceiptStatus.APPLIED, 4)
    announce(coordinator, 2)
    assert coordinator.wait_for(UpdateOffer, lambda offer: offer.round == 2).incarnation == 2
    assert finish(again) == 0


@pytest.mark.parametrize("point", ["node_stored", "node_before_settle", "node_after_settle"])
def test_node_killed_at_a_receipt_settles_once(
    start: Start, coordinator: ScriptedCoordinator, tmp_path: Path, point: str
) -> None:
    codec = "deadzone(bpp=2,feedback=1)"
    announce(coordinator, codec=codec)
    first = start(environ={"FEDMQ_FAILPOINT": point})
    offer = coordinator.offer()
    coordinator.receipt("n1", offer.update, ReceiptStatus.STORED)
    if point != "node_stored":
        coordinator.receipt("n1", offer.update, ReceiptStatus.STALE)
    assert first.wait(LIMIT_S) == -signal.SIGKILL
    again = start()
    coordinator.wait_for(NodeState, lambda state: state.incarnation == 2)
    # The broker repeats what the killed process did not acknowledge; a coordinator answers every offer. Twice is once.
    coordinator.receipt("n1", offer.update, ReceiptStatus.STALE)
    coordinator.receipt("n1", offer.update, ReceiptStatus.STALE)
    announce(coordinator, 2, codec=codec)
    assert coordinator.wait_for(UpdateOffer, lambda offer: offer.round == 2).incarnation == 2
    assert finish(again) == 0
    store = SqliteNodeStore(tmp_path / "state")
    (kept,) = store.recovered().outbox
    frame, residual = store.frame(kept.offer.update), store.residual()
    assert frame is not None
    assert residual is not None
    store.close()
    # Two equal differences were learnt, and the first came back whole: nothing is lost, and nothing counts twice.
    learnt = decode(frame, point_model(50)[0]).parameters + residual
    np.testing.assert_allclose(learnt, 2 * node_step(50), atol=1e-4)


def test_large_update_goes_in_granted_chunks_and_goes_on_after_a_kill(
    start: Start, coordinator: ScriptedCoordinator
) -> None:
    size = 200_000
    announce(coordinator, size=size)
    first = start(task=f"quadratic-{size}", environ={"FEDMQ_FAILPOINT": "node_mid_upload:3"})
    offer = coordinator.offer()
    assert offer.inline is None
    count = chunk_count(offer.payload_bytes, offer.chunk_bytes)
    arrived = Bitmap(count)
    coordinator.command("n1", Grant(update=offer.update, bitmap=arrived.to_bytes(), window=count))
    assert first.wait(LIMIT_S) == -signal.SIGKILL
    again = start(task=f"quadratic-{size}")
    repeated = coordinator.wait_for(UpdateOffer, lambda offer: offer.inline is None)
    assert repeated.payload_digest == offer.payload_digest
    arrived.add(0)
    coordinator.command("n1", Grant(update=offer.update, bitmap=arrived.to_bytes(), window=count))
    chunks = coordinator.chunks(count - 1)
    assert set(chunks) == set(range(1, count))
    assert finish(again) == 0


def test_broker_killed_while_an_update_waits_gets_it_after_its_return(
    start: Start, coordinator: ScriptedCoordinator, broker: LocalBroker
) -> None:
    announce(coordinator)
    process = start()
    offer = coordinator.offer()
    broker.kill()
    broker.restart(wipe_store=True)
    coordinator.say_online()
    assert coordinator.birth().incarnation == 1
    assert coordinator.offer().update == offer.update
    assert finish(process) == 0


def test_second_process_on_one_state_folder_says_so_and_ends(start: Start, coordinator: ScriptedCoordinator) -> None:
    first = start()
    coordinator.birth()
    second = start(node="n2")
    _, errors = second.communicate(timeout=LIMIT_S)
    assert second.returncode == 3
    assert str(first.pid) in errors
    assert finish(first) == 0


def test_interrupted_node_ends_with_the_code_of_an_interrupt(start: Start, coordinator: ScriptedCoordinator) -> None:
    process = start()
    coordinator.birth()
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 130


def test_node_leaves_by_itself_when_the_run_has_ended(start: Start, coordinator: ScriptedCoordinator) -> None:
    manifest, content = point_model(50)
    process = start("--exit-when-finished")
    coordinator.birth()
    model = coordinator.publish_model(3, content, manifest)
    coordinator.announce(9, model, task="quadratic-50", final=True)
    assert process.wait(LIMIT_S) == 0


def test_node_that_the_broker_refuses_says_why_and_goes_on(start: Start, tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    passwords.chmod(0o644)
    lines = ("allow_anonymous false", f"password_file {passwords}")
    with LocalBroker(lines=lines) as closed:
        process = start("--broker", closed.url)
        assert process.stdout is not None
        told = (json.loads(line) for line in process.stdout)
        refused = next(line for line in told if line["event"] == "connect_refused" and line["level"] == "error")
        assert "Not authorized" in refused["reason"]
        assert "password" in refused["remedy"]
        assert process.poll() is None
        assert finish(process) == 0


def test_node_whose_broker_cannot_do_it_ends_with_the_reason(start: Start) -> None:
    with LocalBroker(lines=("retain_available false",)) as unfit:
        process = start("--broker", unfit.url)
        _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 4
    assert (
        errors == "edge-node: this broker keeps no retained messages; use another broker: docs/reference/brokers.md\n"
    )


def test_two_nodes_of_one_name_in_two_federations_do_not_meet(
    start: Start, broker: LocalBroker, tmp_path: Path
) -> None:
    first = start("--federation", "it")
    second = start("--federation", "other", "--state", str(tmp_path / "other"))
    found: set[str] = set()
    while found != {"fl/it/n/n1/state", "fl/other/n/n1/state"}:
        seen = visit_broker(
            parse_broker_url(broker.url),
            "looking",
            filters=["fl/+/n/n1/state"],
            probes=[],
            enough=lambda seen: len(seen.messages) > 1,
        )
        found = set(seen.messages)
    assert [finish(first), finish(second)] == [0, 0]
    for process in (first, second):
        assert events(process.stdout).count("connected") == 1


STUBBORN = """
import threading
from federation.tasks.builtin.synthetic import build_quadratic as quadratic

def build(context):
    task = quadratic(context, size=50)
    task.train = lambda parameters, settings, stop: threading.Event().wait()
    return task
"""


def test_task_that_ignores_its_stop_flag_cannot_hold_the_process(
    start: Start, coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    file = tmp_path / "stubborn.py"
    file.write_text(STUBBORN)
    process = start(task=f"{file}:build")
    coordinator.birth()
    manifest, content = point_model(50)
    coordinator.announce(1, coordinator.publish_model(3, content, manifest), task="stubborn.py:build")
    coordinator.wait_for(Progress, lambda progress: progress.activity is Activity.TRAINING)
    assert finish(process) == 0
    assert "worker_abandoned" in events(process.stdout)


BROKEN = """
from federation.tasks.builtin.synthetic import build_quadratic as quadratic

def build(context):
    task = quadratic(context, size=50)
    def train(parameters, settings, stop):
        raise SystemExit("the sensor is unplugged")
    task.train = train
    return task
"""


def test_task_that_raises_is_declined_and_the_node_stays(
    start: Start, coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    process = start(task=f"{file}:build")
    manifest, content = point_model(50)
    model = coordinator.publish_model(3, content, manifest)
    for number in (1, 2):
        coordinator.announce(number, model, task="broken.py:build")
        decline = coordinator.wait_for(Decline, lambda decline: decline.round == number)  # noqa: B023
        assert "the sensor is unplugged" in decline.reason
    assert finish(process) == 0
