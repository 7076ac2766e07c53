"""The coordinator's machine at a site: it asks nodes when it was asked, and freezes what they send."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast, get_args

from coordinator.engine.effects import Effect
from coordinator.engine.events import Event, News
from coordinator.engine.machine import CoordinatorMachine
from coordinator.engine.round import Situation, WaitReason
from federation.types import NodeId
from site_gateway.engine.evaluation import SiteEvaluation
from site_gateway.engine.events import (
    EvaluationAsked,
    EvaluationSummed,
    FateReceived,
    LinkChanged,
    OrderEnded,
    OrderReceived,
    RunEnded,
    SiteAnswer,
    SiteEffect,
    SiteEvent,
    SiteLifted,
    VerdictReceived,
)
from site_gateway.engine.moved import SiteReceiver
from site_gateway.engine.newcomers import Newcomers
from site_gateway.engine.state import SiteAnnouncer, SiteState, site_of
from site_gateway.engine.upward import SiteVersions, Upward

__all__ = ["LIFTED", "SiteMachine"]

LIFTED = "lifted"
"""Why a process ends that is to be followed by one with higher numbers, at once."""

_ANSWERS = get_args(SiteAnswer)


class SiteMachine(CoordinatorMachine):
    """`CoordinatorMachine` with other parts where versions are made: those come from above."""

    state_type, announcer_type, evaluation_type = SiteState, SiteAnnouncer, SiteEvaluation
    sums_type, versions_type = Upward, SiteVersions
    behind_type, receiver_type = Newcomers, SiteReceiver

    def go_on_away(self, members_max: int) -> None:
        """While nobody above can be reached the site trains on, up to so many updates in one sum; 0: it does not."""
        site_of(self._state).go_on_away(members_max)

    def handle_site(self, event: Event | SiteEvent | None, now: float) -> list[Effect | SiteEffect]:
        """Take one event of either kind, and say what must be done, in order."""
        return cast("list[Effect | SiteEffect]", self.handle(cast("Event | None", event), now))

    @property
    def upward(self) -> Upward:
        """What the site owes the federation above."""
        assert isinstance(self._sums, Upward)  # noqa: S101 - this class has put it there
        return self._sums

    @property
    def gateway(self) -> NodeId:
        """Who the gateway is above."""
        return site_of(self._state).gateway

    @property
    def evaluation(self) -> SiteEvaluation:
        """What the site's nodes are asked to evaluate."""
        assert isinstance(self._evaluation, SiteEvaluation)  # noqa: S101 - as above
        return self._evaluation

    def snapshot(self) -> Mapping[str, object]:
        """Where the site stands, and what it owes the federation above."""
        state = site_of(self._state)
        order = None if state.order is None else state.order.round
        return {**super().snapshot(), "order": order, "sums": len(state.frozen.sums)}

    @property
    def moved(self) -> SiteReceiver:
        """What it takes in of its nodes."""
        assert isinstance(self._receiver, SiteReceiver)  # noqa: S101 - as above
        return self._receiver

    def _on_news(self, event: News | SiteEvent) -> None:  # noqa: C901 - one case per event
        match event:
            case OrderReceived():
                self.upward.order(event)
            case OrderEnded(round=round_id):
                self.upward.ended(round_id)
            case VerdictReceived():
                self.upward.verdict(event)
            case FateReceived(receipt=receipt):
                if not self.upward.fate(receipt):
                    self.moved.fate(receipt)
            case RunEnded():
                self.upward.run_ended(event)
            case LinkChanged(up=up):
                site_of(self._state).reach(up=up)
            case EvaluationAsked():
                self.evaluation.want(event)
            case EvaluationSummed(report=report):
                self.evaluation.answer(report)
            case SiteLifted():
                self._leave(LIFTED)
            case _ if isinstance(event, _ANSWERS):
                self.upward.kept(cast("SiteAnswer", event))
            case _:
                super()._on_news(cast("News", event))

    def _decide(self) -> None:
        if self.upward.gathers:
            passes = site_of(self._state).passes
            super()._decide()
            if site_of(self._state).passes > passes:
                super()._decide()  # nothing was asked of the disk, so nothing wakes us for the next pass
            return
        self._liveness.consider(None)
        self._ask_for_evaluation()
        self._waiting.wait(WaitReason.ABOVE, self._names)

    def _situation(self) -> Situation:
        """Only what answers the order counts: what is frozen, or of an earlier pass, has its place already.

        A gateway below whose sum was refused for a double has answered nothing yet: it is asked again first.
        """
        found, state = super()._situation(), site_of(self._state)
        asked = 0 if state.settings.gateways else found.asked
        return replace(found, buffered=len(state.coming), asked=asked)

    def _finish(self) -> None:
        """Nobody leaves before the last sum has its verdict; the last version may be evaluated after the end."""
        if not self.upward.owes:
            super()._finish()
            self._ask_for_evaluation()
