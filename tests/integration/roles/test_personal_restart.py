"""A node of a real federation is killed and goes on with the layers that only it has; both accuracies arrive."""

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chaos.federation import running
from benchmarks.chaos.kills import Killer
from benchmarks.chaos.life import KILLED
from benchmarks.chaos.plan import Plan
from coordinator.monitoring.curves import CurveKind, newest_by_node
from coordinator.monitoring.status import show_nodes
from coordinator.storage.sqlite_store import SqliteStore
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.runtime.local_broker import LocalBroker

pytestmark = [pytest.mark.broker, pytest.mark.slow]

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "personalize.md"
MARK = 1000.0
START_S = 120.0
"""A node imports torch before it is there, and this machine may be busy."""


def test_local_layers_survive_kill_9_and_the_coordinator_never_has_them(
    broker: LocalBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    task = tmp_path / "personal_task.py"
    task.write_text(code)
    plan = replace(Plan(nodes=2, buffer=2, quorum=2, lease_s=60.0), task=f"{task}:build", codec="lossless")
    killer = Killer(frozenset(plan.names[:1]), ("node_after_outbox",), 1, random.Random(3))
    name = plan.names[0]
    with running(plan, tmp_path, broker.url, killer) as federation:
        federation.retired.add(name)  # until this test has looked into its folder
        assert federation.wait(lambda: any(life.code == KILLED for life in federation.past), START_S)
        mark_the_bias(tmp_path / name)
        federation.retired.discard(name)
        federation.restart(name)
        assert federation.wait(federation.everybody_works, START_S)
        assert federation.wait_versions(2, START_S)
        assert federation.drain()
        assert not federation.surprises
    node = SqliteNodeStore(tmp_path / name)
    assert node.task_state()["local.3.bias"].astype(float).min() > MARK / 2
    node.close()
    store = SqliteStore(tmp_path / "coordinator")
    manifest = store.manifest()
    assert manifest is not None
    assert not [tensor.name for tensor in manifest.tensors if tensor.name.startswith("3.")]
    names = {"global_accuracy", "global_loss", "personal_accuracy", "personal_loss", "test_examples"}
    trained = [point for point in store.curves() if point.kind is CurveKind.TRAINING]
    assert {point.node for point in trained} == set(plan.names)
    assert all(names <= point.metrics.keys() for point in trained)
    store.close()
    show_nodes(tmp_path / "coordinator")
    shown = capsys.readouterr().out
    for point in newest_by_node(trained, CurveKind.TRAINING).values():
        for figure in ("global_accuracy", "personal_accuracy"):
            assert f"{point.metrics[figure]:.4g}" in shown


def mark_the_bias(folder: Path) -> None:
    """What the killed process has kept is there; all its biases go up, which changes no answer of the model."""
    store = SqliteNodeStore(folder)
    state = dict(store.task_state())
    assert state.keys() == {"local.3.weight", "local.3.bias"}
    with store._db.transaction(durable=True):
        store._put_state(state | {"local.3.bias": state["local.3.bias"].astype(np.float32) + np.float32(MARK)})
    store.close()
