"""The deadzone quantizer's encoder: the parameters in groups, one step for all, one segment for each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec.arrays import HOST, Arrays, Quantized, Vector, root_mean_square
from update_codec.context import Context
from update_codec.frame import varint
from update_codec.layouts.layout import SymbolWriter
from update_codec.layouts.levels import Sparse
from update_codec.limits import CHUNK_ENTRIES, SYMBOL_MAX
from update_codec.manifest import Manifest, Role
from update_codec.partition import Group, GroupAdder, Partition, groups_of, matrices_of
from update_codec.quantizers.codes import pack_codes
from update_codec.quantizers.deadzone import ROUNDING, Large, Quantizer, centroid_stride, centroids
from update_codec.segments import Tag
from update_codec.spec import Kind

__all__ = ["DeadzoneCoder", "EntropyRate", "Trial", "divide", "write_outliers"]

FINE_SCALE: Final = 2
"""Biases and norms get a quarter of the step: they are few and every one of them matters."""
_FEW: Final = 1 / 16
"""Share of the parameters up to which biases and norms are few."""
_SPREAD_CLASSES: Final = 4
_SPARSE_MAX: Final = 0.1
"""Share of symbols that are not zero, up to which those are looked for before anything is divided by the step."""

SAMPLE_ENTRIES: Final = 1 << 15
"""Of a group, for the estimate of its rate."""

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One way to encode the parameters: header fields, segments, and what a decoder will make of them."""

    kind: Kind
    seed: int = 0
    """Of the dither or the rotation, or the context's key."""
    step: float = 0.0
    """A float32 value."""
    partition: Partition = Partition.WHOLE
    bits: int = 0
    segments: list[bytes]
    decode: Callable[[], Vector]
    """Gives what a decoder will make of the segments."""
    subtract: Callable[[F32], None] | None = None
    """Takes that from the vector that was coded, in its place; None where nothing is cheaper than decoding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """How the parameters are divided into groups, and what the frame says about it."""

    partition: Partition
    groups: tuple[Group, ...]
    key: int = 0
    """Of the context."""
    segments: list[bytes] = field(default_factory=list)
    """The classes, where the frame names them."""


def divide(
    wanted: Vector,
    manifest: Manifest,
    partition: Partition,
    *,
    context: Context | None = None,
    arrays: Arrays = HOST,
) -> Division:
    """Divide the parameters.

    `BY_SPREAD` puts every matrix into a class by its own rms, one class for each factor of two below the largest: what
    differs in spread differs in the distribution of its symbols.
    """
    if partition is not Partition.BY_SPREAD:
        groups = groups_of(manifest, partition, context=context)
        return Division(partition=partition, groups=groups, key=context.key if context else 0)
    spreads = np.array(_spreads(wanted, manifest, arrays))
    largest = spreads.max(initial=0.0)
    # Class 0 from half the largest on, class 1 from a quarter, class 2 from an eighth, class 3 below.
    classes = sum((spreads < largest * 0.5**octave).astype(np.int64) for octave in range(1, _SPREAD_CLASSES))
    segment = bytes([Tag.CLASSES]) + pack_codes(np.asarray(classes, np.uint32), 2)
    groups = groups_of(manifest, partition, classes=np.asarray(classes))
    return Division(partition=partition, groups=groups, segments=[segment])


def _spreads(wanted: Vector, manifest: Manifest, arrays: Arrays) -> list[float]:
    """Rms of every matrix, in their order."""
    matrices = {tensor.name for tensor in matrices_of(manifest)}
    if len(matrices) == 1:  # the largest whatever it is
        return [1.0]
    found, place = [], 0
    for tensor in manifest.tensors:
        if tensor.role is Role.PARAMETER:
            if tensor.name in matrices:
                found.append(root_mean_square(wanted[place : place + tensor.size], arrays))
            place += tensor.size
    return found


class EntropyRate:
    """Estimates the bits of a quantized vector from its order-0 entropy.

    Args:
        magnitudes: of some of its entries, in order.
        size: all its entries.
        rounding: the quantizer's rounding offset.
    """

    def __init__(self, magnitudes: F32, size: int, rounding: float) -> None:
        # Widened once: edges are float64, and a search among float32 would round each of them anew for every step.
        self._magnitudes, self._size = magnitudes.astype(np.float64), size
        self._largest, self._rounding = float(self._magnitudes[-1]), rounding
        self._edges = np.arange(1, SYMBOL_MAX + 1) - rounding

    def bits(self, step: float) -> float:
        """Entropy of all symbols at this step, in bits."""
        below = self._below(self._edges[: self._reach(step)] * step)
        used = _differences(below)
        used = used[used > 0]
        return self._size * float(1.0 - below[0] - np.dot(used, np.log2(used)))

    def density(self, step: float) -> float:
        """Share of the symbols that are not zero at this step."""
        return 1.0 - float(self._below(self._edges[:1] * step)[0])

    def _reach(self, step: float) -> int:
        """So many edges, at least one, of which no later one is among the magnitudes: there are no symbols beyond."""
        return 2 + int(min(self._largest / step + self._rounding, SYMBOL_MAX))

    def _below(self, edges: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Shares of the magnitudes below each edge."""
        below: NDArray[np.float64] = self._magnitudes.searchsorted(edges) / len(self._magnitudes)
        return below


def _differences(below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares between consecutive quantiles, from 0 to 1; `np.diff` with both ends takes seven times as long."""
    shares = np.empty(len(below) + 1)
    shares[0], shares[-1] = below[0], 1.0 - below[-1]
    np.subtract(below[1:], below[:-1], out=shares[1:-1])
    return shares


class _Part:
    """One group of a vector."""

    def __init__(self, group: Group, vector: Vector, scale: int, arrays: Arrays, writer: SymbolWriter) -> None:
        self.group, self.scale, self.writer = group, scale, writer
        self._vector, self._arrays = vector, arrays
        self._large: Large | None = None
        stride = max(1, group.size // SAMPLE_ENTRIES)
        self.rate = EntropyRate(np.sort(np.abs(self._take(np.arange(0, group.size, stride)))), group.size, ROUNDING)

    def quantize(self, step: float, peak: float) -> tuple[Quantized, tuple[int, int, int]]:
        """Symbols and shifts at the group's own step."""
        stride = centroid_stride(self.group.size)
        if self._arrays is HOST and self.rate.density(step) < _SPARSE_MAX:
            self._large = self._large or Large(self.group.runs(self._vector))
            found = self._large.quantize(step, ROUNDING, stride)
            quantized = Quantized(symbols=found.symbols, resident=found.symbols, outliers=found.outliers)
            return quantized, centroids(*found.shown, step)
        quantized = self._arrays.quantize(self.group.runs(self._vector), step, ROUNDING, peak)
        assert not isinstance(quantized.symbols, Sparse)  # noqa: S101 - for the type checker: backends give all symbols
        places = stride * np.flatnonzero(quantized.symbols[::stride] != 0)
        return quantized, centroids(self._take(places), quantized.symbols[places], step)

    def _take(self, positions: NDArray[np.int64]) -> F32:
        return self._arrays.take(self._vector, self.group.locate(positions))


@dataclass(frozen=True, slots=True)
class _Coded:
    """What a decoder will make of the symbols and outliers."""

    parts: list[tuple[Group, Any, F32]]
    """Group, resident symbols, table."""
    positions: NDArray[np.int64]
    """Of the outliers."""
    exact: F32

    def decode(self, wanted: Vector, arrays: Arrays) -> Vector:
        """The decoded vector."""
        decoded = arrays.zeros_like(wanted)
        if arrays is HOST:
            self._add(decoded, 1)
        else:
            for group, symbols, table in self.parts:
                group.put(decoded, arrays.look_up(table, symbols))
        arrays.put(decoded, self.positions, self.exact)
        return decoded

    def subtract(self, wanted: F32) -> None:
        """Take the decoded vector from the one that was coded, in its place."""
        self._add(wanted, -1)
        wanted[self.positions] = 0

    def _add(self, target: F32, sign: int) -> None:
        for group, symbols, table in self.parts:
            adder, signed = GroupAdder(group, target), table * np.float32(sign)
            if isinstance(symbols, Sparse):
                adder.sparse(symbols.positions, HOST.look_up(signed, symbols.values))
                continue
            for start in range(0, len(symbols), CHUNK_ENTRIES):
                adder.dense(start, HOST.look_up(signed, symbols[start : start + CHUNK_ENTRIES]))


class DeadzoneCoder:
    """Quantizes and lays out at any step.

    Args:
        wanted: float32, finite, not empty.
        division: its groups.
        peak: its largest magnitude.
        arrays: where it is.
        keeps_layouts: whether all steps share the layouts of the first.
    """

    def __init__(
        self, wanted: Vector, division: Division, peak: float, arrays: Arrays = HOST, *, keeps_layouts: bool = False
    ) -> None:
        self._wanted, self._peak, self._arrays = wanted, peak, arrays
        self._division = division
        few = len(wanted) * _FEW
        self._parts = [
            _Part(
                group,
                wanted,
                FINE_SCALE if group.fine and group.size < few else 0,
                arrays,
                SymbolWriter(keeps_layout=keeps_layouts),
            )
            for group in division.groups
        ]
        self.groups = len(self._parts)

    def bits(self, step: float) -> float:
        """Estimated bits of the symbols."""
        return sum(part.rate.bits(step * 2.0**-part.scale) for part in self._parts)

    def write(self, step: float) -> Trial:
        """Encode at a step, which is a float32 value."""
        segments, beyond, found = [*self._division.segments], [], []
        for part in self._parts:
            quantized, shifts = part.quantize(step * 2.0**-part.scale, self._peak)
            table = Quantizer(step=step, scale=part.scale, shifts=shifts).table()
            found.append((part.group, quantized.resident, table))
            fields = bytes([Tag.SYMBOLS, part.scale]) + np.array(shifts, np.int8).tobytes()
            segments.append(fields + part.writer.write(quantized.symbols))
            beyond.append(part.group.locate(quantized.outliers))
        positions = np.sort(np.concatenate(beyond))
        coded = _Coded(found, positions, self._arrays.take(self._wanted, positions))
        return Trial(
            kind=Kind.DEADZONE,
            seed=self._division.key,
            step=step,
            partition=self._division.partition,
            segments=segments + write_outliers(positions, coded.exact),
            decode=lambda: coded.decode(self._wanted, self._arrays),
            subtract=coded.subtract if self._arrays is HOST else None,
        )


def write_outliers(positions: NDArray[np.int64], values: F32) -> list[bytes]:
    """Return the segment of the outliers, if there are any."""
    if not len(positions):
        return []
    fields = positions.astype("<u4").tobytes() + values.astype("<f4").tobytes()
    return [bytes([Tag.OUTLIERS]) + varint(len(positions)) + fields]
