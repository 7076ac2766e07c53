"""The newest that a node has heard of its coordinator: what is older is not obeyed, ever (FED-79).

A signature proves who has said something, not when. A broker can repeat what was once signed, so where messages are
signed the node keeps the newest run, epoch, round and version on disk.
"""

from collections.abc import Sequence
from dataclasses import replace

from edge_node.engine.effects import Effect, Note, SaveSeen
from edge_node.records import Seen
from federation.protocol.messages import CoordinatorState, RoundAnnouncement
from federation.types import Epoch, RunId

__all__ = ["Fence", "ignored"]


class Fence:
    """Compares what is heard with what was heard.

    Args:
        seen: What was saved; None is nothing.
        durable: Whether messages are signed: then what is old stays refused after a restart.
    """

    def __init__(self, seen: Seen | None, *, durable: bool) -> None:
        self._durable = durable
        self._saved = self._seen = seen if durable else None

    def epoch(self, run: RunId | None) -> Epoch | None:
        """The highest epoch of a run; None when none was heard."""
        return self._seen.epoch if self._seen is not None and self._seen.run == run else None

    def is_older_run(self, state: CoordinatorState) -> bool:
        """Whether another run's coordinator is one of a run before this one: its word would cost the outbox."""
        known = None if self._seen is None else self._seen.began_ms
        return self._durable and known is not None and (state.began_ms is None or state.began_ms <= known)

    def take(self, run: RunId, epoch: Epoch, began_ms: int | None = None) -> bool:
        """Take an epoch of the run at hand; says whether it is at least the highest one."""
        highest, seen = self.epoch(run), self._seen
        if highest is not None and epoch < highest:
            return False
        if began_ms is None and seen is not None:
            began_ms = seen.began_ms
        if seen is None or highest is None:
            self._seen = Seen(run=run, epoch=epoch, began_ms=began_ms)
        else:
            self._seen = replace(seen, epoch=epoch, began_ms=began_ms)
        return True

    def is_replay(self, announcement: RoundAnnouncement) -> bool:
        """Whether a round or a version is older than one that was heard, now or before a restart."""
        seen = self._seen
        if not self._durable or seen is None or seen.run != announcement.run:
            return False
        older_round = seen.round is not None and announcement.round < seen.round
        return older_round or (seen.version is not None and announcement.model.version < seen.version)

    def obey(self, announcement: RoundAnnouncement) -> None:
        """Take the round of an announcement whose epoch was taken."""
        if self._seen is not None:
            self._seen = replace(self._seen, round=announcement.round, version=announcement.model.version)

    def save(self) -> Sequence[Effect]:
        """What must be saved before anything follows from what was heard."""
        if not self._durable or self._seen is None or self._seen == self._saved:
            return ()
        self._saved = self._seen
        return (SaveSeen(seen=self._seen),)


def ignored(what: str, **fields: object) -> Note:
    """The log line of something that is signed, and out of date."""
    return Note(event="out_of_date_ignored", fields={"what": what, **fields})
