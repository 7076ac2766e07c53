"""Brings each update's seeds to the helpers, until they hold them or say why they do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coordinator.engine.masked.effects import HelperCommand, SendToHelper
from coordinator.engine.state import MachineState
from coordinator.engine.update_receiver import UpdateReceiver
from coordinator.records import UpdateRecord
from federation.privacy.classes import classes
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import Presence, Reason, ReceiptStatus
from federation.protocol.sum_messages import Held, HeldStatus, HelperState, PrivacyTerms, SealedSeeds, SumReason
from federation.types import HelperId, Incarnation, NodeId, StateId, UpdateId

__all__ = ["LOST", "PASSING", "Helper", "SeedDelivery"]

RETRY_S = 5.0
"""A helper that is there and has not answered is asked again after this time, in seconds; doubled each time."""

RETRY_S_MAX = 300.0
"""Longest pause between two such questions, in seconds."""

DOUBLINGS_MAX = 6

LOST = frozenset({SumReason.BAD_BOX, SumReason.GONE, SumReason.USED, SumReason.TOO_OLD})
"""The seeds are, or the sum is, beyond reach: no fault of the node's, whose residual takes the update back."""

SILENT_ATTEMPTS = 3
"""A helper that seems to be there, and has not answered so often in a row, is not waited for where the others suffice.

Its process may hang, or the broker may have kept its word and not its death.
"""

REFUSES_S = 600.0
"""A helper that refuses what others do is left out so long where these suffice, in seconds."""

PASSING = frozenset({SumReason.FULL})
"""It may be another time."""


@dataclass(slots=True, kw_only=True)
class Helper:
    """One helper, as far as it has been heard.

    Attributes:
        number: Its place in the order of the helpers' keys.
        state: What it said last; None: nothing.
        since: Since when it is there, or not, in monotonic seconds.
        attempts: Questions since it answered anything.
        due: When it is asked again for what it owes, in monotonic seconds; None while it owes nothing.
        speaks: It has answered since it was said to be gone: that was the word of a former connection.
        refused: When it refused last what others would do, in monotonic seconds; None: never, since it came.
        doubted: Nodes of which it claims more than can be.
        revoked: It has left the federation: what the broker kept of it says nothing.
    """

    number: int
    state: HelperState | None = None
    since: float = 0.0
    attempts: int = 0
    due: float | None = None
    speaks: bool = False
    refused: float | None = None
    doubted: set[NodeId] = field(default_factory=set)
    revoked: bool = False

    @property
    def present(self) -> bool:
        """Whether it is there."""
        return not self.revoked and self.state is not None and (self.speaks or self.state.presence is Presence.ONLINE)

    @property
    def answers(self) -> bool:
        """Whether it is there, has not been silent for long, and does not refuse what others do."""
        return self.present and self.attempts < SILENT_ATTEMPTS and self.refused is None


class SeedDelivery:
    """Who helps, and what each still owes; what it sends is on disk with its update.

    Attributes:
        helpers: They, in the order of their keys; nobody where nothing is masked.
    """

    def __init__(self, state: MachineState, receiver: UpdateReceiver) -> None:
        self._state, self._receiver = state, receiver
        masking = state.settings.masking
        names = () if masking is None else masking.helpers
        self.helpers: dict[HelperId, Helper] = {name: Helper(number=number) for number, name in enumerate(names)}
        self._listed: set[HelperId] = set()

    # --- who is there -----------------------------------------------------------------------------------------------

    def heard(self, name: HelperId, said: HelperState) -> bool:
        """A helper comes or goes; says whether a process is there that was not before. It is sent everything anew."""
        state, helper = self._state, self.helpers[name]
        before = helper.state
        if before is not None and before.state_id == said.state_id and said.incarnation < before.incarnation:
            return False  # said before what is known
        fresh = before is None or _life(before) != _life(said)
        if before is not None and before.state_id != said.state_id:
            state.note("helper_store_changed", helper=name)
        if fresh:
            helper.since, helper.attempts, helper.speaks, helper.refused = state.now, 0, False, None
            state.note("helper_" + said.presence.value, helper=name, incarnation=said.incarnation)
        helper.state = said
        if fresh and helper.present:
            state.masked.lose(name, state.buffer.records.values())
        self._need()
        return fresh and helper.present

    def follow_enrolled(self, nodes: frozenset[NodeId]) -> None:
        """Who is in the list of those with a certificate: a helper that is not any more is not waited for.

        Where none of them ever was in it, they have no certificates.
        """
        listed = {name for name in self.helpers if NodeId(name) in nodes}
        self._listed |= listed
        for name, helper in self.helpers.items():
            gone = bool(self._listed) and name not in listed
            if gone and not helper.revoked:
                self._state.note("helper_revoked", helper=name)
            helper.revoked = gone
        self._need()

    def _need(self) -> None:
        masking = self._state.settings.masking
        if masking is not None and masking.threshold < len(self.helpers):
            self._state.masked.need(self.needed(), self._state.buffer.records.values())

    def needed(self) -> list[HelperId]:
        """All helpers must hold an update; where fewer suffice, those that are there."""
        masking = self._state.settings.masking
        answering = [name for name, helper in self.helpers.items() if helper.answers]
        enough = masking is not None and masking.threshold <= len(answering)
        return answering if enough else list(self.helpers)

    def present(self) -> list[HelperId]:
        """Who is there."""
        return [name for name, helper in self.helpers.items() if helper.present]

    def helper_for(self, part: int, terms: PrivacyTerms) -> HelperId | None:
        """Who is asked for a class: the first of its helpers that answers, else that is there, else its first."""
        names = list(self.helpers)
        able = [names[number] for number in classes(terms.count, terms.threshold)[part] if number < len(names)]
        answering = [name for name in able if self.helpers[name].answers]
        present = [name for name in able if self.helpers[name].present]
        return next(iter(answering or present or able), None)

    def spoke(self, name: HelperId) -> None:
        """A helper has answered something: it is there."""
        helper = self.helpers[name]
        silent, helper.attempts = not helper.answers, 0
        if helper.state is not None and not helper.present:
            helper.speaks, helper.since, helper.due = True, self._state.now, self._state.now
            self._state.note("helper_speaks", helper=name)
        if silent:
            self._need()

    def others_suffice(self, name: HelperId, reason: SumReason) -> bool:
        """A helper refuses something: where enough others answer, it is left out for a while [FED-200]."""
        masking, helper = self._state.settings.masking, self.helpers[name]
        others = sum(other.answers for one, other in self.helpers.items() if one != name)
        if masking is None or others < masking.threshold:
            return False
        if helper.refused is None:
            self._state.note("helper_refuses", helper=name, reason=reason.value)
        helper.refused = self._state.now
        self._need()
        return True

    def _forgive(self) -> None:
        """What a helper refuses may change, as when its people admit a node."""
        for helper in self.helpers.values():
            if helper.refused is not None and self._state.now >= helper.refused + REFUSES_S:
                helper.refused = None
                self._need()

    # --- what they hold ---------------------------------------------------------------------------------------------

    def held(self, name: HelperId, held: Held) -> UpdateRecord | None:
        """A helper's word on one update; returns the record of one that it will never hold."""
        state = self._state
        record = state.buffer.records.get(held.update)
        if record is None or record.seeds is None or held.run != state.run:
            return None
        if payload_digest(record.seeds.ticket) != held.ticket:
            return None  # of another update of this id, such as that of a run that was restored
        if held.status is HeldStatus.HELD:
            state.masked.hold(name, held.update)
            return None
        state.note("seeds_refused", helper=name, update=held.update, reason=held.reason.value)
        return None if held.reason in PASSING or self.others_suffice(name, held.reason) else record

    def turn_down(self, record: UpdateRecord, reason: SumReason) -> None:
        """An update that no batch can have: it costs itself, and nothing else."""
        self._state.discard(record)
        lost = reason in LOST
        status = ReceiptStatus.STALE if lost else ReceiptStatus.REFUSED
        why = Reason.HELPER_LOST if lost else Reason.HELPER_REFUSED
        self._receiver.settle(record, status, why, stored=True, detail=_told(reason))

    @property
    def arriving(self) -> int:
        """Updates of which chunks are still on their way."""
        return len(self._receiver.transfers)

    def outdate(self, record: UpdateRecord) -> None:
        """An update whose terms have changed before enough others came: its node takes it back, and trains again."""
        self._state.discard(record)
        detail = "the terms of masks have changed, and too few others have these"
        self._receiver.settle(record, ReceiptStatus.STALE, Reason.TERMS, stored=True, detail=detail)

    def send_again(self, name: HelperId, updates: frozenset[UpdateId]) -> None:
        """A helper says that it does not know these, which it held."""
        records = [record for update, record in self._state.buffer.records.items() if update in updates]
        self._state.masked.lose(name, records)

    # --- time -------------------------------------------------------------------------------------------------------

    def advance(self, owed: Mapping[HelperId, Sequence[HelperCommand]]) -> None:
        """Send what is new, and again what is due.

        Args:
            owed: What else is asked of a helper, beside to hold seeds: it is sent again when that is due.
        """
        self._forgive()
        for name, helper in self.helpers.items():
            if not helper.present:
                self._probe(name, helper, owed.get(name, ()))
                continue
            due = helper.due is not None and self._state.now >= helper.due
            self._send_seeds(name, all_of_them=due)
            if due:
                for command in owed.get(name, ()):
                    self.say(name, command)
            owes = bool(self._state.masked.lacks(name)) or name in owed
            if not owes:
                helper.due = None
            elif due or helper.due is None:
                helper.attempts = helper.attempts + due
                if helper.attempts == SILENT_ATTEMPTS and due:
                    self._state.note("helper_silent", helper=name, since=helper.since)
                    helper.speaks = False
                    self._need()
                helper.due = self._state.now + min(RETRY_S_MAX, RETRY_S * 2.0 ** min(DOUBLINGS_MAX, helper.attempts))

    def _probe(self, name: HelperId, helper: Helper, owed: Sequence[HelperCommand]) -> None:
        """Ask a helper that is said to be gone for one thing that it owes, now and then.

        That it is gone may be the late word of a former connection, or of a broker that has gone back: then nobody
        contradicts, since the helper does not know what was said of it [FED-199].
        """
        now, lacking = self._state.now, self._state.masked.lacks(name)
        if helper.state is None or not (lacking or owed):
            helper.due = None
        elif helper.due is None:
            helper.due = now + RETRY_S_MAX
        elif now >= helper.due:
            helper.due = now + RETRY_S_MAX
            if owed:
                self.say(name, owed[0])
            else:
                self._send_seeds(name, all_of_them=True, most=1)

    def due(self) -> float | None:
        """When a helper is asked again, in monotonic seconds."""
        return min((one.due for one in self.helpers.values() if one.due is not None), default=None)

    def say(self, name: HelperId, command: HelperCommand) -> None:
        """Publish to one helper."""
        self._state.emit(SendToHelper(helper=name, command=command))

    def _send_seeds(self, name: HelperId, *, all_of_them: bool, most: int | None = None) -> None:
        state, number = self._state, self.helpers[name].number
        for record in state.masked.owed(name, all_of_them=all_of_them)[:most]:
            seeds = record.seeds
            if seeds is not None:
                box = seeds.boxes[number]
                self.say(name, SealedSeeds(run=state.run, update=record.update, ticket=seeds.ticket, box=box))


def _life(state: HelperState) -> tuple[Presence, Incarnation, StateId]:
    return state.presence, state.incarnation, state.state_id


def _told(reason: SumReason) -> str:
    """Why a helper holds nothing of an update, for the people who run the coordinator and the node."""
    remedy = " (fedmq helper admit, there)" if reason is SumReason.UNKNOWN_NODE else ""
    return f"a helper: {reason.value}{remedy}"
