"""Federations that are sealed, or whose coordinator adds noise, with all faults of the campaign."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coordinator.global_model.committer import CommitterSettings
from edge_node.runtime.sealing import NodeSealing
from federation.protocol.messages import UpdateOffer
from fedmq.simulation.protocol import identities
from fedmq.simulation.protocol.campaign import Kind, Seed, random_private_scenario, run_seed, seeds_of
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.scenario import Scenario
from fedmq.simulation.world.faults import FaultPlan
from tests.rigs.small_federation import violations
from tests.simulation import test_coordinator_noise as noise
from tests.simulation import test_sealing as sealing

SEEDS = (1, 13, 21, 26, 27, 32, 1021)
"""First to show a lost last word, a twin of who was shut out, an offer in clear, and a verdict before its time."""


@pytest.mark.slow
def test_no_invariant_is_violated() -> None:
    kinds = ("sealed_words", "rotated_keys", "shut_out", "noised", "node_crashes", "coordinator_crashes", "wiped_nodes")
    totals = dict.fromkeys(kinds, 0)
    for seed in SEEDS:
        outcome, tail = run_seed(seed, Kind.PRIVATE)
        assert not outcome.violations, "\n".join([*tail, *outcome.violations, f"seed {seed} private"])
        for name in totals:
            totals[name] += getattr(outcome, name)
    assert all(totals.values()), f"something never happened: {totals}"


def test_both_are_drawn_alone_and_together_and_under_masks() -> None:
    drawn = [random_private_scenario(seed) for seed in range(60)]
    kinds = {(one.engine.sealed, one.engine.noise is not None, one.masked is not None) for one in drawn}
    assert kinds == {(True, False, False), (True, True, False), (False, True, False), (True, False, True)}
    noised = [one for one in drawn if one.engine.noise is not None]
    assert {one.faults.restore for one in noised} == {0.0, 1.0}
    assert all(one.engine.per_node_quota == 1 and not one.engine.federated_evaluation.every for one in noised)
    sealed = [one for one in drawn if one.engine.sealed]
    assert 0 < sum(one.revoked_s is None for one in sealed) < len(sealed)


def test_a_campaign_has_some_of_them_all_or_none() -> None:
    some = seeds_of(range(16), "some", "some")
    assert [seed.number for seed in some if seed.kind is Kind.PRIVATE] == [5, 13]
    assert len(some) == 20
    assert seeds_of(range(2), "none", "all") == [Seed(0, Kind.PRIVATE), Seed(1, Kind.PRIVATE)]


def two_runs() -> Scenario:
    """Chunks of 64 bytes, and a second run whose updates have the ids of the first one's."""
    return sealing.scenario(0, faults=FaultPlan(second_run=1.0), revoked_s=None)


def test_the_ids_of_another_run_are_no_violation() -> None:
    assert sealing.ran(two_runs())[0].violations == ()


def one_secret(self: NodeSealing, offer: UpdateOffer) -> bytes:
    """As if an update's id said which one it is."""
    known: dict[Any, bytes] = self.__dict__.setdefault("known", {})
    return known.setdefault(offer.update, offer.payload_digest * 2)


@pytest.mark.thorough
def test_one_key_for_two_contents_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeSealing, "_secret", one_secret)
    assert "two contents are sealed under one key" in "\n".join(sealing.ran(two_runs())[0].violations)


@pytest.mark.thorough
def test_an_offer_in_clear_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node has trained, has never heard its coordinator's key, and is started again."""
    monkeypatch.setattr(NodeSealing, "would_show", lambda *_: False)
    assert any("the broker reads a UpdateOffer" in said for said in run_seed(20, Kind.PRIVATE)[0].violations)


@pytest.mark.thorough
def test_two_updates_of_one_node_under_noise_for_one_can_fail() -> None:
    """`round.per_node_quota` is refused above 1 by the configuration; the engine would go by it."""
    made = noise.scenario(0)
    engine = replace(made.engine, per_node_quota=2, nodes_min=1, concurrency=2, buffer=2, quorum=2, refill=1)
    own = replace(made.committer.noise, members=2) if made.committer.noise is not None else None
    committer: CommitterSettings = replace(made.committer, noise=own)
    found = violations(replace(made, nodes=2, engine=engine, committer=committer, faults=FaultPlan()))
    assert "two updates of one node" in found


@pytest.fixture
def restored_twice(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """The same backup is restored again, once what was made of it first has made as much as the run before."""
    monkeypatch.setattr(identities, "AGAIN", 1.0)
    monkeypatch.setattr(identities, "AWAY_S", (60.0, 60.0))
    monkeypatch.setattr(identities, "SLOW_S", (60.0,))

    def run() -> str:
        return "".join(violations(everybody(seed)) for seed in range(3))

    return run


def everybody(seed: int) -> Scenario:
    """All nodes are in each version."""
    made = noise.slowly(seed)
    return replace(made, engine=replace(made.engine, concurrency=5, buffer=5, quorum=5, refill=5, interval_min_s=15.0))


def test_accounts_outlive_two_stores(restored_twice: Callable[[], str]) -> None:
    assert restored_twice() == ""


@pytest.mark.thorough
def test_a_second_restore_that_charges_for_one_lost_run_can_fail(
    restored_twice: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.storage.restoring._lost_sums", _once)
    assert "P1" in restored_twice()


def _once(_database: object, head: int, released: int | None) -> Any:
    """So many sums, however often the store was restored."""

    class Once(int):
        def __mul__(self, _times: int) -> int:
            return int(self)

    return Once(max(0, (released or 0) - head))


def test_the_same_seed_has_the_same_bytes() -> None:
    """Keys, what they seal and what noise is drawn of come of the seed, too."""
    first, again = (run_seed(21, Kind.PRIVATE)[0].transcript for _ in range(2))
    assert first == again


def test_the_table_has_what_became_of_them() -> None:
    with quiet_log():
        simulation = Simulation(sealing.scenario(0))
        outcome = simulation.run()
        simulation.close()
    assert (outcome.shut_out, outcome.noised) == (1, 0)
    assert outcome.sealed_words > 50
