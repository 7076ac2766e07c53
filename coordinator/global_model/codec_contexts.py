"""The codec's contexts at the coordinator: which parameters usually move, as the nodes derive it from the same deltas.

A node that has followed every delta since version 0 holds the same average of the global updates, to the bit, and may
code its update with the classes of the version that it trains from. The frame names these classes by their digest, so
nothing is announced. The average and the classes of recent versions are in the model's state, under the names below:
they become durable with their version, and an update that is stored or stale can still be read after a restart.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from update_codec import Context, moving_average

__all__ = ["KnownContexts", "followed", "state_of"]

_PREFIX = "context."
_AVERAGE = "context.average"
_MASKED = "privacy."
"""What masked sums keep there (`coordinator.global_model.masked`)."""

State = Mapping[str, NDArray[Any]]


class KnownContexts(Mapping[int, Context]):
    """The contexts in a model's state, by the key that a frame carries; unpacked when one is asked for.

    Args:
        state: The model's.
        parameters: How many the model has.
    """

    def __init__(self, state: State, parameters: int) -> None:
        self._parameters = parameters
        self._packed = {_key_of(name): array for name, array in sorted(_classes(state).items())}
        self._unpacked: dict[int, Context] = {}

    def __getitem__(self, key: int) -> Context:
        if key not in self._unpacked:
            self._unpacked[key] = Context.from_bytes(self._packed[key].tobytes(), self._parameters)
        return self._unpacked[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def followed(before: State, moved: NDArray[np.float32] | None, version: int, keep: int) -> dict[str, NDArray[Any]]:
    """What a version's state has of this, beside the strategy's own.

    Args:
        before: The state of the version before.
        moved: The parameters that the delta to the version decodes to; None where nodes cannot follow.
        version: The new one.
        keep: Versions whose classes are kept, itself included; 0 keeps nothing.
    """
    if not keep or moved is None:
        return {}
    average = before.get(_AVERAGE)
    if average is None:
        if version != 1:
            return {}  # nodes have followed since version 0, and would hold another average
        average = np.zeros_like(moved)
    average = moving_average(average.astype(np.float32, copy=False), moved)
    classes = _classes(before)
    context = Context.of(average)
    # A context that two versions share is kept under the newer one.
    kept = {name: array for name, array in classes.items() if _key_of(name) != context.key}
    kept = dict(sorted(kept.items())[-(keep - 1) :] if keep > 1 else ())
    name = f"{_PREFIX}{version:010}.{context.key:08x}"
    return {**kept, name: np.frombuffer(context.to_bytes(), np.uint8), _AVERAGE: average}


def state_of(state: State) -> dict[str, NDArray[Any]]:
    """The strategy's own part of a state."""
    return {name: array for name, array in state.items() if not name.startswith((_PREFIX, _MASKED))}


def _classes(state: State) -> dict[str, NDArray[Any]]:
    return {name: array for name, array in state.items() if name.startswith(_PREFIX) and name != _AVERAGE}


def _key_of(name: str) -> int:
    return int(name.rpartition(".")[2], 16)
