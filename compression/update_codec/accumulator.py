"""A weighted sum of frames in fixed point: the same bits for every order of arrival.

    sum += rint(weight · clip factor · value · 2^32)

The sums are int64. In wide ones, where a further update could bring one beyond 2^62, what is above 2^32 is carried into
a second word, as often as needed: the integers stay exact, and their mean has the bits that one wide integer gives.

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
from update_codec.kernel import kernel
from update_codec.limits import CHUNK_ENTRIES
from update_codec.manifest import Manifest
from update_codec.partition import GroupAdder
from update_codec.segments import Content, Pieces, parse
from update_codec.sums import SCALE_BITS, WEIGHT_BITS, Sums
from update_codec.vectors import Vectors

__all__ = ["Accumulator"]

Words = NDArray[np.int64]

BLOCK_ENTRIES: Final = 16_384

HEADROOM: Final = 2.0**30
"""Bound of the sum of weight times largest magnitude: the int64 sums stay below 2^62. Beyond it they are carried."""

WORD_BITS: Final = 32
"""Of the first word, once it is carried: its sums are then below 1 in units of the headroom."""


class Accumulator:
    """Adds weighted updates exactly.

    Args:
        manifest: the model of all frames.
        wide: sums may take a second word; else what has no room in one is refused, and they can go on as a frame.
    """

    SCALE_BITS = SCALE_BITS

    def __init__(self, manifest: Manifest, *, wide: bool = False) -> None:
        self._manifest, self._wide = manifest, wide
        self._parameters = np.zeros(manifest.parameter_count, np.int64)
        self._statistics = np.zeros(manifest.statistic_count, np.int64)
        self._carried: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
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
        used = self._make_room(factor * info.parameter_abs_max, exact, info.statistic_abs_max)
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
        used = self._make_room(exact * largest, exact, of_buffers)
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
            HeadroomError: if one word was not enough.
        """
        if self._carried is not None:
            raise HeadroomError("the sums are larger than a frame of sums holds: divide the members")
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
        counters, used, weight, count = other._summary()  # noqa: SLF001 - of its own kind
        if self._used + used > HEADROOM or other._carried is not None:  # noqa: SLF001 - as above
            self._carry()
        parameters, statistics, above = other._shared(share)  # noqa: SLF001 - as above
        weight = weight if share == 1.0 else round(weight * share)
        self._parameters += parameters
        self._statistics += statistics
        if above is not None and self._carried is not None:
            np.add(self._carried[0], above[0], out=self._carried[0])
            np.add(self._carried[1], above[1], out=self._carried[1])
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
        if self._carried is not None:
            self._carry()  # so that the words do not tell of the order
        scale = by * 2.0**SCALE_BITS
        of_parameters, of_statistics = (None, None) if self._carried is None else self._carried
        statistics = _divided(self._statistics, of_statistics, scale)
        plain = slice(self._first_control, None)
        above = None if of_statistics is None else of_statistics[plain]
        statistics[plain] = _divided(self._statistics[plain], above, 2.0**SCALE_BITS)
        return Vectors(_divided(self._parameters, of_parameters, scale), statistics, self._counters.copy())

    @property
    def _first_control(self) -> int:
        return self._manifest.statistic_count - self._manifest.control_count

    def _make_room(self, of_parameters: float, weight: float, statistic_abs_max: float) -> float:
        """The headroom that is used after an update of these magnitudes; the sums are carried where they need it.

        Raises:
            HeadroomError: if the update alone is too large, or there is one word only.
        """
        of_statistics = max(weight, 1.0) if self._manifest.control_count else weight
        more = max(of_parameters, of_statistics * statistic_abs_max)
        if not more <= HEADROOM:
            raise HeadroomError(f"weights times values reach {more:.3g}, the limit is {HEADROOM:.3g}: clip or reweight")
        if self._used + more > HEADROOM:
            self._carry()
        return self._used + more

    def _carry(self) -> None:
        """Move what is above the first word of each sum into the second; the integers that they are stay the same.

        Raises:
            HeadroomError: if there is one word only.
        """
        if not self._wide:
            raise HeadroomError(
                f"weights times values of all together reach the limit of {HEADROOM:.3g}: clip or reweight"
            )
        if self._carried is None:
            self._carried = np.zeros_like(self._parameters), np.zeros_like(self._statistics)
        for low, high in zip((self._parameters, self._statistics), self._carried, strict=True):
            for start in range(0, len(low), BLOCK_ENTRIES):
                piece = low[start : start + BLOCK_ENTRIES]
                high[start : start + BLOCK_ENTRIES] += piece >> WORD_BITS
                piece &= (1 << WORD_BITS) - 1
        self._used = 1.0

    def _summary(self) -> tuple[NDArray[np.int64], float, int, int]:
        """Counters, headroom used, weight and number; of carried sums the first word is made small."""
        if self._carried is not None:
            self._carry()
        return self._counters, self._used, self._weight, self._count

    def _shared(self, share: float) -> tuple[Words, Words, tuple[Words, Words] | None]:
        """The sums times a share, rounded once, and what is above their first words; controls as they are."""
        above = self._carried
        if share == 1.0:
            return self._parameters, self._statistics, above
        of_parameters, of_statistics = (None, None) if above is None else above
        first, high = _times(self._parameters, of_parameters, share)
        second, higher = _times(self._statistics, of_statistics, share)
        plain = slice(self._first_control, None)
        second[plain] = self._statistics[plain]
        if above is None or high is None or higher is None:
            return first, second, None
        higher[plain] = above[1][plain]
        return first, second, (high, higher)

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


def _divided(sums: Words, above: Words | None, scale: float) -> NDArray[np.float32]:
    out = np.empty(len(sums), np.float32)
    for start in range(0, len(sums), CHUNK_ENTRIES):
        piece = slice(start, start + CHUNK_ENTRIES)
        out[piece] = _float(sums[piece], None if above is None else above[piece]) / scale
    return out


def _times(sums: Words, above: Words | None, share: float) -> tuple[Words, Words | None]:
    """Sums times a share, each rounded once to a whole number, in as many words as they had."""
    product = np.rint(_float(sums, above) * share)
    if above is None:
        return product.astype(np.int64), None
    high = np.floor(product / 2.0**WORD_BITS)
    return (product - high * 2.0**WORD_BITS).astype(np.int64), high.astype(np.int64)


def _float(sums: Words, above: Words | None) -> NDArray[np.float64]:
    """Exact sums as the nearest float64; of carried ones the first word is not negative, and below 2^32.

    The second word times 2^32 is exact, so that the sum of both is rounded once, as an integer is.
    """
    wide = sums.astype(np.float64)
    return wide if above is None else above.astype(np.float64) * 2.0**WORD_BITS + wide


def _fixed(values: NDArray[Any], factor: float) -> NDArray[np.int64]:
    """Round values times factor to fixed point; a table's unused entries may be out of range and are cut."""
    scaled = np.rint(values.astype(np.float64) * (factor * 2.0**SCALE_BITS))
    return np.clip(scaled, -(2.0**62), 2.0**62).astype(np.int64)


def _abs_max(values: NDArray[np.float32]) -> float:
    return max(float(values.max()), -float(values.min())) if len(values) else 0.0


def _add_values(values: NDArray[np.float32], target: NDArray[np.int64], factor: float) -> None:
    """As `_add_planes` does."""
    kernel().add_scaled(target, values, factor * 2.0**SCALE_BITS)


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
