"""How many examples of each label every node owns: what a partition looks like."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.task import Task
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.torch_task import TorchTask

__all__ = ["LabelCounts", "label_counts"]

BINS = 10
"""Targets that are no classes are shown in so many groups of equal size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """Examples by node and label.

    Attributes:
        partition: The text of the partition.
        labels: What each column counts: a class, or a range of targets.
        rows: One row per node.
    """

    partition: str
    labels: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]


def label_counts(task: Task) -> LabelCounts:
    """Count what every node of the task's context owns.

    Raises:
        ConfigError: There is no such partition.
        TaskError: The task's data is not one data set that is divided, or it cannot be read or divided like that.
    """
    if not isinstance(task, TorchTask):
        raise TaskError(f"a {type(task).__name__} does not say how its data is divided: only a TorchTask does")
    data = WholeData.of(task.train_data)
    if data is None:
        raise TaskError("this task's nodes bring their own data: only (inputs, targets) and WholeData are divided")
    parts = data.parts(task.context, task.split)
    labels, names = _classes(np.asarray(data.targets))
    counts = (np.bincount(labels[rows], minlength=len(names)) for rows in parts)
    return LabelCounts(
        partition=task.context.partition or task.split,
        labels=names,
        rows=tuple(tuple(int(count) for count in row) for row in counts),
    )


def _classes(targets: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The column of each row, and the columns' names."""
    flat = targets.reshape(len(targets), -1)[:, 0]
    if flat.dtype.kind in "iub":
        values, columns = np.unique(flat, return_inverse=True)
        return columns.astype(np.int64), tuple(str(value) for value in values)
    edges = np.unique(np.quantile(flat, np.linspace(0, 1, BINS + 1)[1:-1]))
    bounds = [float(flat.min()), *edges.tolist(), float(flat.max())]
    names = tuple(f"{low:.3g} to {high:.3g}" for low, high in pairwise(bounds))
    return np.digitize(flat, edges).astype(np.int64), names
