"""What may be true of a node's counts: a lie that contradicts itself costs the liar its update, and nobody else.

A node that claims a huge sum must claim rows that are as large, in its own bins; and rows cost it: no node has more of
them than the coordinator allows. What is in the bins is the node's word, as it is in any average.
"""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np

from federation.errors import TaskError
from federation.task import Parameters
from federation.tasks.statistics.exact_sums import UNIT_BITS
from federation.tasks.statistics.layout import ABOVE, BELOW, F64, I64, PASSES, Counts, Plan

__all__ = ["check_counts", "check_pieces", "next_plan", "occupied"]

PLANNED = frozenset({"statistics.pass", "statistics.noise", "statistics.bounds", "statistics.span"})
"""What only the coordinator changes."""

SEEN = 4.5
"""A bin has something in it if its count is so many standard deviations of the noise above 0: so is one empty bin in
300,000, all those of a thousand columns."""

_SLACK = 2.0**-52
"""Whole numbers above 2^53 are put into bins as the nearest float64, so sums may be so much beyond the edges."""


def check_pieces(arrays: Parameters) -> None:
    """See that what a node adds is whole pieces, and nothing to what is not counted.

    Raises:
        TaskError: It is not.
    """
    for name, array in arrays.items():
        numbers = np.asarray(array, np.float64)
        if not np.array_equal(numbers, np.rint(numbers)) or (numbers.size and np.abs(numbers).max() > 255):
            raise TaskError(f"{name} is not in whole pieces of eight bits")
        if name in PLANNED and numbers.any():
            raise TaskError(f"{name} is the coordinator's to change")


def check_counts(counts: Counts, plan: Plan, *, rows: int | None = None) -> None:
    """See that counts and sums can be those of some rows.

    Args:
        counts: Of one node, or of all together.
        plan: What they were told.
        rows: How many rows are claimed; None where nobody has said it. A node without rows says 1.

    Raises:
        TaskError: No rows have them.
    """
    if plan.noise:
        # Noise hides how many rows there are, and there are no sums: what is left to see is that there are none.
        if any(counts.sums) or any(counts.squares):
            raise TaskError("it has sums, which have no noise")
        return
    if (counts.bins < 0).any():
        raise TaskError("a count is negative")
    found = counts.bins.sum(axis=1)
    if len(found) and (found != found[0]).any():
        raise TaskError(f"its columns have {found.min()} to {found.max()} rows, and all must have the same")
    if rows is not None and len(found) and found[0] not in {rows, 0 if rows == 1 else rows}:
        raise TaskError(f"it has counted {found[0]} rows, and says that it has {rows}")
    for column in range(len(counts.bins)):
        _check_sums(counts, plan, column)


def _check_sums(counts: Counts, plan: Plan, column: int) -> None:
    lows, highs, of = _limits(counts, plan, column)
    total, squares = Fraction(counts.sums[column], 1 << UNIT_BITS), Fraction(counts.squares[column], 1 << 2 * UNIT_BITS)
    least, most = _weighed(of, lows), _weighed(of, highs)
    if not least <= total <= most:
        raise TaskError(f"the sum of column {column}, {float(total):.6g}, is not of its own bins")
    both = np.sort(np.abs(np.stack([lows, highs])), axis=0)
    nearest = np.where((lows <= 0) & (highs >= 0), 0.0, both[0])
    if not _weighed(of, nearest, 2) <= squares <= _weighed(of, both[1], 2):
        raise TaskError(f"the squares of column {column}, {float(squares):.6g}, are not of its own bins")
    if total**2 > int(of.sum()) * squares:
        raise TaskError(f"no values have the sum and the squares of column {column}")


def _limits(counts: Counts, plan: Plan, column: int) -> tuple[F64, F64, I64]:
    """Least and greatest value of each bin that has something, and what it has."""
    edges, (low, high) = plan.edges(column), plan.bounds[column].tolist()
    lows, highs = np.full(ABOVE + 1, low), np.full(ABOVE + 1, high)
    lows[: len(edges) - 1], highs[: len(edges) - 1] = edges[:-1], edges[1:]
    highs[BELOW], lows[ABOVE] = min(high, max(low, edges[0])), max(low, min(high, edges[-1]))
    of = counts.bins[column, : ABOVE + 1]
    used = np.flatnonzero(of)
    return lows[used] - np.abs(lows[used]) * _SLACK, highs[used] + np.abs(highs[used]) * _SLACK, of[used]


def _weighed(of: I64, values: F64, power: int = 1) -> Fraction:
    pairs = zip(of.tolist(), values.tolist(), strict=True)
    return sum((int(count) * Fraction(value) ** power for count, value in pairs), Fraction(0))


def next_plan(plan: Plan, counts: Counts, nodes: int = 1) -> Plan:
    """The plan of the pass after this one: bins from the first one with something in it to the last one.

    After the last pass it says where the bins were.

    Args:
        plan: Of this pass.
        counts: Of all nodes.
        nodes: How many; each has added its noise.
    """
    deviation = plan.noise * math.sqrt(nodes)
    if plan.counted == PASSES - 1:
        return replace(plan, counted=PASSES, total_noise=deviation)
    span = np.zeros_like(plan.span)
    for column, (low, high) in enumerate(plan.bounds.tolist()):
        edges = plan.edges(column)
        used = occupied(counts.bins[column, : len(edges) - 1], deviation)
        if len(used):
            first, last = max(low, edges[used[0]]), min(np.nextafter(high, np.inf), edges[used[-1] + 1])
            span[column] = first, max(first, last)
        elif plan.counted:
            span[column] = plan.span[column]
    return replace(plan, counted=plan.counted + 1, span=span, total_noise=deviation)


def occupied(bins: I64, deviation: float) -> I64:
    """Places of the bins that have something in them, beside the noise."""
    found = np.flatnonzero(bins > SEEN * deviation)
    # Where noise hides all of them, the largest one is the best guess.
    return found if len(found) or not deviation else np.array([int(bins.argmax())])
