"""The field table of every message: numbers, kinds and limits, as PROTOCOL.md prints them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from federation.protocol.fields import (
    Blob,
    Choice,
    Field,
    FieldError,
    Flag,
    Numbers,
    Real,
    Record,
    Sequence,
    Text,
    Whole,
    Word,
)
from federation.protocol.limits import (
    ANNOUNCEMENT_BYTES_MAX,
    CHUNK_BYTES,
    CHUNKS_MAX,
    CODECS_MAX,
    COHORT_NODES_MAX,
    DELTA_INLINE_BYTES_MAX,
    EXAMPLES_MAX,
    FINGERPRINT_BYTES,
    GRANT_BYTES_MAX,
    HEADER_BYTES_MAX,
    ID_CHARS_MAX,
    INPUTS_BYTES_MAX,
    INT32_MAX,
    INT64_MAX,
    MESSAGE_BYTES_MAX,
    NAME_BYTES_MAX,
    PARTS_MAX,
    PAYLOAD_BYTES_MAX,
    PROOF_BYTES_MAX,
    REASON_BYTES_MAX,
    SECONDS_MAX,
    SPEC_BYTES_MAX,
)
from federation.protocol.messages import (
    Activity,
    Cancel,
    Cohort,
    CoordinatorState,
    Decline,
    EvaluationReceipt,
    EvaluationReport,
    Grant,
    ModelPart,
    ModelRef,
    NodeState,
    PartKind,
    Presence,
    Progress,
    Proof,
    Reason,
    Rebirth,
    Receipt,
    ReceiptStatus,
    RetryAfter,
    RoundAnnouncement,
    TrainSettings,
    UpdateOffer,
)
from federation.types import DIGEST_BYTES, SeenRun

ID_PATTERN: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{ID_CHARS_MAX}}}", re.ASCII)
"""A federation's or a node's name."""
RUN_PATTERN: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
"""A run."""
UPDATE_PATTERN: Final = re.compile(rf"(0|[1-9][0-9]{{0,9}})-([A-Za-z0-9_-]{{1,{ID_CHARS_MAX}}})", re.ASCII)
"""An update: its round and its node."""

_RUN = Word(RUN_PATTERN)
_UPDATE = Word(UPDATE_PATTERN)
_COUNT = Whole(INT32_MAX)
_DIGEST = Blob(DIGEST_BYTES, least=DIGEST_BYTES)
_PROTOCOL = Whole(65_535, least=1)
_DRAWN = Whole(INT64_MAX, least=1)
_SECONDS = Real(SECONDS_MAX, least=0.0)
_SPEC = Text(SPEC_BYTES_MAX, least=1)
_NAME = Text(NAME_BYTES_MAX)
_PAYLOAD = Whole(PAYLOAD_BYTES_MAX, least=1)
_CHUNK = Whole(CHUNK_BYTES, least=1)

_PRESENCE = Choice({Presence.ONLINE: 0, Presence.OFFLINE: 1, Presence.LOST: 2})
_PART_KIND = Choice({PartKind.KEYFRAME: 0, PartKind.DELTA: 1})
_STATUS = Choice({ReceiptStatus.STORED: 0, ReceiptStatus.APPLIED: 1, ReceiptStatus.STALE: 2, ReceiptStatus.REFUSED: 3})
_ACTIVITY = Choice({Activity.IDLE: 0, Activity.FETCHING: 1, Activity.TRAINING: 2, Activity.UPLOADING: 3})
_REASON = Choice(
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
    }
)


def _check_chunks(value: ModelPart | UpdateOffer) -> None:
    if -(-value.payload_bytes // value.chunk_bytes) > CHUNKS_MAX:
        raise FieldError(f"payload_bytes / chunk_bytes is more than {CHUNKS_MAX} chunks")


def _check_delta(model: ModelRef) -> None:
    newest = model.newest_delta
    if model.delta is not None and (newest is None or newest.payload_bytes != len(model.delta)):
        raise FieldError("ModelRef.delta is not the payload of a listed part")


def _check_offer(offer: UpdateOffer) -> None:
    _check_chunks(offer)
    if offer.inline is not None and len(offer.inline) != offer.payload_bytes:
        raise FieldError("UpdateOffer.inline is not payload_bytes long")


def _check_cohort(cohort: Cohort) -> None:
    size = FINGERPRINT_BYTES
    listed = [cohort.fingerprints[at : at + size] for at in range(0, len(cohort.fingerprints), size)]
    if len(cohort.fingerprints) % size or any(one >= two for one, two in pairwise(listed)):
        raise FieldError(f"Cohort.fingerprints needs ascending fingerprints of {size} bytes")
    if listed and cohort.share is not None:
        raise FieldError("Cohort has fingerprints and a share: needs one of them")


def _check_protocol(state: CoordinatorState | NodeState) -> None:
    if state.protocol_min > state.protocol_max:
        raise FieldError("protocol_min is above protocol_max")


_TRAIN_SETTINGS = Record(
    TrainSettings,
    (
        Field(1, "local_epochs", _COUNT),
        Field(2, "batch_size", _COUNT),
        Field(3, "learning_rate", Real()),
        Field(4, "momentum", Real()),
        Field(5, "weight_decay", Real()),
        Field(6, "max_steps", _COUNT),
        Field(7, "proximal_mu", Real()),
        Field(8, "seed", Whole(INT64_MAX)),
        Field(9, "extra", Numbers()),
    ),
)
_MODEL_PART = Record(
    ModelPart,
    (
        Field(1, "kind", _PART_KIND),
        Field(2, "version", _COUNT),
        Field(3, "payload_bytes", _PAYLOAD),
        Field(4, "payload_digest", _DIGEST),
        Field(5, "chunk_bytes", _CHUNK),
    ),
    _check_chunks,
)
_MODEL_REF = Record(
    ModelRef,
    (
        Field(1, "version", _COUNT),
        Field(2, "digest", _DIGEST),
        Field(3, "manifest_digest", _DIGEST),
        Field(4, "seed", Whole(INT64_MAX), optional=True),
        Field(5, "parts", Sequence(_MODEL_PART, PARTS_MAX)),
        Field(6, "delta", Blob(DELTA_INLINE_BYTES_MAX, least=1), optional=True),
        Field(7, "inputs_digest", _DIGEST, optional=True),
    ),
    _check_delta,
)
_COHORT = Record(
    Cohort,
    (
        Field(1, "fingerprints", Blob(COHORT_NODES_MAX * FINGERPRINT_BYTES)),
        Field(2, "share", Whole(INT64_MAX), optional=True),
    ),
    _check_cohort,
)
_SEEN_RUN = Record(
    SeenRun,
    (
        Field(1, "run", _RUN),
        Field(2, "epoch", _COUNT),
        Field(3, "start", Whole(INT64_MAX)),
        Field(4, "round", _COUNT, optional=True),
        Field(5, "version", _COUNT, optional=True),
    ),
)


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


def _message(
    code: int,
    make: type,
    *fields: Field,
    check: Callable[[Any], None] | None = None,
    bytes_max: int = HEADER_BYTES_MAX,
) -> MessageSchema:
    return MessageSchema(code=code, record=Record(make, fields, check), bytes_max=bytes_max)


SCHEMAS: Final[tuple[MessageSchema, ...]] = (
    _message(
        1,
        CoordinatorState,
        Field(2, "presence", _PRESENCE),
        Field(3, "run", _RUN),
        Field(4, "epoch", _COUNT),
        Field(5, "protocol_min", _PROTOCOL),
        Field(6, "protocol_max", _PROTOCOL),
        Field(7, "began_ms", Whole(EXAMPLES_MAX), optional=True),
        Field(8, "start", _DRAWN, optional=True),
        Field(9, "inputs", Text(INPUTS_BYTES_MAX, least=1), optional=True),
        check=_check_protocol,
    ),
    _message(
        2,
        RoundAnnouncement,
        Field(2, "run", _RUN),
        Field(3, "epoch", _COUNT),
        Field(4, "round", _COUNT),
        Field(5, "task", _NAME),
        Field(6, "model", _MODEL_REF),
        Field(7, "cohort", _COHORT),
        Field(8, "settings", _TRAIN_SETTINGS),
        Field(9, "codec", _SPEC),
        Field(10, "min_base_version", _COUNT),
        Field(11, "lease_s", _SECONDS),
        Field(12, "spread_s", _SECONDS),
        Field(13, "final", Flag()),
        Field(14, "evaluation", Whole(INT64_MAX), optional=True),
        Field(15, "start_low", _COUNT, optional=True),
        bytes_max=ANNOUNCEMENT_BYTES_MAX,
    ),
    _message(
        3,
        NodeState,
        Field(2, "presence", _PRESENCE),
        Field(3, "incarnation", _COUNT),
        Field(4, "protocol_min", _PROTOCOL),
        Field(5, "protocol_max", _PROTOCOL),
        Field(6, "task", _NAME),
        Field(7, "device", _NAME),
        Field(8, "codecs", Sequence(_SPEC, CODECS_MAX)),
        Field(9, "activity", _ACTIVITY),
        Field(10, "round", _COUNT, optional=True),
        Field(11, "capabilities", Numbers(), optional=True),
        Field(12, "state_id", _DRAWN, optional=True),
        Field(13, "seen", _SEEN_RUN, optional=True),
        check=_check_protocol,
    ),
    _message(
        4,
        UpdateOffer,
        Field(2, "run", _RUN),
        Field(3, "round", _COUNT),
        Field(4, "update", _UPDATE),
        Field(5, "incarnation", _COUNT),
        Field(6, "base_version", _COUNT),
        Field(7, "base_digest", _DIGEST),
        Field(8, "num_examples", Whole(EXAMPLES_MAX)),
        Field(9, "metrics", Numbers()),
        Field(10, "codec", _SPEC),
        Field(11, "payload_bytes", _PAYLOAD),
        Field(12, "payload_digest", _DIGEST),
        Field(13, "chunk_bytes", _CHUNK),
        Field(14, "fetched_bytes", Whole(INT64_MAX)),
        Field(15, "train_s", _SECONDS),
        Field(16, "inline", Blob(CHUNK_BYTES), optional=True),
        check=_check_offer,
        bytes_max=MESSAGE_BYTES_MAX,
    ),
    _message(
        5,
        Decline,
        Field(2, "run", _RUN),
        Field(3, "round", _COUNT),
        Field(4, "reason", Text(REASON_BYTES_MAX)),
        Field(5, "retry_after_s", _SECONDS),
        Field(6, "missing", Flag(), optional=True),
    ),
    _message(
        6,
        Grant,
        Field(2, "update", _UPDATE),
        Field(3, "bitmap", Blob(CHUNKS_MAX // 8)),
        Field(4, "window", Whole(CHUNKS_MAX)),
        bytes_max=GRANT_BYTES_MAX,
    ),
    _message(
        7,
        Receipt,
        Field(2, "run", _RUN),
        Field(3, "update", _UPDATE),
        Field(4, "status", _STATUS),
        Field(5, "reason", _REASON),
        Field(6, "version", _COUNT, optional=True),
    ),
    _message(8, Cancel, Field(2, "run", _RUN), Field(3, "round", _COUNT)),
    _message(9, RetryAfter, Field(2, "update", _UPDATE), Field(3, "seconds", _SECONDS)),
    _message(10, Rebirth, Field(2, "proof", Flag(), optional=True)),
    _message(
        11,
        Progress,
        Field(2, "round", _COUNT),
        Field(3, "activity", _ACTIVITY),
        Field(4, "fraction", Real(1.0, least=0.0)),
        Field(5, "metrics", Numbers()),
    ),
    _message(
        12,
        EvaluationReport,
        Field(2, "run", _RUN),
        Field(3, "version", _COUNT),
        Field(4, "digest", _DIGEST),
        Field(5, "num_examples", Whole(EXAMPLES_MAX)),
        Field(6, "metrics", Numbers()),
        Field(7, "evaluate_s", _SECONDS),
        Field(8, "reason", Text(REASON_BYTES_MAX)),
    ),
    _message(
        13,
        EvaluationReceipt,
        Field(2, "run", _RUN),
        Field(3, "version", _COUNT),
        Field(4, "status", _STATUS),
        Field(5, "reason", _REASON),
    ),
    _message(
        14,
        Proof,
        Field(2, "state", Blob(HEADER_BYTES_MAX, least=1), optional=True),
        Field(3, "announcement", Blob(ANNOUNCEMENT_BYTES_MAX, least=1), optional=True),
        bytes_max=PROOF_BYTES_MAX,
    ),
)
"""Every message, by ascending type code."""
