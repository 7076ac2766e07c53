"""Copies, restored backups, second runs and twins: what is right of each holds, and whoever is wrong is found."""

from dataclasses import replace
from typing import Any

import pytest

from coordinator.engine.fencing import Behind, Fence
from coordinator.engine.state import MachineState
from edge_node.storage.database import Database
from federation.types import RunId
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.scenario import Outcome, Scenario
from fedmq.simulation.world.faults import FaultPlan
from fedmq.simulation.world.trainer import Stragglers
from tests.rigs import repetitions
from tests.rigs.small_federation import ENGINE, small_scenario, unsaid

SLOW = Stragglers(train_s=3.0, slow_share=0.0)
LONG = replace(ENGINE, versions=20, max_staleness=2)

COPY = FaultPlan(stale_copy=1.0)
RESTORE = FaultPlan(restore=1.0)
SECOND_RUN = FaultPlan(second_run=1.0)
TWIN = FaultPlan(twin=1.0)


def identities(seed: int, plan: FaultPlan, **changes: Any) -> Scenario:
    return small_scenario(seed, engine=LONG, faults=plan, stragglers=SLOW, patience_s=1800.0, **changes)


def outcome(scenario: Scenario) -> Outcome:
    with quiet_log():
        simulation = Simulation(scenario)
        found = simulation.run()
    simulation.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "happened", "came_of_it", "few"),
    [
        (COPY, "stale_copies", ("held", "fenced", "restored_above"), (0, 8)),
        (RESTORE, "restores", ("told_by_others",), (3, 4)),
        (SECOND_RUN, "second_runs", ("gave_way",), (2, 5)),
        (TWIN, "twins", ("twins_given_up",), (0, 1)),
    ],
)
def test_each_happens_and_is_no_violation(
    plan: FaultPlan, happened: str, came_of_it: tuple[str, ...], few: tuple[int, ...]
) -> None:
    outcomes = [outcome(identities(seed, plan)) for seed in repetitions.of(range(9), few=few)]
    assert {one.violations for one in outcomes} == {()}
    assert all(getattr(one, happened) > 0 for one in outcomes)
    for name in came_of_it:
        assert sum(getattr(one, name) for one in outcomes) > 0, name


def test_the_same_seed_takes_the_same_steps() -> None:
    plan = FaultPlan(stale_copy=1.0, restore=1.0, second_run=1.0, twin=1.0, drop=0.02, coordinator_crash=0.02)
    first, second = (outcome(identities(3, plan)) for _ in range(2))
    assert first.transcript == second.transcript
    assert min(first.stale_copies, first.restores, first.twins) > 0


def test_a_copy_that_has_time_to_listen_takes_no_work_with_it() -> None:
    """Its network is not slower than it waits: whoever is right in the end has given every verdict."""
    patient = replace(LONG, settle_s=5.0)
    seeds = repetitions.of(range(8), few=(0, 1))
    outcomes = [outcome(replace(identities(seed, COPY), engine=patient)) for seed in seeds]
    assert {one.violations for one in outcomes} == {()}
    assert sum(one.held for one in outcomes) > 0
    assert sum(one.told_by_others for one in outcomes) == 0


@pytest.mark.thorough
def test_a_coordinator_that_does_not_listen_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MachineState, "leading", property(lambda self: self.clock.running and not self.behind))
    assert not unsaid(["has not heard who leads"], (identities(seed, COPY) for seed in range(2)))


@pytest.mark.thorough
def test_a_copy_that_hears_that_it_is_behind_and_does_not_hold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Behind, "born", lambda _self, _node, _state: None)
    wanted = [f"has heard that it is behind, and does {what}" for what in ("not hold", "a")]
    assert not unsaid(wanted, (identities(seed, COPY) for seed in range(6)))


@pytest.mark.thorough
def test_a_node_that_forgets_a_run_when_it_hears_of_another_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    enter_run = Database.enter_run

    def forgetful(database: Database, run: RunId, now_s: float) -> tuple[RunId, ...]:
        gone = tuple(row.run for row in database.runs() if row.run != run)
        for other in gone:
            database._drop_run(other)
        enter_run(database, run, now_s)
        return gone

    monkeypatch.setattr(Database, "enter_run", forgetful)
    assert not unsaid(["I2"], (identities(seed, SECOND_RUN) for seed in range(8)))


@pytest.mark.thorough
def test_a_run_that_is_restored_and_not_lifted_above_its_nodes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes obey nobody who comes from the past: it is found to hold, and somebody has to lift it."""
    monkeypatch.setattr("coordinator.storage.restoring.EPOCHS", 1)
    monkeypatch.setattr("coordinator.storage.restoring.ROUNDS", 1)
    assert any(outcome(identities(seed, RESTORE)).held for seed in range(6))


@pytest.mark.thorough
def test_two_runs_that_both_go_on_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither gives way: the second one is there before anybody looks."""
    monkeypatch.setattr(Fence, "_another_run", lambda _self, _told, *, stood: None)
    outcomes = [outcome(identities(seed, SECOND_RUN)) for seed in repetitions.of(range(4), few=(2,))]
    assert sum(one.gave_way for one in outcomes) == 0
