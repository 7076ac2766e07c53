"""The helper's machine: the same events at the same times give the same effects, and nothing is said before it is kept.

One sum is computed at a time. While it is, no other request is looked at, so that what is known of its members cannot
change before they are marked as used.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, assert_never

from federation.privacy.releases import plan_text, price
from federation.protocol.enumerations import HeldStatus, Presence, SumReason
from federation.protocol.messages import CoordinatorState
from federation.protocol.sum_messages import Held, SumRefusal, SumRequest
from sum_helper.engine.events import (
    BrokerConnected,
    ComputeSum,
    CoordinatorHeard,
    Effect,
    Event,
    GrantReceived,
    HoldSeeds,
    LookUp,
    MembersFound,
    Note,
    OfferSums,
    PublishEvent,
    PublishState,
    RequestReceived,
    SaveSums,
    SeedsReceived,
    SendChunks,
    Stop,
    StopRequested,
    SumsComputed,
    SumsSaved,
    Sweep,
)
from sum_helper.engine.judging import judge_request, judge_seeds
from sum_helper.records import Charge, HelperRules

__all__ = ["HelperMachine"]

SWEEP_S: Final = 3_600.0
"""Between two looks for what is too old, in seconds."""

WAITING_MAX: Final = 16
"""Requests that wait for the one that is computed; of more, the oldest is forgotten: the coordinator asks again."""


class HelperMachine:
    """Decides for one helper.

    Args:
        rules: What it insists on.
    """

    def __init__(self, rules: HelperRules) -> None:
        self._rules = rules
        self._computing: MembersFound | None = None
        self._waiting: deque[SumRequest] = deque(maxlen=WAITING_MAX)
        self._sweep_at: float | None = None
        self._leader: tuple[object, ...] | None = None

    def deadline(self) -> float | None:
        """When `handle(None, now)` is due, in monotonic seconds."""
        return self._sweep_at

    def handle(self, event: Event | None, now: float) -> Sequence[Effect]:  # noqa: C901, PLR0911 - one case per event
        """Take one event (None: the deadline has passed) and say what must be done, in order."""
        match event:
            case None:
                return self._sweep(now)
            case BrokerConnected():
                return [PublishState(presence=Presence.ONLINE)]
            case CoordinatorHeard():
                return self._heard(event.state)
            case SeedsReceived():
                return self._seeds(event)
            case RequestReceived():
                return self._asked(event.request)
            case MembersFound():
                return self._found(event)
            case SumsComputed():
                return self._computed(event)
            case SumsSaved():
                return self._saved(event.request)
            case GrantReceived():
                return [SendChunks(grant=event.grant)]
            case StopRequested():
                return [PublishState(presence=Presence.OFFLINE), Stop()]
            case _:
                assert_never(event)

    def _sweep(self, now: float) -> list[Effect]:
        if self._sweep_at is not None and now < self._sweep_at:
            return []
        self._sweep_at = now + SWEEP_S
        return [Sweep()]

    def _heard(self, state: CoordinatorState) -> list[Effect]:
        """A coordinator that has just come may find a broker without our state."""
        leader = (state.run, state.epoch, state.start)
        if state.presence is not Presence.ONLINE or leader == self._leader:
            return []
        self._leader = leader
        return [PublishState(presence=Presence.ONLINE)]

    def _seeds(self, event: SeedsReceived) -> list[Effect]:
        reason = judge_seeds(event, self._rules)
        effects: list[Effect] = []
        if reason is SumReason.NONE and event.known is None and event.update is not None:
            update, seeds = event.update
            effects.append(HoldSeeds(update=update, seeds=seeds))
            if event.base not in (None, update.base_digest):
                told = {"run": update.run, "version": update.base_version, "node": update.node}
                effects.append(Note(event="base_changed", fields=told))
        elif reason is not SumReason.NONE:
            told = {"run": event.sealed.run, "update": event.sealed.update, "reason": reason}
            effects.append(Note(event="seeds_refused", fields=told))
        word = Held(
            run=event.sealed.run,
            update=event.sealed.update,
            ticket=event.ticket,
            status=HeldStatus.HELD if reason is SumReason.NONE else HeldStatus.REFUSED,
            reason=reason,
        )
        if event.taking is not None:
            taking = event.taking
            word = replace(word, taken=taking.releases, gap=event.releases - taking.last, spent=taking.spent)
        return [*effects, PublishEvent(message=word)]

    def _asked(self, request: SumRequest) -> list[Effect]:
        if self._computing is None:
            return [LookUp(request=request)]
        if self._computing.request != request and request not in self._waiting:
            self._waiting.append(request)
        return []

    def _found(self, found: MembersFound) -> list[Effect]:
        request = found.request
        refusal = judge_request(found, self._rules)
        if refusal is not None:
            told = {"run": request.run, "version": request.version, "reason": refusal.reason}
            said = SumRefusal(run=request.run, batch=request.batch, reason=refusal.reason, members=refusal.joined)
            note = Note(event="sum_refused", fields=told | {"members": len(refusal.members)})
            return [note, PublishEvent(message=said), *self._next()]
        answered = frozenset[int]() if found.batch is None else found.batch.classes
        missing = tuple(number for number in request.classes if number not in answered)
        if not missing:
            return [OfferSums(request=request), *self._next()]
        self._computing = found
        return [ComputeSum(request=request, classes=missing, release=found.released.releases)]

    def _computed(self, event: SumsComputed) -> list[Effect]:
        found = self._computing
        if found is None or found.request != event.request:
            return []
        return [SaveSums(request=event.request, sums=event.sums, charge=self._charge(found))]

    def _charge(self, found: MembersFound) -> Charge:
        """What a sum costs: nothing more where a class of its batch was answered before."""
        terms = found.request.terms
        release = None if terms.noise is None else found.released.releases
        if found.batch is not None:
            return Charge(release=None)
        members = [found.members[ticket] for ticket in found.request.tickets]
        prices = {one.held.node: price(terms, one.taking.releases) for one in members}
        return Charge(release=release, plan=plan_text(terms), prices=prices)

    def _saved(self, request: SumRequest) -> list[Effect]:
        self._computing = None
        told = {"run": request.run, "version": request.version, "members": len(request.tickets)}
        return [Note(event="sum_revealed", fields=told), OfferSums(request=request), *self._next()]

    def _next(self) -> list[Effect]:
        return [LookUp(request=self._waiting.popleft())] if self._waiting else []
