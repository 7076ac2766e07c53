"""From a loss to the gradients of one step: parameters that were replaced, clipping, and mixed precision.

Mixed precision (arXiv 1710.03740) is torch.amp's: the forward pass in 16 bits where that is safe, weights and steps in
float32. float16 has few small numbers, so its loss is scaled up and the gradients down again; a step whose gradients
are not finite is left out, and the next scale is smaller. What of it a run asks for is in its settings (`MIXED_KEY`).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import MIXED, MIXED_KEY

__all__ = ["SCALE_FIRST", "Gradients", "MixedPrecision", "apart", "clip", "gradients_of", "mixed_dtype"]

SCALE_FIRST = 65_536.0
"""The factor of a loss in float16 before anything is known, as in torch."""

Gradients = Sequence[torch.Tensor | None]
"""Of each parameter's place; None where it was not used."""

_Take = Callable[[Gradients, list[torch.Tensor]], None]


def gradients_of(
    loss: torch.Tensor, used: list[torch.Tensor], weights: list[torch.Tensor]
) -> list[torch.Tensor | None]:
    """The gradient of each parameter's place, whether the one before or the one after the forward pass was used.

    Of a place that the loss does not depend on it is None: no term moves it, as in torch.optim.

    It is ``loss.backward()``, and not `torch.autograd.grad`: that one passes over what a checkpoint computes again in
    the backward pass (``use_reentrant=True``), without a word.

    Args:
        loss: What is differentiated.
        used: The parameters before the forward pass.
        weights: Those after it, in the same places.

    Raises:
        TaskError: The loss has no gradient.
    """
    if not loss.requires_grad:
        raise TaskError("the loss does not depend on anything that is trained: is it detached, or under no_grad?")
    _forget(used)
    _forget(weights)
    loss.backward()  # type: ignore[no-untyped-call]
    found = list[torch.Tensor | None]()
    for before, now in zip(used, weights, strict=True):
        parts = [each.grad for each in ((now,) if before is now else (now, before)) if each.grad is not None]
        found.append(sum(parts[1:], parts[0]) if parts else None)
    _forget(used)
    _forget(weights)
    return found


def _forget(tensors: list[torch.Tensor]) -> None:
    for each in tensors:
        each.grad = None


def apart(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients that can be changed in place, each by itself and by dense terms.

    Two parameters that are added have one tensor as their gradient where nobody has gathered it; one entry may stand
    for all of a parameter; and that of an embedding may be sparse.
    """
    seen, found = set[int](), list[torch.Tensor]()
    for each in gradients:
        dense = each.to_dense() if each.is_sparse else each
        shared = dense.data_ptr() in seen or 0 in dense.stride()
        found.append(dense.clone(memory_format=torch.contiguous_format) if shared else dense)
        seen.add(dense.data_ptr())
    return found


def clip(gradients: list[torch.Tensor], longest: float) -> None:
    """Scale all gradients down together, in place, as `torch.nn.utils.clip_grad_norm_` does."""
    if gradients:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # noqa: SLF001 - torch.optim's own
        torch._foreach_mul_(gradients, torch.clamp(longest / (norm + 1e-6), max=1.0))


def mixed_dtype(settings: TrainSettings, device: torch.device) -> torch.dtype | None:
    """The type of the forward pass on this device; None is that of the weights.

    ``auto`` takes what the device computes fast: bfloat16 on CUDA devices from capability 8.0 on, float16 from 7.0 on,
    nothing else; a CPU trains as it always does.
    """
    asked = settings.extra.get(MIXED_KEY, 0.0)
    if asked == MIXED["bfloat16"]:
        return torch.bfloat16
    if asked == MIXED["float16"]:
        return torch.float16
    if asked != MIXED["auto"] or device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 0):
        return torch.bfloat16
    return torch.float16 if capability >= (7, 0) else None


class MixedPrecision:
    """How the steps of one round are computed.

    Args:
        dtype: Of the forward pass, see `mixed_dtype`.
        device: Where the model is.
        scale: The factor that the last round of float16 ended with.
    """

    def __init__(self, dtype: torch.dtype | None, device: torch.device, scale: float = SCALE_FIRST) -> None:
        self._dtype, self._device = dtype, device
        self._scaler = GradScaler(device.type, init_scale=scale) if dtype is torch.float16 else None
        self._taken = 0

    def forward(self) -> AbstractContextManager[Any]:
        """Model and loss are called within it."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, self._dtype)

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """What is differentiated."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def step(self, gradients: Gradients, weights: list[torch.Tensor], take: _Take) -> None:
        """Take the step with the gradients of the loss itself, or leave it out where they are not finite."""
        if self._scaler is None:
            take(gradients, weights)
            return
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        self.step_of(_Held(gradients, weights, take))
        for weight in weights:
            weight.grad = None

    def step_of(self, optimizer: Any) -> None:
        """The same for an optimizer, whose parameters have their gradients."""
        if self._scaler is None:
            optimizer.step()
            return
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        # It has fallen where the step was left out; halved often enough it is zero, and no step can be taken at all.
        self._taken += 0 < before <= self._scaler.get_scale()

    @property
    def scales(self) -> bool:
        """Whether gradients are scaled until the step is taken."""
        return self._scaler is not None

    @property
    def scale(self) -> float | None:
        """The factor for the next round; None where there is none.

        Raises:
            TaskError: No step was taken, and it is too small to find a better one.
        """
        if self._scaler is None:
            return None
        scale = float(self._scaler.get_scale())
        if not self._taken and scale < 1.0:
            raise TaskError("no gradient is finite in float16: set train.mixed_precision to bfloat16 or off")
        return scale


class _Held:
    """What `GradScaler` asks of an optimizer, around a step that is a function."""

    def __init__(self, gradients: Gradients, weights: list[torch.Tensor], take: _Take) -> None:
        self.param_groups = [{"params": weights}]
        self._gradients, self._weights, self._take = gradients, weights, take

    def step(self) -> None:
        """The gradients were scaled back in place."""
        self._take(self._gradients, self._weights)
