"""Weights and divisors are those of the papers, and every name that the configuration may give works."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from coordinator.records import Member
from coordinator.strategies.strategy import (
    IMPORTANCE,
    STALENESS,
    STRATEGIES,
    WEIGHT_MAX,
    Averaging,
    Staleness,
    StrategySettings,
    make_strategy,
)
from federation.errors import ConfigError
from federation.types import NodeId, UpdateId


def member(num_examples: int, staleness: int = 0, name: str = "n") -> Member:
    return Member(update=UpdateId(f"0-{name}"), node=NodeId(name), num_examples=num_examples, staleness=staleness)


def shares(strategy: Averaging, *members: Member) -> list[float]:
    """What each update's share in the aggregate is."""
    weights = strategy.weigh(members)
    divisor = sum(weights.values) if weights.divisor is None else weights.divisor
    return [weight / divisor for weight in weights.values]


def named(name: str, **options: object) -> Averaging:
    strategy = make_strategy(StrategySettings(name=name, **options))  # type: ignore[arg-type]
    assert isinstance(strategy, Averaging)
    return strategy


def test_fedavg_shares_are_proportional_to_examples_and_ignore_staleness() -> None:
    assert shares(named("fedavg"), member(30, 5), member(10, 0)) == pytest.approx([0.75, 0.25])


def test_fedbuff_divides_by_the_count_and_shrinks_stale_updates() -> None:
    assert shares(named("fedbuff"), member(10, 0), member(10, 3)) == pytest.approx([0.5, 0.25])


def test_fedbuff_by_weight_keeps_the_whole_step() -> None:
    assert shares(named("fedbuff", normalise="weight"), member(10, 0), member(10, 3)) == pytest.approx([2 / 3, 1 / 3])


def test_fedasync_scales_one_update_by_its_staleness_and_never_compounds_its_rate() -> None:
    strategy = named("fedasync", server_learning_rate=0.6)
    assert shares(strategy, member(123, 3)) == pytest.approx([0.5])
    step, _ = strategy.step(np.ones(2, np.float32), {})
    np.testing.assert_allclose(step, 0.6)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("constant", [1, 1, 1]), ("polynomial", [1, 1 / math.sqrt(2), 1 / 3]), ("hinge", [1, 1, 1 / 3])],
)
def test_staleness_weights_are_those_of_the_paper(kind: str, expected: list[float]) -> None:
    staleness = Staleness(kind=kind, a=0.5, b=4.0)
    assert [staleness.weight(tau) for tau in (0, 1, 8)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "ratio"), [("examples", 100.0), ("uniform", 1.0), ("sqrt", 10.0), ("log", math.log1p(100) / math.log1p(1))]
)
def test_importance_is_a_function_of_the_examples(name: str, ratio: float) -> None:
    large, small = shares(named("fedavg", importance=name, importance_max=0.0), member(100), member(1))
    assert large / small == pytest.approx(ratio)


def test_one_large_node_does_not_own_the_model_when_importance_is_bounded() -> None:
    free = shares(named("fedavg", importance_max=0.0), member(10_000), member(10), member(10))
    bound = shares(named("fedavg", importance_max=2.0), member(10_000), member(10), member(10))
    assert free[0] > bound[0]


@pytest.mark.parametrize("others", [1, 2, 9])
def test_by_default_a_claim_counts_ten_times_the_median_at_most(others: int) -> None:
    """Of two the smaller claim is the median: a claim must not make its own bound."""
    liar, *honest = shares(named("fedavg"), member(1_000_000), *[member(600)] * others)
    assert liar / honest[0] == pytest.approx(10.0)


@given(some.lists(some.tuples(some.integers(1, 10**9), some.integers(0, 50)), min_size=1, max_size=8))
def test_weights_stay_within_the_accumulators_headroom(chosen: list[tuple[int, int]]) -> None:
    weights = named("fedbuff").weigh([member(*one) for one in chosen])
    assert all(2.0**-20 <= weight <= WEIGHT_MAX for weight in weights.values)
    assert weights.divisor is not None
    assert weights.divisor > 0


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_named_strategy_weighs_and_steps(name: str) -> None:
    strategy = named(name)
    assert shares(strategy, member(5)) == pytest.approx([1.0])
    step, _ = strategy.step(np.full(3, 0.5, np.float32), {})
    assert step.dtype == np.float32
    assert np.isfinite(step).all()


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("strategy.name", {"name": "fedfoo"}),
        ("strategy.importance", {"importance": "x"}),
        ("strategy.staleness", {"staleness": "x"}),
        ("strategy.normalise", {"normalise": "x"}),
        ("strategy.server", {"server": "x"}),
        ("strategy.name", {"name": "no.such.module:factory"}),
        ("strategy.name", {"name": "coordinator.strategies.strategy:nothing"}),
    ],
)
def test_an_unknown_name_is_a_config_error_that_names_its_key(key: str, options: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_strategy(StrategySettings(**options))  # type: ignore[arg-type]
    assert caught.value.key == key


def own_strategy(settings: StrategySettings) -> Averaging:
    return Averaging(importance="uniform", importance_max=settings.importance_max)


def test_a_users_own_factory_is_found_by_its_path() -> None:
    strategy = make_strategy(StrategySettings(name=f"{__name__}:own_strategy", importance_max=3.0))
    assert strategy == Averaging(importance="uniform", importance_max=3.0)


def test_the_tables_have_the_names_that_the_documentation_promises() -> None:
    assert set(IMPORTANCE) == {"examples", "uniform", "sqrt", "log"}
    assert set(STALENESS) == {"constant", "polynomial", "hinge"}
