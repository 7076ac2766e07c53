"""The coordinator's mirror of the nodes' ledgers: it never goes down, and it ends a run whose budgets are spent."""

from dataclasses import replace
from typing import Any

import pytest

from coordinator.engine import ledger
from coordinator.engine.effects import Effect, SendCommand
from coordinator.engine.events import NodesEnrolled
from coordinator.records import NodeSpent
from federation.privacy.budget import turn_of
from federation.protocol.messages import Rebirth, TrainSettings
from federation.protocol.wire import encode_message
from federation.types import ExamplePrivacy, NodeId, RoundId, SampledSteps
from tests.rigs.coordinator_rig import Rig, engine, transcript

PRIVACY = ExamplePrivacy(clip=1.0, noise=4.0, sampling_rate=0.1, epsilon=8.0, delta=1e-5)
TRAIN = TrainSettings(batch_size=10, privacy=PRIVACY)
TURN = turn_of(TRAIN, PRIVACY)
ABLE = {"private_examples": 1.0}


def steps(count: int) -> tuple[SampledSteps, ...]:
    return (SampledSteps(sampling_rate=0.1, noise=4.0, steps=count),)


def private_rig(**changes: Any) -> Rig:
    given = {"train": TRAIN, "needs": ABLE, "versions": 50, "buffer": 2, "concurrency": 2, "refill": 2, "quorum": 2}
    return Rig(engine(**(given | changes)))


def born(rig: Rig, *nodes: str, spent: int = 0) -> list[Effect]:
    return [rig.state(node, capabilities=ABLE, spent=steps(spent) if spent else None) for node in nodes][-1]


def told(effects: list[Effect]) -> list[Any]:
    found = [one.command for one in effects if isinstance(one, SendCommand)]
    return [one.spent for one in found if isinstance(one, Rebirth) and one.spent is not None]


def test_what_a_node_has_spent_is_saved_before_its_update_is_answered() -> None:
    """FED-183."""
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b")
    lines = transcript(rig.offer("a", 0, spent=steps(10), num_examples=1))
    assert lines[:2] == ["save spent a 10", "store 0-a"]
    assert rig.store.spent[NodeId("a")].steps == steps(10)


def test_an_update_without_a_ledger_is_refused() -> None:
    """FED-185: a node of an older release, which was never asked."""
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b")
    assert "tell a refused 0-a incompatible" in transcript(rig.offer("a", 0))
    assert rig.store.spent == {}


def test_a_node_that_cannot_keep_it_is_not_asked() -> None:
    """FED-185."""
    rig = private_rig()
    rig.connect()
    rig.state("old")
    born(rig, "a", "b")
    asked = {node for record in rig.store.rounds.values() for node in record.nodes}
    assert asked
    assert asked <= {"a", "b"}


def test_a_node_that_lost_its_ledger_is_told() -> None:
    """FED-183."""
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b")
    rig.offer("a", 0, spent=steps(10))
    assert told(rig.state("a", capabilities=ABLE, state_id=5)) == [steps(10)]
    assert told(rig.state("a", capabilities=ABLE, state_id=5, spent=steps(10))) == []
    assert told(born(rig, "b")) == []


def test_a_turn_of_a_wiped_node_comes_on_top_of_what_is_known() -> None:
    """FED-183: also where it was not told in time."""
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b")
    rig.offer("a", 0, spent=steps(30))
    rig.offer("b", 0, spent=steps(10))
    rig.offer("a", 1, spent=steps(10))
    assert rig.store.spent[NodeId("a")].steps == steps(40)
    rig.offer("a", 1, spent=steps(10))
    assert rig.store.spent[NodeId("a")].steps == steps(40), "a repeated offer is charged once"


@pytest.mark.parametrize("noise", [4.0, 400.0])
def test_an_update_costs_its_node_a_turn_whatever_it_says(noise: float) -> None:
    """FED-303: one step, or steps with so much noise that they cost nothing; no statement may have that epsilon."""
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b")
    said = (SampledSteps(sampling_rate=0.1, noise=noise, steps=1),)
    for round_id in range(3):
        rig.offer("a", round_id, spent=said)
        rig.offer("b", round_id, spent=steps(10 * (round_id + 1)))
        known = {(one.sampling_rate, one.noise): one.steps for one in rig.store.spent[NodeId("a")].steps}
        assert known[0.1, 4.0] >= 10 * (round_id + 1)
    rig.offer("a", 2, spent=said)
    assert {(one.sampling_rate, one.noise): one.steps for one in rig.store.spent[NodeId("a")].steps} == known
    assert rig.store.spent[NodeId("b")].steps == steps(30), "who says the truth pays no more"


def test_what_a_node_claims_can_still_be_told_to_it() -> None:
    """FED-317: a turn on top of the largest count, or more kinds than a message has, ended the coordinator."""
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b")
    rig.offer("a", 0, spent=steps(2**32 - 1))
    rig.offer("b", 0, spent=tuple(SampledSteps(sampling_rate=0.1, noise=50.0 + kind, steps=1) for kind in range(16)))
    rig.offer("a", 1, spent=steps(1))
    rig.offer("b", 1, spent=tuple(SampledSteps(sampling_rate=0.1, noise=90.0 + kind, steps=1) for kind in range(16)))
    for node in ("a", "b"):
        (spent,) = told(rig.state(node, capabilities=ABLE, state_id=5))
        assert encode_message(Rebirth(spent=spent))
        assert rig.store.spent[NodeId(node)].steps == spent
    assert rig.store.spent[NodeId("a")].steps == steps(2**32 - 1)
    again = Rig(rig.settings, rig.store.recovered(epoch=2))
    again.connect()
    assert told(born(again, "a")) == [steps(2**32 - 1)]


def test_what_a_node_claims_is_priced_a_few_times_for_each_round_it_was_asked_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FED-317: sixteen kinds take seconds, and nobody else is heard meanwhile."""
    priced: list[int] = []

    def count(spent: tuple[SampledSteps, ...], *_: object, **_more: object) -> bool:
        priced.append(sum(each.steps for each in spent))
        return True

    monkeypatch.setattr(ledger, "fits", count)
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b")
    for more in range(5):
        rig.offer("a", 0, spent=steps(10 + more))
    rig.offer("stranger", 0, spent=steps(10))
    assert priced == [10, 11, 12]
    assert rig.store.spent[NodeId("a")].steps == steps(14)


def test_an_older_update_that_comes_late_charges_nothing_twice() -> None:
    rig = private_rig(max_staleness=10)
    rig.connect()
    born(rig, "a", "b")
    rig.offer("a", 0, spent=steps(10))
    rig.offer("b", 0, spent=steps(10))
    rig.offer("a", 1, spent=steps(30))
    rig.offer("a", 0, spent=steps(20))
    assert rig.store.spent[NodeId("a")].steps == steps(30)


def test_a_node_without_budget_is_not_asked_again() -> None:
    """FED-182."""
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b", "c")
    rig.decline("a", 0, reason="budget")
    rig.wait(100_000)
    assert "a" not in {node for record in list(rig.store.rounds.values())[1:] for node in record.nodes}
    assert not rig.machine.snapshot()["finished"]


def test_a_run_ends_when_fewer_than_a_quorum_have_budget() -> None:
    """FED-182."""
    rig = private_rig(exit_when_finished=True)
    rig.connect()
    born(rig, "a", "b")
    lines = transcript(rig.decline("a", 0, reason="budget"), notes=True)
    assert "note budget_ends_run" in lines
    assert rig.machine.snapshot()["finished"]
    assert rig.announced is not None
    assert rig.announced.final
    assert "stop budget" in transcript(rig.wait(1_000)) or "stop budget" in lines


def test_a_busy_node_has_budget_left() -> None:
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b")
    rig.decline("a", 0)
    assert not rig.machine.snapshot()["finished"]


def test_a_restarted_coordinator_ends_at_once_where_the_budgets_are_spent() -> None:
    rig = private_rig()
    for node in ("a", "b"):
        rig.store.spent[NodeId(node)] = NodeSpent(
            node=NodeId(node), steps=steps(5_000), round=RoundId(3), privacy=PRIVACY
        )
    rig.restart()
    rig.connect()
    assert rig.machine.snapshot()["finished"]
    assert not any(record.nodes for record in rig.store.rounds.values()), "nobody is asked"


def test_a_run_does_not_wait_for_the_budget_of_who_has_left_the_federation() -> None:
    rig = private_rig()
    for node, spent in {"a": 5_000, "b": 5_000, "c": 10, "d": 10}.items():
        known = NodeSpent(node=NodeId(node), steps=steps(spent), round=RoundId(3), privacy=PRIVACY)
        rig.store.spent[known.node] = known
    rig.restart()
    rig.connect()
    rig.wait(700.0)
    assert not rig.machine.snapshot()["finished"], "two have budget, and may come"
    rig.tell(NodesEnrolled(nodes=frozenset(map(NodeId, "abc")), digest="new"))
    assert rig.machine.snapshot()["finished"]


def test_updates_that_take_the_last_of_the_budget_are_made_into_a_version() -> None:
    """FED-182: they are paid for."""
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b")
    rig.offer("a", 0, spent=steps(5_000), num_examples=1)
    assert not rig.machine.snapshot()["finished"], "b is asked, and a's update waits for it"
    rig.offer("b", 0, spent=steps(5_000), num_examples=1)
    assert rig.machine.snapshot()["version"] == 1
    assert rig.machine.snapshot()["finished"]
    assert rig.announced is not None
    assert rig.announced.final


def test_an_update_that_is_paid_for_and_waits_for_nobody_does_not_keep_the_run_up() -> None:
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b")
    rig.offer("a", 0, spent=steps(5_000), num_examples=1)
    rig.decline("b", 0, reason="budget")
    assert rig.machine.snapshot()["finished"]
    assert rig.machine.snapshot()["version"] == 0


def test_a_node_that_was_asked_and_has_no_budget_left_is_waited_for_as_long_as_its_lease() -> None:
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b")
    for node in ("a", "b"):
        rig.offer(node, 0, spent=steps(10), num_examples=1)
    rig.offer("a", 1, spent=steps(5_000), num_examples=1)
    rig.offer("b", 0, spent=steps(5_000), num_examples=1)
    assert not rig.machine.snapshot()["finished"]
    rig.wait(100_000)
    assert rig.machine.snapshot()["finished"]


def test_while_nothing_can_be_saved_nothing_is_answered() -> None:
    rig = private_rig()
    rig.connect()
    born(rig, "a", "b")
    rig.failing = True
    assert transcript(rig.offer("a", 0, spent=steps(10)))[-1] == "tell a retry 0-a"
    rig.failing = False
    rig.wait(60)
    assert "save spent a 10" in transcript(rig.offer("a", 0, spent=steps(10)))


def test_a_run_without_privacy_keeps_no_ledger() -> None:
    rig = private_rig(train=replace(TRAIN, privacy=None), needs={})
    rig.connect()
    born(rig, "a", "b")
    rig.offer("a", 0, spent=steps(10))
    rig.decline("b", 0, reason="budget")
    assert (rig.store.spent, rig.machine.snapshot()["finished"]) == ({}, False)
