"""The newest that a node has heard of each run's coordinator: what is older is not obeyed, ever (FED-20, FED-79).

Who may speak is a pair: the epoch, which counts the starts of one store, and the start, which tells two starts of
copies of one store apart. The higher pair is obeyed even where its rounds and versions have gone back, as those of a
restored store do. A signature proves who has said something, not when. So where messages are signed, a round or a
version that is older than one of the same pair is a repetition of what was once signed, and refused.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from edge_node.engine.effects import Effect, Note, SaveSeen
from edge_node.records import Seen
from federation.errors import RemoteProtocolError
from federation.protocol.limits import PROVEN_RECEIPT_BYTES_MAX
from federation.protocol.messages import CoordinatorState, Presence, Proof, Receipt, RoundAnnouncement
from federation.protocol.wire import decode_message
from federation.types import NO_START, RoundId, RunId, SeenRun

__all__ = ["BIRTHS_S_MAX", "BIRTH_S_MIN", "Births", "Fence", "ignored"]

BIRTH_S_MIN: Final = 10.0
"""Time between two births that only say what was seen, in seconds."""

BIRTHS_S_MAX: Final = 600.0
"""A coordinator that asks for more patience is told after this time, in seconds."""

_TOLD_MAX: Final = 64
_LOW: Final = 0xFFFF_FFFF


class Fence:
    """Compares what is heard with what was heard.

    Args:
        seen: What was saved, of each run.
        signed: Whether messages are signed: then nothing of one start is obeyed twice.
    """

    def __init__(self, seen: Iterable[Seen], *, signed: bool) -> None:
        self._signed = signed
        self._seen = {one.run: one for one in seen}
        self._saved = dict(self._seen)
        self._told: set[tuple[RunId, int, int]] = set()
        self._unnamed: set[RunId] = set()  # an announcement has named a new epoch, and nobody its start

    def seen(self, run: RunId | None) -> Seen | None:
        """The newest of a run; None when nothing was heard."""
        return None if run is None else self._seen.get(run)

    def said(self, run: RunId | None) -> SeenRun | None:
        """The same, as a birth says it."""
        seen = self.seen(run)
        if seen is None:
            return None
        version = max((one for one in (seen.version, seen.applied) if one is not None), default=None)
        return SeenRun(run=seen.run, epoch=seen.epoch, start=seen.start, round=seen.round, version=version)

    def proof(self, run: RunId | None) -> Proof | None:
        """What the coordinator has signed of it: it tells a true word from a lie where a coordinator is behind."""
        seen = self.seen(run)
        return None if seen is None else seen.proof

    def is_lower(self, state: CoordinatorState) -> bool:
        """Whether a newer start of this coordinator was heard."""
        seen = self._seen.get(state.run)
        return seen is not None and (state.epoch, state.start or 0) < (seen.epoch, seen.start)

    def tell(self, state: CoordinatorState) -> Sequence[Effect]:
        """The log line of a coordinator that is not obeyed, once for each."""
        key = (state.run, state.epoch, state.start or 0)
        if key in self._told:
            return ()
        if len(self._told) >= _TOLD_MAX:
            self._told.clear()
        self._told.add(key)
        why = "a newer start of this run was heard: this is an old copy of its store, or its last will"
        return (ignored("coordinator", run=state.run, epoch=state.epoch, presence=state.presence.value, why=why),)

    def hear(self, state: CoordinatorState, payload: bytes = b"") -> bool:
        """Take what a coordinator says that is not lower; says whether everything must be told to it anew."""
        known = self._seen.get(state.run)
        start = state.start or NO_START
        same = known is not None and state.epoch == known.epoch and (start == known.start or state.run in self._unnamed)
        proof = self._prove_pair(state.run, payload, same=same)
        self._unnamed.discard(state.run)
        if known is None or not same:
            fresh = Seen(run=state.run, epoch=state.epoch, start=start, began_ms=state.began_ms, proof=proof)
            self._seen[state.run] = fresh
            return known is not None
        began_ms = known.began_ms if state.began_ms is None else state.began_ms
        self._seen[state.run] = replace(known, start=start, began_ms=began_ms, proof=proof)
        return False

    def follows(self, announcement: RoundAnnouncement) -> bool | None:
        """Whether an announcement is of the start that was heard; None when only its state can tell."""
        seen, low = self._seen.get(announcement.run), announcement.start_low
        if seen is None or announcement.epoch > seen.epoch:
            return True
        if announcement.epoch < seen.epoch:
            return False
        return True if not seen.start or low is None or low == seen.start & _LOW else None

    def hear_epoch(self, announcement: RoundAnnouncement) -> bool:
        """Take the epoch of an announcement that follows; says whether everything must be told to it anew."""
        known = self._seen.get(announcement.run)
        if known is not None and announcement.epoch <= known.epoch:
            return False
        began_ms, proof = (None, None) if known is None else (known.began_ms, known.proof)
        self._unnamed.add(announcement.run)
        fresh = Seen(run=announcement.run, epoch=announcement.epoch, began_ms=began_ms, proof=proof)
        self._seen[announcement.run] = fresh
        return known is not None

    def begins(self, announcement: RoundAnnouncement) -> bool:
        """Whether it is the first of a start: what came before it may be of a store that is no more."""
        seen = self._seen.get(announcement.run)
        return seen is None or seen.round is None

    def is_replay(self, announcement: RoundAnnouncement) -> bool:
        """Whether a round or a version is older than one of the same start, now or before a restart."""
        seen = self._seen.get(announcement.run)
        if not self._signed or seen is None or announcement.epoch != seen.epoch:
            return False
        older_round = seen.round is not None and announcement.round < seen.round
        return older_round or (seen.version is not None and announcement.model.version < seen.version)

    def obey(self, announcement: RoundAnnouncement, payload: bytes = b"") -> None:
        """Take the round of an announcement whose epoch was taken; within one start the highest counts."""
        seen = self._seen[announcement.run]
        round_id, version = announcement.round, announcement.model.version
        if seen.round is not None and seen.version is not None:
            round_id, version = max(seen.round, round_id), max(seen.version, version)
        proof = self._prove_round(seen.proof, announcement, payload)
        self._seen[announcement.run] = replace(seen, round=round_id, version=version, proof=proof)

    def settle(self, receipt: Receipt, payload: bytes = b"") -> None:
        """Take the version that a final receipt names: a version may be made after which no round is announced."""
        seen, version = self._seen.get(receipt.run), receipt.version
        if seen is None or version is None or (seen.applied is not None and version <= seen.applied):
            return
        proof = seen.proof
        if self._signed and 0 < len(payload) <= PROVEN_RECEIPT_BYTES_MAX:
            proof = replace(proof or Proof(), receipt=payload)
        self._seen[receipt.run] = replace(seen, applied=version, proof=proof)

    def _prove_pair(self, run: RunId, payload: bytes, *, same: bool) -> Proof | None:
        known = self.proof(run)
        if not self._signed or not payload:
            return known
        if same and run not in self._unnamed and known is not None and known.state is not None:
            return known  # the first word of a start says all that its others say
        return replace(known or Proof(), state=payload)

    def _prove_round(self, known: Proof | None, announcement: RoundAnnouncement, payload: bytes) -> Proof | None:
        """The highest round of any pair: a copy with a higher pair may have lower rounds."""
        highest = None if known is None else _round_of(known)
        if not self._signed or not payload or (highest is not None and announcement.round < highest):
            return known
        return replace(known or Proof(), announcement=payload)

    def forget(self, runs: Iterable[RunId]) -> None:
        """These runs had to go."""
        for run in runs:
            self._seen.pop(run, None)
            self._saved.pop(run, None)

    def save(self, run: RunId | None) -> Sequence[Effect]:
        """What must be saved before anything follows from what was heard."""
        seen = self.seen(run)
        if seen is None or seen == self._saved.get(seen.run):
            return ()
        self._saved[seen.run] = seen
        return (SaveSeen(seen=seen),)


class Births:
    """When a birth must be said again only for what the node has seen: a coordinator that is behind learns it so."""

    def __init__(self, rng: Callable[[], float], spread_s: float) -> None:
        self._rng, self._spread_s = rng, spread_s
        self._said: tuple[RunId, int, int] | None = None
        self._doubted: RunId | None = None
        self._due_at: float | None = None
        self._last_at: float | None = None

    def want(self, now: float, spread_s: float = 0.0) -> None:
        """Say it again; the whole fleet does not at the same moment, nor within a time that the coordinator names."""
        if self._due_at is None:
            due_at = now + self._rng() * max(self._spread_s, min(spread_s, BIRTHS_S_MAX))
            self._due_at = due_at if self._last_at is None else max(due_at, self._last_at + BIRTH_S_MIN)

    def doubt(self, state: CoordinatorState, now: float) -> None:
        """A start that is not obeyed has spoken: it may be of a copy, which does not know how far its run has come.

        It learns that only of a birth that is about its own run, whichever is at hand: the other one may be gone.
        """
        if state.presence is Presence.ONLINE:
            self._doubted = state.run
        self.want(now)

    def about(self, run: RunId | None) -> RunId | None:
        """Which run a birth is about, where this one is at hand."""
        return self._doubted or run

    def compare(self, seen: SeenRun | None, now: float, spread_s: float = 0.0) -> None:
        """A start is obeyed: say it again where another one leads than the last birth has said."""
        self._doubted = None
        if seen is not None and (seen.run, seen.epoch, seen.start) != self._said:
            self.want(now, spread_s)

    def said(self, seen: SeenRun | None) -> None:
        """A birth was said, whatever for."""
        self._said = None if seen is None else (seen.run, seen.epoch, seen.start)
        self._due_at = None

    def due(self, now: float) -> bool:
        """Whether it is time, once."""
        if self._due_at is None or now < self._due_at:
            return False
        self._due_at, self._last_at = None, now
        return True

    def deadline(self) -> float | None:
        """When it is due, in monotonic seconds."""
        return self._due_at


def _round_of(proof: Proof) -> RoundId | None:
    try:
        said = None if proof.announcement is None else decode_message(proof.announcement)
    except RemoteProtocolError:
        return None  # kept by another release
    return said.round if isinstance(said, RoundAnnouncement) else None


def ignored(what: str, **fields: object) -> Note:
    """The log line of something that is out of date."""
    return Note(event="out_of_date_ignored", fields={"what": what, **fields})
