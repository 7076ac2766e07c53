"""The field tables of the messages of masked sums, as PROTOCOL.md prints them."""

from itertools import pairwise
from typing import Final

from federation.protocol.enumerations import HeldStatus, PrivacyUnit, SumReason
from federation.protocol.fields import Blob, Choice, Field, FieldError, Real, Record, Sequence, Text, Whole
from federation.protocol.limits import (
    BANDWIDTH_MAX,
    BOX_BYTES_MAX,
    CHUNK_BYTES,
    CLASSES_MAX,
    DIMENSION_MAX,
    EVALUATION_METRICS_MAX,
    HELPERS_MAX,
    INT32_MAX,
    INT64_MAX,
    KEY_BYTES_MAX,
    LEVELS_MAX,
    MASK_BITS_MAX,
    MASKED_REPORT_BYTES_MAX,
    MEMBERS_LEAST,
    MEMBERS_MAX,
    MESSAGE_BYTES_MAX,
    METRIC_NAME_BYTES_MAX,
    REFUSED_MEMBERS_MAX,
    RELEASES_MAX,
    SUM_REQUEST_BYTES_MAX,
    TAIL_MAX,
    TICKET_BYTES_MAX,
)
from federation.protocol.sum_messages import (
    Held,
    HelperState,
    MaskedEvaluation,
    MaskedReport,
    PrivacyTerms,
    SealedSeeds,
    SumOffer,
    SumRefusal,
    SumRequest,
    Ticket,
)
from federation.protocol.tables import (
    CHUNK,
    COUNT,
    DIGEST,
    DRAWN,
    PAYLOAD,
    PRESENCE,
    PROTOCOL,
    RUN,
    UPDATE,
    MessageSchema,
    check_offer,
    check_protocol,
    message,
)
from federation.types import DIGEST_BYTES

UNIT: Final = Choice({PrivacyUnit.NODES: 0, PrivacyUnit.EXAMPLES: 1})
HELD_STATUS: Final = Choice({HeldStatus.HELD: 0, HeldStatus.REFUSED: 1})
SUM_REASON: Final = Choice({reason: number for number, reason in enumerate(SumReason)})
TICKET_BYTES: Final = Blob(TICKET_BYTES_MAX, least=1)
BOXES: Final = Sequence(Blob(BOX_BYTES_MAX, least=1), HELPERS_MAX)

_BOX = Blob(BOX_BYTES_MAX, least=1)
_CLASS = Whole(CLASSES_MAX - 1)
_POSITIVE = Real(least=2.0**-1022)


def _check_terms(terms: PrivacyTerms) -> None:
    if terms.threshold > terms.count:
        raise FieldError("PrivacyTerms.threshold is above count")
    if 2 * terms.members * terms.levels + 1 > 1 << terms.bits:
        raise FieldError("PrivacyTerms.bits cannot hold the sum of members * levels")
    if terms.noise is not None and (terms.clip is None or terms.unit is None):
        raise FieldError("PrivacyTerms.noise needs clip and unit")
    if terms.bit_noise is not None and terms.noise is None:
        raise FieldError("PrivacyTerms.bit_noise needs noise")
    plan = (terms.bandwidth, terms.releases, terms.separation, terms.participations)
    if any(part is not None for part in plan) and (None in plan or terms.noise is None):
        raise FieldError("PrivacyTerms: bandwidth, releases, separation and participations need each other, and noise")


def _check_members(value: SumRequest | SumRefusal) -> None:
    cuts = range(0, len(value.members), DIGEST_BYTES)
    listed = [value.members[cut : cut + DIGEST_BYTES] for cut in cuts]
    if len(value.members) % DIGEST_BYTES or any(one >= two for one, two in pairwise(listed)):
        raise FieldError(f"members needs ascending digests of {DIGEST_BYTES} bytes")


def _check_evaluation(evaluation: MaskedEvaluation) -> None:
    if not evaluation.metrics or len(set(evaluation.metrics)) != len(evaluation.metrics):
        raise FieldError("MaskedEvaluation.metrics needs names, each once")


def _check_request(request: SumRequest) -> None:
    _check_members(request)
    if not request.classes or any(one >= two for one, two in pairwise(request.classes)):
        raise FieldError("SumRequest.classes needs ascending numbers")


PRIVACY_TERMS: Final = Record(
    PrivacyTerms,
    (
        Field(1, "scheme", Whole(255, least=1)),
        Field(2, "helpers", DIGEST),
        Field(3, "count", Whole(HELPERS_MAX, least=1)),
        Field(4, "threshold", Whole(HELPERS_MAX, least=1)),
        Field(5, "dimension", Whole(DIMENSION_MAX, least=1)),
        Field(6, "tail", Whole(TAIL_MAX)),
        Field(7, "step", _POSITIVE),
        Field(8, "levels", Whole(LEVELS_MAX, least=1)),
        Field(9, "members", Whole(MEMBERS_MAX, least=MEMBERS_LEAST)),
        Field(10, "bits", Whole(MASK_BITS_MAX, least=2)),
        Field(11, "clip", _POSITIVE, optional=True),
        Field(12, "importance_cap", Whole(INT32_MAX, least=1), optional=True),
        Field(13, "noise", _POSITIVE, optional=True),
        Field(14, "unit", UNIT, optional=True),
        Field(15, "bit_noise", _POSITIVE, optional=True),
        Field(16, "bandwidth", Whole(BANDWIDTH_MAX, least=2), optional=True),
        Field(17, "releases", Whole(RELEASES_MAX, least=1), optional=True),
        Field(18, "separation", Whole(RELEASES_MAX, least=1), optional=True),
        Field(19, "participations", Whole(RELEASES_MAX, least=1), optional=True),
    ),
    _check_terms,
)

MASKED_EVALUATION: Final = Record(
    MaskedEvaluation,
    (
        Field(1, "share", Whole(INT64_MAX)),
        Field(2, "metrics", Sequence(Text(METRIC_NAME_BYTES_MAX, least=1), EVALUATION_METRICS_MAX)),
    ),
    _check_evaluation,
)

MASKED_REPORT: Final = Record(
    MaskedReport,
    (
        Field(1, "update", UPDATE),
        Field(2, "metrics", DIGEST),
        Field(3, "payload", Blob(MASKED_REPORT_BYTES_MAX, least=1)),
        Field(4, "ticket", TICKET_BYTES),
        Field(5, "boxes", BOXES),
    ),
)

SUM_SCHEMAS: Final[tuple[MessageSchema, ...]] = (
    message(
        20,
        HelperState,
        Field(2, "presence", PRESENCE),
        Field(3, "incarnation", COUNT),
        Field(4, "state_id", DRAWN),
        Field(5, "protocol_min", PROTOCOL),
        Field(6, "protocol_max", PROTOCOL),
        Field(7, "kem", Whole(65_535)),
        Field(8, "key", Blob(KEY_BYTES_MAX, least=1)),
        Field(9, "members_min", Whole(MEMBERS_MAX, least=MEMBERS_LEAST)),
        check=check_protocol,
    ),
    message(
        21,
        Ticket,
        Field(2, "run", RUN),
        Field(3, "update", UPDATE),
        Field(4, "base_version", COUNT),
        Field(5, "base_digest", DIGEST),
        Field(6, "terms", DIGEST),
        Field(7, "payload_digest", DIGEST),
        Field(8, "boxes", Sequence(DIGEST, HELPERS_MAX)),
        bytes_max=TICKET_BYTES_MAX,
    ),
    message(
        22,
        SealedSeeds,
        Field(2, "run", RUN),
        Field(3, "update", UPDATE),
        Field(4, "ticket", TICKET_BYTES),
        Field(5, "box", _BOX),
    ),
    message(
        23,
        Held,
        Field(2, "run", RUN),
        Field(3, "update", UPDATE),
        Field(4, "ticket", DIGEST),
        Field(5, "status", HELD_STATUS),
        Field(6, "reason", SUM_REASON),
        Field(7, "taken", COUNT, optional=True),
        Field(8, "gap", COUNT, optional=True),
        Field(9, "spent", Real(least=0.0), optional=True),
    ),
    message(
        24,
        SumRequest,
        Field(2, "run", RUN),
        Field(3, "version", COUNT),
        Field(4, "batch", DIGEST),
        Field(5, "terms", PRIVACY_TERMS),
        Field(6, "members", Blob(MEMBERS_MAX * DIGEST_BYTES, least=DIGEST_BYTES)),
        Field(7, "classes", Sequence(_CLASS, CLASSES_MAX)),
        check=_check_request,
        bytes_max=SUM_REQUEST_BYTES_MAX,
    ),
    message(
        25,
        SumOffer,
        Field(2, "run", RUN),
        Field(3, "batch", DIGEST),
        Field(4, "part", _CLASS),
        Field(5, "payload_bytes", PAYLOAD),
        Field(6, "payload_digest", DIGEST),
        Field(7, "chunk_bytes", CHUNK),
        Field(8, "inline", Blob(CHUNK_BYTES), optional=True),
        check=check_offer,
        bytes_max=MESSAGE_BYTES_MAX,
    ),
    message(
        26,
        SumRefusal,
        Field(2, "run", RUN),
        Field(3, "batch", DIGEST),
        Field(4, "reason", SUM_REASON),
        Field(5, "members", Blob(REFUSED_MEMBERS_MAX * DIGEST_BYTES)),
        check=_check_members,
    ),
)
"""Their messages, by ascending type code."""
