"""Real coordinators and a real Mosquitto: an old copy of a store gives way, what is wiped is back, junk is counted."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from coordinator.monitoring.state_files import read_waiting
from federation.errors import FederationError
from federation.protocol.messages import Decline, Presence, Reason, ReceiptStatus
from federation.protocol.wire import encode_message
from federation.runtime.local_broker import LocalBroker
from federation.types import ModelVersion, NodeId, SeenRun
from tests.integration.roles.test_coordinator import MANIFEST, coordinator, ended, settings
from tests.rigs.scripted_nodes import LIMIT_S, ScriptedNodes

pytestmark = pytest.mark.broker


def status(state: Path) -> str:
    command = [sys.executable, "-m", "coordinator", "status", "--state", str(state), "--json"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def until_behind(state: Path) -> Mapping[str, Any]:
    """What a coordinator says that nodes have seen beyond its own state."""
    give_up = time.monotonic() + LIMIT_S
    while time.monotonic() < give_up:
        with contextlib.suppress(FederationError):
            behind = read_waiting(state).fields.get("behind")
            if isinstance(behind, Mapping) and behind:
                return behind
        time.sleep(0.05)
    pytest.fail("it never said that it is behind")


def start_once(broker: LocalBroker, folder: Path, epoch: int) -> None:
    """One start of the coordinator, which makes the next epoch."""
    with ScriptedNodes(broker.url, MANIFEST, (), obedient=False) as nodes, coordinator(settings(folder, broker)):
        nodes.until(lambda: epoch in nodes.epochs)


def test_an_old_copy_of_the_store_leaves_and_says_why(broker: LocalBroker, tmp_path: Path) -> None:
    """FED-63, with client ids of its own: nobody is kicked out, and the older epoch must notice by itself."""
    start_once(broker, tmp_path, 1)
    shutil.copytree(tmp_path / "state", tmp_path / "twin" / "state")
    start_once(broker, tmp_path, 2)
    file = settings(tmp_path / "twin", broker)
    file.write_text(file.read_text().replace("[task]", 'client_id = "restored"\n[task]'))
    with (
        ScriptedNodes(broker.url, MANIFEST, ("ann", "bob")) as nodes,
        coordinator(settings(tmp_path, broker)) as newer,
    ):
        nodes.until(lambda: bool(nodes.applied()))
        with coordinator(file) as older:
            code, words = ended(older)
        assert code == 2
        assert "a newer coordinator leads run" in words
        applied = len(nodes.applied())
        nodes.until(lambda: len(nodes.applied()) > applied + 4)
        assert newer.poll() is None
        assert nodes.presences[-1] is Presence.ONLINE


def test_a_stale_copy_that_is_started_while_the_leader_hangs_ends_no_work(broker: LocalBroker, tmp_path: Path) -> None:
    """FED-97: it takes the leader's sessions over, with all that waits there, and must not answer any of it."""
    start_once(broker, tmp_path, 1)
    shutil.copytree(tmp_path / "state", tmp_path / "copy" / "state")
    start_once(broker, tmp_path, 2)
    start_once(broker, tmp_path, 3)
    with (
        ScriptedNodes(broker.url, MANIFEST, ("ann", "bob"), obedient=False) as nodes,
        coordinator(settings(tmp_path, broker)) as leader,
    ):
        nodes.until(lambda: bool(nodes.announcements))
        leader.send_signal(signal.SIGSTOP)
        offer = nodes.make_offer(nodes.announcements[-1], "ann")
        nodes.offer(offer)
        with coordinator(settings(tmp_path / "copy", broker)) as copy:
            code, words = ended(copy)
        assert (code, "a newer coordinator leads run" in words) == (2, True)
        assert nodes.receipts == []
        back = len(nodes.presences)
        leader.send_signal(signal.SIGCONT)
        nodes.until(lambda: len(nodes.presences) > back)
        nodes.offer(offer)
        nodes.until(lambda: bool(nodes.receipts))
        assert {receipt.status for receipt in nodes.receipts} == {ReceiptStatus.STORED}


def test_a_copy_from_before_a_version_that_no_round_has_announced_holds(broker: LocalBroker, tmp_path: Path) -> None:
    """FED-97, FED-112: the leader has made a version, nobody is there to be asked, and it is lost; nodes know of it."""
    copy = tmp_path / "copy"
    with ScriptedNodes(broker.url, MANIFEST, ("ann", "bob"), obedient=False) as nodes:
        with coordinator(settings(tmp_path, broker)) as leader:
            nodes.until(lambda: bool(nodes.announcements))
            asked = nodes.announcements[-1]
            leader.send_signal(signal.SIGSTOP)
            shutil.copytree(tmp_path / "state", copy / "state")
            leader.send_signal(signal.SIGCONT)
            nodes.offer(nodes.make_offer(asked, "ann"))
            nodes.until(lambda: bool(nodes.receipts))
            nodes.present("ann", Presence.OFFLINE)
            nodes.offer(nodes.make_offer(asked, "bob"))
            nodes.until(lambda: len(nodes.applied()) == 2)
        assert nodes.announcements == [asked]
        seen = SeenRun(run=asked.run, epoch=asked.epoch, round=asked.round, version=ModelVersion(1))
        nodes.present("bob", Presence.ONLINE, seen=seen)
        with coordinator(settings(copy, broker)):
            behind = until_behind(copy / "state")
        assert (behind["said_by"], behind["version"], behind["our_version"]) == (["bob"], 1, 0)
        assert nodes.announcements == [asked]
        assert nodes.epochs == [asked.epoch], "it has not said that it leads"


def test_the_coordinator_of_another_run_is_refused_at_its_start(broker: LocalBroker, tmp_path: Path) -> None:
    """FED-98: by a mistake in the state folder, and with the same client ids; the first one goes on."""
    with ScriptedNodes(broker.url, MANIFEST, ("ann", "bob")) as nodes, coordinator(settings(tmp_path, broker)) as first:
        nodes.until(lambda: bool(nodes.applied()))
        (tmp_path / "second").mkdir()
        with coordinator(settings(tmp_path / "second", broker)) as second:
            code, words = ended(second)
        assert code == 2
        assert nodes.announcements[-1].run in words
        assert "--replace" in words
        seen = len(nodes.presences)
        nodes.until(lambda: len(nodes.presences) > seen)  # the first one is back, after the other took its sessions
        for offer in list(nodes.offered.values()):  # as nodes do: what was offered meanwhile has no answer
            nodes.offer(offer)
        applied = len(nodes.applied())
        nodes.until(lambda: len(nodes.applied()) > applied + 4)
        assert first.poll() is None
        assert {announcement.run for announcement in nodes.announcements} == {nodes.announcements[0].run}


def test_a_coordinator_that_was_told_to_takes_over_and_the_other_one_leaves(
    broker: LocalBroker, tmp_path: Path
) -> None:
    """FED-98: with client ids of its own, so that the broker ends no connection."""
    with ScriptedNodes(broker.url, MANIFEST, ("ann", "bob")) as nodes, coordinator(settings(tmp_path, broker)) as first:
        nodes.until(lambda: bool(nodes.applied()))
        former = nodes.announcements[-1].run
        (tmp_path / "second").mkdir()
        file = settings(tmp_path / "second", broker)
        file.write_text(file.read_text().replace("[task]", 'client_id = "second"\n[task]'))
        with coordinator(file, "--replace") as second:
            nodes.until_dead(first)
            code, words = ended(first)
            assert code == 2
            assert "has taken this federation over" in words
            nodes.until(lambda: nodes.announcements[-1].run != former)
            assert second.poll() is None


def test_what_is_wiped_while_everything_runs_is_there_again(broker: LocalBroker, tmp_path: Path) -> None:
    """FED-64: a node that comes after the wipe finds the coordinator, the round and the model."""
    with (
        ScriptedNodes(broker.url, MANIFEST, ("ann", "bob"), obedient=False) as nodes,
        coordinator(settings(tmp_path, broker)) as process,
    ):
        nodes.until(lambda: bool(nodes.announcements))
        model = nodes.topics.model_chunk(nodes.announcements[-1].model.version, "k0", 0)
        for topic in (model, nodes.topics.round, nodes.topics.coordinator_state):
            nodes.transport.publish(topic, b"", retain=True)
        announced = len(nodes.announcements)
        nodes.until(lambda: len(nodes.announcements) > announced)
        with ScriptedNodes(broker.url, MANIFEST, (), obedient=False, client="late") as late:
            late.transport.subscribe(model)
            late.until(lambda: bool(late.announcements) and bool(late.epochs) and bool(late.chunks))
        process.terminate()
        ended(process)
    assert json.loads(status(tmp_path / "state"))["counters"]["retained_lost"] >= 1


def test_a_chunk_that_is_wiped_alone_is_there_again_when_a_node_has_missed_it(
    broker: LocalBroker, tmp_path: Path
) -> None:
    """FED-90."""
    with (
        ScriptedNodes(broker.url, MANIFEST, ("ann", "bob"), obedient=False) as nodes,
        coordinator(settings(tmp_path, broker)),
    ):
        nodes.until(lambda: bool(nodes.announcements))
        asked = nodes.announcements[-1]
        model = nodes.topics.model_chunk(asked.model.version, "k0", 0)
        nodes.transport.subscribe(model)
        nodes.until(lambda: len(nodes.chunks) == 1)
        nodes.transport.publish(model, b"", retain=True)
        nodes.until(lambda: len(nodes.chunks) == 2)
        starved = Decline(run=asked.run, round=asked.round, reason="model chunks do not come", missing=True)
        nodes.transport.publish(nodes.topics.node_event(NodeId("ann")), encode_message(starved))
        nodes.until(lambda: len(nodes.chunks) == 3)


def test_bytes_that_are_no_message_show_in_the_status(broker: LocalBroker, tmp_path: Path) -> None:
    ann = NodeId("ann")
    with (
        ScriptedNodes(broker.url, MANIFEST, ("ann", "bob"), obedient=False) as nodes,
        coordinator(settings(tmp_path, broker)) as process,
    ):
        nodes.until(lambda: bool(nodes.announcements))
        topics = nodes.topics
        for topic in (topics.node_event(ann), topics.node_state(ann), topics.node_telemetry(ann)):
            nodes.transport.publish(topic, b"\xc1 noise")
        # Bob's update on Ann's topic: a replay by somebody else.
        forged = nodes.make_offer(nodes.announcements[-1], "bob")
        nodes.transport.publish(topics.node_event(ann), encode_message(forged))
        nodes.until(lambda: bool(nodes.receipts))
        assert nodes.receipts[0].reason is Reason.NOT_ASSIGNED
        process.terminate()
        ended(process)
    seen = json.loads(status(tmp_path / "state"))
    assert seen["counters"]["messages_refused"] == 3
    assert seen["counters"]["foreign_updates"] == 1
    assert seen["incidents"]["ann"] == {"malformed": 3}
