"""The frame's envelope: header, segments and digest as bytes, and a strict cursor to read them.

FORMAT.md is the specification. Nothing here knows what a segment means.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from update_codec.entropy import Method, StreamReader, compress
from update_codec.errors import (
    DigestMismatch,
    HeaderError,
    ManifestMismatch,
    TrailingBytes,
    TruncatedFrame,
    UnknownVersion,
)
from update_codec.limits import SPEC_BYTES_MAX

__all__ = ["Cursor", "Header", "frame_kind", "frame_manifest", "open_frame", "seal_frame", "varint", "write_stream"]

MAGIC: Final = b"FMQU"
VERSION: Final = 1
DIGEST_BYTES: Final = 16
_HEADER: Final = struct.Struct("<4sBBBB16sfIBBHI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The fixed fields of a frame."""

    kind: int
    """Which quantizer, see `spec.Kind`."""
    segments: int
    """Number of segments."""
    manifest_digest: bytes
    """16 bytes."""
    step: float = 0.0
    """Global step of the quantizer, exactly representable as float32."""
    seed: int = 0
    """32 bits for the dither or the rotation."""
    partition: int = 0
    """How parameters are divided into groups, see `partition.Partition`."""
    bits: int = 0
    """Bits per symbol of the fixed-length kinds."""
    spec: str
    """The codec specification that the encoder was given."""


def seal_frame(header: Header, segments: Sequence[bytes]) -> bytes:
    """Join header and segments, and close them with the digest."""
    text = header.spec.encode("ascii")
    total = _HEADER.size + len(text) + sum(map(len, segments)) + DIGEST_BYTES
    fixed = _HEADER.pack(
        MAGIC,
        VERSION,
        header.kind,
        len(segments),
        len(text),
        header.manifest_digest,
        header.step,
        header.seed,
        header.partition,
        header.bits,
        0,
        total,
    )
    pieces, state = [fixed, text, *segments], blake2b(digest_size=DIGEST_BYTES)
    for piece in pieces:
        state.update(piece)
    return b"".join([*pieces, state.digest()])


def open_frame(frame: bytes, manifest_digest: bytes) -> tuple[Header, "Cursor"]:
    """Check the envelope and return the header and a cursor on the first segment.

    Raises:
        UnknownVersion, TruncatedFrame, TrailingBytes, DigestMismatch, ManifestMismatch, HeaderError: in this order.
    """
    view = memoryview(frame)
    if bytes(view[:5]) != (MAGIC + bytes([VERSION]))[: len(view)]:
        raise UnknownVersion("this is not an update frame of version 1")
    if len(view) < _HEADER.size + DIGEST_BYTES:
        raise TruncatedFrame(f"{len(view)} bytes are too few for a frame")
    (_, _, kind, segments, text_size, digest, step, seed, partition, bits, reserved, total) = _HEADER.unpack_from(view)
    if len(view) != total:
        verdict = TruncatedFrame if len(view) < total else TrailingBytes
        raise verdict(f"the frame states {total} bytes and has {len(view)}")
    if blake2b(view[:-DIGEST_BYTES], digest_size=DIGEST_BYTES).digest() != view[-DIGEST_BYTES:]:
        raise DigestMismatch("the frame was changed on its way; ask for it again")
    if digest != manifest_digest:
        raise ManifestMismatch("the frame was made for another model")
    cursor = Cursor(view[_HEADER.size : -DIGEST_BYTES])
    text = bytes(cursor.take(text_size)) if text_size <= SPEC_BYTES_MAX else b"\xff"
    if reserved or not text.isascii():
        raise HeaderError("a reserved field is not zero, or the specification is too long or not ASCII")
    header = Header(
        kind=kind,
        segments=segments,
        manifest_digest=digest,
        step=step,
        seed=seed,
        partition=partition,
        bits=bits,
        spec=text.decode("ascii"),
    )
    return header, cursor


def frame_manifest(frame: bytes) -> bytes:
    """Digest of the manifest that a frame was made for, 16 bytes; nothing else is looked at.

    Raises:
        TruncatedFrame: if there is no header.
    """
    if len(frame) < _HEADER.size:
        raise TruncatedFrame(f"{len(frame)} bytes are too few for a frame")
    digest: bytes = _HEADER.unpack_from(frame)[5]
    return digest


def frame_kind(frame: bytes) -> int:
    """The quantizer that a frame names, see `spec.Kind`; nothing else is looked at.

    Raises:
        TruncatedFrame: if there is no header.
    """
    if len(frame) < _HEADER.size:
        raise TruncatedFrame(f"{len(frame)} bytes are too few for a frame")
    return frame[5]


class Cursor:
    """Reads fields of a segment in order and refuses to run past the end."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self._view)

    def take(self, size: int) -> memoryview:
        """Return the next `size` bytes.

        Raises:
            TruncatedFrame: if there are fewer.
        """
        if size > len(self._view):
            raise TruncatedFrame("a segment ends early")
        piece, self._view = self._view[:size], self._view[size:]
        return piece

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def number(self, limit: int) -> int:
        """Return the next variable-length number.

        Raises:
            HeaderError: if it is above `limit` or not in its shortest form.
        """
        value = 0
        for shift in range(0, 35, 7):
            piece = self.byte()
            value |= (piece & 127) << shift
            if piece < 128:
                if value > limit or (shift and not piece):
                    break
                return value
        raise HeaderError(f"a number is above {limit} or not in its shortest form")

    def stream(self, size: int) -> StreamReader:
        """Return a reader for the next stream, which must decode to `size` bytes."""
        coded = self.number(2 * size + 1)
        method, length = Method(coded & 1), coded >> 1
        return StreamReader(method, self.take(length), size)

    def finish(self) -> None:
        """Raise `TrailingBytes` if anything is left."""
        if self._view:
            raise TrailingBytes(f"{len(self._view)} bytes follow the last segment")


def varint(value: int) -> bytes:
    """Encode a number in seven bits per byte, lowest first (LEB128)."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_stream(data: bytes | memoryview) -> bytes:
    """Compress a stream and put its length and method in front."""
    method, stored = compress(data)
    return varint(len(stored) << 1 | method) + stored
