"""Which part of one data set a node owns: by the way that the context names, else by the task's own."""

from typing import Any

from numpy.typing import NDArray

from federation.errors import TaskError
from federation.task import TaskContext
from federation.tasks.data.partitioners import Rows, Traits, divide, parse_partition

__all__ = ["all_parts", "part_of", "split"]


def split(context: TaskContext, *arrays: Any, by: str = "iid", owners: Any = None) -> tuple[Any, ...]:
    """This node's rows of each array.

    Args:
        context: Says which part: ``node_index`` of ``node_count``, by ``seed``; its ``partition`` wins over ``by``.
        arrays: NumPy arrays or torch tensors of the same length, such as inputs and targets; the last are the labels.
        by: ``iid``, ``shards:N``, ``dirichlet:ALPHA`` or ``natural`` (see `federation.tasks.data.partitioners`).
        owners: Whose each row is, for ``natural``.

    Returns:
        The same kinds of arrays, with this node's rows.

    Raises:
        ConfigError: There is no such partition.
        TaskError: The lengths differ, there are fewer rows than nodes, or the partition needs what the data lacks.
    """
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise TaskError(f"split needs arrays of one length, got {sorted(lengths)}")
    rows = part_of(context, lengths.pop(), by=by, labels=arrays[-1], owners=owners)
    return tuple(array[rows] for array in arrays)


def part_of(
    context: TaskContext, length: int, *, by: str = "iid", labels: Any = None, owners: NDArray[Any] | None = None
) -> Rows:
    """The rows that this node owns of a data set of ``length`` rows.

    All nodes of a seed compute the same division and take their own part of it. Of ``iid`` sizes differ by at most one.

    Returns:
        An int64 vector of row numbers.

    Raises:
        ConfigError: There is no such partition.
        TaskError: The coordinator asked, the index is out of range, there are fewer rows than nodes, or labels or
            owners are missing.
    """
    index, count = context.node_index, context.node_count
    if index is None:
        raise TaskError("the coordinator has no training data: only a node with a node_index can train")
    if not 0 <= index < count:
        raise TaskError(f"node_index {index} is not one of the {count} parts (0 to {count - 1})")
    return all_parts(context, length, by=by, labels=labels, owners=owners)[index]


def all_parts(
    context: TaskContext, length: int, *, by: str = "iid", labels: Any = None, owners: NDArray[Any] | None = None
) -> list[Rows]:
    """The rows of every node, as `part_of` gives them one by one."""
    traits = Traits(length=length, labels=labels, owners=owners)
    partition = parse_partition(context.partition or by)
    return divide(partition, traits, count=context.node_count, seed=context.seed)
