"""A box that only the holder of one key can open: HPKE in base mode, one shot (RFC 9180).

The suite is the KEM of the key, HKDF-SHA256 and ChaCha20-Poly1305. A box is the encapsulated key, then the ciphertext.
It says nothing of who sealed it: whoever needs that signs the message around it. `info` names the place that a box is
for (RFC 9180, section 5.1), so that a box that is moved to another place does not open there.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from federation.errors import BadSeal

KEY_ID_BYTES = 8
"""Length of a key's id: enough to tell the few keys of one owner apart, not meant to authenticate."""

_X25519_BYTES = 32
_ML_KEM_SEED_BYTES = 64
_ML_KEM_PUBLIC_BYTES = 1_184
_TAG_BYTES = 16


class Kem(IntEnum):
    """How the key of a box is agreed, by its number in IANA's registry of HPKE KEMs (u16)."""

    X25519 = 0x0020
    """DHKEM(X25519, HKDF-SHA256), RFC 9180."""
    MLKEM768_X25519 = 0x647A
    """X-Wing: ML-KEM-768 and X25519; a box stays closed while either of the two holds (draft-ietf-hpke-pq)."""

    @property
    def public_bytes(self) -> int:
        """Length of a public key in bytes."""
        return _X25519_BYTES + (_ML_KEM_PUBLIC_BYTES if self is Kem.MLKEM768_X25519 else 0)

    @property
    def private_bytes(self) -> int:
        """Length of a private key in bytes."""
        return _X25519_BYTES + (_ML_KEM_SEED_BYTES if self is Kem.MLKEM768_X25519 else 0)

    @property
    def box_bytes(self) -> int:
        """How many bytes a box has more than what is in it."""
        return _REGISTERED[self].enc_length() + _TAG_BYTES


_REGISTERED = {Kem.X25519: KEM.X25519, Kem.MLKEM768_X25519: KEM.MLKEM768_X25519}
_SUITES = {kem: Suite(theirs, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305) for kem, theirs in _REGISTERED.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """Where a box goes. `raw` is the X25519 key (32 bytes), for the hybrid after the ML-KEM-768 key (1,184 bytes)."""

    kem: Kem
    raw: bytes

    @property
    def key_id(self) -> bytes:
        """The first 8 bytes of SHA-256 over the KEM's number (u16, big endian) and the key."""
        digest = Hash(SHA256())
        digest.update(self.kem.to_bytes(2, "big") + self.raw)
        return digest.finalize()[:KEY_ID_BYTES]


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """A key to open boxes with, as bytes that can be stored.

    `private` is the X25519 key (32 bytes), for the hybrid after the seed of ML-KEM-768 (64 bytes).

    Raises:
        ValueError: When `private` has not the length of its KEM.
    """

    kem: Kem
    private: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.private) != self.kem.private_bytes:
            raise ValueError(
                f"a private key of {self.kem.name} has {self.kem.private_bytes} B, not {len(self.private)}"
            )

    @classmethod
    def make(cls, kem: Kem, draw: Callable[[int], bytes] = os.urandom) -> "KeyPair":
        """A new pair; ``draw`` gives so many bytes of the system's randomness."""
        return cls(kem=kem, private=draw(kem.private_bytes))

    @cached_property
    def public(self) -> PublicKey:
        """What others seal to."""
        exchange = self._exchange.public_key().public_bytes_raw()
        if self.kem is Kem.X25519:
            return PublicKey(kem=self.kem, raw=exchange)
        return PublicKey(kem=self.kem, raw=self._encapsulation.public_key().public_bytes_raw() + exchange)

    def open(self, info: bytes, box: bytes) -> bytes:
        """What is in a box.

        Raises:
            BadSeal: When the box is for another key or another place, or a bit of it was changed.
        """
        try:
            return _SUITES[self.kem].decrypt(box, self._theirs, info=info)
        except (InvalidTag, ValueError) as refused:
            raise BadSeal("a box does not open: it is for another key or another place, or was changed") from refused

    @cached_property
    def _exchange(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.private[-_X25519_BYTES:])

    @cached_property
    def _encapsulation(self) -> MLKEM768PrivateKey:
        return MLKEM768PrivateKey.from_seed_bytes(self.private[:_ML_KEM_SEED_BYTES])

    @cached_property
    def _theirs(self) -> X25519PrivateKey | MLKEM768X25519PrivateKey:
        if self.kem is Kem.X25519:
            return self._exchange
        return MLKEM768X25519PrivateKey(self._encapsulation, self._exchange)


def seal(public: PublicKey, info: bytes, plaintext: bytes) -> bytes:
    """A box with `plaintext` in it, for the holder of `public` at the place `info`; each call gives other bytes.

    Raises:
        BadSeal: When `public` is no key of its KEM: of another length, or a point that nobody has the key for.
    """
    try:
        return _SUITES[public.kem].encrypt(plaintext, _loaded(public), info=info)
    except ValueError as refused:
        raise BadSeal(f"nothing can be sealed to this key: it is no public key of {public.kem.name}") from refused


def _loaded(public: PublicKey) -> X25519PublicKey | MLKEM768X25519PublicKey:
    if len(public.raw) != public.kem.public_bytes:
        raise ValueError(f"{len(public.raw)} B")
    exchange = X25519PublicKey.from_public_bytes(public.raw[-_X25519_BYTES:])
    if public.kem is Kem.X25519:
        return exchange
    return MLKEM768X25519PublicKey(MLKEM768PublicKey.from_public_bytes(public.raw[:_ML_KEM_PUBLIC_BYTES]), exchange)
