"""A weighted sum of frames in int64 fixed point: the same bits for every order of arrival.

    sum += rint(weight · clip factor · value · 2^32)

Entries of controls are added as they are: no weight, no clipping, no division.

The weight is folded into the table of symbols, so an update is never expanded to floats; integer addition does not
depend on the order. Scratch memory is one piece of a group, below 1 MiB.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec.context import Contexts
from update_codec.decoding import FrameInfo, inspect
from update_codec.errors import HeadroomError, NonFiniteFrame, ShapeError
from update_codec.limits import CHUNK_ENTRIES
from update_codec.manifest import Manifest
from update_codec.partition import GroupAdder
from update_codec.segments import Content, Pieces, parse
from update_codec.sums import SCALE_BITS, WEIGHT_BITS, Sums
from update_codec.vectors import Vectors

__all__ = ["Accumulator"]

BLOCK_ENTRIES: Final = 16_384

HEADROOM: Final = 2.0**30
"""Bound of the sum of weight times largest magnitude: the int64 sums stay below 2^62."""


class Accumulator:
    """Adds weighted updates exactly.

    Args:
        manifest: the model of all frames.
    """

    SCALE_BITS = SCALE_BITS

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._parameters = np.zeros(manifest.parameter_count, np.int64)
        self._statistics = np.zeros(manifest.statistic_count, np.int64)
        self._counters = np.zeros(manifest.counter_count, np.int64)
        self._weight = 0
        self._used = 0.0
        self._count = 0

    @property
    def weight_sum(self) -> float:
        """Sum of the weights, each rounded to a multiple of 2^-20 first, so that it does not depend on the order."""
        return self._weight / (1 << WEIGHT_BITS)

    @property
    def count(self) -> int:
        """Number of frames added."""
        return self._count

    def add(
        self,
        frame: bytes,
        weight: float,
        *,
        clip: float | None = None,
        info: FrameInfo | None = None,
        context: Contexts | None = None,
    ) -> None:
        """Add a frame, or change nothing and raise.

        Args:
            frame: one complete frame.
            weight: for example num_examples times a staleness factor; above 2^-21.
            clip: largest L2 norm of the parameters; a longer update is scaled down to it.
            info: what `inspect` said about this very frame; saves validating it twice, and decoding it where it has
                the values.
            context: the one that the frame was coded with, if any, or several by their keys.

        Raises:
            FrameError: if the frame is not valid or not finite.
            HeadroomError: if the weight is not a positive number, or the sums could overflow.
        """
        if info is None or info.frame_digest != frame[-16:]:
            info = inspect(frame, self._manifest, context=context)
        if not info.finite:
            raise NonFiniteFrame("the update holds NaN or infinity")
        units, exact = _units(weight)
        factor = exact * min(1.0, clip / info.parameter_norm) if clip is not None and info.parameter_norm else exact
        used = self._used_after(factor * info.parameter_abs_max, exact, info.statistic_abs_max)
        if info.values is not None:
            self._add_vectors(info.values, factor, exact)
        else:
            self._add(parse(frame, self._manifest, context), factor, exact)
        self._used, self._weight, self._count = used, self._weight + units, self._count + 1

    def add_vectors(self, update: Vectors, weight: float) -> None:
        """Add an update as if its lossless frame was added, without making one; or change nothing and raise.

        Raises:
            ShapeError: if the update is not of this model.
            NonFiniteFrame: if it is not finite.
            HeadroomError: if the weight is not a positive number, or the sums could overflow.
        """
        self._manifest.check(update)
        units, exact = _units(weight)
        largest, of_buffers = _abs_max(update.parameters), _abs_max(update.statistics)
        if not math.isfinite(largest + of_buffers):
            raise NonFiniteFrame("the update holds NaN or infinity")
        used = self._used_after(exact * largest, exact, of_buffers)
        self._add_vectors(update, exact, exact)
        self._used, self._weight, self._count = used, self._weight + units, self._count + 1

    def add_sum(self, sums: Sums) -> None:
        """Add the exact sum of other updates: the same bits as if each had been added to this one.

        Raises:
            ShapeError: if it is not of this model.
            HeadroomError: if the sums could overflow.
        """
        other = Accumulator(self._manifest)
        sizes = (sums.parameters.shape, sums.statistics.shape, sums.counters.shape)
        if sizes != (self._parameters.shape, self._statistics.shape, self._counters.shape):
            raise ShapeError("the sum is of another model")
        other._parameters, other._statistics, other._counters = sums.parameters, sums.statistics, sums.counters
        other._used, other._weight, other._count = max(sums.largest), sums.weight, sums.members
        self.merge(other)

    def sums(self) -> Sums:
        """What was added, exactly.

        Raises:
            ShapeError: if nothing was.
        """
        return Sums(
            parameters=self._parameters.copy(),
            statistics=self._statistics.copy(),
            counters=self._counters.copy(),
            weight=self._weight,
            members=self._count,
        )

    def merge(self, other: "Accumulator", *, share: float = 1.0) -> None:
        """Add what another accumulator of the same model holds: the same bits as if all had been added to this one.

        Args:
            other: what is added.
            share: all that has a weight is multiplied by it, once, and rounded.

        Raises:
            HeadroomError: if the sums could overflow.
        """
        parameters, statistics, counters, used, weight, count = other._state()  # noqa: SLF001 - of its own kind
        if self._used + used > HEADROOM:
            raise HeadroomError("weights times values of both together reach the limit: clip or reweight")
        if share != 1.0:
            weight = round(weight * share)
            plain = statistics[self._first_control :]
            parameters = np.rint(parameters * share).astype(np.int64)
            statistics = np.rint(statistics * share).astype(np.int64)
            statistics[self._first_control :] = plain
        self._parameters += parameters
        self._statistics += statistics
        if count:
            self._counters = np.maximum(self._counters, counters) if self._count else counters.copy()
        self._used, self._weight, self._count = self._used + used, self._weight + weight, self._count + count

    def mean(self, *, divisor: float | None = None) -> Vectors:
        """Return the sums divided by `divisor`, or by the sum of the weights.

        Counters are the elementwise maximum, controls the plain sum.

        Raises:
            ValueError: if nothing was added, or the divisor is not positive.
        """
        by = self.weight_sum if divisor is None else divisor
        if not self._count or not by > 0:
            raise ValueError("a mean needs at least one frame and a positive divisor")
        scale = by * 2.0**SCALE_BITS
        statistics = _divided(self._statistics, scale)
        statistics[self._first_control :] = _divided(self._statistics[self._first_control :], 2.0**SCALE_BITS)
        return Vectors(_divided(self._parameters, scale), statistics, self._counters.copy())

    @property
    def _first_control(self) -> int:
        return self._manifest.statistic_count - self._manifest.control_count

    def _used_after(self, of_parameters: float, weight: float, statistic_abs_max: float) -> float:
        """The headroom that is used after an update of these magnitudes.

        Raises:
            HeadroomError: if the sums could overflow.
        """
        of_statistics = max(weight, 1.0) if self._manifest.control_count else weight
        used = self._used + max(of_parameters, of_statistics * statistic_abs_max)
        if used > HEADROOM:
            raise HeadroomError(f"weights times values reach {used:.3g}, the limit is {HEADROOM:.3g}: clip or reweight")
        return used

    def _state(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], float, int, int]:
        return self._parameters, self._statistics, self._counters, self._used, self._weight, self._count

    def _add_vectors(self, update: Vectors, factor: float, exact: float) -> None:
        _add_values(update.parameters, self._parameters, factor)
        first = self._first_control
        _add_values(update.statistics[:first], self._statistics[:first], exact)
        _add_values(update.statistics[first:], self._statistics[first:], 1.0)
        if len(update.counters):
            self._counters = np.maximum(self._counters, update.counters) if self._count else update.counters.copy()

    def _add(self, content: Content, factor: float, exact: float) -> None:
        for part in content.groups:
            table = _fixed(part.quantizer.table(), factor)
            part.symbols.feed(table, GroupAdder(part.group, self._parameters))
        if content.outliers is not None:
            self._parameters[content.outliers.positions] += _fixed(content.outliers.values, factor)
        _add_planes(content.values, self._parameters, factor)
        _add_planes(content.statistics, self._statistics, exact, plain_from=self._first_control)
        if content.counters is not None:
            for start, values in content.counters.pieces():
                view = self._counters[start : start + len(values)]
                view[:] = np.maximum(view, values) if self._count else values


def _units(weight: float) -> tuple[int, float]:
    """A weight as a whole number of units of 2^-20, and its exact value.

    Raises:
        HeadroomError: if it is not a positive number.
    """
    units = round(weight * (1 << WEIGHT_BITS)) if math.isfinite(weight) else 0
    if units <= 0:
        raise HeadroomError(f"a weight must be a positive number above 2^-{WEIGHT_BITS + 1}, not {weight}")
    return units, units / (1 << WEIGHT_BITS)


def _divided(sums: NDArray[np.int64], scale: float) -> NDArray[np.float32]:
    out = np.empty(len(sums), np.float32)
    for start in range(0, len(sums), CHUNK_ENTRIES):
        out[start : start + CHUNK_ENTRIES] = sums[start : start + CHUNK_ENTRIES] / scale
    return out


def _fixed(values: NDArray[Any], factor: float) -> NDArray[np.int64]:
    """Round values times factor to fixed point; a table's unused entries may be out of range and are cut."""
    scaled = np.rint(values.astype(np.float64) * (factor * 2.0**SCALE_BITS))
    return np.clip(scaled, -(2.0**62), 2.0**62).astype(np.int64)


def _abs_max(values: NDArray[np.float32]) -> float:
    return max(float(values.max()), -float(values.min())) if len(values) else 0.0


def _add_values(values: NDArray[np.float32], target: NDArray[np.int64], factor: float) -> None:
    """As `_add_planes` does, in two buffers that stay in the cache."""
    if not len(values):
        return
    block = min(len(values), BLOCK_ENTRIES)
    wide, whole = np.empty(block), np.empty(block, np.int64)
    for start in range(0, len(values), BLOCK_ENTRIES):
        piece = values[start : start + BLOCK_ENTRIES]
        scaled, rounded = wide[: len(piece)], whole[: len(piece)]
        np.multiply(piece, factor * 2.0**SCALE_BITS, out=scaled, dtype=np.float64)
        np.rint(scaled, out=scaled)
        rounded[:] = scaled
        view = target[start : start + len(piece)]
        view += rounded


def _add_planes(
    planes: Pieces | None, target: NDArray[np.int64], factor: float, *, plain_from: int | None = None
) -> None:
    """Add values times factor; entries from ``plain_from`` on as they are."""
    if planes is not None:
        for start, values in planes.pieces():
            cut = len(values) if plain_from is None else max(0, min(len(values), plain_from - start))
            target[start : start + cut] += _fixed(values[:cut], factor)
            if cut < len(values):
                target[start + cut : start + len(values)] += _fixed(values[cut:], 1.0)
