"""A process in virtual time: what happens while it is stopped or busy waits, in its order, and is settled together."""

from collections import Counter
from dataclasses import replace

import pytest

from coordinator.runtime.group_commit import BATCH_MAX, GroupCommit
from federation.runtime.driver import Driver
from fedmq.simulation.protocol.actors import POWER_CUT
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from tests.rigs.small_federation import CRASHES, small_scenario


def running(seconds: float) -> Simulation:
    with quiet_log():
        simulation = Simulation(small_scenario(), tail=100_000)
        world = simulation.world
        world.at(0.0, simulation.coordinator.start)
        for node in simulation.nodes:
            world.at(0.1, node.start)
        world.run(lambda: False, limit_s=seconds)
    return simulation


def go_on(simulation: Simulation, until_s: float) -> None:
    with quiet_log():
        simulation.world.run(lambda: False, limit_s=until_s)


def test_a_stopped_process_does_nothing_and_then_everything() -> None:
    simulation = running(5.0)
    coordinator, before = simulation.coordinator, simulation.checker.head
    assert before > 0
    assert coordinator.freeze(100.0)
    go_on(simulation, 100.0)
    assert simulation.checker.head == before
    go_on(simulation, 200.0)
    assert simulation.checker.head > before
    assert simulation.surroundings.violations == []
    text = "\n".join(simulation.transcript.tail())
    assert "coordinator * stopped for 100.0 s" in text
    assert "coordinator * goes on" in text


def test_nobody_is_stopped_twice_or_without_a_process() -> None:
    simulation = running(5.0)
    node = simulation.nodes[0]
    assert node.freeze(10.0)
    assert not node.freeze(10.0)
    node.kill(None)
    assert not node.freeze(10.0)
    go_on(simulation, 50.0)
    assert simulation.surroundings.violations == []


def test_a_process_that_is_killed_while_it_is_stopped_starts_anew() -> None:
    simulation = running(5.0)
    node = simulation.nodes[0]
    node.freeze(50.0)
    node.kill(1.0)
    go_on(simulation, 10.0)
    assert node.alive
    assert node.freeze(20.0)
    node.thaw()
    node.thaw()
    go_on(simulation, 100.0)
    assert simulation.surroundings.violations == []


def batches(monkeypatch: pytest.MonkeyPatch, *, busy_s: float) -> Counter[int]:
    """How many messages a coordinator has settled together, and how often."""
    sizes: Counter[int] = Counter()
    settled: list[int] = []
    take, settle = Driver._take, GroupCommit.settle

    def taken(driver: Driver[object, object]) -> object:
        items = take(driver)
        if driver._batch_max == BATCH_MAX:
            sizes[len(items)] += 1
        return items

    def counted(commits: GroupCommit) -> None:
        settled.append(1)
        settle(commits)

    with monkeypatch.context() as patch, quiet_log():
        patch.setattr(Driver, "_take", taken)
        patch.setattr(GroupCommit, "settle", counted)
        simulation = Simulation(small_scenario(busy_s=busy_s))
        assert simulation.run().violations == ()
    simulation.close()
    assert len(settled) == sizes.total() + 1, "once at the start, then once for each batch"
    return sizes


def test_what_arrives_while_a_coordinator_is_busy_is_settled_together(monkeypatch: pytest.MonkeyPatch) -> None:
    idle, busy = (batches(monkeypatch, busy_s=busy_s) for busy_s in (0.0, 2.0))
    assert set(idle) <= {0, 1}
    assert max(busy) > 2
    assert max(busy) <= BATCH_MAX


def test_no_more_is_taken_together_than_in_production() -> None:
    """After a stop more than one batch may have arrived."""
    simulation = running(5.0)
    coordinator = simulation.coordinator
    assert coordinator.freeze(100.0)
    receive = coordinator.receiver()
    for _ in range(BATCH_MAX + 1):
        receive(None, None)
    assert coordinator._arrived.qsize() >= BATCH_MAX + 1
    coordinator.thaw()
    go_on(simulation, 6.0)
    assert coordinator._arrived.qsize() == 0
    assert simulation.surroundings.violations == []


def test_a_part_of_the_crashes_of_both_roles_are_power_cuts() -> None:
    outcomes = []
    for seed in range(6):
        with quiet_log():
            simulation = Simulation(small_scenario(seed, faults=replace(CRASHES, node_crash=0.1)))
            outcomes.append(simulation.run())
        simulation.close()
        assert outcomes[-1].violations == ()
    for role in ("coordinator", "node"):
        crashes, cuts = (sum(getattr(one, f"{role}_{what}") for one in outcomes) for what in ("crashes", "power_cuts"))
        assert 0 < cuts < crashes
    assert cuts == pytest.approx(POWER_CUT * crashes, rel=0.5)
