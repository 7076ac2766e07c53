"""What the parts of the machine share: the run, the head, the buffer, the slots, and the effects so far.

Everybody reads; whatever changes goes through a method here, and leaves the whole consistent.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from coordinator.engine.assignments import LEASE_RESTARTS_MAX, Assignments, Freed, Invitation, Slot
from coordinator.engine.early_stopping import EarlyStopping, Source
from coordinator.engine.effects import CloseRound, Command, Effect, Note, SendCommand
from coordinator.engine.masked.holdings import Holdings
from coordinator.engine.registry import Registry
from coordinator.engine.round import Facts, WaitReason
from coordinator.engine.settings import EngineSettings, sized
from coordinator.engine.timers import ConnectedClock
from coordinator.records import Member, RecoveredState, RoundRecord, UpdateRecord, VersionRecord
from federation.protocol.cohort import includes
from federation.protocol.messages import RoundAnnouncement
from federation.types import Epoch, ModelVersion, NodeId, RoundId, Start, UpdateId

INVITATIONS_MAX = 100_000
"""Invited nodes of former rounds that are remembered; who was asked in an older round is read from the store."""


@dataclass(slots=True)
class Buffer:
    """Updates stored for the next version, in order of arrival; ``since`` is in connected seconds."""

    records: dict[UpdateId, UpdateRecord] = field(default_factory=dict)
    since: float = 0.0


@dataclass(slots=True)
class Current:
    """The announcement that is retained now.

    Attributes:
        record: Its round.
        announcement: What was said.
        pending: Its nodes that have not answered yet, and how often each got a fresh lease.
        recovered: It was read from the store, so it is there; its record lacks the nodes that had answered.
    """

    record: RoundRecord
    announcement: RoundAnnouncement
    pending: dict[NodeId, int]
    recovered: bool = False


class MachineState:
    """Shared state of one machine; every method leaves it consistent."""

    def __init__(self, settings: EngineSettings, recovered: RecoveredState, start: Start | None = None) -> None:
        self.settings = self._configured = settings
        self.run, self.epoch, self.head = recovered.run, recovered.epoch, recovered.head
        self.start = start
        self.settling_until: float | None = None
        self.heard = self.behind = False
        self.first_round, self.obeyed = recovered.next_round, False
        self.began_ms, self.inputs, self.retained = recovered.began_ms, recovered.inputs, recovered.retained
        self.recent = dict(recovered.recent)
        self.next_round = recovered.next_round
        self.newest = max(recovered.newest or recovered.head.version, recovered.head.version)
        self.restored_round = RoundId(0) if recovered.restored is None else recovered.restored.next_round
        self.registry = Registry(
            task=settings.task,
            codecs=(settings.codec_up, *settings.codec_fallbacks),
            quota=settings.per_node_quota,
            needs=settings.needs,
            sealed=settings.sealed,
        )
        self.assignments, self.buffer = Assignments(), Buffer()
        self.masked = Holdings(settings.masking, recovered.terms, recovered.batch)
        self.clock = ConnectedClock()
        self.current: Current | None = None
        self.progress = EarlyStopping(settings.stopping)
        self.effects: list[Effect] = []
        self.counters: dict[str, int] = {}
        self.failing: dict[NodeId, str] = {}
        self.now, self.paused, self.asked = 0.0, False, 0
        self._invitations: dict[RoundId, Invitation] = {}
        self._invited_nodes = 0
        self._freed = Freed()
        self._replay(recovered)
        self._stopping_unsaid = self.progress.exhausted  # who found it out may have ended before it was said
        for record in recovered.stored:
            self.buffer_update(record)

    @property
    def fence(self) -> tuple[Epoch, Start]:
        """Which start of which process this is: of two, the higher one leads [FED-96]."""
        return self.epoch, self.start or Start(0)

    @property
    def leading(self) -> bool:
        """Whether this process may decide: nobody else has spoken for this run, as far as the broker and nodes know.

        A verdict is final, and told in the name of whoever leads; to say nothing costs a node one more offer [FED-97].
        """
        return self.clock.running and (self.heard or self.settling_until is None) and not self.behind

    @property
    def finished(self) -> bool:
        """Whether the last version has been committed, or nothing better can come."""
        return 0 < self.settings.versions <= self.head.version or self.progress.exhausted or self.progress.over_budget

    @property
    def ending(self) -> WaitReason:
        """Why nothing follows where the run is finished."""
        complete = 0 < self.settings.versions <= self.head.version
        early = WaitReason.BUDGET if self.progress.over_budget else WaitReason.STOPPED_EARLY
        return WaitReason.FINISHED if complete else early

    @property
    def oldest_base(self) -> ModelVersion:
        """The oldest version that an update may be based on."""
        return ModelVersion(max(0, self.head.version - self.settings.max_staleness))

    @property
    def connected_s(self) -> float:
        """Connected seconds until now."""
        return self.clock.read(self.now)

    @property
    def lease_until(self) -> float:
        """When a lease that begins now ends, in connected seconds; nodes may spread their start."""
        return self.connected_s + self.settings.lease_s + self.settings.spread_s

    # --- time and the disk ------------------------------------------------------------------------------------------

    def begin_step(self, now: float) -> None:
        """One event is handled now, in monotonic seconds."""
        self.effects, self.now = [], now
        if self._stopping_unsaid:
            self._say_stopping()

    def pause(self) -> None:
        """Nothing can be saved."""
        self.paused = True
        self._freed.not_saved()

    def resume(self) -> None:
        """Saving may be tried again."""
        self.paused = False

    # --- who coordinates ---------------------------------------------------------------------------------------------

    def listen(self, wait_s: float = 0.0) -> None:
        """The broker is there: who else speaks for this run, and which nodes there are, comes now."""
        self.heard, self.settling_until = False, self.now + max(wait_s, self.settings.settle_s)

    def settle(self) -> None:
        """Whoever has not been heard by now is not waited for any more."""
        if self.settling_until is not None and self.now >= self.settling_until:
            self.settling_until = None

    def deafen(self) -> None:
        """The broker is gone."""
        self.settling_until = None

    def hear(self) -> None:
        """What stands in ``srv`` is not newer than this process."""
        self.heard = True

    def fall_behind(self, *, behind: bool) -> None:
        """Somebody has seen more of this run than we have, or was shut out since."""
        self.behind = behind

    # --- rounds and slots -------------------------------------------------------------------------------------------

    def resize(self) -> None:
        """Before a version's first question: how many nodes a share of those online is."""
        if self._configured.fraction and not self.assignments and not self.buffer.records:
            self.settings = sized(self._configured, self.registry.online)

    def begin_round(self, record: RoundRecord, announcement: RoundAnnouncement) -> None:
        """A round is asked for: its announcement stands from now on."""
        self.current = Current(record=record, announcement=announcement, pending=dict.fromkeys(record.nodes, 0))
        self.reserve_round(record)

    def reserve_round(self, record: RoundRecord, *, invited: bool = False) -> None:
        """A round's id is used up, and its nodes hold slots."""
        self.next_round = RoundId(record.round + 1)
        self.remember(record)
        for node in record.nodes:
            self._begin_slot(node, record, invited=invited)
        self.asked += len(record.nodes)

    def recover_slots(self, record: RoundRecord, missing: Collection[NodeId]) -> None:
        """Nodes of a former process's round may be training: each gets a lease, and the disk forgets the others."""
        for node in record.nodes:
            if node in missing:
                self.end_slot(node)
                self._begin_slot(node, record)
            else:
                self._freed.add(record.round, node, at_once=True)

    def recover_round(self, record: RoundRecord, announcement: RoundAnnouncement, pending: Iterable[NodeId]) -> None:
        """A former process's announcement still stands."""
        self.current = Current(
            record=record, announcement=announcement, pending=dict.fromkeys(pending, 0), recovered=True
        )

    def reinstate(self, node: NodeId) -> None:
        """A node of the current round is back: it reads the retained announcement and trains, so it holds a slot."""
        current = self.current
        if current is None or current.pending.get(node, LEASE_RESTARTS_MAX) >= LEASE_RESTARTS_MAX:
            return
        current.pending[node] += 1
        self._begin_slot(node, current.record, restarts=current.pending[node])

    def renew_leases(self, round_id: RoundId) -> None:
        """Its nodes hear of it only now, for a reason that is ours."""
        for node in self.assignments.of_round(round_id):
            self.assignments.extend(node, self.lease_until)

    def recount_asked(self) -> None:
        """A new version is gathered: what is in flight or buffered could serve it."""
        self.asked = len(self.assignments) + len(self.buffer.records)

    def _begin_slot(self, node: NodeId, record: RoundRecord, restarts: int = 0, *, invited: bool = False) -> None:
        slot = Slot(round=record.round, version=record.version, restarts=restarts, invited=invited)
        self.assignments.begin(node, slot, self.lease_until)
        self.registry.assign(node)

    # --- updates and versions ---------------------------------------------------------------------------------------

    def buffer_update(self, record: UpdateRecord) -> None:
        """A stored update waits for the next version, within its node's quota."""
        if not self.buffer.records:
            self.buffer.since = self.connected_s
        self.buffer.records[record.update] = record
        self.masked.add(record)
        self.registry.take(record.node)

    def take_out(self, updates: Iterable[UpdateId]) -> list[UpdateRecord]:
        """Take updates out of the buffer; the wait of what stays begins anew."""
        gone = [self.buffer.records[update] for update in updates if update in self.buffer.records]
        for record in gone:
            self.discard(record)
        self.buffer.since = self.connected_s
        return gone

    def discard(self, record: UpdateRecord) -> None:
        """An update of the buffer has become too old."""
        del self.buffer.records[record.update]
        self.masked.remove(record.update)
        self.registry.give(record.node)

    def commit_head(self, record: VersionRecord, members: Iterable[Member]) -> None:
        """A version is on disk: its members are not buffered any more, and what is too old is no base any more."""
        self.head, self.newest = record, max(self.newest, record.version)
        self.recent[record.version] = record.digest
        for version in [version for version in self.recent if version < self.oldest_base]:
            del self.recent[version]
        self.take_out([member.update for member in members])

    def retain(self, versions: frozenset[ModelVersion], best: ModelVersion | None) -> None:
        """The store keeps these models beside the head's and its predecessor's."""
        self.retained = versions if best is None else versions | {best}

    def _replay(self, recovered: RecoveredState) -> None:
        """What earlier processes found decides as it did then."""
        found = [(version, Source.CENTRAL, metrics) for version, metrics in recovered.evaluated.items()]
        found += [(survey.version, Source.NODES, survey.decisive) for survey in recovered.surveyed if survey.closed]
        for version, source, metrics in sorted(found, key=lambda one: one[0]):
            self.progress.observe(source, version, metrics, kept=self._is_kept(version))

    def _is_kept(self, version: ModelVersion) -> bool:
        return version >= self.head.version - 1 or version in self.retained

    def observe(self, source: Source, version: ModelVersion, metrics: Mapping[str, float]) -> None:
        """An evaluation has ended: it may be the best one, or one too many without improvement."""
        before = self.progress.exhausted
        if self.progress.observe(source, version, metrics, kept=self._is_kept(version)):
            self.note("best_version", version=version, value=self.progress.value, source=source.value)
        if self.progress.exhausted and not before:
            self._say_stopping()

    def _say_stopping(self) -> None:
        self._stopping_unsaid = False
        self.note("stopping_early", version=self.head.version, best=self.progress.best, waited=self.progress.waited)

    # --- what is to be done -----------------------------------------------------------------------------------------

    def emit(self, effect: Effect) -> None:
        """Something must be done, after everything emitted before."""
        self.effects.append(effect)

    def send(self, node: NodeId, command: Command) -> None:
        """Say something to one node."""
        self.effects.append(SendCommand(node=node, command=command))

    def note(self, event: str, **fields: object) -> None:
        """Say something in the log."""
        self.effects.append(Note(event=event, fields=fields))

    def count(self, name: str, times: int = 1) -> None:
        """So many more of these; shown in the snapshot, and by ``coordinator status``."""
        self.counters[name] = self.counters.get(name, 0) + times

    def fails(self, node: NodeId, reason: str) -> None:
        """A node that is there will not train, could not, or made what cannot be used; its own words may be in it."""
        if node in self.registry:
            self.failing[node] = "".join(filter(str.isprintable, reason)) or "no reason"

    def serves(self, node: NodeId) -> None:
        """Nothing is wrong with a node any more, or it is not there."""
        self.failing.pop(node, None)

    @property
    def nobody_trains(self) -> bool:
        """Whether every node that is there fails, and nothing is under way or waits for the next version."""
        failing = 0 < self.registry.online <= len(self.failing)
        return failing and not self.assignments and not self.buffer.records and not self.finished

    # --- who was asked ----------------------------------------------------------------------------------------------

    def facts(self, node: NodeId, round_id: RoundId, record: RoundRecord | None) -> Facts:
        """What `judge` must know for an offer of this node and round; ``record`` is the store's, of a forgotten one."""
        return Facts(
            settings=self.settings,
            run=self.run,
            head=self.head.version,
            recent=self.recent,
            next_round=self.next_round,
            finished=self.finished,
            used=self.registry.used(node),
            asked=self._base_asked(node, round_id, record),
            known=record is not None or round_id in self._invitations,
            restored_round=self.restored_round,
        )

    def base_asked(self, node: NodeId, round_id: RoundId) -> ModelVersion | None:
        """The version that a node was asked to train from in a round; None when it was not, or too long ago."""
        return self._invitations[round_id].version if self._invited(node, round_id) else None

    def _base_asked(self, node: NodeId, round_id: RoundId, record: RoundRecord | None) -> ModelVersion | None:
        if round_id in self._invitations or record is None:
            return self.base_asked(node, round_id)
        return record.version if includes(record.cohort, self.run, round_id, node) else None

    def _invited(self, node: NodeId, round_id: RoundId) -> bool:
        invitation = self._invitations.get(round_id)
        if invitation is None or node in invitation.nodes:
            return invitation is not None
        return invitation.recovered and includes(invitation.cohort, self.run, round_id, node)

    def remember(self, record: RoundRecord, *, recovered: bool = False) -> None:
        """Keep who was asked, as long as an answer could count. A recovered one may lack nodes that answered."""
        self._invitations[record.round] = Invitation(
            version=record.version, nodes=frozenset(record.nodes), cohort=record.cohort, recovered=recovered
        )
        self._invited_nodes += len(record.nodes)
        while self._invitations and self._oldest_is_spent():
            oldest = self._invitations.pop(next(iter(self._invitations)))
            self._invited_nodes -= len(oldest.nodes)

    def _oldest_is_spent(self) -> bool:
        oldest = next(iter(self._invitations.values()))
        return self._invited_nodes > INVITATIONS_MAX or oldest.version < self.oldest_base

    def end_slot(self, node: NodeId, *, delivered: bool = False) -> None:
        """Free a node's slot. The store infers delivered ones from the updates, so those may wait for the next save."""
        slot = self.assignments.end(node)
        if slot is not None:
            self._freed.add(slot.round, node, at_once=not delivered)
            self.registry.release(node)

    def remove_node(self, node: NodeId) -> None:
        """A node has left the federation: it is not known, holds no slot and is not waited for."""
        self.end_slot(node)
        if self.current is not None:
            self.current.pending.pop(node, None)
        self.registry.remove(node)
        self.serves(node)

    def answered(self, node: NodeId, round_id: RoundId) -> None:
        """The node has done what it was asked in this round, or will not do it."""
        self.obeyed = self.obeyed or round_id >= self.first_round
        if self.current is not None and self.current.record.round == round_id:
            self.current.pending.pop(node, None)
        slot = self.assignments.get(node)
        if slot is not None and slot.round == round_id:
            self.end_slot(node, delivered=True)

    def declined(self, node: NodeId, round_id: RoundId) -> None:
        """The node will not do what it was asked in this round; the store learns it at once."""
        slot = self.assignments.get(node)
        if slot is not None and slot.round == round_id:
            self.end_slot(node)
        self.answered(node, round_id)

    def close_rounds(self, *, all_of_them: bool = False) -> None:
        """Persist the slots that were freed: at once where nothing else tells the store, else with the next version."""
        if self.paused or not (self._freed.at_once or all_of_them):
            return
        for round_id, nodes in self._freed.take().items():
            self.emit(CloseRound(round=round_id, nodes=tuple(nodes)))
