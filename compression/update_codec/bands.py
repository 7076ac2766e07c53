"""Bands of the cosine transform: which matrices are turned, and which class the coefficients of each frequency have."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec.limits import CHUNK_ENTRIES
from update_codec.manifest import Manifest, Role
from update_codec.partition import Group, Partition, Scattered, groups_of, matrices_of
from update_codec.quantizers.codes import codes_bytes, pack_codes, unpack_codes
from update_codec.quantizers.cosine import Matrix, backward

__all__ = ["CLASSES", "Bands", "Cosine", "bands_bytes", "matrices"]

CLASSES: Final = 8
"""Classes of bands, each with symbols and reconstruction points of its own."""
_CLASS_BITS: Final = 3
_NONE: Final = np.empty(0, np.int64)

F32 = NDArray[np.float32]


@lru_cache(16)
def matrices(manifest: Manifest) -> tuple[Matrix, ...]:
    """The matrices of a model, in their order."""
    wanted, found, place = {tensor.name for tensor in matrices_of(manifest)}, [], 0
    for tensor in manifest.tensors:
        if tensor.role is Role.PARAMETER:
            if tensor.name in wanted:
                rows = tensor.shape[0]
                found.append(Matrix(place, rows, tensor.size // rows))
            place += tensor.size
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Bands:
    """Which matrices are turned, and the class of each band.

    Attributes:
        turned: One flag for each matrix.
        classes: For each matrix the class of each of its bands, int64.
    """

    turned: tuple[bool, ...]
    classes: tuple[NDArray[np.int64], ...]

    def to_bytes(self) -> bytes:
        """The body of their segment."""
        flags = pack_codes(np.array(self.turned, np.uint32), 1)
        return flags + pack_codes(np.concatenate((_NONE, *self.classes)).astype(np.uint32), _CLASS_BITS)

    @classmethod
    def from_bytes(cls, flags: memoryview, classes: memoryview, manifest: Manifest) -> "Bands":
        """Read the two parts of what `to_bytes` wrote: a bit for each matrix, and `bands_bytes` for the classes."""
        found = matrices(manifest)
        turned = tuple(bool(flag) for flag in unpack_codes(flags, 0, len(found), 1))
        counts = _counts(found, turned)
        codes = unpack_codes(classes, 0, sum(counts), _CLASS_BITS)
        return cls(turned, tuple(np.split(codes, np.cumsum(counts))[:-1]))

    def groups(self, manifest: Manifest) -> tuple[Group, ...]:
        """The entries of each class of the matrices, then biases and norms; those without an entry are left out."""
        plain = groups_of(manifest, Partition.BY_RANK)
        wide = np.full(manifest.parameter_count, CLASSES, np.uint8)
        for matrix, turned, classes in zip(matrices(manifest), self.turned, self.classes, strict=True):
            row = classes[matrix.band_of(turned=turned)].astype(np.uint8)
            wide[matrix.start : matrix.stop].reshape(matrix.rows, matrix.length)[:] = row
        places = (np.flatnonzero(wide == index) for index in range(CLASSES))
        return (*(Scattered(places=one) for one in places if len(one)), *(group for group in plain if group.fine))


def bands_bytes(flags: memoryview, manifest: Manifest) -> int:
    """Bytes of the body of the bands' segment behind its flags."""
    found = matrices(manifest)
    turned = [bool(flag) for flag in unpack_codes(flags, 0, len(found), 1)]
    return codes_bytes(sum(_counts(found, turned)), _CLASS_BITS)


def _counts(found: Sequence[Matrix], turned: Sequence[bool]) -> list[int]:
    return [matrix.bands(turned=flag) for matrix, flag in zip(found, turned, strict=True)]


class Cosine:
    """Decoded values of a frame, matrix by matrix.

    Args:
        coefficients: gives float32, shape (D,): what the symbols and the outliers stand for.
        manifest: the model.
        turned: which matrices are turned.
        step: of the quantizer.
    """

    def __init__(
        self, coefficients: Callable[[], F32], manifest: Manifest, turned: Sequence[bool], step: float
    ) -> None:
        self._coefficients, self._step = coefficients, step
        self._turned = [one for one, flag in zip(matrices(manifest), turned, strict=True) if flag]

    def pieces(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first entry, values), in the vector's order."""
        place, coefficients = 0, self._coefficients()
        for matrix in self._turned:
            yield from _plain(coefficients, place, matrix.start)
            yield from backward(coefficients[matrix.start : matrix.stop], matrix, self._step)
            place = matrix.stop
        yield from _plain(coefficients, place, len(coefficients))


def _plain(coefficients: F32, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any]]]:
    for first in range(start, stop, CHUNK_ENTRIES):
        yield first, coefficients[first : min(first + CHUNK_ENTRIES, stop)]
