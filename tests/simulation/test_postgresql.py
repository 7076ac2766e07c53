"""The campaign's federations with their coordinators' stores in a real PostgreSQL: a share of the seeds."""

import os
from dataclasses import replace
from functools import partial

import pytest

from federation.storage.postgresql import PostgresDatabase
from fedmq.simulation.protocol.campaign import random_masked_scenario, random_scenario
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.scenario import Outcome, Scenario
from fedmq.simulation.world.database_disks import DatabaseDisk
from tests.rigs.postgres import PostgresServer

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

SEEDS = int(os.environ.get("FEDMQ_POSTGRES_SEEDS", "3"))
FIRST = int(os.environ.get("FEDMQ_POSTGRES_FIRST", "0"))


def run(scenario: Scenario, url: str, *, faulty: bool = False) -> Outcome:
    with quiet_log():
        simulation = Simulation(scenario, disks=partial(DatabaseDisk, url=url))
        outcome = simulation.run()
    simulation.close()
    tail = list(simulation.transcript.tail()) if outcome.violations else []
    assert faulty or not outcome.violations, "\n".join([*tail, *outcome.violations, f"seed {scenario.seed}"])
    return outcome


def test_no_invariant_is_violated_on_a_database(postgres: PostgresServer) -> None:
    """FEDMQ_POSTGRES_SEEDS=n, FEDMQ_POSTGRES_FIRST=n for more."""
    url, crashes, cuts, failed = postgres.new_database(), 0, 0, 0
    for seed in range(FIRST, FIRST + SEEDS):
        outcome = run(random_scenario(seed), url)
        assert outcome.ended_early or outcome.versions == random_scenario(seed).engine.versions
        crashes += outcome.coordinator_crashes
        cuts += outcome.coordinator_power_cuts
        failed += outcome.failed_syncs
    assert crashes
    assert cuts or SEEDS < 6
    assert failed or SEEDS < 6


def test_no_invariant_is_violated_with_masked_sums_on_a_database(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    for seed in range(FIRST, FIRST + max(1, SEEDS // 4)):
        run(random_masked_scenario(seed), url)


def test_a_store_that_does_not_wait_for_the_server_is_found_out(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PostgresDatabase, "sync", lambda _database: None)
    outcome = run(replace(random_scenario(1), audit=False), postgres.new_database(), faulty=True)
    assert any("too early" in said or "save, then say" in said for said in outcome.violations), outcome.violations
