"""A frame's segments, parsed and checked against the manifest, still compressed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

from update_codec.bands import Bands, Cosine, bands_bytes, matrices
from update_codec.context import Context, Contexts
from update_codec.errors import ContextMismatch, HeaderError, MaskedFrame, SizeMismatch, SummedFrame
from update_codec.frame import Cursor, Header, open_frame
from update_codec.layouts.layout import Symbols
from update_codec.layouts.planes import Planes
from update_codec.manifest import Manifest
from update_codec.partition import Group, GroupAdder, Partition, groups_of, matrices_of
from update_codec.quantizers.codes import Common, codes_bytes, unpack_codes
from update_codec.quantizers.deadzone import Quantizer
from update_codec.quantizers.dithered import Dithered
from update_codec.quantizers.eden import Eden, eden_bytes
from update_codec.spec import Kind

__all__ = ["Content", "Outliers", "SegmentInfo", "SymbolGroup", "Tag", "check_header", "parse"]


class Tag(IntEnum):
    """First byte of a segment."""

    VALUES = 0
    """Parameters, lossless."""
    SYMBOLS = 1
    """Quantized parameters of one group."""
    OUTLIERS = 2
    """Parameters beyond the last symbol, exact."""
    STATISTICS = 3
    """Float buffers, lossless."""
    COUNTERS = 4
    """Integer tensors, lossless."""
    CODES = 5
    """Parameters as fixed-length codes."""
    CLASSES = 6
    """Which group each tensor belongs to."""
    TAIL = 7
    """Numbers of 32 bits behind masked codes."""
    BANDS = 8
    """Which matrices are turned, and the class of each band of coefficients."""
    TOTALS = 9
    """How many updates a sum is of, and their weight."""
    SUMS = 10
    """Sums of parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInfo:
    """Where a frame's bytes went."""

    tag: Tag
    group: int
    """Number of the parameter group, from 0; 0 for other segments."""
    layout: str
    """Name of the layout, or "planes" or "exact"."""
    entries: int
    nonzero: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolGroup:
    """Quantized parameters of one group."""

    group: Group
    quantizer: Quantizer
    symbols: Symbols


class Pieces(Protocol):
    """Consecutive values that can be read once."""

    def pieces(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first entry, values)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outliers:
    """Values at increasing positions of the parameter vector, where the symbols are zero."""

    positions: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(slots=True, kw_only=True)
class Content:
    """Everything in a frame. The streams inside can be read once."""

    header: Header
    values: Pieces | None = None
    """Parameters of every kind but the deadzone quantizer's."""
    groups: list[SymbolGroup] = field(default_factory=list)
    outliers: Outliers | None = None
    statistics: Planes | None = None
    counters: Planes | None = None
    segments: list[SegmentInfo] = field(default_factory=list)


def parse(frame: bytes, manifest: Manifest, context: Contexts | None = None) -> Content:
    """Check the envelope and every size, and return the segments.

    Raises:
        FrameError: if the frame is not exactly one valid frame for `manifest`.
    """
    header, cursor = open_frame(frame, manifest.digest)
    parser = _Parser(header, cursor, manifest)
    one = context if context is None or isinstance(context, Context) else context.get(header.seed)
    parser.parameters(one)
    parser.others()
    if len(parser.content.segments) != header.segments:
        raise HeaderError(f"the header states {header.segments} segments")
    cursor.finish()
    return parser.content


class _Parser:
    def __init__(self, header: Header, cursor: Cursor, manifest: Manifest) -> None:
        check_header(header)
        self._header = header
        self._cursor = cursor
        self._manifest = manifest
        self._before = cursor.left
        self.content = Content(header=header)

    def parameters(self, context: Context | None) -> None:
        """Read the segments of the parameters."""
        partition = Partition(self._header.partition)
        if partition is Partition.BY_CONTEXT:
            _check_context(self._header, self._manifest, context)
        size = self._manifest.parameter_count
        match Kind(self._header.kind):
            case Kind.MASKED:
                raise MaskedFrame("the frame is masked: only the sum of a whole batch can be read")
            case Kind.SUM:
                raise SummedFrame("the frame is the sum of several updates: it is added, not decoded")
            case _ if not size:
                pass
            case Kind.LOSSLESS:
                self._expect(Tag.VALUES)
                self.content.values = self._planes(Tag.VALUES, size, "f")
            case Kind.DEADZONE:
                self._deadzone(partition, context)
            case Kind.COSINE:
                self._cosine(size)
            case Kind.DITHER:
                self._dithered(size)
            case Kind.EDEN | Kind.COMMON:
                self._codes(size)
            case kind:
                assert_never(kind)

    def _deadzone(self, partition: Partition, context: Context | None) -> None:
        classes = self._classes() if partition is Partition.BY_SPREAD else None
        groups = groups_of(self._manifest, partition, context=context, classes=classes)
        for index, group in enumerate(groups):
            self._symbols(group, index)
        self.content.outliers = self._outliers()

    def others(self) -> None:
        """Read statistics and counters."""
        if self._manifest.statistic_count:
            self._expect(Tag.STATISTICS)
            self.content.statistics = self._planes(Tag.STATISTICS, self._manifest.statistic_count, "f")
        if self._manifest.counter_count:
            self._expect(Tag.COUNTERS)
            self.content.counters = self._planes(Tag.COUNTERS, self._manifest.counter_count, "i")

    def _rest(self) -> int:
        return bool(self._manifest.statistic_count) + bool(self._manifest.counter_count)

    def _expect(self, tag: Tag) -> None:
        if self._cursor.byte() != tag:
            raise HeaderError(f"the segment {tag.name} is missing or out of order")

    def _classes(self) -> NDArray[np.int64]:
        self._expect(Tag.CLASSES)
        count = len(matrices_of(self._manifest))
        classes = unpack_codes(self._cursor.take(codes_bytes(count, 2)), 0, count, 2)
        self._note(Tag.CLASSES, 0, "codes", (count, count))
        return classes

    def _symbols(self, group: Group, index: int) -> None:
        self._expect(Tag.SYMBOLS)
        scale = self._cursor.byte()
        first, second, third = np.frombuffer(self._cursor.take(3), np.int8).tolist()
        if scale > 15 or min(first, second, third) == -128:
            raise HeaderError("a group's scale or shift is out of range")
        quantizer = Quantizer(step=self._header.step, scale=scale, shifts=(first, second, third))
        symbols = Symbols(self._cursor, group.size)
        self.content.groups.append(SymbolGroup(group=group, quantizer=quantizer, symbols=symbols))
        self._note(Tag.SYMBOLS, index, symbols.layout.name.lower(), (group.size, symbols.nonzero))

    def _cosine(self, size: int) -> None:
        self._expect(Tag.BANDS)
        flags = self._cursor.take(codes_bytes(len(matrices(self._manifest)), 1))
        codes = self._cursor.take(bands_bytes(flags, self._manifest))
        bands = Bands.from_bytes(flags, codes, self._manifest)
        self._note(Tag.BANDS, 0, "codes", (len(flags), len(codes)))
        for index, group in enumerate(bands.groups(self._manifest)):
            self._symbols(group, index)
        parts, self.content.groups = self.content.groups, []
        outliers = self._outliers()

        def coefficients() -> NDArray[np.float32]:
            found = np.zeros(size, np.float32)
            for part in parts:
                part.symbols.feed(part.quantizer.table(), GroupAdder(part.group, found))
            if outliers is not None:
                found[outliers.positions] += outliers.values
            return found

        self.content.values = Cosine(coefficients, self._manifest, bands.turned, self._header.step)

    def _dithered(self, size: int) -> None:
        self._expect(Tag.SYMBOLS)
        symbols = Symbols(self._cursor, size)
        self._note(Tag.SYMBOLS, 0, symbols.layout.name.lower(), (size, symbols.nonzero))
        outliers = self._outliers()
        exact = (outliers.positions, outliers.values) if outliers else (np.empty(0, np.int64), np.empty(0, np.float32))
        self.content.values = Dithered(symbols, size, (self._header.step, self._header.seed), exact)

    def _codes(self, size: int) -> None:
        self._expect(Tag.CODES)
        bits = self._header.bits
        if self._header.kind == Kind.COMMON:
            codes = self._cursor.take(codes_bytes(size, bits))
            self.content.values = Common(codes, size, (bits, self._header.step))
        else:
            scale_bytes, code_bytes = eden_bytes(size, bits)
            scales = np.frombuffer(self._cursor.take(scale_bytes), "<f4")
            if not (np.isfinite(scales).all() and (scales >= 0).all()):
                raise HeaderError("the scale of a block is not a number of zero or more")
            self.content.values = Eden(scales, self._cursor.take(code_bytes), size, (bits, self._header.seed))
        self._note(Tag.CODES, 0, Kind(self._header.kind).name.lower(), (size, size))

    def _outliers(self) -> Outliers | None:
        if self._header.segments <= len(self.content.segments) + self._rest():
            return None
        self._expect(Tag.OUTLIERS)
        count = self._cursor.number(self._manifest.parameter_count)
        positions = np.frombuffer(self._cursor.take(4 * count), "<u4").astype(np.int64)
        values = np.frombuffer(self._cursor.take(4 * count), "<f4").astype(np.float32)
        if not count or positions[-1] >= self._manifest.parameter_count or (np.diff(positions) <= 0).any():
            raise SizeMismatch("positions of outliers do not increase within the vector")
        if not np.isfinite(values).all():
            raise HeaderError("an outlier is not finite")
        self._note(Tag.OUTLIERS, 0, "exact", (count, count))
        return Outliers(positions=positions, values=values)

    def _planes(self, tag: Tag, size: int, kind: str) -> Planes:
        planes = Planes(self._cursor, size, kind)
        self._note(tag, 0, "planes", (size, size))
        return planes

    def _note(self, tag: Tag, group: int, layout: str, entries: tuple[int, int]) -> None:
        used = self._before - self._cursor.left
        self._before = self._cursor.left
        self.content.segments.append(
            SegmentInfo(tag=tag, group=group, layout=layout, entries=entries[0], nonzero=entries[1], bytes=used)
        )


_KINDS: Final = frozenset(Kind)
_PARTITION_MAX: Final = max(Partition)
_STEPPED: Final = (Kind.DEADZONE, Kind.COSINE, Kind.DITHER, Kind.COMMON, Kind.MASKED)
_SEEDED: Final = (Kind.DITHER, Kind.EDEN)
_BITS: Final = {Kind.EDEN: (1, 4), Kind.COMMON: (2, 24), Kind.MASKED: (2, 32)}


def check_header(header: Header) -> None:
    """Refuse values that the kind does not allow.

    Raises:
        HeaderError: if there is one.
    """
    kind = header.kind
    if kind not in _KINDS:
        raise HeaderError(f"kind {kind} is not known")
    if header.partition > (_PARTITION_MAX if kind == Kind.DEADZONE else 0):
        raise HeaderError(f"partition {header.partition} is not known or not for this kind")
    if kind in _STEPPED:
        if not (math.isfinite(header.step) and header.step >= 2.0**-126):
            raise HeaderError(f"{header.step} is not a step")
    elif header.step != 0:
        raise HeaderError("this kind has no step")
    low, high = _BITS.get(Kind(kind), (0, 0))
    is_seeded = kind in _SEEDED or header.partition == Partition.BY_CONTEXT
    if (header.seed and not is_seeded) or not low <= header.bits <= high:
        raise HeaderError("seed or bits are not for this kind")


def _check_context(header: Header, manifest: Manifest, context: Context | None) -> None:
    if context is None or len(context.classes) != manifest.parameter_count or context.key != header.seed:
        raise ContextMismatch("the frame was coded with a context that is not at hand")
