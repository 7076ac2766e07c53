"""Fault plans: presets, the command line's grammar, and dice that come from the seed alone."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as some

from federation.errors import ConfigError
from fedmq.simulation.world.faults import PRESETS, Dice, FaultPlan, parse_faults


def test_a_preset_is_changed_by_what_follows_it() -> None:
    plan = parse_faults("mild, drop=0.05,delay=0.1..0.3")
    assert (plan.drop, plan.delay_s) == (0.05, (0.1, 0.3))
    assert plan.duplicate == PRESETS["mild"].duplicate


def test_pairs_alone_begin_from_nothing() -> None:
    assert parse_faults("node_crash=0.01,delay=0.2") == FaultPlan(node_crash=0.01, delay_s=(0.2, 0.2))
    assert parse_faults("none") == FaultPlan()
    assert parse_faults("") == FaultPlan()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wild=1", "key=value with a key of"),
        ("harmless", "key=value"),
        ("drop=1.5", "is a probability"),
        ("drop=-0.1", "at least 0"),
        ("partition=inf", "finite"),
        ("partition=nan", "at least 0"),
        ("delay=0.3..0.1", "a least and a greatest time"),
        ("drop=much", "needs a number"),
    ],
)
def test_nonsense_is_a_configuration_error(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_faults(text)


@given(some.text(max_size=40))
def test_any_text_is_a_plan_or_a_configuration_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_faults(text), FaultPlan)


def test_dice_follow_the_seed_and_stop_when_healed() -> None:
    plan = FaultPlan(drop=0.5)
    one, other = Dice(plan, "a"), Dice(plan, "a")
    assert [one.happens(plan.drop) for _ in range(50)] == [other.happens(plan.drop) for _ in range(50)]
    assert Dice(plan, "b").rng.random() != Dice(plan, "a").rng.random()
    one.heal()
    assert not any(one.happens(1.0) for _ in range(10))
    assert 0.005 <= one.delay() <= 0.2


def test_a_rate_of_nothing_never_strikes() -> None:
    dice = Dice(FaultPlan(), "a")
    assert dice.until_next(0.0) is None
    waits = [dice.until_next(60.0) or 0.0 for _ in range(2000)]
    assert 50.0 < sum(waits) / len(waits) < 70.0
