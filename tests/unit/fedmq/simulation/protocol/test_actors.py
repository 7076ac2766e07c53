"""A process in virtual time that is stopped and goes on: what happens meanwhile waits, in its order."""

from fedmq.simulation.protocol.federation import Simulation, quiet_log
from tests.rigs.small_federation import small_scenario


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
