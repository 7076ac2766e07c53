"""Training by the user's own step or optimizer, under this node's settings.

``TorchTask(step=...)`` has two forms. ``step(module, batch)`` gives a loss, of which we take the gradients and the
step: everything in the settings holds. ``step(module, batch, optimizer)`` takes the whole step itself, with
``optimizer.zero_grad()``, ``loss.backward()`` and ``optimizer.step()``, and gives the loss to report.
``TorchTask(optimizer=...)`` makes the optimizer, or several, of torch's kind, anew in each round.

Clipping and FedProx's term are put on the gradients by a hook right before ``optimizer.step()``, so that they hold for
code that has never heard of them. What cannot be made to hold is an error, and not left out.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import ADAM_KEY, CLIP_KEY, DECOUPLED_KEY, KEPT_KEY, MIXED_KEY, Array, Parameters
from federation.tasks.training.batches import Batch, Reading
from federation.tasks.training.gradients import MixedPrecision, clip
from federation.tasks.training.local_model import LocalModel

__all__ = ["MakeOptimizer", "OwnSteps", "OwnTraining", "Step"]

_used: WeakSet[Optimizer] = WeakSet()
"""Optimizers that have trained a round: what they have gathered is of that round, and perhaps of another node."""

Step = Callable[..., Any]
"""(module, batch) to the loss; or (module, batch, optimizer), which also takes the step."""

MakeOptimizer = Callable[[nn.Module, TrainSettings], Any]
"""The model and the round's settings to a torch optimizer, or several in a tuple, list or mapping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTraining:
    """What the user brings.

    Attributes:
        step: See `Step`.
        optimizer: See `MakeOptimizer`; None makes what the settings say.
    """

    step: Step | None = None
    optimizer: MakeOptimizer | None = None

    @property
    def takes_steps(self) -> bool:
        """Whether the steps are not ours."""
        return self.optimizer is not None or self.takes_whole_step

    @property
    def takes_whole_step(self) -> bool:
        """Whether ``step`` wants the optimizer, too."""
        if self.step is None:
            return False
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        try:
            arguments = inspect.signature(self.step).parameters.values()
        except (TypeError, ValueError):  # written in C
            return False
        return sum(each.kind in kinds and each.default is inspect.Parameter.empty for each in arguments) > 2

    def loss_of(self, reading: Reading, batch: Batch) -> torch.Tensor:
        """The loss that is differentiated: the user's step, or model and loss as ever.

        Raises:
            TaskError: The step gives none.
        """
        if self.step is None:
            return reading(batch)[1]
        loss = self.step(reading.module, batch)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise TaskError(f"step(module, batch) must return the loss, a tensor of one number, not {_told(loss)}")
        return loss.reshape(())


class OwnSteps:
    """The steps of one round.

    Args:
        model: What is trained.
        reading: Its loss, where the user has no step.
        own: What the user brings.
        settings: Of the round.
        precision: For steps that are ours in all but the optimizer.

    Raises:
        TaskError: The optimizer holds what is not trained, leaves out what is, or is none; the settings ask for what a
            step of one's own must do itself.
    """

    def __init__(
        self,
        model: LocalModel,
        reading: Reading,
        own: OwnTraining,
        settings: TrainSettings,
        precision: MixedPrecision,
    ) -> None:
        if own.takes_whole_step and settings.extra.get(MIXED_KEY):
            raise TaskError(
                "train.mixed_precision: step(module, batch, optimizer) takes the whole step, so it must do this itself,"
                " with torch.autocast"
            )
        self._model, self._reading, self._own, self._settings = model, reading, own, settings
        self.precision = precision
        self._weights = model.trainable
        for weight in model.module.parameters():
            weight.grad = None
        make = own.optimizer or _of_settings
        self._made = make(model.module, settings)
        self._optimizers = _optimizers(self._made, whole_step=own.takes_whole_step)
        self._check_parameters()
        self._taken = 0
        self._clip_norm = settings.extra.get(CLIP_KEY, 0.0)
        self._base = {id(each): each.detach().clone() for each in self._weights if settings.proximal_mu}
        for optimizer in self._optimizers:
            if optimizer in _used:
                raise TaskError(
                    "optimizer(module, settings) gave the optimizer of an earlier round: make a new one, and set"
                    " train.optimizer_state to kept where its state shall go on"
                )
            _used.add(optimizer)
            optimizer.register_step_pre_hook(self._before_step)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Take one step; gives the loss."""
        if self._own.takes_whole_step:
            assert self._own.step is not None  # noqa: S101 - it takes the step
            loss = self._own.step(self._model.module, batch, self._made)
            if not (isinstance(loss, Real) or (isinstance(loss, torch.Tensor) and loss.numel() == 1)):
                raise TaskError(f"step(module, batch, optimizer) must return the loss, not {_told(loss)}")
            found = torch.as_tensor(loss, device=self._model.device).detach().reshape(())
        else:
            found = self._our_step(batch)
        self._check_replaced()
        return found

    def _our_step(self, batch: Batch) -> torch.Tensor:
        if any(map(_wants_closure, self._optimizers)):
            return self._closed_step(batch)
        loss = self._differentiated(batch)
        for optimizer in self._optimizers:
            self.precision.step_of(optimizer)
        return loss

    def _closed_step(self, batch: Batch) -> torch.Tensor:
        """Of optimizers that ask for loss and gradients several times a step, such as LBFGS."""
        if self.precision.scales:
            raise TaskError("train.mixed_precision: an optimizer that takes a closure needs bfloat16 or off")
        again: Any = lambda: self._differentiated(batch)  # noqa: E731 - torch says that it gives a float
        losses = [optimizer.step(again) for optimizer in self._optimizers]
        return torch.as_tensor(losses[0], device=self._model.device).detach()

    def _differentiated(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch, whose gradients the parameters have now."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        with self.precision.forward():
            loss = self._own.loss_of(self._reading, batch)
        self.precision.scaled(loss).backward()  # type: ignore[no-untyped-call]
        self._check_replaced()
        return loss.detach()

    @property
    def took_none(self) -> bool:
        """Whether no optimizer was asked for a step while it had a gradient."""
        return self._taken == 0

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        closed = any(callable(each) for each in (*args[1:], *kwargs.values()))
        self._taken += closed or any(each.grad is not None for each in _held(optimizer))
        if not (self._clip_norm or self._base):
            return
        if closed:
            raise TaskError(
                "train.clip_norm and train.proximal_mu: an optimizer that is given a closure makes its own gradients;"
                " set both to 0"
            )
        held = [each for each in _held(optimizer) if each.grad is not None]
        with torch.no_grad():
            if self._clip_norm:
                clip([each.grad for each in held if each.grad is not None], self._clip_norm)
            for each in held:
                if each.grad is not None and id(each) in self._base:
                    each.grad.add_(each - self._base[id(each)], alpha=self._settings.proximal_mu)

    @property
    def kind(self) -> str:
        """What the optimizers are and what they move: state of another kind is not gone on from."""
        names = self._names()
        return " ".join(
            f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
            + "".join(f" {names.get(id(each), '')}{list(each.shape)}" for each in _held(optimizer))
            for optimizer in self._optimizers
        )

    def gathered(self) -> Mapping[str, torch.Tensor | Array]:
        """The optimizers' state, where it is to be kept.

        Raises:
            TaskError: Part of it is no tensor or number; or the settings asked for terms, and no step was taken.
        """
        if self._taken == 0 and (self._clip_norm or self._base):
            raise TaskError(
                "train.clip_norm and train.proximal_mu: step never called optimizer.step() where there was a gradient:"
                " set both to 0"
            )
        for weight in self._weights:
            weight.grad = None
        return dict(self._state()) if self._settings.extra.get(KEPT_KEY) else {}

    def _state(self) -> Iterator[tuple[str, torch.Tensor | Array]]:
        """By optimizer, place of the tensor, whether it is a tensor, and its own name."""
        for number, optimizer in enumerate(self._optimizers):
            for place, weight in enumerate(_held(optimizer)):
                for name, value in optimizer.state.get(weight, {}).items():
                    if isinstance(value, torch.Tensor):
                        yield f"{number}.{place}.tensor.{name}", value
                    elif isinstance(value, Real):
                        yield f"{number}.{place}.number.{name}", np.array(value)
                    elif value is not None:
                        kind = f"{type(optimizer).__name__} keeps {name} as {type(value).__name__}"
                        raise TaskError(f"train.optimizer_state: {kind}, which cannot be stored: set it to reset")

    def resume(self, arrays: Parameters) -> None:
        """Go on from what `gathered` gave, of the same `kind`; from nothing where it is empty."""
        states: dict[int, dict[int, dict[str, Any]]] = {}
        for name, array in arrays.items():
            number, place, what, own = name.split(".", 3)
            value = array.item() if what == "number" else torch.from_numpy(np.array(array))
            states.setdefault(int(number), {}).setdefault(int(place), {})[own] = value
        for which, state in states.items():
            optimizer = self._optimizers[which]
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _names(self) -> Mapping[int, str]:
        return {id(each): name for name, each in zip(self._model.trainable_names, self._weights, strict=True)}

    def _check_parameters(self) -> None:
        """Each tensor that is trained is moved, and no other."""
        names, held = self._names(), [each for optimizer in self._optimizers for each in _held(optimizer)]
        ours = {id(each) for each in self._model.module.parameters()}
        for each in held:
            if id(each) not in ours:
                raise TaskError(
                    f"the optimizer holds a tensor of shape {list(each.shape)} that is none of the model's: make it"
                    " of the module that it is given"
                )
        if missing := sorted(names[place] for place in names.keys() - {id(each) for each in held}):
            raise TaskError(
                f"the optimizer leaves out {', '.join(missing[:8])}: give them to it, or freeze them (requires_grad)"
            )

    def _check_replaced(self) -> None:
        now = self._model.trainable
        for name, before, after in zip(self._model.trainable_names, self._weights, now, strict=True):
            if before is not after:
                raise TaskError(
                    f"{name} was replaced while it was used, and the optimizer holds the one before: change it in place"
                )


def _optimizers(made: Any, *, whole_step: bool) -> Sequence[Optimizer]:
    """All that was made, in order; a step of one's own may call a scheduler, too, which moves nothing itself.

    Raises:
        TaskError: Something else was.
    """
    found = list(made.values()) if isinstance(made, Mapping) else made
    found = list(found) if isinstance(found, tuple | list) else [found]
    schedulers = [each for each in found if isinstance(each, LRScheduler | ReduceLROnPlateau)]
    if schedulers and not whole_step:
        raise TaskError(
            f"optimizer(module, settings) made a {type(schedulers[0]).__name__}, which nobody calls: set"
            " train.schedule, or call it in step(module, batch, optimizer)"
        )
    found = [each for each in found if each not in schedulers]
    for each in found:
        if not isinstance(each, Optimizer):
            raise TaskError(f"optimizer(module, settings) must make a torch.optim.Optimizer, not {_told(each)}")
    if not found:
        raise TaskError("optimizer(module, settings) made none")
    return found


def _wants_closure(optimizer: Optimizer) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _held(optimizer: Optimizer) -> list[torch.Tensor]:
    """Its tensors, in the order in which `Optimizer.state_dict` counts them."""
    return [each for group in optimizer.param_groups for each in group["params"]]


def _of_settings(module: nn.Module, settings: TrainSettings) -> Optimizer:
    """The optimizer that the settings name, as torch has it."""
    trained = [each for each in module.parameters() if each.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if not settings.extra.get(ADAM_KEY):
        return torch.optim.SGD(trained, lr=rate, momentum=settings.momentum, weight_decay=decay)
    adam = torch.optim.AdamW if settings.extra.get(DECOUPLED_KEY) else torch.optim.Adam
    return adam(trained, lr=rate, weight_decay=decay)


def _told(value: Any) -> str:
    return f"{type(value).__name__}{list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
