"""The deadzone quantizer's encoder: the parameters in groups, one step for all, one segment for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from update_codec.arrays import HOST, Arrays, Vector, root_mean_square
from update_codec.context import Context
from update_codec.frame import varint
from update_codec.layouts.layout import write_symbols
from update_codec.limits import SYMBOL_MAX
from update_codec.manifest import Manifest, Role
from update_codec.partition import Group, Partition, groups_of, matrices_of
from update_codec.quantizers.codes import pack_codes
from update_codec.quantizers.deadzone import ROUNDING, Quantizer, centroid_stride, centroids
from update_codec.segments import Tag
from update_codec.spec import Kind

__all__ = ["DeadzoneCoder", "EntropyRate", "Trial", "divide", "sorted_sample", "write_outliers"]

FINE_SCALE: Final = 2
"""Biases and norms get a quarter of the step: they are few and every one of them matters."""
_FEW: Final = 1 / 16
"""Share of the parameters up to which biases and norms are few."""
_SPREAD_CLASSES: Final = 4

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
    found, place = [], 0
    for tensor in manifest.tensors:
        if tensor.role is Role.PARAMETER:
            if tensor.name in matrices:
                found.append(root_mean_square(wanted[place : place + tensor.size], arrays))
            place += tensor.size
    return found


@dataclass(frozen=True, slots=True)
class _Sample:
    magnitudes: NDArray[np.float32]
    size: int
    scale: int


class EntropyRate:
    """Estimates the bits of a quantized vector from its order-0 entropy.

    Args:
        groups: for each group its `sorted_sample`, its size and its scale (step · 2^-scale).
        rounding: the quantizer's rounding offset.
    """

    def __init__(self, groups: Sequence[tuple[NDArray[np.float32], int, int]], rounding: float) -> None:
        self._edges = np.arange(1, SYMBOL_MAX + 1) - rounding
        self._parts = [_Sample(sample, size, scale) for sample, size, scale in groups]

    def bits(self, step: float) -> float:
        """Entropy of all symbols at this step, in bits."""
        total = 0.0
        for part in self._parts:
            edges = self._edges * (step * 2.0**-part.scale)
            below = part.magnitudes.searchsorted(edges) / len(part.magnitudes)
            used = _differences(below)
            used = used[used > 0]
            total += part.size * float(1.0 - below[0] - np.dot(used, np.log2(used)))
        return total


def _differences(below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares between consecutive quantiles, from 0 to 1; `np.diff` with both ends takes seven times as long."""
    shares = np.empty(len(below) + 1)
    shares[0], shares[-1] = below[0], 1.0 - below[-1]
    np.subtract(below[1:], below[:-1], out=shares[1:-1])
    return shares


def sorted_sample(values: Vector, arrays: Arrays) -> NDArray[np.float32]:
    """Magnitudes of some entries, in order."""
    stride = max(1, len(values) // SAMPLE_ENTRIES)
    sample: NDArray[np.float32] = np.sort(np.abs(arrays.sample(values, stride)))
    return sample


@dataclass(frozen=True, slots=True)
class _Part:
    group: Group
    values: Vector
    scale: int


class DeadzoneCoder:
    """Quantizes and lays out at any step.

    Args:
        wanted: float32, finite, not empty.
        division: its groups.
        arrays: where it is.
    """

    def __init__(self, wanted: Vector, division: Division, arrays: Arrays = HOST) -> None:
        self._wanted, self._arrays = wanted, arrays
        self._division = division
        few = len(wanted) * _FEW
        self._parts = [
            _Part(group, group.gather(wanted, arrays.join), FINE_SCALE if group.fine and group.size < few else 0)
            for group in division.groups
        ]
        self.groups = len(self._parts)
        samples = [(sorted_sample(part.values, arrays), part.group.size, part.scale) for part in self._parts]
        self._rate = EntropyRate(samples, ROUNDING)

    def bits(self, step: float) -> float:
        """Estimated bits of the symbols."""
        return self._rate.bits(step)

    def write(self, step: float) -> Trial:
        """Encode at a step, which is a float32 value."""
        segments, beyond, found = [*self._division.segments], [], []
        for part in self._parts:
            group_step = step * 2.0**-part.scale
            quantized = self._arrays.quantize(part.values, group_step, ROUNDING)
            stride = centroid_stride(part.group.size)
            sample = self._arrays.sample(part.values, stride)
            shifts = centroids(sample, quantized.symbols[::stride], group_step)
            table = Quantizer(step=step, scale=part.scale, shifts=shifts).table()
            found.append((part.group, quantized.resident, table))
            fields = bytes([Tag.SYMBOLS, part.scale]) + np.array(shifts, np.int8).tobytes()
            segments.append(fields + write_symbols(quantized.symbols))
            beyond.append(part.group.locate(quantized.outliers))
        positions = np.sort(np.concatenate(beyond))
        exact = self._arrays.take(self._wanted, positions)
        segments += write_outliers(positions, exact)

        def decode() -> Vector:
            decoded = self._arrays.empty_like(self._wanted)
            for group, symbols, table in found:
                group.put(decoded, self._arrays.look_up(table, symbols))
            self._arrays.put(decoded, positions, exact)
            return decoded

        return Trial(
            kind=Kind.DEADZONE,
            seed=self._division.key,
            step=step,
            partition=self._division.partition,
            segments=segments,
            decode=decode,
        )


def write_outliers(positions: NDArray[np.int64], values: F32) -> list[bytes]:
    """Return the segment of the outliers, if there are any."""
    if not len(positions):
        return []
    fields = positions.astype("<u4").tobytes() + values.astype("<f4").tobytes()
    return [bytes([Tag.OUTLIERS]) + varint(len(positions)) + fields]
