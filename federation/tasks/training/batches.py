"""What a batch is: how many examples it has, what the model is called with, and what the loss gets.

A batch is whatever a data set or loader gives: (inputs, targets), more than two things, or a mapping by name, as
Hugging Face's collators make it; each part may itself be a tuple or a mapping of tensors. An example is one row of the
first tensor, everywhere: weights, means over a test set, batches too small to normalise. Where examples cannot be
stacked, as pictures of several sizes with their boxes, a list has one item for each.
"""

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from federation.errors import TaskError
from federation.tasks.data.batch_notes import note_of

__all__ = [
    "TARGET_NAMES",
    "Batch",
    "Loss",
    "Reading",
    "first_gap",
    "first_tensor",
    "inputs_of",
    "is_example",
    "mapped",
    "num_examples",
    "output_of",
    "tensors_in",
]

Batch = Any
"""(inputs, targets), more than two things, or a mapping."""

Loss = Callable[[Any, Any], torch.Tensor]
"""Output and target to the mean loss of a batch, a scalar tensor."""

TARGET_NAMES = ("labels", "label", "targets", "target", "y")
"""What the targets are called in a mapping."""

GAP = "is not finite: fill the gap or leave the row out, or say TorchTask(gaps=True) where the model knows gaps"

_UNLIMITED = 1 << 30
_LOOKS = 8
"""So many batches are looked at for a loss of all pairs, where the first ones do not say it."""


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of a batch, in its own order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        # One row per example, and not one per place.
        yield value.batch_sizes.new_empty(int(value.batch_sizes[0]), 0)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors_in(each)


def first_tensor(value: Any) -> torch.Tensor | None:
    """The first tensor with rows; None where there is none."""
    return next((tensor for tensor in tensors_in(value) if tensor.ndim), None)


def inputs_of(batches: Iterator[Batch]) -> NDArray[Any]:
    """The inputs of all batches in one array: what comes first in each.

    Raises:
        TaskError: They are several tensors, or of several shapes.
    """
    found = [batch[0] if isinstance(batch, tuple | list) else batch for batch in batches]
    tensors = [part for part in found if isinstance(part, torch.Tensor)]
    if not found or len(tensors) < len(found) or len({part.shape[1:] for part in tensors}) > 1:
        raise TaskError("the inputs are not one array: give the task column_names() and rows() of its own")
    whole: NDArray[Any] = torch.cat(tensors).cpu().numpy()
    return whole


def num_examples(batch: Batch) -> int:
    """How many examples a batch has: the leading dimension of its first tensor, or the length of its lists.

    Raises:
        TaskError: It has none.
    """
    if (listed := _listed(batch)) is not None:
        return listed
    found = first_tensor(batch)
    if found is not None:
        return len(found)
    for part in batch if isinstance(batch, tuple | list) else (batch,):
        if hasattr(part, "__len__") and not isinstance(part, Mapping | tuple | list | str | torch.Tensor):
            return len(part)
    raise TaskError(
        f"a batch of the data has no tensor with rows, so nobody can say how many examples it has: {_kind(batch)}"
    )


def is_example(value: Any) -> bool:
    """Whether this is one example, and no batch: its target is one number, or both are rows of uneven length."""
    if isinstance(value, Mapping):
        target = next((value[name] for name in TARGET_NAMES if name in value), None)
        return _is_number(target) and any(map(_has_rows, value.values()))
    if not isinstance(value, tuple | list) or len(value) < 2:
        return False
    if np.ndim(value[-1]) == 0:
        return _has_rows(value[0])
    # (features,) and (targets,): a batch would have as many of both.
    rows = [each for each in (value[0], value[-1]) if isinstance(each, torch.Tensor | np.ndarray) and each.ndim == 1]
    return len(rows) == 2 and len(rows[0]) != len(rows[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray | np.number | int | float) and np.ndim(value) == 0


def _has_rows(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray | list) and np.ndim(value) > 0


def _listed(batch: Batch) -> int | None:
    """How many examples lie in lists, one item each; None where the tensors have one row for each."""
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch
    if not isinstance(parts, tuple | list):
        return None
    lists = [part for part in parts if isinstance(part, tuple | list)]
    lengths = {len(part) for part in lists}
    if len(lengths) != 1:
        return None
    # What is found in each picture is a mapping of its own, also where each has as many boxes as it has colours.
    found = len(lists) == len(parts) and all(isinstance(each, Mapping) for each in lists[-1])
    uneven = len({len(tensor) for tensor in tensors_in(batch) if tensor.ndim}) > 1
    # Two inputs have as many rows as the target, which are more than there are inputs.
    rows = {len(part) for part in parts if isinstance(part, torch.Tensor) and part.ndim}
    return lengths.pop() if found or (uneven and rows <= lengths) else None


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same structure of tuples, lists and mappings with every leaf changed."""
    if isinstance(value, dict):
        return {name: mapped(change, each) for name, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields") and not hasattr(value, "to"):
        return type(value)(*(mapped(change, each) for each in value))
    if type(value) in {tuple, list}:
        return type(value)(mapped(change, each) for each in value)
    return change(value)


def first_gap(batch: Batch, row: int, columns: Sequence[str] = ()) -> str | None:
    """The first number that is not finite, such as ``input row 7, column 3``; rows are counted from ``row`` on.

    Args:
        batch: The numbers.
        row: What its first row is called.
        columns: Names of the inputs' columns, where they are known.
    """
    for name, values in _named(batch):
        # A sum costs no memory of its own; it is not finite where a part is not, and seldom where all are.
        if not values.is_floating_point() or torch.isfinite(values.sum()):
            continue
        places = torch.nonzero(~torch.isfinite(values)).tolist()
        if places:
            first, *rest = places[0]
            named = name == "input" and len(rest) == 1 and len(columns) == values.shape[1]
            place = repr(columns[rest[0]]) if named else ", ".join(map(str, rest))
            return f"{name} row {row + first}{f', column {place}' if rest else ''} {GAP}"
    return None


def _named(batch: Batch) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors with rows, and what they are."""
    if isinstance(batch, Mapping):
        parts = [(str(name), part) for name, part in batch.items()]
    else:
        last = len(batch) - 1 if isinstance(batch, tuple | list) else 0
        parts = [("target" if place == last else "input", part) for place, part in enumerate(batch)]
    for name, part in parts:
        yield from ((name, tensor) for tensor in tensors_in(part) if tensor.ndim)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a batch is read: what the model is called with, and what the loss gets.

    - Of a mapping the model gets what its ``forward`` has arguments for, by name; the loss gets (output, batch).
    - Of (inputs, targets) it gets the inputs: apart where ``forward`` needs several, else as they are.
    - Of more than two things it gets as many as ``forward`` needs, from the first on; the loss gets what is left.
    - A loss whose second argument is called ``batch`` gets the whole batch.
    """

    module: nn.Module
    loss: Loss
    needed: int
    taken: int
    names: frozenset[str]
    any_name: bool
    whole: bool
    looks: list[bool | None] = field(default_factory=list)
    """Whether the loss is of all pairs of rows, as often as it was looked at; None: that could not be said."""

    @classmethod
    def of(cls, module: nn.Module, loss: Loss) -> "Reading":
        """Look at the arguments of both."""
        arguments = _arguments(getattr(module, "_orig_mod", module).forward)
        by_place = [each for each in arguments if each.kind in _BY_PLACE]
        variable = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in arguments)
        of_loss = [each for each in _arguments(loss) if each.kind in _BY_PLACE]
        return cls(
            module=module,
            loss=loss,
            needed=sum(each.default is inspect.Parameter.empty for each in by_place),
            taken=_UNLIMITED if variable else len(by_place),
            names=frozenset(each.name for each in arguments if each.kind in _BY_NAME),
            any_name=any(each.kind is inspect.Parameter.VAR_KEYWORD for each in arguments),
            whole=len(of_loss) > 1 and of_loss[1].name == "batch",
        )

    def __call__(self, batch: Batch) -> tuple[Any, torch.Tensor]:
        """The model's output for a batch, and its loss.

        Raises:
            TaskError: The loss is none, or compares each output with the targets of all rows.
        """
        try:
            output, target = self.output(batch), self.target(batch)
            loss = self.loss(output, target)
        except TaskError:
            raise
        except Exception as error:
            with suppress(Exception):  # a device on which a kernel has failed tells nothing any more
                error.add_note(note_of(error, batch, taken=self._count(batch)))
            raise
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            given = f"tensor of shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else _kind(loss)
            raise TaskError(f"loss must return the mean loss of the batch, a tensor of one number, not a {given}")
        if len(self.looks) < _LOOKS and _would_broadcast(output, target) and self._compares_all_pairs(output, target):
            raise TaskError(
                f"the outputs are {list(output.shape)} and the targets {list(target.shape)}, so that the loss compares"
                " each output with the targets of all rows: give both one shape, such as targets[:, None],"
                " output.squeeze(1) or output[:, 0]"
            )
        return output, loss.reshape(())

    def _compares_all_pairs(self, output: torch.Tensor, target: torch.Tensor) -> bool:
        flat = target.detach().reshape(len(target), -1)
        differs = (flat != flat[0]).any(0)
        if not bool(differs.any()):
            return False  # every pair is as good as every other
        key = flat[:, int(differs.int().argmax())].float()
        least, greatest = int(key.argmin()), int(key.argmax())
        # Of two rows alone it is all one to a loss of equal labels which of them has which.
        rows = [least, greatest, least]
        found = _of_pairs(self.loss, output[rows].detach(), target[rows].detach())
        self.looks.extend([found] * (1 if found is None else _LOOKS))
        return found is True

    def output(self, batch: Batch) -> Any:
        """The model's output for a batch."""
        places, names = self.inputs(batch)
        return self.module(*places, **names)

    def inputs(self, batch: Batch) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """What the model is called with, by place and by name.

        Raises:
            TaskError: This is no batch.
        """
        if isinstance(batch, Mapping):
            return self._by_name(batch) or ((batch,), {})
        parts = _parts(batch)
        if len(parts) > 2:
            return tuple(parts[: self._count(parts)]), {}
        inputs = parts[0]
        if isinstance(inputs, Mapping):
            return self._by_name(inputs) or ((inputs,), {})
        if type(inputs) in {tuple, list} and 2 <= self.needed <= len(inputs):
            return tuple(inputs), {}
        return (inputs,), {}

    def target(self, batch: Batch) -> Any:
        """What the loss, and a metric, compare the output with."""
        if self.whole or isinstance(batch, Mapping):
            return batch
        parts = _parts(batch)
        rest = parts[self._count(parts) :]
        return rest[0] if len(rest) == 1 else tuple(rest)

    def _count(self, parts: Sequence[Any]) -> int:
        return 1 if len(parts) == 2 else max(1, min(self.needed or self.taken, len(parts) - 1))

    def _by_name(self, named: Mapping[str, Any]) -> tuple[tuple[()], Mapping[str, Any]] | None:
        chosen = named if self.any_name else {name: each for name, each in named.items() if name in self.names}
        return ((), dict(chosen)) if chosen else None


def output_of(loss: Loss, batch: Batch, module: nn.Module) -> Any:
    """The output of a model that is read as one with this loss."""
    return Reading.of(module, loss).output(batch)


def _would_broadcast(output: Any, target: Any) -> bool:
    """Whether arithmetic on both may take each output with each target, such as (rows, 1) minus (rows,).

    A loss of several outputs for each row may do so with one column of them.
    """
    if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor) or output.shape == target.shape:
        return False
    if not output.ndim or not target.ndim or not len(output) == len(target) > 1:
        return False
    if output.numel() != target.numel():
        return output.ndim == 2 and target.ndim == 1 and target.is_floating_point()
    try:
        both: torch.Size = torch.broadcast_shapes(output.shape, target.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
    return both.numel() > output.numel()


@torch.no_grad()
def _of_pairs(loss: Loss, output: torch.Tensor, target: torch.Tensor) -> bool | None:
    """Whether the loss of three rows depends on their targets, and not on which of them belongs to which output.

    None: these do not say it. A loss may bring both into one shape itself, so the shapes alone say nothing.

    Args:
        loss: Of a batch.
        output: Of three rows; only its shape and type are used.
        target: Theirs, the first as the third and not as the second.
    """
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            return _forgets_rows(copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss, output, target)
    except Exception:  # noqa: BLE001 - a loss need not take three rows, nor these outputs
        return None


def _forgets_rows(loss: Loss, output: torch.Tensor, target: torch.Tensor) -> bool | None:
    """The same; whatever the loss raises."""
    depends = False
    for tried in _right_answers(output, target):
        own, swapped, same = (float(loss(tried, each)) for each in (target, target[[1, 0, 2]], target[[0, 0, 0]]))
        if not math.isfinite(own):
            continue
        if not _alike(own, swapped):
            return False
        depends = depends or not _alike(own, same)
    return depends or None


def _right_answers(output: torch.Tensor, target: torch.Tensor) -> Iterator[torch.Tensor]:
    """Outputs that a row's own target fits best, so that another one costs more: of others both may cost the same.

    Of several columns each has a part of it: scores that are all alike fit any class.
    """
    wide = target.reshape(len(target), -1).to(output.dtype)
    count = output.reshape(len(output), -1).shape[1]
    parts = torch.arange(1, count + 1, device=output.device) if len(wide[0]) == 1 else 1
    for values in (wide, (wide - wide.mean(0)) / (wide.std(0) + 1e-6), wide / 2 + 0.25):
        yield (values / parts).reshape(output.shape)


def _alike(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-8)


_BY_PLACE = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
_BY_NAME = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


def _arguments(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C
        return []


def _parts(batch: Any) -> Sequence[Any]:
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise TaskError(
            f"data and batches must be (inputs, targets), more than two things or a dict, not {_kind(batch)}"
        )
    return batch


def _kind(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple | list | np.ndarray) else ""
    return f"{type(value).__name__}{size}"
