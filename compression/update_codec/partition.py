"""Groups of parameters that are coded apart, derived from what both ends have so that nothing about them is sent."""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec.context import CLASSES, Context
from update_codec.kernel import kernel
from update_codec.manifest import Manifest, Role, TensorSpec

__all__ = ["Group", "GroupAdder", "Partition", "Scattered", "groups_of", "matrices_of"]


class Partition(IntEnum):
    """How the parameters are divided."""

    WHOLE = 0
    """One group."""
    BY_RANK = 1
    """Matrices and kernels (two dimensions or more), then biases and norms (fewer)."""
    BY_CONTEXT = 2
    """As BY_RANK, with the matrices and kernels divided into the classes of a context."""
    BY_SPREAD = 3
    """As BY_RANK, with the matrices and kernels divided into four classes that the frame names."""


_FINE: Final = 4
"""Index of the group of biases and norms, behind the classes."""
_PLAIN_MAX: Final = 16
"""Manifests whose groups are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """A group that consists of whole tensors."""

    fine: bool
    """Whether these are biases and norms, which get a finer step."""
    starts: NDArray[np.int64]
    """First entry of each run in the parameter vector, increasing."""
    offsets: NDArray[np.int64]
    """First entry of each run in the group, and at the end the size: one longer than `starts`."""

    @property
    def size(self) -> int:
        """Entries of the group."""
        return int(self.offsets[-1])

    def runs(self, vector: Any) -> list[Any]:
        """The group's entries as parts of the vector: no copies."""
        lengths = np.diff(self.offsets)
        return [vector[start : start + length] for start, length in zip(self.starts, lengths, strict=True)]

    def put(self, vector: Any, values: Any) -> None:
        """Set all entries of the group in the vector."""
        for start, begin, end in zip(self.starts, self.offsets[:-1], self.offsets[1:], strict=True):
            vector[start : start + end - begin] = values[begin:end]

    def add(self, vector: NDArray[Any], start: int, values: NDArray[Any]) -> None:
        """Add consecutive values of the group, beginning at its entry `start`, to the vector in place."""
        run = int(np.searchsorted(self.offsets, start, side="right")) - 1
        done = 0
        while done < len(values):
            count = min(len(values) - done, int(self.offsets[run + 1]) - start - done)
            place = int(self.starts[run] + start + done - self.offsets[run])
            vector[place : place + count] += values[done : done + count]
            done += count
            run += 1

    def room(self, vector: NDArray[Any], start: int, count: int) -> NDArray[Any] | None:
        """The vector's part that is the group's entries from `start` on; None where they are not together."""
        run = int(np.searchsorted(self.offsets, start, side="right")) - 1
        if start + count > self.offsets[run + 1]:
            return None
        place = int(self.starts[run] + start - self.offsets[run])
        return vector[place : place + count]

    def locate(self, positions: NDArray[Any]) -> NDArray[Any]:
        """Return the places in the parameter vector of increasing positions in the group."""
        if len(self.starts) == 1:
            return positions + int(self.starts[0])
        bounds = np.searchsorted(positions, self.offsets)
        return positions + np.repeat(self.starts - self.offsets[:-1], np.diff(bounds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scattered:
    """A group of single entries."""

    places: NDArray[np.int64]
    """Places in the parameter vector, increasing."""
    fine: bool = False
    """As of `Runs`."""

    @property
    def size(self) -> int:
        """Entries of the group."""
        return len(self.places)

    def runs(self, vector: Any) -> list[Any]:
        """The group's entries, a copy."""
        return [vector[self.places]]

    def put(self, vector: Any, values: Any) -> None:
        """Set all entries of the group in the vector."""
        vector[self.places] = values

    def add(self, vector: NDArray[Any], start: int, values: NDArray[Any]) -> None:
        """Add consecutive values of the group, beginning at its entry `start`, to the vector in place."""
        vector[self.places[start : start + len(values)]] += values

    def room(self, vector: NDArray[Any], start: int, count: int) -> None:
        """There is none: entries are single ones."""

    def locate(self, positions: NDArray[Any]) -> NDArray[Any]:
        """Return the places in the parameter vector of positions in the group."""
        found: NDArray[Any] = self.places[positions]
        return found


Group = Runs | Scattered
"""Some entries of the parameter vector, seen as one contiguous vector of `size` entries."""


class GroupAdder:
    """A sink that adds decoded values to their places in the parameter vector."""

    def __init__(self, group: Group, target: NDArray[Any]) -> None:
        self._group = group
        self._target = target

    def dense(self, start: int, values: NDArray[Any]) -> None:
        """Add consecutive values."""
        self._group.add(self._target, start, values)

    def sparse(self, positions: NDArray[Any], values: NDArray[Any]) -> None:
        """Add values at increasing, hence distinct, positions."""
        kernel().add_at(self._target, self._group.locate(positions), values)

    def room(self, start: int, count: int) -> NDArray[Any] | None:
        """Where these entries of the group are in the parameter vector, if they are together."""
        return self._group.room(self._target, start, count)


def matrices_of(manifest: Manifest) -> list[TensorSpec]:
    """Return the parameter tensors with two dimensions or more that are not empty."""
    return [tensor for tensor in manifest.tensors if _is_matrix(tensor)]


def groups_of(
    manifest: Manifest,
    partition: Partition,
    *,
    context: Context | None = None,
    classes: NDArray[np.int64] | None = None,
) -> tuple[Group, ...]:
    """Return the groups that are not empty, in their order.

    Args:
        manifest: the model.
        partition: how to divide it.
        context: for `BY_CONTEXT`, one class for each parameter.
        classes: for `BY_SPREAD`, a number from 0 to 3 for each of `matrices_of`.
    """
    if partition is Partition.BY_SPREAD and classes is not None:
        return _runs_of(manifest, classes.tolist())
    is_divided = partition is not Partition.WHOLE
    groups = _plain_runs(manifest, is_divided=is_divided)
    if partition is not Partition.BY_CONTEXT or context is None:
        return groups
    wide = np.zeros(manifest.parameter_count, np.uint8)
    for group in groups:
        group.put(wide, np.full(group.size, group.fine, np.uint8))
    numbers = np.where(wide == 0, context.classes, np.uint8(CLASSES))
    scattered = (Scattered(places=np.flatnonzero(numbers == index)) for index in range(CLASSES))
    return (*(group for group in scattered if group.size), *(group for group in groups if group.fine))


def _is_matrix(tensor: TensorSpec) -> bool:
    return tensor.role is Role.PARAMETER and len(tensor.shape) >= 2 and tensor.size > 0


@lru_cache(_PLAIN_MAX)
def _plain_runs(manifest: Manifest, *, is_divided: bool) -> tuple[Runs, ...]:
    """The groups that a manifest alone decides: every frame of a run has the same."""
    return _runs_of(manifest, [0] * len(matrices_of(manifest)) if is_divided else None)


def _runs_of(manifest: Manifest, classes: list[int] | None) -> tuple[Runs, ...]:
    """Collect the tensors of each class, then the biases and norms; all in one group if there are no classes."""
    runs: dict[int, list[tuple[int, int]]] = {index: [] for index in range(_FINE + 1)}
    place = 0
    remaining = iter(classes or ())
    for tensor in manifest.tensors:
        if tensor.role is Role.PARAMETER and tensor.size:
            index = 0
            if classes is not None:
                index = next(remaining) if _is_matrix(tensor) else _FINE
            known = runs[index]
            if known and sum(known[-1]) == place:
                known[-1] = (known[-1][0], known[-1][1] + tensor.size)
            else:
                known.append((place, tensor.size))
            place += tensor.size
    return tuple(
        Runs(
            fine=index == _FINE,
            starts=np.array([start for start, _ in known], np.int64),
            offsets=np.cumsum([0] + [length for _, length in known], dtype=np.int64),
        )
        for index, known in runs.items()
        if known
    )
