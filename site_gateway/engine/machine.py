"""A gateway as a value: the node above and the coordinator below, and what each of them says to the other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from coordinator.engine.effects import Effect as CoordinatorEffect
from coordinator.engine.effects import Stop as StopBelow
from coordinator.engine.events import Event as CoordinatorEvent
from coordinator.engine.events import StopRequested as StopSite
from edge_node.engine.effects import Effect as NodeEffect
from edge_node.engine.effects import (
    EnterRun,
    Note,
    PublishEvent,
    SettleUpdate,
    StartEvaluation,
    StartTraining,
    StopTraining,
)
from edge_node.engine.effects import Stop as StopAbove
from edge_node.engine.events import (
    AnnouncementReceived,
    BrokerConnected,
    BrokerDisconnected,
    CommandReceived,
    EvaluationFinished,
    StopRequested,
    TrainingFailed,
)
from edge_node.engine.events import Event as NodeEvent
from edge_node.engine.machine import NodeMachine
from federation.protocol.cohort import evaluates
from federation.protocol.messages import Receipt
from federation.types import RunId, UpdateId, round_of, update_id
from site_gateway.engine.evaluation import not_evaluated
from site_gateway.engine.events import (
    AboveEffect,
    AboveEvent,
    AnswerEvaluation,
    AskAbove,
    BelowEffect,
    BelowEvent,
    EvaluationAsked,
    FateReceived,
    GatewayEffect,
    GatewayEvent,
    LinkChanged,
    OrderEnded,
    OrderReceived,
    RefuseOrder,
    ReleaseVerdict,
    RunEnded,
    SiteEffect,
    SiteEvent,
    VerdictReceived,
)
from site_gateway.engine.site import SiteMachine
from site_gateway.engine.state import ROUNDS_MAX
from site_gateway.records import Order

__all__ = ["GatewayMachine"]

HIDDEN = "masked reports do not pass through a gateway"
OTHER_RUN = "the site is of another run"
TOO_HIGH = "the round's number leaves the site none for rounds of its own"

_TRAINING = (StartTraining, StopTraining, StartEvaluation)


class GatewayMachine:
    """Two machines and the link between them.

    Args:
        above: The gateway as a node of the federation above.
        below: The gateway as the coordinator of its site.
        run: The run that the site's store is of.
    """

    def __init__(self, above: NodeMachine, below: SiteMachine, run: RunId) -> None:
        self._above, self._below, self._run, self._gateway = above, below, run, below.gateway
        self._receipts: dict[UpdateId, Receipt] = {}
        self._held: dict[UpdateId, SettleUpdate] = {}
        self._below_stopped = False

    def handle(self, event: GatewayEvent | None, now: float) -> list[GatewayEffect]:
        """Take one event (None: a deadline has passed) and say what must be done, in order."""
        match event:
            case None:
                return [*self._up(None, now), *self._down(None, now)]
            case AboveEvent(event=StopRequested()) | BelowEvent(event=StopSite()):
                return self._down(StopSite(), now)
            case AboveEvent(event=heard):
                return self._heard(heard, now)
            case BelowEvent(event=heard_below):
                return self._down(heard_below, now)
            case _:
                assert_never(event)

    def deadline(self) -> float | None:
        """When `handle(None, now)` is due, in monotonic seconds; None when nothing is timed."""
        return min((due for due in (self._above.deadline(), self._below.deadline()) if due is not None), default=None)

    def snapshot(self) -> Mapping[str, object]:
        """Where both stand, as plain data; the site's part is a coordinator's."""
        return self._below.snapshot()

    # --- from above to below ----------------------------------------------------------------------------------------

    def _heard(self, event: NodeEvent, now: float) -> list[GatewayEffect]:
        """A verdict's reason and version are only in its receipt."""
        if isinstance(event, CommandReceived) and isinstance(event.command, Receipt):
            receipt = event.command
            is_own = receipt.update == update_id(round_of(receipt.update), self._gateway)
            if receipt.run == self._run and not (is_own and receipt.update in self._outstanding()):
                return self._down(FateReceived(receipt=receipt), now)
            if receipt.status.final:
                self._receipts[receipt.update] = receipt
        found = self._up(event, now)
        if isinstance(event, BrokerConnected | BrokerDisconnected):
            found += self._down(LinkChanged(up=isinstance(event, BrokerConnected)), now)
        self._receipts.clear()
        if isinstance(event, AnnouncementReceived) and event.announcement.final and event.announcement.run == self._run:
            # A node hears of the end once; a site must hear of it again after a restart.
            last = event.announcement
            if evaluates(last.evaluation, last.run, last.model.version, self._gateway):
                # The site must not leave before the node above holds the last version.
                found += self._down(EvaluationAsked(model=last.model, run=last.run, expected=True), now)
            found += self._down(RunEnded(outstanding=self._outstanding()), now)
        return found

    def _up(self, event: NodeEvent | None, now: float) -> list[GatewayEffect]:
        found = list[GatewayEffect]()
        for effect in self._above.handle(event, now):
            found += self._of_training(effect, now) if isinstance(effect, _TRAINING) else self._of_node(effect, now)
        return found

    def _of_training(
        self, effect: StartTraining | StopTraining | StartEvaluation, now: float
    ) -> Sequence[GatewayEffect]:
        """What a node does by itself, and a gateway by its site."""
        match effect:
            case StartTraining(announcement=announcement, attempt=attempt):
                order = Order(announcement=announcement, attempt=attempt)
                if order.round >= ROUNDS_MAX:
                    return self._up(_declined(RefuseOrder(order=order, reason=TOO_HIGH)), now)
                return self._down(OrderReceived(order=order, outstanding=self._outstanding()), now)
            case StopTraining(round=round_id):
                return self._down(OrderEnded(round=round_id), now)
            case StartEvaluation():
                return self._evaluate(effect, now)
            case _:
                assert_never(effect)

    def _evaluate(self, effect: StartEvaluation, now: float) -> Sequence[GatewayEffect]:
        asked = EvaluationAsked(model=effect.model, run=effect.run)
        if effect.hidden is not None or effect.run != self._run:
            why = OTHER_RUN if effect.hidden is None else HIDDEN
            return self._up(EvaluationFinished(report=not_evaluated(asked, why)), now)
        return self._down(asked, now)

    def _of_node(self, effect: NodeEffect, now: float) -> Sequence[GatewayEffect]:
        """What goes on as it is, unless the site must hear of it first."""
        plain = AboveEffect(effect=effect)
        if isinstance(effect, SettleUpdate) and (receipt := self._receipts.pop(effect.update, None)) is not None:
            self._held[effect.update] = effect
            return self._down(_verdict(receipt), now)
        if isinstance(effect, EnterRun) and effect.run != self._run:
            note = Note(event="gateway_starts_again", fields={"run": effect.run, "site": self._run})
            return [plain, AboveEffect(effect=note), *self._down(StopSite(), now)]
        if isinstance(effect, StopAbove) and not self._below_stopped:
            return [plain, *self._down(StopSite(), now)]
        return [plain]

    def _outstanding(self) -> frozenset[UpdateId]:
        """Sums that the federation above may know, or will hear of: those in the outbox, and those being settled."""
        outbox = self._above.snapshot()["outbox"]
        rows = outbox if isinstance(outbox, list) else []
        return frozenset((*(row["update"] for row in rows), *self._held))

    # --- from below to above ----------------------------------------------------------------------------------------

    def _down(self, event: CoordinatorEvent | SiteEvent | None, now: float) -> list[GatewayEffect]:
        found = list[GatewayEffect]()
        for effect in self._below.handle_site(event, now):
            found += self._of_site(effect, now)
        return found

    def _of_site(self, effect: CoordinatorEffect | SiteEffect, now: float) -> Iterable[GatewayEffect]:
        """What goes on as it is, unless the node above must hear of it."""
        if isinstance(effect, RefuseOrder):
            return self._up(_declined(effect), now)
        if isinstance(effect, AnswerEvaluation):
            return self._up(EvaluationFinished(report=effect.report), now)
        if isinstance(effect, ReleaseVerdict):
            return self._released(effect.update)
        if isinstance(effect, AskAbove):
            # Where nobody can be asked the node offers its update again, and then it is asked.
            asked = AboveEffect(effect=PublishEvent(message=effect.offer))
            return [asked] if self._above.snapshot()["connected"] else []
        if isinstance(effect, StopBelow):
            self._below_stopped = True
            return [BelowEffect(effect=effect), *self._up(StopRequested(), now)]
        return [BelowEffect(effect=effect)]

    def _released(self, update: UpdateId) -> Iterable[GatewayEffect]:
        held = self._held.pop(update, None)
        # What makes no version its nodes take back: the gateway's own residual must not take it back once more.
        return () if held is None else (AboveEffect(effect=replace(held, applied=True)),)


def _declined(effect: RefuseOrder) -> TrainingFailed:
    run, attempt = effect.order.announcement.run, effect.order.attempt
    return TrainingFailed(round=effect.order.round, reason=effect.reason, run=run, attempt=attempt)


def _verdict(receipt: Receipt) -> VerdictReceived:
    return VerdictReceived(
        update=receipt.update,
        status=receipt.status,
        reason=receipt.reason,
        version=receipt.version,
        counted=receipt.counted or b"",
    )
