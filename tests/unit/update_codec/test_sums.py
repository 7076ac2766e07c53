"""The exact sum of several updates: a tree of any shape has the bits of the flat sum."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from update_codec import (
    Accumulator,
    CodecSpec,
    FrameError,
    Manifest,
    Role,
    ShapeError,
    SpecError,
    SummedFrame,
    Sums,
    decode,
    encode,
    inspect,
    inspect_sum,
    is_sum,
    read_sum,
    sum_frame,
)
from update_codec.frame import Header, seal_frame, varint, write_stream
from update_codec.segments import Tag
from update_codec.spec import Kind

MODEL = {"w": np.zeros((7, 5), np.float32), "b": np.zeros(3, np.float32), "mean": np.zeros(2, np.float32)}
MANIFEST = Manifest.of(MODEL | {"seen": np.zeros(2, np.int64)}, {"mean": Role.STATISTIC, "seen": Role.COUNTER})
SPECS = ("edge", "balanced", "lossless", "stateless", "eden2")


def frames(seed: int, count: int) -> list[bytes]:
    """Updates as nodes send them, coded in all ways."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        update = MANIFEST.flatten(
            {name: rng.standard_normal(array.shape).astype(np.float32) for name, array in MODEL.items()}
            | {"seen": rng.integers(0, 9, 2)}
        )
        spec = CodecSpec.parse(SPECS[index % len(SPECS)])
        made.append(encode(update, MANIFEST, spec, seed=index if spec.kind.value in {2, 3} else 0).frame)
    return made


def through_a_tree(updates: list[tuple[bytes, float]], rng: np.random.Generator, depth: int) -> Accumulator:
    """Add updates in shards, each by a gateway that sends a frame up, in another order each time."""
    total = Accumulator(MANIFEST)
    order = [updates[place] for place in rng.permutation(len(updates))]
    cuts = sorted({0, len(order), *rng.integers(0, len(order) + 1, rng.integers(0, 4)).tolist()})
    for start, end in pairwise(cuts):
        shard = order[start:end]
        if depth and len(shard) > 1:
            below = through_a_tree(shard, rng, depth - 1)
            total.add_sum(read_sum(sum_frame(below.sums(), MANIFEST), MANIFEST))
        else:
            for frame, weight in shard:
                total.add(frame, weight)
    return total


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    weights=st.lists(st.integers(1, 5_000), min_size=1, max_size=17),
    depth=st.integers(1, 3),
)
def test_a_tree_of_any_shape_has_the_bits_of_the_flat_sum(seed: int, weights: list[int], depth: int) -> None:
    updates = [(frame, float(n)) for frame, n in zip(frames(seed % 5, len(weights)), weights, strict=True)]
    flat = Accumulator(MANIFEST)
    for frame, weight in updates:
        flat.add(frame, weight)
    tree = through_a_tree(updates, np.random.default_rng(seed), depth)
    assert sum_frame(tree.sums(), MANIFEST) == sum_frame(flat.sums(), MANIFEST)
    assert tree.mean().digest() == flat.mean().digest()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), bases=st.lists(st.integers(0, 3), min_size=2, max_size=12))
def test_staleness_is_applied_once_per_base_whoever_added_before(seed: int, bases: list[int]) -> None:
    updates = [(frame, 10.0 + n) for n, frame in enumerate(frames(1, len(bases)))]
    rng = np.random.default_rng(seed)
    digests = set()
    for depth in (0, 2):
        total = Accumulator(MANIFEST)
        for base in sorted(set(bases)):
            of_base = [update for update, one in zip(updates, bases, strict=True) if one == base]
            total.merge(through_a_tree(of_base, rng, depth), share=round(2**20 * (1 + base) ** -0.5) / 2**20)
        digests.add(total.mean(divisor=7.0).digest())
    assert len(digests) == 1


def small_sum() -> Accumulator:
    """Three updates of different weight."""
    total = Accumulator(MANIFEST)
    for index, frame in enumerate(frames(3, 3)):
        total.add(frame, 10.0 + index)
    return total


def test_sum_describes_its_mean() -> None:
    total = small_sum()
    info = inspect_sum(sum_frame(total.sums(), MANIFEST), MANIFEST)
    mean = total.mean()
    assert (info.members, info.weight, info.spec) == (3, 33.0, "sum")
    assert info.parameter_norm == pytest.approx(float(np.linalg.norm(mean.parameters.astype(np.float64))), rel=1e-6)
    assert info.statistic_abs_max == pytest.approx(float(np.abs(mean.statistics).max()), rel=1e-6)
    assert info.counter_abs_max == int(mean.counters.max())


def test_every_prefix_and_every_changed_byte_is_refused() -> None:
    frame = sum_frame(small_sum().sums(), MANIFEST)
    for size in range(len(frame)):
        with pytest.raises(FrameError):
            read_sum(frame[:size], MANIFEST)
    for place in range(len(frame)):
        with pytest.raises(FrameError):
            read_sum(frame[:place] + bytes([frame[place] ^ 1]) + frame[place + 1 :], MANIFEST)


def test_sum_is_no_update_and_an_update_is_no_sum() -> None:
    frame, update = sum_frame(small_sum().sums(), MANIFEST), frames(0, 1)[0]
    assert is_sum(frame)
    assert not is_sum(update)
    for read in (decode, inspect):
        with pytest.raises(SummedFrame):
            read(frame, MANIFEST)
    with pytest.raises(SummedFrame):
        read_sum(update, MANIFEST)
    with pytest.raises(SpecError):
        encode(MANIFEST.flatten(MODEL | {"seen": np.zeros(2, np.int64)}), MANIFEST, CodecSpec.parse("sum"))


def test_sum_of_nothing_or_of_another_model_is_none() -> None:
    with pytest.raises(ShapeError):
        Accumulator(MANIFEST).sums()
    other = Manifest.of({"x": np.zeros(3, np.float32)})
    with pytest.raises(ShapeError):
        sum_frame(small_sum().sums(), other)
    with pytest.raises(ShapeError):
        Accumulator(other).add_sum(small_sum().sums())


def test_extreme_integers_survive() -> None:
    integers = np.array([0, 1, -1, 2**61, -(2**61), 0, 0], np.int64)
    manifest = Manifest.of({"x": np.zeros(7, np.float32)})
    empty = np.zeros(0, np.int64)
    for chosen in (integers, np.zeros(7, np.int64), np.full(7, -3, np.int64)):
        sums = Sums(parameters=chosen, statistics=empty, counters=empty, weight=1, members=1)
        assert read_sum(sum_frame(sums, manifest), manifest).parameters.tolist() == chosen.tolist()


SMALL = Manifest.of({"x": np.zeros(9, np.float32)})


def crafted(*segments: bytes) -> bytes:
    """A frame that is sealed as it should be, with these segments."""
    header = Header(kind=Kind.SUM, segments=len(segments), manifest_digest=SMALL.digest, spec="sum")
    return seal_frame(header, segments)


TOTALS = bytes([Tag.TOTALS]) + varint(1) + (1 << 20).to_bytes(8, "little")
NOTHING = bytes([Tag.SUMS]) + varint(0)


def planes(*numbers: int) -> bytes:
    """The zigzag numbers of some entries."""
    coded = [number.to_bytes(8, "little") for number in numbers]
    return b"".join(write_stream(bytes(one[plane] for one in coded)) for plane in range(8))


@pytest.mark.parametrize(
    "frame",
    [
        crafted(NOTHING, TOTALS),
        crafted(bytes([Tag.TOTALS]) + varint(0) + (1).to_bytes(8, "little"), NOTHING),
        crafted(bytes([Tag.TOTALS]) + varint(1) + bytes(8), NOTHING),
        crafted(TOTALS, NOTHING, b""),
        crafted(TOTALS, bytes([Tag.VALUES]) + varint(0)),
        crafted(TOTALS, bytes([Tag.SUMS]) + varint(9) + planes(*[2**63] * 9)),
        crafted(TOTALS, bytes([Tag.SUMS]) + varint(2) + write_stream(bytes([7, 0])) + planes(1, 2)),
        crafted(TOTALS, bytes([Tag.SUMS]) + varint(2) + write_stream(bytes([3, 0])) + planes(1, 0)),
    ],
)
def test_frame_with_the_right_digest_and_wrong_numbers_is_refused(frame: bytes) -> None:
    with pytest.raises(FrameError):
        read_sum(frame, SMALL)


def test_crafted_frame_that_is_right_is_read() -> None:
    frame = crafted(TOTALS, bytes([Tag.SUMS]) + varint(2) + write_stream(bytes([3, 0])) + planes(1, 2))
    assert read_sum(frame, SMALL).parameters.tolist() == [-1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert read_sum(crafted(TOTALS, NOTHING), SMALL).parameters.tolist() == [0] * 9
    nothing = Manifest.of({"seen": np.zeros(1, np.int64)})
    empty = np.zeros(0, np.int64)
    sums = Sums(parameters=empty, statistics=empty, counters=np.array([4]), weight=1, members=1)
    info = inspect_sum(sum_frame(sums, nothing), nothing)
    assert (info.counter_abs_max, info.bits_per_parameter, info.parameter_norm) == (4, 0.0, 0.0)
