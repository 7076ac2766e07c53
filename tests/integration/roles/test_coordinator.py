"""The coordinator's own process against a real Mosquitto: rounds, receipts, crashes in every phase, orderly ends."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.initial import InitialRequest, initial_model
from coordinator.storage.sqlite_store import SqliteStore
from federation.protocol.messages import Presence, Reason, ReceiptStatus
from federation.runtime.local_broker import LocalBroker
from federation.types import ModelVersion
from fedmq.audit.audit import recompute_head
from tests.rigs.scripted_nodes import LIMIT_S, ScriptedNodes

pytestmark = pytest.mark.broker

TASK = "quadratic-12"
MANIFEST = initial_model(InitialRequest(task=TASK)).manifest


def settings(folder: Path, broker: LocalBroker, **more: object) -> Path:
    """A configuration file for two nodes and synchronous rounds."""
    chosen: dict[str, object] = {"concurrency": 2, "nodes_min": 2, "lease_s": 60.0} | more
    lines = [f"{key} = {json.dumps(value)}" for key, value in chosen.items()]
    file = folder / "coordinator.toml"
    file.write_text(
        f'[federation]\nid = "it"\n[broker]\nurl = "{broker.url}"\n[task]\nname = "{TASK}"\n[codec]\nup = "lossless"\n'
        f'[evaluation]\nevery = 0\n[store]\nfolder = "{folder / "state"}"\n[round]\n' + "\n".join(lines)
    )
    return file


@contextmanager
def coordinator(file: Path, *arguments: str, failpoint: str = "") -> Iterator[subprocess.Popen[str]]:
    """A coordinator process; killed at the end when it still runs."""
    command = [sys.executable, "-m", "coordinator", "run", "--config", str(file), *arguments]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"FEDMQ_FAILPOINT": failpoint}
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and last words of a process that ends by itself."""
    _, words = process.communicate(timeout=LIMIT_S)
    return process.returncode, words


def check_store(folder: Path, versions: int) -> None:
    """I1, I3 and I7 on what is on disk."""
    store = SqliteStore(folder / "state")
    try:
        rows = [row.record for row in store.history()]
        assert [record.version for record in rows] == list(range(versions + 1))
        for before, after in pairwise(rows):
            assert after.previous == before.digest
        applied = Counter(row.verdict.version for row in store.updates() if row.verdict.version is not None)
        assert applied == {record.version: record.accepted for record in rows if record.accepted}
        assert recompute_head(store, CommitterSettings()) == rows[-1].digest
    finally:
        store.close()


def test_a_run_goes_from_nothing_to_its_report(broker: LocalBroker, tmp_path: Path) -> None:
    file = settings(tmp_path, broker, versions=3, exit_when_finished=True)
    report = tmp_path / "report.json"
    with ScriptedNodes(broker.url, MANIFEST, ("ann", "bob")) as nodes:
        with coordinator(file, "--report", str(report)) as process:
            nodes.until(lambda: bool(nodes.announcements) and nodes.announcements[-1].final)
            nodes.until(lambda: len(nodes.applied()) == 6)
            assert ended(process)[0] == 0
        nodes.until(lambda: nodes.presences[-1] is Presence.OFFLINE)
    assert sorted(nodes.applied().values(), key=str) == [1, 1, 2, 2, 3, 3]
    assert [receipt.status for receipt in nodes.receipts[:2]] == [ReceiptStatus.STORED] * 2
    written = json.loads(report.read_text())
    assert [(row["version"], row["accepted"]) for row in written["rounds"]] == [(1, 2), (2, 2), (3, 2)]
    assert written["bytes_up_total"] > sum(len(offer.inline or b"") for offer in nodes.offered.values())
    check_store(tmp_path, 3)


PHASES = [
    "coordinator_before_announce",
    "coordinator_after_announce",
    "coordinator_before_update_stored",
    "coordinator_after_update_stored",
    "coordinator_before_puback",
    "coordinator_after_freeze",
    "coordinator_after_blob",
    "coordinator_after_commit",
]


@pytest.mark.parametrize("phase", PHASES)
def test_kill_9_in_any_phase_loses_nothing_and_counts_nothing_twice(
    broker: LocalBroker, tmp_path: Path, phase: str
) -> None:
    file = settings(tmp_path, broker, versions=3, exit_when_finished=True)
    with ScriptedNodes(broker.url, MANIFEST, ("ann", "bob")) as nodes:
        with coordinator(file, failpoint=f"{phase}:2") as process:
            nodes.until_dead(process)
            assert process.returncode == -signal.SIGKILL
        with coordinator(file) as process:
            nodes.until(lambda: bool(nodes.announcements) and nodes.announcements[-1].final)
            nodes.until(lambda: all(r.update in nodes.applied() for r in nodes.receipts))
            assert ended(process)[0] == 0
    assert nodes.epochs == [1, 2]
    assert max(version for version in nodes.applied().values() if version is not None) == 3
    assert all(receipt.status in (ReceiptStatus.STORED, ReceiptStatus.APPLIED) for receipt in nodes.receipts)
    check_store(tmp_path, 3)


def test_a_restart_goes_on_with_the_announced_round_or_a_fresh_one(broker: LocalBroker, tmp_path: Path) -> None:
    file = settings(tmp_path, broker)
    with ScriptedNodes(broker.url, MANIFEST, ("ann", "bob"), obedient=False) as nodes:
        with coordinator(file) as process:
            nodes.until(lambda: bool(nodes.announcements))
            process.kill()
            process.wait(LIMIT_S)
        before = nodes.announcements[-1]
        with coordinator(file):
            nodes.until(lambda: nodes.announcements[-1].epoch == 2)
        after = nodes.announcements[-1]
    assert after.run == before.run
    assert after.model == before.model
    assert (after.round, after.cohort) == (before.round, before.cohort) or after.round > before.round


def test_bad_offers_are_refused_with_their_reason_and_the_run_goes_on(broker: LocalBroker, tmp_path: Path) -> None:
    file = settings(tmp_path, broker)
    with (
        ScriptedNodes(broker.url, MANIFEST, ("ann", "bob"), obedient=False) as nodes,
        coordinator(file) as process,
    ):
        nodes.until(lambda: bool(nodes.announcements))
        announcement = nodes.announcements[-1]
        good = {name: nodes.make_offer(announcement, name) for name in nodes.names}
        broken = bytes(len(good["ann"].inline or b""))
        nodes.offer(replace(good["ann"], inline=broken))
        nodes.transport.publish(nodes.topics.node_event(nodes.names[0]), b"\xc1 noise")  # type: ignore[arg-type]
        nodes.offer(replace(good["bob"], base_digest=type(good["bob"].base_digest)(b"x" * 16)))
        nodes.until(lambda: len(nodes.receipts) == 2)
        assert {receipt.status for receipt in nodes.receipts} == {ReceiptStatus.REFUSED}
        assert {receipt.reason for receipt in nodes.receipts} <= {
            Reason.DIGEST_MISMATCH,
            Reason.BASE_MISMATCH,
        }
        nodes.obedient = True
        nodes.until(lambda: bool(nodes.applied()))
        assert process.poll() is None


def test_an_update_that_is_not_inline_comes_in_granted_chunks(broker: LocalBroker, tmp_path: Path) -> None:
    file = settings(tmp_path, broker)
    with ScriptedNodes(broker.url, MANIFEST, ("ann", "bob"), inline=False) as nodes, coordinator(file):
        nodes.until(lambda: ModelVersion(2) in nodes.applied().values())


def test_a_second_coordinator_on_the_same_store_is_exit_code_3(broker: LocalBroker, tmp_path: Path) -> None:
    file = settings(tmp_path, broker)
    with ScriptedNodes(broker.url, MANIFEST, ("ann", "bob")) as nodes, coordinator(file) as first:
        nodes.until(lambda: bool(nodes.epochs))
        with coordinator(file) as second:
            code, words = ended(second)
        assert code == 3
        assert str(first.pid) in words
        assert first.poll() is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_order_and_says_offline(
    broker: LocalBroker, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    report = tmp_path / "report.json"
    with (
        ScriptedNodes(broker.url, MANIFEST, ("ann", "bob")) as nodes,
        coordinator(settings(tmp_path, broker), "--report", str(report)) as process,
    ):
        nodes.until(lambda: bool(nodes.applied()))
        process.send_signal(number)
        assert ended(process)[0] == code
        nodes.until(lambda: nodes.presences[-1] is Presence.OFFLINE)
    assert json.loads(report.read_text())["rounds"]


def test_a_broker_that_lost_everything_gets_it_again(broker: LocalBroker, tmp_path: Path) -> None:
    with (
        ScriptedNodes(broker.url, MANIFEST, ("ann", "bob"), obedient=False) as nodes,
        coordinator(settings(tmp_path, broker)),
    ):
        nodes.until(lambda: bool(nodes.announcements))
        broker.kill()
        broker.restart(wipe_store=True)
        count = len(nodes.announcements)
        nodes.until(lambda: len(nodes.announcements) > count)
        assert nodes.announcements[-1].run == nodes.announcements[0].run


def test_another_task_on_resume_is_exit_code_2_before_anything_is_said(broker: LocalBroker, tmp_path: Path) -> None:
    file = settings(tmp_path, broker)
    with ScriptedNodes(broker.url, MANIFEST, ("ann", "bob")) as nodes:
        with coordinator(file) as process:
            nodes.until(lambda: bool(nodes.applied()))
            process.send_signal(signal.SIGTERM)
            assert ended(process)[0] == 0
        nodes.until(lambda: nodes.presences[-1] is Presence.OFFLINE)
        epochs = list(nodes.epochs)
        file.write_text(file.read_text().replace(TASK, "quadratic-13"))
        with coordinator(file) as process:
            code, words = ended(process)
        assert (code, "'quadratic-12'" in words, "'quadratic-13'" in words, "store.folder" in words) == (
            2,
            True,
            True,
            True,
        )
        file.write_text(file.read_text().replace("quadratic-13", TASK))
        with coordinator(file):
            nodes.until(lambda: len(nodes.epochs) > len(epochs))
        # Each start counts: the second one has said nothing.
        assert nodes.epochs[len(epochs)] == epochs[-1] + 2


def test_a_stopping_metric_that_the_task_lacks_is_exit_code_2_at_the_start(broker: LocalBroker, tmp_path: Path) -> None:
    file = settings(tmp_path, broker)
    file.write_text(file.read_text().replace("every = 0", "every = 1") + '\n[stopping]\npatience = 3\nmetric = "f1"\n')
    with coordinator(file) as process:
        code, words = ended(process)
    assert code == 2
    assert "stopping.metric" in words
    assert "reports loss" in words
