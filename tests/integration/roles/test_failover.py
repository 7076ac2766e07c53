"""A coordinator on PostgreSQL: killed at every failpoint, and with a standby that takes over while nodes train."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos.federation import COORDINATOR
from benchmarks.chaos.kills import COORDINATOR_POINTS, Killer, kill_processes
from benchmarks.chaos.table import Row
from benchmarks.failover import PLAN, fail_over
from federation.runtime.local_broker import LocalBroker
from tests.rigs.postgres import PostgresServer

pytestmark = [pytest.mark.broker, pytest.mark.postgresql, pytest.mark.slow]


def test_a_coordinator_that_is_killed_at_every_failpoint_loses_and_doubles_nothing(
    broker: LocalBroker, postgres: PostgresServer, tmp_path: Path
) -> None:
    killer = Killer(frozenset({COORDINATOR}), COORDINATOR_POINTS, len(COORDINATOR_POINTS), random.Random(7))
    plan = replace(PLAN, store_url=postgres.new_database())
    row = kill_processes(broker.url, tmp_path, plan, killer, Row(fault="coordinator"))
    assert (row.injected, row.lost, row.double, row.hung, row.failures) == (len(COORDINATOR_POINTS), 0, 0, 0, [])


def test_a_standby_leads_after_a_kill_and_after_a_stop_and_who_wakes_up_writes_nothing(
    broker: LocalBroker, postgres: PostgresServer, tmp_path: Path
) -> None:
    plan = replace(PLAN, store_url=postgres.new_database())
    found = fail_over(plan, tmp_path, broker.url, kills=2, stops=1)
    assert {key: found[key] for key in ("audit", "lost", "double", "surprises", "in_order")} == {
        "audit": True,
        "lost": 0,
        "double": 0,
        "surprises": [],
        "in_order": True,
    }
    assert found["woken_leaders_that_ended"] == 1
