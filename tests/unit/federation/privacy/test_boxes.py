"""Boxes are those of RFC 9180: its vector, and an opener written from the text of the RFC."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from federation.errors import BadSeal
from federation.privacy.boxes import KEY_ID_BYTES, Kem, KeyPair, PublicKey, seal

INFO = b"fedmq/test|plant/n/press-8/evt"

# RFC 9180, appendix A.2.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, base mode.
VECTOR = {
    name: bytes.fromhex(value)
    for name, value in {
        "info": "4f6465206f6e2061204772656369616e2055726e",
        "pkEm": "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a",
        "pkRm": "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a",
        "skRm": "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb",
        "key": "ad2744de8e17f4ebba575b3f5f5a8fa1f69c2a07f6e7500bc60ca6e3e3ec1c91",
        "base_nonce": "5c4d98150661b848853b547f",
    }.items()
}


def extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    """LabeledExtract of RFC 9180, section 4."""
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, "sha256")


def expand(suite: bytes, secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """LabeledExpand of RFC 9180, section 4, for at most one block of output."""
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(secret, labeled + b"\x01", "sha256")[:length]


def key_schedule(kem: Kem, shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and nonce of the first ciphertext: RFC 9180, section 5.1, mode base."""
    suite = b"HPKE" + kem.to_bytes(2, "big") + b"\x00\x01" + b"\x00\x03"
    context = b"\x00" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    return expand(suite, secret, b"key", context, 32), expand(suite, secret, b"base_nonce", context, 12)


def decapsulated(private: bytes, encapsulated: bytes) -> bytes:
    """Decap of DHKEM(X25519, HKDF-SHA256): RFC 9180, section 4.1."""
    own = X25519PrivateKey.from_private_bytes(private)
    agreed = own.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    suite = b"KEM" + Kem.X25519.to_bytes(2, "big")
    secret = extract(suite, b"", b"eae_prk", agreed)
    return expand(suite, secret, b"shared_secret", encapsulated + own.public_key().public_bytes_raw(), 32)


def hybrid_decapsulated(private: bytes, encapsulated: bytes) -> bytes:
    """Decapsulation of X-Wing (draft-connolly-cfrg-xwing-kem), with its expanded key."""
    own = X25519PrivateKey.from_private_bytes(private[64:])
    inner = MLKEM768PrivateKey.from_seed_bytes(private[:64]).decapsulate(encapsulated[:1_088])
    agreed = own.exchange(X25519PublicKey.from_public_bytes(encapsulated[1_088:]))
    label = b"\\.//^\\"
    own_public = own.public_key().public_bytes_raw()
    return hashlib.sha3_256(inner + agreed + encapsulated[1_088:] + own_public + label).digest()


def opened_by_hand(pair: KeyPair, info: bytes, box: bytes) -> bytes:
    split = 32 if pair.kem is Kem.X25519 else 1_120
    decapsulate = decapsulated if pair.kem is Kem.X25519 else hybrid_decapsulated
    key, nonce = key_schedule(pair.kem, decapsulate(pair.private, box[:split]), info)
    return ChaCha20Poly1305(key).decrypt(nonce, box[split:], None)


def test_the_opener_by_hand_is_that_of_the_rfc() -> None:
    shared = decapsulated(VECTOR["skRm"], VECTOR["pkEm"])
    assert key_schedule(Kem.X25519, shared, VECTOR["info"]) == (VECTOR["key"], VECTOR["base_nonce"])


def test_the_public_key_is_that_of_the_rfc() -> None:
    assert KeyPair(kem=Kem.X25519, private=VECTOR["skRm"]).public.raw == VECTOR["pkRm"]


@pytest.mark.parametrize("kem", Kem)
@pytest.mark.parametrize("plaintext", [b"", b"k" * 32, bytes(70_000)], ids=len)
def test_a_box_opens_with_the_key_it_is_for(kem: Kem, plaintext: bytes) -> None:
    pair = KeyPair.make(kem)
    box = seal(pair.public, INFO, plaintext)
    assert len(box) == len(plaintext) + kem.box_bytes
    assert pair.open(INFO, box) == plaintext
    assert opened_by_hand(pair, INFO, box) == plaintext
    assert seal(pair.public, INFO, plaintext) != box


@pytest.mark.parametrize("kem", Kem)
def test_a_stored_key_opens_what_the_made_one_does(kem: Kem) -> None:
    pair = KeyPair.make(kem)
    again = KeyPair(kem=kem, private=bytes(pair.private))
    assert again.public == pair.public
    assert len(pair.public.raw) == kem.public_bytes
    assert again.open(INFO, seal(pair.public, INFO, b"x")) == b"x"
    assert pair.private.hex() not in repr(pair)
    assert str(pair.private) not in repr(pair)


def test_sizes_are_those_of_the_registered_kems() -> None:
    assert (Kem.X25519.box_bytes, Kem.MLKEM768_X25519.box_bytes) == (48, 1_136)
    assert (Kem.X25519.public_bytes, Kem.MLKEM768_X25519.public_bytes) == (32, 1_216)


@pytest.mark.parametrize("kem", Kem)
def test_another_key_another_place_or_a_changed_bit_is_refused(kem: Kem) -> None:
    pair = KeyPair.make(kem)
    box = seal(pair.public, INFO, b"k" * 32)
    with pytest.raises(BadSeal):
        KeyPair.make(kem).open(INFO, box)
    with pytest.raises(BadSeal):
        pair.open(INFO + b"2", box)
    for place in (0, len(box) // 2, len(box) - 1):
        changed = bytearray(box)
        changed[place] ^= 1
        with pytest.raises(BadSeal):
            pair.open(INFO, bytes(changed))


@pytest.mark.parametrize("kem", Kem)
def test_every_prefix_is_refused(kem: Kem) -> None:
    pair = KeyPair.make(kem)
    box = seal(pair.public, INFO, b"k")
    for length in range(len(box)):
        with pytest.raises(BadSeal):
            pair.open(INFO, box[:length])


@pytest.mark.parametrize("kem", Kem)
def test_nothing_is_sealed_to_what_is_no_key(kem: Kem) -> None:
    zero_point = KeyPair.make(kem).public.raw[:-32] + bytes(32)
    for raw in (b"", bytes(31), bytes(kem.public_bytes + 1), zero_point):
        with pytest.raises(BadSeal):
            seal(PublicKey(kem=kem, raw=raw), INFO, b"k")


def test_a_box_with_a_point_that_nobody_has_the_key_for_is_refused() -> None:
    with pytest.raises(BadSeal):
        KeyPair.make(Kem.X25519).open(INFO, bytes(32) + bytes(20))


@pytest.mark.parametrize("kem", Kem)
def test_a_private_key_of_another_length_is_our_own_bug(kem: Kem) -> None:
    with pytest.raises(ValueError, match="a private key of"):
        KeyPair(kem=kem, private=bytes(31))


def test_keys_are_told_apart_by_their_id() -> None:
    pair = KeyPair.make(Kem.X25519)
    assert len(pair.public.key_id) == KEY_ID_BYTES
    assert pair.public.key_id == hashlib.sha256(b"\x00\x20" + pair.public.raw).digest()[:8]
    assert PublicKey(kem=Kem.MLKEM768_X25519, raw=pair.public.raw).key_id != pair.public.key_id
