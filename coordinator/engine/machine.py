"""The coordinator as a value: events and time in, effects out; no I/O, no arrays, bounded memory."""

from collections.abc import Mapping
from typing import assert_never

from coordinator.engine.alarms import Alarms
from coordinator.engine.announcer import Announcer
from coordinator.engine.attendance import Attendance
from coordinator.engine.effects import AcceptFailure, Effect, Stop
from coordinator.engine.events import (
    BrokerConnected,
    BrokerDisconnected,
    ChunkReceived,
    CommitFailed,
    DeclineReceived,
    Evaluated,
    Event,
    NodeStateReceived,
    OfferReceived,
    ProgressReceived,
    ReportReceived,
    ResultSaved,
    StopRequested,
    StorageFailed,
    SurveyClosed,
    UpdateRejected,
    UpdateStored,
    VersionCommitted,
)
from coordinator.engine.federated_evaluation import Survey
from coordinator.engine.fencing import Fence
from coordinator.engine.heard import BrokerDropped, CoordinatorStateHeard, MessageRefused
from coordinator.engine.roll_call import RollCall
from coordinator.engine.round import Move, Situation, decide
from coordinator.engine.settings import EngineSettings
from coordinator.engine.state import Desk
from coordinator.engine.update_receiver import BUSY_RETRY_S, Intake
from coordinator.engine.versions import Versions
from coordinator.records import RecoveredState
from coordinator.strategies.selection import Rng, Selector
from federation.protocol.messages import Presence, Rebirth
from federation.types import NodeId

STORAGE_RETRY_S = 1.0
"""First pause after a storage failure; doubled with each failure in a row."""

STORAGE_RETRY_MAX_S = 60.0
"""Longest pause after a storage failure, in seconds."""

FINISH_WAIT_S = 600.0
"""A finished run waits this long at most for its evaluations and its broker before it stops, in seconds."""

NAMES_MAX = 10
"""Nodes named in one line of the log, or in one snapshot."""

FAILURES_MAX = 16


class CoordinatorMachine:
    """One engine for synchronous and asynchronous rounds (DESIGN.md, PROTOCOL.md)."""

    def __init__(self, settings: EngineSettings, recovered: RecoveredState, *, selector: Selector, rng: Rng) -> None:
        self._desk = Desk(settings, recovered)
        self._rng = rng
        self._survey = Survey(self._desk, recovered)
        self._announcer = Announcer(self._desk, recovered, selector=selector, rng=rng, survey=self._survey)
        self._fence = Fence(self._desk, self._announcer)
        self._attendance = Attendance(self._desk, self._announcer, self._fence)
        self._alarms = Alarms(self._desk)
        self._intake = Intake(self._desk, recovered.transfers)
        for record in recovered.stored:
            self._desk.buffer.add(record, 0.0)
            self._desk.registry.take(record.node)
        self._versions = Versions(self._desk, self._intake, self._announcer, best=recovered.best)
        self._roll_call = RollCall(self._desk)
        self._settling_until: float | None = None
        self._paused_until: float | None = None
        self._failures = 0
        self._waiting_reason = ""
        self._waiting_since = 0.0
        self._stop_by: float | None = None
        self._end_announced = False
        self._stopped = False

    def handle(self, event: Event | None, now: float) -> list[Effect]:
        """Take one event (None: the deadline has passed) and say what must be done, in order."""
        desk = self._desk
        desk.effects, desk.now = [], now
        if self._stopped:
            return []
        if not isinstance(event, StorageFailed):
            self._intake.confirm()
        self._pass_time()
        self._dispatch(event)
        if not self._stopped:
            self._advance()
        return desk.effects

    def deadline(self) -> float | None:
        """Monotonic time, in seconds, at which `handle(None, now)` is due; None when nothing is timed."""
        desk = self._desk
        if self._stopped:
            return None
        dues = [
            desk.registry.next_timer(),
            desk.clock.when(desk.assignments.next_lease()),
            self._settling_until,
            self._paused_until,
        ]
        if not desk.paused:
            dues += (self._roll_call.due, self._fence.due)
            dues.append(self._stop_by)
            dues.append(desk.clock.when(self._intake.transfers.next_timer()))
            dues.append(desk.clock.when(self._versions.patience_ends()))
            dues.append(desk.clock.when(self._survey.ends()))
        return min((due for due in dues if due is not None), default=None)

    @property
    def counters(self) -> Mapping[str, int]:
        """What has happened so often since the start."""
        return self._desk.counters

    def snapshot(self) -> Mapping[str, object]:
        """Where the machine stands, as plain data: at most `NAMES_MAX` names, whatever the fleet."""
        desk = self._desk
        return {
            "run": desk.run,
            "epoch": desk.epoch,
            "version": desk.head.version,
            "next_round": desk.next_round,
            "connected": desk.clock.running,
            "online": desk.registry.online,
            "known": len(desk.registry),
            "candidates": len(desk.registry.candidates),
            "live": len(desk.assignments),
            "buffered": len(desk.buffer.records),
            "transfers": len(self._intake.transfers),
            "paused": desk.paused,
            "finished": desk.finished,
            "waiting_for": {
                "reason": self._waiting_reason,
                "since": self._waiting_since,
                "nodes": self._names(),
                "gone": self._roll_call.gone(self._waiting_reason, NAMES_MAX),
                "buffer": desk.settings.buffer,
                "nodes_min": desk.settings.nodes_min,
            },
            "counters": dict(desk.counters),
        }

    def _names(self) -> list[NodeId]:
        return [node for node, _ in zip(self._desk.assignments, range(NAMES_MAX), strict=False)]

    # --- time -------------------------------------------------------------------------------------------------------

    def _pass_time(self) -> None:
        desk = self._desk
        # First of all: what waits for the end of the pause may be due as well.
        if self._paused_until is not None and desk.now >= self._paused_until:
            self._resume()
        desk.registry.wake(desk.now)
        if desk.clock.running:
            self._attendance.expire_leases()
            if not desk.paused:
                self._intake.drop_idle()
        if self._settling_until is not None and desk.now >= self._settling_until:
            self._settling_until = None

    # --- events -----------------------------------------------------------------------------------------------------

    def _dispatch(self, event: Event | None) -> None:
        match event:
            case None:
                pass
            case OfferReceived() | ChunkReceived() | DeclineReceived() | ProgressReceived():
                self._on_node(event)
            case NodeStateReceived():
                self._attendance.observe(event.node, event.state)
                self._survey.seen(event.node)
            case ReportReceived() | ResultSaved() | SurveyClosed():
                self._on_survey(event)
            case UpdateStored() | UpdateRejected() | VersionCommitted() | CommitFailed() | StorageFailed():
                self._on_store(event)
            case BrokerConnected() | BrokerDisconnected():
                self._on_broker(event)
            case MessageRefused() | BrokerDropped() | CoordinatorStateHeard():
                self._on_alarm(event)
            case Evaluated():
                self._versions.evaluated(event)
            case StopRequested():
                self._stop("requested")
            case _:
                assert_never(event)

    def _on_broker(self, event: BrokerConnected | BrokerDisconnected) -> None:
        desk = self._desk
        match event:
            case BrokerConnected():
                desk.clock.start(desk.now)
                self._announcer.publish_again()
                self._settling_until = desk.now + desk.settings.settle_s
            case BrokerDisconnected():
                desk.clock.stop(desk.now)
                self._settling_until = None
                self._fence.disconnected()
                self._desk.count("disconnects")
            case _:
                assert_never(event)

    def _on_node(self, event: OfferReceived | ChunkReceived | DeclineReceived | ProgressReceived) -> None:
        desk = self._desk
        if event.node not in desk.registry:
            desk.send(event.node, Rebirth())
        if not isinstance(event, ProgressReceived):
            desk.registry.alive(event.node)
        match event:
            case OfferReceived():
                self._intake.offer(event, self._retry_s())
            case ChunkReceived():
                self._intake.chunk(event)
            case DeclineReceived():
                self._attendance.declined(event.node, event.decline)
            case ProgressReceived():
                pass
            case _:
                assert_never(event)

    def _on_survey(self, event: ReportReceived | ResultSaved | SurveyClosed) -> None:
        match event:
            case ReportReceived():
                if event.node not in self._desk.registry:
                    self._desk.send(event.node, Rebirth())
                self._desk.registry.alive(event.node)
                self._survey.report(event)
            case ResultSaved():
                self._failures = 0
                self._survey.saved(event)
            case SurveyClosed():
                self._failures = 0
                self._survey.closed(event)
            case _:
                assert_never(event)

    def _retry_s(self) -> float:
        """What a node that must come later is told: after the pause, and not all at once."""
        pause = max(0.0, (self._paused_until or 0.0) - self._desk.now)
        return pause + BUSY_RETRY_S * (1.0 + self._rng())

    def _on_store(self, event: UpdateStored | UpdateRejected | VersionCommitted | CommitFailed | StorageFailed) -> None:
        match event:
            case UpdateStored():
                self._failures = 0
                self._intake.stored(event.update)
            case UpdateRejected():
                self._intake.rejected(event)
            case VersionCommitted():
                self._failures = 0
                self._versions.committed(event)
            case CommitFailed():
                self._versions.failed(event)
            case StorageFailed():
                self._on_storage_failed(event)
            case _:
                assert_never(event)

    def _on_storage_failed(self, event: StorageFailed) -> None:
        """Acknowledge nothing for a while, and say so."""
        desk = self._desk
        pause = min(STORAGE_RETRY_MAX_S, STORAGE_RETRY_S * 2.0 ** min(self._failures, FAILURES_MAX))
        self._failures += 1
        self._desk.count("storage_failures")
        self._paused_until = desk.now + pause
        desk.paused = True
        desk.emit(AcceptFailure())
        desk.note("storage_failed", detail=event.detail, retry_s=pause)
        self._wait("storage")
        self._versions.abort()
        self._survey.abort()
        self._intake.storage_failed(self._retry_s())

    def _resume(self) -> None:
        desk = self._desk
        self._paused_until, desk.paused = None, False
        desk.note("storage_resumed")
        self._announcer.save_again()

    def _on_alarm(self, event: MessageRefused | BrokerDropped | CoordinatorStateHeard) -> None:
        match event:
            case MessageRefused():
                self._alarms.refused(event)
            case BrokerDropped():
                self._alarms.dropped(event.total)
            case CoordinatorStateHeard():
                if self._fence.heard(event):
                    self._leave("fenced")
            case _:
                assert_never(event)

    # --- decisions --------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Do what the new situation asks for; nothing that must be saved happens during a storage pause."""
        desk = self._desk
        if desk.paused or self._versions.committing:
            return
        self._fence.heal()
        self._survey.advance(settled=self._settling_until is None)
        self._versions.retain(self._survey.pending)
        self._versions.sweep()
        self._intake.store_complete()
        desk.close_rounds()
        if desk.finished:
            self._roll_call.consider("finished")
            self._finish()
        else:
            self._decide()
        self._versions.evaluate()

    def _decide(self) -> None:
        desk, registry = self._desk, self._desk.registry
        desk.resize()
        decision = decide(self._situation(), desk.settings)
        self._roll_call.consider(decision.reason)
        match decision.move:
            case Move.COMMIT:
                self._versions.commit(decision.reason)
                return
            case Move.ASK:
                self._announcer.open(registry.candidates, decision.count)
                decision = decide(self._situation(), desk.settings)
            case Move.ASK_AGAIN:
                self._announcer.open(registry.suspects, decision.count)
                decision = decide(self._situation(), desk.settings)
            case Move.WAIT:
                self._ask_for_evaluation()
            case _:
                assert_never(decision.move)
        self._wait(decision.reason)

    def _ask_for_evaluation(self) -> None:
        """Nobody is asked to train now: ask at least those who can evaluate."""
        ready = self._desk.clock.running and self._settling_until is None
        if ready and self._desk.registry.online and self._survey.due():
            self._announcer.ask_for_evaluation()

    def _situation(self) -> Situation:
        desk, registry = self._desk, self._desk.registry
        return Situation(
            connected=desk.clock.running,
            settled=self._settling_until is None,
            started=self._announcer.started,
            committing=self._versions.committing,
            online=registry.online,
            candidates=len(registry.candidates),
            suspects=len(registry.suspects),
            live=len(desk.assignments),
            transfers=len(self._intake.transfers),
            asked=desk.asked,
            buffered=len(desk.buffer.records),
            overdue=desk.connected_s >= desk.buffer.since + desk.settings.max_wait_s,
        )

    def _wait(self, reason: str) -> None:
        """Remember for what; say it when it changes."""
        desk = self._desk
        if reason == self._waiting_reason:
            return
        self._waiting_reason, self._waiting_since = reason, desk.now
        fields = {"live": len(desk.assignments), "buffered": len(desk.buffer.records), "online": desk.registry.online}
        desk.note("waiting", reason=reason, nodes=self._names(), **fields)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Say that nothing follows, keep answering, and leave when that was asked for."""
        desk = self._desk
        if not self._end_announced:
            self._end_announced = True
            self._announcer.announce_end()
            desk.note("finished", version=desk.head.version)
            self._wait(desk.ending)
            if desk.settings.exit_when_finished:
                self._stop_by = desk.now + FINISH_WAIT_S
        if self._stop_by is None:
            return
        ready = desk.clock.running and not self._versions.evaluating and not self._survey.busy
        if ready or desk.now >= self._stop_by:
            self._stop(desk.ending)

    def _stop(self, reason: str) -> None:
        self._desk.close_rounds(all_of_them=True)
        self._announcer.publish_state(Presence.OFFLINE)
        self._leave(reason)

    def _leave(self, reason: str) -> None:
        """Without a word: somebody else speaks for this run now."""
        self._stopped = True
        self._desk.emit(Stop(reason=reason))
