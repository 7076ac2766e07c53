"""The coordinator as a value: events and time in, effects out; no I/O, no arrays, bounded memory."""

from collections.abc import Mapping
from typing import assert_never

from coordinator.engine.alarms import Alarms
from coordinator.engine.announcer import Announcer
from coordinator.engine.effects import AcceptFailure, Effect, Stop
from coordinator.engine.events import (
    BrokerConnected,
    BrokerDisconnected,
    BrokerDropped,
    ChunkReceived,
    CommitFailed,
    CoordinatorStateHeard,
    DeclineReceived,
    Evaluated,
    Event,
    MessageRefused,
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
from coordinator.engine.federated_evaluation import FederatedEvaluation
from coordinator.engine.fencing import Fence
from coordinator.engine.liveness import Liveness
from coordinator.engine.round import Ask, AskReason, Commit, Situation, Wait, WaitReason, decide, waits_for
from coordinator.engine.settings import EngineSettings
from coordinator.engine.state import MachineState
from coordinator.engine.update_receiver import BUSY_RETRY_S, UpdateReceiver
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
        self._state = MachineState(settings, recovered)
        self._rng = rng
        self._evaluation = FederatedEvaluation(self._state, recovered)
        self._announcer = Announcer(self._state, recovered, selector=selector, rng=rng, survey=self._evaluation)
        self._fence = Fence(self._state, self._announcer)
        self._liveness = Liveness(self._state, self._announcer, self._fence)
        self._alarms = Alarms(self._state)
        self._receiver = UpdateReceiver(self._state, recovered.transfers)
        for record in recovered.stored:
            self._state.buffer.add(record, 0.0)
            self._state.registry.take(record.node)
        self._versions = Versions(self._state, self._receiver, self._announcer, best=recovered.best)
        self._settling_until: float | None = None
        self._paused_until: float | None = None
        self._failures = 0
        self._waiting_reason: WaitReason | None = None
        self._waiting_since = 0.0
        self._stop_by: float | None = None
        self._end_announced = False
        self._stopped = False

    def handle(self, event: Event | None, now: float) -> list[Effect]:
        """Take one event (None: the deadline has passed) and say what must be done, in order."""
        state = self._state
        state.effects, state.now = [], now
        if self._stopped:
            return []
        if not isinstance(event, StorageFailed):
            self._receiver.confirm()
        self._pass_time()
        self._dispatch(event)
        if not self._stopped:
            self._advance()
        return state.effects

    def deadline(self) -> float | None:
        """Monotonic time, in seconds, at which `handle(None, now)` is due; None when nothing is timed."""
        state = self._state
        if self._stopped:
            return None
        dues = [
            state.registry.next_timer(),
            state.clock.when(state.assignments.next_lease()),
            self._settling_until,
            self._paused_until,
        ]
        if not state.paused:
            dues += (self._liveness.call_due, self._fence.due)
            dues.append(self._stop_by)
            dues.append(state.clock.when(self._receiver.transfers.next_timer()))
            dues.append(state.clock.when(self._versions.patience_ends()))
            dues.append(state.clock.when(self._evaluation.ends()))
        return min((due for due in dues if due is not None), default=None)

    @property
    def counters(self) -> Mapping[str, int]:
        """What has happened so often since the start."""
        return self._state.counters

    def snapshot(self) -> Mapping[str, object]:
        """Where the machine stands, as plain data: at most `NAMES_MAX` names, whatever the fleet."""
        state = self._state
        return {
            "run": state.run,
            "epoch": state.epoch,
            "version": state.head.version,
            "next_round": state.next_round,
            "connected": state.clock.running,
            "online": state.registry.online,
            "known": len(state.registry),
            "candidates": len(state.registry.candidates),
            "live": len(state.assignments),
            "buffered": len(state.buffer.records),
            "transfers": len(self._receiver.transfers),
            "paused": state.paused,
            "finished": state.finished,
            "waiting_for": {
                "reason": "" if self._waiting_reason is None else self._waiting_reason.value,
                "since": self._waiting_since,
                "nodes": self._names(),
                "gone": self._liveness.gone(self._waiting_reason, NAMES_MAX),
                "buffer": state.settings.buffer,
                "nodes_min": state.settings.nodes_min,
            },
            "counters": dict(state.counters),
        }

    def _names(self) -> list[NodeId]:
        return [node for node, _ in zip(self._state.assignments, range(NAMES_MAX), strict=False)]

    # --- time -------------------------------------------------------------------------------------------------------

    def _pass_time(self) -> None:
        state = self._state
        # First of all: what waits for the end of the pause may be due as well.
        if self._paused_until is not None and state.now >= self._paused_until:
            self._resume()
        state.registry.wake(state.now)
        if state.clock.running:
            self._liveness.expire_leases()
            if not state.paused:
                self._receiver.drop_idle()
        if self._settling_until is not None and state.now >= self._settling_until:
            self._settling_until = None

    # --- events -----------------------------------------------------------------------------------------------------

    def _dispatch(self, event: Event | None) -> None:
        match event:
            case None:
                pass
            case OfferReceived() | ChunkReceived() | DeclineReceived() | ProgressReceived():
                self._on_node(event)
            case NodeStateReceived():
                self._liveness.observe(event.node, event.state)
                self._evaluation.seen(event.node)
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
        state = self._state
        if isinstance(event, BrokerConnected):
            state.clock.start(state.now)
            self._announcer.publish_again()
            self._settling_until = state.now + state.settings.settle_s
        else:
            state.clock.stop(state.now)
            self._settling_until = None
            self._fence.disconnected()
            self._state.count("disconnects")

    def _on_node(self, event: OfferReceived | ChunkReceived | DeclineReceived | ProgressReceived) -> None:
        state = self._state
        if event.node not in state.registry:
            state.send(event.node, Rebirth())
        if not isinstance(event, ProgressReceived):
            state.registry.alive(event.node)
        match event:
            case OfferReceived():
                self._receiver.offer(event, self._retry_s())
            case ChunkReceived():
                self._receiver.chunk(event)
            case DeclineReceived():
                self._liveness.declined(event.node, event.decline)
            case ProgressReceived():
                pass
            case _:
                assert_never(event)

    def _on_survey(self, event: ReportReceived | ResultSaved | SurveyClosed) -> None:
        match event:
            case ReportReceived():
                if event.node not in self._state.registry:
                    self._state.send(event.node, Rebirth())
                self._state.registry.alive(event.node)
                self._evaluation.report(event)
            case ResultSaved():
                self._failures = 0
                self._evaluation.saved(event)
            case SurveyClosed():
                self._failures = 0
                self._evaluation.closed(event)
            case _:
                assert_never(event)

    def _retry_s(self) -> float:
        """What a node that must come later is told: after the pause, and not all at once."""
        pause = max(0.0, (self._paused_until or 0.0) - self._state.now)
        return pause + BUSY_RETRY_S * (1.0 + self._rng())

    def _on_store(self, event: UpdateStored | UpdateRejected | VersionCommitted | CommitFailed | StorageFailed) -> None:
        match event:
            case UpdateStored():
                self._failures = 0
                self._receiver.stored(event.update)
            case UpdateRejected():
                self._receiver.rejected(event)
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
        state = self._state
        pause = min(STORAGE_RETRY_MAX_S, STORAGE_RETRY_S * 2.0 ** min(self._failures, FAILURES_MAX))
        self._failures += 1
        self._state.count("storage_failures")
        self._paused_until = state.now + pause
        state.paused = True
        state.emit(AcceptFailure())
        state.note("storage_failed", detail=event.detail, retry_s=pause)
        self._wait(WaitReason.STORAGE)
        self._versions.abort()
        self._evaluation.abort()
        self._receiver.storage_failed(self._retry_s())

    def _resume(self) -> None:
        state = self._state
        self._paused_until, state.paused = None, False
        state.note("storage_resumed")
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
        state = self._state
        if state.paused or self._versions.committing:
            return
        self._fence.heal()
        self._evaluation.advance(settled=self._settling_until is None)
        self._versions.retain(self._evaluation.pending)
        self._versions.sweep()
        self._receiver.store_complete()
        state.close_rounds()
        if state.finished:
            self._liveness.consider(None)
            self._finish()
        else:
            self._decide()
        self._versions.evaluate()

    def _decide(self) -> None:
        state, registry = self._state, self._state.registry
        state.resize()
        decision = decide(self._situation(), state.settings)
        self._liveness.consider(decision.reason if isinstance(decision, Wait) else None)
        match decision:
            case Commit(reason=reason):
                self._versions.commit(reason)
            case Ask(reason=reason, count=count):
                self._announcer.open(
                    registry.candidates if reason is AskReason.FREE_SLOTS else registry.suspects, count
                )
                self._wait(waits_for(self._situation()))
            case Wait(reason=reason):
                self._ask_for_evaluation()
                self._wait(reason)
            case _:
                assert_never(decision)

    def _ask_for_evaluation(self) -> None:
        """Nobody is asked to train now: ask at least those who can evaluate."""
        ready = self._state.clock.running and self._settling_until is None
        if ready and self._state.registry.online and self._evaluation.due():
            self._announcer.ask_for_evaluation()

    def _situation(self) -> Situation:
        state, registry = self._state, self._state.registry
        return Situation(
            connected=state.clock.running,
            settled=self._settling_until is None,
            started=self._announcer.started,
            committing=self._versions.committing,
            online=registry.online,
            candidates=len(registry.candidates),
            suspects=len(registry.suspects),
            live=len(state.assignments),
            transfers=len(self._receiver.transfers),
            asked=state.asked,
            buffered=len(state.buffer.records),
            overdue=state.connected_s >= state.buffer.since + state.settings.max_wait_s,
        )

    def _wait(self, reason: WaitReason) -> None:
        """Remember for what; say it when it changes."""
        state = self._state
        if reason == self._waiting_reason:
            return
        self._waiting_reason, self._waiting_since = reason, state.now
        fields = {
            "live": len(state.assignments),
            "buffered": len(state.buffer.records),
            "online": state.registry.online,
        }
        state.note("waiting", reason=reason.value, nodes=self._names(), **fields)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Say that nothing follows, keep answering, and leave when that was asked for."""
        state = self._state
        if not self._end_announced:
            self._end_announced = True
            self._announcer.announce_end()
            state.note("finished", version=state.head.version)
            self._wait(state.ending)
            if state.settings.exit_when_finished:
                self._stop_by = state.now + FINISH_WAIT_S
        if self._stop_by is None:
            return
        ready = state.clock.running and not self._versions.evaluating and not self._evaluation.busy
        if ready or state.now >= self._stop_by:
            self._stop(state.ending.value)

    def _stop(self, reason: str) -> None:
        self._state.close_rounds(all_of_them=True)
        self._announcer.publish_state(Presence.OFFLINE)
        self._leave(reason)

    def _leave(self, reason: str) -> None:
        """Without a word: somebody else speaks for this run now."""
        self._stopped = True
        self._state.emit(Stop(reason=reason))
