"""The step of `local_sgd.py` on stacks of tensors: one node per first index."""

import torch
from torch import Tensor

from federation.protocol.messages import TrainSettings

__all__ = ["StackedSgd"]


class StackedSgd:
    """Settings, FedProx's base and momentum of one round of many nodes.

    Args:
        tensors: By name, moved in place by every step.
        settings: Step size and the rest.
    """

    def __init__(self, tensors: dict[str, Tensor], settings: TrainSettings) -> None:
        self._names, self._weights = list(tensors), list(tensors.values())
        self._settings = settings
        self._base = [tensor.clone() for tensor in self._weights] if settings.proximal_mu else []
        self._velocity: list[Tensor] = []

    def step(self, by_name: dict[str, Tensor]) -> None:
        """Move every tensor against its gradient."""
        settings, gradients = self._settings, [by_name[name] for name in self._names]
        if settings.proximal_mu:
            away = torch._foreach_sub(self._weights, self._base)  # noqa: SLF001 - what torch.optim itself calls
            torch._foreach_add_(gradients, away, alpha=settings.proximal_mu)
        if settings.weight_decay:
            torch._foreach_add_(gradients, self._weights, alpha=settings.weight_decay)
        if settings.momentum:
            gradients = self._accelerate(gradients)
        torch._foreach_add_(self._weights, gradients, alpha=-settings.learning_rate)

    def _accelerate(self, gradients: list[Tensor]) -> list[Tensor]:
        if self._velocity:
            torch._foreach_mul_(self._velocity, self._settings.momentum)
            torch._foreach_add_(self._velocity, gradients)
        else:
            self._velocity = gradients
        return self._velocity
