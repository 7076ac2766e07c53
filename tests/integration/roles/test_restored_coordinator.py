"""Real processes: a run is backed up while it trains, trains on, is lost, is restored, and trains on [FED-122]."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos.federation import COORDINATOR, Federation, running
from benchmarks.chaos.plan import Plan
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.restoring import ROUNDS
from federation.protocol.messages import ReceiptStatus
from federation.runtime.local_broker import LocalBroker

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]

PLAN = Plan(nodes=2, task="quadratic", buffer=2, max_wait_s=0.5, spread_s=0.05)
LARGE = replace(PLAN, task="null-60000", codec="lossless")
PATIENCE_S = 60.0


def command(*arguments: str | Path) -> dict[str, object]:
    """What a command of the coordinator prints as JSON."""
    line = [sys.executable, "-m", "coordinator", *map(str, arguments), "--json"]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def end(federation: Federation) -> None:
    """SIGKILL the coordinator, and leave it dead."""
    federation.retired.add(COORDINATOR)
    life = federation.lives[COORDINATOR]
    federation.kill(COORDINATOR)
    assert federation.wait(lambda: life.ended_s is not None)
    federation.retired.discard(COORDINATOR)


@pytest.mark.parametrize("starts", [0, 2])
@pytest.mark.parametrize("plan", [PLAN, LARGE], ids=["small", "large"])
def test_a_lost_run_is_restored_and_its_nodes_obey(
    broker: LocalBroker, tmp_path: Path, starts: int, plan: Plan
) -> None:
    state = tmp_path / "coordinator"
    with running(plan, tmp_path, broker.url) as federation:
        assert federation.wait_versions(2, PATIENCE_S)
        backup = command("backup", tmp_path / "run.tar", "--state", state)
        assert federation.wait_versions(3, PATIENCE_S)
        for _ in range(starts):
            end(federation)
            federation.restart(COORDINATOR)
            assert federation.wait_versions(1, PATIENCE_S)
        end(federation)
        with ReadOnlyStore(state) as store:
            assert (store.head() or 0) > int(str(backup["version"]))
        shutil.rmtree(state)
        restored = command("restore", tmp_path / "run.tar", "--state", state)
        federation.version = int(str(restored["version"]))
        federation.restart(COORDINATOR)
        assert federation.wait_versions(4, PATIENCE_S), (federation.waiting, federation.surprises)
        assert federation.drain()
        report = federation.audit()
    assert [finding for finding in report.findings if finding.failed] == []
    assert federation.surprises == []
    with ReadOnlyStore(state) as store:
        before = [row for row in store.updates() if row.record.round < int(str(backup["rounds"]))]
        after = [row for row in store.updates() if row.record.round >= ROUNDS]
    assert {row.verdict.status for row in before} <= {ReceiptStatus.APPLIED, ReceiptStatus.STALE}
    assert sum(row.verdict.status is ReceiptStatus.APPLIED for row in after) >= 2


def test_a_copy_of_the_folder_says_that_it_is_behind_and_a_restore_lifts_it(
    broker: LocalBroker, tmp_path: Path
) -> None:
    """FED-97, FED-122: it is silent for ever no more, and what it says leads to the remedy."""
    state, copy = tmp_path / "coordinator", tmp_path / "copy"
    with running(PLAN, tmp_path, broker.url) as federation:
        assert federation.wait_versions(2, PATIENCE_S)
        end(federation)
        shutil.copytree(state, copy)
        for _ in range(3):
            federation.restart(COORDINATOR)
            assert federation.wait_versions(1, PATIENCE_S)
            end(federation)
        shutil.rmtree(state)
        shutil.copytree(copy, state)
        said: list[str] = []
        federation.watchers.append(lambda line: said.append(line.event) if line.source == COORDINATOR else None)
        federation.restart(COORDINATOR)
        assert federation.wait(lambda: "behind" in said, 2 * PLAN.lease_s), said
        assert not federation.wait(lambda: "version_committed" in said, PLAN.lease_s), said
        behind = dict(command("why", "--state", state)["fields"])["behind"]  # type: ignore[call-overload]
        # Of a start whose epoch is ours, too, a node may have heard no round yet.
        other_start = behind["epoch"] > behind["our_epoch"] or behind["round"] is None
        assert other_start or behind["round"] >= behind["our_rounds"]
        end(federation)
        shutil.rmtree(state)
        restored = command("restore", copy, "--state", state, "--above", str(behind["epoch"]))
        federation.version = int(str(restored["version"]))
        federation.restart(COORDINATOR)
        assert federation.wait_versions(3, PATIENCE_S), (federation.waiting, federation.surprises)
        assert federation.drain()
        report = federation.audit()
    assert [finding for finding in report.findings if finding.failed] == []
