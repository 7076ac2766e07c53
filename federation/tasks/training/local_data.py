"""The local data as one pass per epoch: tensors without a loader, data sets and loaders as they are."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from federation.errors import TaskError
from federation.task import TaskContext
from federation.tasks.data.partitioners import Traits, all_parts, matching_parts, part_of, split
from federation.tasks.data.whole_data import WholeData

__all__ = [
    "BLOCK_BYTES_MAX",
    "NO_BATCH",
    "Batch",
    "DatasetData",
    "LoaderData",
    "LocalData",
    "TensorData",
    "as_tensor",
    "evaluation_data",
    "first_batch",
    "gap_in",
    "held_out",
    "labels_of",
    "local_data",
    "on_device",
    "own_data",
]

Batch = tuple[Any, Any]
"""Inputs and targets."""

BLOCK_BYTES_MAX = 1 << 20
"""Shuffled inputs are gathered in blocks of this size: they stay in the cache, and memory is bounded."""

NO_BATCH = "{} gives no batch that can be used: see drop_last and batch_size of its loader, and how many rows there are"
"""What is said of data out of which nothing comes, by whose data it is."""

GAP = "is not finite: fill the gap or leave the row out, or say TorchTask(gaps=True) where the model knows gaps"


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
        data: (inputs, targets), a `WholeData` or a map-style Dataset of the whole federation, of which this node's
            part is taken; or a function that returns this node's own: (inputs, targets), a Dataset, or an iterable of
            batches.
        context: Says which part.
        device: Where batches shall be.
        by: How one data set is divided, where the context does not say it.

    Raises:
        TaskError: This is none of these, or it is empty.
    """
    if isinstance(data, WholeData):
        return TensorData(*data.part(context, by), device)
    if callable(data) and not isinstance(data, Dataset):
        return own_data(data(), device)
    if isinstance(data, Dataset):
        rows = part_of(context, len(data), by=by, labels=labels_of(data))  # type: ignore[arg-type]
        if isinstance(data, TensorDataset) and len(data.tensors) == 2:
            return TensorData(data.tensors[0][rows], data.tensors[1][rows], device)
        return DatasetData(Subset(data, rows.tolist()), device)
    whole = (each if isinstance(each, torch.Tensor) else np.asarray(each) for each in _pair(data))
    inputs, targets = split(context, *whole, by=by)
    return TensorData(inputs, targets, device)


def own_data(data: Any, device: torch.device) -> LocalData:
    """Data that needs no partition: (inputs, targets), a Dataset, an iterable of batches, or a function of these.

    Raises:
        TaskError: This is none of these, or it is empty.
    """
    if isinstance(data, Dataset):
        if isinstance(data, TensorDataset) and len(data.tensors) == 2:
            return TensorData(*data.tensors, device)
        return DatasetData(data, device)
    if callable(data):
        return own_data(data(), device)
    if isinstance(data, tuple | list):
        return TensorData(*_pair(data), device)
    if isinstance(data, Iterable):
        return LoaderData(data, device)
    raise TaskError(f"data must be (inputs, targets), a Dataset or an iterable of batches, not {type(data).__name__}")


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
    """All examples in two tensors on the device: one permutation per epoch, batches are slices."""

    def __init__(self, inputs: Any, targets: Any, device: torch.device) -> None:
        """Args: tensors or arrays of one length; float64 arrays become float32, integer arrays int64."""
        self._inputs, self._targets = as_tensor(inputs).to(device), as_tensor(targets).to(device)
        self.num_examples = len(self._inputs)
        if self.num_examples == 0 or len(self._targets) != self.num_examples:
            raise TaskError(f"{self.num_examples} inputs and {len(self._targets)} targets: need as many, at least one")

    def refuse_gaps(self, whose: str = "") -> None:
        """Look for numbers that are not finite.

        Args:
            whose: Said before the place, such as ``test ``.

        Raises:
            TaskError: It says row and column of the first one.
        """
        for what, tensor in (("input", self._inputs), ("target", self._targets)):
            if (place := _first_gap(tensor)) is not None:
                raise TaskError(f"{whose}{what} {place} {GAP}")

    def rows(self, rows: torch.Tensor) -> "TensorData":
        """A part of it, in this order."""
        rows = rows.to(self._inputs.device)
        return TensorData(self._inputs[rows], self._targets[rows], self._inputs.device)

    def epoch(self, generator: torch.Generator, batch_size: int) -> Iterator[Batch]:
        """See `LocalData`."""
        if batch_size == 0 or batch_size >= self.num_examples:
            yield self._inputs, self._targets
            return
        order = torch.randperm(self.num_examples, generator=generator).to(self._inputs.device)
        row_bytes = max(1, self._inputs.element_size() * self._inputs[0].numel())
        block = batch_size * max(1, BLOCK_BYTES_MAX // (row_bytes * batch_size))
        for rows in _cut(order, block):
            yield from zip(_cut(self._inputs[rows], batch_size), _cut(self._targets[rows], batch_size), strict=True)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """See `LocalData`."""
        yield from zip(_cut(self._inputs, batch_size), _cut(self._targets, batch_size), strict=True)


class DatasetData:
    """A map-style data set, collated by torch's loader in this process."""

    def __init__(self, dataset: Dataset[Any], device: torch.device) -> None:
        """Args: ``dataset`` has a length and gives (input, target)."""
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


class LoaderData:
    """Batches that the user's own iterable makes: its batch size and its shuffle win."""

    def __init__(self, batches: Iterable[Any], device: torch.device) -> None:
        """Args: ``batches`` can be iterated once per epoch and gives (inputs, targets)."""
        self._batches = batches
        self._device = device
        self.num_examples = 0

    def epoch(self, generator: torch.Generator, batch_size: int) -> Iterator[Batch]:  # noqa: ARG002 - the loader's own win
        """See `LocalData`."""
        return self.in_order(batch_size)

    def in_order(self, batch_size: int) -> Iterator[Batch]:  # noqa: ARG002 - the loader's own wins
        """See `LocalData`."""
        seen = 0
        for inputs, targets in on_device(self._batches, self._device):
            seen += len(targets)
            self.num_examples = max(self.num_examples, seen)
            yield inputs, targets


def first_batch(batches: Iterator[Batch], whose: str) -> Batch:
    """The first batch.

    Raises:
        TaskError: There is none.
    """
    for batch in batches:
        return batch
    raise TaskError(NO_BATCH.format(whose))


def _first_gap(values: Any) -> str | None:
    """Where the first number lies that is not finite, such as ``row 7, column 3``; None where all are.

    Args:
        values: A tensor whose first dimension are rows, or tensors in a list, a tuple or a dict.
    """
    if isinstance(values, Mapping):
        return _first_gap(list(values.values()))
    if isinstance(values, tuple | list):
        return next((place for place in map(_first_gap, values) if place is not None), None)
    # A sum costs no memory of its own; it is not finite where a part is not, and seldom where all are.
    if not isinstance(values, torch.Tensor) or not values.is_floating_point() or torch.isfinite(values.sum()):
        return None
    places = torch.nonzero(~torch.isfinite(values if values.ndim else values.reshape(1))).tolist()
    if not places:
        return None
    row, *rest = places[0]
    return f"row {row}" + (f", column {', '.join(map(str, rest))}" if rest else "")


def gap_in(data: LocalData, batch_size: int) -> str | None:
    """Which row of the data's own order is not finite; None where all are, or where the rows cannot be counted."""
    before = 0
    for inputs, targets in data.in_order(batch_size):
        for what, values in (("input", inputs), ("target", targets)):
            if (place := _first_gap(values)) is not None:
                row, comma, rest = place.removeprefix("row ").partition(",")
                return f"{what} row {before + int(row)}{comma}{rest} {GAP}"
        before += len(targets)
    return None


def on_device(batches: Iterable[Any], device: torch.device) -> Iterator[Batch]:
    """Batches of (inputs, targets), moved to the device; whatever is no tensor stays as it is."""
    move: Callable[[Any], Any] = lambda value: value.to(device) if hasattr(value, "to") else value  # noqa: E731 - one use
    for batch in batches:
        inputs, targets = _pair(batch)
        yield move(inputs), move(targets)


def as_tensor(values: Any) -> torch.Tensor:
    """A tensor of these values: a NumPy array of floats becomes float32, one of integers int64."""
    if isinstance(values, torch.Tensor):
        return values
    array = np.asarray(values)
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    elif array.dtype.kind in "iub":
        array = array.astype(np.int64, copy=False)
    else:
        raise TaskError(f"data must be numbers, not {array.dtype}")
    # torch warns about read-only memory, which it cannot protect.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _cut(tensor: torch.Tensor, rows: int) -> tuple[torch.Tensor, ...]:
    """Views of so many rows each; the last may have fewer."""
    return tensor.split(rows)  # type: ignore[no-untyped-call,no-any-return]  # torch has no annotation for it


def _pair(data: Any) -> tuple[Any, Any]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TaskError("data and batches must be pairs: (inputs, targets)")
    return data[0], data[1]


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
