"""How old something is does not depend on a clock that somebody has set."""

import pytest

from federation.runtime import clock
from federation.runtime.clock import SteadyClock, moved_s, stamp
from tests.rigs.clocks import Clocks, in_our_hands


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = in_our_hands(monkeypatch)
    monkeypatch.setattr(clock, "_boot", lambda: "this one")
    return made


@pytest.mark.parametrize("by_s", [86_400.0, -86_400.0, 1.7e9])
def test_a_clock_that_is_moved_moves_what_was_said_with_it(times: Clocks, by_s: float) -> None:
    steady, said = SteadyClock(), stamp()
    began_s = times.wall
    times.pass_by(10.0, by_s)
    assert steady.now() == began_s + 10.0
    assert (steady.moved_s(), moved_s(said)) == (by_s, by_s)
    assert times.wall - (began_s + moved_s(said)) == 10.0


def test_a_clock_that_is_only_slewed_was_not_moved(times: Clocks) -> None:
    steady, said = SteadyClock(), stamp()
    times.wall += 1.0
    assert (steady.moved_s(), moved_s(said)) == (0.0, 0.0)


def test_of_another_start_of_the_machine_nothing_is_known(times: Clocks) -> None:
    said = stamp()
    times.wall += 500.0
    for other in (said | {"boot": "another"}, said | {"boot": ""}, said | {"wall": "x"}, {"boot": "this one"}, None, 7):
        assert moved_s(other) == 0.0
    assert moved_s(said | {"passed": float("nan")}) == 0.0


def test_the_system_counts_what_has_passed() -> None:
    first = clock.passed_s()
    assert 0.0 < first <= clock.passed_s()
    assert moved_s(stamp()) == 0.0
