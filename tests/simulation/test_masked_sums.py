"""Federations with masked sums under faults: three of four helpers, one of which leaves for ever in most of them."""

from dataclasses import replace

import pytest

from federation.types import HelperId
from fedmq.simulation.protocol.campaign import Kind, Seed, random_masked_scenario, run_seed, seeds_of
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.scenario import Outcome, Scenario
from fedmq.simulation.world.faults import FaultPlan
from sum_helper.runtime.executor import HelperExecutor
from sum_helper.storage.store import HelperStore
from tests.rigs import repetitions
from tests.rigs.small_federation import unsaid

SEEDS = (0, 1, 2, 4, 6, 8, 15, 23, 26, 308)
"""Among them those that first showed a silent helper, stranded terms, a lost word, a helper that dies within a sum."""
FEW = (1, 4)
"""Those in which each kind of fault happens."""


def run(scenario: Scenario) -> Outcome:
    with quiet_log():
        simulation = Simulation(scenario)
        outcome = simulation.run()
    simulation.close()
    return outcome


def test_no_invariant_is_violated() -> None:
    kinds = ("helper_crashes", "sums", "restores", "coordinator_crashes", "node_crashes", "broker_crashes", "dropped")
    totals = dict.fromkeys(kinds, 0)
    gone = 0
    seeds = repetitions.of(SEEDS, few=FEW)
    for seed in seeds:
        outcome, tail = run_seed(seed, Kind.MASKED)
        assert not outcome.violations, "\n".join([*tail, *outcome.violations, f"seed {seed} masked"])
        plan = random_masked_scenario(seed).masked
        gone += plan is not None and plan.gone is not None
        for name in totals:
            totals[name] += getattr(outcome, name)
    assert all(totals.values()), f"a kind of fault never happened: {totals}"
    assert gone > len(seeds) / 2


def test_the_same_seed_has_the_same_bytes() -> None:
    """Seeds, keys, boxes and what helpers draw come of the seed, too."""
    first, again = (run_seed(6, Kind.MASKED)[0].transcript for _ in range(2))
    assert first == again


def quiet(seed: int = 3) -> Scenario:
    """Nothing goes wrong but what a test plants."""
    scenario = random_masked_scenario(seed)
    assert scenario.masked is not None
    plan = replace(scenario.masked, gone=None, crash=0.0, wipe=0.0)
    return replace(scenario, faults=FaultPlan(skew_s=10.0), masked=plan, patience_s=300.0, faults_s=120.0)


def violations(scenario: Scenario) -> str:
    return "\n".join(run(scenario).violations)


def test_without_a_bug_there_is_no_violation() -> None:
    assert violations(quiet()) == ""


def test_a_helper_that_speaks_before_it_has_saved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HelperStore, "sync", lambda _self: None)
    assert not unsaid(["save, then say: helper-"], [quiet()])


def test_a_sum_without_one_of_its_members_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HelperStore.seeds
    monkeypatch.setattr(HelperStore, "seeds", lambda self, tickets, number: whole(self, tickets, number)[1:])
    assert not unsaid(["honest work was refused"], [replace(quiet(), patience_s=10.0, faults_s=30.0)])


def test_a_helper_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks as if it were there: connected, and its last word says so."""
    publish = HelperExecutor.settle

    def settle(self: HelperExecutor) -> None:
        if self._parts.helper == HelperId("helper-2"):
            self._unsaid = self._unsaid[:1] if self._store.held_count() == 0 else []
        publish(self)

    monkeypatch.setattr(HelperExecutor, "settle", settle)
    assert violations(quiet()) == ""


def test_a_restored_run_goes_on_though_helpers_know_its_versions_as_others() -> None:
    plain = quiet(0)
    engine = replace(plain.engine, versions=12, nodes_min=1)
    outcome = run(replace(plain, engine=engine, faults=FaultPlan(restore=1.0, skew_s=10.0), faults_s=600.0))
    assert (outcome.violations, outcome.versions) == ((), 12)
    assert outcome.restores > 0


def test_a_campaign_has_some_of_them_all_or_none() -> None:
    some = seeds_of(range(16), "some")
    assert [seed.number for seed in some if seed.kind is Kind.MASKED] == [3, 11]
    assert len(some) == 18
    assert seeds_of(range(3), "all") == [Seed(number, Kind.MASKED) for number in range(3)]
    assert seeds_of(range(9), "none") == [Seed(number) for number in range(9)]
