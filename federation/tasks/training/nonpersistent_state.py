"""State of a model that is in none of the tensors that travel: plain attributes, and buffers with ``persistent=False``.

Modules that a plain list or dict holds are such state, too: torch sees none of their parameters. Nobody sends it. Where
training changes it and predictions depend on it, every node has another model than the coordinator, and none of them is
the one that is exported. Caches are state, too, but make no difference.
"""

import copy
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from federation.errors import TaskError, is_of_library
from federation.tasks.training.tensors import Layout, as_array, state_of
from update_codec import constant_digest

__all__ = ["JUDGED", "NonPersistentState", "refuse_nonpersistent", "refuse_unseeded", "refuse_untrained"]

JUDGED = 2
"""Trainings that are looked at: in one of a single step, what follows the weights has not moved yet."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_NUMBERS = (bool, int, float, complex, str, bytes, type(None), np.generic)
_GONE = object()
_UNSEEDED = (
    "every device would have its own. Draw from torch, numpy.random or random, which begin alike everywhere, or from a"
    " generator with a fixed seed"
)
_HIDDEN_BYTES_MAX = 1 << 26
"""Modules beside the model with more bytes are not copied, and so not looked at."""


@dataclass(frozen=True, slots=True)
class NonPersistentState:
    """What `NonPersistentState.of` has found.

    Attributes:
        values: Copies, by the number of their owner and the attribute.
        owners: Modules and the objects that they hold, by number, which is their identity.
        names: What the owners are called in the model.
        tensors: Names of the tensors of an owner that do not travel, though torch's own state may have them.
    """

    values: Mapping[tuple[int, str], Any]
    owners: Mapping[int, Any]
    names: Mapping[int, str]
    tensors: Mapping[int, Sequence[str]]

    @classmethod
    def of(cls, module: nn.Module) -> "NonPersistentState":
        """Copy it; attributes that hold anything but numbers, texts, tensors and collections of these are left out.

        Objects of the user's own that hold such attributes are looked into.

        Args:
            module: The model. Parts of torch itself keep nothing of this kind that matters.
        """
        tensors = _outside(module)
        known = [(name, each) for name, each in module.named_modules() if not _is_of_torch(each) or id(each) in tensors]
        named, owners, names = known, dict[int, Any](), dict[int, str]()
        while named:
            called, owner = named.pop(0)
            if id(owner) in owners:
                continue
            owners[id(owner)], names[id(owner)] = owner, called
            held = [(name, value) for name, value in _attributes(owner) if _is_record(value)]
            for name, hidden in _small(_hidden_modules(owner)):
                tensors[id(hidden)] = (*hidden._parameters, *hidden._buffers)  # noqa: SLF001 - its own, not its parts'
                held.append((name, hidden))
            named += [(".".join(filter(None, (called, name))), value) for name, value in held]
        values = {
            (number, name): _copied(value)
            for number, owner in owners.items()
            for name, value in _attributes(owner, tensors.get(number, ()))
        }
        return cls(values, owners, names, tensors)

    def put(self) -> None:
        """Give every attribute the value that it had, and take away those that there were not."""
        for number, owner in self.owners.items():
            now = _attributes(owner, self.tensors.get(number, ()))
            for name in [name for name, _ in now if (number, name) not in self.values]:
                delattr(owner, name)
        for (number, name), value in self.values.items():
            held = getattr(self.owners[number], name, None)
            if isinstance(held, nn.Parameter):
                held.data = _copied(value)
            else:
                setattr(self.owners[number], name, _copied(value))

    def named(self) -> Iterator[tuple[str, Any]]:
        """The copies by the names that they have in the model."""
        for (owner, name), value in self.values.items():
            yield ".".join(filter(None, (self.names[owner], name))), value

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
        " (register_buffer) or a part of the model: it travels, or stays here where TorchTask(local=...) names it"
    )


def refuse_unseeded(
    module: nn.Module, layout: Layout, make: Callable[[], nn.Module], predict: Callable[[nn.Module], Any]
) -> None:
    """Refuse a model of which two that were made from one seed predict differently with the same weights.

    Whatever asks the system for randomness (``os.urandom``, ``secrets``, a generator without a seed) gives another in
    each process. To tensors that travel it does no harm; a permutation that is kept as an attribute is another model on
    each node. A model that draws its predictions, or that cannot predict, is not judged, and none that is so large that
    a device may not hold it twice.

    Args:
        module: As it was made.
        layout: What of it travels.
        make: Makes another one from the same seed.
        predict: Runs one on the same inputs.

    Raises:
        TaskError: It names what differs, as far as that can be found.
    """
    if sum(tensor.nbytes for tensor in state_of(module).values()) > _HIDDEN_BYTES_MAX:
        return
    before, modes = NonPersistentState.of(module), {part: part.training for part in module.modules()}
    other = make().eval()
    now, again = state_of(module), state_of(other)
    fixed = [*layout.constants, *(name for name in now if name not in again or again[name].shape != now[name].shape)]
    if changed := [name for name in fixed if name not in again or _bits(again[name]) != _bits(now[name])]:
        raise TaskError(f"each time that the model is made it has another {', '.join(changed[:8])}: {_UNSEEDED}")
    try:
        with torch.no_grad(), _eagerly():
            for name in layout.travelling:
                again[name].copy_(now[name])
            module.eval()
            first, same, drawn = predict(module), predict(module), predict(other.to(next(iter(now.values())).device))
            keeps_names = state_of(module).keys() == now.keys()  # else the step, which comes next, names what came
    except Exception:  # noqa: BLE001 - user code; the step says what is wrong with it
        return
    finally:
        before.put()
        for part, mode in modes.items():
            part.training = mode
    if keeps_names and _close(first, same) and not _close(first, drawn):
        found, known = (dict(NonPersistentState.of(each).named()) for each in (module, other))
        names = [name for name, value in found.items() if name not in known or not _same(value, known[name])]
        raise TaskError(
            f"each time that the model is made it has another {', '.join(names[:8]) or 'way to predict'}, and"
            f" predictions depend on it: {_UNSEEDED}, or make it a buffer"
        )


def _eagerly() -> AbstractContextManager[object]:
    """What was compiled runs as it was written. Where the compiler was never loaded, nothing was; it takes a second."""
    loaded = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if loaded else nullcontext()


def _bits(tensor: torch.Tensor) -> str:
    return constant_digest(as_array(tensor))


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "torch"


def _attributes(owner: Any, tensors: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    is_module = isinstance(owner, nn.Module)
    own = [(name, value) for name, value in vars(owner).items() if not is_module or name not in _OF_EVERY_MODULE]
    yield from ((name, value) for name, value in own if _is_plain(value) or _is_record(value))
    if is_module:
        held = {**owner._parameters, **owner._buffers}  # noqa: SLF001 - torch has no public name for a module's own
        names = dict.fromkeys((*owner._non_persistent_buffers_set, *tensors))  # noqa: SLF001
        yield from ((name, held[name]) for name in names if name in held)


def _outside(module: nn.Module) -> dict[int, Sequence[str]]:
    """Names of the buffers that an own state_dict of the model leaves out, by their module."""
    there = {id(each) for each in module.state_dict(keep_vars=True).values()}
    found = dict[int, Sequence[str]]()
    for part in module.modules():
        buffers = part._buffers.items()  # noqa: SLF001 - as above
        if left := [name for name, each in buffers if each is not None and id(each) not in there]:
            found[id(part)] = left
    return found


def _hidden_modules(owner: Any) -> Iterator[tuple[str, nn.Module]]:
    """Modules that an object holds beside those that torch knows of, with their parts."""
    is_module = isinstance(owner, nn.Module)
    known = {id(each) for each in owner.modules()} if is_module else set()
    for name, value in vars(owner).items():
        if is_module and name in _OF_EVERY_MODULE:
            continue
        for called, each in _held_in(name, value):
            if isinstance(each, nn.Module) and id(each) not in known:
                yield from ((f"{called}.{part}" if part else called, one) for part, one in each.named_modules())


def _held_in(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value, or what a plain list, tuple or dict of it holds."""
    if isinstance(value, Mapping):
        yield from ((f"{name}[{key!r}]", each) for key, each in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"{name}[{place}]", each) for place, each in enumerate(value))
    else:
        yield name, value


def _small(found: Iterator[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    modules = list(found)
    tensors = {id(each): each for _, one in modules for each in (*one.parameters(), *one.buffers())}
    return modules if sum(each.nbytes for each in tensors.values()) <= _HIDDEN_BYTES_MAX else []


def refuse_untrained(module: nn.Module, loss: torch.Tensor, used: Iterable[torch.Tensor]) -> None:
    """Refuse a model of which the loss has gradients for parameters that torch does not see: nobody trains them.

    Args:
        module: The model.
        loss: Of a batch, before it is differentiated.
        used: The parameters before the forward pass, which may replace them.

    Raises:
        TaskError: It names the parameter, such as ``layers[0].weight``.
    """
    known = {id(each) for each in (*module.parameters(), *used)}
    for each in _leaves(loss):
        if id(each) not in known:
            raise TaskError(
                f"{_called(module, each)} has a gradient, and is no parameter of the model: torch does not see what a"
                " plain list or dict holds, and nobody trains it. Use ModuleList, ModuleDict or ParameterList, or"
                " freeze it (requires_grad_(False))"
            )


def _leaves(loss: torch.Tensor) -> Iterator[nn.Parameter]:
    """The parameters that a loss is made of."""
    waiting, seen = [loss.grad_fn], set[Any]()
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        held = getattr(step, "variable", None)
        if isinstance(held, nn.Parameter):
            yield held
        waiting += [before for before, _ in step.next_functions]


def _called(module: nn.Module, parameter: nn.Parameter) -> str:
    """Where a model holds a parameter that torch does not see."""
    for called, part in module.named_modules():
        for name, value in vars(part).items():
            if name in _OF_EVERY_MODULE:
                continue
            for place, each in _held_in(name, value):
                inner = each.named_parameters() if isinstance(each, nn.Module) else [("", each)]
                for last, one in inner:
                    if one is parameter:
                        return ".".join(filter(None, (called, place, last)))
    return f"a parameter of shape {list(parameter.shape)}"


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
