"""Who coordinates: a process listens before it speaks, gives way to a newer one, and repeats what was wiped.

Whatever arrives here was said by ourselves, by another coordinator, by the broker in the name of one that is gone, or
by nobody: an empty payload is a retained message that was cleared.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from coordinator.engine.announcer import Announcer
from coordinator.engine.effects import Leave
from coordinator.engine.events import ANSWER_WAIT_S, CoordinatorStateReceived
from coordinator.engine.registry import NODES_MAX
from coordinator.engine.state import MachineState
from coordinator.engine.timers import RateLimit
from federation.protocol.messages import CoordinatorState, NodeState, Presence, Rebirth
from federation.types import NO_START, Epoch, ModelVersion, NodeId, RoundId, SeenRun, Start

__all__ = ["ASTRAY_PAUSE_S", "HEAL_PAUSE_S", "PROOF_PAUSE_S", "PROOF_WAIT_S", "STOPPED_S", "Behind", "Fence"]

HEAL_PAUSE_S = 5.0
"""What was wiped is published again this long after it was last published at the earliest, in seconds."""

STOPPED_S = 30.0
"""A deadline that is missed by more tells that the process stood still, and may have been replaced, in seconds."""

ASTRAY_PAUSE_S = 30.0
"""Time between two words to nodes that follow another run, in seconds: all nodes hear them."""

YOUNG_S = 10.0
"""Whoever hears the coordinator of another run this soon after its own first word has come second, in seconds."""

REPLACE_S = 60.0
"""Whoever was told to replace another run's coordinator does not give way for this long after its start, in seconds."""

PROOF_WAIT_S = 5.0
"""A node's first claim without proof holds decisions for so long at most, once for each node, in seconds."""

PROOF_PAUSE_S = 60.0
"""Between two questions for a proof to one node, in seconds."""

PROOFS_PER_S = 100.0
"""Questions for a proof to all nodes, each second."""

ASKED_MAX = 8
"""Nodes that a start asks what they have seen before its first word: rounds that were made after a copy, all know."""

OWED_MAX = 64
"""More of them that held a slot or had an update here: a version that was made after a copy, they know first."""

SEEN_WAIT_S = 2.0
"""Where somebody leads, those who were asked are waited for so long at most, in seconds: links may be slow."""

NAMES_MAX = 10
"""Nodes named in one line of the log, or in one snapshot."""


class Behind:
    """What was heard of later coordinators and later rounds of this run, and from whom [FED-97].

    Where there is any, this state is a copy, or was restored from a backup, and nothing is decided: a verdict would end
    work that somebody else may have stored, and a round number would be used twice. One node's word is enough, since
    perhaps only one of them is online that has seen more. Where messages are signed, its word is a claim: it holds for
    `PROOF_WAIT_S`, and longer only with what a node cannot make, this coordinator's own signature [FED-130]. Else what
    a lie costs is bounded by a person: log and ``coordinator why`` name the node, and whoever is revoked has said
    nothing.

    Attributes:
        due: When claims that nobody has proved hold no longer, in monotonic seconds; None is that none does.
    """

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self._known: dict[NodeId, SeenRun] = {}
        self._claims: dict[NodeId, SeenRun] = {}
        self._successor: SeenRun | None = None
        self._is_known = False
        self._asks = RateLimit[NodeId](per_s=1 / PROOF_PAUSE_S, burst=1.0)
        self._asks_any = RateLimit[str](per_s=PROOFS_PER_S, burst=PROOFS_PER_S)
        self.due: float | None = None

    def superseded(self, epoch: Epoch, start: Start) -> None:
        """A later start of this run has led it, says ``srv``, and is gone."""
        self._successor = SeenRun(run=self._state.run, epoch=epoch, start=start)
        self._judge()

    def told(self, node: NodeId, round_id: RoundId, version: ModelVersion) -> None:
        """A node offers work of a round that was never reserved here, or from a version that was never made here."""
        newer = version if version > self._state.newest else None
        self._hear(node, SeenRun(run=self._state.run, epoch=self._state.epoch, round=round_id, version=newer))

    def born(self, node: NodeId, node_state: NodeState) -> None:
        """A node says who it is, and what it has seen."""
        seen = node_state.seen
        if seen is not None and self._is_beyond(seen):
            self._hear(node, seen)

    def proved(self, node: NodeId, proved: tuple[SeenRun, ...]) -> None:
        """A node shows what our own key has signed; what is not of our run, or not beyond us, proves nothing."""
        beyond = [seen for seen in proved if self._is_beyond(seen)]
        if not beyond:
            self._state.count("proofs_void")
            return
        self._claims.pop(node, None)
        highest = max(beyond, key=lambda seen: (seen.epoch, seen.start))
        rounds = [seen.round for seen in beyond if seen.round is not None]
        versions = [seen.version for seen in beyond if seen.version is not None]
        known = replace(highest, round=max(rounds, default=None), version=max(versions, default=None))
        self._know(node, known)

    def expel(self, nodes: frozenset[NodeId]) -> None:
        """These have left the federation: their word does not count; what they have proved is true, whoever has it."""
        for node in nodes & self._claims.keys():
            del self._claims[node]
        if not self._state.settings.signed:
            for node in nodes & self._known.keys():
                del self._known[node]
        self._judge()

    def pass_time(self) -> None:
        """Claims that nobody has proved in time hold nothing any more."""
        if self.due is not None and self._state.now >= self.due:
            self.due = None
            self._judge()

    def row(self) -> Mapping[str, object]:
        """What is known, for people: who says so, the highest epoch and the highest round; nothing when not behind."""
        if not self._is_known:
            return {}
        seen = [*self._known.values(), *([] if self._successor is None else [self._successor])]
        highest, state = _highest(seen), self._state
        ours = {"our_epoch": state.epoch, "our_rounds": state.next_round}
        newest = {"our_version": state.newest} if "version" in highest else {}
        return {**_told_by(self._known), **highest, **ours, **newest}

    def claims(self) -> Mapping[str, object]:
        """What nodes claim and have not proved, for people; nothing when nobody does."""
        return {**_told_by(self._claims), **_highest(self._claims.values())} if self._claims else {}

    def _is_beyond(self, seen: SeenRun) -> bool:
        """Whether this store cannot have made it; of before a restore, only pairs and rounds are known.

        What an earlier start has announced was reserved before this one began, whatever has been reserved since.
        """
        state = self._state
        if seen.run != state.run:
            return False
        earlier = seen.epoch < state.epoch or (seen.epoch == state.epoch and NO_START < seen.start < state.fence[1])
        first_unknown = state.first_round if earlier else state.next_round
        if (seen.epoch, seen.start) > state.fence or (seen.round is not None and seen.round >= first_unknown):
            return True
        return seen.version is not None and seen.version > state.newest and (seen.round or 0) >= state.restored_round

    def _hear(self, node: NodeId, seen: SeenRun) -> None:
        if not self._state.settings.signed:
            self._know(node, seen)
        elif node not in self._known:
            self._doubt(node, seen)

    def _doubt(self, node: NodeId, seen: SeenRun) -> None:
        """Wait a moment for the proof, once for each node: a verdict in this time would be final [FED-130]."""
        state = self._state
        state.count("claims_unproven")
        if node not in self._claims:
            if len(self._claims) >= NODES_MAX:
                return
            state.note("claim_without_proof", node=node, epoch=seen.epoch, round=seen.round)
            self.due = state.now + PROOF_WAIT_S
        self._claims[node] = seen
        if self._asks.admits(node, state.now) and self._asks_any.admits("", state.now):
            state.send(node, Rebirth(proof=True))
        self._judge()

    def _know(self, node: NodeId, seen: SeenRun) -> None:
        if node in self._known or len(self._known) < NODES_MAX:
            self._known[node] = seen
            self._judge()

    def _judge(self) -> None:
        state, before = self._state, self._is_known
        self._is_known = self._successor is not None or bool(self._known)
        state.fall_behind(behind=self._is_known or self.due is not None)
        if self._is_known and not before:
            state.count("behind")
            state.note("behind", **self.row())
        elif before and not self._is_known:
            state.note("not_behind")


def _told_by(nodes: Mapping[NodeId, SeenRun]) -> Mapping[str, object]:
    return {"nodes": len(nodes), "said_by": sorted(nodes)[:NAMES_MAX]}


def _highest(seen: Collection[SeenRun]) -> Mapping[str, object]:
    rounds = (one.round for one in seen if one.round is not None)
    versions = [one.version for one in seen if one.version is not None]
    highest: dict[str, object] = {"epoch": max(one.epoch for one in seen), "round": max(rounds, default=None)}
    return {**highest, "version": max(versions)} if versions else highest


class Fence:
    """One machine's view of who coordinates and of what is retained [FED-63, FED-64, FED-90, FED-97, FED-98].

    Attributes:
        due: When what is retained is to be published again, in monotonic seconds; None is never.
        astray_due: When nodes that follow another run are told who leads, in monotonic seconds; None: there are none.
        other_run: The run whose coordinator this one leaves the federation to; empty before.
    """

    def __init__(self, state: MachineState, announcer: Announcer, behind: Behind) -> None:
        self._state, self._announcer, self._behind = state, announcer, behind
        self._spoke_at: float | None = None
        self._silent = True
        self._owes = self._contested = self._unanswered = False
        self._asked, self._unheard = set[NodeId](), set[NodeId]()
        self._asked_until, self._waits, self._rival = state.now, False, False
        self._owed: set[NodeId] = set()
        self._healed_at: float | None = None
        self._told_astray_at: float | None = None
        self.due: float | None = None
        self.astray_due: float | None = None
        self.other_run = ""

    @property
    def speaks(self) -> bool:
        """Whether this process has said in this connection that it coordinates."""
        return not self._silent

    def connected(self, *, answered: bool) -> None:
        """Listen: what stands in ``srv``, and at a start what nodes have seen, decides who speaks.

        For ``settle_s`` once the broker has answered: on a slow link, or a busy machine, nothing is heard before.
        """
        state, follows = self._state, answered and self._unanswered
        self._unanswered, self._waits = not answered, False
        if follows:
            if self._silent:
                state.listen()
            return
        self._silent, self._contested, self._rival, self._asked, self._unheard = True, False, False, set(), set()
        self._owed = {*state.assignments, *(record.node for record in state.buffer.records.values())}
        state.listen(0.0 if answered else ANSWER_WAIT_S)
        if state.settings.settle_s <= 0:
            self._speak()

    def disconnected(self) -> None:
        """The next connection publishes everything anyway."""
        self.due = None
        self._state.deafen()

    def met(self, node: NodeId) -> None:
        """A node is there. Its retained birth is as old as its process: at a start some are asked what they have seen.

        A copy of a folder has a higher epoch than the leader that it was copied from, and nothing in ``srv`` tells.
        """
        state = self._state
        if self._spoke_at is not None or state.settling_until is None:
            return
        most = ASKED_MAX + (OWED_MAX if node in self._owed else 0)
        if not self._waits and node not in self._asked and len(self._asked) < most:
            self._asked.add(node)
            self._unheard.add(node)
            self._asked_until = state.now + SEEN_WAIT_S
            state.send(node, Rebirth())
        elif node in self._unheard:
            self._unheard.remove(node)
            if self._waits and not self._unheard:
                state.listen()

    def wakes(self, late_s: float) -> None:
        """The process stood still: what it has heard is old, and the broker may have ended the connection since."""
        state = self._state
        if state.clock.running and not self._silent:
            state.listen()
            state.note("stood_still", seconds=round(late_s, 1))

    def pass_time(self) -> None:
        """Whoever has heard nobody for long enough speaks."""
        state, until = self._state, self._state.settling_until
        if until is not None and until <= state.now < self._asked_until and self._unheard and self._rival:
            self._waits = True
            state.listen(self._asked_until - state.now)
        state.settle()
        if state.leading and self._silent:
            self._speak()
        elif state.leading and self._owes:
            self._owes = False
            self._announcer.publish_again()

    def say_again(self) -> None:
        """Nothing could be saved for a while: publish everything anew, or as soon as this process leads [FED-97].

        What is published without a connection would be the first thing that the next one says.
        """
        self._owes = self._silent or not self._state.leading
        if not self._owes:
            self._announcer.publish_again()

    def _speak(self) -> None:
        self._silent = self._owes = False
        self._spoke_at = self._state.now if self._spoke_at is None else self._spoke_at
        self._announcer.publish_again()

    def observe(self, event: CoordinatorStateReceived) -> Leave | None:
        """Take in what ``srv`` says; a reason means that this coordinator must leave."""
        state, told = self._state, event.state
        online = told is not None and told.presence is Presence.ONLINE
        if told is not None and told.run != state.run:
            if online:
                return self._another_run(told, stood=event.retained)
        elif told is not None and fence_of(told) > state.fence:
            if online:
                state.note("fenced", epoch=state.epoch, newer_epoch=told.epoch)
                return Leave.FENCED
            self._behind.superseded(*fence_of(told))
            return None
        # Who speaks first here is older than we are, or gone, or nobody: this process leads as far as the broker knows.
        ours = online and told is not None and fence_of(told) == state.fence
        self._rival = self._rival or (online and not ours)
        if ours or (event.retained and not self._is_twin(told) and self._spoke_at is not None):
            state.hear()
        if self._silent and state.leading:
            self._speak()
        elif not ours and not event.retained:
            self.lost()
        return None

    def _is_twin(self, told: CoordinatorState | None) -> bool:
        """Whether a lower start of our own epoch has led: one of the two is a copy, and births may tell which."""
        state = self._state
        return told is not None and (told.run, told.epoch) == (state.run, state.epoch) and fence_of(told) != state.fence

    def lost(self) -> None:
        """Something that is retained is not there any more."""
        state = self._state
        if state.clock.running and self.due is None and not self._silent:
            state.count("retained_lost")
            self.due = state.now if self._healed_at is None else max(state.now, self._healed_at + HEAL_PAUSE_S)

    def heal(self) -> None:
        """Publish everything that is retained again when it is due; the storage must not be paused."""
        state = self._state
        if self.due is None or state.now < self.due:
            return
        self.due, self._healed_at = None, state.now
        state.note("retained_lost")
        self._announcer.publish_again(lost=True)

    def astray(self) -> None:
        """A node follows another run: what it has heard last was a late word of that run's coordinator [FED-321].

        Whoever replaces another one is young, and its word means something else then.
        """
        if self.astray_due is None and self._spoke_at is not None:
            last = self._spoke_at + REPLACE_S
            last = last if self._told_astray_at is None else max(last, self._told_astray_at + ASTRAY_PAUSE_S)
            self.astray_due = max(self._state.now, last)

    def recall(self) -> None:
        """Tell those who have gone astray who leads, when it is due."""
        state = self._state
        if self.astray_due is None or state.now < self.astray_due or self._silent:
            return
        self.astray_due, self._told_astray_at = None, state.now
        state.count("nodes_recalled")
        self._announcer.publish_state(Presence.ONLINE)

    def _another_run(self, told: CoordinatorState, *, stood: bool) -> Leave | None:
        """Another run's coordinator is there: whoever came second leaves, unless it was told to replace the other.

        One that has led for long says its own word once more; whoever repeats his then was told to replace it. So of
        two one leaves, and they do not take the federation from each other again and again.
        """
        state = self._state
        state.count("other_coordinators")
        if state.counters["other_coordinators"] == 1:
            state.note("other_coordinator", run=told.run, epoch=told.epoch)
        age_s = 0.0 if self._spoke_at is None else state.now - self._spoke_at
        if state.settings.replaces and age_s < REPLACE_S:
            self._insist()
            return None
        young = age_s < YOUNG_S
        if stood or self._silent or (young and told.run > state.run) or (self._contested and self.due is None):
            self.other_run = told.run
            return Leave.OTHER_RUN if self._spoke_at is None or (young and stood) else Leave.REPLACED
        self._contested = True
        self.lost()
        return None

    def _insist(self) -> None:
        if self._silent:
            self._state.hear()
            self._speak()
        else:
            self.lost()


def fence_of(told: CoordinatorState) -> tuple[Epoch, Start]:
    """Which start says this; an older coordinator names none, and has the lowest of its epoch."""
    return told.epoch, told.start or Start(0)
