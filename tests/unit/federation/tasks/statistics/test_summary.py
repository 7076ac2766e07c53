"""What all nodes have counted, against NumPy on all rows."""

import json
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.tasks.statistics.counting import counts_of
from federation.tasks.statistics.judging import next_plan
from federation.tasks.statistics.layout import BOUND, PASSES, Plan
from federation.tasks.statistics.summary import QUANTILES, Statistics

F64 = NDArray[np.float64]
VALUES = st.floats(-1e6, 1e6, width=32) | st.floats(49, 51) | st.floats(-1e-9, 1e-9) | st.just(np.nan)


def analyzed(parts: list[F64], bounds: F64 | None = None) -> Statistics:
    columns = parts[0].shape[1]
    plan = Plan.first(np.tile([-BOUND, BOUND], (columns, 1)) if bounds is None else bounds)
    made = {}
    for _ in range(PASSES):
        counts = [counts_of(part, plan) for part in parts]
        total = counts[0].arrays()
        for each in counts[1:]:
            total = {name: array + each.arrays()[name] for name, array in total.items()}
        plan = next_plan(plan, type(counts[0]).of(total))
        made = plan.arrays() | total
    return Statistics.of(made, [f"c{place}" for place in range(columns)])


@given(arrays(np.float64, st.tuples(st.integers(1, 60), st.just(2)), elements=VALUES), st.integers(0, 60))
@settings(max_examples=150)
def test_figures_are_those_of_the_pooled_rows(rows: F64, cut: int) -> None:
    found = analyzed([rows[:cut], rows[cut:]])
    assert found.rows == len(rows)
    for column, values in zip(found.columns, rows.T, strict=True):
        present = values[np.isfinite(values)].tolist()
        pooled = np.array([float(Fraction(round(Fraction(each) * 2**64), 2**64)) for each in present])
        assert (column.count, column.missing) == (len(pooled), len(values) - len(pooled))
        if not len(pooled):
            assert np.isnan([column.mean, column.variance, column.minimum, column.quantile(0.5)]).all()
            continue
        exact = [Fraction(float(each)) for each in pooled]
        mean = sum(exact) / len(exact)
        assert column.mean == float(mean)
        assert column.variance == float(sum((each - mean) ** 2 for each in exact) / len(exact))
        assert column.minimum <= pooled.min() <= column.minimum + column.bin_width
        assert column.maximum - column.bin_width <= pooled.max() <= column.maximum
        for share in QUANTILES:
            inside = np.quantile(pooled, share, method="inverted_cdf")
            assert abs(column.quantile(share) - inside) <= column.bin_width


def test_a_normal_column_has_many_bins_to_draw() -> None:
    values = np.random.default_rng(1).normal(50, 0.3, (5000, 1))
    (column,) = analyzed([values[:1000], values[1000:]]).columns
    assert np.count_nonzero(column.counts) > 150
    assert column.counts.sum() == 5000
    assert (column.below, column.above) == (0, 0)


def test_a_constant_column_is_exact_and_its_scale_is_one() -> None:
    found = analyzed([np.full((5, 1), 0.1), np.full((3, 1), 0.1)])
    (column,) = found.columns
    mean = round(Fraction(0.1) * 2**64) / 2**64
    assert (column.mean, column.variance, column.minimum, column.maximum) == (mean, 0.0, mean, mean)
    assert found.scaler().columns[0].std == 1.0


def test_a_column_that_nobody_has_is_said_and_has_no_scale() -> None:
    found = analyzed([np.array([[1.0, np.nan], [2.0, np.inf]])])
    assert (found.columns[1].count, found.columns[1].missing) == (0, 2)
    with pytest.raises(TaskError, match="nobody has a value of c1"):
        found.scaler()


def test_quantiles_rise() -> None:
    values = np.random.default_rng(2).lognormal(0, 3, (2000, 1))
    (column,) = analyzed([values]).columns
    found = [column.quantile(share) for share in np.linspace(0, 1, 101)]
    assert all(low <= high for low, high in pairwise(found))
    assert column.minimum <= found[0] <= found[-1] <= column.maximum


def test_what_has_come_since_the_bins_were_set_is_told() -> None:
    plan = Plan(counted=2, bounds=np.array([[-10.0, 10.0]]), span=np.array([[0.0, 1.0]]))
    counts = counts_of(np.array([[-1.0], [0.5], [5.0], [6.0]]), plan)
    found = Statistics.of(next_plan(plan, counts).arrays() | counts.arrays(), ["x"])
    (column,) = found.columns
    assert (column.below, column.above, column.minimum, column.maximum) == (1, 2, -10.0, 10.0)
    assert (column.quantile(0.1), column.quantile(0.9)) == (0.0, 1.0)
    assert (column.count, column.mean) == (4, 10.5 / 4)


def test_bounds_are_where_values_can_end() -> None:
    found = analyzed([np.array([[-9999.0], [20.0], [125.0]])], np.array([[-40.0, 125.0]]))
    (column,) = found.columns
    assert (column.outside, column.count) == (1, 2)
    assert (column.mean, column.maximum) == (72.5, 125.0)
    assert 19.5 <= column.minimum <= 20.0


def test_it_is_json() -> None:
    said = json.loads(json.dumps(analyzed([np.array([[1.0, np.nan], [3.0, np.nan]])]).to_dict(), allow_nan=False))
    assert (said["rows"], said["columns"][0]["mean"], said["columns"][1]["mean"]) == (2, 2.0, None)


def test_a_run_that_is_not_over_is_refused() -> None:
    plan = Plan.first(np.array([[-1.0, 1.0]]))
    counts = counts_of(np.zeros((1, 1)), plan)
    with pytest.raises(TaskError, match="1 of 3 passes"):
        Statistics.of(next_plan(plan, counts).arrays() | counts.arrays(), ["x"])


def test_other_names_than_columns_are_refused() -> None:
    plan = replace_counted(Plan.first(np.array([[-1.0, 1.0]])))
    counts = counts_of(np.zeros((1, 1)), plan)
    with pytest.raises(TaskError, match="2 names"):
        Statistics.of(plan.arrays() | counts.arrays(), ["x", "y"])


def replace_counted(plan: Plan) -> Plan:
    return Plan(counted=PASSES, bounds=plan.bounds, span=plan.span)
