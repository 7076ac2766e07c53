"""The edge node's brain: every event at a given time gives the effects that must follow, in order (sans-IO)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import assert_never

from edge_node.engine.budget import Budget
from edge_node.engine.effects import (
    AdoptModel,
    Effect,
    EnterRun,
    MakeInitialModel,
    Note,
    PublishEvent,
    PublishState,
    Rest,
    SaveSpent,
    Stop,
)
from edge_node.engine.events import (
    AnnouncementReceived,
    BrokerConnected,
    BrokerDisconnected,
    CommandReceived,
    CoordinatorStateReceived,
    EvaluationFinished,
    Event,
    MessageRefused,
    ModelChunkReceived,
    ModelReady,
    ModelRejected,
    OutboxSaved,
    RunEntered,
    StopRequested,
    StorageFailed,
    TrainingFailed,
    TrainingFinished,
)
from edge_node.engine.fencing import Births, Fence, ignored
from edge_node.engine.outbox import Outbox
from edge_node.engine.pace import Pace
from edge_node.engine.reports import Reports
from edge_node.engine.runs import Runs
from edge_node.engine.scheduler import Scheduler
from edge_node.engine.settings import NodeSettings, TrainBounds
from edge_node.records import FinishedTraining, Held, RecoveredNode
from federation.protocol.messages import (
    Cancel,
    EvaluationReceipt,
    Grant,
    NodeState,
    Presence,
    Rebirth,
    Receipt,
    RetryAfter,
    RoundAnnouncement,
)
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION
from federation.types import (
    COSINE_FRAMES,
    MASKED_REPORTS,
    PRIVATE_EXAMPLES,
    Incarnation,
    RunId,
    SampledSteps,
    StateId,
)

__all__ = ["NodeMachine", "NodeSettings", "TrainBounds"]


class NodeMachine:
    """One node: who coordinates, the round at hand (`Scheduler`), and what is not yet settled (`Outbox`).

    Time is monotonic seconds; ``rng`` gives uniform numbers in [0, 1); ``gate`` says why the device may not train now,
    ``device`` what it has; ``state_id`` is its store's; ``lacks_key`` says why a sealed model cannot be read now.
    """

    def __init__(  # noqa: PLR0913 - all that a pure machine may not find by itself
        self,
        settings: NodeSettings,
        incarnation: Incarnation,
        recovered: RecoveredNode,
        *,
        rng: Callable[[], float],
        state_id: StateId | None = None,
        gate: Callable[[], str | None] | None = None,
        device: Callable[[], Mapping[str, float]] | None = None,
        lacks_key: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._device = device
        self._settings, self._incarnation, self._state_id = settings, incarnation, state_id
        self._runs = Runs(recovered)
        self._outbox = Outbox(settings, recovered, rng)
        self._budget = Budget(settings, recovered.spent)
        self._reports = Reports(settings, rng)
        self._scheduler = Scheduler(
            settings,
            self._runs,
            rng=rng,
            outbox=self._outbox,
            reports=self._reports,
            gate=gate,
            lacks_key=lacks_key,
            budget=self._budget,
        )
        seen = (one.seen for one in (recovered, *recovered.hidden))
        self._fence = Fence((one for one in seen if one is not None), signed=settings.signed)
        self._births = Births(rng, settings.reconnect_spread_s)
        self._pace = Pace(rng, settings.pace_linger_s)
        self._connected = False
        self._unproven: AnnouncementReceived | None = None
        self._leave_at: float | None = None
        self._stopped = False
        self._refused = 0

    def handle(self, event: Event | None, now: float) -> list[Effect]:
        """Take one event (None: the deadline has passed) and say what must be done, in order."""
        if self._stopped:
            return []
        effects = [] if event is None else self._on(event, now)
        return effects if self._stopped else effects + self._tick(now)

    def deadline(self) -> float | None:
        """Monotonic time, in seconds, at which `handle(None, now)` is due; None when nothing is timed."""
        if self._stopped:
            return None
        parts = (self._outbox, self._reports, self._scheduler, *((self._births, self._pace) if self._connected else ()))
        times = (*(part.deadline() for part in parts), self._leave_at)
        return min((time for time in times if time is not None), default=None)

    def snapshot(self) -> Mapping[str, object]:
        """Plain data for `doctor`, logs and tests."""
        return {
            "run": self._runs.run,
            "epoch": None if (seen := self._fence.seen(self._runs.run)) is None else seen.epoch,
            "incarnation": self._incarnation,
            "connected": self._connected,
            "activity": self._scheduler.activity.value,
            "work": self._scheduler.summary(),
            "held_version": None if self._runs.now.held is None else self._runs.now.held.version,
            "last_round": self._runs.now.last_round,
            "outbox": self._outbox.summary(),
            "obstacle": self._outbox.obstacle(),
            "messages_refused": self._refused,
            "stopped": self._stopped,
        }

    def _on(self, event: Event, now: float) -> list[Effect]:  # noqa: C901, PLR0911, PLR0912 - one case per event
        match event:
            case BrokerConnected():
                return self._on_connected(now)
            case BrokerDisconnected():
                self._connected = False
                self._outbox.disconnected()
                self._reports.disconnected()
                return self._scheduler.disconnected()
            case CoordinatorStateReceived():
                return self._on_coordinator(event, now)
            case AnnouncementReceived():
                return self._on_announcement(event, now)
            case ModelChunkReceived():
                return self._scheduler.chunk(event, now)
            case CommandReceived():
                return self._on_command(event, now)
            case MessageRefused():
                self._refused += 1  # the shell has logged it; bytes that are no message are never answered [FED-18]
                return []
            case ModelReady():
                return self._scheduler.model_ready(Held(version=event.version, digest=event.digest), now)
            case ModelRejected():
                return self._scheduler.model_rejected(event.version, event.reason, now)
            case TrainingFinished():
                return self._on_trained(event.result)
            case TrainingFailed():
                return self._scheduler.failed(event, now)
            case EvaluationFinished():
                return self._scheduler.evaluated(event.report, now)
            case OutboxSaved():
                self._outbox.saved(event.entry.offer, now)
                return []
            case RunEntered():
                return self._on_run_entered(event)
            case StorageFailed():
                return self._on_storage_failed(event, now)
            case StopRequested():
                return self._leave("requested")
            case _:
                assert_never(event)

    # --- the network ------------------------------------------------------------------------------------------------

    def _on_connected(self, now: float) -> list[Effect]:
        self._connected = True
        self._pace.connected()
        self._outbox.connected(now)
        self._reports.connected(now)
        return [self._birth(), *self._scheduler.connected(now)]

    def _birth(self) -> PublishState:
        return self._state(Presence.ONLINE)

    def _state(self, presence: Presence, away_s: float | None = None) -> PublishState:
        about = self._births.about(self._runs.run)
        state = NodeState(
            presence=presence,
            incarnation=self._incarnation,
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_VERSION,
            task=self._settings.task,
            device=self._settings.device,
            codecs=self._settings.codecs,
            activity=self._scheduler.activity,
            round=self._scheduler.round,
            capabilities=self._capabilities() if presence is Presence.ONLINE else None,
            state_id=self._state_id,
            seen=self._fence.said(about),
            spent=self._budget.of(about),
            invitable=True,
            release=self._settings.release or None if presence is Presence.ONLINE else None,
            away_s=away_s,
        )
        self._births.said(state.seen)
        return PublishState(state=state)

    def _capabilities(self) -> Mapping[str, float]:
        """What the device says of itself, and how fast its uplink was [FED-74]."""
        link, settings = self._outbox.link.bytes_per_s, self._settings
        can = {COSINE_FRAMES: 1.0} | ({PRIVATE_EXAMPLES: 1.0} if settings.private else {})
        can |= {MASKED_REPORTS: 1.0} if settings.helpers else {}
        if self._device is None:
            return can
        return {**self._device(), **({} if link is None else {"link_bytes_s": link}), **can}

    # --- the coordinator --------------------------------------------------------------------------------------------

    def _on_coordinator(self, event: CoordinatorStateReceived, now: float) -> list[Effect]:
        state = event.state
        if self._fence.is_lower(state):
            self._births.doubt(state, now)
            return list(self._fence.tell(state))
        present = state.presence is Presence.ONLINE
        effects: list[Effect] = []
        if state.run != self._runs.run:
            if not present:
                return []  # the will of a former run's coordinator
            effects = self._enter_run(state.run, now)
        if self._fence.hear(state, event.payload):
            self._tell_again(now)
        self._births.compare(self._fence.said(state.run), now, state.births_s or 0.0)
        effects += self._fence.save(state.run)
        self._pace.hear(state.pace_s if present else None)
        self._outbox.coordinator_is(present=present, now=now)
        self._reports.coordinator_is(present=present, now=now)
        if not state.protocol_min <= PROTOCOL_VERSION <= state.protocol_max:
            fields = {"protocol_min": state.protocol_min, "protocol_max": state.protocol_max}
            effects.append(Note(event="coordinator_incompatible", fields=fields))
        if present and self._settings.named_chunks_max is not None:
            effects.append(self._birth())  # the coordinator's wildcard has missed the one that is retained [FED-86]
        unproven, self._unproven = self._unproven, None
        if unproven is not None:
            effects += self._on_announcement(unproven, now)
        return effects

    def _on_announcement(self, event: AnnouncementReceived, now: float) -> list[Effect]:
        announcement, effects = event.announcement, list[Effect]()
        if self._runs.run is None:
            effects = self._enter_run(announcement.run, now)
        if announcement.run != self._runs.run:
            # Perhaps only a retained message that a former run has left behind: it must not hide the run at hand. It
            # counts when that run's coordinator says that it is online.
            self._unproven = event
            return [Note(event="other_run_announced", fields={"run": announcement.run})]
        follows = self._fence.follows(announcement)
        if follows is None:
            self._unproven = event  # of another start: which one leads, its state says
        if not follows:
            return effects
        if self._fence.is_replay(announcement):
            return [*effects, ignored("round", round=announcement.round, version=announcement.model.version)]
        if self._fence.hear_epoch(announcement):
            self._tell_again(now)
        if self._fence.begins(announcement) and self._scheduler.is_beyond(announcement):
            effects += self._scheduler.rewind(announcement)
        if not self._scheduler.is_news(announcement):
            return effects
        self._fence.obey(announcement, event.payload)
        return effects + self._obey(announcement, now, invited=event.invited)

    def _obey(self, announcement: RoundAnnouncement, now: float, *, invited: bool) -> list[Effect]:
        if not announcement.final:  # the end may be retained from long ago
            self._outbox.coordinator_is(present=True, now=now)  # whatever a late will has said [FED-62]
        effects = [*self._fence.save(announcement.run), *self._scheduler.announce(announcement, now, invited=invited)]
        leaves = announcement.final and self._settings.exit_when_finished
        self._leave_at = now + self._settings.exit_linger_s if leaves else None
        if announcement.final:
            effects += [Note(event="run_finished", fields={"round": announcement.round}), *self._scheduler.finish()]
        return effects

    def _enter_run(self, run: RunId, now: float) -> list[Effect]:
        """Hide what belongs to the run at hand: it is as it was when that run's coordinator is heard again [FED-19]."""
        self._leave_at = None
        effects = self._scheduler.leave_run()
        self._reports.forget_others(run)
        self._runs.enter(run)
        self._outbox.enter_run(run, now)
        return [*effects, EnterRun(run=run)]

    def _on_run_entered(self, event: RunEntered) -> list[Effect]:
        self._runs.forget(event.forgotten)
        self._outbox.forget(event.forgotten)
        self._fence.forget(event.forgotten)
        if event.run == self._runs.run:
            self._scheduler.run_entered(event.held)
        return [Note(event="run_forgotten", fields={"run": run}) for run in event.forgotten]

    def _tell_again(self, now: float) -> None:
        """A newer start of the coordinator must be told everything again."""
        self._outbox.offer_again(now)
        self._reports.again(now)

    def _on_command(self, event: CommandReceived, now: float) -> list[Effect]:
        match command := event.command:
            case Receipt():
                settled = self._outbox.receipt(command, now)
                if settled and command.status.final:
                    self._fence.settle(command, event.payload)
                return [*self._fence.save(command.run), *settled]
            case Grant():
                return self._outbox.grant(command, now)
            case Cancel():
                return self._scheduler.cancel(command.round, now) if command.run == self._runs.run else []
            case RetryAfter():
                self._outbox.retry_after(command, now)
                return []
            case Rebirth():
                proof = self._fence.proof(self._births.about(self._runs.run)) if command.proof else None
                return [
                    *self._adopt_spent(command.spent or ()),
                    *([] if proof is None else [PublishEvent(message=proof, reader=command.seal)]),
                    self._birth(),
                ]
            case EvaluationReceipt():
                self._reports.receipt(command)
                return []
            case _:
                assert_never(command)

    # --- training and the store -------------------------------------------------------------------------------------

    def _on_trained(self, result: FinishedTraining) -> list[Effect]:
        offer = self._scheduler.finished(result, self._incarnation)
        if offer is None:
            return []
        self._budget.charge(offer.run, result.spent)
        if result.spent is not None:
            offer = replace(offer, spent=self._budget.of(offer.run))
        return self._outbox.add(offer, result)

    def _adopt_spent(self, known: tuple[SampledSteps, ...]) -> list[Effect]:
        run = self._runs.run
        if run is None or not self._budget.adopt(run, known):
            return []
        spent = self._budget.of(run) or ()
        note = Note(event="ledger_adopted", fields={"run": run, "steps": sum(each.steps for each in spent)})
        return [SaveSpent(run=run, spent=spent), note]

    def _on_storage_failed(self, event: StorageFailed, now: float) -> list[Effect]:
        if isinstance(event.effect, AdoptModel | MakeInitialModel):
            return self._scheduler.model_rejected(event.effect.model.version, event.detail, now)
        self._outbox.storage_failed(event.effect, now)
        return [Note(event="storage_paused", fields={"reason": event.detail})]

    # --- time -------------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Effect]:
        effects = self._outbox.tick(now) + self._scheduler.tick(now) + self._reports.tick(now)
        if self._connected and self._births.due(now):
            effects.append(self._birth())
        idle = self._outbox.idle and self._reports.idle and self._scheduler.idle
        if self._leave_at is not None and (idle or now >= self._leave_at):
            # What is left in the outbox stays on disk: the next start offers it again.
            return effects + self._leave("finished")
        return effects + self._keep_pace(now, idle=idle)

    def _keep_pace(self, now: float, *, idle: bool) -> list[Effect]:
        """Leave the broker where nothing is at hand and the coordinator asks for it; come back for work [FED-325]."""
        away_s = self._pace.due(now, idle=idle, connected=self._connected)
        if away_s is None:
            return []
        if away_s == 0.0:
            return [Rest(seconds=0.0)]
        said, self._connected = self._state(Presence.OFFLINE, away_s), False
        return [said, Note(event="away", fields={"seconds": round(away_s, 1)}), Rest(seconds=away_s)]

    def _leave(self, reason: str) -> list[Effect]:
        effects = self._scheduler.finish()
        self._stopped = True
        return [*effects, self._state(Presence.OFFLINE), Stop(reason=reason)]
