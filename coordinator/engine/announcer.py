"""Opens rounds: reserves the id, gives out the slots, announces; and calls back work that can no longer count."""

from collections.abc import Sequence
from dataclasses import replace

from coordinator.engine.effects import (
    ClearModel,
    FollowEnrolled,
    Invite,
    PublishAnnouncement,
    PublishModel,
    PublishState,
    RotateKey,
    SaveRound,
)
from coordinator.engine.federated_evaluation import FederatedEvaluation
from coordinator.engine.state import MachineState
from coordinator.records import RecoveredState, RoundRecord
from coordinator.strategies.selection import Informed, Rng, Selector
from federation.protocol.chunking import payload_digest
from federation.protocol.cohort import COHORT_NODES_MAX, NOBODY, cohort_of
from federation.protocol.limits import (
    COHORT_NODES_DESCRIBED_MAX,
    COHORT_NODES_MASKED_MAX,
    COHORT_NODES_PRIVATE_MAX,
    DELTA_INLINE_BYTES_MAX,
    EVALUATION_NODES,
    FINGERPRINT_BYTES,
    SEAL_NODES,
    TAG_BYTES,
)
from federation.protocol.messages import Cancel, CoordinatorState, ModelPart, ModelRef, Presence, RoundAnnouncement
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION
from federation.types import ModelVersion, NodeId, RoundId

_FIELD_BYTES = 4
"""What a field with a delta costs beside the delta."""

BIRTHS_PER_S = 500.0
"""Births that a start makes the fleet say again, each second: all that is retained was read before."""

QUIET_S_PER_NODE = 0.005
"""After all nodes were told something, new versions are told only to those who are asked for so long, for each node
online, in seconds: a core of the broker delivers some 30,000 messages a second, so this takes a hundredth of it."""

UNTOLD_BYTES_MAX = 16 * 1024 * 1024
"""Model parts on the broker beside those that all nodes were told of, in bytes; then they are told at once."""


class Announcer:
    """Turns decisions about whom to ask into saved rounds, slots and retained messages."""

    def __init__(
        self,
        state: MachineState,
        recovered: RecoveredState,
        *,
        selector: Selector,
        rng: Rng,
        evaluation: FederatedEvaluation,
    ) -> None:
        self._state, self._selector, self._rng, self._evaluation = state, selector, rng, evaluation
        if isinstance(selector, Informed):
            selector.inform(state.registry.record)
        self._published: tuple[ModelVersion, bool] | None = None
        self._superseded = False
        self._quiet_until, self._untold_bytes = 0.0, 0
        self._delta: bytes | None = None
        self._unsaved: dict[RoundId, RoundRecord] = {}
        self._readers: frozenset[NodeId] | None = None
        self._spoken, self._nodes_before = False, recovered.nodes_seen
        self.started = state.head.version > 0 or bool(recovered.open_rounds) or bool(recovered.stored)
        for record in sorted(recovered.open_rounds, key=lambda record: record.round):
            self._recover(record, recovered)

    def _recover(self, record: RoundRecord, recovered: RecoveredState) -> None:
        """Go on with a round: its nodes may be training right now; each gets a whole lease."""
        state = self._state
        state.remember(record, recovered=True)
        missing = tuple(node for node in record.nodes if f"{record.round}-{node}" not in recovered.delivered)
        state.recover_slots(record, missing)
        # An older round is not announced again: a newer one may have been read, and its model may be gone.
        if record.round == state.next_round - 1 and record.version == state.head.version:
            state.recover_round(record, self._announcement(record), missing)

    def publish_state(self, presence: Presence) -> None:
        """Say who coordinates."""
        state = self._state
        said = CoordinatorState(
            presence=presence,
            run=state.run,
            epoch=state.epoch,
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_VERSION,
            began_ms=state.began_ms,
            start=state.start,
            inputs=state.inputs,
            births_s=self._births_s,
            pace_s=state.settings.pace_s or None,
        )
        state.emit(PublishState(state=said))

    @property
    def _births_s(self) -> float | None:
        """Over how long a large fleet tells a new start of itself: its births must not fill the queue for all else."""
        seconds = max(self._nodes_before, len(self._state.registry)) / BIRTHS_PER_S
        return seconds if seconds > 1.0 else None

    def publish_again(self, *, lost: bool = False) -> None:
        """Publish everything that is retained: the broker may have lost it; ``lost``: even since it was published."""
        state, self._spoken = self._state, True
        state.assignments.doubt_invitations()
        self.publish_state(Presence.ONLINE)
        self._published = state.head.version, state.registry.plain > 0
        state.emit(PublishModel(record=state.head, lost=lost, plain=self._published[1]))
        # During a storage pause the current round may not be on disk yet; it is announced after the pause.
        if state.current is None or state.paused:
            return
        if state.current.record.version == state.head.version or state.finished:
            state.emit(PublishAnnouncement(announcement=state.current.announcement))
        else:
            self._announce(())  # what it names may be gone with what the broker has lost

    def saved(self, record: RoundRecord) -> None:
        """A round is on disk, and is announced."""
        self._unsaved.pop(record.round, None)

    def storage_failed(self) -> None:
        """A round that did not reach the disk was not announced: its nodes hold no slot, but for the current one's."""
        state = self._state
        for record in self._unsaved.values():
            if state.current is None or record.round != state.current.record.round:
                for node in record.nodes:
                    slot = state.assignments.get(node)
                    if slot is not None and slot.round == record.round:
                        state.end_slot(node)
        self._unsaved.clear()

    def save_again(self) -> None:
        """Repeat what a failed save has cost: the current round may be neither saved nor announced."""
        state = self._state
        if state.current is not None:
            if not state.current.recovered:
                self._unsaved[state.current.record.round] = state.current.record
                state.emit(SaveRound(record=state.current.record))
            state.renew_leases(state.current.record.round)

    # --- keys -------------------------------------------------------------------------------------------------------

    def follow_enrolled(self, nodes: frozenset[NodeId]) -> None:
        """Only these may read what follows; the disk must know it first."""
        self._readers = nodes if self._state.settings.sealed else None

    def follow_again(self) -> bool:
        """Ask the disk, until it has answered; what is decided before would be for those who have left, too."""
        if self._readers is not None:
            self._state.emit(FollowEnrolled(nodes=self._readers))
        return self._readers is not None

    def enrolled_followed(self, *, renewed: bool) -> bool:
        """Whether somebody has left: what the head lists must be published again, with a key that only others have."""
        self._readers = None
        return renewed and self._spoken

    def rotate_key(self) -> None:
        """Nodes seal to another key from here on."""
        self._state.emit(RotateKey())
        if self._spoken and self._state.leading:
            self.publish_state(Presence.ONLINE)

    def open(self, candidates: Sequence[NodeId], count: int) -> None:
        """Ask ``count`` of the candidates; in several rounds where one cannot name them or their codecs differ."""
        self.started = True
        chosen = self._selector.select(candidates, count, self._rng)
        together: dict[str, list[NodeId]] = {}
        for node in chosen:
            together.setdefault(self._state.registry.codec_for(node), []).append(node)
        for nodes in together.values():
            for start in range(0, len(nodes), self._nodes_max):
                self._ask(tuple(nodes[start : start + self._nodes_max]))

    def _ask(self, nodes: tuple[NodeId, ...]) -> None:
        """Invite these alone, unless all are to hear something with it, or one of these reads nothing else."""
        if self._concerns_all(nodes) or not all(map(self._state.registry.is_invitable, nodes)):
            self._announce(nodes)
        else:
            self._invite(nodes)

    def _concerns_all(self, nodes: tuple[NodeId, ...]) -> bool:
        """Whether nodes that are not asked must hear it: a version or an evaluation of which they were not told.

        Of versions that follow each other fast they are told of some: who trains needs no more, and whoever comes finds
        the announcement before this one, and what it names.
        """
        state = self._state
        if state.current is None or self._evaluation.due():
            return True
        if state.current.record.version == state.head.version:
            return False
        untold = self._untold_bytes + sum(part.payload_bytes for part in state.head.parts)
        most = 2 * len(nodes) >= state.registry.online
        return most or state.now >= self._quiet_until or untold > UNTOLD_BYTES_MAX

    def _invite(self, nodes: tuple[NodeId, ...]) -> None:
        """Ask on the nodes' own topics; what stands for all others goes on standing."""
        state = self._state
        record = self._record(nodes)
        announcement = self._announcement(record)
        state.reserve_round(record, invited=True)
        self._unsaved[record.round] = record
        state.emit(SaveRound(record=record))
        self._publish_head()
        state.emit(Invite(nodes=nodes, announcement=announcement))
        state.note("round_announced", round=record.round, version=record.version, cohort=len(nodes), invited=True)

    @property
    def _nodes_max(self) -> int:
        """How many nodes one announcement can name."""
        most = COHORT_NODES_MAX if self._state.inputs is None else COHORT_NODES_DESCRIBED_MAX
        if self._state.settings.masking is not None:
            most = COHORT_NODES_MASKED_MAX
            most -= EVALUATION_NODES if self._state.settings.federated_evaluation.every else 0
        if self._state.settings.train.privacy is not None:
            most = COHORT_NODES_PRIVATE_MAX
        return most - SEAL_NODES if self._state.settings.sealed else most

    def announce_end(self) -> None:
        """Say that nothing follows."""
        self._announce(())

    def ask_for_evaluation(self) -> None:
        """Nobody is asked to train now, but the head is to be evaluated."""
        self._announce(())

    def _announce(self, nodes: tuple[NodeId, ...]) -> None:
        state, stands = self._state, self._state.current
        record = self._record(nodes)
        announcement = self._announcement(record, self._take_delta(record))
        state.begin_round(record, announcement)
        self._unsaved[record.round] = record
        state.emit(SaveRound(record=record))
        # What stands is kept, with all that it names, so older parts may go first: three models at once would cost the
        # broker half as much memory again.
        if stands is not None:
            self._clear(stands.announcement.model.parts)
        self._publish_head()
        state.emit(PublishAnnouncement(announcement=announcement))
        self._clear()
        self._quiet_until, self._untold_bytes = state.now + QUIET_S_PER_NODE * state.registry.online, 0
        state.note("round_announced", round=record.round, version=record.version, cohort=len(nodes))

    def _record(self, nodes: tuple[NodeId, ...]) -> RoundRecord:
        state, round_id = self._state, self._state.next_round
        cohort = cohort_of(state.run, round_id, nodes) if nodes else NOBODY
        evaluation = self._evaluation.ask()
        return RoundRecord(
            round=round_id, version=state.head.version, nodes=nodes, cohort=cohort, evaluation=evaluation
        )

    def _publish_head(self) -> None:
        """See that the broker has what the head is made of, before it is named."""
        head, before, plain = self._state.head, self._published, self._state.registry.plain > 0
        if before is not None and before[0] == head.version and before[1] >= plain:
            return
        self._state.emit(PublishModel(record=head, plain=plain))
        self._published = head.version, plain
        if before is None or before[0] != head.version:
            self._untold_bytes += sum(part.payload_bytes for part in head.parts if part.version == head.version)

    def _clear(self, named: tuple[ModelPart, ...] = ()) -> None:
        if self._superseded:
            self._state.emit(ClearModel(head=self._state.head, named=named))
            self._superseded = False

    def _take_delta(self, record: RoundRecord) -> bytes | None:
        """The newest delta, for the first announcement of its version, when it is small and most nodes want it.

        Everybody who is online reads it, and it is pulled as any other by those who come later.
        """
        delta, self._delta = self._delta, None
        if delta is None or len(delta) > DELTA_INLINE_BYTES_MAX:
            return None
        room = self._nodes_max * FINGERPRINT_BYTES - len(record.cohort.fingerprints) - _FIELD_BYTES
        room -= TAG_BYTES if self._state.settings.sealed else 0
        is_wanted = 2 * len(record.nodes) >= self._state.registry.online
        return delta if is_wanted and len(delta) <= room else None

    def _announcement(self, record: RoundRecord, delta: bytes | None = None) -> RoundAnnouncement:
        state, settings, head = self._state, self._state.settings, self._state.head
        hidden = self._evaluation.announced(record.evaluation)
        return RoundAnnouncement(
            run=state.run,
            epoch=state.epoch,
            round=record.round,
            task=settings.task,
            model=ModelRef(
                version=head.version,
                digest=head.digest,
                manifest_digest=head.manifest_digest,
                seed=head.seed,
                parts=head.parts,
                delta=delta,
                inputs_digest=None if state.inputs is None else payload_digest(state.inputs.encode()),
            ),
            cohort=record.cohort,
            settings=replace(
                settings.train,
                seed=round_seed(settings.train.seed, record.round),
                learning_rate=settings.rates.rate(settings.train.learning_rate, head.version, settings.versions),
            ),
            codec=state.registry.codec_for(record.nodes[0]) if record.nodes else settings.codec_up,
            min_base_version=state.oldest_base,
            lease_s=settings.lease_s,
            spread_s=settings.spread_s,
            final=state.finished,
            evaluation=record.evaluation if hidden is None else None,
            masked_evaluation=hidden,
            start_low=None if state.start is None else state.start % 2**32,
            privacy=state.masked.terms,
        )

    def head_changed(self, delta: bytes | None) -> None:
        """A version was committed: its model is published with the next announcement, older parts go around that."""
        self._superseded, self._delta = True, delta

    def cancel_older_than(self, version: ModelVersion) -> None:
        """Call back what was asked from an older version: its update would be stale."""
        state = self._state
        for node, slot in state.assignments.older_than(version):
            state.send(node, Cancel(run=state.run, round=slot.round))
            state.end_slot(node)


def round_seed(seed: int, round_id: RoundId) -> int:
    """31 bits that differ for each round of a run (SplitMix64, doi 10.1145/2660193.2660195)."""
    mixed = (seed + (round_id + 1) * 0x9E3779B97F4A7C15) % 2**64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % 2**64
    return (mixed ^ (mixed >> 31)) % 2**31
