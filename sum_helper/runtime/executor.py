"""Carries out what the helper's machine decides; nothing leaves before what it says is on the disk.

Failpoints: ``helper_before_held`` ``helper_after_held`` ``helper_before_used`` ``helper_after_used``
``helper_before_offer`` ``helper_after_offer`` ``helper_mid_sum``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from federation.errors import PayloadTooLarge, RemoteProtocolError
from federation.protocol.chunking import Bitmap, chunk_count, chunk_slice, payload_digest
from federation.protocol.enumerations import Presence
from federation.protocol.limits import CHUNK_BYTES
from federation.protocol.messages import Grant, Message
from federation.protocol.signing import Writer
from federation.protocol.sum_messages import HelperState, SumOffer, SumRequest
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION
from federation.runtime.failpoint import failpoint
from federation.runtime.log import get_log
from federation.runtime.transport import Transport
from federation.types import Digest, HelperId, NodeId
from sum_helper.engine.events import (
    ComputeSum,
    Effect,
    Event,
    HoldSeeds,
    LookUp,
    MembersFound,
    Note,
    OfferSums,
    PublishEvent,
    PublishState,
    SaveSums,
    SendChunks,
    Stop,
    SumsSaved,
    Sweep,
)
from sum_helper.records import HelperRules, Keeping, SumJob
from sum_helper.storage.store import HelperStore

__all__ = ["HelperExecutor", "HelperParts", "helper_state", "renew_key"]


class Adding(Protocol):
    """Adds masks, and puts what it finds into the inbox; `sum_helper.runtime.summing.SummingThread` is one."""

    def start(self, job: SumJob) -> None:
        """Add the masks of one batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperParts:
    """What one helper is made of.

    Attributes:
        helper: Its name.
        store: What must not be forgotten.
        summing: The adding thread.
        transport: The broker connection.
        writer: Signs what it says.
        registered: The nodes of its own register, now.
        rules: What it insists on.
        keeping: How long things are kept.
        chunk_bytes: Body size of a sum's chunks.
    """

    helper: HelperId
    store: HelperStore
    summing: Adding
    transport: Transport
    writer: Writer
    registered: Callable[[], frozenset[NodeId]]
    rules: HelperRules
    keeping: Keeping = field(default_factory=Keeping)
    chunk_bytes: int = CHUNK_BYTES


class HelperExecutor:
    """Runs effects on the driver's thread; the only one that touches the store.

    What is said waits for `settle`, which waits for the disk once for all that was handled together.

    Attributes:
        stopped: Whether the machine asked to leave.
    """

    def __init__(self, parts: HelperParts) -> None:
        self.stopped = False
        self._parts, self._store, self._topics = parts, parts.store, parts.writer.topics
        self._log = get_log("helper")
        self._unsaid: list[Callable[[], None]] = []

    def execute(self, effect: Effect) -> Iterable[Event]:  # noqa: C901 - one case per effect
        """Run one effect; returns what it answers.

        Raises:
            StorageError: What was to be kept is not in the store: nothing was said of it.
        """
        match effect:
            case PublishState():
                self._later(lambda: self._say_state(effect.presence))
            case PublishEvent():
                self._later(lambda: self._say(self._topics.helper_event(self._parts.helper), effect.message))
            case HoldSeeds():
                failpoint("helper_before_held")
                self._store.hold(effect.update, effect.seeds)
                failpoint("helper_after_held")
            case LookUp():
                return [self._look_up(effect.request)]
            case ComputeSum():
                self._compute(effect)
            case SaveSums():
                return [self._save(effect)]
            case OfferSums():
                self._later(lambda: self._offer(effect.request))
            case SendChunks():
                self._later(lambda: self._send_chunks(effect.grant))
            case Sweep():
                self._sweep()
            case Note():
                self._log.info(effect.event, **effect.fields)
            case Stop():
                self.stopped = True
            case _:
                assert_never(effect)
        return ()

    def settle(self) -> None:
        """Wait for the disk, then say what waits for it.

        Raises:
            StorageError: The disk has failed: nothing was said.
        """
        self._store.sync()
        unsaid, self._unsaid = self._unsaid, []
        for say in unsaid:
            say()

    def _later(self, say: Callable[[], None]) -> None:
        self._unsaid.append(say)

    def _say(self, topic: str, message: Message, *, retain: bool = False) -> None:
        self._parts.transport.publish(topic, self._parts.writer.encode(topic, message), retain=retain)

    def _say_state(self, presence: Presence) -> None:
        state = helper_state(self._store, presence, members_min=self._parts.rules.members_min)
        self._say(self._topics.helper_state(self._parts.helper), state, retain=True)

    def _look_up(self, request: SumRequest) -> Event:
        return MembersFound(
            request=request,
            members=self._store.members(request.tickets),
            registered=self._parts.registered(),
            batch=self._store.batch(request.batch),
            released=self._store.released(request.run),
        )

    def _compute(self, effect: ComputeSum) -> None:
        tickets = effect.request.tickets
        seeds = {number: self._store.seeds(tickets, number) for number in effect.classes}
        self._parts.summing.start(SumJob(request=effect.request, seeds=seeds, release=effect.release))

    def _save(self, effect: SaveSums) -> Event:
        failpoint("helper_before_used")
        self._store.save_sums(effect.request, effect.sums, effect.charge)
        failpoint("helper_after_used")
        return SumsSaved(request=effect.request)

    def _offer(self, request: SumRequest) -> None:
        topic = self._topics.helper_event(self._parts.helper)
        for number in request.classes:
            payload = self._store.answer(request.batch, number)
            if payload is None:
                continue
            failpoint("helper_before_offer")
            offer = SumOffer(
                run=request.run,
                batch=request.batch,
                part=number,
                payload_bytes=len(payload),
                payload_digest=payload_digest(payload),
                chunk_bytes=self._parts.chunk_bytes,
                inline=payload if len(payload) <= self._parts.chunk_bytes else None,
            )
            self._say_offer(topic, offer)
            failpoint("helper_after_offer")

    def _say_offer(self, topic: str, offer: SumOffer) -> None:
        try:
            self._say(topic, offer)
        except PayloadTooLarge:
            # This broker takes smaller packets: the coordinator will grant chunks.
            plain = SumOffer(**{name: getattr(offer, name) for name in _OFFERED})
            self._say(topic, plain)

    def _send_chunks(self, grant: Grant) -> None:
        part, _, batch = grant.update.partition("-")
        payload = self._store.answer(Digest(bytes.fromhex(batch)), int(part)) if len(batch) == 32 else None
        if payload is None:
            return
        chunk_bytes = self._parts.chunk_bytes
        count = chunk_count(len(payload), chunk_bytes)
        try:
            missing = Bitmap.from_bytes(count, grant.bitmap).missing(grant.window)
        except RemoteProtocolError as error:
            self._log.warning("grant_refused", transfer=grant.update, reason=str(error))
            return
        for index in missing:
            topic = self._topics.helper_chunk(self._parts.helper, grant.update, index)
            self._parts.transport.publish(topic, payload[chunk_slice(index, len(payload), chunk_bytes)])
            failpoint("helper_mid_sum")

    def _sweep(self) -> None:
        keeping = self._parts.keeping
        if renew_key(self._store, keeping):
            self._later(lambda: self._say_state(Presence.ONLINE))
        given_up = self._store.sweep(keep_s=keeping.keep_s, versions_back=self._parts.rules.versions_back)
        if given_up:
            self._log.info("seeds_given_up", updates=given_up)


_OFFERED = ("run", "batch", "part", "payload_bytes", "payload_digest", "chunk_bytes")


def renew_key(store: HelperStore, keeping: Keeping) -> bool:
    """Make a new key where it is time, or where there is none; whether it was."""
    age_s = store.key_age_s()
    due = age_s is None or age_s > keeping.rotate_s
    if due:
        store.new_key(keeping.kem)
    return due


def helper_state(store: HelperStore, presence: Presence, *, members_min: int) -> HelperState:
    """What is retained of a helper: also its will, since nodes seal for it while it is away."""
    key = store.keys()[0].public
    return HelperState(
        presence=presence,
        incarnation=store.identity.incarnation,
        state_id=store.identity.state_id,
        protocol_min=PROTOCOL_MIN,
        protocol_max=PROTOCOL_VERSION,
        kem=int(key.kem),
        key=key.raw,
        members_min=members_min,
    )
