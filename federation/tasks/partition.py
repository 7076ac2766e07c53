"""Divide one data set among nodes: independent and identically distributed parts of equal size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.task import TaskContext


def split(context: TaskContext, *arrays: Any) -> tuple[Any, ...]:
    """This node's rows of each array.

    Args:
        context: Says which part: ``node_index`` of ``node_count``, shuffled by ``seed``.
        arrays: NumPy arrays or torch tensors of the same length, such as inputs and targets.

    Returns:
        The same kinds of arrays, with this node's rows.

    Raises:
        TaskError: The lengths differ, or there are fewer rows than nodes.
    """
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise TaskError(f"split needs arrays of one length, got {sorted(lengths)}")
    indices = part_of(context, lengths.pop())
    return tuple(array[indices] for array in arrays)


def part_of(context: TaskContext, length: int) -> NDArray[np.int64]:
    """The rows that this node owns of a data set of ``length`` rows.

    All nodes of a seed draw the same permutation (torch's, so that a part equals
    ``torch.randperm(length, generator=torch.Generator().manual_seed(seed))`` cut into ``node_count`` pieces) and take
    their own piece of it; sizes differ by at most one.

    Returns:
        An int64 vector of row numbers.

    Raises:
        TaskError: The coordinator asked, the index is out of range, or there are fewer rows than nodes.
    """
    import torch  # noqa: PLC0415 - costs a second and 200 MB: only where data is read

    index, count = context.node_index, context.node_count
    if index is None:
        raise TaskError("the coordinator has no training data: only a node with a node_index can train")
    if not 0 <= index < count:
        raise TaskError(f"node_index {index} is not one of the {count} parts (0 to {count - 1})")
    if length < count:
        raise TaskError(f"{length} examples cannot be divided among {count} nodes: use fewer nodes")
    order = torch.randperm(length, generator=torch.Generator().manual_seed(context.seed)).numpy()
    bounds: Sequence[int] = np.linspace(0, length, count + 1).round().astype(int).tolist()
    return order[bounds[index] : bounds[index + 1]]
