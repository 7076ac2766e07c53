"""Numbers for people have one form each, wherever they are shown."""

import pytest

from federation.units import beside_fp32, counted, human_bytes, human_metric, human_share, human_traffic, tally


@pytest.mark.parametrize(("count", "said"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5120.0 GiB")])
def test_bytes_are_counted_in_powers_of_1024(count: int, said: str) -> None:
    assert human_bytes(count) == said


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("accuracy", 0.975, "97.50%"),
        ("nodes_accuracy", 1.0, "100.00%"),
        ("accuracy", 12.0, "12"),
        ("loss", 0.12345, "0.1235"),
    ],
)
def test_an_accuracy_is_a_percentage_where_it_can_be_one(name: str, value: float, said: str) -> None:
    assert human_metric(name, value) == said


@pytest.mark.parametrize(("count", "said"), [(0, "0 nodes"), (1, "1 node"), (1024, "1,024 nodes")])
def test_one_of_a_thing_has_no_plural(count: int, said: str) -> None:
    assert counted(count, "node") == said


@pytest.mark.parametrize(("share", "said"), [(1.0, "100%"), (0.25, "25%"), (0.001, "0.1%"), (1 / 3, "33.33%")])
def test_a_small_share_is_not_nothing(share: float, said: str) -> None:
    assert human_share(share) == said


def test_bytes_that_nobody_has_counted_are_no_number() -> None:
    assert (human_traffic(0), human_traffic(1), human_traffic(2048)) == ("-", "1 B", "2.0 KiB")


def test_who_sent_more_than_fp32_is_told_so() -> None:
    """The report said `1/0.282 of fp32`."""
    assert beside_fp32(10, 401) == "1/40.1 of fp32"
    assert beside_fp32(100, 100) == "1/1.0 of fp32"
    assert beside_fp32(355, 100) == "3.5 times fp32"


def test_a_count_stands_in_front_of_what_ends_with_a_number() -> None:
    """A device's own words may end with a number: `… from 0 to 1 1`."""
    counts = {"too_late": 1200, "battery low": 2, "no memory at 0 to 1": 3}
    assert tally(counts) == "too late 1,200, battery low 2, 3 x no memory at 0 to 1"
