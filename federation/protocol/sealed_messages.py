"""The messages of sealing: an envelope that only its reader opens, and the keys that it takes (PROTOCOL.md).

Boxes are HPKE's (RFC 9180). What is in them is not looked at here; `federation.privacy` seals and opens.
"""

from dataclasses import dataclass
from typing import Final

from federation.protocol.fields import Blob, Field, Record, Whole
from federation.protocol.limits import (
    CONTENT_KEY_BYTES,
    DELTA_INLINE_BYTES_MAX,
    KEY_ID_BYTES,
    MESSAGE_BYTES_MAX,
    SEALING_KEY_BYTES_MAX,
    TAG_BYTES,
    WRAP_BYTES_MAX,
)
from federation.protocol.tables import COUNT, RUN, MessageSchema, message
from federation.types import RunId

__all__ = ["CONTENT_KEY", "PARTS_SEAL", "SEALED_SCHEMAS", "SEALING_KEY", "KeyWrap", "PartsSeal", "Sealed", "SealingKey"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingKey:
    """What others seal to.

    Attributes:
        kem: The number of its KEM in IANA's registry of HPKE KEMs.
        key: The public key.
    """

    kem: int
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsSeal:
    """How the parts of an announced model are sealed.

    Attributes:
        key_epoch: Which group key: it counts up, and is new after somebody was shut out.
        delta: The payload of the newest delta as it is published, where it is small and most nodes would pull it.
    """

    key_epoch: int
    delta: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """``n/{node}/evt``, ``tel`` and ``cmd``: another message, closed to everybody but its reader.

    Attributes:
        key_id: Which of the reader's keys opens it.
        box: HPKE box of the message's bytes, which are not signed: the envelope is.
    """

    key_id: bytes
    box: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWrap:
    """``n/{node}/key``, retained: the group key of the model's parts, for one node.

    Attributes:
        run: The run whose model it opens.
        key_epoch: Which group key.
        key_id: Which of the node's keys opens the box.
        box: HPKE box of the group key.
    """

    run: RunId
    key_epoch: int
    key_id: bytes
    box: bytes


CONTENT_KEY: Final = Blob(CONTENT_KEY_BYTES, least=CONTENT_KEY_BYTES)
_KEY_ID = Blob(KEY_ID_BYTES, least=KEY_ID_BYTES)

SEALING_KEY: Final = Record(
    SealingKey,
    (Field(1, "kem", Whole(65_535)), Field(2, "key", Blob(SEALING_KEY_BYTES_MAX, least=CONTENT_KEY_BYTES))),
)
PARTS_SEAL: Final = Record(
    PartsSeal,
    (
        Field(1, "key_epoch", COUNT),
        Field(2, "delta", Blob(DELTA_INLINE_BYTES_MAX + TAG_BYTES, least=TAG_BYTES + 1), optional=True),
    ),
)

SEALED_SCHEMAS: Final[tuple[MessageSchema, ...]] = (
    message(
        28,
        Sealed,
        Field(2, "key_id", _KEY_ID),
        Field(3, "box", Blob(MESSAGE_BYTES_MAX, least=1)),
        bytes_max=MESSAGE_BYTES_MAX,
    ),
    message(
        29,
        KeyWrap,
        Field(2, "run", RUN),
        Field(3, "key_epoch", COUNT),
        Field(4, "key_id", _KEY_ID),
        Field(5, "box", Blob(WRAP_BYTES_MAX, least=1)),
    ),
)
"""Their tables, by ascending type code."""
