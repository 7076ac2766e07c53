"""A small part of `make chaos`: real processes are killed at every failpoint, then the stores are audited."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos.federation import COORDINATOR, running
from benchmarks.chaos.kills import COORDINATOR_POINTS, NODE_POINTS, Killer, judge, kill_broker, kill_processes
from benchmarks.chaos.plan import Plan
from benchmarks.chaos.table import Row
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


def test_the_audit_of_a_run_without_faults_finds_nothing(broker: LocalBroker, tmp_path: Path) -> None:
    row = Row(fault="none")
    with running(SMALL, tmp_path, broker.url) as federation:
        assert federation.wait(federation.everybody_works)
        assert federation.wait_versions(3)
        judge(federation, row)
        assert not federation.lives[COORDINATOR].code
    assert_good(row)
