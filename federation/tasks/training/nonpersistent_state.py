"""State of a model that is in none of the tensors that travel: plain attributes, and buffers with ``persistent=False``.

Nobody sends it. Where training changes it and predictions depend on it, every node has another model than the
coordinator, and none of them is the one that is exported. Caches are state, too, but make no difference.
"""

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from federation.errors import TaskError, is_of_library

__all__ = ["NonPersistentState", "refuse_nonpersistent"]

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_NUMBERS = (bool, int, float, complex, str, bytes, type(None), np.generic)
_GONE = object()


@dataclass(frozen=True, slots=True)
class NonPersistentState:
    """What `NonPersistentState.of` has found.

    Attributes:
        values: Copies, by the number of their owner and the attribute.
        owners: Modules and the objects that they hold, by number, which is their identity.
        names: What the owners are called in the model.
    """

    values: Mapping[tuple[int, str], Any]
    owners: Mapping[int, Any]
    names: Mapping[int, str]

    @classmethod
    def of(cls, module: nn.Module) -> "NonPersistentState":
        """Copy it; attributes that hold anything but numbers, texts, tensors and collections of these are left out.

        Objects of the user's own that hold such attributes are looked into.

        Args:
            module: The model. Parts of torch itself keep nothing of this kind that matters.
        """
        named = [(name, each) for name, each in module.named_modules() if not _is_of_torch(each)]
        owners, names = dict[int, Any](), dict[int, str]()
        while named:
            called, owner = named.pop(0)
            if id(owner) in owners:
                continue
            owners[id(owner)], names[id(owner)] = owner, called
            held = [(name, value) for name, value in _attributes(owner) if _is_record(value)]
            named += [(".".join(filter(None, (called, name))), value) for name, value in held]
        values = {
            (number, name): _copied(value) for number, owner in owners.items() for name, value in _attributes(owner)
        }
        return cls(values, owners, names)

    def put(self) -> None:
        """Give every attribute the value that it had, and take away those that there were not."""
        for number, owner in self.owners.items():
            for name in [name for name, _ in _attributes(owner) if (number, name) not in self.values]:
                delattr(owner, name)
        for (number, name), value in self.values.items():
            setattr(self.owners[number], name, _copied(value))

    def changed(self, since: "NonPersistentState") -> list[tuple[int, str]]:
        """Whose attributes are not what they were."""
        keys = dict.fromkeys((*since.values, *self.values))
        return [key for key in keys if not _same(since.values.get(key, _GONE), self.values.get(key, _GONE))]


def refuse_nonpersistent(module: nn.Module, before: NonPersistentState, predict: Callable[[], Any]) -> None:
    """Refuse a model whose predictions depend on what training has changed, and nobody hears of.

    A model that draws its predictions, that counts its calls in evaluation mode, too, or that cannot predict with what
    was before, is not judged.

    Args:
        module: After training, in evaluation mode; its state is what it was when this returns.
        before: Its state before training.
        predict: Runs it, always on the same inputs and with the same weights.

    Raises:
        TaskError: It names the attributes, such as ``block.0.scale``.
    """
    now = NonPersistentState.of(module)
    changed = now.changed(since=before)
    if not changed:
        return
    try:
        first = predict()
        moved = NonPersistentState.of(module).changed(since=now)
        now.put()
        again = predict()
        before.put()
        former = predict()
    except Exception:  # noqa: BLE001 - user code, on a state that it need not know; training goes on
        return
    finally:
        now.put()
    counts = all(key in moved and isinstance(now.values.get(key), int) for key in changed)
    if counts or not _close(first, again) or _close(first, former):
        return
    known = {**before.names, **now.names}
    names = ", ".join(".".join(filter(None, (known[number], name))) for number, name in changed[:8])
    raise TaskError(
        f"training changes {names}, which no other device hears of, and predictions depend on it. Make it a buffer"
        " (register_buffer): it travels, or stays here where TorchTask(local=...) names it"
    )


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "torch"


def _attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    is_module = isinstance(owner, nn.Module)
    own = [(name, value) for name, value in vars(owner).items() if not is_module or name not in _OF_EVERY_MODULE]
    yield from ((name, value) for name, value in own if _is_plain(value) or _is_record(value))
    if is_module:
        yield from _not_persistent(owner)


def _not_persistent(module: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from (
        (name, module._buffers[name])  # noqa: SLF001 - torch has no public name for it
        for name in module._non_persistent_buffers_set  # noqa: SLF001
        if name in module._buffers  # noqa: SLF001
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value).__module__ in {"builtins", "collections"} and all(map(_is_plain, (*value, *value.values())))
    if isinstance(value, list | tuple | set | frozenset | deque):
        return all(map(_is_plain, value))
    if isinstance(value, torch.Tensor):
        return not isinstance(value, nn.Parameter)
    return isinstance(value, _NUMBERS) or (isinstance(value, np.ndarray) and value.dtype != object)


def _is_record(value: Any) -> bool:
    """Whether this is an object of a class that is no library's, such as a running mean that a user has written."""
    kind = type(value)
    if isinstance(value, type | nn.Module | torch.Tensor) or callable(value) or not hasattr(value, "__dict__"):
        return False
    return not is_of_library(kind) or kind is SimpleNamespace


def _copied(value: Any) -> Any:
    if _is_record(value):
        return value  # its own attributes are copied; which object it is, is kept
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping | list | deque):
        # Copied first: a default, a greatest length and the like stay.
        made: Any = copy.copy(value)
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            made[key] = _copied(each)
        return made
    if isinstance(value, tuple):
        parts = map(_copied, value)
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return copy.copy(value)


def _same(one: Any, other: Any) -> bool:
    if _is_record(one) or type(one) is not type(other):
        return one is other
    if isinstance(one, torch.Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and bool(((one == other) | (one.isnan() & other.isnan())).all())
    if isinstance(one, np.ndarray | np.generic):
        return bool(np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind in "fc"))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def _close(one: Any, other: Any) -> bool:
    """Whether two outputs are alike but for rounding; what is no tensor is not compared."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(_close(one[key], other[key]) for key in one.keys() & other.keys())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_close, one, other))
    return True
