"""Bytes from a stranger: whatever they are, they are refused as theirs and cost little (FED-15, FED-16)."""

import tracemalloc
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import MalformedMessage, RemoteProtocolError
from federation.protocol.limits import (
    ANNOUNCEMENT_BYTES_MAX,
    HEADER_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    PROOF_BYTES_MAX,
    PROVEN_RECEIPT_BYTES_MAX,
)
from federation.protocol.messages import Proof
from federation.protocol.wire import decode_message, encode_message

MESSAGES = {
    path.stem: bytes.fromhex(path.read_text(encoding="ascii"))
    for path in sorted((Path(__file__).parent.parent / "golden" / "messages").iterdir())
}

ANY_DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 20) | st.text(), inner, max_size=6),
    max_leaves=20,
)


def refused_or_canonical(payload: bytes) -> bool:
    """Whether the bytes are refused; when they are read, they are the one spelling of what they say."""
    try:
        message = decode_message(payload)
    except RemoteProtocolError:
        return True
    # A newer peer's fields are ignored, so the spelling of what was understood may be shorter.
    assert len(encode_message(message)) <= len(payload)
    return False


@pytest.mark.parametrize("name", MESSAGES)
def test_every_prefix_of_every_message_is_refused(name: str) -> None:
    """FED-13."""
    message = MESSAGES[name]
    decode_message(message)
    for length in range(len(message)):
        with pytest.raises(MalformedMessage):
            decode_message(message[:length])


@pytest.mark.parametrize("name", MESSAGES)
def test_every_message_with_a_byte_more_is_refused(name: str) -> None:
    """FED-13."""
    for extra in range(256):
        with pytest.raises(MalformedMessage):
            decode_message(MESSAGES[name] + bytes([extra]))


@pytest.mark.parametrize("name", MESSAGES)
def test_every_flipped_bit_is_another_message_or_refused(name: str) -> None:
    """FED-13: no two spellings of one message are one bit apart."""
    message = MESSAGES[name]
    for bit in range(len(message) * 8):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        if not refused_or_canonical(bytes(changed)):
            assert decode_message(bytes(changed)) != decode_message(message)


@given(st.binary(max_size=400))
def test_random_bytes_are_refused_as_theirs(payload: bytes) -> None:
    """FED-15."""
    refused_or_canonical(payload)


@given(st.integers(0, 27), ANY_DATA, st.dictionaries(st.integers(2, 19), ANY_DATA, max_size=16))
def test_random_fields_in_a_good_envelope_are_refused_as_theirs(code: int, version: object, fields: dict) -> None:  # type: ignore[type-arg]
    """FED-15."""
    refused_or_canonical(msgpack.packb({0: 1, 1: code, **dict(sorted(fields.items()))}))
    refused_or_canonical(msgpack.packb({0: version, 1: code}))


@given(st.sampled_from(sorted(MESSAGES)), st.integers(2, 19), ANY_DATA)
def test_a_message_with_one_field_replaced_is_refused_as_theirs(name: str, number: int, value: object) -> None:
    """FED-15."""
    fields = msgpack.unpackb(MESSAGES[name], strict_map_key=False)
    fields[number] = value
    refused_or_canonical(msgpack.packb(dict(sorted(fields.items()))))


@pytest.mark.parametrize(
    "filling", [b"\x80", b"\x90", b"\xc0", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\x81"]
)
def test_megabytes_of_containers_are_refused_by_their_size_alone(filling: bytes) -> None:
    """FED-16: 4 MB of empty maps would become 283 MiB of objects."""
    payload = filling * (4_000_000 // len(filling))
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage, match="the limit is"):
            decode_message(payload)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100_000


@pytest.mark.parametrize(
    "payload",
    [
        b"\xdc\xff\xff" + b"\x80" * 64_900,
        b"\xde\xff\xff" + b"\x00" * 64_900,
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\x91" * MESSAGE_BYTES_MAX,
        b"\x81\x00" * (MESSAGE_BYTES_MAX // 2),
        b"\x91" * 600 + b"\x90",
        b"\x81\x00" * 1000 + b"\x80",
    ],
    ids=lambda payload: f"{payload[:6].hex()}x{len(payload)}",
)
def test_a_message_that_promises_much_or_nests_deeply_costs_little(payload: bytes) -> None:
    """FED-16."""
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage):
            decode_message(payload)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8_000_000


def test_a_proof_is_three_messages_long_and_not_a_byte_longer() -> None:
    """FED-130, FED-16: whatever a member puts into it, the coordinator reads no more than it can have said itself."""
    full = Proof(
        state=b"s" * HEADER_BYTES_MAX,
        announcement=b"r" * ANNOUNCEMENT_BYTES_MAX,
        receipt=b"v" * PROVEN_RECEIPT_BYTES_MAX,
    )
    assert decode_message(encode_message(full, sign=lambda _: bytes(64))) == full
    long = ({2: b"s" * (HEADER_BYTES_MAX + 1)}, {3: b"r" * (ANNOUNCEMENT_BYTES_MAX + 1)})
    for fields in (*long, {4: b"v" * (PROVEN_RECEIPT_BYTES_MAX + 1)}, {2: b""}, {3: "text"}, {4: b""}, {4: 7}):
        with pytest.raises(MalformedMessage):
            decode_message(msgpack.packb({0: 1, 1: 14, **fields}))
    with pytest.raises(MalformedMessage, match="the limit of this message"):
        decode_message(msgpack.packb({0: 1, 1: 14, 200: b"x" * PROOF_BYTES_MAX}))


def altered(name: str, number: int, value: object) -> bytes:
    """A message with one field replaced."""
    fields = msgpack.unpackb(MESSAGES[name], strict_map_key=False)
    fields[number] = value
    return msgpack.packb(dict(sorted(fields.items())))  # type: ignore[no-any-return]


def terms_with(**changes: object) -> bytes:
    """An announcement with terms in which some numbers are others."""
    numbers = {"count": 3, "threshold": 4, "levels": 8, "members": 9, "bits": 10, "clip": 11, "noise": 13, "unit": 14}
    terms = msgpack.unpackb(MESSAGES["masked_announcement"], strict_map_key=False)[16]
    for name, value in changes.items():
        terms[numbers[name]] = value
    return altered("masked_announcement", 16, dict(sorted(terms.items())))


@pytest.mark.parametrize("members", [5, 7, 8, 10, 15, 16, 31, 32, 63, 64, 100, 127, 128, 1000, 2048])
@pytest.mark.parametrize("levels", [1, 2, 3, 7, 15, 127, 2**15])
def test_every_modulus_that_cannot_hold_the_sum_is_refused(members: int, levels: int) -> None:
    """FED-144: a sum that wraps around would be another one, and nobody would see it."""
    fits = [bits for bits in range(2, 33) if (1 << bits) > 2 * members * levels]
    for bits in range(2, 33):
        payload = terms_with(members=members, levels=levels, bits=bits)
        if bits in fits:
            decode_message(payload)
        else:
            with pytest.raises(MalformedMessage, match="cannot hold the sum"):
                decode_message(payload)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"count": 2, "threshold": 3}, "threshold is above count"),
        ({"count": 8}, "integer from 1 to 7"),
        ({"members": 4}, "integer from 5 to 2048"),
        ({"members": 2049, "bits": 32}, "integer from 5 to 2048"),
        ({"noise": 1.0, "unit": 0}, "needs clip and unit"),
        ({"noise": 1.0, "clip": 1.0}, "needs clip and unit"),
        ({"clip": 0.0}, "finite float"),
    ],
)
def test_terms_that_do_not_fit_together_are_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(MalformedMessage, match=why):
        decode_message(terms_with(**changes))


@pytest.mark.parametrize(
    "members",
    [b"m" * 32, b"n" * 16 + b"m" * 16, b"m" * 15, b"m" * 17, b"", b"m" * 16 + b"n" * 8],
    ids=["twice", "descending", "short", "long", "nobody", "half"],
)
def test_a_request_that_does_not_name_each_member_once_is_refused(members: bytes) -> None:
    """FED-145: to be named twice would be to weigh double, and the difference to once is one node's update."""
    with pytest.raises(MalformedMessage):
        decode_message(altered("sum_request", 6, members))
    if members:
        with pytest.raises(MalformedMessage):
            decode_message(altered("sum_refusal", 5, members))


@pytest.mark.parametrize("classes", [[], [1, 1], [2, 1], [35], [True]])
def test_a_request_for_no_class_or_for_one_twice_is_refused(classes: list[object]) -> None:
    with pytest.raises(MalformedMessage):
        decode_message(altered("sum_request", 7, classes))


def test_a_request_for_more_members_than_the_limit_is_refused() -> None:
    """FED-145, FED-54."""
    members = b"".join(index.to_bytes(16, "big") for index in range(2049))
    with pytest.raises(MalformedMessage):
        decode_message(altered("sum_request", 6, members))
    decode_message(altered("sum_request", 6, members[:-16]))


def test_an_offer_has_a_ticket_and_boxes_or_neither() -> None:
    """FED-142."""
    masked = msgpack.unpackb(MESSAGES["masked_offer"], strict_map_key=False)
    for number in (17, 18):
        half = {key: value for key, value in masked.items() if key != number}
        with pytest.raises(MalformedMessage, match="both or neither"):
            decode_message(msgpack.packb(half))
