"""Masked sums: integers under a common modulus, hidden by random masks that cancel in the sum of a whole batch.

A node sends y = (q + Σ masks) mod 2^k. Whoever adds the y of a batch and takes the sum of their masks away has the sum
of the q, exactly, while one y alone is uniformly random. Sums do not depend on the order, and take no float anywhere.
The masks come as keystreams: this module knows no cipher and no key. FORMAT.md has the bytes (kind 5).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from update_codec.errors import HeaderError, HeadroomError, MaskedFrame, ShapeError, SizeMismatch
from update_codec.frame import Header, open_frame, seal_frame, varint
from update_codec.limits import MASK_BITS_MAX, TAIL_MAX
from update_codec.manifest import Manifest
from update_codec.quantizers.codes import codes_bytes, pack_codes, unpack_into
from update_codec.segments import Tag, check_header
from update_codec.spec import CodecSpec, Kind

__all__ = ["Keystream", "Masked", "MaskedSum", "Shape", "bits_for", "masked", "read_masked", "sum_bytes"]

_PIECE: Final = 1 << 16
"""Entries of a mask that are made at a time."""

Lanes = NDArray[np.uint16 | np.uint32]


class Keystream(Protocol):
    """Pseudorandom bytes, in order; who has the seed can make them again."""

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""


class Mask(Protocol):
    """The two keystreams of one seed."""

    @property
    def codes(self) -> Keystream:
        """For the parameters."""

    @property
    def tail(self) -> Keystream:
        """For the numbers behind them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What all members of a sum have in common.

    Raises:
        ShapeError: if a number is beyond the format.
    """

    dimension: int
    """Parameters, D."""
    tail: int
    """Numbers of 32 bits behind them, T."""
    bits: int
    """k: parameters are summed modulo 2^k; the tail modulo 2^32."""

    def __post_init__(self) -> None:
        if not (self.dimension >= 0 and 0 <= self.tail <= TAIL_MAX and 2 <= self.bits <= MASK_BITS_MAX):
            raise ShapeError(f"no masked sum has this shape: {self}")

    @property
    def lane(self) -> type[np.uint16 | np.uint32]:
        """The type in which residues are added: it wraps at a multiple of the modulus."""
        return np.uint16 if self.bits <= 16 else np.uint32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Masked:
    """A masked frame as it was read: random numbers, and nothing that could be decoded."""

    shape: Shape
    step: float
    """What one unit is worth, as the frame says it (float32)."""
    stored: memoryview
    """The packed codes."""
    tail: NDArray[np.uint32]
    """Shape (T,)."""
    frame_digest: bytes
    """16 bytes."""

    def lanes(self) -> Lanes:
        """The residues: uint16 up to 16 bits, uint32 above, shape (D,)."""
        out: Lanes = np.empty(self.shape.dimension, self.shape.lane)
        unpack_into(self.stored, self.shape.bits, out)
        return out


class MaskedSum:
    """An exact sum of residues.

    Args:
        shape: of everything that is added.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._codes: Lanes = np.zeros(shape.dimension, shape.lane)
        self._tail = np.zeros(shape.tail, np.uint32)

    def add_integers(self, integers: NDArray[Any], tail: NDArray[Any]) -> None:
        """Add integers of any sign, shapes (D,) and (T,): a node's own, or noise.

        Raises:
            ShapeError: if they are of another length.
        """
        if len(integers) != self._shape.dimension or len(tail) != self._shape.tail:
            raise ShapeError(f"{len(integers)} and {len(tail)} integers do not fit {self._shape}")
        for start in range(0, len(integers), _PIECE):
            piece = integers[start : start + _PIECE]
            self._codes[start : start + len(piece)] += piece.astype(np.int64).astype(self._shape.lane)
        self._tail += tail.astype(np.int64).astype(np.uint32)

    def add_mask(self, mask: Mask) -> None:
        """Add one mask."""
        width = np.dtype(self._shape.lane).itemsize
        wire = np.dtype(self._shape.lane).newbyteorder("<")
        for start in range(0, self._shape.dimension, _PIECE):
            view = self._codes[start : start + _PIECE]
            view += np.frombuffer(mask.codes.take(len(view) * width), wire)
        self._tail += np.frombuffer(mask.tail.take(4 * self._shape.tail), "<u4")

    def add(self, member: Masked) -> None:
        """Add a member's update.

        Raises:
            ShapeError: if it is of another shape.
        """
        if member.shape != self._shape:
            raise ShapeError(f"a member of {member.shape} is no part of a sum of {self._shape}")
        self._codes += member.lanes()
        self._tail += member.tail

    def take_away(self, masks: bytes) -> None:
        """Take away a sum of masks, as `to_bytes` has written it.

        Raises:
            SizeMismatch: if it has not exactly the bytes of this shape.
        """
        codes, tail = self._read(masks)
        self._codes -= codes
        self._tail -= tail

    def add_bytes(self, residues: bytes) -> None:
        """Add what `to_bytes` has written.

        Raises:
            SizeMismatch: if it has not exactly the bytes of this shape.
        """
        codes, tail = self._read(residues)
        self._codes += codes
        self._tail += tail

    def to_bytes(self) -> bytes:
        """The residues: D codes of k bits, then T little-endian uint32."""
        return self._packed() + self._tail.astype("<u4").tobytes()

    def lift(self, *, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The signed sums of parameters and tail: int64, shapes (D,) and (T,).

        Args:
            limit: largest magnitude that a parameter's sum can have: members times levels, and noise.

        Raises:
            HeadroomError: if a sum is beyond it: a member was not what it should be, or the masks are not all away.
        """
        modulus = 1 << self._shape.bits
        sums = (self._codes & self._shape.lane(modulus - 1)).astype(np.int64)
        sums -= (sums >= modulus // 2) * np.int64(modulus)
        largest = max(int(sums.max(initial=0)), -int(sums.min(initial=0)))
        if largest > limit:
            raise HeadroomError(f"the sum of the batch reaches {largest}, its members cannot exceed {limit}")
        return sums, self._tail.view(np.int32).astype(np.int64)

    def frame(self, manifest: Manifest, *, step: float, spec: CodecSpec) -> bytes:
        """The residues as the frame of an update.

        Raises:
            ShapeError: if they are not of this model.
        """
        if manifest.parameter_count != self._shape.dimension:
            raise ShapeError(f"the model has {manifest.parameter_count} parameters, not {self._shape.dimension}")
        segments = [bytes([Tag.CODES]) + self._packed()] if self._shape.dimension else []
        segments.append(bytes([Tag.TAIL]) + varint(self._shape.tail) + self._tail.astype("<u4").tobytes())
        header = Header(
            kind=Kind.MASKED,
            segments=len(segments),
            manifest_digest=manifest.digest,
            step=float(np.float32(step)),
            bits=self._shape.bits,
            spec=str(spec),
        )
        return seal_frame(header, segments)

    def _read(self, residues: bytes) -> tuple[Lanes, NDArray[np.uint32]]:
        if len(residues) != sum_bytes(self._shape):
            raise SizeMismatch(f"a sum of this shape has {sum_bytes(self._shape)} bytes, not {len(residues)}")
        cut = codes_bytes(self._shape.dimension, self._shape.bits)
        out: Lanes = np.empty(self._shape.dimension, self._shape.lane)
        unpack_into(memoryview(residues)[:cut], self._shape.bits, out)
        return out, np.frombuffer(residues, "<u4", offset=cut)

    def _packed(self) -> bytes:
        return pack_codes(self._codes & self._shape.lane((1 << self._shape.bits) - 1), self._shape.bits)


def masked(shape: Shape, integers: NDArray[Any], tail: NDArray[Any], masks: Iterable[Mask]) -> MaskedSum:
    """A node's integers under its masks.

    Raises:
        ShapeError: if they are not of this shape.
    """
    total = MaskedSum(shape)
    total.add_integers(integers, tail)
    for mask in masks:
        total.add_mask(mask)
    return total


def read_masked(frame: bytes, manifest: Manifest) -> Masked:
    """Read a masked frame.

    Raises:
        FrameError: a subclass, if the bytes are not exactly one valid masked frame for `manifest`.
    """
    header, cursor = open_frame(frame, manifest.digest)
    check_header(header)
    if header.kind != Kind.MASKED:
        raise MaskedFrame("the frame is not masked")
    size, stored = manifest.parameter_count, memoryview(b"")
    if size:
        if cursor.byte() != Tag.CODES:
            raise HeaderError("the segment CODES is missing or out of order")
        stored = cursor.take(codes_bytes(size, header.bits))
    if cursor.byte() != Tag.TAIL or header.segments != 1 + bool(size):
        raise HeaderError("the segment TAIL is missing or out of order, or there are others")
    count = cursor.number(TAIL_MAX)
    tail = np.frombuffer(cursor.take(4 * count), "<u4").astype(np.uint32)
    cursor.finish()
    return Masked(
        shape=Shape(dimension=size, tail=count, bits=header.bits),
        step=header.step,
        stored=stored,
        tail=tail,
        frame_digest=bytes(frame[-16:]),
    )


def sum_bytes(shape: Shape) -> int:
    """Bytes of a sum of masks."""
    return codes_bytes(shape.dimension, shape.bits) + 4 * shape.tail


def bits_for(largest: int) -> int:
    """The fewest bits whose modulus tells apart all sums from -largest to largest."""
    return max(2, (2 * largest).bit_length())
