"""What the parts of the machine share: the run, the head, the buffer, the slots, and the effects so far."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from coordinator.engine.assignments import Assignments
from coordinator.engine.early_stopping import EarlyStopping, Source
from coordinator.engine.effects import CloseRound, Command, Effect, Note, SendCommand
from coordinator.engine.registry import Registry
from coordinator.engine.round import Facts, WaitReason
from coordinator.engine.settings import EngineSettings, sized
from coordinator.engine.timers import ConnectedClock
from coordinator.records import RecoveredState, RoundRecord, UpdateRecord
from federation.protocol.cohort import includes
from federation.protocol.messages import Cohort, RoundAnnouncement
from federation.types import ModelVersion, NodeId, RoundId, UpdateId

INVITATIONS_MAX = 100_000
"""Invited nodes of former rounds that are remembered; an update of an older round is judged by base and quota alone."""


@dataclass(slots=True)
class Buffer:
    """Updates stored for the next version, in order of arrival; ``since`` is in connected seconds."""

    records: dict[UpdateId, UpdateRecord] = field(default_factory=dict)
    since: float = 0.0

    def add(self, record: UpdateRecord, now: float) -> None:
        """Put an update in."""
        if not self.records:
            self.since = now
        self.records[record.update] = record

    def remove(self, updates: Iterable[UpdateId], now: float) -> list[UpdateRecord]:
        """Take updates out; the wait of what stays begins anew."""
        gone = [self.records.pop(update) for update in updates if update in self.records]
        self.since = now
        return gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Who was asked in one round."""

    version: ModelVersion
    nodes: frozenset[NodeId]
    cohort: Cohort
    recovered: bool


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

    def __init__(self, settings: EngineSettings, recovered: RecoveredState) -> None:
        self.settings = self._configured = settings
        self.run, self.epoch, self.head = recovered.run, recovered.epoch, recovered.head
        self.began_ms = recovered.began_ms
        self.recent = dict(recovered.recent)
        self.next_round = recovered.next_round
        self.registry = Registry(
            task=settings.task,
            codecs=(settings.codec_up, *settings.codec_fallbacks),
            quota=settings.per_node_quota,
            needs=settings.needs,
        )
        self.assignments = Assignments()
        self.buffer = Buffer()
        self.clock = ConnectedClock()
        self.current: Current | None = None
        self.retained = recovered.retained
        self.progress = EarlyStopping(settings.stopping)
        self._replay(recovered)
        self.asked = 0
        self.effects: list[Effect] = []
        self.counters: dict[str, int] = {}
        self.now = 0.0
        self.paused = False
        self._invitations: dict[RoundId, Invitation] = {}
        self._invited_nodes = 0
        self._closing: dict[RoundId, dict[NodeId, None]] = {}
        self._close_now = False

    @property
    def finished(self) -> bool:
        """Whether the last version has been committed, or nothing better has come for too long."""
        return 0 < self.settings.versions <= self.head.version or self.progress.exhausted

    @property
    def ending(self) -> WaitReason:
        """Why nothing follows where the run is finished."""
        complete = 0 < self.settings.versions <= self.head.version
        return WaitReason.FINISHED if complete else WaitReason.STOPPED_EARLY

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

    def resize(self) -> None:
        """Before a version's first question: how many nodes a share of those online is."""
        if self._configured.fraction and not self.assignments and not self.buffer.records:
            self.settings = sized(self._configured, self.registry.online)

    def _replay(self, recovered: RecoveredState) -> None:
        """What earlier processes found decides as it did then."""
        found = [(version, Source.CENTRAL, metrics) for version, metrics in recovered.evaluated.items()]
        found += [(survey.version, Source.NODES, survey.metrics) for survey in recovered.surveyed if survey.closed]
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
            self.note("stopping_early", version=self.head.version, best=self.progress.best, waited=self.progress.waited)

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

    def facts(self, node: NodeId, round_id: RoundId) -> Facts:
        """What `judge` must know for an offer of this node and round."""
        return Facts(
            settings=self.settings,
            run=self.run,
            head=self.head.version,
            recent=self.recent,
            next_round=self.next_round,
            finished=self.finished,
            used=self.registry.used(node),
            invited=self._invited(node, round_id),
        )

    def base_asked(self, node: NodeId, round_id: RoundId) -> ModelVersion | None:
        """The version that a node was asked to train from in a round; None when it was not, or too long ago."""
        return self._invitations[round_id].version if self._invited(node, round_id) else None

    def _invited(self, node: NodeId, round_id: RoundId) -> bool | None:
        invitation = self._invitations.get(round_id)
        if invitation is None:
            return None
        if node in invitation.nodes:
            return True
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
            self._closing.setdefault(slot.round, {})[node] = None
            self._close_now = self._close_now or not delivered
            self.registry.release(node)

    def answered(self, node: NodeId, round_id: RoundId) -> None:
        """The node has done what it was asked in this round, or will not do it."""
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
        if self.paused or not (self._close_now or all_of_them):
            return
        for round_id, nodes in self._closing.items():
            self.emit(CloseRound(round=round_id, nodes=tuple(nodes)))
        self._closing.clear()
        self._close_now = False
