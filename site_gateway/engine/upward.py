"""What a site owes the federation above: one sum for each order, frozen, handed up, ended by the verdict from there.

It stands where the masked sums stand in a coordinator: members are frozen on disk before anybody hears of their sum,
and a sum ends whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

from coordinator.engine.claims.fates import refuse_members
from coordinator.engine.effects import CommitVersion, Effect
from coordinator.engine.events import CommitFailed
from coordinator.engine.federated_evaluation import FederatedEvaluation
from coordinator.engine.masked.sums import MaskedSums
from coordinator.engine.round import CommitReason
from coordinator.engine.state import MachineState
from coordinator.engine.update_receiver import UpdateReceiver
from coordinator.engine.versions import Versions
from coordinator.records import Member, RecoveredState, UpdateRecord
from federation.protocol.limits import fit_metrics
from federation.protocol.messages import Reason, Receipt, ReceiptStatus, RetryAfter
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import HelperId, ModelVersion, RoundId, UpdateId
from site_gateway.engine.evaluation import SiteEvaluation
from site_gateway.engine.events import (
    AnswerOrder,
    AskAbove,
    BindSum,
    FreezeSum,
    NameSum,
    OrderReceived,
    OrderSaved,
    RefuseOrder,
    ReleaseVerdict,
    RunEnded,
    SaveOrder,
    SettleSum,
    SiteAnswer,
    SiteEffect,
    SiteLifted,
    SumBound,
    SumFrozen,
    SumNamed,
    SumSettled,
    SumSpoilt,
    SumThawed,
    ThawSum,
    VerdictReceived,
)
from site_gateway.engine.moved import OFFER_SOON_S, ReturnedSums
from site_gateway.engine.state import site_of
from site_gateway.records import Order, SiteSum, verdicts_of

__all__ = ["FOLLOWED", "SiteVersions", "Upward"]

BACK = "link_back"
"""Why a sum was made: the federation above can be reached again."""

FOLLOWED = "above"
"""Why a version was made: the federation above has made it."""


class Upward(MaskedSums):
    """One thing is asked of the disk at a time; what is still true is asked again after a failure."""

    def __init__(
        self, state: MachineState, receiver: UpdateReceiver, evaluation: FederatedEvaluation, recovered: RecoveredState
    ) -> None:
        super().__init__(state, receiver, evaluation, recovered)
        self._site, self._receiver, self._evaluation = site_of(state), receiver, evaluation
        self._verdicts: dict[UpdateId, VerdictReceived] = {}
        self._returned = ReturnedSums(self._site)
        self._outstanding: frozenset[UpdateId] | None = None
        self._begun_s: float | None = None
        # An order of a former process stands until the federation above says otherwise: the link may be down for long.
        self._busy, self._asked = False, self._site.order is not None

    @property
    def saving(self) -> bool:
        """Whether the disk was asked for something, and has not answered."""
        return self._busy

    @property
    def complete(self) -> None:
        """No version is made here."""

    @property
    def gathers(self) -> bool:
        """Whether nodes may be asked now."""
        site, order = self._site, self._site.order
        if order is None or site.done or site.doubted or not site.saved or not self._asked or self._busy:
            return False
        return site.head.version == order.version

    @property
    def owes(self) -> bool:
        """Whether a sum waits for its verdict."""
        return bool(self._site.frozen.sums or self._verdicts)

    # --- what is heard from above -----------------------------------------------------------------------------------

    def order(self, event: OrderReceived) -> None:
        """The federation above asks: this order takes the place of any other."""
        self._site.take_order(event.order)
        self._site.hand(event.outstanding - {event.order.update(self._site.gateway)})
        self._outstanding, self._begun_s, self._asked = event.outstanding, self._site.now, True

    def ended(self, round_id: RoundId) -> None:
        """Nobody waits for it: what arrives for it may serve the next one."""
        if self._site.order is not None and self._site.order.round == round_id:
            self._asked = False

    def run_ended(self, event: RunEnded) -> None:
        """Nothing follows above: what nobody there has heard of is in no version."""
        self._site.end_run()
        self._outstanding = event.outstanding

    def verdict(self, event: VerdictReceived) -> None:
        """The final word on a sum."""
        self._verdicts[event.update] = event
        self._site.judged(event.update)

    def fate(self, receipt: Receipt) -> bool:
        """What is said of a sum that comes too late; False where something else was asked for."""
        said = self._returned.verdict(receipt)
        if said is not None:
            self.verdict(said)
        return said is not None

    # --- what is to be done -----------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Settle what has a verdict; then see to the order."""
        self._returned.wake()
        if self._busy or self._settle() or self._follow_to_evaluate():
            return
        if self._site.over:
            self._return_work(Reason.FINISHED)
        elif self._asked:
            self._serve()
            self._end_passes()

    def _end_passes(self) -> None:
        """The federation above is back, and nobody trains: what there is makes the sum."""
        site = self._site
        rests = self.gathers and not self._busy and not site.away and not site.assignments
        if rests and len(site.waiting) > len(site.coming):
            self.freeze(BACK)

    def _follow_to_evaluate(self) -> bool:
        """A version that is to be evaluated must be the site's first, whoever trains."""
        evaluation = self._evaluation
        model = evaluation.to_follow if isinstance(evaluation, SiteEvaluation) else None
        if model is not None:
            self._follow(model.version)
        return model is not None

    def _follow(self, version: ModelVersion) -> None:
        self._busy = True
        self._site.emit(CommitVersion(version=version, members=(), reason=FOLLOWED))

    def _settle(self) -> bool:
        for update, said in list(self._verdicts.items()):
            made = self._site.frozen.sums.get(update)
            if made is None:
                del self._verdicts[update]
                self._ask(ReleaseVerdict(update=update))
                continue
            if said.reason is Reason.COUNTED and said.counted:
                self._wait(ThawSum(update=update, counted=said.counted))
                return True
            verdicts = verdicts_of(made, said.status, said.reason, said.version)
            self._wait(SettleSum(update=update, base_version=made.base_version, verdicts=verdicts))
            return True
        return False

    def _serve(self) -> None:
        site, order = self._site, self._site.order
        if order is None or site.done:
            return
        head, wanted = site.head, order.announcement.model
        if head.version > wanted.version or (head.version == wanted.version and head.digest != wanted.digest):
            self._refuse(order, f"the site has another version {head.version}: its task.seed, or a run that went back")
        elif not site.saved:
            self._wait(SaveOrder(order=order))
        elif head.version < wanted.version:
            self._follow(wanted.version)
        elif (made := site.frozen.sums.get(order.update(site.gateway))) is not None:
            self._hand_up(order, made)
        else:
            self._bind(order)

    def _bind(self, order: Order) -> None:
        """A sum that nobody above can have heard of answers this order, or its nodes get their work back.

        Which those are only the node above knows, and it says so with each order.
        """
        made = next(self._unheard(), None)
        if made is None:
            return
        if made.base_version == order.version:
            bound = replace(made, update=order.update(self._site.gateway), round=order.round)
            self._wait(BindSum(former=made.update, made=bound))
        else:
            self._return_work(Reason.TOO_STALE)

    def _unheard(self) -> Iterator[SiteSum]:
        """Sums that nobody above can have heard of."""
        if self._outstanding is None:
            return
        for made in self._site.frozen.sums.values():
            if made.update not in self._outstanding and made.update not in self._verdicts:
                yield made

    def _return_work(self, reason: Reason) -> None:
        """Nobody above will have the first of these any more; what of it counts elsewhere is known only there."""
        made = next(self._unheard(), None)
        if made is not None and reason is Reason.FINISHED:
            self._settle_late(made, reason)
        elif made is not None and self._returned.retry_s is None:
            self._wait(NameSum(made=made))

    def _settle_late(self, made: SiteSum, reason: Reason) -> None:
        verdicts = verdicts_of(made, ReceiptStatus.STALE, reason, None)
        self._wait(SettleSum(update=made.update, base_version=made.base_version, verdicts=verdicts))

    def _hand_up(self, order: Order, made: SiteSum) -> None:
        self._site.end_order()
        self._ask(AnswerOrder(order=order, made=made))

    def _refuse(self, order: Order, reason: str) -> None:
        self._site.end_order()
        self._ask(RefuseOrder(order=order, reason=reason))

    def freeze(self, reason: str) -> None:
        """Let what answers the order be the members of its sum."""
        site, order = self._site, self._site.order
        if order is None:
            return
        if site.goes_on:
            site.begin_pass(reason)
            return
        records = site.fitting()
        if left := len(site.waiting) - len(records):
            site.note("site_sum_divided", round=order.round, left=left, members_max=site.members_max)
        made = SiteSum(
            update=order.update(site.gateway),
            round=order.round,
            base_version=order.version,
            members=tuple(
                Member(update=one.update, node=one.node, num_examples=one.num_examples, staleness=0) for one in records
            ),
            num_examples=sum(one.num_examples for one in records),
            train_s=0.0 if self._begun_s is None else site.now - self._begun_s,
            metrics=_mean_metrics(records),
            reason=reason,
        )
        self._wait(FreezeSum(made=made))

    def _wait(self, effect: SiteEffect) -> None:
        self._busy = True
        self._ask(effect)

    def _ask(self, effect: SiteEffect) -> None:
        self._site.emit(cast("Effect", effect))

    # --- what the store answers -------------------------------------------------------------------------------------

    def kept(self, event: SiteAnswer) -> None:  # noqa: C901 - one case per event
        """Something is on disk."""
        site, self._busy = self._site, False
        match event:
            case OrderSaved(order=order):
                site.keep_order(order)
            case SumFrozen(made=made):
                site.frozen.put(made)
                fields = {"update": made.update, "members": len(made.members), "bytes": len(made.frame)}
                site.note("site_sum_frozen", reason=made.reason, version=made.base_version, **fields)
            case SumBound(former=former, made=made):
                site.frozen.drop(former)
                site.frozen.put(made)
                site.note("site_sum_bound", former=former, update=made.update)
            case SumSpoilt(culprit=culprit, reason=reason, detail=detail):
                for record in site.take_out([culprit]):
                    self._receiver.settle(record, ReceiptStatus.REFUSED, reason, stored=True, detail=detail)
            case SumSettled():
                self._settled(event)
            case SumThawed():
                self._thawed(event)
            case SumNamed(made=made, claims=claims):
                if claims:
                    self._ask(AskAbove(offer=self._returned.question(made, claims)))
                else:
                    self._settle_late(made, Reason.TOO_STALE)
            case SiteLifted():
                pass  # the machine ends

    def _settled(self, event: SumSettled) -> None:
        site = self._site
        site.frozen.drop(event.update)
        first = event.verdicts[0]
        site.know(first.version)
        site.note("site_sum_settled", update=event.update, status=first.status.value, version=first.version)
        for record, verdict in zip(site.take_out([one.update for one in event.verdicts]), event.verdicts, strict=True):
            receipt = Receipt(
                run=site.run,
                update=record.update,
                status=verdict.status,
                reason=verdict.reason,
                version=verdict.version,
            )
            site.send(record.node, receipt)
            site.answered(record.node, record.round)
        self._released(event.update)

    def _thawed(self, event: SumThawed) -> None:
        """What counts elsewhere is none of this site's; the rest answers the next order."""
        site = self._site
        if not event.gone:
            self._verdicts[event.update] = replace(self._verdicts[event.update], counted=b"")
            return
        site.thaw(event.update)
        site.note("site_sum_thawed", update=event.update, counted_elsewhere=len(event.gone))
        for record in site.take_out(event.gone):
            if record.node in site.settings.gateways:
                refuse_members(site, record, event.counted)
            else:
                site.counts_elsewhere(record.update)
                site.send(record.node, RetryAfter(update=record.update, seconds=OFFER_SOON_S))
        self._receiver.sweep()  # of a late sum the others answer no order
        self._released(event.update)

    def _released(self, update: UpdateId) -> None:
        if update in self._verdicts:
            del self._verdicts[update]
            self._ask(ReleaseVerdict(update=update))

    def committed(self, terms: PrivacyTerms | None) -> None:
        """The site has the version above."""
        del terms
        self._busy = False

    def unusable(self, reason: Reason, detail: str) -> None:
        """The version above cannot be followed: say so there, and wait for the next order."""
        self._busy = False
        if isinstance(self._evaluation, SiteEvaluation):
            self._evaluation.fail(f"{reason.value}: {detail}")
        if self._site.order is not None:
            self._refuse(self._site.order, f"{reason.value}: {detail}")

    def storage_failed(self) -> None:
        """What was asked of the disk is not there."""
        self._busy = False

    # --- what there is to wait for ----------------------------------------------------------------------------------

    def due(self) -> float | None:
        """When it is asked again what counts elsewhere, in monotonic seconds."""
        return None if self._busy else self._returned.retry_s

    def waited_for(self) -> list[HelperId]:
        """No helper."""
        return []

    def rows(self) -> Mapping[str, Mapping[str, object]]:
        """No helper."""
        return {}


class SiteVersions(Versions):
    """Versions come from above; what is gathered here is frozen for there."""

    def commit(self, reason: CommitReason) -> None:
        """Freeze what answers the order."""
        self._sums.freeze(reason.value)

    def patience_ends(self) -> float | None:
        """When a quorum is enough, in connected seconds; None when time alone changes nothing."""
        state, upward = site_of(self._state), self._sums
        gathers = isinstance(upward, Upward) and upward.gathers
        if state.finished or not gathers or len(state.coming) < max(1, state.settings.quorum):
            return None
        return state.buffer.since + state.settings.max_wait_s

    def failed(self, event: CommitFailed) -> None:
        """The version above cannot be followed now."""
        super().failed(event)
        self._sums.unusable(event.reason, event.detail)


def _mean_metrics(records: Sequence[UpdateRecord]) -> Mapping[str, float]:
    """The mean of what the nodes report, weighted by examples, of each number that any of them has."""
    sums: dict[str, tuple[float, int]] = {}
    for record in records:
        for name, value in record.metrics.items():
            total, weight = sums.get(name, (0.0, 0))
            sums[name] = total + value * record.num_examples, weight + record.num_examples
    return fit_metrics({name: total / weight for name, (total, weight) in sums.items()})
