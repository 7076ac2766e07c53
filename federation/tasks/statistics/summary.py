"""What the counts of all nodes say of each column: exact moments, a histogram, and quantiles within one of its bins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.task import Parameters
from federation.tasks.statistics.exact_sums import UNIT_BITS
from federation.tasks.statistics.judging import SEEN, occupied
from federation.tasks.statistics.layout import ABOVE, BELOW, MISSING, OUTSIDE, PASSES, Counts, Plan
from federation.tasks.statistics.scaler import ScaledColumn, Scaler

__all__ = ["QUANTILES", "ColumnStatistics", "Statistics"]

QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ColumnStatistics:
    """One column over all rows of all nodes.

    Attributes:
        name: Its name.
        count: Values that count.
        missing: Rows without a finite number.
        outside: Values out of the bounds, which count nowhere else.
        mean: Correctly rounded from the exact sum; NaN without values.
        variance: Of the population, the same; never negative.
        minimum: No value is below, and the least one is less than a bin above; exact where all values are the same.
        maximum: No value is above, and the greatest one is less than a bin below.
        edges: Of the bins, float64, shape (bins + 1,).
        counts: In each bin, int64, shape (bins,).
        below: Values below the bins: the data has changed between two passes.
        above: Values above them.
        noise: Standard deviation of the noise on each count; mean, variance and range are then of the bins.
    """

    name: str
    count: int
    missing: int
    outside: int
    mean: float
    variance: float
    minimum: float
    maximum: float
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    below: int
    above: int
    noise: float = 0.0

    @property
    def std(self) -> float:
        """Standard deviation of the population."""
        return math.sqrt(self.variance)

    @property
    def bin_width(self) -> float:
        """Of the histogram: what quantiles and range are known to."""
        return float(self.edges[1] - self.edges[0])

    def quantile(self, share: float) -> float:
        """The value below which this share of the values lies, within one bin; NaN without values.

        Args:
            share: 0 to 1.
        """
        if not self.count:
            return math.nan
        wanted = share * self.count - self.below
        if wanted <= 0 and self.below:
            return float(self.edges[0])
        sums = np.maximum.accumulate(np.cumsum(self.counts))  # noise may take away
        place = int(np.searchsorted(sums, wanted, side="left")) if wanted > 0 else int(np.flatnonzero(sums > 0)[0])
        if place >= len(sums):
            return float(self.edges[-1])
        low, high = float(self.edges[place]), float(self.edges[place + 1])
        before = int(sums[place - 1]) if place else 0
        of = int(sums[place]) - before
        into = (wanted - before) / of if of else 0.0
        return min(self.maximum, max(self.minimum, low + (high - low) * min(1.0, max(0.0, into))))

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is not known is null."""
        figures = {"mean": self.mean, "variance": self.variance, "std": self.std}
        ends = {"min": self.minimum, "max": self.maximum, "bin_width": self.bin_width}
        return {
            "name": self.name,
            "count": self.count,
            "missing": self.missing,
            "outside": self.outside,
            **({"noise": self.noise} if self.noise else {}),
            **{key: _known(value) for key, value in {**figures, **ends}.items()},
            "quantiles": {f"{share:g}": _known(self.quantile(share)) for share in QUANTILES},
            "histogram": {
                "edges": self.edges.tolist(),
                "counts": self.counts.tolist(),
                "below": self.below,
                "above": self.above,
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Statistics:
    """What a run of statistics has found.

    Attributes:
        rows: Of all nodes.
        columns: In the order of the inputs.
    """

    rows: int
    columns: tuple[ColumnStatistics, ...]

    @classmethod
    def of(cls, arrays: Parameters, names: Sequence[str]) -> "Statistics":
        """Read what the last pass has made.

        Args:
            arrays: The model that it made.
            names: Of the columns.

        Raises:
            TaskError: The model is not that of a last pass, or there are other columns.
        """
        plan = Plan.of(arrays)
        if plan.counted != PASSES:
            raise TaskError(f"{plan.counted} of {PASSES} passes are counted: the run is not over")
        if len(names) != len(plan.bounds):
            raise TaskError(f"{len(names)} names, and {len(plan.bounds)} columns")
        counts = Counts.of(arrays)
        columns = tuple(_column(name, place, plan, counts) for place, name in enumerate(names))
        rows = round(float(counts.bins.sum()) / len(counts.bins))  # each column has them all, with noise of its own
        return cls(rows=max(0, rows), columns=columns)

    def scaler(self) -> Scaler:
        """Mean and standard deviation of each column, for all nodes.

        Raises:
            TaskError: A column has no values.
        """
        if empty := [column.name for column in self.columns if not column.count]:
            raise TaskError(f"nobody has a value of {', '.join(empty)}: leave it out of the task's columns")
        return Scaler(
            tuple(
                ScaledColumn(
                    name=column.name,
                    mean=column.mean,
                    std=column.std or 1.0,
                    minimum=column.minimum,
                    maximum=column.maximum,
                )
                for column in self.columns
            )
        )

    def to_dict(self) -> Mapping[str, Any]:
        """For JSON."""
        return {"rows": self.rows, "columns": [column.to_dict() for column in self.columns]}


def _column(name: str, place: int, plan: Plan, counts: Counts) -> ColumnStatistics:
    bins, edges, count = counts.bins[place], plan.edges(place), max(0, int(counts.counted[place]))
    if plan.total_noise:
        mean, variance = _of_bins(bins[: len(edges) - 1], edges)
    else:
        mean, variance = _moments(count, counts.sums[place], counts.squares[place])
    used = occupied(bins[: len(edges) - 1], plan.total_noise)
    low, high = (float(edges[used[0]]), float(edges[used[-1] + 1])) if len(used) else (math.nan, math.nan)
    below, above = int(bins[BELOW]), int(bins[ABOVE])
    bound_low, bound_high = plan.bounds[place].tolist()
    if count and not variance and not plan.total_noise:
        low = high = mean
    return ColumnStatistics(
        name=name,
        count=count,
        missing=int(bins[MISSING]),
        outside=int(bins[OUTSIDE]),
        mean=mean,
        variance=variance,
        minimum=bound_low if below > SEEN * plan.total_noise else max(low, bound_low),
        maximum=bound_high if above > SEEN * plan.total_noise else min(high, bound_high),
        edges=edges,
        counts=bins[: len(edges) - 1],
        below=below,
        above=above,
        noise=plan.total_noise,
    )


def _of_bins(counts: NDArray[np.int64], edges: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and variance of values in the middle of their bins: what is left under noise."""
    middle, total = (edges[:-1] + edges[1:]) / 2, float(counts.sum())
    if not total > 0:
        return math.nan, math.nan
    mean = float((counts * middle).sum()) / total
    return mean, max(0.0, float((counts * (middle - mean) ** 2).sum()) / total)


def _moments(count: int, total: int, squares: int) -> tuple[float, float]:
    if not count:
        return math.nan, math.nan
    mean = Fraction(total, count << UNIT_BITS)
    return float(mean), float(max(Fraction(0), Fraction(squares, count << 2 * UNIT_BITS) - mean**2))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
