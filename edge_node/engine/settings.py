"""What this node agrees to: its settings, its bounds, and why it declines an announcement."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from federation.privacy.terms import check_terms, helpers_digest
from federation.protocol.limits import CHUNK_BYTES
from federation.protocol.messages import RoundAnnouncement, TrainSettings
from federation.types import HelperId, NodeId
from update_codec import CodecSpec, SpecError
from update_codec.spec import Kind

__all__ = [
    "Hindrance",
    "NodeSettings",
    "TrainBounds",
    "hindrance",
    "objection",
    "other_task",
    "wants_context",
]


PACE_LINGER_S = 10.0
"""By the coordinator's pace a node leaves when so long nothing was at hand, in seconds: it is asked meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBounds:
    """The most that an announcement may ask of this device.

    Attributes:
        local_epochs_max: Passes over the local data.
        batch_size_max: Examples per step; a batch of the whole local data (0) is the owner's choice of data, and fits.
        learning_rate_max: Step size.
        max_steps: Steps of one round; 0 is no bound, else an announcement without a step limit is declined.
        model_bytes_max: Bytes of the model parts that are pulled and held in memory at once; what the task's own model
            needs is a bound as well.
        train_s_max: Seconds of one training; then it is stopped and the round declined; 0 is no bound.
        epsilon_max: Epsilon that this node spends for each of its examples, in all runs together; None is no bound.
            With it a round without differential privacy is declined.
        epsilon_delta: The delta of that epsilon.
    """

    local_epochs_max: int = 100
    batch_size_max: int = 65_536
    learning_rate_max: float = 10.0
    max_steps: int = 0
    model_bytes_max: int = 1 << 30
    train_s_max: float = 3_600.0
    epsilon_max: float | None = None
    epsilon_delta: float = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Who the node is, what it does, and how patient it is.

    Attributes:
        node: Its name.
        task: Name of its task; only what follows the last slash is compared, folders differ between machines.
        device: What it trains on, for its birth message.
        release: Which release of fedmq it is, for the same; empty is not told.
        codecs: Codec specs that it agrees to; empty is all.
        bounds: The most that it obeys.
        chunk_bytes: Body size of its update chunks, in bytes.
        named_chunks_max: Chunks of a model to ask for by their own topics at a time, where the broker gives no retained
            message to a wildcard; None: it does, and a segment is one subscription.
        reoffer_s: Time until an offer without receipt is repeated, in seconds; doubled each time.
        reoffer_max_s: Most of that, and the pace for updates that the coordinator has stored, in seconds.
        reconnect_spread_s: Offers are spread over this time after a reconnect, in seconds.
        chunk_timeout_s: Sent chunks that no grant has confirmed for so long count as lost, in seconds.
        fetch_timeout_s: Time without a new chunk until a segment is asked for again, in seconds.
        fetch_attempts_max: Such repetitions without a new chunk until the node gives up.
        outbox_max: Updates without a final receipt; then new rounds are declined. Nothing is dropped from the outbox.
        storage_retry_s: Time until a failed save is repeated, in seconds; doubled each time up to `reoffer_max_s`.
        decline_retry_s: After a decline for want of room or luck, the coordinator may ask again after so many seconds.
        incompatible_retry_s: The same after a decline that only a new configuration can change.
        ineligible_retry_s: The same after a decline because the owner's conditions are not met.
        progress_after_s: Telemetry tells of a fetch or a training that takes longer than this, in seconds.
        private: Whether the task can keep differential privacy for each example.
        signed: Whether the coordinator's messages are signed: then what is older than was heard is refused for good.
        sealed_only: Whether a run is declined whose model and updates a broker could read.
        helpers: The identity keys of the helpers that this node masks for, by their names: with any it sends nothing
            that is not masked for exactly these.
        uses_model: Whether the device uses the model: then the node takes every announced version.
        model_every_s: The device is offered a new version after so many seconds at the earliest.
        exit_when_finished: Leave when the run has ended and the outbox is empty.
        exit_linger_s: Leave then at the latest, in seconds; what is still in the outbox stays on disk.
        pace_linger_s: By the coordinator's pace the node leaves when so long nothing was at hand, in seconds.
    """

    node: NodeId
    task: str
    device: str = "cpu"
    release: str = ""
    codecs: tuple[str, ...] = ()
    bounds: TrainBounds = field(default_factory=TrainBounds)
    chunk_bytes: int = CHUNK_BYTES
    named_chunks_max: int | None = None
    reoffer_s: float = 10.0
    reoffer_max_s: float = 300.0
    reconnect_spread_s: float = 1.0
    chunk_timeout_s: float = 180.0
    fetch_timeout_s: float = 10.0
    fetch_attempts_max: int = 6
    outbox_max: int = 16
    storage_retry_s: float = 1.0
    decline_retry_s: float = 30.0
    incompatible_retry_s: float = 600.0
    ineligible_retry_s: float = 600.0
    progress_after_s: float = 1.0
    private: bool = False
    signed: bool = False
    sealed_only: bool = False
    helpers: Mapping[HelperId, bytes] = field(default_factory=dict)
    uses_model: bool = False
    model_every_s: float = 0.0
    exit_when_finished: bool = False
    exit_linger_s: float = 30.0
    pace_linger_s: float = PACE_LINGER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindrance:
    """Why no round may be taken now, and after how many seconds the coordinator may ask again."""

    reason: str
    retry_after_s: float


def hindrance(settings: NodeSettings, obstacle: str | None, gate: Callable[[], str | None] | None) -> Hindrance | None:
    """Why no round may be taken now, or None.

    Args:
        settings: How long the coordinator shall wait.
        obstacle: Why the outbox takes no further update.
        gate: Says why the device may not train now.
    """
    if obstacle is not None:
        return Hindrance(reason=obstacle, retry_after_s=settings.decline_retry_s)
    reason = None if gate is None else gate()
    return None if reason is None else Hindrance(reason=reason, retry_after_s=settings.ineligible_retry_s)


def other_task(announcement: RoundAnnouncement, settings: NodeSettings) -> str | None:
    """Why a model of this round means nothing to this node, or None."""
    same = announcement.task.rsplit("/", 1)[-1] == settings.task.rsplit("/", 1)[-1]
    return None if same else f"task is {settings.task}"


def objection(announcement: RoundAnnouncement, settings: NodeSettings) -> str | None:
    """Why this node's own configuration forbids the round, or None."""
    reason = other_task(announcement, settings)
    if reason is not None:
        return reason
    if settings.sealed_only and announcement.seal is None:
        return "the run is not sealed, and security.require_sealed is set here: set the coordinator's privacy.sealed"
    if not _agrees_to_codec(announcement.codec, settings.codecs):
        return f"codec {announcement.codec}"
    reason = unmasked(announcement, settings.helpers)
    if reason is not None:
        return f"helpers: {reason}"
    return _beyond(announcement.settings, settings.bounds)


def unmasked(announcement: RoundAnnouncement, helpers: Mapping[HelperId, bytes]) -> str | None:
    """Why an update would not be hidden as this node wants it, or None [FED-156]."""
    terms, kind = announcement.privacy, CodecSpec.parse(announcement.codec).kind
    if (terms is None) != (kind is not Kind.MASKED):
        return f"codec {announcement.codec} and the terms of masks do not go together"
    if terms is None:
        return "the round is not masked, and privacy.helpers wants it" if helpers else None
    if not helpers:
        return "the round is masked for helpers, and none is pinned here (privacy.helpers)"
    try:
        check_terms(terms)
    except ValueError as error:
        return str(error)
    if (terms.count, terms.helpers) != (len(helpers), helpers_digest(list(helpers.values()), terms.threshold)):
        return "the announced ones are not those that are pinned here"
    return None


def wants_context(codec: str) -> bool:
    """Whether a codec works with the average of the global updates."""
    try:
        return CodecSpec.parse(codec).context
    except SpecError:
        return False


def _agrees_to_codec(codec: str, codecs: tuple[str, ...]) -> bool:
    try:
        canonical = str(CodecSpec.parse(codec))
    except SpecError:
        return False
    return not codecs or canonical in codecs


def _beyond(asked: TrainSettings, bounds: TrainBounds) -> str | None:
    limits = (
        ("local_epochs", asked.local_epochs, bounds.local_epochs_max),
        ("batch_size", asked.batch_size, bounds.batch_size_max),
        ("learning_rate", abs(asked.learning_rate), bounds.learning_rate_max),
    )
    for name, value, most in limits:
        if value > most:
            return f"{name} {value} is above {most}"
    if bounds.max_steps and not 0 < asked.max_steps <= bounds.max_steps:
        return f"max_steps {asked.max_steps} is not within 1 to {bounds.max_steps}"
    return None
