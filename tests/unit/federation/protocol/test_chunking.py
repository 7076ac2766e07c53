"""Payloads in chunks and whole again (FED-37, FED-40, FED-46, FED-55)."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import LocalProtocolError, MalformedMessage
from federation.protocol.chunking import (
    CHUNK_BYTES,
    SEGMENT_CHUNKS,
    Assembly,
    Bitmap,
    Segment,
    chunk_count,
    chunk_slice,
    payload_digest,
    segments,
    split,
)
from federation.protocol.limits import CHUNKS_MAX
from federation.protocol.messages import ModelPart, PartKind
from federation.types import Digest, ModelVersion

PAYLOADS = st.binary(max_size=200)
SIZES = st.integers(1, 50)


def part(chunks: int, kind: PartKind = PartKind.KEYFRAME) -> ModelPart:
    return ModelPart(
        kind=kind,
        version=ModelVersion(1),
        payload_bytes=chunks * 10 - 5,
        payload_digest=Digest(bytes(16)),
        chunk_bytes=10,
    )


def assembly(payload: bytes, chunk_bytes: int) -> Assembly:
    return Assembly(
        payload_bytes=len(payload),
        digest=payload_digest(payload),
        chunk_bytes=chunk_bytes,
        payload_bytes_max=1000,
    )


@given(PAYLOADS, SIZES)
def test_chunks_joined_are_the_payload(payload: bytes, chunk_bytes: int) -> None:
    """FED-55: each has chunk_bytes bytes, the last one has the rest."""
    bodies = list(split(payload, chunk_bytes))
    assert b"".join(bodies) == payload
    assert len(bodies) == chunk_count(len(payload), chunk_bytes)
    assert all(len(body) == chunk_bytes for body in bodies[:-1])
    assert all(0 < len(body) <= chunk_bytes for body in bodies[-1:])


def test_a_payload_is_cut_at_60_kib_by_default() -> None:
    assert [len(body) for body in split(bytes(CHUNK_BYTES + 1))] == [61_440, 1]


@pytest.mark.parametrize(("payload_bytes", "chunk_bytes"), [(-1, 1), (1, 0), (1, -1)])
def test_sizes_that_make_no_sense_are_our_own_bug(payload_bytes: int, chunk_bytes: int) -> None:
    with pytest.raises(LocalProtocolError, match="no chunks"):
        chunk_count(payload_bytes, chunk_bytes)


@pytest.mark.parametrize("index", [-1, 2, 99])
def test_there_is_no_slice_beyond_the_last_chunk(index: int) -> None:
    assert chunk_slice(1, 15, 10) == slice(10, 15)
    with pytest.raises(LocalProtocolError, match="has no chunk"):
        chunk_slice(index, 15, 10)


def test_a_part_is_cut_into_segments_of_256_chunks() -> None:
    """FED-37."""
    assert SEGMENT_CHUNKS == 256
    assert segments(part(1)) == (Segment(name="k0", first_chunk=0, chunks=1),)
    assert segments(part(256, PartKind.DELTA)) == (Segment(name="d0", first_chunk=0, chunks=256),)
    assert segments(part(600, PartKind.DELTA)) == (
        Segment(name="d0", first_chunk=0, chunks=256),
        Segment(name="d1", first_chunk=256, chunks=256),
        Segment(name="d2", first_chunk=512, chunks=88),
    )


@given(st.sets(st.integers(0, 40)), st.integers(41, 60))
def test_a_bitmap_is_the_set_of_what_arrived(indices: set[int], count: int) -> None:
    """FED-46."""
    bitmap = Bitmap(count)
    for index in sorted(indices, key=lambda one: one * 7 % 41):
        assert index not in bitmap
        assert bitmap.add(index)
        assert not bitmap.add(index)
        assert index in bitmap
    absent = tuple(index for index in range(count) if index not in indices)
    assert len(bitmap) == len(indices)
    assert bitmap.missing() == absent
    assert bitmap.missing(3) == absent[:3]
    assert bitmap.missing(0) == ()
    assert bitmap.complete is (len(indices) == count)
    again = Bitmap.from_bytes(count, bitmap.to_bytes())
    assert (again.count, again.missing(), len(again)) == (count, absent, len(indices))


def test_bit_i_of_a_bitmap_is_little_endian_within_its_byte() -> None:
    """FED-46."""
    bitmap = Bitmap(17)
    for index in (0, 9, 16):
        bitmap.add(index)
    assert bitmap.to_bytes() == b"\x01\x02\x01"


def test_what_is_missing_follows_what_arrives() -> None:
    bitmap = Bitmap(4)
    for index, missing in ((0, (1, 2, 3)), (2, (1, 3)), (1, (3,)), (3, ())):
        bitmap.add(index)
        assert bitmap.missing() == missing
    assert bitmap.complete


@pytest.mark.parametrize("count", [0, 8, 16])
def test_a_full_bitmap_is_complete(count: int) -> None:
    assert Bitmap.from_bytes(count, b"\xff" * (count // 8)).complete


@pytest.mark.parametrize(("count", "data"), [(8, b""), (8, b"\x00\x00"), (9, b"\x00"), (0, b"\x00"), (9, b"\xff\x02")])
def test_a_bitmap_of_another_size_or_with_stray_bits_is_refused(count: int, data: bytes) -> None:
    with pytest.raises(MalformedMessage, match="no bitmap"):
        Bitmap.from_bytes(count, data)


@pytest.mark.parametrize("count", [-1, CHUNKS_MAX + 1])
def test_a_bitmap_beyond_the_limit_is_our_own_bug(count: int) -> None:
    with pytest.raises(LocalProtocolError, match="a bitmap has"):
        Bitmap(count)


@pytest.mark.parametrize("index", [-1, 9])
def test_a_bitmap_has_no_bit_beyond_its_count(index: int) -> None:
    bitmap = Bitmap(9)
    assert index not in bitmap
    with pytest.raises(LocalProtocolError, match="has no chunk"):
        bitmap.add(index)


@given(PAYLOADS, SIZES, st.randoms(use_true_random=False))
def test_chunks_in_any_order_with_duplicates_become_the_payload(
    payload: bytes, chunk_bytes: int, order: Random
) -> None:
    collected = assembly(payload, chunk_bytes)
    chunks = list(enumerate(split(payload, chunk_bytes)))
    order.shuffle(chunks)
    for place, (index, body) in enumerate(chunks):
        assert not collected.complete
        assert index in collected.missing_indices()
        assert collected.add(index, body)
        assert not collected.add(index, body)
        assert len(collected.missing_indices()) == len(chunks) - place - 1
    assert collected.complete
    assert collected.payload() == payload


def test_a_stated_size_above_the_limit_is_refused_before_it_is_allocated() -> None:
    """FED-40: an exabyte costs nothing to refuse."""
    with pytest.raises(MalformedMessage, match="the limits are 1000 bytes"):
        Assembly(payload_bytes=10**18, digest=Digest(bytes(16)), chunk_bytes=10**18, payload_bytes_max=1000)


def test_more_chunks_than_the_protocol_allows_are_refused() -> None:
    """FED-40."""
    size = CHUNKS_MAX + 1
    with pytest.raises(MalformedMessage, match="65537 chunks"):
        Assembly(payload_bytes=size, digest=Digest(bytes(16)), chunk_bytes=1, payload_bytes_max=size)


@pytest.mark.parametrize(
    ("index", "body"), [(-1, b"0123456789"), (2, b"01234"), (0, b"01234"), (0, b""), (1, b"0123456789")]
)
def test_a_chunk_that_does_not_fit_its_place_is_refused(index: int, body: bytes) -> None:
    """FED-55."""
    collected = assembly(bytes(15), 10)
    with pytest.raises(MalformedMessage, match="chunk"):
        collected.add(index, body)
    assert collected.missing_indices(1) == (0,)


def test_a_payload_with_another_digest_is_refused() -> None:
    """FED-40: before anything decodes it."""
    collected = assembly(b"promised", 8)
    collected.add(0, b"provided")
    assert collected.complete
    with pytest.raises(MalformedMessage, match="digest"):
        collected.payload()


def test_half_a_payload_is_not_handed_out() -> None:
    collected = assembly(bytes(15), 10)
    collected.add(1, bytes(5))
    with pytest.raises(LocalProtocolError, match="1 of 2 chunks"):
        collected.payload()


def test_the_digest_is_blake2b_of_16_bytes() -> None:
    assert payload_digest(b"abc").hex() == "cf4ab791c62b8d2b2109c90275287816"
    assert payload_digest(memoryview(b"abc")) == payload_digest(bytearray(b"abc")) == payload_digest(b"abc")
