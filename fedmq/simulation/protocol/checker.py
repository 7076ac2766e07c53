"""The invariants of a federation: cheap ones at every step, the whole ledger at the end (I1 to I8).

- I1 an accepted update is in exactly one committed version, or refused: never both, never twice
- I2 every update that was receipted ``stored`` gets a final verdict
- I3 the head goes strictly +1, and each version names its predecessor's digest
- I4 no value of a committed model is infinite or NaN
- I5 after a restart the head is at least what any node has seen
- I6 progress once the faults are over (checked by `fedmq.simulation.protocol.federation`)
- I7 recomputing the head from the stored updates gives the same bytes
- I8 caps hold: transfers, assignments, outboxes
- P1 to P5 accounts of noised sums (`fedmq.simulation.protocol.accounts`)
- laws: save, then say; one round id, one cohort; honest work is never refused as if it were not
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from coordinator.engine.effects import Invite, PublishAnnouncement, SendCommand
from coordinator.engine.settings import EngineSettings
from coordinator.monitoring.noised_sums import nodes_report
from coordinator.records import (
    BatchRecord,
    NodeResult,
    NodesEvaluation,
    RecoveredState,
    Restored,
    RoundRecord,
    UpdateRecord,
    Verdict,
    VersionRecord,
)
from coordinator.storage.store import Commit, CoordinatorStore
from federation.protocol.cohort import includes
from federation.protocol.messages import EvaluationReceipt, Reason, Receipt, ReceiptStatus, RoundAnnouncement
from federation.types import Digest, Epoch, ModelVersion, NodeId, RoundId, RunId, UpdateId
from fedmq.simulation.protocol.accounts import Accounts
from fedmq.simulation.protocol.evaluation_checker import SurveyChecker
from fedmq.simulation.protocol.masked_sums import FrozenBatches
from fedmq.simulation.protocol.witness import Witness

__all__ = ["Checker"]

HONEST_REASONS = frozenset({Reason.NONE, Reason.TOO_STALE, Reason.FINISHED, Reason.QUOTA})
"""Why an honest node's update may fail to count."""


class Checker:
    """Keeps its own ledger of what was said and saved in one store over its restarts, and compares.

    Of a store that is copied or backed up the ledger is copied, too: each copy then has a history of its own.

    Args:
        violations: What must not be; shared with the actors.
        settings: The engine's.
        witness: What nodes have made and seen.
        run: Whose store it is.

    Attributes:
        violations: What must not be; shared with the actors.
        run: Whose store it is.
        staleness: Applied updates by staleness.
        verdicts: Final verdicts by status.
        reasons: Stale and refused updates by reason.
        heard_events: Log lines of the coordinator by event.
        ended_early: It has said that nothing gets better any more, or that too few nodes have budget.
    """

    def __init__(self, violations: list[str], settings: EngineSettings, witness: Witness, run: RunId) -> None:
        self.violations, self.run = violations, run
        self.staleness: Counter[int] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.heard_events: Counter[str] = Counter()
        self.ended_early = self._over_budget = False
        self.head = ModelVersion(0)
        self.next_round = RoundId(0)
        self._settings, self._witness = settings, witness
        self._digest = Digest(b"")
        self._epoch = Epoch(0)
        self._restores: dict[Epoch, Restored] = {}
        self._applied: dict[UpdateId, ModelVersion] = {}
        self._final: dict[UpdateId, Verdict] = {}
        self._digests: dict[ModelVersion, Digest] = {}
        self._copied = False
        self._void: dict[UpdateId, None] = {}
        self._stored: dict[UpdateId, UpdateRecord] = {}
        self._promised: dict[UpdateId, None] = {}
        self._rounds: dict[RoundId, RoundRecord] = {}
        self._announced: dict[RoundId, tuple[object, ModelVersion, Digest, bool]] = {}
        self.surveys = SurveyChecker(self._say)
        self.batches = FrozenBatches(self._say, self.judged)
        self.accounts = Accounts(self._say, settings.noise)

    def fork(self) -> "Checker":
        """The ledger of a copy of the store, as it is now."""
        self._copied = True
        other = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict) and not name.startswith("__"):
                setattr(other, name, value.copy())
        other.surveys = self.surveys.fork(other._say)  # noqa: SLF001 - another one of ours
        other.batches = self.batches.fork(other._say, other.judged)  # noqa: SLF001 - as above
        other.accounts = self.accounts.fork(other._say)  # noqa: SLF001 - as above
        return other

    # --- the coordinator's disk (`fedmq.simulation.world.stores.Ledger`) ----------------------------------------------

    def reserved(self, record: RoundRecord) -> None:
        """A round is on disk."""
        known = self._rounds.setdefault(record.round, record)
        self.next_round = RoundId(max(self.next_round, record.round + 1))
        if known != record:
            self._say(f"round {record.round} was reserved twice, for different cohorts")
        self.surveys.reserved(record)

    def stored(self, record: UpdateRecord) -> None:
        """An update is on disk."""
        if record.update in self._stored or record.update in self._final:
            self._say(f"I1: {record.update} was stored twice")
        self._stored[record.update] = record
        sent = (record.payload_digest, record.num_examples)
        if not self._witness.has_made(self.run, record.update, sent):
            self._say(f"{record.update} was stored, and no node has made this for run {self.run}")
        if self._witness.is_bad(self.run, record.update, sent):
            self._say(f"{record.update} was stored, and is not what a node may send")

    def judged(self, verdict: Verdict) -> None:
        """A final verdict is on disk."""
        update = verdict.update
        known = self._final.get(update)
        if known is not None and known != verdict:
            self._say(f"I1: {update} was {known.status}, now it is {verdict.status}")
        if update in self._applied:
            self._say(f"I1: {update} is in version {self._applied[update]} and {verdict.status}")
        if known is None:
            self.verdicts[verdict.status.value] += 1
            self.reasons[verdict.reason.value] += 1
            if verdict.reason not in HONEST_REASONS and not self._is_suspect(verdict):
                self._say(f"honest work was refused: {update}, {verdict.reason}")
        self._final[update] = verdict

    def _is_suspect(self, verdict: Verdict) -> bool:
        """Whether it is no honest work of this store; chunks of two twins make neither's update."""
        if self._witness.is_bad(self.run, verdict.update) or verdict.node in self._witness.expelled:
            return True
        if verdict.reason is Reason.TERMS and verdict.status is ReceiptStatus.STALE:
            return True  # those of a former head, under which too few others are
        if verdict.reason is Reason.HELPER_LOST:
            # A helper's disk is gone; or a backup has not what was asked of helpers since: they answer no second time.
            return self._witness.helpers_lost or bool(self._restores)
        if verdict.reason is Reason.DIGEST_MISMATCH:
            return self._witness.variants(self.run, verdict.update) > 1
        return self._copied and self._is_foreign(verdict)

    def _is_foreign(self, verdict: Verdict) -> bool:
        """Whether another copy of this store has asked for it: in a round of the same number, from another version."""
        number = _round_of(verdict.update)
        asked = self._rounds.get(number)
        if verdict.reason is Reason.NOT_ASSIGNED:
            return asked is None or not includes(asked.cohort, self.run, number, verdict.node)
        bases = self._witness.bases(self.run, verdict.update)
        others = any(self._digests.get(version) != digest for version, digest in bases)
        others = others or (asked is not None and any(version != asked.version for version, _ in bases))
        return verdict.reason is Reason.BASE_MISMATCH and others

    def committed(self, commit: Commit) -> None:
        """A version is on disk."""
        record = commit.record
        if record.version != self.head + 1:
            self._say(f"I3: version {record.version} follows {self.head}")
        if record.previous != self._digest:
            self._say(f"I3: version {record.version} does not name its predecessor's digest")
        if not np.isfinite(commit.model.parameters).all() or not np.isfinite(commit.model.shadow.parameters).all():
            self._say(f"I4: version {record.version} holds a value that is not finite")
        if commit.model.shadow.digest() != record.digest:
            self._say(f"I3: version {record.version} has another digest than its record")
        self.accounts.committed(commit)
        if self._settings.masking is not None:
            self.batches.committed(record.version, frozenset(member.update for member in commit.members))
        self.head, self._digest = record.version, record.digest
        self._digests[record.version] = record.digest
        for member in commit.members:
            self._apply(member.update, record.version)
            self.staleness[member.staleness] += 1
            if member.staleness > self._settings.max_staleness:
                self._say(f"{member.update} is {member.staleness} versions stale")
        if not self._settings.quorum <= len(commit.members) <= self._settings.buffer:
            self._say(f"version {record.version} has {len(commit.members)} members")

    def _apply(self, update: UpdateId, version: ModelVersion) -> None:
        if update in self._applied:
            self._say(f"I1: {update} is in version {self._applied[update]} and in {version}")
        if update in self._final:
            self._say(f"I1: {update} is {self._final[update].status} and in version {version}")
        if update not in self._stored:
            self._say(f"I1: {update} is in version {version} and was never stored")
        self._applied[update] = version
        self.verdicts[ReceiptStatus.APPLIED.value] += 1

    def evaluated(self, run: RunId, result: NodeResult) -> None:
        """What a node found is on disk."""
        self.surveys.saved(run, result)

    def surveyed(self, evaluation: NodesEvaluation) -> None:
        """The mean over the nodes is on disk."""
        self.surveys.made(evaluation)

    def summed(self, evaluation: NodesEvaluation) -> None:
        """What the sum of masked reports says is on disk, or that there is none."""
        masking = self._settings.masking
        self.surveys.summed(evaluation, 1 if masking is None else masking.members_min)

    def frozen(self, batch: BatchRecord) -> None:
        """The members of a masked version are on disk."""
        self.batches.frozen(batch)

    def dropped(self, verdicts: Sequence[Verdict]) -> None:
        """A batch makes no version, and this became of its members."""
        self.batches.ended(tuple(verdicts))

    # --- the coordinator --------------------------------------------------------------------------------------------

    def coordinator_started(
        self, recovered: RecoveredState, alarms: Sequence[str] = (), parts: VersionRecord | None = None
    ) -> None:
        """A process begins with this; alarms are what it had to repair, and parts what it made again of the head."""
        for alarm in alarms:
            self._say(f"save, then say: {alarm}")
        if parts is not None:
            self._say(f"save, then say: what nodes pull of version {parts.version} was made again from the model")
        self.accounts.started(recovered.released)
        seen = self._seen()
        if recovered.head.version < max(seen, self.head):
            self._say(f"I5: the head is {recovered.head.version}, but nodes have seen {seen}")
        if recovered.epoch <= self._epoch:
            self._say(f"epoch {recovered.epoch} follows {self._epoch}")
        if self._digest == b"":
            self._digest = self._digests[recovered.head.version] = recovered.head.digest
        self._epoch, self.next_round = recovered.epoch, max(self.next_round, recovered.next_round)
        if recovered.restored is not None:
            self._restores[recovered.restored.epoch] = recovered.restored

    def _seen(self) -> ModelVersion:
        """The newest version of those that this store has announced which a node has seen."""
        words = self._announced.items()
        seen = (word[1] for number, word in words if self._witness.has_seen(self.run, number, word[1], word[2]))
        return max(seen, default=ModelVersion(0))

    def too_early(self, name: str, changes: int) -> None:
        """Something was said before what it follows from was on the disk."""
        self._say(f"save, then say: {name} went on with {changes} changes that a power cut would undo")

    def coordinator_says(self, effect: object, store: CoordinatorStore) -> None:
        """An effect is about to run."""
        match effect:
            case SendCommand(command=Receipt() as receipt):
                self._receipt(receipt, store)
            case SendCommand(node=node, command=EvaluationReceipt() as evaluated):
                self.surveys.receipted(node, evaluated)
            case PublishAnnouncement(announcement=announcement) | Invite(announcement=announcement):
                self._announcement(announcement)
                self.surveys.announced(announcement)
            case _:
                pass

    def _receipt(self, receipt: Receipt, store: CoordinatorStore) -> None:
        update, known = receipt.update, store.verdict(receipt.update)
        if receipt.run != self.run:
            self._say(f"run {self.run} gives {update} a verdict of run {receipt.run}")
        if receipt.status.final:
            self._witness.told(self.run, update, id(self))
        if receipt.reason is Reason.COUNTED:
            return  # nothing is kept of a sum that counts in part elsewhere: its gateway makes another one
        if known is None and self._is_lost(receipt):
            self._void[update] = None
            return
        if known is None:
            self._say(f"save, then say: {update} is receipted {receipt.status} ({receipt.reason}) and not on disk")
            return
        if receipt.status.final and (known.status, known.version) != (receipt.status, receipt.version):
            self._say(f"save, then say: {update} is receipted {receipt.status}, on disk it is {known.status}")
        self._promised[update] = None

    def _is_lost(self, receipt: Receipt) -> bool:
        """Whether it is refused because its round is not of this store: then nothing is kept of it.

        A backup has not what was lost. Of a number that a failed disk has made this store pass over another copy of it
        may have made a round.
        """
        number = _round_of(receipt.update)
        lost = self._copied or any(one.first_round <= number < one.next_round for one in self._restores.values())
        return receipt.reason is Reason.UNKNOWN_ROUND and lost and number not in self._rounds

    def _announcement(self, announcement: RoundAnnouncement) -> None:
        reserved = self._rounds.get(announcement.round)
        if reserved is None:
            self._say(f"save, then say: round {announcement.round} is announced and not on disk")
        identity = (announcement.cohort, announcement.model.version, announcement.model.digest, announcement.final)
        if self._announced.setdefault(announcement.round, identity) != identity:
            self._say(f"round {announcement.round} was announced twice, with different content")
        if announcement.model.version > self.head:
            self._say(f"save, then say: version {announcement.model.version} is announced, the head is {self.head}")

    def heard(self, event: str, fields: Mapping[str, object]) -> None:
        """The coordinator logs something: a line that the disk has failed with is said again as the run's end."""
        self.heard_events[event] += 1
        ending = str(fields.get("reason", "")) if event == "finished" else event
        self._over_budget = self._over_budget or ending in ("budget", "budget_ends_run")
        self.ended_early = self.ended_early or ending in ("stopped_early", "stopping_early") or self._over_budget

    def caps(self, snapshot: Mapping[str, Any]) -> None:
        """Compare what a coordinator holds with its limits."""
        for name, most in (
            ("transfers", self._settings.transfers_max),
            ("buffered", self._buffered_max),
        ):
            if snapshot[name] > most:
                self._say(f"I8: {snapshot[name]} {name}, the limit is {most}")
        if snapshot["quota_used"] != snapshot["transfers"] + snapshot["buffered"]:
            self._say(
                f"leak: {snapshot['quota_used']} places of quota for {snapshot['transfers']} transfers and "
                f"{snapshot['buffered']} updates in the buffer"
            )

    @property
    def _buffered_max(self) -> int:
        """While a sum is under way, masked rounds go on as long as their updates may still count."""
        engine = self._settings
        most = 2 * (engine.concurrency + engine.buffer)
        return most if engine.masking is None else most + engine.buffer * (engine.max_staleness + 1)

    def outbox(self, node: NodeId, entries: int, most: int) -> None:
        """A node's outbox has so many entries."""
        if entries > most:
            self._say(f"I8: {node} has {entries} updates in its outbox, the limit is {most}")

    # --- the end ----------------------------------------------------------------------------------------------------

    def unsettled(self, lost: Collection[str]) -> list[UpdateId]:
        """Updates that were promised or made and have no final verdict; those of lost nodes count when promised.

        Whoever was told a verdict by the coordinator of a copy has dropped its update, and nobody can have it again.
        """
        settled, witness = self._applied.keys() | self._final.keys() | self._void.keys(), self._witness
        open_ones = [update for update in self._promised if update not in settled]
        open_ones += [
            update
            for update in witness.owed(self.run, lost)
            if update not in settled
            and update not in self._promised
            and not witness.told_elsewhere(self.run, update, id(self))
        ]
        return open_ones

    def undelivered(self, lost: Collection[str]) -> list[UpdateId]:
        """Updates that somebody has made who is not lost, and nobody has told a verdict."""
        witness = self._witness
        return [update for update in witness.owed(self.run, lost) if not witness.told_elsewhere(self.run, update, 0)]

    def told_by_others(self, lost: Collection[str]) -> int:
        """So many updates have their only verdict from the coordinator of another copy of this store."""
        settled, witness = self._applied.keys() | self._final.keys() | self._void.keys(), self._witness
        others = (update for update in witness.owed(self.run, lost) if update not in settled)
        return sum(witness.told_elsewhere(self.run, update, id(self)) for update in others)

    def close(self, store: CoordinatorStore, lost: Collection[str]) -> None:
        """Compare the ledger with the store at the end; ``lost`` nodes are gone for ever."""
        for update in self.unsettled(lost):
            self._say(f"I2: {update} of {self._witness.makers(self.run, update)} has no final verdict")
        on_disk = {row.record.update: row.verdict for row in store.updates()}
        for update, version in self._applied.items():
            verdict = on_disk.get(update)
            if verdict is None or verdict.status is not ReceiptStatus.APPLIED or verdict.version != version:
                self._say(f"I1: {update} went into version {version}, the store says {verdict}")
        for update in self._final:
            verdict = on_disk.get(update)
            if verdict is None or verdict.status is not self._final[update].status:
                self._say(f"I2: {update} was {self._final[update].status}, the store says {verdict}")
        self.surveys.close(store)
        self.accounts.reported(nodes_report(store))
        versions = [row.record.version for row in store.history()]
        if versions != list(range(len(versions))):
            self._say(f"I3: the history holds the versions {versions}")

    def ended(self, store: CoordinatorStore) -> None:
        """The run is over: for its last version, for want of budget, or since its evaluations say so."""
        if self.head < self._settings.versions and not self._over_budget:
            self.surveys.ended_early(store, self._settings.stopping)

    def _say(self, text: str) -> None:
        self.violations.append(text)


def _round_of(update: UpdateId) -> RoundId:
    return RoundId(int(update.partition("-")[0]))
