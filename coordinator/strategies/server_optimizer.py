"""Server optimizers: from the aggregate to the step of the global model (Reddi et al., arXiv 2003.00295).

With the aggregate Δ of round t, learning rate η and elementwise operations::

    sgd       step = η Δ
    momentum  m ← β₁ m + Δ;               step = η m                     (FedAvgM, arXiv 1909.06335)
    adam      m ← β₁ m + (1 - β₁) Δ;      v ← β₂ v + (1 - β₂) Δ²;              step = η m / (√v + τ)
    yogi      m as adam;                  v ← v - (1 - β₂) Δ² sign(v - Δ²);    step = η m / (√v + τ)
    adagrad   m as adam with β₁ = 0;      v ← v + Δ²;                          step = η m / (√v + τ)

m starts at 0 and v at τ², without bias correction, as in the paper. Only parameters come here, never buffers. Each
operation rounds once in float32, in a fixed order: the same inputs give the same bits on every machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SERVER_OPTIMIZERS", "ServerOptimizer", "State"]

F32 = NDArray[np.float32]
State = Mapping[str, F32]
"""Plain arrays by name, each float32 of shape (D,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptimizer:
    """One server optimizer with its constants; its state is handed in and out.

    Attributes:
        name: One of `SERVER_OPTIMIZERS`.
        learning_rate: η.
        beta1: β₁, the decay of the first moment.
        beta2: β₂, the decay of the second moment.
        tau: τ, the degree of adaptivity: larger is closer to plain averaging.
    """

    name: str = "sgd"
    learning_rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def step(self, aggregate: F32, state: State) -> tuple[F32, State]:
        """Take one step.

        Args:
            aggregate: Δ, float32, shape (D,).
            state: What the last step returned; empty before the first.

        Returns:
            The step to add to the parameters, float32, shape (D,), and the new state.
        """
        # Overflow gives infinity, which the commit refuses by name; a warning would say less.
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return SERVER_OPTIMIZERS[self.name](self, aggregate, state)


def _sgd(self: ServerOptimizer, delta: F32, state: State) -> tuple[F32, State]:
    return (delta if self.learning_rate == 1.0 else _f32(self.learning_rate) * delta), state


def _momentum(self: ServerOptimizer, delta: F32, state: State) -> tuple[F32, State]:
    first = _f32(self.beta1) * _moment(state, "m", delta, 0.0) + delta
    return _f32(self.learning_rate) * first, {"m": first}


def _adam(self: ServerOptimizer, delta: F32, state: State) -> tuple[F32, State]:
    square = delta * delta
    second = _f32(self.beta2) * _moment(state, "v", delta, self.tau**2) + _f32(1.0 - self.beta2) * square
    return _adaptive(self, self.beta1, delta, (state, second))


def _yogi(self: ServerOptimizer, delta: F32, state: State) -> tuple[F32, State]:
    square = delta * delta
    before = _moment(state, "v", delta, self.tau**2)
    second = before - _f32(1.0 - self.beta2) * square * np.sign(before - square)
    return _adaptive(self, self.beta1, delta, (state, second))


def _adagrad(self: ServerOptimizer, delta: F32, state: State) -> tuple[F32, State]:
    second = _moment(state, "v", delta, self.tau**2) + delta * delta
    return _adaptive(self, 0.0, delta, (state, second))


def _adaptive(self: ServerOptimizer, beta1: float, delta: F32, moments: tuple[State, F32]) -> tuple[F32, State]:
    state, second = moments
    first = _f32(beta1) * _moment(state, "m", delta, 0.0) + _f32(1.0 - beta1) * delta
    root: F32 = np.sqrt(second, dtype=np.float32)
    step: F32 = _f32(self.learning_rate) * first / (root + _f32(self.tau))
    return step, {"m": first, "v": second}


def _moment(state: State, name: str, like: F32, start: float) -> F32:
    found = state.get(name)
    return found if found is not None and found.shape == like.shape else np.full_like(like, start)


def _f32(value: float) -> np.float32:
    return np.float32(value)


SERVER_OPTIMIZERS: Mapping[str, Callable[[ServerOptimizer, F32, State], tuple[F32, State]]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "adam": _adam,
    "yogi": _yogi,
    "adagrad": _adagrad,
}
"""By name, as the configuration gives it."""
