"""From the seeds of an update to its masks, and from hand to hand: sealed to one helper each (PROTOCOL.md, FED-146).

A seed is 32 fresh bytes for each update and class. It becomes two ChaCha20 keystreams (RFC 8439), whose keys are
HMAC-SHA256 of the seed over the run and the update. So a seed that was used twice by mistake would give other masks.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from federation.errors import BadSeal
from federation.privacy.boxes import KeyPair, PublicKey, seal
from federation.privacy.classes import classes, classes_of
from federation.protocol.chunking import payload_digest
from federation.protocol.limits import HELPERS_MAX
from federation.protocol.sum_messages import Ticket
from federation.types import RunId, UpdateId

__all__ = ["SEED_BYTES", "ChaChaKeystream", "HeldSeeds", "SeedMask", "open_seeds", "seal_seeds"]

SEED_BYTES: Final = 32
_SCHEME: Final = b"\x01"
_ZEROS: Final = bytes(1 << 18)
_NONCE: Final = bytes(16)


class ChaChaKeystream:
    """The keystream of one key, from its first byte on: counter 0, nonce 0.

    Args:
        key: 32 bytes, never used for anything else.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(algorithms.ChaCha20(key, _NONCE), None).encryptor()

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        zeros = memoryview(_ZEROS)[:size] if size <= len(_ZEROS) else bytes(size)
        return self._cipher.update(zeros)


class SeedMask:
    """The mask of one class on one update, to be taken once.

    Args:
        seed: 32 bytes.
        run: The update's run.
        update: Whose mask it is.

    Attributes:
        codes: Keystream of the parameters.
        tail: Keystream of the numbers behind them.
    """

    def __init__(self, seed: bytes, run: RunId, update: UpdateId) -> None:
        label = f"fedmq/mask/1|{run}|{update}"
        self.codes = ChaChaKeystream(_derive(seed, label))
        self.tail = ChaChaKeystream(_derive(seed, label + "/tail"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSeeds:
    """What one helper has of an update's seeds.

    Attributes:
        place: Which helper it is for: its place in the order of the identity keys, from 0.
        count: Helpers, h.
        threshold: Helpers without which nothing is revealed, t.
        seeds: One for each class of this place, in the classes' order.
    """

    place: int
    count: int
    threshold: int
    seeds: tuple[bytes, ...] = field(repr=False)

    def by_class(self) -> dict[int, bytes]:
        """The seeds by the number of their class."""
        return dict(zip(classes_of(self.place, self.count, self.threshold), self.seeds, strict=True))


def seal_seeds(
    ticket: Ticket, seeds: Sequence[bytes], helpers: Sequence[PublicKey], *, threshold: int
) -> tuple[Ticket, tuple[bytes, ...]]:
    """Each helper's box, and the ticket that names them.

    Args:
        ticket: All about the update but the boxes, which are replaced.
        seeds: One for each class, in the classes' order.
        helpers: Where to seal to, in the order of the helpers' identity keys.
        threshold: Helpers without which nothing is revealed, t.

    Raises:
        BadSeal: A helper's key is none.
        ValueError: There is not one seed of 32 bytes for each class.
    """
    count = len(helpers)
    if len(seeds) != len(classes(count, threshold)) or any(len(seed) != SEED_BYTES for seed in seeds):
        raise ValueError(
            f"{threshold} of {count} helpers need {len(classes(count, threshold))} seeds of {SEED_BYTES} B"
        )
    boxes = []
    for place, public in enumerate(helpers):
        inside = [seeds[number] for number in classes_of(place, count, threshold)]
        content = b"".join([_SCHEME, bytes([place, count, threshold]), *inside])
        boxes.append(seal(public, _info(ticket, place), content))
    return replace(ticket, boxes=tuple(payload_digest(box) for box in boxes)), tuple(boxes)


def open_seeds(keys: Sequence[KeyPair], ticket: Ticket, box: bytes) -> HeldSeeds:
    """What a node has sealed for the holder of ``keys``.

    Args:
        keys: Own keys, the newest first.
        ticket: The update's, whose signature has been verified.
        box: Claimed to be of that update.

    Raises:
        BadSeal: The ticket does not name this box, no key opens it, or it holds something else.
    """
    digest = payload_digest(box)
    if digest not in ticket.boxes:
        raise BadSeal("the ticket names other boxes")
    place = ticket.boxes.index(digest)
    content = _opened(keys, _info(ticket, place), box)
    held = _parsed(content)
    if (held.place, held.count) != (place, len(ticket.boxes)):
        raise BadSeal("a box says that it is another helper's")
    return held


def _opened(keys: Sequence[KeyPair], info: bytes, box: bytes) -> bytes:
    for key in keys[:-1]:
        try:
            return key.open(info, box)
        except BadSeal:
            continue  # sealed to an older key
    return keys[-1].open(info, box)


def _parsed(content: bytes) -> HeldSeeds:
    if len(content) < 4 or content[:1] != _SCHEME:
        raise BadSeal("a box holds something else than seeds")
    place, count, threshold = content[1:4]
    if not (place < count <= HELPERS_MAX and 1 <= threshold <= count):
        raise BadSeal("a box is for helpers that there cannot be")
    seeds = tuple(content[cut : cut + SEED_BYTES] for cut in range(4, len(content), SEED_BYTES))
    if len(content) != 4 + SEED_BYTES * len(classes_of(place, count, threshold)):
        raise BadSeal("a box has too few or too many seeds")
    return HeldSeeds(place=place, count=count, threshold=threshold, seeds=seeds)


def _info(ticket: Ticket, place: int) -> bytes:
    """What a box is bound to: it opens for no other update, model, terms or place."""
    words = f"fedmq/mask-seal/1|{place}|{ticket.run}|{ticket.update}|{ticket.base_version}|".encode("ascii")
    return words + ticket.base_digest + ticket.terms + ticket.payload_digest


def _derive(seed: bytes, label: str) -> bytes:
    return hmac.new(seed, label.encode("ascii"), sha256).digest()
