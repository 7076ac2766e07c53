r"""Local training on one torch model: SGD as `torch.optim.SGD` does it, with FedProx's term, without its overhead.

One step: g = grad loss(w) + mu (w - w_base) + weight_decay w + correction;  v = momentum v + g;
w = w - learning_rate v. With ``clip_norm`` the gradient of the loss is scaled down to that norm first, all tensors
together. Adam and AdamW (arXiv 1412.6980, 1711.05101; beta 0.9 and 0.999, epsilon 1e-8) take v's place, as torch.optim
has them; what they gather is forgotten with the round, for the next one begins from another model.

The proximal term is FedProx's (arXiv 1812.06127, equation 2); the correction is SCAFFOLD's c - c_i, the same in all
steps of a round (scaffold.py). A step costs what the model costs: no optimizer object, no data loader for tensors, one
permutation of the data per epoch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import ADAM_KEY, CLIP_KEY, DECOUPLED_KEY, Parameters, Stop
from federation.tasks.training.batches import Batch, Loss, Reading, num_examples
from federation.tasks.training.local_data import NO_BATCH, LocalData, gap_in
from federation.tasks.training.local_model import LocalModel

BETA_FIRST, BETA_SECOND, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOutcome:
    """What local training did.

    Attributes:
        steps: Gradient steps taken.
        loss: Mean loss over them, before each step.
    """

    steps: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How one local training goes.

    Attributes:
        settings: Epochs, batch size, step size and the rest.
        seed: Seed of this node's shuffle in this round.
        stop: Asked before each step.
        correction: Added to the gradients, by the tensors' names; None adds nothing.
    """

    settings: TrainSettings
    seed: int
    stop: Stop
    correction: Parameters | None = None


def train_locally(model: LocalModel, loss: Loss, data: LocalData, plan: TrainingPlan) -> LocalOutcome:
    """Train in place until the epochs or the steps are over, or ``plan.stop()`` says so.

    Raises:
        TaskError: The settings make no sense, there is no data, or the loss is no longer finite.
    """
    check_settings(plan.settings)
    model.module.train()
    weights, correction = model.trainable, plan.correction
    sgd = Sgd(weights, plan.settings, () if correction is None else _like(model, weights, correction))
    total, steps = torch.zeros((), device=model.device), 0
    reading = Reading.of(model.module, loss)
    for batch in _batches(data, plan, smallest=2 if model.normalizes_batches else 1):
        if plan.stop():
            break
        _, batch_loss = reading(batch)
        # A forward pass may put other parameters in the place of those that it has used.
        used, weights = weights, model.trainable
        sgd.step(gradients_of(batch_loss, used, weights), weights)
        total += batch_loss.detach()
        steps += 1
    if not math.isfinite(mean := total.item() / max(1, steps)):
        lower = f"lower learning_rate (it is {plan.settings.learning_rate})"
        raise TaskError(f"local training diverged: {gap_in(data) or lower}")
    return _outcome(mean, steps, plan)


def gradients_of(loss: torch.Tensor, used: list[torch.Tensor], weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """The gradient of each parameter's place, whether the one before or the one after the forward pass was used.

    Args:
        loss: What is differentiated.
        used: The parameters before the forward pass.
        weights: Those after it, in the same places.
    """
    replaced = [place for place, (before, now) in enumerate(zip(used, weights, strict=True)) if before is not now]
    wanted = [*weights, *(used[place] for place in replaced)]
    found = list(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))
    for place, gradient in zip(replaced, found[len(weights) :], strict=True):
        found[place] = found[place] + gradient
    return found[: len(weights)]


class Sgd:
    """The step of one round: settings and the optimizer's state, which does not outlive the round.

    Args:
        weights: As they are now they are FedProx's base.
        settings: Step size and the rest.
        correction: Added to every gradient; empty adds nothing.
    """

    def __init__(
        self, weights: Sequence[torch.Tensor], settings: TrainSettings, correction: Sequence[torch.Tensor] = ()
    ) -> None:
        self._settings, self._correction = settings, list(correction)
        self._base = [tensor.detach().clone() for tensor in weights] if settings.proximal_mu else []
        self._velocity: list[torch.Tensor] = []
        self._clip_norm = settings.extra.get(CLIP_KEY, 0.0)
        self._adam = _Adam(weights) if settings.extra.get(ADAM_KEY) else None
        self._decoupled = self._adam is not None and bool(settings.extra.get(DECOUPLED_KEY))

    @torch.no_grad()
    def step(self, gradients: list[torch.Tensor], weights: list[torch.Tensor]) -> None:
        """Move every tensor in place against its gradient; ``weights`` has the places of the first ones."""
        settings = self._settings
        if self._clip_norm:
            _clip(gradients, self._clip_norm)
        if settings.proximal_mu:
            away = torch._foreach_sub(weights, self._base)  # noqa: SLF001 - what torch.optim itself calls
            torch._foreach_add_(gradients, away, alpha=settings.proximal_mu)
        if settings.weight_decay and self._decoupled:
            torch._foreach_mul_(weights, 1 - settings.learning_rate * settings.weight_decay)
        elif settings.weight_decay:
            torch._foreach_add_(gradients, weights, alpha=settings.weight_decay)
        if self._correction:
            torch._foreach_add_(gradients, self._correction)
        if self._adam is not None:
            self._adam.step(gradients, weights, settings.learning_rate)
            return
        if settings.momentum:
            gradients = self._accelerate(gradients)
        torch._foreach_add_(weights, gradients, alpha=-settings.learning_rate)

    def _accelerate(self, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        if self._velocity:
            torch._foreach_mul_(self._velocity, self._settings.momentum)
            torch._foreach_add_(self._velocity, gradients)
        else:
            self._velocity = gradients
        return self._velocity


class _Adam:
    """The moments of one round's gradients."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self._first = [torch.zeros_like(tensor) for tensor in weights]
        self._second = [torch.zeros_like(tensor) for tensor in weights]
        self._steps = 0

    def step(self, gradients: list[torch.Tensor], weights: list[torch.Tensor], rate: float) -> None:
        """Move every tensor in place."""
        self._steps += 1
        torch._foreach_lerp_(self._first, gradients, 1 - BETA_FIRST)
        torch._foreach_mul_(self._second, BETA_SECOND)
        torch._foreach_addcmul_(self._second, gradients, gradients, 1 - BETA_SECOND)
        divisors = torch._foreach_sqrt(self._second)  # noqa: SLF001 - as above
        torch._foreach_div_(divisors, math.sqrt(1 - BETA_SECOND**self._steps))
        torch._foreach_add_(divisors, EPSILON)
        torch._foreach_addcdiv_(weights, self._first, divisors, -rate / (1 - BETA_FIRST**self._steps))


def _clip(gradients: list[torch.Tensor], longest: float) -> None:
    """Scale all gradients down together, as `torch.nn.utils.clip_grad_norm_` does."""
    if gradients:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))  # noqa: SLF001 - as above
        torch._foreach_mul_(gradients, torch.clamp(longest / (norm + 1e-6), max=1.0))


def is_plain(settings: TrainSettings) -> bool:
    """Whether the steps are those of SGD, without clipping."""
    return not (settings.extra.get(ADAM_KEY) or settings.extra.get(CLIP_KEY))


def _like(model: LocalModel, weights: Sequence[torch.Tensor], arrays: Parameters) -> list[torch.Tensor]:
    """Arrays by name as tensors of the trainable ones' types, in their order."""
    tensors = []
    for name, tensor in zip(model.trainable_names, weights, strict=True):
        array = arrays.get(name)
        if array is None or array.shape != tuple(tensor.shape):
            raise TaskError(f"{name} needs a correction of shape {tuple(tensor.shape)}")
        tensors.append(torch.from_numpy(np.array(array)).to(tensor.device, tensor.dtype))
    return tensors


def check_settings(settings: TrainSettings) -> None:
    """Refuse settings that cannot train.

    Raises:
        TaskError: Names the setting and what it may be.
    """
    for name, smallest in (("local_epochs", 1), ("batch_size", 0), ("max_steps", 0)):
        if getattr(settings, name) < smallest:
            raise TaskError(f"{name} must be at least {smallest}, not {getattr(settings, name)}")
    for name in ("learning_rate", "momentum", "weight_decay", "proximal_mu"):
        value = getattr(settings, name)
        if not math.isfinite(value) or value < 0:
            raise TaskError(f"{name} must be a finite number of at least 0, not {value}")
    if not (math.isfinite(longest := settings.extra.get(CLIP_KEY, 0.0)) and longest >= 0):
        raise TaskError(f"{CLIP_KEY} must be a finite number of at least 0, not {longest}")
    if settings.extra.get(ADAM_KEY) and settings.momentum:
        raise TaskError(f"Adam has a momentum of its own: momentum must be 0, not {settings.momentum}")


def _batches(data: LocalData, plan: TrainingPlan, *, smallest: int) -> Iterator[Batch]:
    """All batches of all epochs, at most ``max_steps``; a last batch below ``smallest`` is left out."""
    settings = plan.settings
    generator = torch.Generator().manual_seed(plan.seed)
    left = settings.max_steps or -1
    for _ in range(settings.local_epochs):
        for batch in data.epoch(generator, settings.batch_size):
            # BatchNorm cannot normalise a batch of one: one example less beats a training that fails.
            if smallest > 1 and num_examples(batch) < smallest:
                continue
            yield batch
            left -= 1
            if left == 0:
                return


def _outcome(mean: float, steps: int, plan: TrainingPlan) -> LocalOutcome:
    if steps == 0 and not plan.stop():
        raise TaskError(f"local training made no step: {NO_BATCH.format('the training data of this node')}")
    return LocalOutcome(steps=steps, loss=mean)
