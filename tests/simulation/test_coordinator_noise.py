"""A coordinator that adds noise, under kills and power cuts: charged once, never less, and never beyond the budget."""

from dataclasses import replace
from typing import Any

import pytest

from coordinator.engine.settings import NoiseSettings, ReleaseBudget
from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.noised import CoordinatorNoise, secret_of
from coordinator.monitoring.noised_sums import NodesReport
from coordinator.records import ReleaseLedger
from coordinator.storage import releases
from coordinator.storage.store import Commit
from coordinator.strategies.strategy import StrategySettings, make_strategy
from federation.privacy.accountant import gaussian_epsilon
from federation.storage.sql import Database
from federation.types import NodeId, RunId
from fedmq.simulation.protocol.accounts import Accounts
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.scenario import Scenario
from fedmq.simulation.world.faults import FaultPlan
from fedmq.simulation.world.stores import ObservedStore
from tests.rigs import repetitions
from tests.rigs.small_federation import CRASHES, ENGINE, small_scenario, unsaid, violations

Z = 3.0
NOISE = NoiseSettings(noise=Z, clip=1.0, budget=ReleaseBudget(epsilon=gaussian_epsilon(8**0.5 / Z, 1e-5), delta=1e-5))


def scenario(seed: int, **changes: Any) -> Scenario:
    """Budget for eight sums of twenty: five nodes make thirteen versions or so, of three updates each."""
    made = small_scenario(
        seed,
        engine=replace(ENGINE, noise=NOISE, versions=20),
        committer=CommitterSettings(
            strategy=make_strategy(StrategySettings(name="fedbuff", staleness="constant", importance="uniform")),
            noise=CoordinatorNoise(noise=Z, clip=1.0, members=ENGINE.buffer),
        ),
        faults=replace(CRASHES, coordinator_crash=0.05),
    )
    return replace(made, **changes)


@pytest.mark.parametrize("seed", repetitions.of(range(4), few=(0, 3)))
def test_accounts_hold_over_kills_and_power_cuts(seed: int) -> None:
    """The run ends by its budget, and waits for nobody."""
    assert violations(scenario(seed)) == ""


@pytest.mark.parametrize("seed", range(2))
def test_accounts_hold_where_disks_fail_and_copies_come_back(seed: int) -> None:
    harsh = FaultPlan(node_crash=0.02, coordinator_crash=0.1, failed_commit=0.1, disk_full=20.0, wipe=0.3, drop=0.05)
    assert violations(scenario(seed, faults=harsh)) == ""


def slowly(seed: int) -> Scenario:
    """A version each half a minute, so that some are made after a backup; it is restored, once or twice."""
    made = scenario(seed, faults=FaultPlan(restore=1.0), patience_s=3600.0)
    return replace(made, engine=replace(made.engine, interval_min_s=30.0))


@pytest.mark.parametrize("seed", repetitions.of(range(3), few=(0, 1)))
def test_accounts_outlive_the_store_they_are_in(seed: int) -> None:
    """Whoever restores a backup says which version was the newest."""
    assert violations(slowly(seed)) == ""


@pytest.mark.thorough
def test_a_restore_that_charges_nobody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.storage.restoring.charge_lost", lambda _database, _sums: None)
    assert not unsaid(["P1"], (slowly(seed) for seed in range(3)))


@pytest.mark.thorough
def test_a_charge_outside_of_the_transaction_of_its_version_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(database: Database, record: object, *, by_coordinator: bool = False) -> None:
        """As if nothing had to be paid."""

    monkeypatch.setattr(releases, "charge_release", forget)
    assert not unsaid(["P1"], (scenario(seed) for seed in range(3)))


@pytest.mark.thorough
@pytest.mark.parametrize("told", ["half of the epsilon", "nothing"])
def test_an_epsilon_that_is_reported_too_low_is_found(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if told == "nothing":
        monkeypatch.setattr("fedmq.simulation.protocol.checker.nodes_report", lambda _store: None)
    else:
        half = lambda mu, delta: gaussian_epsilon(mu, delta) / 2  # noqa: E731 - what the report computes with
        monkeypatch.setattr("federation.privacy.accountant.gaussian_epsilon", half)
    assert not unsaid(["P3"], [scenario(0)])


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_node_that_is_not_listed_is_reported_with_those_others_of_a_restore(share: float) -> None:
    """P3: a backup does not name the nodes of versions that were lost, and charges every node that it does not know."""
    said: list[str] = []
    accounts = Accounts(said.append, NOISE)
    accounts._spent[NodeId("unknown")] = 1 / Z**2
    others = share * gaussian_epsilon(1 / Z, 1e-5)
    accounts.reported(
        NodesReport(
            run=RunId("0" * 16), releases=1, own=1, takings={}, epsilons={}, delta=1e-5, budget=8.0, floor=others
        )
    )
    assert bool(said) == (share < 1.0), said


def test_a_node_that_was_wiped_goes_on_with_its_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """P5: as if each start of the coordinator gave one node, which may have lost its state, an account of its own."""
    wiped = FaultPlan(wipe=0.9, node_crash=0.05, coordinator_crash=0.05)
    assert violations(scenario(1, faults=wiped)) == ""
    read = releases.read_ledger

    def anew(database: Database) -> ReleaseLedger:
        ledger = read(database)
        return replace(ledger, takings=dict(list(ledger.takings.items())[1:]))

    monkeypatch.setattr("coordinator.storage.recovery.read_ledger", anew)
    assert not unsaid(["P1"], (scenario(seed, faults=wiped) for seed in range(3)))


@pytest.mark.thorough
def test_a_node_beyond_its_budget_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.engine.masked.noised.NoisedSums._objection", lambda _self, _node: "")
    engine = replace(ENGINE, noise=NOISE, versions=20)
    assert not unsaid(["P4"], (scenario(seed, nodes=3, engine=engine) for seed in range(2)))


class Secrets(ObservedStore):
    """Remembers the secret of each version that was made."""

    made: list[bytes | None]

    def commit(self, commit: Commit) -> None:
        super().commit(commit)
        self.made.append(secret_of(commit.model.strategy))


def test_each_version_has_a_secret_of_its_own_that_is_kept_with_it() -> None:
    Secrets.made = []
    with quiet_log():
        simulation = Simulation(scenario(3), Secrets)
        outcome = simulation.run()
        simulation.close()
    assert outcome.violations == ()
    assert len(Secrets.made) >= outcome.versions > 2
    assert None not in Secrets.made
    assert len(set(Secrets.made)) == len(Secrets.made)
