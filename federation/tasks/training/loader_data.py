"""Batches that the user's own loader makes, and how many examples it holds."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from federation.errors import TaskError
from federation.runtime.log import get_log
from federation.tasks.training.batches import Batch, is_example, mapped, num_examples

__all__ = ["LoaderData", "on_device"]


MANY = 1_000_000
"""Examples of one pass after which a loader that does not say how many it has may have no end."""


class LoaderData:
    """Batches that the user's own iterable makes: its batch size and its shuffle win."""

    def __init__(self, batches: Iterable[Any], device: torch.device) -> None:
        """Args: ``batches`` can be iterated once per epoch.

        Raises:
            TaskError: It can be iterated only once.
        """
        if iter(batches) is batches:
            raise TaskError(_ONCE)
        self._batches = batches
        self._device = device
        self.num_examples = self._counted = 0
        self._quiet = False  # its length is known, or it was told of

    def epoch(self, generator: torch.Generator, batch_size: int) -> Iterator[Batch]:  # noqa: ARG002 - the loader's own win
        """See `LocalData`."""
        return self.in_order(batch_size)

    def in_order(self, batch_size: int) -> Iterator[Batch]:  # noqa: ARG002 - the loader's own wins
        """See `LocalData`.

        Raises:
            TaskError: It gives nothing any more.
        """
        seen = 0
        for count, batch in enumerate(on_device(self._batches, self._device), start=1):
            if is_example(batch):
                raise TaskError(_EXAMPLES)
            seen += num_examples(batch)
            # Also where the pass is cut short: what the loader holds is the weight, and not what was taken of it.
            expected = 0 if self._counted else _held(self._batches, seen, count)
            self.num_examples = max(self.num_examples, seen, expected)
            self._quiet |= bool(expected or self._counted)
            if seen >= MANY and not self._quiet:
                self._quiet = True
                why = f"one pass has given {seen:,} examples, and nothing says where it ends: if nowhere, set max_steps"
                get_log("task").warning("data_without_end", why=why)
            yield batch
        if not seen and self.num_examples:
            raise TaskError(_ONCE)
        # Of a whole pass it is known, whatever the loader has said.
        self.num_examples = self._counted = max(self._counted, seen)

    def unshuffled(self) -> "LoaderData":
        """The same examples by their number in the data set, where there is one."""
        loader = self._batches
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return self
        plain: DataLoader[Any] = DataLoader(loader.dataset, batch_size=64, collate_fn=loader.collate_fn)
        return LoaderData(plain, self._device)


_ONCE = "the data can be iterated once only, and every epoch needs it: give a list, a Dataset or a DataLoader"


_EXAMPLES = "the data gives single examples in place of batches: give its DataLoader a batch_size, or a list of them"


def _held(batches: Iterable[Any], seen: int, count: int) -> int:
    """How many examples a loader has, as far as it says so.

    Args:
        batches: The loader.
        seen: Examples of its first batches.
        count: How many batches these were.
    """
    if isinstance(batches, DataLoader):
        sampler, size = batches.sampler, batches.batch_size
        if isinstance(sampler, Sized) and size is not None and not isinstance(batches.dataset, IterableDataset):
            return len(sampler) // size * size if batches.drop_last else len(sampler)
    if isinstance(batches, Sequence):
        return sum(num_examples(batch) for batch in batches) if count == 1 else 0
    try:
        length = len(batches)  # type: ignore[arg-type]  # it has one, or raises
    except (TypeError, NotImplementedError):
        return 0
    return seen + (length - count) * (seen // count) if count == 1 else 0


def on_device(batches: Iterable[Any], device: torch.device) -> Iterator[Batch]:
    """Batches, moved to the device; whatever is no tensor stays as it is. Nothing is trained before the model."""

    def moved(value: Any) -> Any:
        value = value.detach() if isinstance(value, torch.Tensor) else value
        return value.to(device) if hasattr(value, "to") else value

    for batch in batches:
        yield mapped(moved, batch)
