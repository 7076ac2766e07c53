"""Local SGD with differential privacy for each example (DP-SGD, arXiv 1607.00133).

One step: every row is in the batch with probability q, on its own; its gradient g is scaled to g min(1, C / ||g||); to
the sum comes noise N(0, (sigma C)^2) on every entry; the step is taken with that sum over a fixed number,
``batch_size``: neither how many rows were drawn nor how many there are may be seen. A batch may be empty: noise alone.

Rows and noise come from a key of the system's randomness, never from the announced seed, which is known to whoever
announced it. The noisy sum is rounded to a grid of 2^-20 sigma C before anything is done with it, and rows are clipped
a little below C for what float32 rounds in the sum (ADR 0040). Whatever follows, such as momentum, FedProx's term and
the codec, is made of that sum alone.

Norms by hand for linear layers ("ghost norms"): with a the layer's input and d the gradient of its output, the row's
gradient is d a^T and d, so its squared norm is ||d||^2 (||a||^2 + 1), and no gradient of one row is ever made. Other
layers go through ``torch.func.vmap``, some rows at a time.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from federation.errors import TaskError
from federation.privacy.budget import turn_of
from federation.privacy.noise import gaussians, noise_key, uniforms
from federation.task import KEPT_KEY, MIXED_KEY
from federation.tasks.training.batches import Batch, Loss, Reading, mapped, num_examples
from federation.tasks.training.local_data import DatasetData, LocalData, TensorData
from federation.tasks.training.local_model import LocalModel
from federation.tasks.training.local_sgd import LocalOutcome, Sgd, TrainingPlan, check_settings
from federation.types import ExamplePrivacy

__all__ = ["GRID", "MARGIN", "ClippedSums", "noisy", "poisson_rows", "private_objection", "train_privately"]

GRID = 2.0**-20
"""Step of the grid that a noisy sum is rounded to, in units of the noise's standard deviation."""

MARGIN = 2.0**-10
"""Share of the clip that is left for what float32 rounds."""

_GHOST_ROWS = 2048
_VMAP_ROWS = 128
_VMAP_NUMBERS = 1 << 24
"""Most rows at a time: gradients of single rows take as much memory as so many models, 64 MB."""
_TOLERANCE = 1e-4
_ENDLESS = 1e15

Sums = list[Tensor]
"""A sum of gradients, in the order of `LocalModel.trainable_names`."""


def train_privately(model: LocalModel, loss: Loss, data: LocalData, plan: TrainingPlan, key: bytes) -> LocalOutcome:
    """Train in place, all steps of a turn, or until ``plan.stop()`` says so; the loss is not told.

    Args:
        model: What is trained.
        loss: Output and target to the mean loss of a batch.
        data: Rows that can be chosen one by one.
        plan: Its settings have ``privacy``.
        key: 32 bytes that nobody else knows, for this turn alone.

    Raises:
        TaskError: The settings make no sense, or model or data cannot be trained on with this guarantee.
    """
    settings, privacy = plan.settings, plan.settings.privacy
    if privacy is None or settings.batch_size < 1:
        raise TaskError("differential privacy needs a batch_size: a step's sum is divided by it, whoever was drawn")
    check_settings(settings)
    for name in (KEPT_KEY, MIXED_KEY):
        if settings.extra.get(name):
            raise TaskError(f"differential privacy has no {name}: leave it out")
    chosen = _by_rows(data)
    model.module.train()
    weights, sums = model.trainable, ClippedSums(model, loss)
    sgd, steps = Sgd(weights, settings), turn_of(settings, privacy).steps
    for step in range(steps):
        if plan.stop():
            break
        rows = poisson_rows(noise_key(key, "rows", str(step)), chosen.num_examples, privacy.sampling_rate)
        total = sums.of(chosen, rows, privacy.clip)
        sgd.step(noisy(total, noise_key(key, "noise", str(step)), privacy, settings.batch_size), weights)
    return LocalOutcome(steps=steps, loss=0.0)


def poisson_rows(key: bytes, count: int, rate: float) -> Tensor:
    """Which of ``count`` rows are drawn: each with probability ``rate``, int64."""
    numbers, _ = uniforms(key, count)
    return torch.from_numpy(np.flatnonzero(numbers < rate))


def noisy(total: Sums, key: bytes, privacy: ExamplePrivacy, divisor: int) -> Sums:
    """A step's sum with its noise, rounded to the grid and divided; new tensors of the same types."""
    step = privacy.noise * privacy.clip * GRID
    flat = torch.cat([each.reshape(-1) for each in total]).to("cpu", torch.float64).numpy()
    flat /= step
    drawn = gaussians(key, len(flat))
    drawn *= 1 / GRID
    drawn += flat
    np.rint(drawn, out=drawn)
    drawn *= step / divisor
    found = torch.from_numpy(drawn).to(total[0].device, total[0].dtype)
    parts = torch.split(found, [each.numel() for each in total])
    return [part.view(each.shape) for part, each in zip(parts, total, strict=True)]


def private_objection(model: LocalModel, loss: Loss, data: LocalData) -> str | None:
    """Why this model, loss or data cannot be trained on with a guarantee for each row, or None; some rows are tried."""
    if not isinstance(data, TensorData | DatasetData):
        return "the data gives batches of its own: rows must be chosen one by one (arrays or a map-style Dataset)"
    return _objection_to_layers(model) or _objection_to_rows(model, loss, _batch(data, torch.arange(_few(data))))


def _objection_to_layers(model: LocalModel) -> str | None:
    for each in model.module.modules():
        if isinstance(each, _NormBase):
            return f"{type(each).__name__} mixes the rows of a batch, so no row's share is bounded: use GroupNorm"
        if isinstance(each, _DropoutNd):
            return f"{type(each).__name__} is not supported under differential privacy: the noise takes its place"
    if model.roles():
        return f"{next(iter(model.roles()))} is no parameter and would travel as it is, without noise"
    return None if model.trainable_names else "the model has nothing to train"


def _objection_to_rows(model: LocalModel, loss: Loss, few: Batch) -> str | None:
    """Whether each row's gradient is its own, and both ways to it agree."""
    model.module.train()
    try:
        gradients, losses = _one_by_one(model, Reading.of(model.module, loss), few)
        with torch.no_grad():
            _, together = Reading.of(model.module, loss)(few)
        by_hand = ClippedSums(model, loss).of_batch(few, _ENDLESS)
    except Exception as error:  # noqa: BLE001 - whatever the model raises here
        return f"gradients of single rows cannot be had: {error}"
    if not torch.allclose(together, losses.mean(), rtol=_TOLERANCE, atol=_TOLERANCE):
        return "the loss of a batch is not the mean of its rows' losses, so no row's share is bounded"
    added = [torch.stack(each).sum(0) for each in zip(*gradients, strict=True)]
    if not all(torch.allclose(a, b, rtol=1e-2, atol=_TOLERANCE) for a, b in zip(added, by_hand, strict=True)):
        return "a row's gradient is not what its layers say: a linear layer's weights are used elsewhere, too"
    return None


def _one_by_one(model: LocalModel, reading: Reading, batch: Batch) -> tuple[list[Sums], Tensor]:
    """Each row's gradients and loss, by a plain backward pass each.

    ``vmap`` would give the same, and its first use loads torch's compiler: 1.5 s of a node's start on a fast machine.
    """
    gradients, losses = list[Sums](), list[Tensor]()
    for row in range(num_examples(batch)):
        _, loss = reading(mapped(itemgetter(slice(row, row + 1)), batch))
        found = torch.autograd.grad(loss, model.trainable, allow_unused=True, materialize_grads=True)
        gradients.append(list(found))
        losses.append(loss.detach())
    return gradients, torch.stack(losses)


def _few(data: TensorData | DatasetData) -> int:
    return min(4, data.num_examples)


class ClippedSums:
    """Sums of gradients of which no row's is longer than the clip.

    Args:
        model: Whose gradients.
        loss: Output and target to the mean loss of a batch.
    """

    def __init__(self, model: LocalModel, loss: Loss) -> None:
        self._model, self._reading = model, Reading.of(model.module, loss)
        self._layers = _linear_layers(model)
        self._rows_max = max(1, min(_VMAP_ROWS, _VMAP_NUMBERS // max(1, sum(each.numel() for each in model.trainable))))
        self._gradients = vmap(grad_and_value(self._one), in_dims=(None, 0))

    def of(self, data: TensorData | DatasetData, rows: Tensor, clip: float) -> Sums:
        """The sum over these rows; zeros where there are none."""
        size = _GHOST_ROWS if self._layers else self._rows_max
        parts = (self.of_batch(_batch(data, some), clip) for some in torch.split(rows, size) if len(some))
        total = next(parts, None)
        if total is None:
            return [torch.zeros_like(each, requires_grad=False) for each in self._model.trainable]
        for part in parts:
            torch._foreach_add_(total, part)
        return total

    def of_batch(self, batch: Batch, clip: float) -> Sums:
        """The sum over a batch's rows."""
        limit = clip * (1 - MARGIN)
        found = self._by_ghosts(batch, limit) if self._layers else None
        return self._by_vmap(batch, limit) if found is None else found

    def by_row(self, batch: Batch) -> tuple[Mapping[str, Tensor], Tensor]:
        """Each row's gradient by the parameter's name, rows first, and each row's loss."""
        weights = dict(zip(self._model.trainable_names, (each.detach() for each in self._model.trainable), strict=True))
        found: tuple[Mapping[str, Tensor], Tensor] = self._gradients(weights, batch)
        return found

    def _one(self, weights: Mapping[str, Tensor], row: Batch) -> Tensor:
        batch = mapped(lambda leaf: leaf.unsqueeze(0), row)
        places, names = self._reading.inputs(batch)
        output = functional_call(self._model.module, dict(weights), places, dict(names))
        return self._reading.loss(output, self._reading.target(batch))

    @torch.no_grad()
    def _by_vmap(self, batch: Batch, limit: float) -> Sums:
        count = num_examples(batch)
        total: Sums = []
        for start in range(0, count, self._rows_max):
            some = mapped(itemgetter(slice(start, start + self._rows_max)), batch)
            gradients, _ = self.by_row(some)
            flat = [each.flatten(1) for each in gradients.values()]
            factors, flat = _factors([_squared(each) for each in flat], limit, flat)
            sums = [(factors @ each).view_as(weight) for each, weight in zip(flat, self._model.trainable, strict=True)]
            total = [one + other for one, other in zip(total, sums, strict=True)] if total else sums
        return total

    def _by_ghosts(self, batch: Batch, limit: float) -> Sums | None:
        """By hand; None where a layer was called twice or on more than one vector a row: its gradients add up."""
        seen: list[tuple[nn.Linear, Tensor, Tensor]] = []
        hooks = [layer.register_forward_hook(partial(_note, seen)) for layer in self._layers]
        try:
            _, loss = self._reading(batch)
        finally:
            for hook in hooks:
                hook.remove()
        layers = [layer for layer, _, _ in seen]
        if len(set(layers)) != len(layers) or any(inputs.ndim != 2 for _, inputs, _ in seen):
            return None
        outputs = torch.autograd.grad(loss * num_examples(batch), [output for _, _, output in seen])
        with torch.no_grad():
            inputs = [each for _, each, _ in seen]
            squares = [
                _squared(d) * (_squared(a) * layer.weight.requires_grad + _has_bias(layer))
                for layer, a, d in zip(layers, inputs, outputs, strict=True)
            ]
            factors, cleaned = _factors(squares, limit, [*outputs, *inputs])
            found: dict[int, Tensor] = {}
            for layer, d, a in zip(layers, cleaned[: len(layers)], cleaned[len(layers) :], strict=True):
                weighed = d * factors[:, None]
                found[id(layer.weight)] = weighed.T @ a
                if layer.bias is not None:
                    found[id(layer.bias)] = weighed.sum(0)
            return [found.get(id(each), torch.zeros_like(each)) for each in self._model.trainable]


def _factors(squares: Sequence[Tensor], limit: float, parts: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What each row is scaled by; a row whose gradient is not finite counts nothing, and is cleared from ``parts``."""
    norms = torch.stack(list(squares)).sum(0).sqrt()
    factors = (limit / norms.clamp_min(1e-30)).clamp_max(1.0)
    finite = torch.isfinite(norms)
    if bool(finite.all()):
        return factors, list(parts)
    cleared = [torch.where(finite.view(-1, *[1] * (each.ndim - 1)), each, torch.zeros_like(each)) for each in parts]
    return torch.where(finite, factors, torch.zeros_like(factors)), cleared


def _note(
    seen: list[tuple[nn.Linear, Tensor, Tensor]], layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    seen.append((layer, inputs[0].detach(), output))


def _squared(rows: Tensor) -> Tensor:
    """The squared norm of each row, without a copy of them all."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.square()


def _has_bias(layer: nn.Linear) -> bool:
    return layer.bias is not None and layer.bias.requires_grad


def _linear_layers(model: LocalModel) -> list[nn.Linear]:
    """The linear layers, where all that is trained is in them and in none twice; else none."""
    layers = [each for each in model.module.modules() if type(each) is nn.Linear]
    held = [each for layer in layers for each in layer.parameters() if each.requires_grad]
    same = {id(each) for each in held} == {id(each) for each in model.trainable}
    return layers if same and len(held) == len({id(each) for each in held}) else []


def _batch(data: TensorData | DatasetData, rows: Tensor) -> Any:
    return next(iter(data.rows(rows).in_order(len(rows))))


def _by_rows(data: LocalData) -> TensorData | DatasetData:
    if not isinstance(data, TensorData | DatasetData):
        raise TaskError("differential privacy needs data whose rows can be chosen: arrays or a map-style Dataset")
    return data
