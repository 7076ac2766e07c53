"""Rows that are kept as JSON are the rows that were put in, whatever is replaced, added or sorted."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.run_view import Rows

COLUMNS = {"count": "q", "mean": "d"}
ROW = st.fixed_dictionaries({"count": st.integers(0, 1 << 70), "mean": st.floats(allow_nan=False), "name": st.text()})


def rows_of(rows: list[dict[str, object]]) -> Rows:
    return Rows(COLUMNS).replaced(iter(enumerate(rows)), 0)


@given(rows=st.lists(ROW, max_size=8), kept=st.integers(0, 8), more=st.lists(ROW, max_size=5))
def test_rows_come_back_as_they_were(rows: list[dict[str, object]], kept: int, more: list[dict[str, object]]) -> None:
    kept = min(kept, len(rows))
    before = rows_of(rows)
    after = before.replaced(iter(enumerate(more, kept)), kept)
    assert list(before) == rows, "a reader of the former ones is not disturbed"
    assert list(after) == rows[:kept] + more
    assert list(after.column("mean")) == [row["mean"] for row in rows[:kept] + more]
    assert after[:] == list(after)
    for place, row in enumerate(rows[:kept] + more):
        assert json.loads(after.line(place))["name"] == row["name"]


def test_a_changed_row_takes_the_place_of_its_former_self() -> None:
    before = rows_of([{"count": 1, "mean": 1.0}, {"count": 2, "mean": math.inf}])
    after = before.replaced(iter([(1, {"count": 3, "mean": 0.5})]), 2)
    assert list(after) == [{"count": 1, "mean": 1.0}, {"count": 3, "mean": 0.5}]
    assert list(after.column("count")) == [1, 3]
    assert json.loads(before.line(1)) == {"count": 2, "mean": None}, "no JSON has infinity"
    assert before[1]["mean"] == math.inf
    with pytest.raises(IndexError):
        before[2]


def test_rows_are_laid_out_anew() -> None:
    before = rows_of([{"count": 1, "mean": math.inf}, {"count": 3, "mean": 0.0}])
    after = before.sorted_by([0, None, 1], lambda place: {"count": 10 * place, "mean": 9.0})
    assert [row["count"] for row in after] == list(after.column("count")) == [1, 10, 3]
    assert after[0]["mean"] == math.inf
