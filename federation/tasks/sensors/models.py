"""Small models of windows: dense, convolutional and recurrent, each with the head that a task needs.

A window is float32 of shape (n, length, columns). The recurrent ones are written out, cell by cell, so that a
simulation can train the models of many nodes in one stack, which torch's own GRU does not allow.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from federation.tasks.sensors.plan import Kind, SensorPlan
from federation.tasks.sensors.rules import BINS, SHARES

__all__ = ["model_of"]

_KERNEL, _HALF = 7, 3


def model_of(plan: SensorPlan, kind: Kind) -> nn.Module:
    """The model that a task's arguments ask for."""
    columns, outputs = len(plan.columns), len(plan.classes)
    module: nn.Module
    match kind:
        case Kind.RECONSTRUCTION:
            module = _AUTOENCODERS[plan.model](plan.window, columns, plan.width)
        case Kind.FORECAST:
            module = _with_head(plan, nn.Unflatten(1, (plan.horizon, columns)), plan.horizon * columns)
        case Kind.CLASS:
            module = _with_head(plan, nn.Identity(), outputs)
        case Kind.REMAINING:
            module = _with_head(plan, Scaled(plan.cap), 1)
    if plan.threshold == "federated":
        module.register_buffer(SHARES, torch.zeros(BINS))
    return module


def _with_head(plan: SensorPlan, last: nn.Module, outputs: int) -> nn.Sequential:
    encoder, features = _ENCODERS[plan.model](plan.window, len(plan.columns), plan.width)
    head = [nn.Linear(features, plan.width), nn.ReLU(), nn.Linear(plan.width, outputs)]
    return nn.Sequential(*encoder, *head, last)


class Scaled(nn.Module):
    """One number times a constant, of shape (n,): the head's output is near 1 where the target is large."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def forward(self, inputs: Tensor) -> Tensor:
        """From (n, 1) to (n,)."""
        return inputs[:, 0] * self._factor


class Gru(nn.Module):
    """A gated recurrent unit (Cho et al., 2014), with torch's equations, weights and initial values.

    r, z = sigmoid(W x + U h + b);  n = tanh(W x + b + r * (U h + b));  h <- (1 - z) * n + z * h
    """

    def __init__(self, inputs: int, width: int, *, last: bool) -> None:
        """Args: ``last`` gives the state after the last row, (n, width), else that after each, (n, rows, width)."""
        super().__init__()
        bound = width**-0.5
        self.weight_ih = nn.Parameter(torch.empty(3 * width, inputs).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(3 * width, width).uniform_(-bound, bound))
        self.bias_ih = nn.Parameter(torch.empty(3 * width).uniform_(-bound, bound))
        self.bias_hh = nn.Parameter(torch.empty(3 * width).uniform_(-bound, bound))
        self._width, self._last = width, last

    def forward(self, inputs: Tensor) -> Tensor:
        """From (n, rows, inputs); see the constructor."""
        ahead = linear(inputs, self.weight_ih, self.bias_ih)
        state = inputs.new_zeros(inputs.shape[0], self._width)
        states = []
        for row in ahead.unbind(1):
            back = linear(state, self.weight_hh, self.bias_hh)
            gates = torch.sigmoid(row[:, : 2 * self._width] + back[:, : 2 * self._width])
            reset, keep = gates.chunk(2, 1)
            new = torch.tanh(row[:, 2 * self._width :] + reset * back[:, 2 * self._width :])
            state = new + keep * (state - new)
            states.append(state)
        return state if self._last else torch.stack(states, 1)


class Repeat(nn.Module):
    """A vector for every row of a window: from (n, width) to (n, rows, width)."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        return inputs.unsqueeze(1).expand(-1, self._rows, -1)


class Turned(nn.Module):
    """Rows and columns change places: a convolution runs along the last axis."""

    def forward(self, inputs: Tensor) -> Tensor:
        """From (n, rows, columns) to (n, columns, rows), and back."""
        return inputs.transpose(1, 2)


class Cut(nn.Module):
    """The first places of the last axis: what is doubled twice is longer than a window of odd length."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def forward(self, inputs: Tensor) -> Tensor:
        """From (n, columns, more) to (n, columns, length)."""
        return inputs[..., : self._length]


def _dense(window: int, columns: int, width: int) -> nn.Module:
    size = window * columns
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(size, 2 * width),
        nn.ReLU(),
        nn.Linear(2 * width, width // 2),
        nn.ReLU(),
        nn.Linear(width // 2, 2 * width),
        nn.ReLU(),
        nn.Linear(2 * width, size),
        nn.Unflatten(1, (window, columns)),
    )


def _conv(window: int, columns: int, width: int) -> nn.Module:
    """Halved twice, doubled twice: the shape of the Keras example that SKAB's Conv-AE follows."""
    half = max(1, width // 2)
    return nn.Sequential(
        Turned(),
        nn.Conv1d(columns, width, _KERNEL, 2, _HALF),
        nn.ReLU(),
        nn.Conv1d(width, half, _KERNEL, 2, _HALF),
        nn.ReLU(),
        nn.ConvTranspose1d(half, half, _KERNEL, 2, _HALF, 1),
        nn.ReLU(),
        nn.ConvTranspose1d(half, width, _KERNEL, 2, _HALF, 1),
        nn.ReLU(),
        nn.Conv1d(width, columns, _KERNEL, 1, _HALF),
        Cut(window),
        Turned(),
    )


def _gru(window: int, columns: int, width: int) -> nn.Module:
    return nn.Sequential(
        Gru(columns, width, last=True), Repeat(window), Gru(width, width, last=False), nn.Linear(width, columns)
    )


def _dense_encoder(window: int, columns: int, width: int) -> tuple[list[nn.Module], int]:
    return [nn.Flatten(), nn.Linear(window * columns, 2 * width), nn.ReLU()], 2 * width


def _conv_encoder(window: int, columns: int, width: int) -> tuple[list[nn.Module], int]:
    del window
    first = [Turned(), nn.Conv1d(columns, width, _KERNEL, 2, _HALF), nn.ReLU()]
    second = [nn.Conv1d(width, width, _KERNEL, 2, _HALF), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
    return [*first, *second], width


def _gru_encoder(window: int, columns: int, width: int) -> tuple[list[nn.Module], int]:
    del window
    return [Gru(columns, width, last=True)], width


_AUTOENCODERS: dict[str, Callable[[int, int, int], nn.Module]] = {"dense": _dense, "conv": _conv, "gru": _gru}
_ENCODERS: dict[str, Callable[[int, int, int], tuple[list[nn.Module], int]]] = {
    "dense": _dense_encoder,
    "conv": _conv_encoder,
    "gru": _gru_encoder,
}
