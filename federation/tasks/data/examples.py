"""One participant's examples as NumPy arrays, for libraries that take arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from federation.errors import TaskError
from federation.task import Array, TaskContext
from federation.tasks.data.frames import columns_of, frame_numbers, is_frame, refuse_other_rows
from federation.tasks.data.partitioners import Rows, Traits, all_parts, matching_parts
from federation.tasks.data.tables import first_gap
from federation.tasks.data.whole_data import WholeData, refuse_sparse
from federation.tasks.drawing import called

__all__ = ["Examples", "Pair", "gap_in"]

Pair = tuple[Array, Array]
"""Inputs and targets of one length."""


@dataclass(frozen=True)
class Examples:
    """What is trained on, and what is evaluated on.

    Attributes:
        context: Which part is this participant's.
        train: (inputs, targets) or a `WholeData` of the whole federation, of which this node takes its part; or a
            function that gives this node's own (inputs, targets), which the coordinator never calls.
        test: The same kinds; None evaluates nothing. The coordinator has all of it, a node its part.
    """

    context: TaskContext
    train: Any
    test: Any = None

    @cached_property
    def training(self) -> Pair:
        """This node's examples.

        Raises:
            ConfigError: There is no such partition.
            TaskError: The coordinator asked, or the data cannot be read or divided.
        """
        whole = WholeData.of(self.train)
        if whole is None:
            own = called(self.train, self.context.seed) if callable(self.train) else self.train
            self.__dict__["_columns"] = columns_of(own)
            return _pair(own)
        inputs, targets = whole()
        return _pair((inputs, targets), self._parts(whole)[self._index])

    @cached_property
    def evaluation(self) -> Pair | None:
        """The examples to evaluate on; None where there are none.

        Raises:
            ConfigError: There is no such partition.
            TaskError: The data cannot be read or divided.
        """
        if self.test is None:
            return None
        test, train = WholeData.of(self.test), WholeData.of(self.train)
        if test is None:
            return _pair(called(self.test, self.context.seed))
        if self.context.node_index is None or train is None:
            return _pair(test())
        parts = matching_parts(self._parts(train), _traits(train), _traits(test), seed=self.context.seed)
        rows = parts[self._index]
        return _pair(test(), rows) if len(rows) else None

    def columns_unsaid(self) -> Sequence[str]:
        """The columns of this node's own data frame, in their order, once it was read; nothing where it has none."""
        found: Sequence[str] = self.__dict__.get("_columns", ())
        return found

    def known(self) -> Pair | None:
        """Examples that everybody has, the coordinator too; None where each node has its own."""
        whole = WholeData.of(self.train)
        return None if whole is None else _pair(whole())

    @property
    def _index(self) -> int:
        index, count = self.context.node_index, self.context.node_count
        if index is None or not 0 <= index < count:
            raise TaskError(f"only a node has training data: node_index is {index} of {count}")
        return index

    def _parts(self, whole: WholeData) -> list[Rows]:
        traits = _traits(whole)
        return all_parts(self.context, traits.length, labels=traits.labels, owners=traits.owners)


def gap_in(pair: Pair) -> str | None:
    """Where the first number lies that is not finite, and what to do; None where there is none."""
    for what, values in zip(("inputs", "targets"), pair, strict=True):
        if (place := first_gap(values)) is not None:
            return f"{place} of the {what} is not finite: fill the gap, or leave the row out"
    return None


def _traits(whole: WholeData) -> Traits:
    traits = whole.traits()
    # Classes may have names: a division by label wants numbers.
    labels = np.asarray(traits.labels)
    numbers = labels if labels.dtype.kind in "iufb" else np.unique(labels, return_inverse=True)[1]
    return Traits(length=traits.length, labels=numbers, owners=traits.owners)


def _pair(data: Any, rows: Rows | None = None) -> Pair:
    if not (isinstance(data, tuple | list) and len(data) == 2):
        raise TaskError(f"data must be (inputs, targets), not {type(data).__name__}")
    refuse_other_rows(*data)
    refuse_sparse(data)
    inputs, targets = (frame_numbers(each) if is_frame(each) else np.asarray(each) for each in data)
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise TaskError(f"{len(inputs)} inputs and {len(targets)} targets: need as many of each, at least one")
    return (inputs, targets) if rows is None else (inputs[rows], targets[rows])
