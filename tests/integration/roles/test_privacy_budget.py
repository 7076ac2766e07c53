"""A real federation under differential privacy: nodes are killed and wiped, and the budget holds and ends the run."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos.federation import COORDINATOR, Federation, running
from benchmarks.chaos.kills import Killer
from benchmarks.chaos.life import KILLED
from benchmarks.chaos.plan import Plan
from coordinator.monitoring.privacy import privacy_row, read_privacy, show_privacy
from coordinator.storage.read_only import ReadOnlyStore
from edge_node.storage.read_only import read_node
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.privacy.budget import epsilon_of
from federation.runtime.local_broker import LocalBroker
from federation.types import NodeId, RunId, SampledSteps
from fedmq.audit.audit import Outcome, audit

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(400)]

START_S = 150.0
"""A node imports torch before it is there, and this machine may be busy."""

EPSILON = 1.2
TASK = """
import torch
from federation.protocol.messages import TrainSettings
from federation.tasks import TorchTask

DEFAULT_SETTINGS = TrainSettings(batch_size=20, max_steps=5, learning_rate=0.05)

def build(context):
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    return TorchTask(context, model=lambda: torch.nn.Linear(4, 2), loss=torch.nn.functional.cross_entropy,
                     train_data=(x, (x[:, 0] > 0).long()))
"""
PRIVACY = {"UNIT": "examples", "EPSILON": str(EPSILON), "NOISE": "2.0", "SAMPLING_RATE": "0.1"}


def ledger_of(folder: Path) -> dict[RunId, tuple[SampledSteps, ...]]:
    store = SqliteNodeStore(folder)
    spent = dict(store.spent())
    store.close()
    return spent


def ended(federation: Federation) -> bool:
    return federation.lives[COORDINATOR].ended_s is not None


def test_a_killed_and_a_wiped_node_stay_within_the_budget_that_ends_the_run(
    broker: LocalBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """FED-180 to FED-185."""
    for name, value in PRIVACY.items():
        monkeypatch.setenv(f"FEDMQ_COORDINATOR__PRIVACY__{name}", value)
    monkeypatch.setenv("FEDMQ_COORDINATOR__ROUND__EXIT_WHEN_FINISHED", "true")
    task = tmp_path / "private_task.py"
    task.write_text(TASK)
    plan = replace(Plan(nodes=2, buffer=2, quorum=2, lease_s=60.0), task=f"{task}:build", codec="lossless")
    killed, wiped = plan.names
    killer = Killer(frozenset([killed]), ("node_after_outbox",), 1, random.Random(3))
    with running(plan, tmp_path, broker.url, killer) as federation:
        federation.retired |= {killed, COORDINATOR}
        assert federation.wait(lambda: any(life.code == KILLED for life in federation.past), START_S)
        (before,) = ledger_of(tmp_path / killed).values()
        federation.retired.discard(killed)
        federation.restart(killed)
        assert federation.wait_versions(2, START_S)
        federation.retired.add(wiped)
        federation.kill(wiped)
        assert federation.wait(lambda: federation.lives[wiped].ended_s is not None, START_S)
        shutil.rmtree(tmp_path / wiped)
        federation.retired.discard(wiped)
        federation.restart(wiped)
        assert federation.wait(lambda: ended(federation), START_S), federation.waiting
    report = read_privacy(tmp_path / "coordinator")
    assert report is not None
    for name in (killed, wiped):
        (spent,) = ledger_of(tmp_path / name).values()
        assert epsilon_of(spent, 1e-5) <= EPSILON
        mirror = report.spent[NodeId(name)].steps
        # What was made when the run had ended is charged, and nobody took it.
        waiting = 5 * len(read_node(tmp_path / name).outbox)
        assert spent[0].steps - waiting <= mirror[0].steps <= spent[0].steps
        assert report.epsilons[NodeId(name)] == epsilon_of(mirror, 1e-5)
    assert report.spent[NodeId(killed)].steps[0].steps > before[0].steps
    with ReadOnlyStore(tmp_path / "coordinator") as store:
        applied = [row for row in store.updates() if row.verdict.version is not None]
    per_turn = [sum(row.record.node == name for row in applied) for name in (killed, wiped)]
    for name, turns in zip((killed, wiped), per_turn, strict=True):
        assert 5 * turns <= report.spent[NodeId(name)].steps[0].steps, "what was used is charged"
    assert {row.record.num_examples for row in applied} == {1}
    row = privacy_row(report)
    assert row is not None
    assert (row["unit"], row["adjacency"]) == ("examples", "add or remove one row")
    audited = audit(tmp_path / "coordinator", nodes=[tmp_path / killed, tmp_path / wiped])
    ledgers = {one.invariant: one.outcome for one in reversed(audited.findings) if one.invariant.startswith("P")}
    assert ledgers == dict.fromkeys(("P1", "P2", "P3", "P4", "P5"), Outcome.PASS), audited.findings
    show_privacy(tmp_path / "coordinator", as_json=True)
    assert json.loads(capsys.readouterr().out)["privacy"] == json.loads(json.dumps(row))
