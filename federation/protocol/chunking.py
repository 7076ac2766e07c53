"""Payloads in chunks: how they are cut, which have arrived, and how they become whole again."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from federation.errors import LocalProtocolError, MalformedMessage
from federation.protocol.limits import CHUNK_BYTES, CHUNKS_MAX, SEGMENT_CHUNKS
from federation.protocol.messages import ModelPart, PartKind
from federation.types import DIGEST_BYTES, Digest

__all__ = [
    "CHUNK_BYTES",
    "SEGMENT_CHUNKS",
    "Assembly",
    "Bitmap",
    "Segment",
    "chunk_count",
    "chunk_slice",
    "payload_digest",
    "segments",
    "split",
]


def payload_digest(payload: bytes | bytearray | memoryview) -> Digest:
    """BLAKE2b-128 of a payload."""
    return Digest(hashlib.blake2b(payload, digest_size=DIGEST_BYTES).digest())


def chunk_count(payload_bytes: int, chunk_bytes: int) -> int:
    """How many chunks a payload has.

    Raises:
        LocalProtocolError: A size makes no sense.
    """
    if payload_bytes < 0 or chunk_bytes < 1:
        raise LocalProtocolError(f"no chunks of {chunk_bytes} bytes for a payload of {payload_bytes} bytes")
    return -(-payload_bytes // chunk_bytes)


def chunk_slice(index: int, payload_bytes: int, chunk_bytes: int) -> slice:
    """Where chunk ``index`` lies in the payload; only the last one is shorter than ``chunk_bytes``.

    Raises:
        LocalProtocolError: There is no such chunk.
    """
    if not 0 <= index < chunk_count(payload_bytes, chunk_bytes):
        raise LocalProtocolError(f"a payload of {payload_bytes} bytes has no chunk {index}")
    start = index * chunk_bytes
    return slice(start, min(start + chunk_bytes, payload_bytes))


def split(payload: bytes, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The bodies of all chunks of a payload, in order."""
    for index in range(chunk_count(len(payload), chunk_bytes)):
        yield payload[chunk_slice(index, len(payload), chunk_bytes)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Up to `SEGMENT_CHUNKS` chunks of a model part, pulled with one subscription.

    Attributes:
        name: Its topic level: ``k0``, ``k1``, … of a keyframe; ``d0``, ``d1``, … of a delta.
        first_chunk: Index in the part of the segment's chunk 0.
        chunks: How many chunks it has.
    """

    name: str
    first_chunk: int
    chunks: int


def segments(part: ModelPart) -> tuple[Segment, ...]:
    """The segments of a model part, in order."""
    letter = "k" if part.kind is PartKind.KEYFRAME else "d"
    count = chunk_count(part.payload_bytes, part.chunk_bytes)
    return tuple(
        Segment(name=f"{letter}{number}", first_chunk=first, chunks=min(SEGMENT_CHUNKS, count - first))
        for number, first in enumerate(range(0, count, SEGMENT_CHUNKS))
    )


class Bitmap:
    """Which of ``count`` chunks have arrived; on the wire bit i is bit ``i % 8`` of byte ``i // 8``."""

    __slots__ = ("_bits", "_count", "_first", "_present")

    def __init__(self, count: int) -> None:
        """Nothing has arrived yet.

        Raises:
            LocalProtocolError: More chunks than the protocol allows.
        """
        if not 0 <= count <= CHUNKS_MAX:
            raise LocalProtocolError(f"a bitmap has 0 to {CHUNKS_MAX} chunks, not {count}")
        self._count = count
        self._bits = bytearray(-(-count // 8))
        self._present = 0
        self._first = 0  # every chunk before this one is here: `missing` need not look there again

    @classmethod
    def from_bytes(cls, count: int, data: bytes) -> "Bitmap":
        """The bitmap that a peer sent.

        Raises:
            MalformedMessage: Wrong length, or a bit beyond the last chunk.
        """
        bitmap = cls(count)
        if len(data) != len(bitmap._bits) or (count % 8 and data[-1] >> (count % 8)):
            raise MalformedMessage(f"no bitmap of {count} chunks")
        bitmap._bits[:] = data
        bitmap._present = int.from_bytes(data, "little").bit_count()
        return bitmap

    def to_bytes(self) -> bytes:
        """The bits, chunk 0 first."""
        return bytes(self._bits)

    def add(self, index: int) -> bool:
        """Note that a chunk is here; returns whether it is new.

        Raises:
            LocalProtocolError: There is no such chunk.
        """
        if not 0 <= index < self._count:
            raise LocalProtocolError(f"a bitmap of {self._count} chunks has no chunk {index}")
        if index in self:
            return False
        self._bits[index >> 3] |= 1 << (index & 7)
        self._present += 1
        return True

    def missing(self, limit: int | None = None) -> tuple[int, ...]:
        """The first ``limit`` chunks that have not arrived, in order; all of them without a limit."""
        while self._first < self._count and self._first in self:
            self._first += 1
        wanted = self._count - self._present if limit is None else min(limit, self._count - self._present)
        found: list[int] = []
        index = self._first
        while len(found) < wanted:
            if index not in self:
                found.append(index)
            index += 1
        return tuple(found)

    @property
    def count(self) -> int:
        """How many chunks there are in all."""
        return self._count

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self._present == self._count

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self._count and bool(self._bits[index >> 3] >> (index & 7) & 1)

    def __len__(self) -> int:
        return self._present


class Assembly:
    """The chunks of one payload of known size and digest, collected in any order, duplicates included."""

    __slots__ = ("_bitmap", "_buffer", "_chunk_bytes", "_digest")

    def __init__(self, *, payload_bytes: int, digest: Digest, chunk_bytes: int, payload_bytes_max: int) -> None:
        """Allocate the whole payload, once its stated size is known to be within the limit.

        Raises:
            MalformedMessage: The stated size is above ``payload_bytes_max``, or it has too many chunks.
        """
        count = chunk_count(payload_bytes, chunk_bytes)
        if payload_bytes > payload_bytes_max or count > CHUNKS_MAX:
            raise MalformedMessage(
                f"a payload of {payload_bytes} bytes in {count} chunks: "
                f"the limits are {payload_bytes_max} bytes and {CHUNKS_MAX} chunks"
            )
        self._bitmap = Bitmap(count)
        self._buffer = bytearray(payload_bytes)
        self._chunk_bytes = chunk_bytes
        self._digest = digest

    def add(self, index: int, body: bytes) -> bool:
        """Take one chunk; returns whether it is new.

        Raises:
            MalformedMessage: There is no such chunk, or its body has the wrong size.
        """
        if not 0 <= index < self._bitmap.count:
            raise MalformedMessage(f"no chunk {index} of {self._bitmap.count}")
        place = chunk_slice(index, len(self._buffer), self._chunk_bytes)
        if len(body) != place.stop - place.start:
            raise MalformedMessage(f"chunk {index} has {len(body)} bytes instead of {place.stop - place.start}")
        if not self._bitmap.add(index):
            return False
        self._buffer[place] = body
        return True

    @property
    def complete(self) -> bool:
        """Whether every chunk is here."""
        return self._bitmap.complete

    def missing_indices(self, limit: int | None = None) -> tuple[int, ...]:
        """The first ``limit`` chunks that have not arrived, in order; all of them without a limit."""
        return self._bitmap.missing(limit)

    def payload(self) -> bytes:
        """The whole payload.

        Raises:
            LocalProtocolError: It is not complete yet.
            MalformedMessage: It is complete, but it is not what its digest promised.
        """
        if not self.complete:
            raise LocalProtocolError(f"{len(self._bitmap)} of {self._bitmap.count} chunks: ask `complete` first")
        if payload_digest(self._buffer) != self._digest:
            raise MalformedMessage("the payload is not what its digest promised")
        return bytes(self._buffer)
