"""The edge node's brain: every event at a given time gives the effects that must follow, in order (sans-IO)."""

from collections.abc import Callable, Mapping
from typing import assert_never

from edge_node.engine.effects import AdoptModel, Effect, ForgetRun, MakeInitialModel, Note, PublishState, Stop
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
    StopRequested,
    StorageFailed,
    TrainingFailed,
    TrainingFinished,
)
from edge_node.engine.fencing import Fence, ignored
from edge_node.engine.outbox import Outbox
from edge_node.engine.reports import Reports
from edge_node.engine.scheduler import Scheduler
from edge_node.engine.settings import NodeSettings, TrainBounds
from edge_node.records import FinishedTraining, Held, RecoveredNode
from federation.protocol.messages import (
    Cancel,
    CoordinatorState,
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
from federation.types import Epoch, Incarnation, RunId, StateId

__all__ = ["NodeMachine", "NodeSettings", "TrainBounds"]


class NodeMachine:
    """One node: who coordinates, the round at hand (`Scheduler`), and what is not yet settled (`Outbox`).

    Time is monotonic seconds; ``rng`` gives uniform numbers in [0, 1); ``gate`` says why the device may not train now,
    ``device`` what it has; ``state_id`` is its store's.
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
    ) -> None:
        self._device = device
        self._settings, self._incarnation, self._state_id = settings, incarnation, state_id
        self._outbox = Outbox(settings, recovered.outbox, rng)
        self._reports = Reports(settings, rng)
        self._scheduler = Scheduler(settings, recovered, rng=rng, outbox=self._outbox, reports=self._reports, gate=gate)
        self._run: RunId | None = recovered.run
        self._fence = Fence(recovered.seen, durable=settings.signed)
        self._connected = False
        self._unproven: RoundAnnouncement | None = None
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
        times = (self._outbox.deadline(), self._reports.deadline(), self._scheduler.deadline(), self._leave_at)
        return min((time for time in times if time is not None), default=None)

    def snapshot(self) -> Mapping[str, object]:
        """Plain data for `doctor`, logs and tests."""
        return {
            "run": self._run,
            "epoch": self._fence.epoch(self._run),
            "incarnation": self._incarnation,
            "connected": self._connected,
            "activity": self._scheduler.activity.value,
            "work": self._scheduler.summary(),
            "held_version": None if self._scheduler.held is None else self._scheduler.held.version,
            "last_round": self._scheduler.last_round,
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
                return self._on_coordinator(event.state, now)
            case AnnouncementReceived():
                return self._on_announcement(event.announcement, now)
            case ModelChunkReceived():
                return self._scheduler.chunk(event, now)
            case CommandReceived():
                return self._on_command(event.command, now)
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
                self._outbox.saved(event.entry.offer.update, now)
                return []
            case StorageFailed():
                return self._on_storage_failed(event, now)
            case StopRequested():
                return self._leave("requested")
            case _:
                assert_never(event)

    # --- the network ------------------------------------------------------------------------------------------------

    def _on_connected(self, now: float) -> list[Effect]:
        self._connected = True
        self._outbox.connected(now)
        self._reports.connected(now)
        return [self._birth(), *self._scheduler.connected(now)]

    def _birth(self) -> PublishState:
        return self._state(Presence.ONLINE)

    def _state(self, presence: Presence) -> PublishState:
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
        )
        return PublishState(state=state)

    def _capabilities(self) -> Mapping[str, float] | None:
        """What the device says of itself, and how fast its uplink was [FED-74]."""
        if self._device is None:
            return None
        link = self._outbox.link.bytes_per_s
        return {**self._device(), **({} if link is None else {"link_bytes_s": link})}

    # --- the coordinator --------------------------------------------------------------------------------------------

    def _on_coordinator(self, state: CoordinatorState, now: float) -> list[Effect]:
        present = state.presence is Presence.ONLINE
        effects: list[Effect] = []
        if state.run != self._run:
            if not present:
                return []  # the will of a former run's coordinator
            if self._fence.is_older_run(state):
                return [ignored("run", run=state.run)]
            effects = self._enter_run(state.run)
        if not self._sees(state.run, state.epoch, now, state.began_ms):
            return effects
        effects += self._fence.save()
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

    def _on_announcement(self, announcement: RoundAnnouncement, now: float) -> list[Effect]:
        if self._run is None:
            self._run = announcement.run
        if announcement.run != self._run:
            # Perhaps only a retained message that a former run has left behind: it must not cost the outbox. It counts
            # when that run's coordinator says that it is online.
            self._unproven = announcement
            return [Note(event="other_run_announced", fields={"run": announcement.run})]
        if self._fence.is_replay(announcement):
            return [ignored("round", round=announcement.round, version=announcement.model.version)]
        if not self._sees(announcement.run, announcement.epoch, now) or not self._scheduler.is_news(announcement):
            return []
        if not announcement.final:  # the end may be retained from long ago
            self._outbox.coordinator_is(present=True, now=now)  # whatever a late will has said [FED-62]
        self._fence.obey(announcement)
        effects = [*self._fence.save(), *self._scheduler.announce(announcement, now)]
        leaves = announcement.final and self._settings.exit_when_finished
        self._leave_at = now + self._settings.exit_linger_s if leaves else None
        if announcement.final:
            effects += [Note(event="run_finished", fields={"round": announcement.round}), *self._scheduler.finish()]
        return effects

    def _enter_run(self, run: RunId) -> list[Effect]:
        known, self._run = self._run, run
        self._leave_at = None
        if known is None:
            return []
        self._outbox.forget_others(run)
        self._reports.forget_others(run)
        return [*self._scheduler.forget(), ForgetRun(run=run)]

    def _sees(self, run: RunId, epoch: Epoch, now: float, began_ms: int | None = None) -> bool:
        """Fencing: an older twin of the coordinator is not heard; a newer one must be told everything again."""
        known = self._fence.epoch(run)
        if not self._fence.take(run, epoch, began_ms):
            return False
        if known is not None and epoch > known:
            self._outbox.offer_again(now)
            self._reports.again(now)
        return True

    def _on_command(
        self, command: Receipt | Grant | Cancel | RetryAfter | Rebirth | EvaluationReceipt, now: float
    ) -> list[Effect]:
        match command:
            case Receipt():
                return self._outbox.receipt(command, now)
            case Grant():
                return self._outbox.grant(command, now)
            case Cancel():
                return self._scheduler.cancel(command.round, now) if command.run == self._run else []
            case RetryAfter():
                self._outbox.retry_after(command, now)
                return []
            case Rebirth():
                return [self._birth()]
            case EvaluationReceipt():
                self._reports.receipt(command)
                return []
            case _:
                assert_never(command)

    # --- training and the store -------------------------------------------------------------------------------------

    def _on_trained(self, result: FinishedTraining) -> list[Effect]:
        offer = self._scheduler.finished(result, self._incarnation)
        return [] if offer is None else self._outbox.add(offer, result)

    def _on_storage_failed(self, event: StorageFailed, now: float) -> list[Effect]:
        if isinstance(event.effect, AdoptModel | MakeInitialModel):
            return self._scheduler.model_rejected(event.effect.model.version, event.detail, now)
        self._outbox.storage_failed(event.effect, now)
        return [Note(event="storage_paused", fields={"reason": event.detail})]

    # --- time -------------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Effect]:
        effects = self._outbox.tick(now) + self._scheduler.tick(now) + self._reports.tick(now)
        idle = self._outbox.idle and self._reports.idle and self._scheduler.idle
        if self._leave_at is not None and (idle or now >= self._leave_at):
            # What is left in the outbox stays on disk: the next start offers it again.
            return effects + self._leave("finished")
        return effects

    def _leave(self, reason: str) -> list[Effect]:
        effects = self._scheduler.finish()
        self._stopped = True
        return [*effects, self._state(Presence.OFFLINE), Stop(reason=reason)]
