"""Sums under masks are the sums of the integers, exactly, and one masked frame says nothing (FORMAT.md, kind 5)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from update_codec import (
    Accumulator,
    CodecSpec,
    FrameError,
    HeaderError,
    HeadroomError,
    Manifest,
    MaskedFrame,
    MaskedSum,
    Role,
    ShapeError,
    SizeMismatch,
    SpecError,
    Vectors,
    decode,
    encode,
    inspect,
    read_masked,
)
from update_codec.masking import Shape, bits_for, masked, sum_bytes
from update_codec.quantizers.codes import pack_codes, unpack_codes
from update_codec.spec import Kind

CASES = int(os.environ.get("FEDMQ_MASK_CASES", "200"))
"""Random cases; 10,000 before a release."""
MASKED = CodecSpec.parse("masked")


class Stream:
    """Random bytes that can be made again."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def take(self, size: int) -> bytes:
        return self._rng.bytes(size)


@dataclass
class Pair:
    codes: Stream
    tail: Stream


def mask(seed: int) -> Pair:
    return Pair(Stream(seed), Stream(seed + 1_000_000))


def model(dimension: int, statistics: int = 0) -> Manifest:
    arrays = {"weight": np.zeros(dimension, np.float32), "mean": np.zeros(statistics, np.float32)}
    return Manifest.of(arrays, {"mean": Role.STATISTIC})


@st.composite
def batches(draw: st.DrawFn) -> tuple[Shape, int, np.random.Generator, int]:
    """A shape that holds the batch's sum with at most four bits to spare, the levels, randomness, and members."""
    members, levels = draw(st.integers(1, 64)), draw(st.integers(1, 2000))
    bits = bits_for(members * levels) + draw(st.integers(0, 4))
    dimension = draw(st.integers(1, 300))
    shape = Shape(dimension=dimension, tail=draw(st.integers(0, 5)), bits=bits)
    return shape, levels, np.random.default_rng(draw(st.integers(0, 2**32 - 1))), members


@settings(max_examples=CASES, deadline=None)
@given(batches(), st.integers(1, 4))
def test_a_masked_sum_is_the_sum_of_the_integers(
    batch: tuple[Shape, int, np.random.Generator, int], seeds_each: int
) -> None:
    shape, levels, rng, members = batch
    manifest, seeds = model(shape.dimension), count(int(rng.integers(1 << 30)))
    total, masks = MaskedSum(shape), MaskedSum(shape)
    plain, tails = np.zeros(shape.dimension, np.int64), np.zeros(shape.tail, np.int64)
    for _ in range(members):
        integers = rng.integers(-levels, levels + 1, shape.dimension)
        tail = rng.integers(-(2**20), 2**20, shape.tail)
        mine = [next(seeds) for _ in range(seeds_each)]
        frame = masked(shape, integers, tail, [mask(seed) for seed in mine]).frame(manifest, step=0.1, spec=MASKED)
        total.add(read_masked(frame, manifest))
        for seed in mine:
            masks.add_mask(mask(seed))
        plain, tails = plain + integers, tails + tail
    revealed = masks.to_bytes()
    assert len(revealed) == sum_bytes(shape)
    total.take_away(revealed)
    sums, tail_sums = total.lift(limit=members * levels)
    assert (sums == plain).all()
    assert (tail_sums == tails).all()


def sums_of(members: int, levels: int, bits: int) -> Iterator[int]:
    """What a batch of equal extreme updates is lifted to, for both signs."""
    for sign in (1, -1):
        total = MaskedSum(Shape(dimension=3, tail=0, bits=bits))
        for _ in range(members):
            total.add_integers(np.full(3, sign * levels), np.zeros(0, np.int64))
        sums, _ = total.lift(limit=1 << 40)
        yield sign * int(sums[0])


@pytest.mark.parametrize("members", [1, 5, 7, 8, 10, 15, 16, 31, 32, 63, 64, 127, 128, 1000])
@pytest.mark.parametrize("levels", [1, 2, 3, 7, 8, 127])
def test_the_fewest_bits_hold_every_sum_and_one_bit_less_does_not(members: int, levels: int) -> None:
    bits = bits_for(members * levels)
    assert set(sums_of(members, levels, bits)) == {members * levels}
    if bits > 2:
        assert set(sums_of(members, levels, bits - 1)) != {members * levels}


def test_bits_of_the_table_that_people_choose_from() -> None:
    table = {(1, 5): 4, (1, 10): 5, (1, 31): 6, (1, 63): 7, (1, 100): 8, (1, 1000): 11, (3, 10): 6, (127, 100): 15}
    assert {key: bits_for(key[0] * key[1]) for key in table} == table


def example(bits: int = 5, dimension: int = 40, tail: int = 4) -> tuple[Manifest, bytes]:
    manifest, shape = model(dimension, statistics=3), Shape(dimension=dimension, tail=tail, bits=bits)
    integers = np.arange(dimension) % 3 - 1
    made = masked(shape, integers, np.arange(tail), [mask(7), mask(8)])
    return manifest, made.frame(manifest, step=0.0625, spec=MASKED)


def test_a_decoder_without_the_masks_refuses() -> None:
    manifest, frame = example()
    for read in (decode, inspect):
        with pytest.raises(MaskedFrame):
            read(frame, manifest)
    with pytest.raises(MaskedFrame):
        Accumulator(manifest).add(frame, 1.0)
    with pytest.raises(SpecError, match="needs seeds"):
        encode(Vectors.zeros(manifest), manifest, MASKED)


def test_a_model_without_parameters_is_refused_by_decoders_too() -> None:
    manifest, frame = example(dimension=0)
    with pytest.raises(MaskedFrame):
        decode(frame, manifest)
    assert read_masked(frame, manifest).shape == Shape(dimension=0, tail=4, bits=5)


def test_what_is_not_masked_is_not_read_as_masked() -> None:
    manifest = model(40)
    frame = encode(Vectors.zeros(manifest), manifest, CodecSpec.parse("lossless")).frame
    with pytest.raises(MaskedFrame, match="not masked"):
        read_masked(frame, manifest)


def test_a_masked_frame_says_its_shape_and_step() -> None:
    manifest, frame = example()
    found = read_masked(frame, manifest)
    assert found.shape == Shape(dimension=40, tail=4, bits=5)
    assert found.step == 0.0625
    assert found.frame_digest == frame[-16:]
    assert found.lanes().dtype == np.uint16
    wide = masked(Shape(dimension=40, tail=4, bits=17), np.zeros(40), np.zeros(4), [mask(1)])
    assert read_masked(wide.frame(manifest, step=1.0, spec=MASKED), manifest).lanes().dtype == np.uint32
    # step, codes of 5 bits, the tail with tag and count, text, envelope: nothing else travels
    assert len(frame) == 40 + len("masked") + 1 + 25 + 1 + 1 + 16 + 16


def test_a_masked_zero_looks_like_noise() -> None:
    """Chi-square of the bytes (255 degrees of freedom): beyond 400 once in 10^8; a byte repeats once in 256."""
    shape, manifest = Shape(dimension=101_770, tail=0, bits=5), model(101_770)
    nothing = np.zeros(101_770, np.int8)
    first, second = (
        np.frombuffer(masked(shape, nothing, nothing[:0], [mask(seed)]).frame(manifest, step=1, spec=MASKED), np.uint8)
        for seed in (1, 2)
    )
    body = first[60:-40]
    found = np.bincount(body, minlength=256)
    expected = len(body) / 256
    assert ((found - expected) ** 2 / expected).sum() < 400
    assert abs((body == second[60:-40]).sum() - expected) < 6 * expected**0.5


def test_sums_of_another_shape_are_refused() -> None:
    manifest, frame = example()
    member = read_masked(frame, manifest)
    revealed = MaskedSum(member.shape).to_bytes()
    for other in (
        Shape(dimension=48, tail=4, bits=5),
        Shape(dimension=40, tail=3, bits=5),
        Shape(dimension=40, tail=4, bits=6),
    ):
        with pytest.raises(ShapeError):
            MaskedSum(other).add(member)
        with pytest.raises(SizeMismatch):
            MaskedSum(other).take_away(revealed)
    for integers, tail in ((41, 4), (40, 3)):
        with pytest.raises(ShapeError):
            MaskedSum(member.shape).add_integers(np.zeros(integers), np.zeros(tail))
    with pytest.raises(ShapeError):
        MaskedSum(Shape(dimension=41, tail=0, bits=5)).frame(manifest, step=1.0, spec=MASKED)


@pytest.mark.parametrize(("dimension", "tail", "bits"), [(1, 0, 1), (1, 0, 33), (1, 65_536, 5), (-1, 0, 5), (1, -1, 5)])
def test_a_shape_beyond_the_format_is_refused(dimension: int, tail: int, bits: int) -> None:
    with pytest.raises(ShapeError):
        Shape(dimension=dimension, tail=tail, bits=bits)


def test_a_sum_that_no_batch_can_have_is_refused() -> None:
    """A node that wraps the modulus on purpose, or masks that are not all away."""
    total = MaskedSum(Shape(dimension=2, tail=0, bits=8))
    total.add_integers(np.array([10, -11]), np.zeros(0))
    total.lift(limit=11)
    with pytest.raises(HeadroomError, match="reaches 11"):
        total.lift(limit=10)


@pytest.mark.parametrize(
    ("place", "value"),
    [(5, 4), (6, 1), (6, 3), (28, 1), (32, 1), (33, 1), (33, 33), (33, 6), (46, 4), (46 + 26, 3), (46 + 27, 3)],
)
def test_header_and_tags_that_do_not_fit_are_refused(place: int, value: int) -> None:
    from tests.hostile.test_frames import reseal

    manifest, frame = example()
    changed = bytearray(frame)
    assert changed[place] != value
    changed[place] = value
    with pytest.raises(FrameError):
        read_masked(reseal(bytes(changed)), manifest)


def test_a_longer_tail_than_the_format_allows_is_refused() -> None:
    from tests.hostile.test_frames import reseal

    manifest, frame = example()
    head, tail = frame[: 46 + 27], frame[46 + 28 : -16]
    with pytest.raises(HeaderError):
        read_masked(reseal(head + b"\x80\x80\x04" + tail + bytes(16)), manifest)


def test_a_codec_name_that_has_gone_says_why() -> None:
    with pytest.raises(SpecError, match="no room for a second member"):
        CodecSpec.parse("secagg")
    assert str(CodecSpec.parse("masked")) == "masked"
    assert str(CodecSpec.parse("masked()")) == "masked()"
    assert CodecSpec.parse("masked(feedback=1)") == CodecSpec(kind=Kind.MASKED, feedback=True)
    with pytest.raises(SpecError):
        CodecSpec.parse("masked(bits=4)")


@given(st.integers(1, 32), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_packed_codes_are_a_string_of_bits_lowest_first(bits: int, size: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, size, dtype=np.uint64).astype(np.uint32)
    packed = pack_codes(codes, bits)
    spelled = (codes[:, None].astype(np.uint64) >> np.arange(bits, dtype=np.uint64) & np.uint64(1)).astype(np.uint8)
    assert packed == np.packbits(spelled.reshape(-1), bitorder="little").tobytes()
    assert (unpack_codes(memoryview(packed), 0, size, bits) == codes).all()


@pytest.mark.parametrize("bits", [5, 13, 24])
def test_packing_has_no_seam(bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 1 << bits, 100_003).astype(np.uint32)
    packed = pack_codes(codes, bits)
    assert (unpack_codes(memoryview(packed), 0, len(codes), bits) == codes).all()
    assert (unpack_codes(memoryview(packed), 40_000, 60_003, bits) == codes[40_000:]).all()
