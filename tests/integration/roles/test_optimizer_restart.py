"""A node of a real federation is killed with a kept optimizer state, and goes on with it."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chaos.federation import running
from benchmarks.chaos.kills import Killer
from benchmarks.chaos.life import KILLED
from benchmarks.chaos.plan import Plan
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.storage.task_state import expected_state
from federation.runtime.local_broker import LocalBroker
from federation.task import Parameters

pytestmark = [pytest.mark.broker, pytest.mark.slow]

START_S = 120.0
"""A node imports torch before it is there, and this machine may be busy."""

STEPS = 5
TASK = """
import torch
from federation.protocol.messages import TrainSettings
from federation.tasks import TorchTask

DEFAULT_SETTINGS = TrainSettings(batch_size=10, max_steps=5, learning_rate=0.01, extra={"adam": 1, "optimizer_kept": 1})

def build(context):
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    return TorchTask(context, model=lambda: torch.nn.Linear(4, 2), loss=torch.nn.functional.cross_entropy,
                     train_data=(x, (x[:, 0] > 0).long()))
"""


def test_the_moments_survive_kill_9_and_count_the_receipts(broker: LocalBroker, tmp_path: Path) -> None:
    task = tmp_path / "adam_task.py"
    task.write_text(TASK)
    plan = replace(Plan(nodes=2, buffer=2, quorum=2, lease_s=60.0), task=f"{task}:build", codec="lossless")
    killer = Killer(frozenset(plan.names[:1]), ("node_after_outbox",), 1, random.Random(3))
    name = plan.names[0]
    with running(plan, tmp_path, broker.url, killer) as federation:
        federation.retired.add(name)  # until this test has looked into its folder
        assert federation.wait(lambda: any(life.code == KILLED for life in federation.past), START_S)
        killed = state_of(tmp_path / name)
        federation.retired.discard(name)
        federation.restart(name)
        assert federation.wait(federation.everybody_works, START_S)
        assert federation.wait_versions(3, START_S)
        assert federation.drain()
        assert not federation.surprises
    # The update before the kill is in the outbox, and counts: it is under way.
    rounds = int(killed["optimizer.sent"])
    assert int(killed["optimizer.steps"]) == STEPS * rounds
    ended = state_of(tmp_path / name)
    assert int(ended["optimizer.sent"]) > rounds
    # All that were sent were applied or are under way, and none of the steps before the kill is lost.
    assert int(ended["optimizer.sent"]) == int(np.sum(ended["optimizer.settled"]))
    assert int(ended["optimizer.steps"]) == STEPS * int(ended["optimizer.sent"])


def state_of(folder: Path) -> Parameters:
    store = SqliteNodeStore(folder)
    state = expected_state(store.task_state(), [store.pending(entry.offer.update) for entry in store.outbox()])
    store.close()
    return state
