"""Opens rounds: reserves the id, gives out the slots, announces; and calls back work that can no longer count."""

from collections.abc import Sequence
from dataclasses import replace

from coordinator.engine.assignments import LEASE_RESTARTS_MAX, Slot
from coordinator.engine.effects import ClearModel, PublishAnnouncement, PublishModel, PublishState, SaveRound
from coordinator.engine.federated_evaluation import Survey
from coordinator.engine.state import Current, Desk
from coordinator.records import RecoveredState, RoundRecord
from coordinator.strategies.selection import Informed, Rng, Selector
from federation.protocol.cohort import COHORT_NODES_MAX, NOBODY, cohort_of
from federation.protocol.limits import DELTA_INLINE_BYTES_MAX, FINGERPRINT_BYTES
from federation.protocol.messages import Cancel, CoordinatorState, ModelRef, Presence, RoundAnnouncement
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION
from federation.types import ModelVersion, NodeId, RoundId

_FIELD_BYTES = 4
"""What a field with a delta costs beside the delta."""


class Announcer:
    """Turns decisions about whom to ask into saved rounds, slots and retained messages."""

    def __init__(self, desk: Desk, recovered: RecoveredState, *, selector: Selector, rng: Rng, survey: Survey) -> None:
        self._desk, self._selector, self._rng, self._survey = desk, selector, rng, survey
        if isinstance(selector, Informed):
            selector.inform(desk.registry.record)
        self._published: ModelVersion | None = None
        self._superseded = False
        self._delta: bytes | None = None
        self.started = desk.head.version > 0 or bool(recovered.open_rounds) or bool(recovered.stored)
        for record in sorted(recovered.open_rounds, key=lambda record: record.round):
            self._recover(record, recovered)

    def _recover(self, record: RoundRecord, recovered: RecoveredState) -> None:
        """Go on with a round: its nodes may be training right now; each gets a whole lease."""
        desk = self._desk
        desk.remember(record, recovered=True)
        missing = tuple(node for node in record.nodes if f"{record.round}-{node}" not in recovered.delivered)
        for node in missing:
            desk.end_slot(node)
            self._begin(node, record)
        # An older round is not announced again: a newer one may have been read, and its model may be gone.
        if record.round == desk.next_round - 1 and record.version == desk.head.version:
            desk.current = Current(
                record=record,
                announcement=self._announcement(record),
                pending=dict.fromkeys(missing, 0),
                recovered=True,
            )

    def publish_state(self, presence: Presence) -> None:
        """Say who coordinates."""
        desk = self._desk
        state = CoordinatorState(
            presence=presence,
            run=desk.run,
            epoch=desk.epoch,
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_VERSION,
            began_ms=desk.began_ms,
        )
        desk.emit(PublishState(state=state))

    def publish_again(self, *, lost: bool = False) -> None:
        """Publish everything that is retained: the broker may have lost it; ``lost``: even since it was published."""
        self.publish_state(Presence.ONLINE)
        self._published = self._desk.head.version
        self._desk.emit(PublishModel(record=self._desk.head, lost=lost))
        # During a storage pause the current round may not be on disk yet; `save_again` announces it after the pause.
        if self._desk.current is not None and not self._desk.paused:
            self._desk.emit(PublishAnnouncement(announcement=self._desk.current.announcement))

    def save_again(self) -> None:
        """Repeat what a failed save has cost: the current round may be neither saved nor announced."""
        desk = self._desk
        if desk.current is not None:
            if not desk.current.recovered:
                desk.emit(SaveRound(record=desk.current.record))
            for node in desk.assignments.of_round(desk.current.record.round):
                desk.assignments.extend(node, desk.lease_until)
        self.publish_again()

    def open(self, candidates: Sequence[NodeId], count: int) -> None:
        """Ask ``count`` of the candidates; in several announcements where one cannot name them or the codecs differ."""
        self.started = True
        chosen = self._selector.select(candidates, count, self._rng)
        together: dict[str, list[NodeId]] = {}
        for node in chosen:
            together.setdefault(self._desk.registry.codec_for(node), []).append(node)
        for nodes in together.values():
            for start in range(0, len(nodes), COHORT_NODES_MAX):
                self._announce(tuple(nodes[start : start + COHORT_NODES_MAX]))

    def announce_end(self) -> None:
        """Say that nothing follows."""
        self._announce(())

    def ask_for_evaluation(self) -> None:
        """Nobody is asked to train now, but the head is to be evaluated."""
        self._announce(())

    def _announce(self, nodes: tuple[NodeId, ...]) -> None:
        desk, round_id = self._desk, self._desk.next_round
        # What the standing announcement names is kept, so older parts may go first: three models at once would cost the
        # broker half as much memory again.
        names_kept = desk.current is not None and desk.current.record.version >= desk.head.version - 1
        desk.next_round = RoundId(round_id + 1)
        cohort = cohort_of(desk.run, round_id, nodes) if nodes else NOBODY
        evaluation = self._survey.ask()
        record = RoundRecord(
            round=round_id, version=desk.head.version, nodes=nodes, cohort=cohort, evaluation=evaluation
        )
        desk.remember(record)
        announcement = self._announcement(record, self._take_delta(record))
        desk.current = Current(record=record, announcement=announcement, pending=dict.fromkeys(nodes, 0))
        desk.emit(SaveRound(record=record))
        if names_kept:
            self._clear()
        if self._published != desk.head.version:
            desk.emit(PublishModel(record=desk.head))
            self._published = desk.head.version
        desk.emit(PublishAnnouncement(announcement=desk.current.announcement))
        self._clear()
        for node in nodes:
            self._begin(node, record)
        desk.asked += len(nodes)
        desk.note("round_announced", round=round_id, version=record.version, cohort=len(nodes))

    def _clear(self) -> None:
        if self._superseded:
            self._desk.emit(ClearModel(head=self._desk.head))
            self._superseded = False

    def _take_delta(self, record: RoundRecord) -> bytes | None:
        """The newest delta, for the first announcement of its version, when it is small and most nodes want it.

        Everybody who is online reads it, and it is pulled as any other by those who come later.
        """
        delta, self._delta = self._delta, None
        if delta is None or len(delta) > DELTA_INLINE_BYTES_MAX:
            return None
        room = COHORT_NODES_MAX * FINGERPRINT_BYTES - len(record.cohort.fingerprints) - _FIELD_BYTES
        is_wanted = 2 * len(record.nodes) >= self._desk.registry.online
        return delta if is_wanted and len(delta) <= room else None

    def _announcement(self, record: RoundRecord, delta: bytes | None = None) -> RoundAnnouncement:
        desk, settings, head = self._desk, self._desk.settings, self._desk.head
        return RoundAnnouncement(
            run=desk.run,
            epoch=desk.epoch,
            round=record.round,
            task=settings.task,
            model=ModelRef(
                version=head.version,
                digest=head.digest,
                manifest_digest=head.manifest_digest,
                seed=head.seed,
                parts=head.parts,
                delta=delta,
            ),
            cohort=record.cohort,
            settings=replace(settings.train, seed=round_seed(settings.train.seed, record.round)),
            codec=desk.registry.codec_for(record.nodes[0]) if record.nodes else settings.codec_up,
            min_base_version=desk.oldest_base,
            lease_s=settings.lease_s,
            spread_s=settings.spread_s,
            final=desk.finished,
            evaluation=record.evaluation,
        )

    def _begin(self, node: NodeId, record: RoundRecord, restarts: int = 0) -> None:
        slot = Slot(round=record.round, version=record.version, restarts=restarts)
        self._desk.assignments.begin(node, slot, self._desk.lease_until)
        self._desk.registry.assign(node)

    def reinstate(self, node: NodeId) -> None:
        """A node of the current round is back: it reads the retained announcement and trains, so it holds a slot."""
        current = self._desk.current
        if current is None or current.pending.get(node, LEASE_RESTARTS_MAX) >= LEASE_RESTARTS_MAX:
            return
        current.pending[node] += 1
        self._begin(node, current.record, restarts=current.pending[node])

    def head_changed(self, delta: bytes | None) -> None:
        """A version was committed: its model is published with the next announcement, older parts go around that."""
        self._superseded, self._delta = True, delta

    def cancel_older_than(self, version: ModelVersion) -> None:
        """Call back what was asked from an older version: its update would be stale."""
        desk = self._desk
        for node, slot in desk.assignments.older_than(version):
            desk.send(node, Cancel(run=desk.run, round=slot.round))
            desk.end_slot(node)


def round_seed(seed: int, round_id: RoundId) -> int:
    """31 bits that differ for each round of a run (SplitMix64, doi 10.1145/2660193.2660195)."""
    mixed = (seed + (round_id + 1) * 0x9E3779B97F4A7C15) % 2**64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
    return (mixed ^ (mixed >> 31)) % 2**31
