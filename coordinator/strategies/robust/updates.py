"""What a robust rule is, and the updates of one version as it reads them: in chunks, or by products of all pairs."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from update_codec import Contexts, FrameInfo, Manifest, Role, Vectors, iter_chunks
from update_codec.segments import parse

__all__ = ["Combine", "RobustRule", "Updates", "assumed_attackers", "mean", "middle"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

Combine = Callable[[F32], NDArray[np.floating]]
"""From float32 of shape (updates, entries) to shape (entries,)."""

CHUNK_VALUES = 1 << 20
"""Values of all updates that are read at once: 4 MiB of float32."""

COEFFICIENT_BITS = 24
"""Coefficients are rounded to 2^-24, so that the last bits of a float sum on another machine do not reach the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Updates:
    """Valid, finite frames of one model, in an order that does not depend on their arrival.

    Attributes:
        frames: The complete codec frames, n of them.
        infos: What `inspect` said about each.
        weights: The strategy's weight of each.
        manifest: The model.
        contexts: The codec's contexts that frames may need.
    """

    frames: Sequence[bytes]
    infos: Sequence[FrameInfo]
    weights: tuple[float, ...]
    manifest: Manifest
    contexts: Contexts | None = None

    @property
    def count(self) -> int:
        """How many: n."""
        return len(self.frames)

    @property
    def norms(self) -> F64:
        """L2 norms of the parameters, float64, shape (n,)."""
        return np.array([info.parameter_norm for info in self.infos])

    @property
    def shares(self) -> F64:
        """Weights that sum to 1, none above twice the median: num_examples is the node's own claim; shape (n,)."""
        weights = np.array(self.weights)
        bounded: F64 = np.minimum(weights, 2.0 * np.median(weights))
        return bounded / math.fsum(bounded)

    def products(self) -> F64:
        """Inner products of the parameters of all pairs, float64, shape (n, n)."""
        total = np.zeros((self.count, self.count))
        for _, values in self._chunks(self.frames, Role.PARAMETER):
            wide = values.astype(np.float64)
            total += wide @ wide.T
        return total

    def coordinatewise(self, combine: Combine, picked: Iterable[int] | None = None) -> Vectors:
        """Combine the parameters of all updates, or of the picked ones, entry by entry.

        Statistics and counters take the median over all updates: what a rule finds about parameters says nothing about
        them, and a minority cannot move a median.
        """
        chosen = self.frames if picked is None else [self.frames[index] for index in sorted(picked)]
        return Vectors(
            self._combined(chosen, Role.PARAMETER, combine),
            self._combined(self.frames, Role.STATISTIC, middle),
            self._counters(),
        )

    def weighted(self, coefficients: F64) -> Vectors:
        """The sum of coefficient times parameters; coefficients are at least 0 and at most 1, shape (n,)."""
        rounded = np.rint(coefficients * 2.0**COEFFICIENT_BITS) / 2.0**COEFFICIENT_BITS

        def total(values: F32) -> F64:
            # Row by row: the same order, hence the same bits, on every machine.
            found = np.zeros(values.shape[1])
            for coefficient, row in zip(rounded, values, strict=True):
                found += coefficient * row.astype(np.float64)
            return found

        return self.coordinatewise(total)

    def _chunks(self, frames: Sequence[bytes], role: Role) -> Iterable[tuple[int, F32]]:
        chunk = max(1, CHUNK_VALUES // len(frames))
        return iter_chunks(frames, self.manifest, chunk, role=role, context=self.contexts)

    def _combined(self, frames: Sequence[bytes], role: Role, combine: Combine) -> F32:
        manifest = self.manifest
        result = np.empty(manifest.parameter_count if role is Role.PARAMETER else manifest.statistic_count, np.float32)
        for start, values in self._chunks(frames, role):
            result[start : start + values.shape[1]] = combine(values)
        return result

    def _counters(self) -> NDArray[np.int64]:
        found = np.zeros((self.count, self.manifest.counter_count), np.int64)
        for row, frame in zip(found, self.frames, strict=True):
            counters = parse(frame, self.manifest, self.contexts).counters
            for start, values in () if counters is None else counters.pieces():
                row[start : start + len(values)] = values
        found.sort(axis=0)
        lower: NDArray[np.int64] = found[(self.count - 1) // 2].copy()
        return lower


def middle(values: F32) -> F64:
    """The median of every column; of an even number, the mean of the middle two in float64."""
    ordered = np.partition(values, (len(values) - 1) // 2, axis=0)
    low: F64 = ordered[(len(values) - 1) // 2].astype(np.float64)
    if len(values) % 2 == 0:
        low += ordered[len(values) // 2 :].min(axis=0)
        low /= 2.0
    return low


def mean(values: F32) -> F64:
    """The mean of every column, in float64."""
    found: F64 = values.mean(axis=0, dtype=np.float64)
    return found


class RobustRule(Protocol):
    """Replaces the weighted mean by something that a few bad updates cannot move far."""

    @property
    def attackers(self) -> float:
        """Share of the updates that may be bad, below 0.5."""

    def members_min(self, attackers: int) -> int:
        """Updates that the rule needs to stand so many bad ones."""

    def combine(self, updates: Updates) -> Vectors:
        """What takes the place of the mean; must not depend on the order of arrival."""


def assumed_attackers(rule: RobustRule, count: int) -> int:
    """The f = ⌊share · n⌋ of the papers; fewer where n updates cannot stand so many (a version that was cut short)."""
    wanted = math.floor(rule.attackers * count + 1e-9)
    while wanted > 0 and rule.members_min(wanted) > count:
        wanted -= 1
    return wanted
