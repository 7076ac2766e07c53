"""The last server steps in a strategy's state, and the pull back to the model that an update was trained from."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["pulled_back", "remember"]

F32 = NDArray[np.float32]

_NAME = "step_{}"
"""Steps in the state, from 1, the last one."""


def pulled_back(delta: F32, state: Mapping[str, F32], pulls: Sequence[tuple[int, float]]) -> F32:
    """Add Σ share · (w_base - w), where w - w_base is the sum of the last τ steps.

    Args:
        delta: The aggregate, float32, shape (D,).
        state: What `remember` returned; steps that it does not have count as 0.
        pulls: Staleness τ and share of each member.
    """
    shares = [sum(share for staleness, share in pulls if staleness >= age) for age in range(1, _deepest(pulls) + 1)]
    for age, share in enumerate(shares, start=1):
        step = state.get(_NAME.format(age))
        if step is not None and step.shape == delta.shape:
            delta = delta - np.float32(share) * step
    return delta


def remember(step: F32, state: Mapping[str, F32], length: int) -> dict[str, F32]:
    """The state with this step as the last one, and at most ``length`` of them."""
    older = {_NAME.format(age + 1): state[_NAME.format(age)] for age in range(1, length) if _NAME.format(age) in state}
    rest = {name: array for name, array in state.items() if not name.startswith("step_")}
    return rest | ({_NAME.format(1): step} if length else {}) | older


def _deepest(pulls: Sequence[tuple[int, float]]) -> int:
    return max((staleness for staleness, _ in pulls), default=0)
