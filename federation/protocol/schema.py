"""The field table of every message: numbers, kinds and limits, as PROTOCOL.md prints them."""

from itertools import pairwise
from typing import Final

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
)
from federation.protocol.limits import (
    ANNOUNCEMENT_BYTES_MAX,
    CHUNK_BYTES,
    CHUNKS_MAX,
    CLAIM_BYTES,
    CLAIMS_MAX,
    CODECS_MAX,
    COHORT_NODES_MAX,
    COUNTED_MAX,
    DELTA_INLINE_BYTES_MAX,
    EXAMPLES_MAX,
    FINGERPRINT_BYTES,
    GRANT_BYTES_MAX,
    HEADER_BYTES_MAX,
    INPUTS_BYTES_MAX,
    INT32_MAX,
    INT64_MAX,
    MESSAGE_BYTES_MAX,
    NAME_BYTES_MAX,
    PARTS_MAX,
    PROOF_BYTES_MAX,
    PROVEN_RECEIPT_BYTES_MAX,
    REASON_BYTES_MAX,
    RELEASE_BYTES_MAX,
    REPORT_BYTES_MAX,
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
    Progress,
    Proof,
    Rebirth,
    Receipt,
    ReceiptStatus,
    RetryAfter,
    RoundAnnouncement,
    TrainSettings,
    UpdateOffer,
)
from federation.protocol.sealed_messages import CONTENT_KEY, PARTS_SEAL, SEALED_SCHEMAS, SEALING_KEY
from federation.protocol.site_messages import SITE_REPORT
from federation.protocol.sum_schema import (
    BOXES,
    MASKED_EVALUATION,
    MASKED_REPORT,
    PRIVACY_TERMS,
    SUM_SCHEMAS,
    TICKET_BYTES,
)
from federation.protocol.tables import (
    CHUNK,
    COUNT,
    DIGEST,
    DRAWN,
    EXAMPLE_PRIVACY,
    PAYLOAD,
    PRESENCE,
    PROTOCOL,
    REASON,
    RUN,
    SECONDS,
    SPENT,
    UPDATE,
    MessageSchema,
    check_chunks,
    check_offer,
    check_protocol,
    message,
)
from federation.protocol.task_messages import TASK_SCHEMAS
from federation.types import SeenRun

_SPEC = Text(SPEC_BYTES_MAX, least=1)
_NAME = Text(NAME_BYTES_MAX)

_PART_KIND = Choice({PartKind.KEYFRAME: 0, PartKind.DELTA: 1})
_STATUS = Choice({ReceiptStatus.STORED: 0, ReceiptStatus.APPLIED: 1, ReceiptStatus.STALE: 2, ReceiptStatus.REFUSED: 3})
_ACTIVITY = Choice({Activity.IDLE: 0, Activity.FETCHING: 1, Activity.TRAINING: 2, Activity.UPLOADING: 3})


def _check_delta(model: ModelRef) -> None:
    newest = model.newest_delta
    if model.delta is not None and (newest is None or newest.payload_bytes != len(model.delta)):
        raise FieldError("ModelRef.delta is not the payload of a listed part")


def _check_update(offer: UpdateOffer) -> None:
    check_offer(offer)
    if (offer.ticket is None) is not (offer.boxes is None):
        raise FieldError("UpdateOffer has a ticket or boxes: needs both or neither")
    if len(offer.members or b"") % CLAIM_BYTES:
        raise FieldError(f"UpdateOffer.members needs claims of {CLAIM_BYTES} bytes")


def _check_counted(receipt: Receipt) -> None:
    if len(receipt.counted or b"") % CLAIM_BYTES:
        raise FieldError(f"Receipt.counted needs claims of {CLAIM_BYTES} bytes")


def _check_cohort(cohort: Cohort) -> None:
    size = FINGERPRINT_BYTES
    listed = [cohort.fingerprints[at : at + size] for at in range(0, len(cohort.fingerprints), size)]
    if len(cohort.fingerprints) % size or any(one >= two for one, two in pairwise(listed)):
        raise FieldError(f"Cohort.fingerprints needs ascending fingerprints of {size} bytes")
    if listed and cohort.share is not None:
        raise FieldError("Cohort has fingerprints and a share: needs one of them")


def _check_settings(settings: TrainSettings) -> None:
    if settings.privacy is not None and not (settings.batch_size and settings.local_epochs):
        raise FieldError("TrainSettings.privacy needs a batch_size and local_epochs of at least 1")


_TRAIN_SETTINGS = Record(
    TrainSettings,
    (
        Field(1, "local_epochs", COUNT),
        Field(2, "batch_size", COUNT),
        Field(3, "learning_rate", Real()),
        Field(4, "momentum", Real()),
        Field(5, "weight_decay", Real()),
        Field(6, "max_steps", COUNT),
        Field(7, "proximal_mu", Real()),
        Field(8, "seed", Whole(INT64_MAX)),
        Field(9, "extra", Numbers()),
        Field(10, "privacy", EXAMPLE_PRIVACY, optional=True),
    ),
    _check_settings,
)


def check_settings(settings: TrainSettings) -> None:
    """Whether an announcement has room for settings, before there is one.

    Raises:
        FieldError: One is beyond its field; the message begins with ``TrainSettings.`` and the field's name.
    """
    _TRAIN_SETTINGS.pack(settings)


_MODEL_PART = Record(
    ModelPart,
    (
        Field(1, "kind", _PART_KIND),
        Field(2, "version", COUNT),
        Field(3, "payload_bytes", PAYLOAD),
        Field(4, "payload_digest", DIGEST),
        Field(5, "chunk_bytes", CHUNK),
    ),
    check_chunks,
)
_MODEL_REF = Record(
    ModelRef,
    (
        Field(1, "version", COUNT),
        Field(2, "digest", DIGEST),
        Field(3, "manifest_digest", DIGEST),
        Field(4, "seed", Whole(INT64_MAX), optional=True),
        Field(5, "parts", Sequence(_MODEL_PART, PARTS_MAX)),
        Field(6, "delta", Blob(DELTA_INLINE_BYTES_MAX, least=1), optional=True),
        Field(7, "inputs_digest", DIGEST, optional=True),
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
        Field(1, "run", RUN),
        Field(2, "epoch", COUNT),
        Field(3, "start", Whole(INT64_MAX)),
        Field(4, "round", COUNT, optional=True),
        Field(5, "version", COUNT, optional=True),
    ),
)


def _check_announcement(announcement: RoundAnnouncement) -> None:
    masked = announcement.masked_evaluation is not None
    if masked and (announcement.privacy is None or announcement.evaluation is not None):
        raise FieldError("RoundAnnouncement.masked_evaluation needs privacy, and no evaluation in clear")


def _check_report(report: EvaluationReport) -> None:
    if report.masked is not None and (report.num_examples or report.metrics or report.reason):
        raise FieldError("EvaluationReport.masked goes with no number in clear")


SCHEMAS: Final[tuple[MessageSchema, ...]] = (
    message(
        1,
        CoordinatorState,
        Field(2, "presence", PRESENCE),
        Field(3, "run", RUN),
        Field(4, "epoch", COUNT),
        Field(5, "protocol_min", PROTOCOL),
        Field(6, "protocol_max", PROTOCOL),
        Field(7, "began_ms", Whole(EXAMPLES_MAX), optional=True),
        Field(8, "start", DRAWN, optional=True),
        Field(9, "inputs", Text(INPUTS_BYTES_MAX, least=1), optional=True),
        Field(10, "seal", SEALING_KEY, optional=True),
        Field(11, "births_s", SECONDS, optional=True),
        Field(12, "pace_s", SECONDS, optional=True),
        check=check_protocol,
    ),
    message(
        2,
        RoundAnnouncement,
        Field(2, "run", RUN),
        Field(3, "epoch", COUNT),
        Field(4, "round", COUNT),
        Field(5, "task", _NAME),
        Field(6, "model", _MODEL_REF),
        Field(7, "cohort", _COHORT),
        Field(8, "settings", _TRAIN_SETTINGS),
        Field(9, "codec", _SPEC),
        Field(10, "min_base_version", COUNT),
        Field(11, "lease_s", SECONDS),
        Field(12, "spread_s", SECONDS),
        Field(13, "final", Flag()),
        Field(14, "evaluation", Whole(INT64_MAX), optional=True),
        Field(15, "start_low", COUNT, optional=True),
        Field(16, "privacy", PRIVACY_TERMS, optional=True),
        Field(17, "seal", PARTS_SEAL, optional=True),
        Field(18, "masked_evaluation", MASKED_EVALUATION, optional=True),
        check=_check_announcement,
        bytes_max=ANNOUNCEMENT_BYTES_MAX,
    ),
    message(
        3,
        NodeState,
        Field(2, "presence", PRESENCE),
        Field(3, "incarnation", COUNT),
        Field(4, "protocol_min", PROTOCOL),
        Field(5, "protocol_max", PROTOCOL),
        Field(6, "task", _NAME),
        Field(7, "device", _NAME),
        Field(8, "codecs", Sequence(_SPEC, CODECS_MAX)),
        Field(9, "activity", _ACTIVITY),
        Field(10, "round", COUNT, optional=True),
        Field(11, "capabilities", Numbers(), optional=True),
        Field(12, "state_id", DRAWN, optional=True),
        Field(13, "seen", _SEEN_RUN, optional=True),
        Field(14, "seal", SEALING_KEY, optional=True),
        Field(18, "spent", SPENT, optional=True),
        Field(19, "invitable", Flag(), optional=True),
        Field(20, "release", Text(RELEASE_BYTES_MAX, least=1), optional=True),
        Field(21, "away_s", SECONDS, optional=True),
        check=check_protocol,
    ),
    message(
        4,
        UpdateOffer,
        Field(2, "run", RUN),
        Field(3, "round", COUNT),
        Field(4, "update", UPDATE),
        Field(5, "incarnation", COUNT),
        Field(6, "base_version", COUNT),
        Field(7, "base_digest", DIGEST),
        Field(8, "num_examples", Whole(EXAMPLES_MAX)),
        Field(9, "metrics", Numbers()),
        Field(10, "codec", _SPEC),
        Field(11, "payload_bytes", PAYLOAD),
        Field(12, "payload_digest", DIGEST),
        Field(13, "chunk_bytes", CHUNK),
        Field(14, "fetched_bytes", Whole(INT64_MAX)),
        Field(15, "train_s", SECONDS),
        Field(16, "inline", Blob(CHUNK_BYTES), optional=True),
        Field(17, "ticket", TICKET_BYTES, optional=True),
        Field(18, "boxes", BOXES, optional=True),
        Field(19, "content_key", CONTENT_KEY, optional=True),
        Field(20, "spent", SPENT, optional=True),
        Field(21, "members", Blob(CLAIMS_MAX * CLAIM_BYTES, least=CLAIM_BYTES), optional=True),
        check=_check_update,
        bytes_max=MESSAGE_BYTES_MAX,
    ),
    message(
        5,
        Decline,
        Field(2, "run", RUN),
        Field(3, "round", COUNT),
        Field(4, "reason", Text(REASON_BYTES_MAX)),
        Field(5, "retry_after_s", SECONDS),
        Field(6, "missing", Flag(), optional=True),
    ),
    message(
        6,
        Grant,
        Field(2, "update", UPDATE),
        Field(3, "bitmap", Blob(CHUNKS_MAX // 8)),
        Field(4, "window", Whole(CHUNKS_MAX)),
        bytes_max=GRANT_BYTES_MAX,
    ),
    message(
        7,
        Receipt,
        Field(2, "run", RUN),
        Field(3, "update", UPDATE),
        Field(4, "status", _STATUS),
        Field(5, "reason", REASON),
        Field(6, "version", COUNT, optional=True),
        Field(7, "counted", Blob(COUNTED_MAX * CLAIM_BYTES, least=CLAIM_BYTES), optional=True),
        check=_check_counted,
    ),
    message(8, Cancel, Field(2, "run", RUN), Field(3, "round", COUNT)),
    message(9, RetryAfter, Field(2, "update", UPDATE), Field(3, "seconds", SECONDS)),
    message(
        10,
        Rebirth,
        Field(2, "proof", Flag(), optional=True),
        Field(3, "spent", SPENT, optional=True),
        Field(4, "seal", SEALING_KEY, optional=True),
    ),
    message(
        11,
        Progress,
        Field(2, "round", COUNT),
        Field(3, "activity", _ACTIVITY),
        Field(4, "fraction", Real(1.0, least=0.0)),
        Field(5, "metrics", Numbers()),
        Field(6, "site", SITE_REPORT, optional=True),
    ),
    message(
        12,
        EvaluationReport,
        Field(2, "run", RUN),
        Field(3, "version", COUNT),
        Field(4, "digest", DIGEST),
        Field(5, "num_examples", Whole(EXAMPLES_MAX)),
        Field(6, "metrics", Numbers()),
        Field(7, "evaluate_s", SECONDS),
        Field(8, "reason", Text(REASON_BYTES_MAX)),
        Field(9, "masked", MASKED_REPORT, optional=True),
        Field(10, "nodes", Whole(INT32_MAX, least=1), optional=True),
        check=_check_report,
        bytes_max=REPORT_BYTES_MAX,
    ),
    message(
        13,
        EvaluationReceipt,
        Field(2, "run", RUN),
        Field(3, "version", COUNT),
        Field(4, "status", _STATUS),
        Field(5, "reason", REASON),
    ),
    message(
        14,
        Proof,
        Field(2, "state", Blob(HEADER_BYTES_MAX, least=1), optional=True),
        Field(3, "announcement", Blob(ANNOUNCEMENT_BYTES_MAX, least=1), optional=True),
        Field(4, "receipt", Blob(PROVEN_RECEIPT_BYTES_MAX, least=1), optional=True),
        bytes_max=PROOF_BYTES_MAX,
    ),
    *SUM_SCHEMAS,
    *SEALED_SCHEMAS,
    *TASK_SCHEMAS,
)
"""Every message, by ascending type code."""
