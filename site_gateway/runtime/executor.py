"""Carries out what a gateway's machines ask for, each on its own broker and in its own store."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import cast, get_args

import coordinator.engine.effects as below
import coordinator.engine.events as below_events
from coordinator.runtime.executor import CoordinatorExecutor, ExecutorParts
from edge_node.engine.effects import SaveOutbox, SettleUpdate
from edge_node.engine.events import TrainingFailed, TrainingFinished
from edge_node.records import FinishedTraining, RecoveredNode
from edge_node.runtime.executor import NodeExecutor, NodeParts
from edge_node.storage.store import HeldModel
from federation.protocol.limits import CLAIM_BYTES, CLAIMS_MAX, EXAMPLES_MAX
from federation.types import RunId
from site_gateway.engine.events import (
    AboveEffect,
    AboveEvent,
    AnswerOrder,
    BelowEffect,
    BelowEvent,
    BindSum,
    EvaluationSummed,
    ForgetUpdate,
    FreezeSum,
    GatewayEffect,
    GatewayEvent,
    LiftSite,
    NameSum,
    OrderSaved,
    SaveOrder,
    SettleSum,
    SiteEffect,
    SiteEvent,
    SiteLifted,
    SumBound,
    SumEvaluation,
    SumFrozen,
    SumNamed,
    SumSettled,
    SumSpoilt,
    SumThawed,
    ThawSum,
)
from site_gateway.records import SiteSum
from site_gateway.runtime.summing import Summing, summed_report
from site_gateway.runtime.uplink import Form, coded
from site_gateway.storage.store import SiteStore
from update_codec import CodecError, read_members, sum_frame

__all__ = ["AboveExecutor", "GatewayExecutor", "SiteExecutor"]

_SITE = get_args(SiteEffect)


class AboveExecutor(NodeExecutor):
    """The node's part; what the node trains is what its site has done.

    Args:
        parts: What a node's executor works with.
        run: The run that the site's store is of.
        known: The model that the site has: where the node has none, or an older one, it need not be pulled again.
    """

    def __init__(self, parts: NodeParts, run: RunId, known: HeldModel | None) -> None:
        super().__init__(parts)
        self._run = run
        older = self._held is None or (known is not None and self._held.version < known.version)
        if known is not None and older and self._store.recovered().run == run:
            self._held = known

    def recovered(self) -> RecoveredNode:
        """Where the last process left off, with the model that the site has."""
        found = super().recovered()
        if self._held is None or found.run != self._run:
            return found
        return replace(found, held_version=self._held.version, held_digest=self._held.digest)

    def held_model(self) -> HeldModel | None:
        """The global model that the node holds."""
        return self._held

    def trained(self, asked: AnswerOrder, form: Form, claims: bytes) -> TrainingFinished | TrainingFailed:
        """A site's sum as the node's update, in the form that suits the link."""
        made, announcement = asked.made, asked.order.announcement
        manifest = self._setup.suited(announcement.model.manifest_digest).manifest
        try:
            update = coded(made, announcement, manifest, form, node=self._node, residual=self._residual(manifest))
        except CodecError as error:
            run, attempt = announcement.run, asked.order.attempt
            return TrainingFailed(round=made.round, reason=str(error), run=run, attempt=attempt)
        result = FinishedTraining(
            round=made.round,
            frame=update.frame,
            num_examples=made.num_examples,
            metrics=made.metrics,
            train_s=made.train_s,
            token=update.change,
            run=announcement.run,
            codec=update.codec,
            members=claims if 0 < len(claims) <= CLAIMS_MAX * CLAIM_BYTES else None,
            attempt=asked.order.attempt,
        )
        return TrainingFinished(result=result)


class SiteExecutor(CoordinatorExecutor):
    """The coordinator's part, with orders and sums.

    Args:
        parts: What a coordinator's executor works with.
        store: The site's store, which is also among the parts.
        examples_max: ``limits.num_examples_max``: the most examples of one node.
    """

    def __init__(self, parts: ExecutorParts, store: SiteStore, examples_max: int = EXAMPLES_MAX) -> None:
        super().__init__(parts)
        self._site, self._examples_max = store, examples_max

    def execute_site(self, effect: below.Effect | SiteEffect) -> Iterable[below_events.Event | SiteEvent]:
        """Run one effect of either kind."""
        return cast("Iterable[below_events.Event | SiteEvent]", self.execute(cast("below.Effect", effect)))

    def sync(self) -> None:
        """Wait until what the site has saved is on its disk.

        Raises:
            StorageError: The disk has failed: only a new start knows what it has kept.
        """
        self._site.sync()

    def claims(self, made: SiteSum) -> bytes:
        """What a sum claims above: each update of a node that is in it; b"" where not all of them are known by name.

        Raises:
            StorageError: The site's store cannot be read.
        """
        found = self._site.claims.of(made.updates)
        named = read_members(made.frame, self._parts.committer.manifest) * CLAIM_BYTES
        return found if len(found) == named else b""

    def _run(self, effect: below.OwnEffect | SiteEffect) -> Iterator[below_events.Event]:
        if isinstance(effect, ForgetUpdate):
            self._site.forget(effect.update)
        elif isinstance(effect, _SITE):
            yield cast("below_events.Event", self._keep(cast("SiteEffect", effect)))
        else:
            yield from super()._run(cast("below.OwnEffect", effect))

    def _keep(self, effect: SiteEffect) -> SiteEvent:  # noqa: PLR0911 - one case per effect
        match effect:
            case SaveOrder(order=order):
                self._site.save_order(order)
                return OrderSaved(order=order)
            case FreezeSum(made=made):
                return self._freeze(made)
            case BindSum(former=former, made=made):
                self._site.bind_sum(former, made)
                return SumBound(former=former, made=made)
            case SettleSum(update=update, base_version=base, verdicts=verdicts):
                self._site.settle_sum(update, base, verdicts)
                return SumSettled(update=update, verdicts=verdicts)
            case SumEvaluation(asked=asked):
                return EvaluationSummed(report=summed_report(asked, self._site.results(asked.model.version)))
            case ThawSum(update=update, counted=counted):
                return SumThawed(update=update, gone=self._site.thaw_sum(update, counted), counted=counted)
            case NameSum(made=made):
                return SumNamed(made=made, claims=self.claims(made))
            case LiftSite(epoch=epoch, next_round=next_round, lifts=lifts, forgets_order=forgets):
                self._site.lift(epoch, next_round, lifts, forgets_order=forgets)
                return SiteLifted()
            case _:
                raise TypeError(f"{type(effect).__name__} is carried out by the gateway itself")

    def _freeze(self, made: SiteSum) -> SumFrozen | SumSpoilt:
        committer = self._parts.committer
        summed = Summing(self._site, committer.manifest, committer.examine, self._examples_max).add(made)
        if isinstance(summed, SumSpoilt):
            return summed
        frozen = replace(made, frame=sum_frame(summed, committer.manifest))
        self._site.freeze_sum(frozen)
        return SumFrozen(made=frozen)


class GatewayExecutor:
    """Both parts, by whom an effect is of.

    Args:
        above: The node's part.
        below: The coordinator's part.
        form: In which form the site's sum goes up.

    Attributes:
        stopped: Both machines are done.
    """

    def __init__(self, above: AboveExecutor, below: SiteExecutor, form: Form) -> None:
        self._above, self._below, self._form = above, below, form
        self.stopped = False

    @property
    def stop_reason(self) -> str:
        """Why."""
        return self._below.stop_reason

    def execute(self, effect: GatewayEffect) -> Iterable[GatewayEvent]:
        """Run one effect.

        Raises:
            StorageError: The site's disk has failed while something waits for it.
        """
        events = self._events(effect)
        self.stopped = self._above.stopped and self._below.stopped
        return events

    def _events(self, effect: GatewayEffect) -> list[GatewayEvent]:
        match effect:
            case AboveEffect(effect=asked):
                if isinstance(asked, SaveOutbox | SettleUpdate):
                    # What the node keeps and forgets of a sum is on its disk at once: the sum, and its end, first.
                    self._below.sync()
                return [AboveEvent(event=event) for event in self._above.execute(asked)]
            case BelowEffect(effect=AnswerOrder() as answer):
                return [AboveEvent(event=self._above.trained(answer, self._form, self._below.claims(answer.made)))]
            case BelowEffect(effect=kept):
                return [BelowEvent(event=event) for event in self._below.execute_site(kept)]
