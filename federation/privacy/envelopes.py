"""Messages that only their reader opens, and chunks that are closed to the broker (PROTOCOL.md, section 14).

A message goes into an HPKE box as a whole. A payload in chunks has one secret: each chunk is sealed by itself with
ChaCha20-Poly1305 (RFC 8439), its index as the nonce, under a key that HKDF-SHA256 (RFC 5869) derives from the secret
and from all that decides what is in the chunk. So a key and a nonce never meet two contents, the same chunk has the
same bytes whenever it is sent, and a chunk that was altered, moved or taken from elsewhere is refused by itself.
"""

from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federation.errors import BadSeal, MalformedMessage, PayloadTooLarge
from federation.privacy.boxes import Kem, KeyPair, PublicKey, seal
from federation.protocol.limits import MESSAGE_BYTES_MAX
from federation.protocol.messages import Message, ModelPart
from federation.protocol.sealed_messages import KeyWrap, Sealed, SealingKey
from federation.protocol.signing import Signer, signed_digest
from federation.protocol.topics import Topics
from federation.protocol.wire import decode_message, encode_message
from federation.types import RunId, UpdateId

__all__ = [
    "ENVELOPE_BYTES",
    "SECRET_BYTES",
    "ChunkKey",
    "open_group_key",
    "open_message",
    "part_key",
    "public_key",
    "seal_message",
    "sealing_key",
    "update_key",
    "wrap_group_key",
]

SECRET_BYTES = 32
"""Length of a group key, and of the secret of an update that is sent in chunks."""

ENVELOPE_BYTES = 100
"""What an envelope has beside its box, signature included, at most."""

_NONCE_BYTES = 12


def sealing_key(public: PublicKey) -> SealingKey:
    """A public key as messages have it."""
    return SealingKey(kem=int(public.kem), key=public.raw)


def public_key(said: SealingKey) -> PublicKey:
    """A public key that somebody has said.

    Raises:
        BadSeal: This release does not know its KEM.
    """
    try:
        return PublicKey(kem=Kem(said.kem), raw=said.key)
    except ValueError as unknown:
        raise BadSeal(
            f"nothing can be sealed to a key of KEM {said.kem:#06x}: this release does not know it"
        ) from unknown


def seal_message(
    public: PublicKey, topics: Topics, topic: str, message: Message, *, signer: Signer | None = None
) -> Sealed:
    """A message in an envelope for the holder of ``public``, on this topic of this federation.

    Args:
        public: Whose.
        topics: The federation's tree.
        topic: Where it is said.
        message: What.
        signer: Signs what is in the envelope, for a reader that must be able to show it; None: only the envelope is.

    Raises:
        BadSeal: It is no public key.
        PayloadTooLarge: The envelope would be longer than a message may be: an update goes in chunks instead.
        LocalProtocolError: A value is outside its field's limits.
    """
    sign = None if signer is None else (lambda body: signer.sign(signed_digest(topics, topic, body)))
    inner = encode_message(message, sign=sign)
    if len(inner) + public.kem.box_bytes + ENVELOPE_BYTES > MESSAGE_BYTES_MAX:
        raise PayloadTooLarge(f"a {type(message).__name__} of {len(inner)} bytes does not fit an envelope")
    return Sealed(key_id=public.key_id, box=seal(public, _place("message", topics, topic), inner))


def open_message(pairs: Iterable[KeyPair], topics: Topics, topic: str, sealed: Sealed) -> tuple[Message, bytes]:
    """What is in an envelope that came on this topic, and its bytes.

    Raises:
        BadSeal: It is for none of these keys, for another topic or federation, or was changed.
        MalformedMessage: What is in it is no message, or another envelope.
    """
    pair = _pair_for(pairs, sealed.key_id)
    inner = pair.open(_place("message", topics, topic), sealed.box)
    message = decode_message(inner)
    if isinstance(message, Sealed | KeyWrap):
        raise MalformedMessage(f"a {type(message).__name__} in an envelope")
    return message, inner


def wrap_group_key(public: PublicKey, topics: Topics, topic: str, group: bytes, *, run: RunId, epoch: int) -> KeyWrap:
    """A group key for the holder of ``public``.

    Args:
        public: The node's.
        topics: The federation's tree.
        topic: Where the node looks for it.
        group: The key, `SECRET_BYTES` long.
        run: The run whose model it opens.
        epoch: Its number.

    Raises:
        BadSeal: It is no public key.
    """
    info = _place("group", topics, topic) + f"|{run}|{epoch}".encode()
    return KeyWrap(run=run, key_epoch=epoch, key_id=public.key_id, box=seal(public, info, group))


def open_group_key(pairs: Iterable[KeyPair], topics: Topics, topic: str, wrap: KeyWrap) -> bytes:
    """The group key in a wrap that came on this topic.

    Raises:
        BadSeal: It is for none of these keys, for another run, epoch, topic or federation, or was changed.
    """
    pair = _pair_for(pairs, wrap.key_id)
    group = pair.open(_place("group", topics, topic) + f"|{wrap.run}|{wrap.key_epoch}".encode(), wrap.box)
    if len(group) != SECRET_BYTES:
        raise BadSeal(f"a group key of {len(group)} bytes")
    return group


class ChunkKey:
    """Seals and opens the chunks of one payload, cut in one way."""

    def __init__(self, secret: bytes, info: bytes) -> None:
        derived = HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=None, info=info).derive(secret)
        self._aead = ChaCha20Poly1305(derived)

    def seal(self, index: int, body: bytes) -> bytes:
        """A chunk as it is published: 16 bytes longer, the same bytes each time."""
        return self._aead.encrypt(index.to_bytes(_NONCE_BYTES, "big"), body, None)

    def open(self, index: int, sealed: bytes) -> bytes:
        """The body of a chunk.

        Raises:
            BadSeal: It is another chunk, of another payload, or was changed.
        """
        try:
            return self._aead.decrypt(index.to_bytes(_NONCE_BYTES, "big"), sealed, None)
        except (InvalidTag, ValueError) as refused:
            raise BadSeal("a chunk does not open: it is another one, or was changed") from refused


def update_key(secret: bytes, topics: Topics, update: UpdateId, chunk_bytes: int) -> ChunkKey:
    """The key of an update's chunks; an update that is cut anew has another one."""
    return ChunkKey(secret, f"fedmq/update/1|{topics.federation}|{update}|{chunk_bytes}".encode())


def part_key(group: bytes, topics: Topics, run: RunId, part: ModelPart) -> ChunkKey:
    """The key of a model part's chunks: the same after a restart, another one for other content."""
    content = f"{part.kind.value}|{part.version}|{part.payload_bytes}|{part.payload_digest.hex()}|{part.chunk_bytes}"
    return ChunkKey(group, f"fedmq/part/1|{topics.federation}|{run}|{content}".encode())


def _place(what: str, topics: Topics, topic: str) -> bytes:
    """What a box is for: neither another topic nor another federation nor another kind of content."""
    return f"fedmq/{what}/1|{topics.federation}/{topics.below(topic)}".encode()


def _pair_for(pairs: Iterable[KeyPair], key_id: bytes) -> KeyPair:
    found = next((pair for pair in pairs if pair.public.key_id == key_id), None)
    if found is None:
        raise BadSeal(f"sealed to key {key_id.hex()}, which is not one of this participant's")
    return found
