"""The coordinator as a value: events and time in, effects out; no I/O, no arrays, bounded memory."""

from collections.abc import Mapping
from typing import assert_never

from coordinator.engine import events
from coordinator.engine.alarms import NAMES_MAX, Alarms, StoragePause, Waiting
from coordinator.engine.announcer import Announcer
from coordinator.engine.claims.events import ClaimedJudged, ClaimsWithdrawn
from coordinator.engine.effects import Effect, Stop
from coordinator.engine.events import Answer, Event, News
from coordinator.engine.federated_evaluation import FederatedEvaluation
from coordinator.engine.fencing import STOPPED_S, Behind, Fence
from coordinator.engine.ledger import PrivacyLedger
from coordinator.engine.liveness import AttendanceRecorder, Liveness
from coordinator.engine.masked.events import MaskedAnswer, MaskedNews
from coordinator.engine.masked.sums import MaskedSums
from coordinator.engine.round import Ask, AskReason, Commit, Situation, Wait, WaitReason, decide, waits_for
from coordinator.engine.settings import FINISH_WAIT_S, EngineSettings
from coordinator.engine.state import MachineState
from coordinator.engine.update_receiver import UpdateReceiver
from coordinator.engine.versions import Versions
from coordinator.records import RecoveredState
from coordinator.strategies.selection import Rng, Selector
from federation.protocol.messages import Presence
from federation.types import NodeId, Start


class CoordinatorMachine:
    """One engine for synchronous and asynchronous rounds (PROTOCOL.md); a role above puts in parts of its own."""

    state_type, announcer_type, evaluation_type = MachineState, Announcer, FederatedEvaluation
    sums_type, versions_type, behind_type, receiver_type = MaskedSums, Versions, Behind, UpdateReceiver

    def __init__(
        self,
        settings: EngineSettings,
        recovered: RecoveredState,
        *,
        selector: Selector,
        rng: Rng,
        start: Start | None = None,
    ) -> None:
        self._state = state = self.state_type(settings, recovered, start)
        self._pause = StoragePause(state, rng)
        self._evaluation = self.evaluation_type(state, recovered)
        self._announcer = self.announcer_type(state, recovered, selector=selector, rng=rng, evaluation=self._evaluation)
        self._behind = self.behind_type(state)
        self._fence = Fence(state, self._announcer, self._behind)
        self._attendance = AttendanceRecorder(state)
        self._liveness = Liveness(state, self._fence, self._attendance, self._behind)
        self._alarms = Alarms(state)
        self._ledger = PrivacyLedger(state, recovered)
        self._receiver = self.receiver_type(state, recovered.transfers, self._behind)
        self._sums = self.sums_type(state, self._receiver, self._evaluation, recovered)
        self._versions = self.versions_type(state, self._receiver, self._announcer, self._sums, best=recovered.best)
        self._waiting = Waiting(state)
        self._enrolled: events.NodesEnrolled | None = None
        self._stop_by: float | None = None
        self._enrolled_digest = ""
        self._end_announced = self._stopped = self._more = False

    def follows(self, more: bool) -> None:  # noqa: FBT001 - the driver's only word
        """Whether an event of the same moment comes next: decisions wait for the last of them, or a full buffer."""
        self._more = more

    def handle(self, event: Event | None, now: float) -> list[Effect]:
        """Take one event (None: the deadline has passed) and say what must be done, in order."""
        state = self._state
        # What was set before is due after the step before: who was here just now can have missed nothing.
        due = self.deadline() if state.clock.may_be_late(now - state.now) else None
        state.begin_step(now)
        if self._stopped:
            return []
        if due is not None:
            state.clock.excuse(now, now - due)
            if now > due + STOPPED_S:
                self._fence.wakes(now - due)
        if not isinstance(event, events.UpdateStored):  # of the moment of the message that it answers
            self._pass_time(event)
        if isinstance(event, MaskedAnswer):
            self._sums.answered(event)
        elif isinstance(event, MaskedNews):
            self._sums.hear(event)
        elif isinstance(event, Answer):
            self._on_answer(event)
        elif event is not None:
            self._on_news(event)
        if not self._stopped and (not self._more or len(state.buffer.records) >= state.settings.buffer):
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
            state.settling_until,
            self._pause.until,
            self._behind.due,
        ]
        if not state.paused:
            dues += (self._liveness.call_due, self._attendance.due(), None if state.behind else self._stop_by)
            dues.append(state.clock.when(self._receiver.transfers.next_timer()))
        if not state.paused and state.leading:
            dues += (self._fence.due, self._fence.astray_due)
            dues.append(state.clock.when(self._versions.patience_ends()))
            dues += (state.clock.when(self._evaluation.ends()), self._sums.due(), self._versions.rest_ends)
        return min((due for due in dues if due is not None), default=None)

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
            "quota_used": state.registry.quota_used,
            "paused": state.paused,
            "behind": self._behind.row(),
            "claims": self._behind.claims(),
            "finished": state.finished,
            "waiting_for": self._waiting.row(self._names(), self._liveness.missing(self._waiting.reason, NAMES_MAX)),
            "helpers": self._sums.rows(),
            "counters": dict(state.counters),
            "enrolled": self._enrolled_digest,
            "sealed": state.settings.sealed,
        }

    def _names(self) -> list[str]:
        """Some of those who are waited for."""
        if self._waiting.reason is WaitReason.HELPER:
            return list(self._sums.waited_for())
        return [node for node, _ in zip(self._state.assignments, range(NAMES_MAX), strict=False)]

    # --- time -------------------------------------------------------------------------------------------------------

    def _pass_time(self, event: Event | None) -> None:
        state = self._state
        if not isinstance(event, Answer | MaskedAnswer):
            self._receiver.verdicts.saved()
        if isinstance(event, events.BrokerDisconnected):
            # Else what falls due is said into its end, and would be the first thing that the next one says [FED-97].
            state.clock.stop(state.now)
            self._fence.disconnected()
            state.count("disconnects")
        # First of all: what waits for the end of the pause may be due as well.
        if self._pause.ends():
            self._announcer.save_again()
            self._fence.say_again()
        state.registry.wake(state.now)
        if state.clock.running:
            self._liveness.expire_leases()
            if not state.paused:
                self._receiver.drop_idle()
        self._behind.pass_time()
        self._fence.pass_time()

    # --- events -----------------------------------------------------------------------------------------------------

    def _on_news(self, event: News) -> None:  # noqa: C901, PLR0912 - one case per event
        if isinstance(event, events.OfferReceived | events.DeclineReceived | events.ReportReceived):
            self._meet(event.node)
        match event:
            case events.BrokerConnected():
                self._state.clock.start(self._state.now)
                self._fence.connected(answered=event.answered)
            case events.BrokerDisconnected():
                pass  # before what fell due
            case events.NodeStateReceived():
                self._liveness.observe(event.node, event.state)
                self._ledger.born(event.node, event.state)
                self._evaluation.seen(event.node)
            case events.OfferReceived():
                self._ledger.offered(event.node, event.offer, event.asked)
                self._receiver.offer(event, self._pause.retry_s())
            case events.ChunkReceived():
                if self._receiver.chunk(event):
                    self._meet(event.node)
                else:
                    self._alarms.useless_chunk(event.node)
            case events.ChunksLost():
                self._receiver.chunks_lost()
            case events.DeclineReceived():
                self._liveness.declined(event.node, event.decline)
                self._ledger.declined(event.node, event.decline)
            case events.ReportReceived():
                self._evaluation.report(event)
            case events.ProgressReceived():
                self._liveness.ask_who(event.node)
            case events.ProofReceived():
                self._behind.proved(event.node, event.proved)
            case events.MessageRefused():
                self._alarms.refused(event)
            case events.BrokerDropped():
                self._alarms.dropped(event.total)
            case events.CoordinatorStateReceived():
                reason = self._fence.observe(event)
                if reason is not None:
                    self._leave(reason.value)
            case events.NodesEnrolled():
                self._enrolled = event
            case events.RotationDue():
                self._announcer.rotate_key()
            case events.StopRequested():
                self._stop("requested")
            case _:
                assert_never(event)

    def _on_answer(self, event: Answer) -> None:  # noqa: C901, PLR0912 - one case per event
        match event:
            case events.RoundSaved():
                self._announcer.saved(event.record)
            case events.UpdateStored():
                self._pause.saved()
                self._receiver.stored(event.update)
            case events.UpdateRejected() | ClaimedJudged() | ClaimsWithdrawn():
                self._receiver.turned_down(event)
            case events.TransferOpened():
                self._receiver.opened(event)
            case events.TransferDropped():
                self._receiver.transfers.dropped(event.update)
            case events.ChunkStored():
                self._receiver.chunk_stored(event)
            case events.ModelsRetained():
                self._versions.retained(event)
            case events.VersionCommitted():
                self._pause.saved()
                self._versions.committed(event)
            case events.CommitFailed():
                self._versions.failed(event)
            case events.Evaluated():
                self._versions.evaluated(event)
            case events.ResultSaved():
                self._pause.saved()
                self._evaluation.saved(event)
            case events.FederatedEvaluationClosed():
                self._pause.saved()
                self._evaluation.closed(event)
            case events.AttendanceSaved():
                self._attendance.saved(event.attendance)
            case events.AttendanceNotSaved():
                self._attendance.storage_failed()
            case events.EnrolledFollowed():
                if self._announcer.enrolled_followed(renewed=event.renewed):
                    self._fence.say_again()
            case events.StorageFailed():
                self._on_storage_failed(event)
            case _:
                assert_never(event)

    def _meet(self, node: NodeId) -> None:
        """A node has spoken, so it is there."""
        self._liveness.ask_who(node)
        self._state.registry.alive(node)

    def _expel(self) -> None:
        """Whoever is not enrolled any more has left; what the disk must know of it waits for the disk."""
        if (enrolled := self._enrolled) is None:
            return
        gone = frozenset({*self._liveness.expected, *self._receiver.senders} - enrolled.nodes)
        for leaving in (self._receiver, self._liveness, self._evaluation):
            leaving.expel(gone)
        self._enrolled, self._enrolled_digest = None, enrolled.digest
        for part in (self._ledger, self._sums, self._announcer):
            part.follow_enrolled(enrolled.nodes)

    def _on_storage_failed(self, event: events.StorageFailed) -> None:
        """Whatever the disk was asked for is not there; it is asked again after the pause."""
        self._pause.begin(event)
        self._waiting.wait(WaitReason.STORAGE, self._names)
        for part in (self._announcer, self._versions, self._sums, self._evaluation, self._attendance):
            part.storage_failed()
        self._receiver.storage_failed(self._pause.retry_s())

    # --- decisions --------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Do what the new situation asks for; nothing that must be saved happens during a storage pause."""
        state = self._state
        if state.paused:
            return
        self._attendance.save()
        if self._versions.committing or self._receiver.saving or self._sums.saving:
            return
        self._expel()
        if self._announcer.follow_again():
            return
        if not state.leading and (state.behind or not state.finished):
            self._hold()
            return
        self._fence.heal()
        self._fence.recall()
        self._receiver.ask_again()
        self._ledger.end()
        self._evaluation.advance(settled=state.settling_until is None)
        self._versions.retain(self._evaluation.pending)
        self._versions.sweep()
        self._receiver.store_complete()
        self._sums.advance()
        self._versions.commit_sums()
        state.close_rounds()
        if state.finished:
            self._liveness.consider(None)
            self._finish()
        else:
            self._decide()
        self._alarms.look()
        self._versions.evaluate()

    def _hold(self) -> None:
        """Decide nothing: there is no broker, it has not been heard who leads, or somebody knows more than we do."""
        self._liveness.consider(None)
        listening = WaitReason.SETTLING if self._state.clock.running else WaitReason.BROKER
        self._waiting.wait(WaitReason.BEHIND if self._behind.row() else listening, self._names)

    def _decide(self) -> None:
        state, registry = self._state, self._state.registry
        state.resize()
        decision = decide(self._situation(), state.settings)
        self._liveness.consider(decision.reason if isinstance(decision, Wait) else None)
        match decision:
            case Commit(reason=reason):
                self._versions.commit(reason)
            case Ask(reason=reason, count=count):
                pool = registry.candidates if reason is AskReason.FREE_SLOTS else registry.suspects
                self._announcer.open(pool, count)
                self._waiting.wait(waits_for(self._situation()), self._names)
            case Wait(reason=reason):
                self._ask_for_evaluation()
                self._waiting.wait(reason, self._names)
            case _:
                assert_never(decision)

    def _ask_for_evaluation(self) -> None:
        """Nobody is asked to train now: ask at least those who can evaluate."""
        ready = self._state.clock.running and self._state.settling_until is None
        if ready and self._state.registry.online and self._evaluation.due():
            self._announcer.ask_for_evaluation()

    def _situation(self) -> Situation:
        state, registry, settings = self._state, self._state.registry, self._state.settings
        return Situation(
            connected=state.clock.running,
            settled=state.settling_until is None,
            started=self._announcer.started,
            committing=self._versions.committing,
            online=registry.online,
            candidates=len(registry.candidates),
            suspects=len(registry.suspects),
            live=len(state.assignments),
            transfers=len(self._receiver.transfers),
            asked=state.asked,
            buffered=len(state.buffer.records),
            overdue=state.connected_s >= state.buffer.since + settings.max_wait_s,
            ready=None if settings.masking is None and settings.noise is None else self._versions.ready,
            unheld=state.masked.unheld,
            summing=state.masked.batch is not None,
            resting=self._versions.rest_ends is not None,
            buffered_max=None if settings.masking is None else settings.buffer * (settings.max_staleness + 1),
        )

    # --- the end ----------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Say that nothing follows, keep answering, and leave when that was asked for."""
        state = self._state
        if not self._end_announced:
            self._end_announced = True
            self._announcer.announce_end()
            self._stop_by = state.now + FINISH_WAIT_S if state.settings.exit_when_finished else None
        if self._waiting.reason is not state.ending:  # at first, and after a disk that failed with the last word
            state.note("finished", version=state.head.version, reason=state.ending.value)
            self._waiting.wait(state.ending, self._names)
        ready = state.clock.running and not self._versions.evaluating and not self._evaluation.busy
        if self._stop_by is not None and (ready or state.now >= self._stop_by):
            self._stop(state.ending.value)

    def _stop(self, reason: str) -> None:
        self._state.close_rounds(all_of_them=True)
        if self._fence.speaks:
            self._announcer.publish_state(Presence.OFFLINE)
        self._leave(reason)

    def _leave(self, reason: str) -> None:
        """Without a word: somebody else speaks for this run now."""
        self._attendance.save(at_once=True)
        self._stopped = True
        self._state.emit(Stop(reason=reason, other_run=self._fence.other_run))
