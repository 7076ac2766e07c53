"""The two decisions of a round, as pure functions: what an offer is worth, and whether to wait, ask or commit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from coordinator.engine.settings import EngineSettings
from federation.protocol.chunking import chunk_count
from federation.protocol.limits import CHUNK_BYTES_MIN, CHUNKS_MAX, SMALL_CHUNKS_MAX
from federation.protocol.messages import Reason, UpdateOffer
from federation.types import Digest, ModelVersion, NodeId, RoundId, RunId, update_id


class Ruling(StrEnum):
    """What becomes of an offer."""

    ACCEPT = "accept"
    STALE = "stale"
    REFUSED = "refused"
    FOREIGN = "foreign"
    """It belongs to another run, whose coordinator alone may judge it: no answer."""
    AHEAD = "ahead"
    """It tells of what this run has not seen yet, so it is newer than we are: no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A ruling and its reason.

    Attributes:
        ruling: What becomes of it.
        reason: Why, for stale and refused; ``detail``: what the log says beside it.
        durable: Whether the verdict may be kept under the offer's update id. What does not belong to this node or a
            round that exists must not claim an id that honest work will have.
    """

    ruling: Ruling
    reason: Reason = Reason.NONE
    durable: bool = True
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What `judge` must know about the run.

    Attributes:
        settings: The limits.
        run: The run.
        head: The newest version.
        recent: Digests of the versions that an update may be based on.
        next_round: The first round number that was never announced.
        finished: Whether the last version has been committed.
        used: Other updates of this node that are on their way into the next version.
        asked: The version that the node was asked to train from in that round; None when it was not asked.
        known: Whether that round was ever reserved.
        restored_round: Rounds below this one were announced before the run was begun again from a backup: what they
            name and this run has not is lost, and nobody else can judge it.
    """

    settings: EngineSettings
    run: RunId
    head: ModelVersion
    recent: Mapping[ModelVersion, Digest]
    next_round: RoundId
    finished: bool
    used: int
    asked: ModelVersion | None
    known: bool = True
    restored_round: int = 0


FETCHED_BYTES_MAX = 2**53 - 1
"""What a node may say that it has fetched for one round, in bytes. The wire's field holds 64 bits, a row does not."""

ACCEPTED = Judgement(ruling=Ruling.ACCEPT)


def identify(offer: UpdateOffer, node: NodeId, run: RunId) -> Judgement | None:
    """Turn away what carries a foreign identity; None where run, node and id agree."""
    if offer.run != run:
        return Judgement(ruling=Ruling.FOREIGN, durable=False)
    if offer.update != update_id(offer.round, node):
        return _refuse(Reason.NOT_ASSIGNED, durable=False)
    return None


def judge(offer: UpdateOffer, node: NodeId, facts: Facts) -> Judgement:
    """Judge an offer by its header alone: identity, origin, limits, base, staleness, quota, in this order."""
    limit = partial(check_limits, offer, facts.settings, facts.settings.gateways.get(node, 1))
    return (
        identify(offer, node, facts.run) or _check_origin(offer, facts, limit) or _check_worth(offer, facts) or ACCEPTED
    )


def _check_origin(offer: UpdateOffer, facts: Facts, limits: Callable[[], Reason]) -> Judgement | None:
    is_newer = offer.base_version > facts.head
    if offer.round >= facts.next_round or (is_newer and offer.round >= facts.restored_round):
        return Judgement(ruling=Ruling.AHEAD, durable=False)
    if not facts.known:
        return _refuse(Reason.UNKNOWN_ROUND, durable=False)
    if is_newer:
        return _refuse(Reason.BASE_MISMATCH)
    if facts.asked is None:
        return _refuse(Reason.NOT_ASSIGNED)
    if offer.base_version < facts.asked:
        return _refuse(Reason.BASE_MISMATCH)
    limit = limits()
    return None if limit is Reason.NONE else _refuse(limit)


def _check_worth(offer: UpdateOffer, facts: Facts) -> Judgement | None:
    late = check_staleness(offer.base_version, facts)
    if late is not Reason.NONE:
        return Judgement(ruling=Ruling.STALE, reason=late)
    if facts.recent[offer.base_version] != offer.base_digest:
        return _refuse(Reason.BASE_MISMATCH)
    if facts.settings.train.privacy is not None and offer.spent is None:
        return _refuse(Reason.INCOMPATIBLE)  # it was made without noise [FED-185]
    return _refuse(Reason.QUOTA) if facts.used >= facts.settings.per_node_quota else None


def check_limits(offer: UpdateOffer, settings: EngineSettings, nodes: int = 1) -> Reason:
    """The first limit that the header of an offer for so many nodes breaks, or ``Reason.NONE``."""
    if not 1 <= offer.num_examples <= nodes * settings.num_examples_max:
        return Reason.BAD_NUM_EXAMPLES
    if offer.payload_bytes < 1 or offer.chunk_bytes < 1:
        return Reason.MALFORMED_FRAME
    if offer.payload_bytes > settings.payload_bytes_max or offer.fetched_bytes > FETCHED_BYTES_MAX:
        return Reason.TOO_LARGE
    if chunk_count(offer.payload_bytes, offer.chunk_bytes) > CHUNKS_MAX:
        return Reason.TOO_LARGE
    if offer.inline is not None and len(offer.inline) != offer.payload_bytes:
        return Reason.DIGEST_MISMATCH
    return Reason.MALFORMED_FRAME if _is_crumbled(offer) else Reason.NONE


def size_detail(offer: UpdateOffer, settings: EngineSettings) -> str:
    """What the log says of an offer that is too large."""
    if offer.payload_bytes > settings.payload_bytes_max:
        return f"{offer.payload_bytes} bytes; limits.payload_bytes_max: {settings.payload_bytes_max}"
    if offer.fetched_bytes > FETCHED_BYTES_MAX:
        return f"it says that it has fetched {offer.fetched_bytes} bytes; at most {FETCHED_BYTES_MAX} are believed"
    return f"{offer.payload_bytes} bytes in chunks of {offer.chunk_bytes}; at most {CHUNKS_MAX} chunks"


def _is_crumbled(offer: UpdateOffer) -> bool:
    """Whether its chunks are so small that the grants would be larger than what they grant [FED-103]."""
    small = offer.chunk_bytes < CHUNK_BYTES_MIN and offer.payload_bytes > offer.chunk_bytes * SMALL_CHUNKS_MAX
    return small and offer.inline is None


def check_staleness(base: ModelVersion, facts: Facts) -> Reason:
    """Why work based on ``base`` comes too late, or ``Reason.NONE``."""
    if facts.finished:
        return Reason.FINISHED
    if facts.head - base > facts.settings.max_staleness or base not in facts.recent:
        return Reason.TOO_STALE
    return Reason.NONE


def _refuse(reason: Reason, *, durable: bool = True) -> Judgement:
    return Judgement(ruling=Ruling.REFUSED, reason=reason, durable=durable)


class WaitReason(StrEnum):
    """What a coordinator waits for: a stable key in its log, its status file, and for ``coordinator why``."""

    ABOVE = "above"
    ASSIGNMENTS = "assignments"
    BEHIND = "behind"
    BROKER = "broker"
    BUDGET = "budget"
    COMMITTING = "committing"
    FINISHED = "finished"
    HELPER = "helper"
    INTERVAL = "interval"
    NO_CANDIDATES = "no_candidates"
    NODES_MIN = "nodes_min"
    SETTLING = "settling"
    STOPPED_EARLY = "stopped_early"
    STORAGE = "storage"
    TRANSFERS = "transfers"


ENDINGS = frozenset({WaitReason.FINISHED, WaitReason.STOPPED_EARLY, WaitReason.BUDGET})
"""The run is over; a coordinator that ends then has done what it should."""


class CommitReason(StrEnum):
    """Why a version is made now; the store keeps it."""

    BUFFER_FULL = "buffer_full"
    MAX_WAIT = "max_wait"
    NOBODY_LEFT = "nobody_left"


class AskReason(StrEnum):
    """Why nodes are asked now, and which."""

    FREE_SLOTS = "free_slots"
    """Candidates."""
    NOBODY_ELSE = "nobody_else"
    """Suspects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Do nothing."""

    reason: WaitReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Ask so many nodes."""

    reason: AskReason
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Make a version of the buffer."""

    reason: CommitReason


Decision = Wait | Ask | Commit
"""What the engine does next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What `decide` must know, as counts.

    Attributes:
        connected: Whether the broker is there.
        settled: Whether retained node states have had time to arrive.
        started: Whether a round was ever opened in this run.
        committing: Whether a commit is under way.
        online: Nodes online.
        candidates: Nodes that may be asked now.
        suspects: Nodes that let a lease expire and have been silent since.
        live: Assignments in flight.
        transfers: Large updates still arriving.
        asked: Assignments that could serve the next version, ended ones included.
        buffered: Updates stored for the next version.
        overdue: Whether the first of them has waited for the longest time.
        ready: Those of them that can make a version together now; None: all of them.
        unheld: Those of them whose seeds not all helpers hold yet.
        summing: Whether a batch is frozen, and waits for its sums: none other can be.
        resting: Whether the last version was made less than the least interval ago.
        buffered_max: So many stored updates can be used before they are too old; None is no bound.
    """

    connected: bool
    settled: bool
    started: bool
    committing: bool
    online: int
    candidates: int
    suspects: int
    live: int
    transfers: int
    asked: int
    buffered: int
    overdue: bool
    ready: int | None = None
    unheld: int = 0
    summing: bool = False
    resting: bool = False
    buffered_max: int | None = None


def decide(situation: Situation, settings: EngineSettings) -> Decision:
    """Wait, ask or commit: one rule for synchronous and asynchronous rounds.

    A commit goes before a question, so that nobody is asked to train from a version that is about to be replaced.
    """
    if situation.committing:
        return Wait(reason=WaitReason.COMMITTING)
    if situation.resting:
        return Wait(reason=WaitReason.INTERVAL if situation.connected else WaitReason.BROKER)
    reason = None if situation.summing else reason_to_commit(situation, settings)
    if reason is not None:
        return Commit(reason=reason)
    return _ask(situation, settings)


def reason_to_commit(situation: Situation, settings: EngineSettings) -> CommitReason | None:
    """Why a version can be made of the buffer now, or None."""
    ready = situation.buffered if situation.ready is None else situation.ready
    if ready >= settings.buffer:
        return CommitReason.BUFFER_FULL
    if ready < max(1, settings.quorum):
        return None
    if situation.overdue:
        return CommitReason.MAX_WAIT
    coming = situation.live + situation.transfers + situation.unheld
    quiet = situation.connected and situation.settled and coming == 0
    if quiet and (situation.asked >= settings.buffer or situation.candidates == 0):
        return CommitReason.NOBODY_LEFT
    return None


def wanted(situation: Situation, settings: EngineSettings) -> int:
    """How many more assignments would serve the next version.

    Without staleness an update beyond the buffer is thrown away, so what is buffered counts against the concurrency;
    a concurrency above the buffer is over-selection and stays.
    """
    room = max(0, settings.concurrency - situation.live)
    if settings.max_staleness > 0:
        most = situation.buffered_max
        return room if most is None else max(0, min(room, most - situation.buffered - situation.live))
    return max(0, min(room, max(settings.concurrency, settings.buffer) - situation.buffered - situation.live))


def waits_for(situation: Situation) -> WaitReason:
    """Whom a coordinator waits for that has asked whom it could."""
    if situation.live > 0:
        return WaitReason.ASSIGNMENTS
    if situation.transfers > 0:
        return WaitReason.TRANSFERS
    return WaitReason.HELPER if situation.summing or situation.unheld else WaitReason.NO_CANDIDATES


def _ask(situation: Situation, settings: EngineSettings) -> Wait | Ask:
    obstacle = _obstacle(situation, settings)
    if obstacle is not None:
        return Wait(reason=obstacle)
    count = wanted(situation, settings)
    room = max(0, settings.concurrency - situation.live)
    if count > 0 and (room >= min(settings.refill, settings.concurrency) or situation.live == 0):
        if situation.candidates > 0:
            return Ask(reason=AskReason.FREE_SLOTS, count=min(count, situation.candidates))
        if situation.live + situation.transfers == 0 and situation.suspects > 0:
            return Ask(reason=AskReason.NOBODY_ELSE, count=min(count, situation.suspects))
    return Wait(reason=waits_for(situation))


def _obstacle(situation: Situation, settings: EngineSettings) -> WaitReason | None:
    if not situation.connected:
        return WaitReason.BROKER
    if not situation.settled:
        return WaitReason.SETTLING
    return WaitReason.NODES_MIN if not situation.started and situation.online < settings.nodes_min else None
