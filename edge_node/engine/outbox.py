"""The outbox: keeps each update until its final receipt, offers it again, and sends the chunks that are granted.

Oldest first: entries are offered in the order in which they were made. Nothing is ever dropped for want of room; a full
outbox declines new rounds instead, because an older update is worth less with every version and its room comes back.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from edge_node.engine.effects import (
    Effect,
    EnterRun,
    MarkStored,
    Note,
    SaveOutbox,
    SendChunks,
    SendOffer,
    SettleUpdate,
)
from edge_node.engine.settings import NodeSettings
from edge_node.engine.uplink import Uplink
from edge_node.records import FinishedTraining, RecoveredNode, RecoveredRun
from federation.errors import MalformedMessage
from federation.protocol.chunking import Bitmap, chunk_count
from federation.protocol.limits import CLAIMED_INLINE_BYTES_MAX, MASKED_INLINE_BYTES_MAX
from federation.protocol.messages import Grant, Reason, Receipt, ReceiptStatus, RetryAfter, UpdateOffer
from federation.types import RoundId, RunId, UpdateId

__all__ = ["RETRY_AFTER_S_MAX", "RETRY_AFTER_S_MIN", "Outbox"]

RETRY_AFTER_S_MIN: Final = 1.0
"""A coordinator that asks for less would be answered without a pause, in seconds."""
RETRY_AFTER_S_MAX: Final = 3600.0
"""A coordinator that asks for more is asked again after this time, in seconds."""
_DOUBLINGS_MAX: Final = 16


@dataclass(slots=True, kw_only=True)
class _Delivery:
    """One update of the outbox, and how far it got.

    Attributes:
        offer: What is offered.
        result: The training's result, until it is on disk.
        saving: The disk has been asked and has not answered.
        stored: The coordinator has the payload.
        inline_sent: The payload was sent with an offer.
        offered: Since the last reconnect.
        attempts: Offers since something came of one.
        due_at: When it is offered next, in monotonic seconds.
        sent: Chunks that may be under way or have arrived.
        confirmed: Chunks that have arrived.
        progress_at: When something came of it, in monotonic seconds.
        began_at: When its payload, or the rest of it, went out, in monotonic seconds; None after an interruption.
        began_with: Chunks that had arrived before.
    """

    offer: UpdateOffer
    result: FinishedTraining | None = None
    saving: bool = False
    stored: bool = False
    inline_sent: bool = False
    offered: bool = False
    attempts: int = 0
    due_at: float = 0.0
    sent: set[int] = field(default_factory=set)
    confirmed: int = 0
    progress_at: float = 0.0
    began_at: float | None = None
    began_with: int = 0

    def sent_bytes(self, chunks: int | None = None) -> int:
        """Bytes that arrived since it began: up to so many chunks, or all."""
        size, chunk_bytes = self.offer.payload_bytes, self.offer.chunk_bytes
        reached = size if chunks is None else min(size, chunks * chunk_bytes)
        return max(0, reached - self.began_with * chunk_bytes)

    @property
    def saved(self) -> bool:
        """Whether it is on disk."""
        return self.result is None


@dataclass(slots=True, kw_only=True)
class _Box:
    """The outbox of one run: its deliveries, oldest first, and what the disk still owes, first come first."""

    deliveries: dict[UpdateId, _Delivery] = field(default_factory=dict)
    repeat: dict[SettleUpdate | EnterRun, None] = field(default_factory=dict)


def _box(recovered: RecoveredRun, chunk_bytes: int) -> _Box:
    return _Box(
        deliveries={
            entry.offer.update: _Delivery(offer=_cut(entry.offer, chunk_bytes), stored=entry.stored)
            for entry in recovered.outbox
        }
    )


def _cut(offer: UpdateOffer, chunk_bytes: int) -> UpdateOffer:
    """An offer in chunks that the broker takes now: it may have been made for another one."""
    return offer if offer.chunk_bytes <= chunk_bytes else replace(offer, chunk_bytes=chunk_bytes)


class Outbox:
    """Every update without a final receipt; the durable copy is the store's.

    Attributes:
        link: How fast payloads get through.
    """

    def __init__(self, settings: NodeSettings, recovered: RecoveredNode, rng: Callable[[], float]) -> None:
        self._settings, self._rng, self.link = settings, rng, Uplink()
        self._run = recovered.run
        self._box = _box(recovered, settings.chunk_bytes)
        self._hidden = {one.run: _box(one, settings.chunk_bytes) for one in recovered.hidden}
        self._connected = False
        self._present = True
        self._storage_attempts = 0
        self._storage_retry_at: float | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits, as far as a coordinator that is there can tell."""
        return self._present and not self._box.deliveries and not self._box.repeat

    def obstacle(self) -> str | None:
        """Why no further update may be made now, or None."""
        if self._storage_retry_at is not None:
            return "storage"
        return "outbox_full" if len(self._box.deliveries) >= self._settings.outbox_max else None

    def summary(self) -> list[dict[str, object]]:
        """Plain data: what waits for what, oldest first."""
        return [
            {
                "update": update,
                "state": "unsaved" if not delivery.saved else "stored" if delivery.stored else "offered",
                "attempts": delivery.attempts,
                "bytes": delivery.offer.payload_bytes,
            }
            for update, delivery in self._box.deliveries.items()
        ]

    @property
    def round(self) -> RoundId | None:
        """The round of the newest update that is not known to be stored; None: there is none."""
        return next((one.offer.round for one in reversed(self._box.deliveries.values()) if not one.stored), None)

    def holds(self, round_id: RoundId) -> bool:
        """Whether an update of this round waits for its verdict."""
        return any(delivery.offer.round == round_id for delivery in self._box.deliveries.values())

    # --- from training to the disk ----------------------------------------------------------------------------------

    def add(self, offer: UpdateOffer, result: FinishedTraining) -> list[Effect]:
        """A finished update: it is not offered before it is on disk [FED-41]."""
        delivery = self._box.deliveries[offer.update] = _Delivery(offer=offer, result=result)
        # What the disk still owes comes first: its order is that of the receipts.
        return [] if self._box.repeat else self._save(delivery)

    def saved(self, offer: UpdateOffer, now: float) -> None:
        """It is on disk: it is offered at once, when its coordinator can be reached."""
        box = self._of(offer.run)
        delivery = None if box is None else box.deliveries.get(offer.update)
        if delivery is None or delivery.saved:
            return
        delivery.result, delivery.progress_at = None, now
        delivery.due_at = now if self._present else now + self._slow_s()
        self._storage_attempts = 0

    def storage_failed(self, effect: Effect | None, now: float) -> None:
        """Whatever is not on disk is tried again after a back-off; until then nothing of it is said.

        What fails until then tells nothing new: else each announcement would double the wait, and a disk that was full
        for two seconds would cost five minutes.
        """
        if isinstance(effect, SettleUpdate | EnterRun):
            self._box.repeat[effect] = None
        if isinstance(effect, SaveOutbox):
            box = self._of(effect.offer.run)
            failed = None if box is None else box.deliveries.get(effect.offer.update)
            if failed is not None:
                failed.saving = False
        for delivery in self._box.deliveries.values() if effect is None else ():
            delivery.saving = False
        if self._storage_retry_at is not None and now < self._storage_retry_at:
            return
        wait_s = self._backoff_s(self._settings.storage_retry_s, self._storage_attempts)
        self._storage_attempts += 1
        self._storage_retry_at = now + wait_s

    # --- who can be reached -----------------------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """The broker is there: what was under way may be lost, so everything is offered again [FED-52]."""
        self._connected = True
        self.offer_again(now)

    def disconnected(self) -> None:
        """The broker is away: no timer runs."""
        self._connected = False

    def coordinator_is(self, *, present: bool, now: float) -> None:
        """The coordinator came or went: offers to an absent one only fill the broker's queue, so they become rare.

        They do not end: what said that it went may have been late [FED-62].
        """
        changed, self._present = present != self._present, present
        if changed:
            self._schedule(now)

    def offer_again(self, now: float) -> None:
        """Offer everything again, oldest first; chunks wait for the grant that says what has arrived."""
        for delivery in self._box.deliveries.values():
            if delivery.began_at is not None and delivery.confirmed > delivery.began_with:
                # A link that never holds for a whole update is measured, too: by what the grants have confirmed.
                elapsed_s = delivery.progress_at - delivery.began_at
                self.link.measured(delivery.sent_bytes(delivery.confirmed), elapsed_s)
            delivery.sent.clear()
            delivery.offered, delivery.began_at = False, None
        self._schedule(now)

    # --- the coordinator's word -------------------------------------------------------------------------------------

    def grant(self, grant: Grant, now: float) -> list[Effect]:
        """Send the first ``window`` chunks that have not arrived and are not under way [FED-46].

        What waited in the session for a reconnect is out of date: only the answer to a new offer says what has arrived.
        """
        delivery = self._box.deliveries.get(grant.update)
        if delivery is None or not delivery.saved or not delivery.offered or not self._connected:
            return []
        offer = delivery.offer
        try:
            arrived = Bitmap.from_bytes(chunk_count(offer.payload_bytes, offer.chunk_bytes), grant.bitmap)
        except MalformedMessage as error:
            return [Note(event="grant_refused", fields={"update": grant.update, "reason": str(error)})]
        wanted = tuple(index for index in arrived.missing(grant.window) if index not in delivery.sent)
        if wanted or len(arrived) > delivery.confirmed:
            delivery.attempts, delivery.progress_at = 0, now
            delivery.due_at = now + self._pause_s(delivery)
        if wanted and delivery.began_at is None and not delivery.sent:
            delivery.began_at, delivery.began_with = now, len(arrived)
        delivery.confirmed = len(arrived)
        delivery.sent.update(wanted)
        return [SendChunks(update=grant.update, indices=wanted, chunk_bytes=offer.chunk_bytes)] if wanted else []

    def receipt(self, receipt: Receipt, now: float) -> list[Effect]:
        """``stored`` slows the offers down; a final verdict ends it all. Others' receipts are ignored [FED-50].

        That the update is of another run is the word of a coordinator whose own run is another one: no verdict.
        """
        delivery = self._box.deliveries.get(receipt.update)
        if delivery is None or not delivery.saved or delivery.offer.run != receipt.run:
            return []
        if receipt.reason is Reason.OTHER_RUN:
            return []
        if delivery.began_at is not None:
            self.link.measured(delivery.sent_bytes(), now - delivery.began_at)
            delivery.began_at = None
        if receipt.status.final:
            del self._box.deliveries[receipt.update]
            applied, misread = receipt.status is ReceiptStatus.APPLIED, receipt.reason is Reason.CODEC
            unfit = receipt.reason.values_unfit
            return [SettleUpdate(update=receipt.update, applied=applied, misread=misread, unfit=unfit)]
        news, delivery.stored = not delivery.stored, True
        delivery.sent.clear()
        delivery.attempts = 0
        delivery.due_at = now + self._pause_s(delivery)
        return [MarkStored(update=receipt.update)] if news else []

    def retry_after(self, command: RetryAfter, now: float) -> None:
        """Offer it again, not before the time has passed [FED-48]."""
        delivery = self._box.deliveries.get(command.update)
        if delivery is not None and delivery.saved:
            wait_s = min(max(command.seconds, RETRY_AFTER_S_MIN), RETRY_AFTER_S_MAX)
            delivery.due_at = now + wait_s * (1.0 + 0.1 * self._rng())
            delivery.sent.clear()  # no transfer is open: the next grant says what it has
            delivery.began_at = None  # the wait says nothing about the link

    # --- runs -------------------------------------------------------------------------------------------------------

    def enter_run(self, run: RunId, now: float) -> None:
        """Hide everything, and take what another run has left: it is offered again, and what the disk owes is due."""
        self._hidden[self._run] = self._box
        self._run, self._box = run, self._hidden.pop(run, _Box())
        self._box.repeat = {effect: None for effect in self._box.repeat if not isinstance(effect, EnterRun)}
        self._storage_attempts = 0
        owes = self._box.repeat or any(not delivery.saved for delivery in self._box.deliveries.values())
        self._storage_retry_at = now if owes else None
        self.offer_again(now)

    def forget(self, runs: Iterable[RunId]) -> None:
        """The disk has no room for these, and nobody has asked for them for long."""
        for run in runs:
            self._hidden.pop(run, None)

    def _of(self, run: RunId) -> _Box | None:
        return self._box if run == self._run else self._hidden.get(run)

    # --- time -------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Everything that is due."""
        effects: list[Effect] = []
        if self._storage_retry_at is not None and now >= self._storage_retry_at:
            effects += self._save_again()
        if self._connected:
            for delivery in self._box.deliveries.values():
                if delivery.saved and now >= delivery.due_at:
                    effects.append(self._offer(delivery, now))
        return effects

    def deadline(self) -> float | None:
        """When `tick` is due next."""
        times = (
            [delivery.due_at for delivery in self._box.deliveries.values() if delivery.saved] if self._connected else []
        )
        if self._storage_retry_at is not None:
            times.append(self._storage_retry_at)
        return min(times, default=None)

    def _schedule(self, now: float) -> None:
        # One moment for all, so that the oldest goes first; random, because the whole fleet reconnects together.
        due_at = now + (self._rng() * self._settings.reconnect_spread_s if self._present else self._slow_s())
        for delivery in self._box.deliveries.values():
            delivery.attempts, delivery.due_at = 0, due_at

    def _offer(self, delivery: _Delivery, now: float) -> SendOffer:
        offer = delivery.offer
        # The payload rides along once in a process's life: when it did not arrive, the coordinator grants it.
        most = min(offer.chunk_bytes, _inline_bytes_max(offer))
        inline = not delivery.stored and not delivery.inline_sent and offer.payload_bytes <= most
        delivery.inline_sent = delivery.inline_sent or inline
        if inline:
            delivery.began_at, delivery.began_with = now, 0
        delivery.offered = True
        if now - delivery.progress_at >= self._settings.chunk_timeout_s:
            delivery.sent.clear()
            delivery.progress_at = now
        delivery.due_at = now + self._pause_s(delivery)
        delivery.attempts += 1
        return SendOffer(offer=offer, inline=inline)

    def _save_again(self) -> list[Effect]:
        self._storage_retry_at = None
        effects: list[Effect] = list(self._box.repeat)
        self._box.repeat.clear()
        for delivery in self._box.deliveries.values():
            effects += self._save(delivery)
        return effects

    def _save(self, delivery: _Delivery) -> list[Effect]:
        """Once, until the disk has answered: a second copy is refused as a mistake."""
        if delivery.result is None or delivery.saving:
            return []
        delivery.saving = True
        return [SaveOutbox(offer=delivery.offer, result=delivery.result)]

    def _pause_s(self, delivery: _Delivery) -> float:
        if delivery.stored or not self._present:
            return self._slow_s()
        return self._backoff_s(self._settings.reoffer_s, delivery.attempts)

    def _slow_s(self) -> float:
        return self._settings.reoffer_max_s * (1.0 + 0.25 * self._rng())

    def _backoff_s(self, first_s: float, attempts: int) -> float:
        wait_s = min(first_s * 2.0 ** min(attempts, _DOUBLINGS_MAX), self._settings.reoffer_max_s)
        return wait_s * (1.0 + 0.25 * self._rng())


def _inline_bytes_max(offer: UpdateOffer) -> int:
    """How large a payload may be that rides in the offer, beside what else is in it."""
    if offer.members is not None:
        return CLAIMED_INLINE_BYTES_MAX
    return offer.chunk_bytes if offer.ticket is None else MASKED_INLINE_BYTES_MAX
