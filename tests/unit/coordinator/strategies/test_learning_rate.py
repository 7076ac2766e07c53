"""The learning rate follows its equation by the version, and only by that."""

import pytest

from coordinator.strategies.learning_rate import RateSchedule, ScheduleKind
from federation.errors import ConfigError


def rates(schedule: RateSchedule, versions: int = 10) -> list[float]:
    return [round(schedule.rate(0.4, version, versions), 6) for version in range(versions)]


def test_without_a_schedule_it_stays() -> None:
    assert rates(RateSchedule()) == [0.4] * 10


def test_it_rises_while_it_warms_up() -> None:
    assert rates(RateSchedule(warmup=4)) == [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]


def test_it_falls_in_steps_after_the_warm_up() -> None:
    schedule = RateSchedule(kind=ScheduleKind.STEP, warmup=2, every=3, factor=0.5)
    assert rates(schedule) == [0.2, 0.4, 0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.1, 0.1]


def test_a_cosine_ends_with_the_run_at_its_share_and_never_at_nothing() -> None:
    schedule = RateSchedule(kind=ScheduleKind.COSINE, warmup=2, factor=0.25)
    found = rates(schedule)
    assert found[:3] == [0.2, 0.4, 0.4]
    assert found[6] == pytest.approx(0.4 * (0.25 + 0.75 / 2))
    assert found == sorted(found[:2]) + sorted(found[2:], reverse=True)
    assert schedule.rate(0.4, 10, 10) == schedule.rate(0.4, 99, 10) == pytest.approx(0.1)
    assert schedule.rate(0.4, 2, 2) == 0.4


def test_a_step_without_a_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="decay_every"):
        RateSchedule(kind=ScheduleKind.STEP)
