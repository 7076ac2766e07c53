"""A bad network is bad in the way that it was told to, and the same way each time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.testing import FakeClock, FaultSettings, FaultyNetwork, Partition


def _fates(settings: FaultSettings, *, seed: int = 1, count: int = 2_000) -> list[list[float]]:
    network = FaultyNetwork(settings, seed)
    return [network.fate("a", "b", number * 0.01) for number in range(count)]


def test_the_same_seed_gives_the_same_fates_and_another_seed_others() -> None:
    settings = FaultSettings(drop=0.2, duplicate=0.2, reorder=0.2)
    assert _fates(settings, seed=5) == _fates(settings, seed=5)
    assert _fates(settings, seed=5) != _fates(settings, seed=6)


def test_without_faults_everything_arrives_once_within_the_delay() -> None:
    assert all(
        len(fate) == 1 and 0.5 <= fate[0] <= 0.75 for fate in _fates(FaultSettings(delay_s=(0.5, 0.7)), count=200)
    )


@pytest.mark.parametrize(("copies", "settings"), [(0, FaultSettings(drop=0.25)), (2, FaultSettings(duplicate=0.25))])
def test_probabilities_are_per_message(copies: int, settings: FaultSettings) -> None:
    hit = sum(len(fate) == copies for fate in _fates(settings))
    assert 400 <= hit <= 600


@given(st.integers(0, 1_000), st.lists(st.floats(0.0, 0.05), max_size=60), st.floats(0.0, 1e6))
def test_without_reorder_nothing_overtakes(seed: int, gaps: list[float], start: float) -> None:
    network, clock, latest = FaultyNetwork(FaultSettings(delay_s=(0.0, 1.0)), seed), FakeClock(start), 0.0
    for gap in gaps:
        now = clock.advance(gap)
        arrival = now + network.fate("a", "b", now)[0]
        assert arrival >= latest
        latest = arrival


def test_with_reorder_something_overtakes() -> None:
    arrivals = [number * 0.01 + fate[0] for number, fate in enumerate(_fates(FaultSettings(reorder=0.3), count=100))]
    assert arrivals != sorted(arrivals)


def test_a_partition_cuts_one_way_for_its_time() -> None:
    partition = Partition(sources=frozenset({"a"}), destinations=frozenset({"b"}), start_s=1.0, end_s=2.0)
    network = FaultyNetwork(FaultSettings(partitions=(partition,)), 1)
    passed = {
        (source, destination, now): bool(network.fate(source, destination, now))
        for source, destination in (("a", "b"), ("b", "a"), ("a", "c"))
        for now in (0.9, 1.0, 1.9, 2.0)
    }
    assert [key for key, arrives in passed.items() if not arrives] == [("a", "b", 1.0), ("a", "b", 1.9)]


def test_a_partition_without_names_cuts_everybody() -> None:
    assert Partition(start_s=0.0, end_s=1.0).cuts("x", "y", 0.5)


@pytest.mark.parametrize("wrong", [{"drop": 1.5}, {"duplicate": -0.1}, {"delay_s": (2.0, 1.0)}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="is a"):
        FaultSettings(**wrong)  # type: ignore[arg-type]


def test_time_does_not_go_back() -> None:
    clock = FakeClock(5.0)
    assert clock.advance(1.5) == clock.now() == 6.5
    with pytest.raises(ValueError, match="back"):
        clock.advance(-0.1)
