"""Real processes: a device comes back without its state, and takes part again, without a new coordinator [FED-99]."""

import shutil
from pathlib import Path

import pytest

from benchmarks.chaos.federation import COORDINATOR, Federation, running
from benchmarks.chaos.plan import Plan
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.runtime.local_broker import LocalBroker

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]

PLAN = Plan(nodes=2, task="quadratic", buffer=2, quorum=1, lease_s=3.0, max_wait_s=1.0)
NAME = PLAN.names[1]
STARTS = 3
PATIENCE_S = 60.0
BACK_S = 15.0
"""A lease or two, and not the life of a coordinator."""


def die(federation: Federation) -> None:
    """SIGKILL the node, and leave it dead."""
    federation.retired.add(NAME)
    federation.kill(NAME)
    assert federation.wait(lambda: federation.lives[NAME].ended_s is not None, PATIENCE_S)
    federation.retired.discard(NAME)


@pytest.mark.parametrize("will_s", [0.0, 17.0], ids=["at once", "after its will"])
def test_a_wiped_node_takes_part_again_without_a_restart_of_the_coordinator(
    broker: LocalBroker, tmp_path: Path, will_s: float
) -> None:
    """Its boot number is lower than the one that the coordinator knows, also in the will that comes later."""
    with running(PLAN, tmp_path, broker.url) as federation:
        assert federation.wait(federation.everybody_works, PATIENCE_S)
        for _ in range(STARTS):
            die(federation)
            federation.restart(NAME)
            assert federation.wait(federation.everybody_works, PATIENCE_S)
        die(federation)
        federation.wait(lambda: False, will_s)
        shutil.rmtree(tmp_path / NAME)
        federation.restart(NAME)
        assert federation.wait(lambda: federation.lives[NAME].works_s is not None, BACK_S), federation.waiting
        assert federation.work_again(NAME, 2 * BACK_S) is not None, "the old life's will is not its own"
        assert federation.lives[COORDINATOR].generation == 0
        assert federation.drain()
    store = SqliteNodeStore(tmp_path / NAME)
    assert store.incarnation == 2, "the new life's first start, and this one"
    store.close()
