"""The words that messages choose from: each has a number on the wire that never changes (PROTOCOL.md, Enumerations)."""

from enum import StrEnum


class Presence(StrEnum):
    """Whether a participant is there: ``lost`` is said by its will, ``offline`` by itself."""

    ONLINE = "online"
    OFFLINE = "offline"
    LOST = "lost"


class PartKind(StrEnum):
    """What a model part is: the whole model, or its difference to the version before."""

    KEYFRAME = "keyframe"
    DELTA = "delta"


class ReceiptStatus(StrEnum):
    """The coordinator's word on one update; all but ``stored`` are final."""

    STORED = "stored"
    APPLIED = "applied"
    STALE = "stale"
    REFUSED = "refused"

    @property
    def final(self) -> bool:
        """Whether no other receipt can follow."""
        return self is not ReceiptStatus.STORED


class Reason(StrEnum):
    """Why an update was refused or found stale."""

    NONE = "none"
    TOO_STALE = "too_stale"
    FINISHED = "finished"
    OTHER_RUN = "other_run"
    UNKNOWN_ROUND = "unknown_round"
    NOT_ASSIGNED = "not_assigned"
    BASE_MISMATCH = "base_mismatch"
    TOO_LARGE = "too_large"
    BAD_NUM_EXAMPLES = "bad_num_examples"
    QUOTA = "quota"
    CODEC = "codec"
    DIGEST_MISMATCH = "digest_mismatch"
    MALFORMED_FRAME = "malformed_frame"
    NOT_FINITE = "not_finite"
    NORM = "norm"
    INCOMPATIBLE = "incompatible"
    HELPER_LOST = "helper_lost"
    HELPER_REFUSED = "helper_refused"
    TERMS = "terms"
    COUNTED = "counted"

    @property
    def values_unfit(self) -> bool:
        """Whether the values themselves were refused: every later update with them would be, too [FED-51]."""
        return self in {Reason.NORM, Reason.NOT_FINITE}


class Activity(StrEnum):
    """What a node is doing."""

    IDLE = "idle"
    FETCHING = "fetching"
    TRAINING = "training"
    UPLOADING = "uploading"


class HeldStatus(StrEnum):
    """A helper's word on the seeds of one update; it never changes."""

    HELD = "held"
    REFUSED = "refused"


class SumReason(StrEnum):
    """Why a helper refuses seeds or a sum."""

    NONE = "none"
    UNKNOWN_NODE = "unknown_node"
    BAD_TICKET = "bad_ticket"
    BAD_BOX = "bad_box"
    OTHER_UPDATE = "other_update"
    BASE_MISMATCH = "base_mismatch"
    TOO_OLD = "too_old"
    TOO_LARGE = "too_large"
    FULL = "full"
    BATCH_MISMATCH = "batch_mismatch"
    TOO_FEW = "too_few"
    UNKNOWN_UPDATE = "unknown_update"
    DUPLICATE_NODE = "duplicate_node"
    TERMS = "terms"
    NOT_OURS = "not_ours"
    USED = "used"
    GONE = "gone"
    BUDGET = "budget"
    RESTS = "rests"


class PrivacyUnit(StrEnum):
    """Whose contribution the noise hides: all of a node's data, or one example of it."""

    NODES = "nodes"
    EXAMPLES = "examples"
