"""The checks that an update passes before it is kept: a bad one costs one update, never the run."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace

from coordinator.global_model.sums import SiteClaims
from coordinator.records import UpdateRecord
from federation.privacy.terms import read_ticket
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import Reason
from federation.types import Digest
from update_codec import (
    CodecSpec,
    ContextMismatch,
    Contexts,
    FrameError,
    FrameInfo,
    Manifest,
    ManifestMismatch,
    SpecError,
    inspect,
    inspect_sum,
    is_sum,
)
from update_codec.masking import Shape, read_masked

__all__ = ["Examine", "Inspections", "Refusal", "check_masked", "check_update"]

STATISTIC_MAX = 2.0**24
"""Largest magnitude of a statistic: no member can use up the room of the sums with it."""

COUNTER_MAX = 2**40
"""Largest magnitude of a counter: the model takes the largest of all, so that one could never be undone."""

INSPECTIONS_MAX = 1_024
"""Frames whose description is remembered."""

KEPT_BYTES_MAX = 4 * 1024 * 1024
"""Decoded updates that wait for the commit, at most, in bytes."""

KEPT_MODEL_BYTES_MAX = 64 * 1024
"""Of larger models updates are decoded anew at the commit: that costs little beside what they hold in memory."""

DIVERGES = (
    "where the norms of all nodes grew to it, training diverges: lower train.learning_rate or take a codec of more bits"
    " (codec.up, balanced), and begin again from a version before"
)
"""What an update that is too long tells a person."""

Examine = Callable[[bytes], FrameInfo]
"""Validates a frame and describes it, as `update_codec.inspect` does for one manifest."""

Refusal = tuple[Reason, str]
"""Why an update is refused: for the receipt, and for the log."""


class Inspections:
    """Describes frames, and remembers: what was checked on arrival need not be checked again at the commit.

    A frame is known by a digest of all its bytes: neither a sender nor a disk can put other bytes in its place. Small
    ones are remembered decoded, the newest of them.

    Args:
        manifest: The model's.
        contexts: Gives the codec's contexts that are known now.
    """

    def __init__(self, manifest: Manifest, contexts: Callable[[], Contexts | None] = lambda: None) -> None:
        self._manifest, self._contexts = manifest, contexts
        self._known: OrderedDict[Digest, FrameInfo] = OrderedDict()
        size = manifest.fp32_bytes
        self._kept_max = KEPT_BYTES_MAX // max(1, size) if size <= KEPT_MODEL_BYTES_MAX else 0
        self._kept: deque[Digest] = deque()

    def __call__(self, frame: bytes) -> FrameInfo:
        """Validate a frame and describe it.

        Raises:
            FrameError: As `update_codec.inspect`.
        """
        digest = payload_digest(frame)
        info = self._known.get(digest)
        if info is None:
            self._known[digest] = info = self._described(frame)
            if info.values is not None:
                self._keep(digest)
            if len(self._known) > INSPECTIONS_MAX:
                self._known.popitem(last=False)
        return info

    def _keep(self, digest: Digest) -> None:
        self._kept.append(digest)
        if len(self._kept) > min(self._kept_max, INSPECTIONS_MAX):
            oldest = self._kept.popleft()
            if oldest in self._known:
                self._known[oldest] = replace(self._known[oldest], values=None)

    def _described(self, frame: bytes) -> FrameInfo:
        if is_sum(frame):
            return inspect_sum(frame, self._manifest)
        return inspect(frame, self._manifest, context=self._contexts(), keep_values=self._kept_max > 0)


NO_SITES = SiteClaims({}, 0)
"""Nobody is a gateway."""


def check_update(
    record: UpdateRecord, payload: bytes, examine: Examine, norm_max: float, sites: SiteClaims = NO_SITES
) -> Refusal | None:
    """Check size, digest, format, model, codec, finite and norm, in this order.

    Args:
        record: What was offered.
        payload: What arrived.
        examine: Describes frames of this model; all sizes come from its manifest.
        norm_max: Largest L2 norm of the decoded parameters, and largest magnitude of a control.
        sites: What gateways may claim.

    Returns:
        Why it is refused, or None when it may be kept.
    """
    if len(payload) != record.payload_bytes or payload_digest(payload) != record.payload_digest:
        return Reason.DIGEST_MISMATCH, f"{len(payload)} bytes are not the payload that was offered"
    try:
        info = examine(payload)
    except ContextMismatch as error:
        return Reason.CODEC, str(error)
    except ManifestMismatch as error:
        return Reason.INCOMPATIBLE, str(error)
    except FrameError as error:
        return Reason.MALFORMED_FRAME, str(error)
    return sites.objection(record, info) or _check_content(record, info, norm_max)


def check_masked(
    record: UpdateRecord, payload: bytes, manifest: Manifest, shape_for: Callable[[Digest], Shape | None]
) -> Refusal | None:
    """Check size, digest, format, model and shape of a masked update: of its values nobody can say anything.

    One of another shape would cost the whole batch, so it is looked at before any helper hears of it.

    Args:
        record: What was offered.
        payload: What arrived.
        manifest: The model's.
        shape_for: The shape of updates under the terms of this digest; None where nothing is masked.

    Returns:
        Why it is refused, or None when it may be kept.
    """
    if len(payload) != record.payload_bytes or payload_digest(payload) != record.payload_digest:
        return Reason.DIGEST_MISMATCH, f"{len(payload)} bytes are not the payload that was offered"
    try:
        found = read_masked(payload, manifest)
    except ManifestMismatch as error:
        return Reason.INCOMPATIBLE, str(error)
    except FrameError as error:
        return Reason.MALFORMED_FRAME, str(error)
    ticket = None if record.seeds is None else read_ticket(record.seeds.ticket)
    if ticket is None or found.shape != shape_for(ticket.terms):
        return Reason.TERMS, f"the frame is of {found.shape}, and its terms are not"
    return None


def _check_content(record: UpdateRecord, info: FrameInfo, norm_max: float) -> Refusal | None:
    if not _same_codec(info.spec, record.codec):
        return Reason.CODEC, f"the frame was made with {info.spec}, the offer says {record.codec}"
    if not info.finite:
        return Reason.NOT_FINITE, "the update holds NaN or infinity"
    if not info.parameter_norm <= norm_max:
        return Reason.NORM, f"the update's norm is {info.parameter_norm:.3g}, the limit is {norm_max:.3g}; {DIVERGES}"
    for what, largest, limit in (
        ("a control", info.control_abs_max, norm_max),
        ("a statistic", info.statistic_abs_max, STATISTIC_MAX),
        ("a counter", info.counter_abs_max, COUNTER_MAX),
    ):
        if not largest <= limit:
            return Reason.NORM, f"{what} has {largest:.3g}, the limit is {limit:.3g}"
    return None


def _same_codec(made: str, offered: str) -> bool:
    try:
        return made == str(CodecSpec.parse(offered))
    except SpecError:
        return False
