"""What a task evaluates on: of a test set that the whole federation shares, each node has examples of its own."""

from typing import Any

import torch
from torch.utils.data import Dataset

from federation.task import TaskContext
from federation.tasks.data.partition import all_parts
from federation.tasks.data.partitioners import Traits, matching_parts
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.local_data import DatasetData, LocalData, TensorData, labels_of, own_data

__all__ = ["evaluation_data"]


def evaluation_data(test: Any, train: Any, context: TaskContext, device: torch.device, by: str) -> LocalData | None:
    """The test data of a node, or of the coordinator, which has all of it; None where no example is the node's.

    On a node, data of the whole federation is divided as the training data is (`matching_parts`). What comes from a
    function or a loader is the node's own, and so is what stands beside training data of its own: never divided.

    Args:
        test: See `TorchTask.test_data`.
        train: See `TorchTask.train_data`.
        context: Says which node.
        device: Where batches shall be.
        by: How training data is divided, where the context does not say it.

    Raises:
        ConfigError: There is no such partition.
        TaskError: The data cannot be read or divided like that.
    """
    if context.node_index is None or (asked := _traits(test)) is None or (known := _traits(train)) is None:
        return own_data(test, device)
    parts = all_parts(context, known.length, by=by, labels=known.labels, owners=known.owners)
    rows = matching_parts(parts, known, asked, seed=context.seed)[context.node_index]
    if len(rows) == 0:
        return None
    if isinstance(test, WholeData):
        return TensorData(*test.rows(rows), device)
    whole = own_data(test, device)
    assert isinstance(whole, TensorData | DatasetData)  # noqa: S101 - what is known of its rows can be divided
    return whole.rows(torch.from_numpy(rows))


def _traits(data: Any) -> Traits | None:
    """What is known of data of the whole federation; None where it is the node's own."""
    if isinstance(data, WholeData):
        return data.traits()
    if isinstance(data, Dataset):
        return Traits(length=len(data), labels=labels_of(data))  # type: ignore[arg-type]  # map-style
    is_pair = isinstance(data, tuple | list) and len(data) == 2
    return Traits(length=len(data[1]), labels=data[1]) if is_pair else None
