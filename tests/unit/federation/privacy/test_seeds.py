"""Masks come from seeds that are sealed to one helper each, for one update (FED-146, FED-147)."""

import hmac
import os
from dataclasses import replace
from hashlib import blake2b, sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import BadSeal
from federation.privacy.boxes import Kem, KeyPair, seal
from federation.privacy.classes import assign_classes, classes
from federation.privacy.seeds import ChaChaKeystream, HeldSeeds, SeedMask, open_seeds, seal_seeds
from federation.protocol.limits import BOX_BYTES_MAX
from federation.protocol.sum_messages import Ticket
from federation.types import Digest, ModelVersion, RunId, UpdateId
from update_codec import CodecSpec, Manifest, MaskedSum, read_masked
from update_codec.masking import Shape, bits_for, masked

CASES = int(os.environ.get("FEDMQ_MASK_CASES", "100"))
RUN, UPDATE = RunId("0123456789abcdef"), UpdateId("9-press_01")
TICKET = Ticket(
    run=RUN,
    update=UPDATE,
    base_version=ModelVersion(3),
    base_digest=Digest(b"b" * 16),
    terms=Digest(b"t" * 16),
    payload_digest=Digest(b"p" * 16),
    boxes=(),
)
KEYS = [KeyPair.make(Kem.X25519) for _ in range(7)]


def sealed(count: int, threshold: int) -> tuple[Ticket, tuple[bytes, ...], list[bytes]]:
    seeds = [bytes([number]) * 32 for number in range(len(classes(count, threshold)))]
    ticket, boxes = seal_seeds(TICKET, seeds, [key.public for key in KEYS[:count]], threshold=threshold)
    return ticket, boxes, seeds


def test_the_keystream_is_that_of_rfc_8439() -> None:
    """Its appendix A.1, test vector 1: key 0, nonce 0, counter 0."""
    expected = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    assert ChaChaKeystream(bytes(32)).take(32).hex() == expected


def test_a_keystream_is_one_row_however_it_is_taken() -> None:
    pieces = ChaChaKeystream(b"k" * 32)
    whole = ChaChaKeystream(b"k" * 32).take(1 << 19)
    assert b"".join(pieces.take(size) for size in (0, 1, 63, 65, (1 << 18) + 7, (1 << 18) - 136)) == whole


def test_the_keys_of_a_mask_are_bound_to_run_and_update() -> None:
    """FED-146."""
    mask = SeedMask(b"s" * 32, RUN, UPDATE)
    key = hmac.new(b"s" * 32, b"fedmq/mask/1|0123456789abcdef|9-press_01", sha256).digest()
    tail = hmac.new(b"s" * 32, b"fedmq/mask/1|0123456789abcdef|9-press_01/tail", sha256).digest()
    assert mask.codes.take(40) == ChaChaKeystream(key).take(40)
    assert mask.tail.take(40) == ChaChaKeystream(tail).take(40)
    for other in (SeedMask(b"s" * 32, RunId("f" * 16), UPDATE), SeedMask(b"s" * 32, RUN, UpdateId("9-press_02"))):
        assert other.codes.take(40) != SeedMask(b"s" * 32, RUN, UPDATE).codes.take(40)


@pytest.mark.parametrize(("count", "threshold"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (7, 5)])
def test_each_helper_gets_the_seeds_of_its_classes_and_no_others(count: int, threshold: int) -> None:
    """FED-147."""
    ticket, boxes, seeds = sealed(count, threshold)
    known: dict[int, set[bytes]] = {}
    for place, box in enumerate(boxes):
        held = open_seeds([KEYS[place]], ticket, box)
        assert (held.place, held.count, held.threshold) == (place, count, threshold)
        for number, seed in held.by_class().items():
            known.setdefault(number, set()).add(seed)
            assert place in classes(count, threshold)[number]
        assert len(box) <= BOX_BYTES_MAX
    assert known == {number: {seed} for number, seed in enumerate(seeds)}


def test_a_box_is_of_one_update_one_place_and_one_key() -> None:
    """FED-147: whatever of it is another, it does not open."""
    ticket, boxes, _ = sealed(2, 2)
    altered = [
        replace(ticket, update=UpdateId("9-press_02")),
        replace(ticket, run=RunId("f" * 16)),
        replace(ticket, base_version=ModelVersion(4)),
        replace(ticket, base_digest=Digest(b"B" * 16)),
        replace(ticket, terms=Digest(b"T" * 16)),
        replace(ticket, payload_digest=Digest(b"P" * 16)),
        replace(ticket, boxes=(ticket.boxes[1], ticket.boxes[0])),
        replace(ticket, boxes=()),
    ]
    for other in altered:
        with pytest.raises(BadSeal):
            open_seeds([KEYS[0]], other, boxes[0])
    for key, box in ((KEYS[1], boxes[0]), (KEYS[0], boxes[1]), (KEYS[0], boxes[0] + b"x"), (KEYS[0], b"")):
        with pytest.raises(BadSeal):
            open_seeds([key], ticket, box)


def test_a_box_for_an_older_key_opens_as_long_as_the_key_is_kept() -> None:
    ticket, boxes, seeds = sealed(1, 1)
    assert open_seeds([KEYS[5], KEYS[6], KEYS[0]], ticket, boxes[0]).seeds == tuple(seeds)
    assert open_seeds([KEYS[0], KEYS[6]], ticket, boxes[0]).seeds == tuple(seeds)
    with pytest.raises(BadSeal):
        open_seeds([KEYS[5], KEYS[6]], ticket, boxes[0])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x00\x01",
        b"\x02\x00\x01\x01" + bytes(32),
        b"\x01\x00\x01\x01",
        b"\x01\x00\x01\x01" + bytes(31),
        b"\x01\x00\x01\x01" + bytes(64),
        b"\x01\x01\x01\x01" + bytes(32),
        b"\x01\x00\x01\x02" + bytes(32),
        b"\x01\x00\x01\x00" + bytes(32),
        b"\x01\x00\x08\x08" + bytes(32),
        b"\x01\x00\x02\x02" + bytes(32),
    ],
)
def test_a_box_with_something_else_in_it_is_refused(content: bytes) -> None:
    """FED-147: the node's signature says who wrote it, not that it makes sense."""
    info = b"fedmq/mask-seal/1|0|0123456789abcdef|9-press_01|3|" + b"b" * 16 + b"t" * 16 + b"p" * 16
    good = b"\x01\x00\x01\x01" + bytes(32)
    for inside in (good, content):
        box = seal(KEYS[0].public, info, inside)
        ticket = replace(TICKET, boxes=(Digest(blake2b(box, digest_size=16).digest()),))
        if inside is good:
            assert open_seeds([KEYS[0]], ticket, box).seeds == (bytes(32),)
        else:
            with pytest.raises(BadSeal):
                open_seeds([KEYS[0]], ticket, box)


def test_seeds_are_one_for_each_class_and_32_bytes() -> None:
    for seeds in ([bytes(32)], [bytes(32)] * 3, [bytes(32), bytes(31)]):
        with pytest.raises(ValueError, match="need 2 seeds of 32 B"):
            seal_seeds(TICKET, seeds, [key.public for key in KEYS[:2]], threshold=2)
    assert "seeds" not in repr(HeldSeeds(place=0, count=1, threshold=1, seeds=(b"s" * 32,)))


@settings(max_examples=CASES, deadline=None)
@given(
    st.sampled_from([(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (7, 5)]),
    st.integers(1, 64),
    st.integers(1, 127),
    st.integers(1, 5000),
    st.integers(0, 2**32 - 1),
)
def test_masked_sums_are_integer_sums_whichever_helpers_answer(
    helpers: tuple[int, int], members: int, levels: int, dimension: int, seed: int
) -> None:
    """FED-146, FED-148: real keystreams, any t of h helpers, the classes divided among those that are there."""
    (total_helpers, threshold), rng = helpers, np.random.default_rng(seed)
    shape = Shape(dimension=dimension, tail=2, bits=bits_for(members * levels))
    manifest = Manifest.of({"weight": np.zeros(dimension, np.float32)})
    updates = {UpdateId(f"1-n{index}"): rng.bytes(32 * len(classes(*helpers))) for index in range(members)}
    total, plain = MaskedSum(shape), np.zeros(dimension, np.int64)
    for update, seeds in updates.items():
        integers = rng.integers(-levels, levels + 1, dimension)
        masks = [SeedMask(seeds[at : at + 32], RUN, update) for at in range(0, len(seeds), 32)]
        made = masked(shape, integers, np.array([1, -1]), masks)
        total.add(read_masked(made.frame(manifest, step=1.0, spec=CodecSpec.parse("masked")), manifest))
        plain += integers
    there = rng.choice(total_helpers, threshold, replace=False).tolist()
    asked = assign_classes(range(len(classes(*helpers))), there, count=total_helpers, threshold=threshold)
    for numbers in asked.values():
        for number in numbers:
            masks_of_class = MaskedSum(shape)
            for update, seeds in updates.items():
                masks_of_class.add_mask(SeedMask(seeds[32 * number : 32 * number + 32], RUN, update))
            total.take_away(masks_of_class.to_bytes())
    sums, tail = total.lift(limit=members * levels)
    assert (sums == plain).all()
    assert tail.tolist() == [members, -members]
