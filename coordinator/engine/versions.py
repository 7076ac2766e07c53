"""From a buffer to the next version: freezes the members, takes the result in, and asks for evaluations."""

from dataclasses import dataclass

from coordinator.engine.announcer import Announcer
from coordinator.engine.early_stopping import Source
from coordinator.engine.effects import CommitVersion, Evaluate, Note, RetainModels
from coordinator.engine.events import CommitFailed, Evaluated, ModelsRetained, VersionCommitted
from coordinator.engine.masked.sums import MaskedSums
from coordinator.engine.round import CommitReason
from coordinator.engine.state import MachineState
from coordinator.engine.update_receiver import UpdateReceiver
from coordinator.records import Member, ReleaseRecord, UpdateRecord
from federation.protocol.messages import Receipt, ReceiptStatus
from federation.types import ModelVersion

EVALUATIONS_MAX = 16
"""Evaluations under way at most; when more are due, the newest is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Models that are kept beside the head's and its predecessor's."""

    versions: frozenset[ModelVersion]
    best: ModelVersion | None


class Versions:
    """At most one commit is under way; everything else waits for its answer."""

    def __init__(
        self,
        state: MachineState,
        receiver: UpdateReceiver,
        announcer: Announcer,
        sums: MaskedSums,
        *,
        best: ModelVersion | None,
    ) -> None:
        self._state, self._receiver, self._announcer, self._sums = state, receiver, announcer, sums
        self._members: tuple[Member, ...] = ()
        self._release: ReleaseRecord | None = None
        self._head_is_new = True
        self._rests_until = state.now
        self._ended = False
        # What the store says, and not what the evaluations say now: a crash may have come between the two.
        self._retained = Retention(versions=state.retained - {best}, best=best)
        self._asked: Retention | None = None
        self._evaluating: set[ModelVersion] = set()
        # A crash between commit and evaluation must not leave a hole: the head is evaluated again at the start.
        self._due: ModelVersion | None = None
        self._evaluation_due(state.head.version)

    @property
    def committing(self) -> bool:
        """Whether the store has been asked for a version and has not answered."""
        return bool(self._members)

    @property
    def evaluating(self) -> bool:
        """Whether an evaluation is under way or due."""
        return bool(self._evaluating) or self._due is not None

    @property
    def rest_ends(self) -> float | None:
        """Until when no version is made after the last one, in monotonic seconds; None: one may be made."""
        resting = self._state.now < self._rests_until and not self._state.finished
        return self._rests_until if resting else None

    @property
    def ready(self) -> int:
        """How many updates can make a version together now."""
        settings = self._state.settings
        if settings.masking is not None:
            return self._state.masked.ready
        return len(self._state.buffer.records) if settings.noise is None else len(self._admitted())

    def _admitted(self) -> list[UpdateRecord]:
        """The buffered updates whose nodes can pay for a version, in order of arrival."""
        records = self._state.buffer.records.values()
        return self._sums.noised.admitted(records)

    def patience_ends(self) -> float | None:
        """When a quorum is enough, in connected seconds; None when time alone changes nothing."""
        state = self._state
        ready = self.ready
        if self.rest_ends is not None:
            return None
        if self.committing or state.finished or ready < max(1, state.settings.quorum) or state.masked.batch is not None:
            return None
        return state.buffer.since + state.settings.max_wait_s

    def commit(self, reason: CommitReason) -> None:
        """Freeze the oldest updates of the buffer and ask for the next version; masked ones for their sum first."""
        state = self._state
        if state.settings.masking is not None:
            self._sums.freeze(reason.value)
            return
        records = self._admitted()[: state.settings.buffer]
        self._members = tuple(
            Member(
                update=record.update,
                node=record.node,
                num_examples=record.num_examples,
                staleness=state.head.version - record.base_version,
            )
            for record in records
        )
        version = ModelVersion(state.head.version + 1)
        plain = state.registry.plain > 0
        self._release = release = self._sums.noised.charged(version, self._members)
        state.emit(
            CommitVersion(version=version, members=self._members, reason=reason.value, plain=plain, release=release)
        )

    def commit_sums(self) -> None:
        """The sums of a masked batch are here: ask for its version."""
        batch = self._sums.complete
        if batch is not None:
            self._members = batch.members
            self._state.emit(CommitVersion(version=batch.version, members=batch.members, reason=batch.reason))

    def committed(self, event: VersionCommitted) -> None:
        """The version is on disk: its members are told first."""
        state, record = self._state, event.record
        self._members = ()
        self._head_is_new = True
        self._rests_until = state.now + state.settings.interval_min_s
        self._sums.committed(event.terms)
        self._sums.noised.saved(self._release)
        self._release = None
        state.commit_head(record, event.members)
        for member in event.members:
            receipt = Receipt(run=state.run, update=member.update, status=ReceiptStatus.APPLIED, version=record.version)
            state.send(member.node, receipt)
        self._announcer.head_changed(event.delta)
        self._evaluation_due(record.version)

    def failed(self, event: CommitFailed) -> None:
        """Refuse the culprits; where nobody can be blamed, all members, so that the next attempt is another one."""
        state = self._state
        culprits = event.culprits or tuple(member.update for member in self._members)
        self._members = ()
        if state.masked.batch is not None:
            self._sums.unusable(event.reason, event.detail)
            return
        state.note("commit_failed", reason=event.reason.value, detail=event.detail, culprits=culprits)
        for record in state.take_out(culprits):
            self._receiver.settle(record, ReceiptStatus.REFUSED, event.reason, stored=True, detail=event.detail)

    def storage_failed(self) -> None:
        """The disk has made no version, and keeps the models that it kept; both are asked for again."""
        self._members, self._asked = (), None

    def sweep(self) -> None:
        """Once per head, and at the end: settle and call back what has become too old."""
        self._head_is_new = self._head_is_new or (self._state.finished and not self._ended)
        self._ended = self._state.finished
        if not self._head_is_new:
            return
        state = self._state
        self._head_is_new = False
        self._receiver.sweep()
        self._announcer.cancel_older_than(ModelVersion(state.head.version + 1) if state.finished else state.oldest_base)
        state.recount_asked()
        state.close_rounds(all_of_them=True)

    def retain(self, on_nodes: frozenset[ModelVersion]) -> None:
        """Keep the models of older versions that are still being evaluated, here or ``on_nodes``, and of the best."""
        state = self._state
        pending = frozenset(version for version in self._evaluating | on_nodes if version < state.head.version)
        wanted = Retention(versions=pending, best=state.progress.best)
        if wanted != (self._asked or self._retained):
            self._asked = wanted
            state.emit(RetainModels(versions=wanted.versions, best=wanted.best))

    def retained(self, event: ModelsRetained) -> None:
        """The store keeps these models."""
        self._retained = Retention(versions=event.versions, best=event.best)
        self._asked = None if self._asked == self._retained else self._asked
        self._state.retain(event.versions, event.best)

    def evaluate(self) -> None:
        """Ask for the evaluation that is due, unless too many are under way."""
        if self._due is not None and len(self._evaluating) < EVALUATIONS_MAX:
            self._state.emit(Evaluate(version=self._due))
            self._evaluating.add(self._due)
            self._due = None

    def evaluated(self, event: Evaluated) -> None:
        """An evaluation has ended."""
        self._evaluating.discard(event.version)
        # A user's metric may have any name, so it cannot become a keyword.
        fields = {"version": event.version, "metrics": dict(event.metrics)}
        self._state.emit(Note(event="evaluated", fields=fields))
        if not event.skipped:
            self._state.observe(Source.CENTRAL, event.version, event.metrics)

    def _evaluation_due(self, version: ModelVersion) -> None:
        every = self._state.settings.evaluate_every
        if every > 0 and version > 0 and (version % every == 0 or self._state.finished):
            self._due = version
