"""What the field tables of all messages are made of: the shared kinds of field, and the table itself."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from federation.protocol.enumerations import Presence, Reason
from federation.protocol.fields import Blob, Choice, Field, FieldError, Real, Record, Sequence, Whole, Word
from federation.protocol.limits import (
    CHUNK_BYTES,
    CHUNKS_MAX,
    HEADER_BYTES_MAX,
    ID_CHARS_MAX,
    INT32_MAX,
    INT64_MAX,
    PAYLOAD_BYTES_MAX,
    SECONDS_MAX,
    SPENT_KINDS_MAX,
)
from federation.types import DIGEST_BYTES, ExamplePrivacy, SampledSteps

ID_PATTERN: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{ID_CHARS_MAX}}}", re.ASCII)
"""The name of a federation, a node or a helper."""
RUN_PATTERN: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
"""A run."""
UPDATE_PATTERN: Final = re.compile(rf"(0|[1-9][0-9]{{0,9}})-([A-Za-z0-9_-]{{1,{ID_CHARS_MAX}}})", re.ASCII)
"""An update: its round and its node."""

RUN: Final = Word(RUN_PATTERN)
UPDATE: Final = Word(UPDATE_PATTERN)
COUNT: Final = Whole(INT32_MAX)
DIGEST: Final = Blob(DIGEST_BYTES, least=DIGEST_BYTES)
PROTOCOL: Final = Whole(65_535, least=1)
DRAWN: Final = Whole(INT64_MAX, least=1)
SECONDS: Final = Real(SECONDS_MAX, least=0.0)
PAYLOAD: Final = Whole(PAYLOAD_BYTES_MAX, least=1)
CHUNK: Final = Whole(CHUNK_BYTES, least=1)
EXAMPLE_PRIVACY: Final = Record(
    ExamplePrivacy,
    (
        Field(1, "clip", Real(1e9, least=1e-9)),
        Field(2, "noise", Real(1e6, least=1e-3)),
        Field(3, "sampling_rate", Real(1.0, least=1e-9)),
        Field(4, "epsilon", Real(1e3, least=1e-6)),
        Field(5, "delta", Real(1e-2, least=1e-9)),
    ),
)
SAMPLED_STEPS: Final = Record(
    SampledSteps,
    (
        Field(1, "sampling_rate", Real(1.0, least=1e-9)),
        Field(2, "noise", Real(1e6, least=1e-3)),
        Field(3, "steps", Whole(INT32_MAX, least=1)),
    ),
)
SPENT: Final = Sequence(SAMPLED_STEPS, SPENT_KINDS_MAX)
REASON: Final = Choice(
    {
        Reason.NONE: 0,
        Reason.TOO_STALE: 1,
        Reason.FINISHED: 2,
        Reason.OTHER_RUN: 3,
        Reason.UNKNOWN_ROUND: 4,
        Reason.NOT_ASSIGNED: 5,
        Reason.BASE_MISMATCH: 6,
        Reason.TOO_LARGE: 7,
        Reason.BAD_NUM_EXAMPLES: 8,
        Reason.QUOTA: 9,
        Reason.CODEC: 10,
        Reason.DIGEST_MISMATCH: 11,
        Reason.MALFORMED_FRAME: 12,
        Reason.NOT_FINITE: 13,
        Reason.NORM: 14,
        Reason.INCOMPATIBLE: 15,
        Reason.HELPER_LOST: 16,
        Reason.HELPER_REFUSED: 17,
        Reason.TERMS: 18,
        Reason.COUNTED: 19,
    }
)
PRESENCE: Final = Choice({Presence.ONLINE: 0, Presence.OFFLINE: 1, Presence.LOST: 2})


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSchema:
    """One message on the wire.

    Attributes:
        code: Its type code, under key 1 of the envelope; never reused.
        record: Its fields; their numbers start at 2.
        bytes_max: Size limit of the whole message, in bytes.
    """

    code: int
    record: Record
    bytes_max: int


def message(
    code: int,
    make: type,
    *fields: Field,
    check: Callable[[Any], None] | None = None,
    bytes_max: int = HEADER_BYTES_MAX,
) -> MessageSchema:
    """The table of one message."""
    return MessageSchema(code=code, record=Record(make, fields, check), bytes_max=bytes_max)


class _Chunked(Protocol):
    @property
    def payload_bytes(self) -> int: ...
    @property
    def chunk_bytes(self) -> int: ...


class _Offered(_Chunked, Protocol):
    @property
    def inline(self) -> bytes | None: ...


class _Speaker(Protocol):
    @property
    def protocol_min(self) -> int: ...
    @property
    def protocol_max(self) -> int: ...


def check_chunks(value: _Chunked) -> None:
    """Refuse what would have too many chunks."""
    if -(-value.payload_bytes // value.chunk_bytes) > CHUNKS_MAX:
        raise FieldError(f"payload_bytes / chunk_bytes is more than {CHUNKS_MAX} chunks")


def check_offer(offer: _Offered) -> None:
    """Refuse too many chunks, and a payload of another size than is said."""
    check_chunks(offer)
    if offer.inline is not None and len(offer.inline) != offer.payload_bytes:
        raise FieldError(f"{type(offer).__name__}.inline is not payload_bytes long")


def check_protocol(state: _Speaker) -> None:
    """Refuse a range of protocols that is empty."""
    if state.protocol_min > state.protocol_max:
        raise FieldError("protocol_min is above protocol_max")
