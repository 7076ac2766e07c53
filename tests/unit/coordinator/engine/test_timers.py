"""Keyed timers, and the clock that stands still without a broker."""

from random import Random

from hypothesis import given, strategies

from coordinator.engine.timers import EXCUSE_PAUSE_S, LATE_S, MAIL_S, ConnectedClock, Timers


def test_the_last_time_that_was_set_counts() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 5.0)
    timers.set("a", 9.0)
    timers.set("b", 7.0)
    assert timers.pop_due(8.0) == ["b"]
    assert timers.next() == 9.0
    assert "a" in timers
    timers.cancel("a")
    timers.cancel("a")
    assert timers.next() is None
    assert timers.pop_due(99.0) == []


def test_keys_that_are_due_together_come_in_the_order_in_which_they_were_set() -> None:
    timers: Timers[str] = Timers()
    for key in "cab":
        timers.set(key, 1.0)
    assert timers.pop_due(1.0) == ["c", "a", "b"]


def test_setting_a_key_again_and_again_costs_no_memory() -> None:
    timers: Timers[int] = Timers()
    for step in range(10_000):
        timers.set(step % 3, float(step))
    assert len(timers) == 3
    assert len(timers._heap) < 100
    assert timers.pop_due(1e9) == [0, 1, 2] or timers.next() is None


def test_timers_agree_with_a_plain_dictionary() -> None:
    rng, timers, plain = Random(2), Timers[int](), dict[int, float]()
    for step in range(3_000):
        key = rng.randrange(30)
        if rng.random() < 0.6:
            plain[key] = step + rng.random() * 50
            timers.set(key, plain[key])
        elif rng.random() < 0.5:
            plain.pop(key, None)
            timers.cancel(key)
        else:
            due = sorted((when, number) for number, when in plain.items() if when <= step)
            assert timers.pop_due(step) == [number for _, number in due]
            for _, number in due:
                del plain[number]
        assert timers.next() == min(plain.values(), default=None)


def test_the_connected_clock_stands_still_while_the_broker_is_away() -> None:
    clock = ConnectedClock()
    assert clock.read(50.0) == 0.0
    assert clock.when(1.0) is None
    clock.stop(55.0)
    clock.start(60.0)
    clock.start(65.0)
    assert clock.running
    assert clock.read(70.0) == 10.0
    assert clock.when(15.0) == 75.0
    assert clock.when(None) is None
    clock.stop(70.0)
    clock.stop(80.0)
    assert not clock.running
    assert clock.read(1_000.0) == 10.0
    clock.start(1_000.0)
    assert clock.when(15.0) == 1_005.0


def test_time_in_which_the_process_stood_still_does_not_count() -> None:
    clock = ConnectedClock()
    clock.excuse(50.0, 10.0)
    clock.start(60.0)
    assert clock.read(60.0) == 0.0
    clock.excuse(100.0, LATE_S)
    assert clock.read(100.0) == 40.0
    clock.excuse(100.0, 30.0)
    assert clock.read(100.0) == 10.0 - MAIL_S
    clock.excuse(100.0 + EXCUSE_PAUSE_S - 1.0, 5.0)
    assert clock.read(100.0 + EXCUSE_PAUSE_S - 1.0) == 19.0 - MAIL_S


@given(
    strategies.floats(0.0, 1e7), strategies.floats(0.0, 1e6), strategies.floats(0.0, 1e9), strategies.floats(0.0, 1e5)
)
def test_a_timer_has_passed_when_its_time_comes(first: float, run: float, gap: float, wait: float) -> None:
    """Rounding must not wake the machine just before its timer is due: it would wake for ever."""
    clock = ConnectedClock()
    clock.start(first)
    clock.stop(first + run)
    clock.start(first + run + gap)
    due = clock.read(first + run + gap) + wait
    when = clock.when(due)
    assert when is not None
    assert clock.read(when) >= due
    assert abs(when - (first + run + gap + wait)) < 1e-3
