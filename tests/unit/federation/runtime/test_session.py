"""Reconnect delays have full jitter, takeovers are told from bad links, refusals from a start in progress."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.runtime.obstacles import Outlook
from federation.runtime.session import Backoff, Refusals, SessionSettings, TakeoverDetector


class _Highest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


def _settings(*, spread_s: float = 0.5, cap_s: float = 15.0) -> SessionSettings:
    return SessionSettings(client_id="n", first_connect_spread_s=spread_s, reconnect_delay_s_max=cap_s)


def test_delays_double_from_one_second_up_to_the_cap() -> None:
    """[FED-10] Bounds of the delays."""
    backoff = Backoff(_settings(), _Highest())
    assert [backoff.next_s() for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


@given(st.integers(), st.integers(1, 40))
def test_every_delay_is_between_nothing_and_its_bound(seed: int, count: int) -> None:
    low, high = Backoff(_settings(), random.Random(seed)), Backoff(_settings(), _Highest())
    for _ in range(count):
        assert 0.0 <= low.next_s() <= high.next_s()


def test_two_nodes_do_not_come_back_at_one_instant() -> None:
    first, second = (Backoff(_settings(), random.Random(seed)) for seed in (1, 2))
    assert [first.next_s() for _ in range(5)] != [second.next_s() for _ in range(5)]


def test_an_outage_of_days_does_not_overflow() -> None:
    backoff = Backoff(_settings(cap_s=60.0), _Highest())
    assert [backoff.next_s() for _ in range(5000)][-1] == 60.0


@pytest.mark.parametrize(("lived_s", "following"), [(9.9, 4.0), (10.0, 1.0)])
def test_only_a_connection_that_was_good_lets_the_delays_begin_again(lived_s: float, following: float) -> None:
    backoff = Backoff(_settings(), _Highest())
    for _ in range(3):
        backoff.next_s()
    backoff.ended(lived_s)
    assert backoff.next_s() == following


@dataclass
class _Topic:
    """Two processes that kick each other in turn, each signing after it has looked."""

    first: TakeoverDetector
    second: TakeoverDetector
    now: float = 0.0
    standing: str = ""

    def connect(self, detector: TakeoverDetector, *, after_s: float = 1.0) -> bool:
        """Whether the process gives up; else its signature stands from now on."""
        self.now += after_s
        gives_up = bool(self.standing) and detector.seen(self.standing, self.now)
        if not gives_up:
            detector.signed(self.now)
            self.standing = detector.signature
        return gives_up

    def fight(self, rounds: int = 40, *, after_s: float = 1.0) -> list[str]:
        """Who gave up, when both have been at it for a while; one that has given up connects no more."""
        alive = [self.second, self.first]
        for turn in range(rounds):
            detector = alive[turn % 2]
            if self.connect(detector, after_s=after_s):
                alive.remove(detector)
                break
        given_up = [detector for detector in (self.first, self.second) if detector not in alive]
        return [detector.signature for detector in given_up + [last for last in alive if self.connect(last)]]


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_of_two_processes_that_begin_together_one_gives_up(first: str, second: str) -> None:
    topic = _Topic(TakeoverDetector(first), TakeoverDetector(second))
    topic.connect(topic.first)
    assert topic.fight() == ["a"]


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_the_process_that_came_first_outlasts_the_intruder(first: str, second: str) -> None:
    topic = _Topic(TakeoverDetector(first), TakeoverDetector(second))
    topic.connect(topic.first)
    topic.now = 3600.0
    assert topic.fight() == [second]


def test_takeovers_that_are_minutes_apart_are_borne() -> None:
    topic = _Topic(TakeoverDetector("a"), TakeoverDetector("b"))
    topic.connect(topic.first)
    assert topic.fight(after_s=61.0) == []


def test_a_link_that_is_cut_a_hundred_times_in_a_minute_is_not_a_takeover() -> None:
    detector = TakeoverDetector("a")
    for now in range(100):
        assert not detector.seen("a", now * 0.5)
        detector.signed(now * 0.5)


def test_what_a_former_process_has_left_is_not_a_takeover() -> None:
    detector = TakeoverDetector("new")
    for now in range(9):
        assert not detector.seen("old", float(now))
    detector.signed(9.0)
    assert not any(detector.seen("old", 10.0 + now) for now in range(9))


def test_an_intruder_that_is_started_again_and_again_does_not_wear_the_first_one_out() -> None:
    incumbent = TakeoverDetector("a")
    incumbent.signed(0.0)
    for process in range(50):
        for takeover in range(5):
            now = 3600.0 + process * 10 + takeover
            assert not incumbent.seen(f"b{process}", now)
            incumbent.signed(now)


@pytest.mark.parametrize("outlook", [Outlook.REFUSED, Outlook.UNFIT])
def test_three_refusals_in_a_row_are_no_accident(outlook: Outlook) -> None:
    refusals = Refusals()
    assert [refusals.met(outlook) for _ in range(4)] == [False, False, True, True]


def test_a_success_or_a_busy_broker_between_starts_the_count_again() -> None:
    refusals, no = Refusals(), Outlook.REFUSED
    assert not any([refusals.met(no), refusals.met(no)])
    refusals.accepted()
    assert not any([refusals.met(no), refusals.met(no), refusals.met(Outlook.AWAY), refusals.met(no)])
    assert not any(refusals.met(Outlook.AWAY) for _ in range(100))


def test_after_refusals_the_next_attempt_is_minutes_away_and_then_it_is_as_before() -> None:
    """[FED-10] Who is refused goes on trying, slowly."""
    backoff = Backoff(_settings(), random.Random(1))
    backoff.next_s()
    for _ in range(100):
        backoff.refused()
        assert 150.0 <= backoff.next_s() <= 300.0
    assert backoff.next_s() <= 15.0


def test_of_two_who_evict_each_other_the_newcomer_stops_first() -> None:
    first, second = TakeoverDetector("a"), TakeoverDetector("b")
    first.signed(0.0)
    second.signed(100.0)
    stopped = [
        name
        for turn in range(3)
        for name, one in (("first", first), ("second", second))
        if one.evicted(100.0 + turn + (name == "second") / 2)
    ]
    assert stopped == ["second"]


def test_who_stays_bears_it_twice_as_often_as_the_other_who_has_just_come() -> None:
    """Both came at once: the one that stays may hear two of the other's messages for each that the other hears."""
    stays, leaves = TakeoverDetector("a"), TakeoverDetector("b")
    for turn in range(3):
        assert not any(stays.evicted(float(turn), outlasts=True) for _ in range(2))
        assert leaves.evicted(float(turn)) is (turn == 2)
    assert stays.evicted(3.0, outlasts=True)


def test_evictions_that_are_minutes_apart_are_borne() -> None:
    detector = TakeoverDetector("a")
    assert not any(detector.evicted(200.0 * turn) for turn in range(20))
