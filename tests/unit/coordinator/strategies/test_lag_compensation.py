"""The server moves ahead by what error feedback holds back, and by no more."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from coordinator.records import Member
from coordinator.strategies.lag_compensation import LAG_VERSIONS_MAX, LagCompensation, lag_of
from coordinator.strategies.server_optimizer import State
from coordinator.strategies.strategy import StrategySettings, make_strategy
from federation.types import NodeId, UpdateId
from update_codec import CodecSpec


def compensated(versions: float = 4.0, name: str = "fedavg") -> LagCompensation:
    return LagCompensation(strategy=make_strategy(StrategySettings(name=name)), versions=versions)


def walk(strategy: LagCompensation, aggregates: list[float]) -> list[float]:
    """Where one parameter is after each version."""
    state: State = {}
    place, places = 0.0, []
    for value in aggregates:
        step, state = strategy.step(np.full(3, value, np.float32), state)
        place += float(step[0])
        places.append(place)
    return places


@given(some.lists(some.floats(-1, 1, width=32), min_size=1, max_size=30), some.floats(0.25, 8))
def test_the_model_is_ahead_by_the_lag_times_the_mean_of_the_aggregates(values: list[float], versions: float) -> None:
    mean, beta = 0.0, versions / (1 + versions)
    for value in values:
        mean = beta * mean + (1 - beta) * value
    assert walk(compensated(versions), values)[-1] == pytest.approx(sum(values) + versions * mean, abs=1e-4)


def test_steady_steps_put_it_ahead_by_the_lag() -> None:
    assert walk(compensated(4.0), [1.0] * 80)[-1] == pytest.approx(84.0, abs=1e-3)


def test_it_comes_back_when_nothing_more_arrives() -> None:
    places = walk(compensated(4.0), [1.0] * 10 + [0.0] * 80)
    assert places[-1] == pytest.approx(10.0, abs=1e-3)
    assert max(places) > 12.0


def test_weights_and_the_state_of_the_strategy_are_its_own() -> None:
    plain, moved = make_strategy(StrategySettings(name="fedavgm")), compensated(name="fedavgm")
    members = [
        Member(update=UpdateId(f"0-{name}"), node=NodeId(name), num_examples=size, staleness=0)
        for name, size in (("a", 3), ("b", 9))
    ]
    assert moved.weigh(members) == plain.weigh(members)
    state, other = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for value in (1.0, -2.0, 0.5):
        aggregate = np.full(3, value, np.float32)
        _, state = map_of(plain.step(aggregate, state))
        _, other = map_of(moved.step(aggregate, other))
    assert set(other) - set(state) == {"lag.mean"}
    for name, array in state.items():
        np.testing.assert_array_equal(other[name], array)


def map_of(made: tuple[np.ndarray, State]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return made[0], dict(made[1])


def test_a_mean_of_another_model_is_not_used() -> None:
    step, _ = compensated(1.0).step(np.ones(3, np.float32), {"lag.mean": np.ones(2, np.float32)})
    np.testing.assert_allclose(step, 1.5)


def test_what_is_not_finite_stays_so_and_warns_nobody() -> None:
    step, _ = compensated().step(np.array([np.inf, 3e38], np.float32), {"lag.mean": np.array([0, -3e38], np.float32)})
    assert not np.isfinite(step).any()


@pytest.mark.parametrize(
    ("codec", "versions"),
    [
        ("lossless", 0.0),
        ("balanced", 0.0),
        ("edge", 4.0),
        ("extreme", LAG_VERSIONS_MAX),
        ("deadzone(bpp=1.4,feedback=1)", 1.0),
        ("deadzone(step=2,feedback=1)", 1.0),
        ("common(bits=8,delta=0.01,feedback=1)", 1.0),
    ],
)
def test_the_lag_follows_the_rate_of_a_codec_with_feedback(codec: str, versions: float) -> None:
    assert lag_of(CodecSpec.parse(codec), CodecSpec.parse("edge")) == pytest.approx(versions)


@pytest.mark.parametrize(
    ("up", "down", "versions"),
    [("edge", "compact", 6.0), ("compact", "compact", 6.0), ("balanced", "cosine(bpp=0.3,feedback=1)", 0.25)],
)
def test_the_lag_of_versions_counts_where_they_are_turned(up: str, down: str, versions: float) -> None:
    assert lag_of(CodecSpec.parse(up), CodecSpec.parse(down)) == pytest.approx(versions)
