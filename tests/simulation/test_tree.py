"""Federations through gateways under faults: once, none lost, the bits of a flat one; and the rules can fail."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coordinator.engine.update_receiver import UpdateReceiver
from coordinator.storage.claims import Claims
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import RoundId
from fedmq.simulation.tree.campaign import main
from fedmq.simulation.tree.federation import TreeSimulation, run_tree
from fedmq.simulation.tree.scenario import SiteScenario, TreeOutcome, random_tree
from site_gateway.engine.moved import SiteReceiver
from site_gateway.engine.state import SiteState
from site_gateway.engine.upward import Upward
from site_gateway.records import SiteSum, verdicts_of
from site_gateway.runtime.executor import SiteExecutor
from site_gateway.storage.store import SiteStore
from tests.rigs import repetitions

EARLY_VERDICT = 195
"""A seed in which a gateway hears a sum's verdict before it has heard its site's nodes."""

FAULTY = (5, 20)
"""Seeds in which gateways are killed with a sum under way."""


@pytest.mark.parametrize("seed", [*repetitions.of(range(6), few=(0, 2, 3)), EARLY_VERDICT])
def test_tree_keeps_its_rules_whatever_befalls_it(seed: int) -> None:
    outcome, _ = run_tree(seed)
    assert outcome.violations == ()
    assert outcome.versions >= 3
    assert outcome.applied > 0


def test_same_seed_gives_the_same_tree() -> None:
    first, again = (run_tree(9)[0] for _ in range(2))
    assert (first.transcript, first.applied, first.gateway_crashes) == (
        again.transcript,
        again.applied,
        again.gateway_crashes,
    )
    assert first.gateway_crashes > 0


AWAY = 0
"""A seed in which a site has its order when the broker above is killed."""


def rules(outcome: TreeOutcome) -> set[str]:
    """Which were violated."""
    known = ("T1", "T2", "T3", "T4", "T5", "T6", "T7")
    return {rule for text in outcome.violations for rule in known if rule in text.partition(":")[0]}


def first_violated(break_it: Callable[[], None]) -> set[str]:
    break_it()
    found = set[str]()
    for seed in FAULTY:
        found |= rules(run_tree(seed)[0])
    return found


@pytest.mark.thorough
def test_verdict_that_does_not_come_down_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: Upward, event: Any) -> None:
        del self, event

    assert "T4" in first_violated(lambda: monkeypatch.setattr(Upward, "verdict", lost))


@pytest.mark.thorough
def test_sum_that_is_given_back_although_it_counts_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def given_back(self: SiteStore, update: Any, base_version: Any, verdicts: Any) -> None:
        members = tuple(one for made in self.frozen() if made.update == update for one in made.members)
        made = SiteSum(
            update=update,
            round=RoundId(0),
            base_version=base_version,
            members=members,
            num_examples=0,
            train_s=0,
            reason="",
        )
        settle(self, update, base_version, verdicts_of(made, ReceiptStatus.STALE, Reason.TOO_STALE, None))
        del verdicts

    settle = SiteStore.settle_sum
    found = first_violated(lambda: monkeypatch.setattr(SiteStore, "settle_sum", given_back))
    assert found >= {"T1", "T3"}


def test_campaign_prints_its_table_and_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "3", "--jobs", "1", "--minutes", "0"]) == 0
    told = capsys.readouterr().out
    assert "1 simulated trees" in told
    assert "go on: --first 1 --seeds 2" in told


def run_without_a_link(seed: int) -> TreeOutcome:
    """A tree whose brokers are killed every quarter of a minute, and are away for up to ten minutes; nobody moves."""
    drawn = random_tree(seed)
    often = replace(drawn.faults, broker_crash=240.0)
    sites = tuple(SiteScenario(nodes=one.nodes, members_max=2 * one.nodes) for one in drawn.sites if one.nodes)
    count = len(sites)
    engine = replace(drawn.engine, versions=6, concurrency=count, buffer=count, refill=count, quorum=count)
    simulation = TreeSimulation(replace(drawn, faults=often, engine=engine, sites=sites, moves=0.0))
    outcome = simulation.run()
    simulation.close()
    return outcome


def test_sites_that_are_cut_off_train_on_and_keep_the_rules() -> None:
    """FED-284."""
    outcome = run_without_a_link(AWAY)
    assert outcome.violations == ()
    assert outcome.passes > 0


@pytest.mark.thorough
def test_a_site_that_goes_on_without_end_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SiteState, "goes_on", property(lambda self: self.passes < 3))
    monkeypatch.setattr(SiteState, "fitting", lambda self: self.waiting)
    assert any(one.startswith("T5") for one in run_without_a_link(AWAY).violations)


MOVING, LEFT = (16, 34, 52), 9
"""Seeds in which nodes move with updates that are in a sum, the last one with such that their site refuses.

Whatever changes the order of messages may take a meeting out of one of them.
"""


def test_nodes_that_move_between_sites_count_once() -> None:
    """FED-270, FED-271, FED-272, FED-273."""
    outcome, _ = run_tree(MOVING[0])
    assert outcome.moves > 0
    assert outcome.violations == ()


@pytest.mark.thorough
def test_update_that_counts_at_two_sites_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """FED-272: whoever comes second is refused; without that the checker says so."""
    monkeypatch.setattr(Claims, "counted", lambda *_: b"")
    assert any("T6" in rules(run_tree(seed)[0]) for seed in MOVING)


@pytest.mark.thorough
def test_work_that_is_given_back_although_it_counts_elsewhere_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """FED-273: a gateway that judges by itself what another site has counted."""
    monkeypatch.setattr(SiteReceiver, "_turn_down", UpdateReceiver._turn_down)
    monkeypatch.setattr(SiteReceiver, "settle", UpdateReceiver.settle)
    assert "T6" in rules(run_tree(LEFT)[0])


LEVELS = 7
"""A seed with gateways below a gateway, nodes that move, evaluation, and gateways whose power is cut."""


def test_three_levels_keep_the_rules() -> None:
    """FED-285, FED-287."""
    outcome, _ = run_tree(LEVELS)
    assert outcome.violations == ()
    assert outcome.levels == 3
    assert min(outcome.applied, outcome.moves, outcome.evaluated, outcome.power_cuts) > 0


@pytest.mark.thorough
def test_sum_that_is_offered_before_its_members_are_on_the_disk_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """FED-264."""
    monkeypatch.setattr(SiteExecutor, "sync", lambda _: None)
    assert "T7" in rules(run_tree(LEVELS)[0])
