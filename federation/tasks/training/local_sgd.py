r"""Local training on one torch model: SGD as `torch.optim.SGD` does it, with FedProx's term, without its overhead.

One step: g = grad loss(w) + mu (w - w_base) + weight_decay w + correction;  v = momentum v + g;
w = w - learning_rate v. With ``clip_norm`` the gradient of the loss is scaled down to that norm first, all tensors
together. Adam and AdamW (arXiv 1412.6980, 1711.05101; beta 0.9 and 0.999, epsilon 1e-8) take v's place, as torch.optim
has them. What they gather is forgotten with the round, for the next one begins from another model, or kept on the node
where the settings say so (optimizer_state.py).

The proximal term is FedProx's (arXiv 1812.06127, equation 2); the correction is SCAFFOLD's c - c_i, the same in all
steps of a round (scaffold.py). A step costs what the model costs: no optimizer object, no data loader for tensors, one
permutation of the data per epoch. A step or an optimizer of the user's own is in own_steps.py.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import ADAM_KEY, CLIP_KEY, DECOUPLED_KEY, KEPT_KEY, MIXED, MIXED_KEY, Parameters, Stop
from federation.tasks.training.batches import Batch, Loss, Reading, num_examples, tensors_in
from federation.tasks.training.gradients import (
    SCALE_FIRST,
    Gradients,
    MixedPrecision,
    apart,
    clip,
    gradients_of,
    mixed_dtype,
)
from federation.tasks.training.local_data import EVALUATION_BATCH, NO_BATCH, LocalData, gap_in
from federation.tasks.training.local_model import LocalModel
from federation.tasks.training.nonpersistent_state import refuse_untrained
from federation.tasks.training.optimizer_state import OptimizerState
from federation.tasks.training.own_steps import OwnSteps, OwnTraining

LEFT_OUT = -100
"""What `torch.nn.functional.cross_entropy` takes for no class where nothing else is said."""

BETA_FIRST, BETA_SECOND, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOutcome:
    """What local training did.

    Attributes:
        steps: Gradient steps taken.
        loss: Mean loss over them, before each step.
        took_none: Whether these were the user's own, and no optimizer has moved anything in them.
        kept: What the node keeps of the optimizer; see `federation.task.TrainResult`.
        pending: The same.
    """

    steps: int
    loss: float
    took_none: bool = False
    kept: Parameters = field(default_factory=dict)
    pending: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How one local training goes.

    Attributes:
        settings: Epochs, batch size, step size and the rest.
        seed: Seed of this node's shuffle in this round.
        stop: Asked before each step.
        correction: Added to the gradients, by the tensors' names; None adds nothing.
        own: A step or an optimizer of the user's own.
        kept: All that the node keeps for its task.
    """

    settings: TrainSettings
    seed: int
    stop: Stop
    correction: Parameters | None = None
    own: OwnTraining = field(default_factory=OwnTraining)
    kept: Parameters = field(default_factory=dict)


def train_locally(model: LocalModel, loss: Loss, data: LocalData, plan: TrainingPlan) -> LocalOutcome:
    """Train in place until the epochs or the steps are over, or ``plan.stop()`` says so.

    Raises:
        TaskError: The settings make no sense, there is no data, or the loss is no longer finite.
    """
    check_settings(plan.settings)
    model.module.train()
    state = OptimizerState(plan.kept, plan.settings)
    steps = _own_steps(model, loss, plan, state) if plan.own.takes_steps else _Steps(model, loss, plan, state)
    total, count = torch.zeros((), device=model.device), 0
    first = total
    for batch in _batches(data, plan, smallest=2 if model.normalizes_batches else 1):
        if plan.stop():
            break
        found = steps(batch)
        first = found if not count else first
        total, count = total + found, count + 1
    if not math.isfinite(mean := total.item() / max(1, count)):
        why = gap_in(data) or _remedy(data, plan.settings, first.item())
        raise TaskError(f"local training diverged: {why}")
    if count == 0 and not plan.stop():
        why = NO_BATCH.format("the training data of this node")
        if model.normalizes_batches and plan.settings.batch_size == 1:
            why = "the model has BatchNorm, which needs two examples in a batch, and batch_size is 1"
        raise TaskError(f"local training made no step: {why}")
    kept, pending = state.left(steps.kind, steps.gathered(), steps.precision.scale)
    return LocalOutcome(steps=count, loss=mean, took_none=count > 0 and steps.took_none, kept=kept, pending=pending)


def _remedy(data: LocalData, settings: TrainSettings, first: float) -> str:
    """What may have made a loss that is not finite, where the data is; ``first`` is that of the first step."""
    remedy = f"lower learning_rate (it is {settings.learning_rate})"
    if not math.isfinite(first):
        remedy = f"its loss was {first} before the first step: see the loss, and the model's first weights"
    if settings.batch_size and data.num_examples % settings.batch_size == 1:
        return f"{remedy}; or the model takes statistics of its last batch, of one example: choose another batch_size"
    if any(_has_left_out(batch) for batch in data.in_order(settings.batch_size or EVALUATION_BATCH)):
        return f"{remedy}; or all targets of a batch were {LEFT_OUT}, whose mean loss is no number: leave such rows out"
    return remedy


def _has_left_out(batch: Batch) -> bool:
    """Whether there are targets that losses of torch leave out."""
    targets = batch if isinstance(batch, Mapping) else batch[1:]
    return any(not each.is_floating_point() and bool((each == LEFT_OUT).any()) for each in tensors_in(targets))


@torch.enable_grad()
def try_step(model: LocalModel, loss: Loss, batch: Batch, own: OwnTraining) -> None:
    """One step whose result is thrown away: what the user brings is called as in training.

    Raises:
        TaskError: It cannot be trained so.
    """
    if model.normalizes_batches and num_examples(batch) < 2:
        raise TaskError("the model has BatchNorm, which needs two examples, and the first batch of this node has one")
    plan = TrainingPlan(settings=TrainSettings(), seed=0, stop=bool, own=own)
    model.module.train()
    state = OptimizerState({}, plan.settings)
    before = model.dump() if own.takes_steps else {}
    if own.takes_steps:
        _own_steps(model, loss, plan, state)(batch)
        model.dump()
        model.load(before)
        return
    used = model.trainable
    found = own.loss_of(Reading.of(model.module, loss), batch)
    refuse_untrained(model.module, found, used)
    gradients_of(found, used, model.trainable)
    model.dump()


class _Steps:
    """The steps of one round, by our own optimizer."""

    took_none = False

    def __init__(self, model: LocalModel, loss: Loss, plan: TrainingPlan, state: OptimizerState) -> None:
        self._model, weights, correction = model, model.trainable, plan.correction
        self._sgd = Sgd(weights, plan.settings, () if correction is None else _like(model, weights, correction))
        self.precision = _precision(model, plan, state)
        self.kind = self._sgd.kind(model.trainable_names, weights)
        self._sgd.resume(model.trainable_names, weights, state.arrays(self.kind))
        self._own, self._reading = plan.own, Reading.of(model.module, loss)
        self._first = True

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Take one step; gives the loss before it."""
        used = self._model.trainable
        with self.precision.forward():
            loss = self._own.loss_of(self._reading, batch)
        if self._first:
            # A node that waits for its readings could not look when it was prepared.
            refuse_untrained(self._model.module, loss, used)
            self._first = False
        # A forward pass may put other parameters in the place of those that it has used.
        weights = self._model.trainable
        self.precision.step(gradients_of(self.precision.scaled(loss), used, weights), weights, self._sgd.step)
        return loss.detach()

    def gathered(self) -> Mapping[str, torch.Tensor]:
        """What the optimizer has gathered, by name."""
        return self._sgd.gathered(self._model.trainable_names)


def _own_steps(model: LocalModel, loss: Loss, plan: TrainingPlan, state: OptimizerState) -> OwnSteps:
    if plan.correction is not None:
        raise TaskError("SCAFFOLD is plain local SGD: the task must leave optimizer and the whole step to it")
    steps = OwnSteps(model, Reading.of(model.module, loss), plan.own, plan.settings, _precision(model, plan, state))
    steps.resume(state.arrays(steps.kind))
    return steps


def _precision(model: LocalModel, plan: TrainingPlan, state: OptimizerState) -> MixedPrecision:
    return MixedPrecision(mixed_dtype(plan.settings, model.device), model.device, state.scale or SCALE_FIRST)


class Sgd:
    """The step of one round: settings and what the optimizer gathers.

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
        self._velocity: dict[int, torch.Tensor] = {}
        self._weights = list(weights)
        self._clip_norm = settings.extra.get(CLIP_KEY, 0.0)
        self._adam = _Adam(weights) if settings.extra.get(ADAM_KEY) else None
        self._decoupled = self._adam is not None and bool(settings.extra.get(DECOUPLED_KEY))
        terms = (settings.momentum, settings.weight_decay, settings.proximal_mu, self._clip_norm, self._adam)
        self._changes_gradients = any(terms) or bool(self._correction)

    @torch.no_grad()
    def step(self, gradients: Gradients, weights: list[torch.Tensor]) -> None:
        """Move every tensor in place against its gradient; ``weights`` has the places of the first ones."""
        places = [place for place, each in enumerate(gradients) if each is not None]
        if places:
            self._move([each for each in gradients if each is not None], [weights[place] for place in places], places)

    def narrow(self, count: int) -> None:
        """Of weights that are stacks, only the first *count* of each are moved from now on."""
        self._base = [tensor[:count] for tensor in self._base]
        self._weights = [tensor[:count] for tensor in self._weights]
        self._velocity = {place: tensor[:count] for place, tensor in self._velocity.items()}

    def _move(self, gradients: list[torch.Tensor], weights: list[torch.Tensor], places: Sequence[int]) -> None:
        settings = self._settings
        if self._changes_gradients:
            gradients = apart(gradients)
        if self._clip_norm:
            clip(gradients, self._clip_norm)
        if settings.proximal_mu:
            base = [self._base[place] for place in places]
            away = torch._foreach_sub(weights, base)  # noqa: SLF001 - what torch.optim itself calls
            torch._foreach_add_(gradients, away, alpha=settings.proximal_mu)
        if settings.weight_decay and self._decoupled:
            torch._foreach_mul_(weights, 1 - settings.learning_rate * settings.weight_decay)
        elif settings.weight_decay:
            torch._foreach_add_(gradients, weights, alpha=settings.weight_decay)
        if self._correction:
            torch._foreach_add_(gradients, [self._correction[place] for place in places])
        if self._adam is not None:
            self._adam.step(gradients, weights, settings.learning_rate, places)
            return
        if settings.momentum:
            gradients = self._accelerate(gradients, places)
        torch._foreach_add_(weights, gradients, alpha=-settings.learning_rate)

    def _accelerate(self, gradients: list[torch.Tensor], places: Sequence[int]) -> list[torch.Tensor]:
        found = dict(zip(places, gradients, strict=True))
        if moving := [place for place in places if place in self._velocity]:
            velocities = [self._velocity[place] for place in moving]
            torch._foreach_mul_(velocities, self._settings.momentum)
            torch._foreach_add_(velocities, [found[place] for place in moving])
        self._velocity = found | self._velocity
        return [self._velocity[place] for place in places]

    def kind(self, names: Sequence[str], weights: Sequence[torch.Tensor]) -> str:
        """What it is and what it moves: state of another kind is not gone on from."""
        moved = (f"{name}{list(each.shape)}" for name, each in zip(names, weights, strict=True))
        return " ".join(("sgd" if self._adam is None else "adam", *moved))

    def gathered(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Velocity or moments, by what it is and the tensor's name; nothing where there is none."""
        if self._adam is not None:
            lists = {"first": self._adam.first, "second": self._adam.second}
        else:
            known, zeros = self._velocity, torch.zeros_like
            lists = {"velocity": [known.get(n, zeros(each)) for n, each in enumerate(self._weights)]} if known else {}
        found = {f"{what}.{name}": each for what, some in lists.items() for name, each in zip(names, some, strict=True)}
        return found | ({} if self._adam is None else {"steps": torch.tensor(max(self._adam.steps))})

    def resume(self, names: Sequence[str], weights: Sequence[torch.Tensor], arrays: Parameters) -> None:
        """Go on from what `gathered` gave, of the same `kind`; from nothing where it is empty."""

        def gathered(what: str) -> list[torch.Tensor]:
            pairs = zip(names, weights, strict=True)
            return [torch.from_numpy(np.array(arrays[f"{what}.{name}"])).to(each) for name, each in pairs]

        if not arrays:
            return
        if self._adam is None:
            self._velocity = dict(enumerate(gathered("velocity"))) if self._settings.momentum else {}
        else:
            self._adam.first, self._adam.second = gathered("first"), gathered("second")
            self._adam.steps = [int(arrays["steps"].item())] * len(weights)


class _Adam:
    """The moments of the gradients so far."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self.first = [torch.zeros_like(tensor) for tensor in weights]
        self.second = [torch.zeros_like(tensor) for tensor in weights]
        self.steps = [0 for _ in weights]

    def step(
        self, gradients: list[torch.Tensor], weights: list[torch.Tensor], rate: float, places: Sequence[int]
    ) -> None:
        """Move every tensor in place."""
        for place in places:
            self.steps[place] += 1
        first, second = [self.first[place] for place in places], [self.second[place] for place in places]
        steps = [self.steps[place] for place in places]
        torch._foreach_lerp_(first, gradients, 1 - BETA_FIRST)
        torch._foreach_mul_(second, BETA_SECOND)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - BETA_SECOND)
        divisors = torch._foreach_sqrt(second)  # noqa: SLF001 - as above
        torch._foreach_div_(divisors, [math.sqrt(1 - BETA_SECOND**step) for step in steps])
        torch._foreach_add_(divisors, EPSILON)
        torch._foreach_addcdiv_(weights, first, divisors, [-rate / (1 - BETA_FIRST**step) for step in steps])


def is_plain(settings: TrainSettings) -> bool:
    """Whether the steps are those of SGD, in full precision, without noise, clipping and memory of earlier rounds."""
    asked = any(settings.extra.get(key) for key in (ADAM_KEY, CLIP_KEY, KEPT_KEY, MIXED_KEY))
    return settings.privacy is None and not asked


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
    if (mixed := settings.extra.get(MIXED_KEY, 0.0)) not in {0.0, *MIXED.values()}:
        raise TaskError(f"{MIXED_KEY} must be 0 or one of {dict(MIXED)}, not {mixed}")
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
