"""One data set of the whole federation, read when it is needed, divided by rows: for experiments on known data."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from federation.errors import TaskError
from federation.task import Array, TaskContext
from federation.tasks.data.frames import rows_at
from federation.tasks.data.partitioners import Rows, Traits, all_parts, part_of
from federation.tasks.drawing import made_alike

__all__ = ["WholeData", "refuse_another", "refuse_sparse"]


def _as_it_is(inputs: Any) -> Any:
    return inputs


@dataclass(frozen=True)
class WholeData:
    """Inputs and targets of everybody.

    Attributes:
        load: Reads them: inputs and targets, and, where rows have owners, the owner of each row.
        prepare: From some rows of the inputs to what the model takes, such as bytes to floats: only what a node owns is
            prepared.
    """

    load: Callable[[], tuple[Any, ...]]
    prepare: Callable[[Any], Any] = _as_it_is

    @cached_property
    def _arrays(self) -> tuple[Any, ...]:
        return self._read()

    @classmethod
    def of(cls, data: Any) -> "WholeData | None":
        """What the whole federation shares: this itself, or a pair of inputs and targets; None for everything else.

        Several inputs or targets, a tuple or a dict of arrays in their place, are everything else.
        """
        if _is_pair(data):
            pair = (data[0], data[1])
            return cls(lambda: pair)
        return data if isinstance(data, cls) else None

    @property
    def targets(self) -> Any:
        """The targets of all rows."""
        return self._arrays[1]

    def part(self, context: TaskContext, by: str) -> tuple[Any, Any]:
        """What one node owns: inputs, prepared, and targets; the rest is not kept.

        Raises:
            ConfigError: There is no such partition.
            TaskError: The data cannot be read, or cannot be divided like that.
        """
        inputs, targets, *owners = self._loaded()
        rows = part_of(context, len(targets), by=by, labels=targets, owners=_first(owners))
        return self.prepare(rows_at(inputs, rows)), rows_at(targets, rows)

    def parts(self, context: TaskContext, by: str) -> list[Rows]:
        """The rows of every node; the data stays loaded, to be called."""
        _, targets, *owners = self._arrays
        return all_parts(context, len(targets), by=by, labels=targets, owners=_first(owners))

    def rows(self, rows: Rows) -> tuple[Any, Any]:
        """Some rows, prepared, and their targets; the rest is not kept."""
        inputs, targets, *_ = self._loaded()
        return self.prepare(rows_at(inputs, rows)), rows_at(targets, rows)

    def traits(self) -> Traits:
        """What is known of all rows."""
        _, targets, *owners = self._loaded()
        return Traits(length=len(targets), labels=targets, owners=_first(owners))

    def __call__(self) -> tuple[Any, Any]:
        """All rows, prepared, and their targets: for the coordinator's evaluation, or all nodes of a simulation."""
        inputs, targets, *_ = self._loaded()
        return self.prepare(inputs), targets

    def _loaded(self) -> tuple[Any, ...]:
        """The arrays; they stay loaded only where `parts` has been asked for."""
        return self._arrays if "_arrays" in self.__dict__ else self._read()

    def _read(self) -> tuple[Any, ...]:
        with made_alike(0):
            arrays = self.load()
        if len(arrays) not in {2, 3}:
            raise TaskError("a whole data set is inputs and targets of one length, and perhaps the owner of each row")
        refuse_sparse(arrays)
        lengths = [len(array) for array in arrays]
        if len(set(lengths)) != 1 or not lengths[0]:
            raise TaskError(f"the arrays of the data have {lengths} rows: they need as many, at least one")
        return arrays


def refuse_another(one: Any, other: Any) -> None:
    """Refuse inputs and targets of the whole federation that two participants, who build their tasks, do not both have.

    Args:
        one: What one of them gives its task as training data.
        other: What the other one gives; what is no pair of arrays is not looked at.

    Raises:
        TaskError: They differ.
    """
    if not (_is_pair(one) and _is_pair(other)):
        return
    for what, left, right in zip(("inputs", "targets"), one, other, strict=True):
        if left is not right and not _are_equal(left, right):
            raise TaskError(
                f"the {what} of the whole federation are others each time that the task is built: draw them with a"
                " fixed seed, such as context.seed; a node's own data is given by a function (train_data=lambda: ...)"
            )


def refuse_sparse(arrays: Iterable[Any]) -> None:
    """Refuse matrices whose rows cannot be taken: SciPy's, and torch's sparse and nested tensors.

    Raises:
        TaskError: There is one.
    """
    for each in arrays:
        if hasattr(each, "toarray"):
            raise TaskError(f"data must be arrays, not {type(each).__name__}: give what its toarray() returns")
        if getattr(each, "is_nested", False) is True:
            raise TaskError("data must be no nested tensor: give what to_padded_tensor(0.0) returns, and the lengths")
        if (layout := str(getattr(each, "layout", "torch.strided"))) in _SPARSE:
            raise TaskError(f"data must be dense, not of layout {layout}: give what its to_dense() returns")


_SPARSE = frozenset(f"torch.sparse_{kind}" for kind in ("coo", "csr", "csc", "bsr", "bsc"))
"""Layouts of tensors, by their names: torch need not be loaded here."""


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two arrays or tensors have the same values; other kinds of data are not looked at."""
    left, right = (each.detach().cpu() if hasattr(each, "detach") else each for each in (one, other))
    if not all(hasattr(each, "__array__") for each in (left, right)):
        return True
    left, right = np.asarray(left), np.asarray(right)
    return left.shape == right.shape and bool(((left == right) | (left != left)).all())  # noqa: PLR0124 - NaN


def _is_pair(data: Any) -> bool:
    is_pair = isinstance(data, tuple | list) and len(data) == 2
    return is_pair and not any(isinstance(each, tuple | Mapping) for each in data)


def _first(owners: list[Any]) -> Array | None:
    return np.asarray(owners[0]) if owners else None
