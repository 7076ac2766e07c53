"""Selectors: pure, fair, and by name."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, strategies

from coordinator.engine.settings import EngineSettings, sized
from coordinator.strategies.selection import (
    SELECTORS,
    CapableSelector,
    FairSelector,
    Informed,
    NodeRecord,
    Pool,
    ReliableSelector,
    RepeatableSelector,
    Selector,
    UniformSelector,
    is_able,
    make_selector,
)
from federation.errors import ConfigError
from federation.types import NodeId

NODES = [NodeId(f"n{number}") for number in range(20)]


@given(strategies.integers(0, 25), strategies.integers(0, 20), strategies.integers())
def test_a_selection_is_distinct_repeatable_and_as_large_as_it_can_be(count: int, known: int, seed: int) -> None:
    chosen = UniformSelector().select(NODES[:known], count, Random(seed).random)
    assert len(set(chosen)) == len(chosen) == min(count, known)
    assert set(chosen) <= set(NODES[:known])
    assert chosen == UniformSelector().select(NODES[:known], count, Random(seed).random)


def test_every_candidate_is_equally_likely() -> None:
    rng = Random(1)
    chosen = Counter(node for _ in range(4_000) for node in UniformSelector().select(NODES, 5, rng.random))
    assert max(abs(count - 1_000) for count in chosen.values()) < 150


def test_a_random_number_of_almost_one_stays_within_the_candidates() -> None:
    assert UniformSelector().select(NODES[:3], 3, lambda: 1.0 - 2.0**-53) == ("n2", "n0", "n1")
    assert len(set(UniformSelector().select(NODES[:3], 3, lambda: 1.0))) == 3


def test_selectors_are_made_by_name_or_path() -> None:
    assert isinstance(make_selector("uniform"), UniformSelector)
    assert isinstance(make_selector("coordinator.strategies.selection:UniformSelector"), UniformSelector)


@pytest.mark.parametrize("name", ["unifrom", "no.such.module:make", "coordinator.strategies.selection:make", ":make"])
def test_a_selector_that_does_not_exist_names_its_key(name: str) -> None:
    with pytest.raises(ConfigError, match=r"round\.selector"):
        make_selector(name)


def informed(selector: Selector, records: dict[NodeId, NodeRecord]) -> Selector:
    assert isinstance(selector, Informed)
    selector.inform(lambda node: records.get(node, NodeRecord()))
    return selector


@given(
    strategies.sampled_from(sorted(SELECTORS)),
    strategies.integers(0, 25),
    strategies.integers(0, 20),
    strategies.integers(),
)
def test_every_selector_is_distinct_repeatable_and_as_large_as_it_can_be(
    name: str, count: int, known: int, seed: int
) -> None:
    chosen = make_selector(name).select(NODES[:known], count, Random(seed).random)
    assert len(set(chosen)) == len(chosen) == min(count, known)
    assert set(chosen) <= set(NODES[:known])
    assert chosen == make_selector(name).select(NODES[:known], count, Random(seed).random)


@pytest.mark.parametrize("name", sorted(SELECTORS.keys() - {"repeatable"}))
def test_without_records_every_selector_is_fair(name: str) -> None:
    rng = Random(1)
    chosen = Counter(node for _ in range(2_000) for node in make_selector(name).select(NODES, 5, rng.random))
    assert max(abs(count - 500) for count in chosen.values()) < 110


@given(strategies.lists(strategies.integers(1, 7), min_size=1, max_size=60), strategies.integers())
def test_with_the_fair_selector_no_node_is_asked_twice_more_than_another(counts: list[int], seed: int) -> None:
    asked: Counter[NodeId] = Counter()
    selector, rng = FairSelector(), Random(seed)
    selector.inform(lambda node: NodeRecord(asked=asked[node]))
    for count in counts:
        asked.update(selector.select(NODES[:11], count, rng.random))
        assert max(asked[node] for node in NODES[:11]) - min(asked[node] for node in NODES[:11]) <= 1


def test_the_reliable_selector_follows_the_share_of_answers() -> None:
    good, bad = NODES[0], NODES[1]
    records = {good: NodeRecord(asked=98, delivered=98), bad: NodeRecord(asked=98, delivered=24)}
    selector, rng = informed(ReliableSelector(), records), Random(3)
    chosen = Counter(selector.select([bad, good], 1, rng.random)[0] for _ in range(4_000))
    assert chosen[good] / chosen[bad] == pytest.approx(99 / 25, rel=0.2)


def test_the_capable_selector_prefers_the_fast_and_the_unknown() -> None:
    records = {node: NodeRecord(train_s=float(index + 1)) for index, node in enumerate(NODES)}
    selector, rng = informed(CapableSelector(), records), Random(3)
    chosen = Counter(node for _ in range(2_000) for node in selector.select(NODES, 5, rng.random))
    assert chosen[NODES[0]] > 3 * chosen[NODES[15]] > 0
    assert chosen[NODES[19]] == 0
    records[NODES[19]] = NodeRecord()
    assert all(NODES[19] in selector.select(NODES, 10, rng.random) for _ in range(20))


def test_repeatable_asks_the_same_in_every_run_whatever_the_order_and_the_dice() -> None:
    one, other = RepeatableSelector(), RepeatableSelector()
    first = [one.select(NODES, 5, Random(1).random) for _ in range(40)]
    assert first == [other.select(NODES[::-1], 5, Random(2).random) for _ in range(40)]
    asked = Counter(node for chosen in first for node in chosen)
    assert len(set(first)) > 30
    assert set(asked) == set(NODES)


@pytest.mark.parametrize(
    ("fraction", "over", "online", "expected"),
    [
        (0.1, 1.0, 100, (10, 10)),
        (0.3, 1.0, 10, (3, 3)),
        (1.0, 1.0, 37, (37, 37)),
        (1.0, 1.0, 5_000, (600, 600)),
        (0.1, 1.3, 100, (10, 13)),
        (0.01, 1.0, 3, (2, 2)),
    ],
)
def test_a_fraction_of_the_nodes_online_is_asked(
    fraction: float, over: float, online: int, expected: tuple[int, int]
) -> None:
    settings = EngineSettings(
        task="t", concurrency=600, buffer=600, refill=600, quorum=2, fraction=fraction, over_selection=over
    )
    made = sized(settings, online)
    assert (made.buffer, made.concurrency) == expected
    assert 2 <= made.quorum <= made.buffer <= made.concurrency
    assert made.refill <= made.concurrency


def test_the_capable_selector_counts_the_way_up_to_what_a_node_takes() -> None:
    slow = NodeRecord(train_s=1.0, payload_bytes=1_000_000, capabilities={"link_bytes_s": 1e4})
    fast = NodeRecord(train_s=30.0, payload_bytes=1_000_000, capabilities={"link_bytes_s": 1e6})
    assert (slow.expected_s, fast.expected_s, NodeRecord(train_s=2.0).expected_s) == (101.0, 31.0, 2.0)
    selector = informed(CapableSelector(), {NODES[0]: slow, NODES[1]: fast})
    assert all(selector.select(NODES[:2], 1, Random(seed).random) == (NODES[1],) for seed in range(20))


@pytest.mark.parametrize(
    ("capabilities", "able"),
    [
        (None, True),
        ({}, True),
        ({"memory_bytes": 2e8, "battery": 0.3}, True),
        ({"memory_bytes": 1e8, "battery": 0.9}, False),
        ({"memory_bytes": 4e8, "battery": 0.2}, False),
        ({"memory_bytes": 4e8, "battery": 0.2, "mains": 1.0}, True),
        ({"memory_bytes": 1e8, "mains": 1.0}, False),
    ],
)
def test_a_node_with_less_than_is_needed_is_not_able_and_silence_is_not_held_against_it(
    capabilities: dict[str, float] | None, able: bool
) -> None:
    """FED-74."""
    assert is_able(capabilities, {"memory_bytes": 2e8, "battery": 0.3}) is able


def test_a_pool_is_a_set_with_places() -> None:
    pool, model, rng = Pool(), set[NodeId](), Random(4)
    for _ in range(500):
        node = NodeId(f"n{rng.randrange(20)}")
        if rng.random() < 0.5:
            pool.add(node)
            model.add(node)
        else:
            pool.discard(node)
            model.discard(node)
        assert set(pool) == model
        assert len(pool) == len(model)
        assert [pool[place] for place in range(len(pool))] == list(pool[:])
    assert all(node in pool for node in model)
