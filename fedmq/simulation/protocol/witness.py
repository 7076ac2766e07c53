"""What all nodes have made and seen, of whichever run and coordinator: the checkers of all coordinators ask it."""

from collections import Counter
from collections.abc import Collection, Iterable

from edge_node.records import OutboxEntry
from federation.protocol.messages import RoundAnnouncement
from federation.types import Digest, ModelVersion, NodeId, RoundId, RunId, UpdateId

__all__ = ["Sent", "Witness"]

Sent = tuple[Digest, int]
"""What a node has sent: the digest of the frame and its examples."""

Base = tuple[ModelVersion, Digest]
"""The version that a node has trained from."""

_Word = tuple[RunId, RoundId, ModelVersion, Digest]


class Witness:
    """The nodes' side of the ledger.

    An update's id is unique within its run only, and one id may have several makers, with other bytes each, where a
    node has a twin.

    Attributes:
        identities: What came of identities that went backwards, or were there twice, by name.
        helpers_lost: Whether a helper of masked sums has lost its state folder.
        expelled: Nodes that were shut out of the federation.
    """

    def __init__(self, violations: list[str]) -> None:
        self._violations = violations
        self.identities: Counter[str] = Counter()
        self.helpers_lost = False
        self.expelled: set[NodeId] = set()
        self._makers: dict[tuple[RunId, UpdateId], set[str]] = {}
        self._sent: dict[tuple[RunId, UpdateId], set[Sent]] = {}
        self._bad: dict[tuple[RunId, UpdateId], set[Sent]] = {}
        self._bases: dict[tuple[RunId, UpdateId], set[Base]] = {}
        self._seen: set[_Word] = set()
        self._told: dict[tuple[RunId, UpdateId], set[int]] = {}

    @property
    def updates(self) -> int:
        """Updates that nodes have made."""
        return len(self._sent)

    @property
    def bad_updates(self) -> int:
        """Updates that no honest node would have sent."""
        return len(self._bad)

    # --- the nodes --------------------------------------------------------------------------------------------------

    def node_sees(self, announcement: RoundAnnouncement) -> None:
        """An announcement has reached a node."""
        model = announcement.model
        self._seen.add((announcement.run, announcement.round, model.version, model.digest))

    def has(self, maker: str, entries: Iterable[OutboxEntry], bad: Collection[Sent] = ()) -> None:
        """These are in a node's outbox, on its disk; bad is what it has made and may not be stored."""
        for entry in entries:
            offer = entry.offer
            update, sent = (offer.run, offer.update), (offer.payload_digest, offer.num_examples)
            self._makers.setdefault(update, set()).add(maker)
            self._sent.setdefault(update, set()).add(sent)
            self._bases.setdefault(update, set()).add((offer.base_version, offer.base_digest))
            if sent in bad:
                self._bad.setdefault(update, set()).add(sent)

    def wiped(self, maker: str) -> None:
        """A node's state folder is lost: nobody owes anything for what was in no other place."""
        for makers in self._makers.values():
            makers.discard(maker)

    def too_early(self, name: str, changes: int) -> None:
        """Something was said before what it follows from was on the disk."""
        self._violations.append(f"save, then say: {name} went on with {changes} changes that a power cut would undo")

    # --- the coordinators -------------------------------------------------------------------------------------------

    def told(self, run: RunId, update: UpdateId, checker: int) -> None:
        """A coordinator gives a final verdict; its checker says so."""
        self._told.setdefault((run, update), set()).add(checker)

    def told_elsewhere(self, run: RunId, update: UpdateId, checker: int) -> bool:
        """Whether the coordinator of another store of the run has given a final verdict."""
        return bool(self._told.get((run, update), set()) - {checker})

    # --- what checkers ask ------------------------------------------------------------------------------------------

    def has_seen(self, run: RunId, round_id: RoundId, version: ModelVersion, digest: Digest) -> bool:
        """Whether any node has seen this announcement."""
        return (run, round_id, version, digest) in self._seen

    def has_made(self, run: RunId, update: UpdateId, sent: Sent) -> bool:
        """Whether any node has ever made this for this run."""
        return sent in self._sent.get((run, update), ())

    def variants(self, run: RunId, update: UpdateId) -> int:
        """So many different updates have this id: several where a node has a twin."""
        return len(self._sent.get((run, update), ()))

    def bases(self, run: RunId, update: UpdateId) -> Collection[Base]:
        """What this was trained from; several where a node has a twin."""
        return self._bases.get((run, update), ())

    def is_bad(self, run: RunId, update: UpdateId, sent: Sent | None = None) -> bool:
        """Whether this, or anything of this id, is what no honest node would have sent."""
        known = self._bad.get((run, update), set())
        return bool(known) if sent is None else sent in known

    def owed(self, run: RunId, lost: Collection[str]) -> Iterable[UpdateId]:
        """The updates of a run that somebody has made who is not lost."""
        return [
            update
            for (of, update), makers in self._makers.items()
            if of == run and any(one not in lost for one in makers)
        ]

    def makers(self, run: RunId, update: UpdateId) -> str:
        """Who has made an update, for people."""
        return ", ".join(sorted(self._makers.get((run, update), ()))) or "nobody"
