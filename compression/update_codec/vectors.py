"""A model, or an update of it, as three flat vectors: parameters, statistics, counters."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from update_codec.errors import ShapeError

__all__ = ["Vectors"]


class Counts(Protocol):
    """How many entries each role has; a manifest says so."""

    @property
    def parameter_count(self) -> int: ...
    @property
    def statistic_count(self) -> int: ...
    @property
    def counter_count(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Three one-dimensional arrays; what they mean is fixed by a manifest.

    Raises:
        ShapeError: if an array is not one-dimensional or has another type.
    """

    parameters: NDArray[np.float32]
    """Trained values, float32, shape (D,)."""
    statistics: NDArray[np.float32]
    """Float buffers, float32, shape (S,)."""
    counters: NDArray[np.int64]
    """Integer tensors, int64, shape (C,)."""

    def __post_init__(self) -> None:
        for name, dtype in (("parameters", np.float32), ("statistics", np.float32), ("counters", np.int64)):
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype != dtype:
                raise ShapeError(f"{name} must be a one-dimensional {np.dtype(dtype).name} array")

    @classmethod
    def zeros(cls, manifest: Counts) -> Self:
        """All zero, with the lengths of `manifest`."""
        return cls(
            np.zeros(manifest.parameter_count, np.float32),
            np.zeros(manifest.statistic_count, np.float32),
            np.zeros(manifest.counter_count, np.int64),
        )

    def minus(self, base: Self) -> Self:
        """Return the update that leads from `base` to this model: float differences, counters absolute."""
        self._check(base)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by encode
            return type(self)(
                self.parameters - base.parameters, self.statistics - base.statistics, self.counters.copy()
            )

    def subtract(self, base: Self) -> None:
        """Become, in this memory, what `minus` returns."""
        self._check(base)
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(self.parameters, base.parameters, out=self.parameters)
            np.subtract(self.statistics, base.statistics, out=self.statistics)

    def plus(self, update: Self) -> Self:
        """Apply an update: one float32 addition per entry, so the result has the same bits on every machine."""
        self._check(update)
        with np.errstate(over="ignore", invalid="ignore"):
            return type(self)(
                self.parameters + update.parameters, self.statistics + update.statistics, update.counters.copy()
            )

    def digest(self) -> bytes:
        """16 bytes: BLAKE2b over the three vectors as little-endian bytes, one after the other."""
        state = blake2b(digest_size=16)
        state.update(np.ascontiguousarray(self.parameters, "<f4").data)
        state.update(np.ascontiguousarray(self.statistics, "<f4").data)
        state.update(np.ascontiguousarray(self.counters, "<i8").data)
        return state.digest()

    def _check(self, other: Self) -> None:
        mine = (self.parameters.size, self.statistics.size, self.counters.size)
        theirs = (other.parameters.size, other.statistics.size, other.counters.size)
        if mine != theirs:
            raise ShapeError(f"vectors of {mine} and of {theirs} entries belong to different models")
