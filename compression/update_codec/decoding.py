"""From a frame back to vectors, and what a frame says about itself."""

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec.context import Contexts
from update_codec.errors import NonFiniteFrame
from update_codec.manifest import Manifest
from update_codec.partition import Group, GroupAdder
from update_codec.segments import Content, Pieces, SegmentInfo, Tag, parse
from update_codec.spec import Kind
from update_codec.vectors import Vectors

__all__ = ["FrameInfo", "decode", "inspect"]

_TAGS: Final = tuple(Tag)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameInfo:
    """What is in a frame, found without a float copy of the update, unless one is to be kept."""

    spec: str
    """The specification that the encoder was given; `CodecSpec.parse` reads it."""
    kind: Kind
    manifest_digest: bytes
    frame_digest: bytes
    """16 bytes; identifies the frame."""
    frame_bytes: int
    parameter_bytes: int
    statistic_bytes: int
    counter_bytes: int
    parameter_norm: float
    """L2 norm of the decoded parameters; NaN or infinity if they are not finite."""
    parameter_abs_max: float
    statistic_abs_max: float
    """Of the statistics' vector: controls included."""
    control_abs_max: float
    counter_abs_max: int
    finite: bool
    """False if a parameter or a statistic is NaN or infinite."""
    bits_per_parameter: float
    """Bits of the whole frame per parameter; 0 if there are none."""
    segments: tuple[SegmentInfo, ...]
    members: int = 1
    """Updates that a sum is of."""
    weight: float | None = None
    """Their weights' sum; None where the frame is one update."""
    values: Vectors | None = field(default=None, repr=False, compare=False)
    """The update itself, where it was to be kept and adds up to the same bits as its frame; nobody may change it."""


def decode(frame: bytes, manifest: Manifest, *, context: Contexts | None = None) -> Vectors:
    """Decode a frame.

    Args:
        frame: one complete frame.
        manifest: the model that both ends agreed on; every size comes from it.
        context: the one that the frame was coded with, if any, or several by their keys.

    Returns:
        The update, with the same bits on every machine.

    Raises:
        FrameError: a subclass, if the bytes are not exactly one valid, finite frame for `manifest`.
    """
    content = parse(frame, manifest, context)
    vectors = Vectors.zeros(manifest)
    for part in content.groups:
        part.symbols.feed(part.quantizer.table(), GroupAdder(part.group, vectors.parameters))
    if content.outliers is not None:
        vectors.parameters[content.outliers.positions] += content.outliers.values
    _copy(content.values, vectors.parameters)
    _copy(content.statistics, vectors.statistics)
    _copy(content.counters, vectors.counters)
    if not (np.isfinite(vectors.parameters).all() and np.isfinite(vectors.statistics).all()):
        raise NonFiniteFrame("the update holds NaN or infinity")
    return vectors


def inspect(
    frame: bytes, manifest: Manifest, *, context: Contexts | None = None, keep_values: bool = False
) -> FrameInfo:
    """Validate a frame completely, as `decode` does, and describe it.

    Args:
        frame: one complete frame.
        manifest: the model that both ends agreed on.
        context: as for `decode`.
        keep_values: decode it at the same time, so that `Accumulator.add` need not do so again.

    Raises:
        FrameError: as `decode`, but a frame that is not finite is described, not refused.
    """
    content = parse(frame, manifest, context)
    kept = _Kept(Vectors.zeros(manifest)) if keep_values else None
    square, peak = _measure_parameters(content, kept)
    first_control = manifest.statistic_count - manifest.control_count
    statistic_peak, control_peak = _peaks(content.statistics, first_control, kept)
    counters = [0]
    for start, values in content.counters.pieces() if content.counters is not None else ():
        counters += (int(values.max()), -int(values.min()))
        if kept is not None:
            kept.vectors.counters[start : start + len(values)] = values
    finite = math.isfinite(square) and math.isfinite(statistic_peak)
    sizes = dict.fromkeys(_TAGS, 0)
    for segment in content.segments:
        sizes[segment.tag] += segment.bytes
    count = manifest.parameter_count
    return FrameInfo(
        spec=content.header.spec,
        kind=Kind(content.header.kind),
        manifest_digest=manifest.digest,
        frame_digest=bytes(frame[-16:]),
        frame_bytes=len(frame),
        parameter_bytes=sum(sizes.values()) - sizes[Tag.STATISTICS] - sizes[Tag.COUNTERS],
        statistic_bytes=sizes[Tag.STATISTICS],
        counter_bytes=sizes[Tag.COUNTERS],
        parameter_norm=math.sqrt(square),
        parameter_abs_max=peak,
        statistic_abs_max=statistic_peak,
        control_abs_max=control_peak,
        counter_abs_max=max(counters),
        finite=finite,
        bits_per_parameter=8 * len(frame) / count if count else 0.0,
        segments=tuple(content.segments),
        values=kept.vectors if kept is not None and kept.is_exact and finite else None,
    )


@dataclass(slots=True)
class _Kept:
    """What is decoded beside the measuring; not exact where two parts of a frame add up at one place."""

    vectors: Vectors
    is_exact: bool = True

    def add(self, places: Any, values: NDArray[Any]) -> None:
        """Values at distinct places where nothing was before; sums of the parts are rounded apart."""
        self.is_exact = self.is_exact and not self.vectors.parameters[places].any()
        self.vectors.parameters[places] += values


class _Meter:
    """A sink that sums squares and keeps the largest."""

    def __init__(self) -> None:
        self.total = 0.0
        self.peak = 0.0

    def dense(self, start: int, values: NDArray[Any]) -> None:
        """Measure squares, wherever they are."""
        del start
        self.total += float(values.sum())
        self.peak = max(self.peak, float(values.max(initial=0.0)))

    def sparse(self, positions: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Measure squares, wherever they are."""
        del positions
        self.dense(0, values)

    def room(self, start: int, count: int) -> None:
        """There is none: what is measured is not added."""


class _KeepingMeter(_Meter):
    """The same of values, which it also keeps."""

    def __init__(self, group: Group, kept: _Kept) -> None:
        super().__init__()
        self._group, self._kept = group, kept

    def dense(self, start: int, values: NDArray[Any]) -> None:
        """Measure their squares, and keep them."""
        super().dense(start, values.astype(np.float64) ** 2)
        self._group.add(self._kept.vectors.parameters, start, values)

    def sparse(self, positions: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Measure their squares, and keep them."""
        super().dense(0, values.astype(np.float64) ** 2)
        self._kept.add(self._group.locate(positions), values)


def _measure_parameters(content: Content, kept: _Kept | None) -> tuple[float, float]:
    """Sum of squares and largest magnitude of the parameters."""
    total, peak = _measure_planes(content.values, kept)
    for part in content.groups:
        if kept is None:
            meter = _Meter()
            part.symbols.feed(part.quantizer.table().astype(np.float64) ** 2, meter)
        else:
            meter = _KeepingMeter(part.group, kept)
            part.symbols.feed(part.quantizer.table(), meter)
        total, peak = total + meter.total, max(peak, math.sqrt(meter.peak))
    if content.outliers is not None:
        if kept is not None:
            kept.add(content.outliers.positions, content.outliers.values)
        values = content.outliers.values.astype(np.float64)
        total, peak = total + float(np.dot(values, values)), max(peak, float(np.abs(values).max()))
    return total, peak


def _measure_planes(planes: Pieces | None, kept: _Kept | None) -> tuple[float, float]:
    total, peak = 0.0, 0.0
    if planes is not None:
        for start, piece in planes.pieces():
            if kept is not None:
                kept.vectors.parameters[start : start + len(piece)] = piece
            with np.errstate(invalid="ignore"):  # a signalling NaN; the sum tells
                values = piece.astype(np.float64)
            peak = float(np.maximum(peak, np.abs(values).max()))
            # Not a dot product: the library's threads cost ten times the work on pieces of this size.
            total += float(np.square(values, out=values).sum())
    return total, peak


def _peaks(planes: Pieces | None, cut: int, kept: _Kept | None) -> tuple[float, float]:
    """The largest magnitude of all values, and of those from the entry ``cut`` on; NaN stays NaN."""
    peak, late = 0.0, 0.0
    for start, values in planes.pieces() if planes is not None else ():
        if kept is not None:
            kept.vectors.statistics[start : start + len(values)] = values
        sizes = np.abs(values)
        peak = float(np.maximum(peak, sizes.max()))
        late = float(np.maximum(late, sizes[max(0, cut - start) :].max(initial=0.0)))
    return peak, late


def _copy(planes: Pieces | None, target: NDArray[Any]) -> None:
    if planes is not None:
        for start, values in planes.pieces():
            target[start : start + len(values)] = values
