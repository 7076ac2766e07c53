"""The local data as one pass per epoch: tensors without a loader, data sets, and loaders as they are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from federation.errors import TaskError
from federation.task import TaskContext
from federation.tasks.data.frames import frame_numbers, in_float32, is_frame, number_objects, refuse_other_rows
from federation.tasks.data.partitioners import Traits, all_parts, matching_parts, part_of
from federation.tasks.data.whole_data import WholeData, refuse_sparse
from federation.tasks.drawing import called
from federation.tasks.training.batches import (
    TARGET_NAMES,
    Batch,
    first_gap,
    first_tensor,
    is_example,
    mapped,
    num_examples,
    tensors_in,
)
from federation.tasks.training.loader_data import LoaderData, on_device

__all__ = [
    "BLOCK_BYTES_MAX",
    "NO_BATCH",
    "DatasetData",
    "LocalData",
    "TensorData",
    "as_tensor",
    "evaluation_data",
    "first_batch",
    "gap_in",
    "held_out",
    "labels_of",
    "local_data",
    "own_data",
]

BLOCK_BYTES_MAX = 1 << 20
"""Shuffled examples are gathered in blocks of this size: they stay in the cache, and memory is bounded."""


EVALUATION_BATCH = 1000
"""Examples per evaluation step: few enough for a small device's memory."""

NO_BATCH = "{} gives no batch that can be used: see drop_last and batch_size of its loader, and how many rows there are"
"""What is said of data out of which nothing comes, by whose data it is."""


class LocalData(Protocol):
    """Batches of examples on the training device."""

    num_examples: int
    """How many examples one epoch has; 0 while it is not known."""

    def epoch(self, generator: torch.Generator, batch_size: int) -> Iterator[Batch]:
        """One shuffled pass; a batch size of 0 is everything at once."""

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """One pass in the data's own order."""


def local_data(data: Any, context: TaskContext, device: torch.device, by: str = "iid") -> LocalData:
    """A node's training data.

    Args:
        data: (inputs, targets), more arrays of one length, a dict of them, a `WholeData` or a map-style Dataset of the
            whole federation, of which this node's part is taken; or a function that returns this node's own: the same
            kinds, or an iterable of batches.
        context: Says which part.
        device: Where batches shall be.
        by: How one data set is divided, where the context does not say it.

    Raises:
        TaskError: This is none of these, or it is empty.
    """
    if isinstance(data, WholeData):
        return TensorData(data.part(context, by), device)
    if callable(data) and not isinstance(data, Dataset):
        return own_data(data, device, context.seed)
    if isinstance(data, Dataset):
        _refuse_stream(data)
        rows = part_of(context, len(data), by=by, labels=labels_of(data))  # type: ignore[arg-type]
        if isinstance(data, TensorDataset) and len(data.tensors) == 2:
            return TensorData(tuple(tensor[rows] for tensor in data.tensors), device)
        return DatasetData(Subset(data, rows.tolist()), device)
    whole = _tensors(data)
    rows = part_of(context, num_examples(whole), by=by, labels=_labels(whole))
    return TensorData(mapped(lambda tensor: tensor[torch.from_numpy(rows)], whole), device)


def own_data(data: Any, device: torch.device, seed: int = 0) -> LocalData:
    """Data that needs no partition: arrays of one length, a Dataset, an iterable of batches, or a function of these.

    Raises:
        TaskError: This is none of these, or it is empty.
    """
    if isinstance(data, Dataset):
        _refuse_stream(data)
        if isinstance(data, TensorDataset) and len(data.tensors) == 2:
            return TensorData(data.tensors, device)
        return DatasetData(data, device)
    if callable(data):
        return own_data(called(data, seed), device)
    if isinstance(data, tuple | Mapping) or (isinstance(data, list) and not _is_batches(data)):
        return TensorData(data, device)
    if isinstance(data, Iterable) and not hasattr(data, "columns"):
        return LoaderData(data, device)
    raise TaskError(f"data must be (inputs, targets), a Dataset or an iterable of batches, not {type(data).__name__}")


def _refuse_stream(data: Dataset[Any]) -> None:
    if isinstance(data, IterableDataset):
        raise TaskError(
            "an IterableDataset cannot be divided, nor shuffled: give a function that gives a DataLoader of it, which"
            " says how large its batches are"
        )


def labels_of(dataset: Dataset[Any]) -> Any:
    """What torchvision's data sets call ``targets``, or the second tensor; None where there is neither."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return dataset.tensors[1]
    found = getattr(dataset, "targets", None)
    return None if found is None else np.asarray(found)


def held_out(data: LocalData, share: float, seed: int) -> tuple[LocalData, LocalData]:
    """Divide a node's data into what it trains on and what it is tested on: the same rows for the same seed.

    Raises:
        TaskError: The share leaves one of them empty, or the data cannot be divided.
    """
    if not isinstance(data, TensorData | DatasetData):
        raise TaskError("own_test: batches cannot be divided: give the node's own test data instead of a share")
    count = round(share * data.num_examples)
    if not 0 < share < 1 or not 0 < count < data.num_examples:
        raise TaskError(f"own_test: a share of {share:g} of {data.num_examples} examples leaves one part empty")
    order = torch.randperm(data.num_examples, generator=torch.Generator().manual_seed(seed))
    return data.rows(order[count:]), data.rows(order[:count])


class TensorData:
    """All examples in tensors on the device: one permutation per epoch, batches are slices."""

    def __init__(self, data: Any, device: torch.device) -> None:
        """Args: ``data`` is (inputs, targets), more arrays of one length, or a dict of them; see `as_tensor`."""
        self._tensors = mapped(lambda tensor: tensor.detach().to(device), _tensors(data))
        self._leaves = list(tensors_in(self._tensors))
        self.num_examples = num_examples(self._tensors)

    def refuse_gaps(self, whose: str = "", columns: Sequence[str] = ()) -> None:
        """Look for numbers that are not finite.

        Args:
            whose: Said before the place, such as ``test ``.
            columns: Names of the inputs' columns, where they are known.

        Raises:
            TaskError: It says row and column of the first one.
        """
        if (gap := first_gap(self._tensors, 0, columns)) is not None:
            raise TaskError(f"{whose}{gap}")

    def rows(self, rows: torch.Tensor) -> "TensorData":
        """A part of it, in this order."""
        device = self._leaves[0].device
        rows = rows.to(device)
        return TensorData(mapped(lambda tensor: tensor[rows], self._tensors), device)

    def epoch(self, generator: torch.Generator, batch_size: int) -> Iterator[Batch]:
        """See `LocalData`."""
        if batch_size == 0 or batch_size >= self.num_examples:
            yield mapped(torch.clone, self._tensors)
            return
        order = torch.randperm(self.num_examples, generator=generator).to(self._leaves[0].device)
        row_bytes = max(1, sum(tensor.element_size() * tensor[0].numel() for tensor in self._leaves))
        block = batch_size * max(1, BLOCK_BYTES_MAX // (row_bytes * batch_size))
        for rows in _cut(order, block):
            yield from self._batches([tensor[rows] for tensor in self._leaves], batch_size)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `LocalData`."""
        # A copy: a model may change its batch, as with a torch loader.
        yield from (mapped(torch.clone, batch) for batch in self._batches(self._leaves, batch_size))

    def _batches(self, leaves: Sequence[torch.Tensor], batch_size: int) -> Iterator[Batch]:
        for cut in zip(*(_cut(tensor, batch_size) for tensor in leaves), strict=True):
            yield mapped(partial(_next, iter(cut)), self._tensors)


def _next(leaves: Iterator[torch.Tensor], _: torch.Tensor) -> torch.Tensor:
    return next(leaves)


class DatasetData:
    """A map-style data set, collated by torch's loader in this process."""

    def __init__(self, dataset: Dataset[Any], device: torch.device) -> None:
        """Args: ``dataset`` has a length and gives examples."""
        self._dataset = dataset
        self._device = device
        self.num_examples = len(dataset)  # type: ignore[arg-type]
        if self.num_examples == 0:
            raise TaskError("the data set is empty")

    def rows(self, rows: torch.Tensor) -> "DatasetData":
        """A part of it, in this order."""
        return DatasetData(Subset(self._dataset, rows.tolist()), self._device)

    def epoch(self, generator: torch.Generator, batch_size: int) -> Iterator[Batch]:
        """See `LocalData`."""
        size = batch_size or self.num_examples
        loader = DataLoader(self._dataset, batch_size=size, shuffle=True, generator=generator)
        return on_device(loader, self._device)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `LocalData`."""
        return on_device(DataLoader(self._dataset, batch_size=batch_size), self._device)


def first_batch(batches: Iterator[Batch], whose: str) -> Batch:
    """The first batch.

    Raises:
        TaskError: There is none.
    """
    for batch in batches:
        return batch
    raise TaskError(NO_BATCH.format(whose))


def gap_in(data: LocalData) -> str | None:
    """Which row of the data's own order is not finite, such as ``input row 7, column 3``; None where all are."""
    data = data.unshuffled() if isinstance(data, LoaderData) else data
    row = 0
    for batch in data.in_order(EVALUATION_BATCH):
        if (gap := first_gap(batch, row)) is not None:
            return gap
        row += num_examples(batch)
    return None


def as_tensor(values: Any, *, fine: bool = True) -> torch.Tensor:
    """A tensor of these values: a NumPy array of floats becomes float32, one of integers int64.

    Args:
        values: An array, a sequence of numbers, or a data frame.
        fine: Refuse a frame's column whose numbers float32 cannot tell apart.

    Raises:
        TaskError: They are no numbers, some are masked, or beyond int64 or float32.
    """
    refuse_sparse((values,))
    if isinstance(values, torch.Tensor):
        return values
    if np.ma.is_masked(values):
        raise TaskError("the data has masked values: fill them, or leave those rows out")
    array = frame_numbers(values, fine=fine) if is_frame(values) else _numbers(values)
    # torch warns about read-only memory, which it cannot protect, and takes no reversed view.
    return torch.from_numpy(array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy())


def _numbers(values: Any) -> NDArray[Any]:
    """An array, a sequence or a frame's column in float32 or int64."""
    array = np.asarray(values)
    if array.dtype.kind in "OUT" and array.ndim in {1, 2}:
        column = "" if getattr(values, "name", None) is None else f"column {values.name!r} of "
        array = number_objects(array, f"{column}the data is {getattr(values, 'dtype', array.dtype)}")
    if array.dtype.kind == "f":
        return in_float32(array, "the data")
    if array.dtype.kind not in "iub":
        found = array.dtype if array.ndim else type(values).__name__
        raise TaskError(f"data must be numbers, not {found}: give numbers, in tuples or dicts")
    if array.dtype == np.uint64 and array.max(initial=0) > np.iinfo(np.int64).max:
        raise TaskError(f"the data has {array.max()}, and whole numbers go up to {np.iinfo(np.int64).max}")
    return array.astype(np.int64, copy=False)


def _cut(tensor: torch.Tensor, rows: int) -> tuple[torch.Tensor, ...]:
    """Views of so many rows each; the last may have fewer."""
    return tensor.split(rows)  # type: ignore[no-untyped-call,no-any-return]  # torch has no annotation for it


def _tensors(data: Any) -> Any:
    """Arrays of one length, in the structure that they have, as tensors; of a list of examples one for each part."""
    if _are_examples(data):
        data = _stacked(data)
    if not isinstance(data, Mapping) and (not isinstance(data, tuple | list) or len(data) < 2):
        kind = "an empty list" if isinstance(data, list) and not data else type(data).__name__
        what = f"(inputs, targets), more arrays of one length, a dict of them or a Dataset, not {kind}"
        raise TaskError(f"data must be {what}: batches of a node's own come from a function (train_data=lambda: ...)")
    if not isinstance(data, Mapping):
        refuse_other_rows(data[0], data[-1])
    made = _part(tuple(data) if isinstance(data, list) else data)
    lengths = [len(tensor) if tensor.ndim else 0 for tensor in tensors_in(made)]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise TaskError(f"the arrays of the data have {lengths} rows: they need as many, at least one")
    return made


def _part(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _part(each) for name, each in data.items()}
    return tuple(_part(each) for each in data) if isinstance(data, tuple) else as_tensor(data)


def _stacked(examples: Sequence[Any]) -> Any:
    """One tensor for each part of the examples, in the order or under the names that they have there.

    Raises:
        TaskError: They have not all the same parts, or a part has several shapes.
    """
    named = isinstance(examples[0], Mapping)
    parts = list(examples[0]) if named else list(range(len(examples[0])))
    stacked = dict[Any, torch.Tensor]()
    for row, example in enumerate(examples):
        if isinstance(example, Mapping) != named or list(example if named else range(len(example))) != parts:
            raise TaskError(f"example {row} of the data has other parts than the first: {parts}")
    for part in parts:
        tensors = [as_tensor(example[part]) for example in examples]
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if other := next((row for row, shape in enumerate(shapes) if shape != shapes[0]), None):
            raise TaskError(
                f"{part} of example {other} has shape {list(shapes[other])}, and of the first {list(shapes[0])}: give a"
                " DataLoader with a collate_fn that pads them"
            )
        stacked[part] = torch.stack(tensors)
    return stacked if named else tuple(stacked.values())


def _are_examples(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and all(map(is_example, data))


def _is_batches(data: list[Any]) -> bool:
    """Whether a list has batches, and is not itself inputs and targets."""
    return (
        bool(data)
        and not _are_examples(data)
        and all(isinstance(each, tuple | list | Mapping) and first_tensor(each) is not None for each in data)
    )


def _labels(tensors: Any) -> Any:
    """What one data set may be divided by: the targets, where they are one column."""
    if isinstance(tensors, Mapping):
        tensors = next((tensors[name] for name in TARGET_NAMES if name in tensors), None)
    elif isinstance(tensors, tuple):
        tensors = tensors[-1]
    return tensors if isinstance(tensors, torch.Tensor) else None


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
        return own_data(test, device, context.seed)
    parts = all_parts(context, known.length, by=by, labels=known.labels, owners=known.owners)
    rows = matching_parts(parts, known, asked, seed=context.seed)[context.node_index]
    if len(rows) == 0:
        return None
    if isinstance(test, WholeData):
        return TensorData(test.rows(rows), device)
    whole = own_data(test, device)
    assert isinstance(whole, TensorData | DatasetData)  # noqa: S101 - what is known of its rows can be divided
    return whole.rows(torch.from_numpy(rows))


def _traits(data: Any) -> Traits | None:
    """What is known of data of the whole federation; None where it is the node's own."""
    if isinstance(data, WholeData):
        return data.traits()
    if isinstance(data, Dataset):
        return Traits(length=len(data), labels=labels_of(data))  # type: ignore[arg-type]  # map-style
    if isinstance(data, Mapping) or (isinstance(data, tuple | list) and len(data) > 1 and not _is_batches(list(data))):
        whole = _tensors(data)
        return Traits(length=num_examples(whole), labels=_labels(whole))
    return None
