"""A small part of `make chaos`: real processes are killed at every failpoint, then the stores are audited."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chaos.disk_errors import disk_errors
from benchmarks.chaos.federation import COORDINATOR, running
from benchmarks.chaos.kills import COORDINATOR_POINTS, NODE_POINTS, Killer, judge, kill_broker, kill_processes
from benchmarks.chaos.plan import Plan
from benchmarks.chaos.table import Row
from coordinator.storage.sqlite_store import SqliteStore
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.protocol.messages import ReceiptStatus
from federation.runtime.local_broker import LocalBroker

pytestmark = [pytest.mark.broker, pytest.mark.slow]

SMALL = Plan(nodes=2, task="quadratic", buffer=2, max_wait_s=0.5, spread_s=0.05)
LARGE = replace(SMALL, task="null-60000", codec="lossless")


def assert_good(row: Row) -> None:
    assert (row.lost, row.double, row.hung, row.failures) == (0, 0, 0, [])


@pytest.mark.parametrize("points", [COORDINATOR_POINTS[:4], COORDINATOR_POINTS[4:]], ids=["collecting", "committing"])
def test_a_coordinator_that_is_killed_loses_and_doubles_nothing(
    broker: LocalBroker, tmp_path: Path, points: tuple[str, ...]
) -> None:
    killer = Killer(frozenset({COORDINATOR}), points, len(points), random.Random(7))
    row = kill_processes(broker.url, tmp_path, SMALL, killer, Row(fault="coordinator"))
    assert_good(row)
    assert row.injected == len(points)


@pytest.mark.parametrize("points", [NODE_POINTS[:6], NODE_POINTS[6:]], ids=["working", "delivering"])
def test_nodes_that_are_killed_lose_and_double_nothing(
    broker: LocalBroker, tmp_path: Path, points: tuple[str, ...]
) -> None:
    killer = Killer(frozenset(SMALL.names), points, len(points), random.Random(8))
    row = kill_processes(broker.url, tmp_path, SMALL, killer, Row(fault="nodes"))
    assert_good(row)
    assert row.injected == len(points)


def test_a_node_that_is_killed_in_mid_upload_goes_on_with_the_chunks_that_are_missing(
    broker: LocalBroker, tmp_path: Path
) -> None:
    killer = Killer(frozenset(LARGE.names), ("node_mid_upload",), 3, random.Random(9))
    row = kill_processes(broker.url, tmp_path, LARGE, killer, Row(fault="nodes"))
    assert_good(row)
    assert row.injected == 3


def test_a_broker_that_is_killed_and_forgets_everything_costs_no_update(broker: LocalBroker, tmp_path: Path) -> None:
    row = kill_broker(broker, tmp_path, 2, SMALL)
    assert_good(row)
    assert (row.injected, len(row.recovery_s)) == (2, 2)


def test_a_disk_that_fails_stops_acknowledging_says_so_and_costs_no_update(broker: LocalBroker, tmp_path: Path) -> None:
    row = disk_errors(broker, tmp_path, 1, SMALL)
    assert_good(row)
    assert len(row.recovery_s) == 1


def test_the_audit_of_a_run_without_faults_finds_nothing(broker: LocalBroker, tmp_path: Path) -> None:
    row = Row(fault="none")
    with running(SMALL, tmp_path, broker.url) as federation:
        assert federation.wait(federation.everybody_works)
        assert federation.wait_versions(3)
        judge(federation, row)
        assert not federation.lives[COORDINATOR].code
    assert_good(row)


def test_scaffolds_controls_add_up_to_the_bit_after_nodes_were_killed_at_every_point(
    broker: LocalBroker, tmp_path: Path
) -> None:
    """The sum in the coordinator's model is that of the nodes' folders; what waits for a receipt counts if applied."""
    plan = replace(SMALL, strategy="scaffold", codec="lossless")
    points = ("node_trained", "node_after_outbox", "node_after_offer", "node_before_settle", "node_after_settle")
    killer = Killer(frozenset(plan.names), points, len(points), random.Random(11))
    row = kill_processes(broker.url, tmp_path, plan, killer, Row(fault="nodes"))
    assert_good(row)
    assert row.injected == len(points)
    store = SqliteStore(tmp_path / "coordinator")
    manifest, head = store.manifest(), store.recovered(recent=1).head
    assert manifest is not None
    carried = manifest.unflatten(store.model(head.version).shadow)["control.point"]
    kept = np.zeros_like(carried)
    for name in plan.names:
        node = SqliteNodeStore(tmp_path / name)
        kept += node.task_state()["control.point"]
        for entry in node.recovered().outbox:
            verdict = store.verdict(entry.offer.update)
            if verdict is not None and verdict.status is ReceiptStatus.APPLIED:
                kept += node.pending(entry.offer.update)["control.point"]
        node.close()
    store.close()
    np.testing.assert_array_equal(carried, kept)
    assert np.abs(carried).max() > 0
