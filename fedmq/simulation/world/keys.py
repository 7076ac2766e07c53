"""Keys for the simulator: they prove what real ones prove, and nobody in here forges.

Boxes are sealed without randomness, so that two runs of a simulation have the same bytes: HPKE draws a new key for each
box, and takes none from outside. What is sealed here opens for the same key, at the same place, whole, or not at all,
as there. It does not show its content, and hides it only from those who do not try.
"""

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b, shake_128

from federation.errors import BadSeal
from federation.privacy import envelopes, seeds
from federation.privacy.boxes import KeyPair, PublicKey
from federation.protocol.limits import SIGNATURE_BYTES
from federation.protocol.signing import Sender
from federation.types import SumHelper

__all__ = ["SimKey", "SimKeys", "repeatable_boxes"]

TAG_BYTES = 48
"""So much more than its content a real box has."""

_seal, _open = seeds.seal, KeyPair.open  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class SimKey:
    """One participant's key; None is the coordinator's."""

    owner: Sender

    def sign(self, digest: bytes) -> bytes:
        """64 bytes that only this owner's key makes of a digest."""
        return blake2b(digest, digest_size=SIGNATURE_BYTES, key=blake2b(_name(self.owner)).digest()).digest()


@dataclass(frozen=True, slots=True)
class SimKeys:
    """Everybody's keys."""

    def verify(self, sender: Sender, digest: bytes, signature: bytes) -> bool:
        """Whether ``sender`` has signed this; None is the coordinator."""
        return SimKey(sender).sign(digest) == signature


def _name(owner: Sender) -> bytes:
    match owner:
        case None:
            return b"coordinator"
        case SumHelper(name=name):
            return f"helper/{name}".encode("ascii")
        case _:
            return f"node/{owner}".encode("ascii")


@contextmanager
def repeatable_boxes() -> Iterator[None]:
    """Meanwhile seeds and messages travel in such boxes."""
    seeds.seal = envelopes.seal = seal  # type: ignore[attr-defined]
    KeyPair.open = opened  # type: ignore[method-assign]
    try:
        yield
    finally:
        seeds.seal = envelopes.seal = _seal  # type: ignore[attr-defined]
        KeyPair.open = _open  # type: ignore[method-assign]


def seal(public: PublicKey, info: bytes, plaintext: bytes) -> bytes:
    """A box for the holder of ``public`` at the place ``info``."""
    tag = _tag(public, info, plaintext)
    return tag + _veiled(tag, plaintext)


def opened(self: KeyPair, info: bytes, box: bytes) -> bytes:
    """What is in a box.

    Raises:
        BadSeal: It is for another key or another place, or a bit of it was changed.
    """
    plaintext = _veiled(box[:TAG_BYTES], box[TAG_BYTES:])
    if not hmac.compare_digest(box[:TAG_BYTES], _tag(self.public, info, plaintext)):
        raise BadSeal("a box does not open: it is for another key or another place, or was changed")
    return plaintext


def _veiled(tag: bytes, text: bytes) -> bytes:
    stream = shake_128(tag).digest(len(text))
    return (int.from_bytes(text) ^ int.from_bytes(stream)).to_bytes(len(text))


def _tag(public: PublicKey, info: bytes, plaintext: bytes) -> bytes:
    key = blake2b(bytes([len(public.raw) % 256]) + public.raw + info).digest()
    return blake2b(plaintext, key=key, digest_size=TAG_BYTES).digest()
