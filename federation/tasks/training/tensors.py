"""Which tensors of a module travel, which never change, and which are second names of others.

What never changes is declared, not found: parameters with ``requires_grad=False``, bool buffers, buffers that are not
finite when the model is made (the ``-inf`` of a mask), and what ``constant`` names. A coordinator trains nothing, so it
could not find it, and all must agree before the first round. Training that changes such a tensor after all is refused
with its name (docs/adr/0033-what-never-changes-does-not-travel.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from federation.errors import TaskError
from federation.task import Array
from update_codec import Role

__all__ = ["Layout", "as_array", "layout_of", "matching", "state_of"]


TRAVELLING = frozenset(
    {
        *(torch.float16, torch.float32, torch.float64, torch.bool),
        *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8),
    }
)
"""The types that a manifest has; what never changes may have any other, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What becomes of each tensor.

    Attributes:
        roles: Of all that are not the default (float: parameter, integer: counter), by name.
        constants: What never changes, and why, by name.
        tied: Second names, each with its first.
        travelling: All other names, in the module's order.
    """

    roles: Mapping[str, Role]
    constants: Mapping[str, str]
    tied: Mapping[str, str]
    travelling: tuple[str, ...] = field(default=())


def layout_of(module: nn.Module, constant: Sequence[str] = (), changing: Sequence[str] = ()) -> Layout:
    """Say it for a module as it was made.

    Args:
        module: The model.
        constant: Shell patterns of names that never change.
        changing: The same of those that change, although they look as if they did not.

    Raises:
        TaskError: A tensor cannot travel, or a pattern matches nothing.
    """
    state = state_of(module)
    _refuse_left_out(module, state)
    fixed, free = matching("constant", constant, state), matching("changing", changing, state)
    buffers = {name for name, _ in module.named_buffers()}
    firsts: dict[int, str] = {}
    tied = {name: first for name, tensor in state.items() if (first := firsts.setdefault(id(tensor), name)) != name}
    constants, roles = dict[str, str](), dict[str, Role]()
    for name, tensor in state.items():
        why = "constant names it" if name in fixed else _why_constant(tensor, is_buffer=name in buffers)
        if name in tied:
            roles[name] = Role.TIED
        elif why is not None and name not in free:
            constants[name], roles[name] = why, Role.CONSTANT
        elif tensor.dtype not in TRAVELLING:
            raise TaskError(f"{name} has dtype {tensor.dtype}: use float32, float16, uint8 or a signed integer type")
        elif name in buffers or not tensor.requires_grad:
            roles[name] = Role.STATISTIC if tensor.is_floating_point() else Role.COUNTER
    # What a second name stands for is constant with it.
    for name, first in list(tied.items()):
        if first in constants:
            constants[name], roles[name] = constants[first], Role.CONSTANT
            del tied[name]
    travelling = tuple(name for name in state if name not in constants and name not in tied)
    return Layout(roles=roles, constants=constants, tied=tied, travelling=travelling)


def _refuse_left_out(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Whatever is trained must travel: an own state_dict, or a hook of it, may leave something out."""
    there = {id(each) for each in state.values()}
    left = [name for name, each in module.named_parameters() if each.requires_grad and id(each) not in there]
    if left:
        raise TaskError(
            f"{', '.join(left[:8])}: trained, and not in the model's state_dict, so that it would not travel: leave it"
            " in, or freeze it (requires_grad_(False))"
        )


def _why_constant(tensor: torch.Tensor, *, is_buffer: bool) -> str | None:
    if not is_buffer:
        return None if tensor.requires_grad else "it has requires_grad=False"
    if tensor.dtype == torch.bool:
        return "it is a bool buffer"
    if tensor.dtype in TRAVELLING and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        return "it was not finite when the model was made"
    return None


def state_of(module: nn.Module) -> Mapping[str, torch.Tensor]:
    """The module's parameters and persistent buffers themselves, by name.

    Raises:
        TaskError: The module keeps state that is no tensor of it.
    """
    state: Mapping[str, torch.Tensor] = module.state_dict(keep_vars=True)
    own = {id(each) for each in (*module.parameters(), *module.buffers())}
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor):
            raise TaskError(f"{name} of the model's state is no tensor and cannot be exchanged")
        if tensor.layout is not torch.strided or tensor.is_quantized:
            kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
            raise TaskError(f"{name} is {kind}, and has no array: keep it dense, or as a buffer with persistent=False")
        if is_lazy(tensor):
            raise TaskError(f"{name} has no shape before the first input: give it its sizes, in place of a lazy module")
        if tensor.is_meta:
            raise TaskError(f"{name} is on the meta device, and has no values: make the model on the CPU")
        if tensor.requires_grad and any(
            step == 0 and side > 1 for step, side in zip(tensor.stride(), tensor.shape, strict=True)
        ):
            raise TaskError(f"{name} is expanded: several of its numbers are one in memory. Give it a clone()")
        if id(tensor) not in own:
            raise TaskError(
                f"{name} of the model's state is a copy, made by a hook or an own state_dict: what is loaded"
                " would not reach the model"
            )
    return state


def as_array(tensor: torch.Tensor) -> Array:
    """A copy on the host; of a type that NumPy lacks its bytes, as a constant's."""
    tensor = tensor.detach().cpu()
    if tensor.dtype not in TRAVELLING:
        tensor = tensor.contiguous().reshape(-1).view(torch.uint8)
    return np.array(tensor.numpy())


def matching(what: str, patterns: Sequence[str], names: Mapping[str, object]) -> frozenset[str]:
    """All names that match one of the patterns.

    Raises:
        TaskError: A pattern matches nothing; it is said what the patterns are, and which names there are.
    """
    found = set[str]()
    for pattern in patterns:
        fitting = {name for name in names if fnmatchcase(name, pattern)}
        if not fitting:
            raise TaskError(f"{what}: {pattern!r} matches no tensor; there are {', '.join(sorted(names)[:12])}")
        found |= fitting
    return frozenset(found)
