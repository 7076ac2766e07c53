"""A coordinator that adds noise itself charges each version to its members, and ends when budgets are spent."""

from typing import Any

import pytest

from coordinator.engine.effects import CommitVersion, Effect, Note, SaveRound
from coordinator.engine.events import CommitFailed, NodesEnrolled
from coordinator.engine.settings import NoiseSettings, ReleaseBudget
from coordinator.records import RecoveredState, ReleaseLedger
from federation.privacy.accountant import gaussian_epsilon
from federation.privacy.releases import Taking
from federation.protocol.messages import Reason
from federation.types import NodeId, UpdateId
from tests.rigs.coordinator_rig import Rig, engine, fresh

Z = 2.0


def noised(*nodes: str, sums: int = 10, recovered: RecoveredState | None = None, **changes: Any) -> Rig:
    """A rig whose nodes have budget for so many sums, exactly."""
    budget = ReleaseBudget(epsilon=gaussian_epsilon(sums**0.5 / Z, 1e-5), delta=1e-5)
    noise = NoiseSettings(noise=Z, clip=1.0, budget=budget)
    rig = Rig(engine(noise=noise, versions=50, quorum=2, **changes), recovered)
    rig.connect()
    for node in nodes:
        rig.state(node)
    return rig


def back(rig: Rig, *nodes: str) -> None:
    """A new process on the same store; the nodes are there."""
    rig.restart()
    rig.connect()
    for node in nodes:
        rig.state(node)


def version(rig: Rig) -> list[Effect]:
    """Let those that are asked answer."""
    number = max(rig.store.rounds)
    head = rig.store.versions[-1]
    given = {"base_version": head.version, "base_digest": head.digest}
    done: list[Effect] = []
    for node in rig.store.rounds[number].nodes:
        done += rig.offer(str(node), int(number), **given)
    return done


def commits(done: list[Effect]) -> list[CommitVersion]:
    return [effect for effect in done if isinstance(effect, CommitVersion)]


def notes(done: list[Effect]) -> list[str]:
    return [effect.event for effect in done if isinstance(effect, Note)]


def test_a_version_is_charged_in_the_transaction_that_makes_it() -> None:
    """FED-310."""
    rig = noised("a", "b")
    (commit,) = commits(version(rig))
    assert commit.release is not None
    assert commit.release.prices == {NodeId("a"): Z**-2, NodeId("b"): Z**-2}
    assert (commit.release.release, commit.release.version, commit.release.clip) == (0, 1, 1.0)
    assert rig.store.takings[NodeId("a")] == Taking(releases=1, last=0, spent=0.25)


def test_the_run_ends_when_fewer_than_a_quorum_have_budget() -> None:
    rig = noised("a", "b", sums=2)
    version(rig)
    assert not rig.get("finished")
    done = version(rig)
    assert rig.store.versions[-1].version == 2
    assert {"budget_spent", "budget_ends_run"} <= set(notes(done))
    assert rig.get("finished")
    back(rig, "a", "b")
    assert rig.get("finished"), "and it is over for every process after this one"
    assert rig.store.takings[NodeId("b")] == Taking(releases=2, last=1, spent=0.5)


def test_the_run_does_not_wait_for_the_budget_of_who_has_left_the_federation() -> None:
    rig = noised(sums=2)
    for node, sums in {"a": 2, "b": 2, "c": 1, "d": 1}.items():
        rig.store.takings[NodeId(node)] = Taking(releases=sums, last=sums - 1, spent=sums * Z**-2)
    back(rig, "a", "b")
    rig.wait(700.0)
    assert not rig.get("finished"), "two have budget, and may come"
    done = rig.tell(NodesEnrolled(nodes=frozenset(map(NodeId, "abc")), digest="new"))
    assert "budget_ends_run" in notes(done)
    assert rig.get("finished")


def test_the_end_is_said_again_where_the_disk_has_failed_with_it() -> None:
    """The line that says why the run is over was lost, and people were told for ever that it waits for its disk."""
    rig = noised("a", "b", sums=1)
    rig.failing = True
    rig.failing_kinds = (SaveRound,)
    done = version(rig)
    assert rig.get("finished")
    assert "finished" not in notes(done)
    rig.failing = False
    ends = [effect for effect in rig.wait(60.0) if isinstance(effect, Note) and effect.event == "finished"]
    assert [end.fields["reason"] for end in ends] == ["budget"]
    waits: Any = rig.get("waiting_for")
    assert waits["reason"] == "budget"


def test_a_run_does_not_end_before_those_who_have_budget_were_heard() -> None:
    """A new process knows only of whom it has accounts; the others may come within ten minutes."""
    rig = noised("a", "b", "c", "d", sums=1, concurrency=4, refill=4, buffer=4, nodes_min=4)
    number = max(rig.store.rounds)
    for node in "ab":
        rig.offer(node, int(number))
    rig.wait(30.0)
    assert rig.store.versions[-1].version == 1
    rig.restart()
    rig.connect()
    rig.state("a")
    assert not rig.get("finished")
    rig.state("c")
    rig.state("d")
    rig.wait(700.0)
    assert not rig.get("finished")
    rig.restart()
    rig.connect()
    rig.wait(700.0)
    assert rig.get("finished"), "nobody has come"


def test_a_node_without_budget_is_not_asked_again() -> None:
    rig = noised("a", "b", "c", "d", sums=1, buffer=2, concurrency=4, refill=1, max_staleness=5, nodes_min=4)
    number = max(rig.store.rounds)
    for node in "ab":
        rig.offer(node, int(number))
    assert rig.store.versions[-1].version == 1
    assert not rig.get("finished")
    rig.wait(1000.0)
    assert not {"a", "b"} & {str(node) for name, one in rig.store.rounds.items() if name > number for node in one.nodes}


def test_an_update_of_a_node_without_budget_is_in_no_version() -> None:
    """Its version was lost with its model, and has been paid for: it is not made once more for nothing."""
    rig = noised("a", "b", "c", "d", sums=1, buffer=3, concurrency=4, refill=1, max_staleness=5, nodes_min=4)
    number = max(rig.store.rounds)
    for node in "ab":
        rig.offer(node, int(number))
    rig.store.takings[NodeId("a")] = Taking(releases=1, last=0, spent=0.25)
    back(rig, "a", "b", "c", "d")
    for node in "cd":
        rig.offer(node, int(number))
    assert rig.store.versions[-1].version == 1
    assert sorted(rig.store.released[0].prices) == ["b", "c", "d"]


def test_a_node_that_a_restored_store_does_not_know_begins_with_what_it_may_have_spent() -> None:
    floor = Taking(releases=2, last=-1, spent=2 * Z**-2)
    rig = noised("a", "b", sums=2, recovered=fresh(released=ReleaseLedger(floor=floor)))
    assert not any(one.nodes for one in rig.store.rounds.values()), "nobody has budget left"
    assert rig.get("finished")


def test_a_disk_that_fails_charges_nobody_and_the_next_try_once() -> None:
    rig = noised("a", "b")
    rig.failing = True
    rig.failing_kinds = (CommitVersion,)
    version(rig)
    assert rig.store.takings == {}
    rig.failing = False
    rig.wait(600.0)
    assert rig.store.versions[-1].version == 1
    assert rig.store.takings[NodeId("a")] == Taking(releases=1, last=0, spent=0.25)


def test_a_version_that_could_not_be_made_costs_nothing() -> None:
    """No noise of it has been said: the next one is another sum."""
    rig = noised("a", "b")
    number = max(rig.store.rounds)
    rig.commit_failure = CommitFailed(culprits=(UpdateId(f"{number}-a"),), reason=Reason.MALFORMED_FRAME, detail="x")
    version(rig)
    assert rig.store.takings == {}


@pytest.mark.parametrize("restarts", [1, 3])
def test_accounts_go_on_after_a_restart(restarts: int) -> None:
    rig = noised("a", "b")
    for turn in range(restarts):
        version(rig)
        back(rig, "a", "b")
        assert rig.store.takings[NodeId("a")].releases == turn + 1
    version(rig)
    assert [record.release for record in rig.store.released.values()] == list(range(restarts + 1))
    assert len({record.batch for record in rig.store.released.values()}) == restarts + 1
