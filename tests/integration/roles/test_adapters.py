"""Tasks of other libraries in real processes that are killed: nothing is counted twice, and a run goes on."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from benchmarks.chaos.federation import COORDINATOR
from benchmarks.chaos.kills import Killer, kill_processes
from benchmarks.chaos.plan import Plan
from benchmarks.chaos.table import Row
from coordinator.artifacts.export import read_model
from federation.runtime.local_broker import LocalBroker
from federation.task import TaskContext
from federation.tasks.registry import load_task

pytestmark = [pytest.mark.broker, pytest.mark.slow]

TASK = """
import numpy as np
from sklearn.preprocessing import StandardScaler
from federation.tasks.adapters.scikit_learn import sklearn_task

ROWS = np.random.default_rng(1).normal(size=(500, 3)) * [1e-2, 1, 1e6] + [1e6, 0, 1e9]

def build(context):
    return sklearn_task(context, estimator=StandardScaler(), data=(ROWS, np.zeros(500, int)))
"""


@pytest.mark.parametrize(
    ("who", "points"),
    [
        (frozenset({COORDINATOR}), ("coordinator_after_update_stored", "coordinator_after_commit")),
        (None, ("node_after_outbox", "node_before_settle")),
    ],
    ids=["coordinator", "nodes"],
)
def test_a_scaler_counts_every_row_once_whoever_is_killed(
    broker: LocalBroker, tmp_path: Path, who: frozenset[str] | None, points: tuple[str, ...]
) -> None:
    file = tmp_path / "scaler_task.py"
    file.write_text(TASK)
    name = f"{file}:build"
    plan = replace(Plan(nodes=2, buffer=2, max_wait_s=0.5, spread_s=0.05), task=name)
    killer = Killer(who or frozenset(plan.names), points, len(points), random.Random(3))
    row = kill_processes(broker.url, tmp_path, plan, killer, Row(fault="kills"))
    assert (row.lost, row.double, row.hung, row.failures, row.injected) == (0, 0, 0, [], 2)
    _, arrays = read_model(tmp_path / "coordinator")
    task = load_task(name)(TaskContext(node_index=None, node_count=2))
    scaler = task.fitted(arrays)  # type: ignore[attr-defined]
    pooled = StandardScaler().fit(task.examples.known()[0])  # type: ignore[attr-defined]
    assert scaler.n_samples_seen_ == 500
    np.testing.assert_allclose(scaler.mean_, pooled.mean_, rtol=1e-9)
    np.testing.assert_allclose(scaler.scale_, pooled.scale_, rtol=1e-9)
