"""Local SGD of many nodes at once: their models in one stack, their batches in one, one kernel instead of many.

``torch.func.vmap`` runs the model for every node of the stack; the step is that of `local_sgd.py` on the stacked
tensors. Nodes take the batches that they would take alone. Those with the most steps come first, so that whoever is
through leaves the stack at its end. Where batches differ in size (the last of an epoch) the short ones are padded, and
padded rows weigh nothing in the mean loss.

Steps on a whole data set that does not change (``batch_size = 0``) take another way through a first linear layer. With
X the node's n rows, the gradient of its weight W is D^T X, D (n, h) being that of its output; so W stays W_0 + A^T X,
and its output X W_0^T + (X X^T) A. A step then costs n instead of d columns, and X meets W twice in all
(docs/adr/0021-simulated-nodes-train-in-stacks.md).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from federation.protocol.messages import TrainSettings
from federation.task import Array, Parameters
from federation.tasks.training.batches import Loss, Reading
from federation.tasks.training.local_model import LocalModel
from federation.tasks.training.local_sgd import Sgd, check_settings

__all__ = ["Group", "Stack", "Stacked"]

Named = dict[str, Tensor]
"""Tensors by name, each with the nodes as its first axis."""

_STRETCH = 1000
"""Weights times this are beyond what a model would bound them to."""

TOLERANCE = 1e-4
"""The loss of a batch must be the mean of its rows' losses, so closely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Nodes that train together.

    Attributes:
        places: Their places in the work, those with the most steps first.
        batches: For each node the rows of each step.
        whole: Every step takes all rows, in their own order, of each node as many.
    """

    places: tuple[int, ...]
    batches: tuple[tuple[Tensor, ...], ...]
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Trained models.

    Attributes:
        places: Places in the work.
        parameters: By name, each with the nodes as its first axis.
        losses: Mean loss over the steps, of each node.
    """

    places: tuple[int, ...]
    parameters: dict[str, Array]
    losses: Array


class Stacked:
    """Trains groups of nodes.

    Args:
        model: Its module is called with every node's tensors.
        loss: Output and target to the mean loss of a batch.
    """

    def __init__(self, model: LocalModel, loss: Loss) -> None:
        self._model, self._loss = model, loss
        self._gradients = vmap(grad_and_value(self._mean_loss))
        self._masked_gradients = vmap(grad_and_value(self._masked_loss))
        self._head = _first_linear(model.module)

    def objection(self, inputs: Tensor, targets: Tensor) -> str | None:
        """Why this model or loss cannot be stacked, or None; a few rows are tried."""
        module = self._model.module
        stays = self._model.layout.constants or self._model.layout.tied
        if stays or len(self._model.trainable) != len(self._model.tensors):
            return "the model has buffers or frozen parameters"
        if any(isinstance(each, nn.modules.dropout._DropoutNd) for each in module.modules()):  # noqa: SLF001
            return "the model has dropout, which draws for each node apart"
        whole = Reading.of(module, self._loss).whole
        module.train()
        try:
            tensors = {name: tensor.unsqueeze(0) for name, tensor in self._model.tensors.items()}
            batch = (inputs.unsqueeze(0), targets.unsqueeze(0))
            _, plain = self._gradients(tensors, *batch)
            _, by_row = self._masked_gradients(tensors, *batch, torch.ones(1, len(inputs), device=inputs.device))
            changes = self._changes_itself(inputs)
        except Exception as error:  # noqa: BLE001 - whatever the model raises here, alone it may train
            return f"the model cannot be stacked: {error}"
        if changes or whole:
            return "the model changes its own tensors, or the loss takes whole batches: a stack has them elsewhere"
        if not torch.allclose(plain.double(), by_row.double(), rtol=TOLERANCE, atol=TOLERANCE):
            return "the loss of a batch is not the mean of its rows' losses"
        return None

    def _changes_itself(self, inputs: Tensor) -> bool:
        """Whether a forward pass changes parameters: also those that bound only large or negative weights."""
        first = self._model.dump()
        try:
            for scale in (_STRETCH, -_STRETCH):
                self._model.load({name: (scale * array).astype(array.dtype) for name, array in first.items()})
                before = self._model.dump()
                self._model.module(inputs)
                after = self._model.dump()
                if self._model.replaced or any(not np.array_equal(before[name], after[name]) for name in before):
                    return True
        finally:
            self._model.load(first)
        return False

    def groups(
        self, rows: Sequence[Tensor], settings: TrainSettings, seeds: Sequence[int], nodes_max: int
    ) -> Iterator[Group]:
        """Nodes with about as many steps together, at most ``nodes_max`` in a group."""
        check_settings(settings)
        plans = [
            (place, _batches(len(own), settings, seed))
            for place, (own, seed) in enumerate(zip(rows, seeds, strict=True))
        ]
        # Whole data sets of other sizes would be padded far, and through the head they need as many rows.
        alone = settings.batch_size == 0 or self._head is not None
        key: Callable[[tuple[int, list[Tensor | None]]], int] = lambda plan: (  # noqa: E731 - used twice
            len(rows[plan[0]]) if alone and plan[1][0] is None else 0
        )
        for alike, same in groupby(sorted(plans, key=key), key=key):
            members = sorted(same, key=lambda plan: len(plan[1]), reverse=True)
            for start in range(0, len(members), nodes_max):
                some = members[start : start + nodes_max]
                yield Group(
                    places=tuple(place for place, _ in some),
                    batches=tuple(
                        tuple(rows[place] if order is None else rows[place][order] for order in plan)
                        for place, plan in some
                    ),
                    whole=alike > 0,
                )

    def train(self, base: Parameters, group: Group, data: tuple[Tensor, Tensor], settings: TrainSettings) -> Stack:
        """Train one group from ``base``."""
        self._model.load(base)
        self._model.module.train()
        count = len(group.places)
        if group.whole and len(group.batches[0]) > 1 and not settings.weight_decay and self._head is not None:
            rows = torch.stack([batches[0] for batches in group.batches])
            if rows.shape[1] < self._head.linear.in_features:
                tensors, losses = self._head.train(
                    self._model, self._loss, (data[0][rows], data[1][rows]), (len(group.batches[0]), settings)
                )
                return _as_arrays(group, tensors, losses)
        tensors = {name: tensor.expand(count, *tensor.shape).clone() for name, tensor in self._model.tensors.items()}
        sgd = Sgd(list(tensors.values()), settings)
        losses = torch.zeros(count, device=self._model.device)
        left = tensors
        for step in range(len(group.batches[0])):
            batches = [own[step] for own in group.batches if step < len(own)]
            if len(batches) < count:
                count = len(batches)
                left = {name: tensor[:count] for name, tensor in tensors.items()}
                sgd.narrow(count)
            gradients, loss = self._step(left, batches, data)
            sgd.step([gradients[name] for name in left], list(left.values()))
            losses[:count] += loss
        return _as_arrays(group, tensors, losses / torch.tensor([len(own) for own in group.batches]).to(losses))

    def _step(self, tensors: Named, batches: Sequence[Tensor], data: tuple[Tensor, Tensor]) -> tuple[Named, Tensor]:
        inputs, targets = data
        sizes = [len(rows) for rows in batches]
        widest = max(sizes)
        if min(sizes) == widest:
            rows = torch.stack(list(batches))
            return self._gradients(tensors, inputs[rows], targets[rows])
        rows = torch.stack([torch.cat([own, own[:1].expand(widest - len(own))]) for own in batches])
        lengths = torch.tensor(sizes, device=inputs.device).unsqueeze(1)
        mask = (torch.arange(widest, device=inputs.device).unsqueeze(0) < lengths).to(torch.float32)
        return self._masked_gradients(tensors, inputs[rows], targets[rows], mask)

    def _mean_loss(self, tensors: Named, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._loss(functional_call(self._model.module, tensors, (inputs,)), targets)

    def _masked_loss(self, tensors: Named, inputs: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        output = functional_call(self._model.module, tensors, (inputs,))
        return (_row_losses(self._loss, output, targets) * mask).sum() / mask.sum()


def _row_losses(loss: Loss, output: Any, targets: Tensor) -> Tensor:
    one: Callable[[Any, Any], Tensor] = lambda out, target: loss(out.unsqueeze(0), target.unsqueeze(0))  # noqa: E731
    return vmap(one)(output, targets)


def _batches(length: int, settings: TrainSettings, seed: int) -> list[Tensor | None]:
    """The rows of each step within the node's own, as `TensorData.epoch` gives them; None is all of them in order."""
    generator = torch.Generator().manual_seed(seed)
    steps: list[Tensor | None] = []
    for _ in range(settings.local_epochs):
        if settings.batch_size == 0 or settings.batch_size >= length:
            steps.append(None)
        else:
            order = torch.randperm(length, generator=generator)
            steps.extend(order.split(settings.batch_size))  # type: ignore[no-untyped-call]  # torch has no annotation
        if settings.max_steps and len(steps) >= settings.max_steps:
            return steps[: settings.max_steps]
    return steps


def _as_arrays(group: Group, tensors: Named, losses: Tensor) -> Stack:
    arrays: dict[str, Array] = {name: np.asarray(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()}
    return Stack(places=group.places, parameters=arrays, losses=losses.cpu().numpy())


@dataclass(frozen=True, slots=True)
class _Head:
    """A linear layer on flattened inputs, and what follows."""

    name: str
    linear: nn.Linear
    tail: nn.Sequential

    def train(
        self, model: LocalModel, loss: Loss, data: tuple[Tensor, Tensor], plan: tuple[int, TrainSettings]
    ) -> tuple[Named, Tensor]:
        """Steps on whole data sets, see the module's first words."""
        (steps, settings), weight = plan, f"{self.name}.weight"
        rows, targets = data[0].flatten(2), data[1]
        tensors = model.tensors
        base = tensors[weight]
        fixed = rows @ base.T
        gram = rows @ rows.transpose(1, 2)
        moved = torch.zeros_like(fixed)
        rest = {name: t.expand(len(rows), *t.shape).clone() for name, t in tensors.items() if name != weight}
        gradients = vmap(grad_and_value(self._loss_of(loss), argnums=(0, 1)))
        weights = [*rest.values(), moved]
        sgd = Sgd(weights, settings)
        total = torch.zeros(len(rows), device=rows.device)
        for _ in range(steps):
            (by_output, by_rest), value = gradients(torch.baddbmm(fixed, gram, moved), rest, targets)
            sgd.step([*(by_rest[name] for name in rest), by_output], weights)
            total += value
        trained = torch.baddbmm(base.expand(len(rows), *base.shape), moved.transpose(1, 2), rows)
        ordered = {name: trained if name == weight else rest[name] for name in tensors}
        return ordered, total / steps

    def _loss_of(self, loss: Loss) -> Callable[[Tensor, Named, Tensor], Tensor]:
        bias, tail = f"{self.name}.bias", self.tail

        def loss_of(output: Tensor, rest: Named, targets: Tensor) -> Tensor:
            hidden = output + rest[bias] if bias in rest else output
            after = {name: tensor for name, tensor in rest.items() if name != bias}
            return loss(functional_call(tail, after, (hidden,)), targets)

        return loss_of


def _first_linear(module: nn.Module) -> _Head | None:
    """The head of a sequence that flattens its inputs and multiplies them first; None for every other model."""
    if type(module) is not nn.Sequential:
        return None
    children = list(module.named_children())
    while children and type(children[0][1]) is nn.Flatten and children[0][1].start_dim == 1:
        children = children[1:]
    if len(children) == len(list(module.named_children())) or not children or not isinstance(children[0][1], nn.Linear):
        return None
    (name, linear), *others = children
    assert isinstance(linear, nn.Linear)  # noqa: S101 - just looked at
    tail = nn.Sequential()
    for other, layer in others:
        tail.add_module(other, layer)
    return _Head(name, linear, tail)
