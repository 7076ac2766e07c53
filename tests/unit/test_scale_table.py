"""``benchmarks.scale_table``: the page has what the constants give, and the ratios that it speaks of."""

from pathlib import Path

import pytest

from benchmarks.scale_table import BEGIN, END, Fleet, Prices, table, write_table

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "scale.md"


def test_the_page_has_what_the_constants_give() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == table()


def test_ten_times_the_nodes_take_ten_times_as_much() -> None:
    small, large = Fleet(nodes=1_000), Fleet(nodes=10_000)
    for name in ("connected", "updates_s", "coordinator_cores", "pings_s", "up_day", "down_day", "rows_year"):
        assert getattr(large, name) == pytest.approx(10 * getattr(small, name))


def test_a_fleet_that_stands_pays_for_the_day_and_one_that_checks_in_for_its_minutes() -> None:
    fleet = Fleet(nodes=10**8, prices=Prices(messages_million=(0.0, 0.0, 0.0)))
    assert fleet.hosted_month(standing=True) == pytest.approx(1_440 * fleet.hosted_month(standing=False))
    assert fleet.connected == pytest.approx(69_444, abs=1)


def test_messages_get_cheaper_by_the_billion() -> None:
    prices = Prices()
    assert prices.of_messages(1e9) == pytest.approx(1_000.0)
    assert prices.of_messages(5e9) == pytest.approx(1_000.0 + 3_200.0)
    assert prices.of_messages(6e9) == pytest.approx(1_000.0 + 3_200.0 + 700.0)


def test_the_table_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    page.write_text(f"# Scale\n{BEGIN}old\n{END}more\n", encoding="utf-8")
    for _ in range(2):
        write_table(page, "new\n")
        assert page.read_text(encoding="utf-8") == f"# Scale\n{BEGIN}new\n{END}more\n"
    page.write_text("# Nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="begin"):
        write_table(page, "new\n")
