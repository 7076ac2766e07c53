"""The exact sum of some updates as a frame: integers that others add to theirs, and no bit of the whole changes.

A gateway adds the updates of its nodes in fixed point, sum = Σ rint(weight · value · 2^32), and sends the integers.
Whoever adds the sums of several gateways has the very integers of all their nodes. FORMAT.md has the bytes (kind 7).
"""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from update_codec.decoding import FrameInfo
from update_codec.errors import HeaderError, ShapeError, SummedFrame
from update_codec.frame import Cursor, Header, open_frame, seal_frame, varint, write_stream
from update_codec.limits import MEMBERS_MAX
from update_codec.manifest import Manifest
from update_codec.segments import Tag, check_header
from update_codec.spec import CodecSpec, Kind

__all__ = [
    "SCALE_BITS",
    "SUM_MAX",
    "WEIGHT_BITS",
    "Sums",
    "inspect_sum",
    "is_sum",
    "read_members",
    "read_sum",
    "sum_frame",
]

SCALE_BITS: Final = 32
WEIGHT_BITS: Final = 20

SUM_MAX: Final = 2**62
"""Largest magnitude of an entry: two sums can be added before anybody looks."""

_SPEC: Final = CodecSpec(kind=Kind.SUM)
_KIND_AT: Final = 5
_WEIGHT_BYTES: Final = 8
_PLANES: Final = 8

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sums:
    """What some updates come to, exactly.

    Raises:
        ShapeError: if there is no member, or no weight.
    """

    parameters: Integers
    """Σ rint(weight · value · 2^32), int64, shape (D,)."""
    statistics: Integers
    """The same, shape (S,); controls without a weight."""
    counters: Integers
    """The largest of each, shape (C,)."""
    weight: int
    """Sum of the weights, in units of 2^-20."""
    members: int
    """How many updates."""
    largest: tuple[float, float] = field(init=False)
    """Largest magnitude of a sum of parameters and of one of statistics."""

    def __post_init__(self) -> None:
        if not (0 < self.members <= MEMBERS_MAX and 0 < self.weight < 1 << 8 * _WEIGHT_BYTES):
            raise ShapeError(f"{self.members} members with the weight {self.weight} have no sum")
        largest = tuple(_abs_max(sums) / 2.0**SCALE_BITS for sums in (self.parameters, self.statistics))
        object.__setattr__(self, "largest", largest)

    @property
    def examples(self) -> float:
        """Sum of the weights."""
        return self.weight / (1 << WEIGHT_BITS)


def is_sum(frame: bytes) -> bool:
    """Whether a frame says that it is a sum; nothing else is looked at."""
    return frame[_KIND_AT : _KIND_AT + 1] == bytes([Kind.SUM])


def sum_frame(sums: Sums, manifest: Manifest) -> bytes:
    """The frame of a sum: the same bytes for the same sum.

    Raises:
        ShapeError: if it is not of this model.
    """
    sizes = (len(sums.parameters), len(sums.statistics), len(sums.counters))
    if sizes != (manifest.parameter_count, manifest.statistic_count, manifest.counter_count):
        raise ShapeError(f"sums of {sizes} entries are not of this model")
    weight = sums.weight.to_bytes(_WEIGHT_BYTES, "little")
    segments = [bytes([Tag.TOTALS]) + varint(sums.members) + weight]
    named = ((Tag.SUMS, sums.parameters), (Tag.STATISTICS, sums.statistics), (Tag.COUNTERS, sums.counters))
    segments += [bytes([tag]) + _coded(integers) for tag, integers in named if len(integers)]
    header = Header(kind=Kind.SUM, segments=len(segments), manifest_digest=manifest.digest, spec=str(_SPEC))
    return seal_frame(header, segments)


def read_sum(frame: bytes, manifest: Manifest) -> Sums:
    """Read the frame of a sum.

    Raises:
        FrameError: a subclass, if the bytes are not exactly one valid sum for `manifest`.
    """
    header, cursor, members = _begun(frame, manifest)
    weight = int.from_bytes(cursor.take(_WEIGHT_BYTES), "little")
    if not members or not weight:
        raise HeaderError("a sum of nothing")
    sizes = (manifest.parameter_count, manifest.statistic_count, manifest.counter_count)
    if header.segments != 1 + sum(map(bool, sizes)):
        raise HeaderError(f"the header states {header.segments} segments")
    parameters, statistics, counters = (
        _read(cursor, tag, size) for tag, size in zip((Tag.SUMS, Tag.STATISTICS, Tag.COUNTERS), sizes, strict=True)
    )
    cursor.finish()
    if max(_abs_max(parameters), _abs_max(statistics)) >= SUM_MAX:
        raise HeaderError("a sum leaves no room for another one")
    return Sums(parameters=parameters, statistics=statistics, counters=counters, weight=weight, members=members)


def read_members(frame: bytes, manifest: Manifest) -> int:
    """How many updates are in a sum, by its own word; the sums themselves are not read.

    Raises:
        FrameError: a subclass, if it does not begin as a sum for `manifest`, or was changed.
    """
    return _begun(frame, manifest)[2]


def inspect_sum(frame: bytes, manifest: Manifest) -> FrameInfo:
    """Validate a sum completely, and describe its mean as `inspect` describes an update.

    Raises:
        FrameError: as `read_sum`.
    """
    sums = read_sum(frame, manifest)
    first_control = manifest.statistic_count - manifest.control_count
    unit = 2.0**-SCALE_BITS
    controls = _abs_max(sums.statistics[first_control:]) * unit
    statistics = _abs_max(sums.statistics[:first_control]) * unit / sums.examples
    wide = sums.parameters * unit / sums.examples
    count = manifest.parameter_count
    return FrameInfo(
        spec=str(_SPEC),
        kind=Kind.SUM,
        manifest_digest=manifest.digest,
        frame_digest=bytes(frame[-16:]),
        frame_bytes=len(frame),
        parameter_bytes=len(frame),
        statistic_bytes=0,
        counter_bytes=0,
        parameter_norm=math.sqrt(float(np.square(wide).sum())),
        parameter_abs_max=float(np.abs(wide).max(initial=0.0)),
        statistic_abs_max=max(statistics, controls),
        control_abs_max=controls,
        counter_abs_max=_abs_max(sums.counters),
        finite=True,
        bits_per_parameter=8 * len(frame) / count if count else 0.0,
        segments=(),
        members=sums.members,
        weight=sums.examples,
    )


def _begun(frame: bytes, manifest: Manifest) -> tuple[Header, Cursor, int]:
    """The header, what follows, and the number of members, which comes first."""
    header, cursor = open_frame(frame, manifest.digest)
    check_header(header)
    if header.kind != Kind.SUM:
        raise SummedFrame("the frame is no sum")
    _expect(cursor, Tag.TOTALS)
    return header, cursor, cursor.number(MEMBERS_MAX)


def _expect(cursor: Cursor, tag: Tag) -> None:
    if cursor.byte() != tag:
        raise HeaderError(f"the segment {tag.name} is missing or out of order")


def _coded(integers: Integers) -> bytes:
    """Which are not zero, and of those the zigzag numbers, a byte of all of them after the other."""
    used = integers != 0
    found = integers[used]
    zigzag = ((found << 1) ^ (found >> 63)).astype("<i8").view(np.uint8).reshape(-1, _PLANES)
    places = write_stream(np.packbits(used, bitorder="little").tobytes()) if 0 < len(found) < len(used) else b""
    planes = (write_stream(zigzag[:, plane].tobytes()) for plane in range(_PLANES) if len(found))
    return varint(len(found)) + places + b"".join(planes)


def _read(cursor: Cursor, tag: Tag, size: int) -> Integers:
    out = np.zeros(size, np.int64)
    if not size:
        return out
    _expect(cursor, tag)
    count = cursor.number(size)
    if not count:
        return out
    used = np.ones(size, np.bool_)
    if count < size:
        stream = cursor.stream(-(-size // 8))
        packed = np.frombuffer(stream.read(-(-size // 8)), np.uint8)
        stream.finish()
        used = np.unpackbits(packed, count=size, bitorder="little").astype(np.bool_)
        if np.count_nonzero(used) != count:
            raise HeaderError(f"not {count} places are marked")
    planes = np.empty((count, _PLANES), np.uint8)
    for plane in range(_PLANES):
        stream = cursor.stream(count)
        planes[:, plane] = np.frombuffer(stream.read(count), np.uint8)
        stream.finish()
    zigzag = planes.view("<u8").reshape(-1)
    found = (zigzag >> np.uint64(1)).astype(np.int64) ^ -(zigzag & np.uint64(1)).astype(np.int64)
    if not found.all():
        raise HeaderError("a place is marked, and its number is zero")
    out[used] = found
    return out


def _abs_max(integers: Integers) -> int:
    return max(int(integers.max(initial=0)), -int(integers.min(initial=0)))
