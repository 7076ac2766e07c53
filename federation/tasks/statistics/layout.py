"""The arrays that statistics travel in, as a model: what is counted in each pass, and where the bins lie.

A run of statistics has `PASSES` versions. In the first pass the bins are octaves: [2^k, 2^(k+1)) and their negatives,
which hold every number. Each later pass has `BINS` equal bins from the lowest bin with something in it to the highest,
so that the range is known to one bin: within a factor of two, then to a 256th of that, then finely enough to draw.

Under masks nothing but sums exists, so nothing but sums is asked for: no smallest or largest value ever leaves a node.

All arrays are float32 that hold whole numbers in pieces of eight bits (exact_sums.py), for C columns::

    statistics.pass     (1,)          passes that are counted
    statistics.noise    (2, 8)        standard deviation of the noise on one node's counts, and on those of all
    statistics.bounds   (C, 2, 8)     what is outside is left out: lowest and highest, the bytes of a float64
    statistics.span     (C, 2, 8)     where the bins of the next pass begin and end, the same way
    statistics.bins     (C, 260, 5)   values in each bin; below; above; missing; outside the bounds
    statistics.sums     (C, 22)       sum of the values, in units of 2^-64
    statistics.squares  (C, 38)       sum of their squares, in units of 2^-128

A node adds its own counts to the last three, and leaves the others as they are. Noise and edges are the bytes of a
float64, each byte a number. With noise, pieces may be negative, and there are no sums: figures come from the bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.task import Parameters
from federation.tasks.statistics.exact_sums import SQUARE_PIECES, SUM_PIECES, from_pieces, to_pieces
from update_codec import Manifest, TensorSpec

__all__ = [
    "ABOVE",
    "BELOW",
    "BINS",
    "BOUND",
    "COLUMNS_MAX",
    "MISSING",
    "OUTSIDE",
    "PASSES",
    "PREFIX",
    "SLOTS",
    "Counts",
    "Plan",
    "columns_of",
    "edges_of",
    "statistics_manifest",
]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

PASSES: Final = 3
"""Versions of a run of statistics."""
BINS: Final = 256
"""Bins of a column."""
BELOW, ABOVE, MISSING, OUTSIDE = range(BINS, BINS + 4)
"""What is counted after the bins: values of this pass below and above them, no numbers, and values out of bounds."""
SLOTS: Final = BINS + 4
COUNT_PIECES: Final = 5
"""Pieces of a count: 2^40."""
PREFIX: Final = "statistics."
"""Before the names of all arrays."""
COLUMNS_MAX: Final = 1_024
"""Columns that statistics can have."""
BOUND: Final = 2.0**64
"""Values must be smaller in magnitude: sums and squares have room for no more."""
OCTAVES: Final = 63
"""Bins of the first pass go from 2^-63 to 2^64; what is nearer to zero is in one of two bins, by its sign."""
_BYTES: Final = 8

_SHAPES: Final = {
    "statistics.bounds": (2, _BYTES),
    "statistics.span": (2, _BYTES),
    "statistics.bins": (SLOTS, COUNT_PIECES),
    "statistics.sums": (SUM_PIECES,),
    "statistics.squares": (SQUARE_PIECES,),
}


def statistics_manifest(columns: int) -> Manifest:
    """The manifest of statistics of so many columns."""
    tensors = [TensorSpec(name=name, shape=(columns, *shape)) for name, shape in _SHAPES.items()]
    head = (TensorSpec(name="statistics.pass", shape=(1,)), TensorSpec(name="statistics.noise", shape=(2, _BYTES)))
    return Manifest((*head, *tensors))


@lru_cache(maxsize=64)
def columns_of(digest: bytes) -> int | None:
    """How many columns the statistics of this manifest's digest have; None for every other model."""
    return _columns_by_digest().get(digest)


@lru_cache(maxsize=1)
def _columns_by_digest() -> dict[bytes, int]:
    return {statistics_manifest(columns).digest: columns for columns in range(1, COLUMNS_MAX + 1)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What a pass is told.

    Attributes:
        counted: Passes before it.
        bounds: Lowest and highest value that counts, float64, shape (C, 2).
        span: Where the bins begin and end, float64, shape (C, 2); of no meaning in the first pass.
        noise: Standard deviation of what each node adds to each of its counts; 0 is exact.
        total_noise: That of what all counts of the last pass together have.
    """

    counted: int
    bounds: F64
    span: F64
    noise: float = 0.0
    total_noise: float = 0.0

    @classmethod
    def first(cls, bounds: F64, noise: float = 0.0) -> "Plan":
        """That of the first pass."""
        return cls(counted=0, bounds=bounds, span=np.zeros_like(bounds), noise=noise)

    @classmethod
    def of(cls, arrays: Parameters) -> "Plan":
        """Read from a model.

        Raises:
            TaskError: It is no plan that a coordinator makes.
        """
        counted = int(np.asarray(arrays["statistics.pass"], np.float64)[0])
        bounds, span = _floats(arrays["statistics.bounds"]), _floats(arrays["statistics.span"])
        noise, total_noise = _floats(arrays["statistics.noise"]).tolist()
        finite = all(np.isfinite(each).all() for each in (bounds, span, noise, total_noise))
        if not (finite and 0 <= counted <= PASSES and noise >= 0 and total_noise >= 0):
            raise TaskError("the announced bins are not finite: the coordinator's statistics are damaged")
        if (bounds[:, 0] > bounds[:, 1]).any() or (span[:, 0] > span[:, 1]).any() or np.abs(bounds).max() > BOUND:
            raise TaskError("the announced bins end before they begin: the coordinator's statistics are damaged")
        return cls(counted=counted, bounds=bounds, span=span, noise=noise, total_noise=total_noise)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """As a model has it."""
        return {
            "statistics.pass": np.array([self.counted], np.float32),
            "statistics.noise": _bytes(np.array([self.noise, self.total_noise])),
            "statistics.bounds": _bytes(self.bounds),
            "statistics.span": _bytes(self.span),
        }

    def edges(self, column: int) -> F64:
        """Edges of a column's bins: float64, rising, at most `BINS` + 1 of them; a bin has its lower edge."""
        return edges_of(*self.span[column].tolist()) if self.counted else _octaves()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counts:
    """What one node, or all of them, have counted in one pass.

    Attributes:
        bins: int64, shape (C, `SLOTS`).
        sums: Of the values that count, in units of 2^-64, one whole number of any size per column.
        squares: Of their squares, in units of 2^-128.
    """

    bins: I64
    sums: Sequence[int]
    squares: Sequence[int]

    @classmethod
    def of(cls, arrays: Parameters) -> "Counts":
        """Read from a model, or from a sum of what nodes add to it."""
        places = np.array([1 << 8 * place for place in range(COUNT_PIECES)], np.int64)
        return cls(
            bins=np.asarray(arrays["statistics.bins"]).astype(np.int64) @ places,
            sums=from_pieces(np.asarray(arrays["statistics.sums"])),
            squares=from_pieces(np.asarray(arrays["statistics.squares"])),
        )

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """As they travel.

        Raises:
            TaskError: A number has no room.
        """
        sizes = np.abs(self.bins)
        if sizes.size and int(sizes.max()) >= 1 << 8 * COUNT_PIECES:
            raise TaskError("a count is beyond 2^40")
        pieces = (sizes[..., None] >> np.arange(0, 8 * COUNT_PIECES, 8) & 255) * np.sign(self.bins)[..., None]
        return {
            "statistics.bins": pieces.astype(np.float32),
            "statistics.sums": to_pieces(self.sums, SUM_PIECES),
            "statistics.squares": to_pieces(self.squares, SQUARE_PIECES),
        }

    @property
    def counted(self) -> I64:
        """Values that count, per column: all but what is missing or out of bounds."""
        return np.asarray(self.bins[:, : ABOVE + 1].sum(axis=1), np.int64)


def edges_of(low: float, high: float) -> F64:
    """Edges of `BINS` equal bins, float64, shape (`BINS` + 1,), rising: the same bits on every machine."""
    edges: F64 = np.minimum(low + np.arange(BINS + 1) * ((high - low) / BINS), high)
    edges[-1] = high  # a rounding may end before it, and leave the largest values out
    return edges


@lru_cache(maxsize=1)
def _octaves() -> F64:
    powers = 2.0 ** np.arange(-OCTAVES, OCTAVES + 2)
    return np.concatenate([-powers[::-1], [0.0], powers])


def _bytes(values: F64) -> NDArray[np.float32]:
    raw = np.ascontiguousarray(values, "<f8").view(np.uint8)
    return raw.reshape(*values.shape, _BYTES).astype(np.float32)


def _floats(pieces: NDArray[Any]) -> F64:
    raw = np.clip(np.nan_to_num(np.asarray(pieces, np.float64)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(raw).view("<f8")[..., 0].astype(np.float64)
