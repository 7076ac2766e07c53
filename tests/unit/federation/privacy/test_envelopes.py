"""Messages open for their reader and place only; a chunk is sealed by itself, never with a used key and nonce."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federation.errors import BadSeal, MalformedMessage, PayloadTooLarge
from federation.privacy.boxes import Kem, KeyPair, seal
from federation.privacy.envelopes import (
    ENVELOPE_BYTES,
    open_group_key,
    open_message,
    part_key,
    public_key,
    seal_message,
    sealing_key,
    update_key,
    wrap_group_key,
)
from federation.protocol.limits import CHUNK_BYTES, MESSAGE_BYTES_MAX, SIGNATURE_BYTES
from federation.protocol.messages import Decline, ModelPart, PartKind, UpdateOffer
from federation.protocol.sealed_messages import Sealed, SealingKey
from federation.protocol.signing import Writer
from federation.protocol.topics import Topics
from federation.protocol.wire import encode_message
from federation.types import Digest, FederationId, Incarnation, ModelVersion, NodeId, RoundId, RunId, UpdateId

RUN = RunId("0123456789abcdef")
TOPICS = Topics(FederationId("plant"))
EVENTS = TOPICS.node_event(NodeId("press"))
DECLINE = Decline(run=RUN, round=RoundId(3), reason="a secret reason")
UPDATE = UpdateId("3-press")
SECRET = bytes(range(32))
PART = ModelPart(
    kind=PartKind.DELTA, version=ModelVersion(7), payload_bytes=70, payload_digest=Digest(b"d" * 16), chunk_bytes=40
)


class Signs:
    def sign(self, digest: bytes) -> bytes:
        return bytes(SIGNATURE_BYTES)


def offer(inline: bytes, **changes: object) -> UpdateOffer:
    return UpdateOffer(
        run=RUN,
        round=RoundId(3),
        update=UPDATE,
        incarnation=Incarnation(1),
        base_version=ModelVersion(2),
        base_digest=Digest(b"b" * 16),
        num_examples=600,
        metrics={f"{index:032}": 1.0 for index in range(16)},
        codec="c" * 40,
        payload_bytes=len(inline),
        payload_digest=Digest(b"p" * 16),
        chunk_bytes=CHUNK_BYTES,
        inline=inline,
        **changes,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("kem", Kem)
def test_a_message_opens_for_its_reader(kem: Kem) -> None:
    """FED-160."""
    pair, other = KeyPair.make(kem), KeyPair.make(kem)
    sealed = seal_message(pair.public, TOPICS, EVENTS, DECLINE)
    assert sealed.key_id == pair.public.key_id
    assert b"secret" not in encode_message(sealed)
    assert open_message([other, pair], TOPICS, EVENTS, sealed)[0] == DECLINE
    with pytest.raises(BadSeal, match="not one of this participant's"):
        open_message([other], TOPICS, EVENTS, sealed)


def test_a_message_that_is_moved_does_not_open() -> None:
    """FED-161: no other topic, node or federation; another root is the same place."""
    pair = KeyPair.make(Kem.X25519)
    sealed = seal_message(pair.public, TOPICS, EVENTS, DECLINE)
    moved = [
        (TOPICS, TOPICS.node_telemetry(NodeId("press"))),
        (TOPICS, TOPICS.node_event(NodeId("other"))),
        (Topics(FederationId("mill")), "fl/mill/n/press/evt"),
    ]
    for topics, topic in moved:
        with pytest.raises(BadSeal):
            open_message([pair], topics, topic, sealed)
    elsewhere = Topics(FederationId("plant"), "elsewhere")
    assert open_message([pair], elsewhere, elsewhere.node_event(NodeId("press")), sealed)[0] == DECLINE


def test_an_envelope_in_an_envelope_is_refused() -> None:
    """FED-162: nobody can make a reader open for ever."""
    pair = KeyPair.make(Kem.X25519)
    inner = seal_message(pair.public, TOPICS, EVENTS, DECLINE)
    with pytest.raises(MalformedMessage, match="a Sealed in an envelope"):
        open_message([pair], TOPICS, EVENTS, seal_message(pair.public, TOPICS, EVENTS, inner))
    info = b"fedmq/message/1|plant/n/press/evt"
    sealed = Sealed(key_id=pair.public.key_id, box=seal(pair.public, info, b"no message"))
    with pytest.raises(MalformedMessage):
        open_message([pair], TOPICS, EVENTS, sealed)


@pytest.mark.parametrize("kem", Kem)
def test_the_largest_inline_update_fits_an_envelope(kem: Kem) -> None:
    """FED-54, FED-162: with its signature, and under every KEM; what is longer says so, and goes in chunks."""
    pair, writer = KeyPair.make(kem), Writer(TOPICS, Signs())
    largest = offer(bytes(CHUNK_BYTES), fetched_bytes=2**64 - 1, train_s=1.0)
    sealed = seal_message(pair.public, TOPICS, EVENTS, largest)
    encoded = writer.encode(EVENTS, sealed)
    assert len(encoded) <= MESSAGE_BYTES_MAX
    assert len(encoded) - len(sealed.box) <= ENVELOPE_BYTES
    masked = offer(bytes(46_080), ticket=b"t" * 512, boxes=(b"b" * 2_048,) * 7)
    longer = offer(bytes(46_080), ticket=b"t" * 512, boxes=(b"b" * 2_048,) * 7, content_key=SECRET)
    if len(encode_message(masked)) + kem.box_bytes + ENVELOPE_BYTES > MESSAGE_BYTES_MAX:
        with pytest.raises(PayloadTooLarge):
            seal_message(pair.public, TOPICS, EVENTS, longer)
    else:
        assert len(writer.encode(EVENTS, seal_message(pair.public, TOPICS, EVENTS, masked))) <= MESSAGE_BYTES_MAX


def test_a_key_is_said_and_read_as_it_is() -> None:
    public = KeyPair.make(Kem.MLKEM768_X25519).public
    assert public_key(sealing_key(public)) == public
    with pytest.raises(BadSeal, match="0x0010"):
        public_key(SealingKey(kem=0x0010, key=bytes(65)))


def test_a_group_key_opens_for_one_node_run_and_epoch() -> None:
    """FED-161, FED-168."""
    pair, topic = KeyPair.make(Kem.X25519), TOPICS.node_key(NodeId("press"))
    wrap = wrap_group_key(pair.public, TOPICS, topic, SECRET, run=RUN, epoch=4)
    assert open_group_key([pair], TOPICS, topic, wrap) == SECRET
    assert len(wrap.box) == 80
    others = [
        (topic, wrap.__class__(run=RunId("f" * 16), key_epoch=4, key_id=wrap.key_id, box=wrap.box)),
        (topic, wrap.__class__(run=RUN, key_epoch=5, key_id=wrap.key_id, box=wrap.box)),
        (TOPICS.node_key(NodeId("other")), wrap),
    ]
    for where, what in others:
        with pytest.raises(BadSeal):
            open_group_key([pair], TOPICS, where, what)
    short = wrap_group_key(pair.public, TOPICS, topic, b"short", run=RUN, epoch=4)
    with pytest.raises(BadSeal, match="5 bytes"):
        open_group_key([pair], TOPICS, topic, short)


def test_the_chunks_of_an_update_are_those_of_the_document() -> None:
    """FED-165: made again by the text."""
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"fedmq/update/1|plant|3-press|40").derive(SECRET)
    expected = ChaCha20Poly1305(derived).encrypt((258).to_bytes(12, "big"), b"body", None)
    key = update_key(SECRET, TOPICS, UPDATE, 40)
    assert key.seal(258, b"body") == expected == key.seal(258, b"body")
    assert key.open(258, expected) == b"body"


def test_the_chunks_of_a_part_are_those_of_the_document() -> None:
    """FED-166: made again by the text."""
    info = f"fedmq/part/1|plant|{RUN}|delta|7|70|{'64' * 16}|40".encode()
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(SECRET)
    expected = ChaCha20Poly1305(derived).encrypt(bytes(12), b"body", None)
    assert part_key(SECRET, TOPICS, RUN, PART).seal(0, b"body") == expected


def test_other_content_never_meets_the_same_key() -> None:
    """FED-165, FED-166: else two chunks under one key and nonce would open each other."""
    body = bytes(40)
    updates = [update_key(SECRET, TOPICS, UPDATE, 40), update_key(SECRET, TOPICS, UPDATE, 41)]
    updates += [update_key(SECRET, TOPICS, UpdateId("4-press"), 40), update_key(bytes(32), TOPICS, UPDATE, 40)]
    changed: list[dict[str, Any]] = [
        {},
        {"kind": PartKind.KEYFRAME},
        {"version": ModelVersion(8)},
        {"payload_bytes": 71},
    ]
    changed += [{"payload_digest": Digest(b"e" * 16)}, {"chunk_bytes": 41}]
    fields = {name: getattr(PART, name) for name in PART.__dataclass_fields__}
    parts = [part_key(SECRET, TOPICS, RUN, ModelPart(**(fields | change))) for change in changed]
    parts.append(part_key(SECRET, TOPICS, RunId("f" * 16), PART))
    sealed = [key.seal(0, body) for key in (*updates, *parts)]
    assert len(set(sealed)) == len(sealed)


def test_a_chunk_that_was_altered_moved_or_cut_is_refused() -> None:
    """FED-171."""
    key = update_key(SECRET, TOPICS, UPDATE, 40)
    sealed = key.seal(3, b"body of a chunk")
    assert len(sealed) == len(b"body of a chunk") + 16
    for index, body in ((4, sealed), (3, sealed[:-1]), (3, b""), (3, bytes([sealed[0] ^ 1]) + sealed[1:])):
        with pytest.raises(BadSeal):
            key.open(index, body)
