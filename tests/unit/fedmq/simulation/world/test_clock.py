"""Virtual time: order, ties, limits, and clocks that disagree."""

from hypothesis import given
from hypothesis import strategies as some

from fedmq.simulation.world.clock import SkewedClock, World


def test_actions_run_in_the_order_of_time_and_then_of_planning() -> None:
    world, seen = World(), list[str]()
    world.at(2.0, lambda: seen.append("late"))
    world.at(1.0, lambda: seen.append("first"))
    world.at(1.0, lambda: seen.append("second"))
    assert not world.run(lambda: False, limit_s=10.0)
    assert (seen, world.now, world.steps) == (["first", "second", "late"], 2.0, 3)


def test_what_is_planned_for_the_past_happens_now() -> None:
    world, seen = World(), list[float]()
    world.at(5.0, lambda: world.at(1.0, lambda: seen.append(world.now)))
    world.run(lambda: False, limit_s=9.0)
    assert seen == [5.0]


def test_a_run_ends_when_it_is_done_or_at_its_limit() -> None:
    world = World()
    for moment in range(5):
        world.at(float(moment), lambda: None)
    assert world.run(lambda: world.steps == 2, limit_s=10.0)
    assert not world.run(lambda: False, limit_s=3.5)
    assert (world.steps, world.now) == (4, 3.0)


@given(some.floats(0.0, 1e6), some.floats(0.0, 1e6))
def test_a_timer_is_never_early_by_its_own_clock(offset: float, ahead: float) -> None:
    """A machine that is woken before its deadline would ask for the same deadline again, for ever."""
    world = World()
    clock = SkewedClock(world, offset)
    deadline = clock.now() + ahead
    world.now = clock.world_time(deadline)
    assert clock.now() >= deadline
    assert world.now <= ahead + 1e-3
