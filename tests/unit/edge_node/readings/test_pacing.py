"""The disk is waited for seldom, and before a broker stops sending."""

from edge_node.readings.pacing import Pace


def test_what_waits_goes_after_the_longest_wait() -> None:
    pace = Pace(flush_s=30, window=1000)
    assert pace.due_at is None
    pace.waits(10)
    pace.message(12)
    assert pace.due_at == 40
    assert not pace.is_due(39.9)
    assert pace.is_due(40)
    pace.stored(40)
    assert pace.due_at is None


def test_half_a_window_goes_at_once() -> None:
    pace = Pace(flush_s=30, window=10)
    for _ in range(4):
        pace.message(1)
    assert not pace.is_due(1)
    pace.message(1)
    assert pace.is_due(1)


def test_what_a_broker_has_sent_goes_at_once_when_it_is_away() -> None:
    pace = Pace(flush_s=30, window=1000)
    pace.message(5)
    pace.hurry()
    assert pace.is_due(5)
    pace.stored(5)
    pace.message(6)
    assert not pace.is_due(7)


def turn(pace: Pace, begin: float, count: int, gap_s: float = 0.0) -> float:
    """So many messages from then on, and the transaction that they wait for."""
    for number in range(count):
        pace.message(begin + number * gap_s)
    due = pace.due_at
    assert due is not None
    pace.stored(due)
    return due


def test_a_broker_with_a_smaller_window_is_noticed() -> None:
    """It sends 32 and waits; as soon as these are acknowledged it sends 32 more."""
    pace, now = Pace(flush_s=30, window=1000), 0.0
    for _ in range(4):
        now = turn(pace, now + 0.01, 32)
    assert pace.limit == 32
    assert turn(pace, now + 0.01, 32) < now + 1


def test_slow_sensors_are_not_taken_for_a_small_window() -> None:
    pace, now = Pace(flush_s=30, window=1000), 0.0
    for _ in range(10):
        now = turn(pace, now + 0.5, 6, gap_s=5)
    for _ in range(10):
        now = turn(pace, now + 0.5, 60, gap_s=0.5)
    assert pace.limit == 500
