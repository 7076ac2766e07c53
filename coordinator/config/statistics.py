"""``[statistics]``: what the nodes' columns look like, counted before anything is trained."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from federation.config import Section
from federation.tasks.statistics.layout import BOUND, COLUMNS_MAX
from federation.tasks.statistics.task import StatisticsRequest

__all__ = ["ROWS_MAX", "StatisticsSection"]

ROWS_MAX = 100_000_000
"""Rows that one node may claim, where ``limits.num_examples_max`` is not given: of pictures each pixel is a row."""

_Value = Annotated[float, Field(gt=-BOUND, lt=BOUND)]


class StatisticsSection(Section):
    """``[statistics]``: what ``coordinator analyze`` counts.

    Attributes:
        only: This run counts and trains nothing; ``coordinator analyze`` says so by itself.
        columns: Names of the columns, or how many there are as one number. Nothing is what the task knows here.
        bounds: Least and greatest value that counts, by column, such as ``{ temperature = [-40, 125] }``; what is
            outside is counted apart, and in nothing else.
        nodes: The first pass waits until so many nodes are online. Nothing is ``round.nodes_min``, or one.
    """

    only: bool = False
    columns: Annotated[tuple[str, ...], Field(max_length=COLUMNS_MAX)] = ()
    bounds: Mapping[str, tuple[_Value, _Value]] = Field(default_factory=dict)
    nodes: PositiveInt | None = None

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "StatisticsSection":
        for name, (low, high) in self.bounds.items():
            if not low < high or not np.isfinite(high - low):
                raise ValueError(f"the bounds of {name} must rise, not {low:g} to {high:g}")
        return self

    def request(self, noise: float) -> StatisticsRequest | None:
        """What the model of this run is made for; None where it trains.

        Args:
            noise: Standard deviation of each node's noise on the counts of one column; 0 is none.
        """
        bounds = tuple((name, low, high) for name, (low, high) in self.bounds.items())
        return StatisticsRequest(columns=self.columns, bounds=bounds, noise=noise) if self.only else None
