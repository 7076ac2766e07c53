"""The encoder of the cosine kind: turns the matrices for which that pays, and codes the coefficients in classes."""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from update_codec.arrays import HOST
from update_codec.bands import CLASSES, Bands, Cosine, matrices
from update_codec.coders.deadzone_coder import DeadzoneCoder, Division, Trial
from update_codec.manifest import Manifest
from update_codec.partition import Partition
from update_codec.quantizers.cosine import Matrix, forward
from update_codec.segments import Tag
from update_codec.spec import Kind

__all__ = ["CosineCoder"]

_TOP_SHARE: Final = 1 / 20
"""Share of the entries that a low rate sends: where these hold more of the squares, there the matrix is coded."""
_PARAMETERS_MIN: Final = 16_384
"""Smaller models are one class: further segments would cost more than they give."""

F32 = NDArray[np.float32]


class CosineCoder:
    """Quantizes and lays out at any step.

    Args:
        wanted: float32, finite, not empty.
        manifest: the model.
    """

    def __init__(self, wanted: F32, manifest: Manifest) -> None:
        self._manifest = manifest
        coefficients, turned = wanted.copy(), list[bool]()
        for matrix in matrices(manifest):
            values = wanted[matrix.start : matrix.stop]
            found = forward(values, matrix)
            turned.append(_of_largest(found) > _of_largest(values))
            if turned[-1]:
                coefficients[matrix.start : matrix.stop] = found
        self.bands = Bands(tuple(turned), _classes(coefficients, turned, manifest))
        segment = bytes([Tag.BANDS]) + self.bands.to_bytes()
        division = Division(partition=Partition.WHOLE, groups=self.bands.groups(manifest), segments=[segment])
        self._coder = DeadzoneCoder(coefficients, division, HOST.peak(coefficients))
        self.groups = self._coder.groups

    def bits(self, step: float) -> float:
        """Estimated bits of the symbols."""
        return self._coder.bits(step)

    def write(self, step: float) -> Trial:
        """Encode at a step, which is a float32 value."""
        trial = self._coder.write(step)

        def decode() -> F32:
            values = np.empty(self._manifest.parameter_count, np.float32)
            for start, piece in Cosine(trial.decode, self._manifest, self.bands.turned, step).pieces():
                values[start : start + len(piece)] = piece
            return values

        return replace(trial, kind=Kind.COSINE, decode=decode, subtract=None)


def _of_largest(values: F32) -> float:
    """The share of the squares that the largest entries hold."""
    squares = np.square(values, dtype=np.float64)
    count = max(1, int(_TOP_SHARE * len(squares)))
    total = float(squares.sum())
    return float(np.partition(squares, -count)[-count:].sum()) / total if total else 0.0


def _classes(coefficients: F32, turned: list[bool], manifest: Manifest) -> tuple[NDArray[np.int64], ...]:
    """The class of each band: one for each factor of two in rms below the largest."""
    spreads = [
        _spreads(coefficients[matrix.start : matrix.stop], matrix, turned=flag)
        for matrix, flag in zip(matrices(manifest), turned, strict=True)
    ]
    if len(coefficients) < _PARAMETERS_MIN:
        return tuple(np.zeros(len(one), np.int64) for one in spreads)
    largest = max((float(one.max()) for one in spreads), default=0.0)
    limits = largest * 0.5 ** np.arange(1, CLASSES)
    return tuple((one[:, np.newaxis] < limits).sum(axis=1) for one in spreads)


def _spreads(coefficients: F32, matrix: Matrix, *, turned: bool) -> NDArray[np.float64]:
    """Rms of each band."""
    columns = np.square(coefficients.reshape(matrix.rows, matrix.length), dtype=np.float64).mean(axis=0)
    bands = matrix.band_of(turned=turned)
    sums = np.bincount(bands, weights=columns, minlength=matrix.bands(turned=turned))
    return np.sqrt(sums / np.bincount(bands, minlength=len(sums)))
