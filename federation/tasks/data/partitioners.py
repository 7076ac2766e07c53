"""Ways to divide a data set among nodes for an experiment, by name: the same seed, the same parts, everywhere.

- ``iid``: equal parts of shuffled rows.
- ``shards:N``: rows sorted by label, cut into N shards per node that are dealt at random (arXiv 1602.05629, section 3).
- ``dirichlet:ALPHA``: each label's rows in shares from Dirichlet(ALPHA): small is skewed (arXiv 1909.06335).
- ``natural``: by owner, such as who wore the device: node i has every count-th owner, from the i-th on.

Every row belongs to exactly one node, and every node has at least one. Test rows follow the training rows
(`matching_parts`): each belongs to exactly one node, too, but a node may have none.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigError, TaskError
from federation.task import TaskContext
from federation.tasks.data.frames import rows_at

__all__ = [
    "PARTITIONERS",
    "Partition",
    "Rows",
    "Traits",
    "all_parts",
    "divide",
    "matching_parts",
    "parse_partition",
    "part_of",
    "permutation",
    "split",
]

Rows = NDArray[np.int64]
"""Row numbers of one node, int64 of shape (n,)."""

_STREAM, _TEST_STREAM = 0x5EED, 0x7E57
"""Set these draws apart from others of the same seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One way to divide, as its text says it.

    Attributes:
        kind: One of `PARTITIONERS`.
        value: Shards per node, or the concentration; 0 where there is none.
    """

    kind: str
    value: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What is known of the rows.

    Attributes:
        length: How many there are.
        labels: Their classes, integers of shape (length,), or None.
        owners: Whose they are, of shape (length,), or None.
    """

    length: int
    labels: NDArray[Any] | None = None
    owners: NDArray[Any] | None = None


def parse_partition(text: str) -> Partition:
    """Read ``iid``, ``shards:2``, ``dirichlet:0.1`` or ``natural``.

    Raises:
        ConfigError: There is no such way, or its number is missing or out of range.
    """
    kind, colon, number = text.partition(":")
    if kind not in PARTITIONERS:
        raise ConfigError("partition", f"{text!r} is unknown; choose iid, shards:N, dirichlet:ALPHA or natural")
    if kind in {"iid", "natural"}:
        if colon:
            raise ConfigError("partition", f"{kind} takes no number, not {text!r}")
        return Partition(kind=kind)
    try:
        value = float(number)
    except ValueError:
        raise ConfigError("partition", f"{kind} needs a number, such as {kind}:2, not {text!r}") from None
    whole = kind == "dirichlet" or value.is_integer()
    if not (math.isfinite(value) and value > 0 and whole):
        raise ConfigError("partition", f"{kind} needs a {'whole ' if kind == 'shards' else ''}number above 0: {text!r}")
    return Partition(kind=kind, value=value)


def divide(partition: Partition, traits: Traits, *, count: int, seed: int) -> list[Rows]:
    """The rows of every node.

    Args:
        partition: How.
        traits: What is known of the rows.
        count: How many nodes there are.
        seed: The same seed gives the same parts.

    Raises:
        TaskError: There are too few rows, labels are missing or no integers, or owners are missing or too few.
    """
    if traits.length < count:
        raise TaskError(f"{traits.length} examples cannot be divided among {count} nodes: use fewer nodes")
    return PARTITIONERS[partition.kind](partition, traits, count, seed)


def split(context: TaskContext, *arrays: Any, by: str = "iid", owners: Any = None) -> tuple[Any, ...]:
    """This node's rows of each array.

    Args:
        context: Says which part: ``node_index`` of ``node_count``, by ``seed``; its ``partition`` wins over ``by``.
        arrays: NumPy arrays, torch tensors or data frames of the same length, such as inputs and targets; the last
            are the labels.
        by: ``iid``, ``shards:N``, ``dirichlet:ALPHA`` or ``natural``.
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
    return tuple(rows_at(array, rows) for array in arrays)


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


def matching_parts(parts: Sequence[Rows], train: Traits, test: Traits, *, seed: int) -> list[Rows]:
    """The test rows of every node: of each label in the shares in which its training rows are divided.

    So a node is tested on what it trains on, and all nodes together on every test row once. Where labels are no
    classes, all rows are of one kind.

    Args:
        parts: The training rows of every node.
        train: What is known of all training rows.
        test: What is known of all test rows.
        seed: The same seed gives the same parts.
    """
    known, asked = _classes(train), _classes(test)
    if known is None or asked is None:
        known, asked = np.zeros(train.length, np.int64), np.zeros(test.length, np.int64)
    rng, found = np.random.default_rng([abs(seed), _TEST_STREAM]), [list[Rows]() for _ in parts]
    sizes = np.array([len(part) for part in parts])
    for kind in np.unique(asked):
        rows = rng.permutation(np.flatnonzero(asked == kind))
        counts = np.array([np.count_nonzero(known[part] == kind) for part in parts])
        # In another order for each label: rounding would leave the same nodes without any.
        order = rng.permutation(len(parts))
        weights = (counts if counts.any() else sizes)[order]
        cuts = (np.cumsum(weights)[:-1] / weights.sum() * len(rows)).round().astype(int)
        for node, piece in zip(order, np.split(rows, cuts), strict=True):
            found[node].append(piece)
    return [np.sort(np.concatenate(pieces)).astype(np.int64) for pieces in found]


def _classes(traits: Traits) -> NDArray[Any] | None:
    """The class of each row; None where there are no classes."""
    labels = None if traits.labels is None else np.asarray(traits.labels)
    return labels if labels is not None and labels.shape == (traits.length,) and labels.dtype.kind in "iub" else None


def _iid(_partition: Partition, traits: Traits, count: int, seed: int) -> list[Rows]:
    """Torch's permutation, so that a part equals ``torch.randperm`` of that seed, cut into pieces."""
    order = permutation(traits.length, seed)
    bounds: Sequence[int] = np.linspace(0, traits.length, count + 1).round().astype(int).tolist()
    return [order[start:end] for start, end in pairwise(bounds)]


def permutation(length: int, seed: int) -> Rows:
    """The same as ``torch.randperm`` of a generator with this seed, also where torch is not installed."""
    try:
        import torch  # noqa: PLC0415 - costs a second and 200 MB: only where data is read
    except ModuleNotFoundError:
        return _permutation_by_numpy(length, seed)
    order: Rows = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).numpy()
    return order


def _permutation_by_numpy(length: int, seed: int) -> Rows:
    """Fisher and Yates with the same generator (MT19937) and the same remainders; half a second for a million rows."""
    generator = np.random.MT19937()
    generator._legacy_seeding(seed & 0xFFFFFFFF)  # noqa: SLF001 - how the C library's generator is seeded, which torch has too
    draws = generator.random_raw(max(length - 1, 0)).astype(np.int64) % np.arange(length, 1, -1)
    order = list(range(length))
    for place, ahead in enumerate(draws.tolist()):
        order[place], order[place + ahead] = order[place + ahead], order[place]
    return np.array(order, np.int64)


def _shards(partition: Partition, traits: Traits, count: int, seed: int) -> list[Rows]:
    per_node = int(partition.value)
    if traits.length < count * per_node:
        raise TaskError(f"{traits.length} examples are too few for {count} nodes with {per_node} shards each")
    pieces = np.array_split(np.argsort(_labels(traits, "shards"), kind="stable"), count * per_node)
    dealt = _rng(seed).permutation(count * per_node).reshape(count, per_node)
    return [np.concatenate([pieces[index] for index in row]).astype(np.int64) for row in dealt]


def _dirichlet(partition: Partition, traits: Traits, count: int, seed: int) -> list[Rows]:
    rng, labels = _rng(seed), _labels(traits, "dirichlet")
    parts: list[list[Rows]] = [[] for _ in range(count)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(count, partition.value))
        # A tiny concentration underflows to shares that are all zero: then one node has them all.
        shares = shares if np.isfinite(shares).all() and shares.sum() > 0 else np.eye(count)[rng.integers(count)]
        cuts = (np.cumsum(shares)[:-1] * len(rows)).round().astype(int)
        for part, piece in zip(parts, np.split(rows, cuts), strict=True):
            part.append(piece)
    return _nobody_empty([np.concatenate(part).astype(np.int64) for part in parts])


def _natural(_partition: Partition, traits: Traits, count: int, _seed: int) -> list[Rows]:
    if traits.owners is None or len(traits.owners) != traits.length:
        raise TaskError("the partition 'natural' needs the owner of each row, which this data does not have")
    owners = np.unique(traits.owners)
    if count > len(owners):
        raise TaskError(f"{len(owners)} owners cannot be divided among {count} nodes: use fewer nodes")
    return [np.flatnonzero(np.isin(traits.owners, owners[index::count])) for index in range(count)]


def _nobody_empty(parts: list[Rows]) -> list[Rows]:
    """A node without examples cannot train: each empty one takes a row of the largest."""
    for index, part in enumerate(parts):
        if len(part) == 0:
            largest = max(range(len(parts)), key=lambda each: len(parts[each]))
            parts[index], parts[largest] = parts[largest][-1:], parts[largest][:-1]
    return parts


def _labels(traits: Traits, kind: str) -> NDArray[Any]:
    labels = _classes(traits)
    if labels is None:
        raise TaskError(f"the partition {kind!r} needs one whole number as the label of each row")
    return labels


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([abs(seed), _STREAM])


PARTITIONERS: Mapping[str, Callable[[Partition, Traits, int, int], list[Rows]]] = {
    "iid": _iid,
    "shards": _shards,
    "dirichlet": _dirichlet,
    "natural": _natural,
}
"""By name: partition, traits, number of nodes and seed to the rows of every node."""
