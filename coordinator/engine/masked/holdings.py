"""Which helpers hold the seeds of which updates, and so which updates can be in a batch together."""

from collections import Counter
from collections.abc import Collection, Iterable

from coordinator.engine.round import ACCEPTED, Facts, Judgement, Ruling
from coordinator.engine.settings import MaskingSettings
from coordinator.records import BatchRecord, MaskedSeeds, UpdateRecord
from federation.privacy.terms import read_ticket, terms_digest
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import Reason, UpdateOffer
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import Digest, HelperId, NodeId, UpdateId

__all__ = ["Holdings", "seeds_of"]


def seeds_of(offer: UpdateOffer) -> MaskedSeeds | None:
    """What came with a masked update for the helpers."""
    return None if offer.ticket is None else MaskedSeeds(ticket=offer.ticket, boxes=offer.boxes or ())


class Holdings:
    """Shared state of masked sums; without them nothing is ever in it.

    Attributes:
        terms: Under which the head's nodes mask; None where they do not.
        batch: The one that is frozen; its members stay in the buffer, and are in no other one.
        admits: Whether a node's update may be in the next batch, as far as noise is concerned.
        resting: Nodes that may be in a later one, in the order in which they began to rest.
    """

    def __init__(
        self, settings: MaskingSettings | None, terms: PrivacyTerms | None = None, batch: BatchRecord | None = None
    ) -> None:
        self.terms = terms
        self.batch = batch
        self.admits = _everybody
        self.resting: dict[NodeId, None] = {}
        self._known: dict[Digest, PrivacyTerms] = {}
        self._lacking: dict[HelperId, dict[UpdateId, UpdateRecord]] = {}
        self._unsaid: dict[HelperId, dict[UpdateId, UpdateRecord]] = {}
        self._needed: frozenset[HelperId] = frozenset()
        self._terms_of: dict[UpdateId, Digest] = {}
        self._sharing: Counter[Digest] = Counter()
        self._ready: dict[Digest, dict[UpdateId, UpdateRecord]] = {}
        if settings is not None:
            self._lacking = {helper: {} for helper in settings.helpers}
            self._unsaid = {helper: {} for helper in settings.helpers}
            self._needed = frozenset(settings.helpers)
        self._know(terms)

    # --- terms ------------------------------------------------------------------------------------------------------

    def adopt(self, terms: PrivacyTerms | None) -> None:
        """A new head: its nodes mask under these terms, and those of former heads are still good."""
        self.terms = terms
        self._know(terms)

    def known(self, digest: Digest) -> PrivacyTerms | None:
        """The terms of this digest, where updates under them may still count."""
        return self._known.get(digest)

    def forget_terms(self, kept: int) -> None:
        """Only so many of the newest terms can still be those of an update."""
        while len(self._known) > max(1, kept):
            del self._known[next(iter(self._known))]

    def _know(self, terms: PrivacyTerms | None) -> None:
        if terms is not None:
            digest = terms_digest(terms)
            self._known.pop(digest, None)
            self._known[digest] = terms

    def judge(self, offer: UpdateOffer, facts: Facts) -> Judgement:
        """What to do about an update that has passed all else.

        One that was asked for by a former head has the terms of that one, whatever model its node had; where they are
        not known any more, since they are too old or this process is new, it is late.
        """
        reason = self.objection(offer)
        if reason is Reason.NONE:
            return ACCEPTED
        seeds = seeds_of(offer)
        ticket = None if seeds is None else read_ticket(seeds.ticket)
        late = ticket is not None and ticket.terms not in self._known and (facts.asked or 0) < facts.head
        return Judgement(ruling=Ruling.STALE if late else Ruling.REFUSED, reason=reason)

    @property
    def holds_former(self) -> bool:
        """Whether there are updates under other terms than the head's."""
        return bool(self._sharing) and not (
            len(self._sharing) == 1 and self.terms is not None and terms_digest(self.terms) in self._sharing
        )

    def stranded(self, least: int) -> list[UpdateId]:
        """Updates of former terms, in no batch, that are too few for one: as long as no further one comes, for ever."""
        now = None if self.terms is None else terms_digest(self.terms)
        if not self._sharing.keys() - {now}:
            return []
        frozen = frozenset[UpdateId]() if self.batch is None else self.batch.updates
        free = {update: digest for update, digest in self._terms_of.items() if update not in frozen and digest != now}
        counts = Counter(free.values())
        return [update for update, digest in free.items() if digest not in self._known or counts[digest] < least]

    def objection(self, offer: UpdateOffer) -> Reason:
        """Why an update cannot be in any batch, or ``Reason.NONE``; what only helpers can judge is left to them."""
        seeds = seeds_of(offer)
        if seeds is None or not self._lacking:
            return Reason.NONE if seeds is None and not self._lacking else Reason.TERMS
        ticket = read_ticket(seeds.ticket)
        if ticket is None or ticket.terms not in self._known or len(seeds.boxes) != len(self._lacking):
            return Reason.TERMS
        said = (ticket.run, ticket.update, ticket.base_version, ticket.base_digest, ticket.payload_digest)
        if said != (offer.run, offer.update, offer.base_version, offer.base_digest, offer.payload_digest):
            return Reason.TERMS
        if ticket.boxes != tuple(map(payload_digest, seeds.boxes)):
            return Reason.DIGEST_MISMATCH
        return Reason.NONE if offer.num_examples == 1 else Reason.BAD_NUM_EXAMPLES

    # --- updates ----------------------------------------------------------------------------------------------------

    def add(self, record: UpdateRecord) -> None:
        """A stored update: every helper lacks its seeds, as far as is known."""
        ticket = None if record.seeds is None or not self._lacking else read_ticket(record.seeds.ticket)
        if ticket is None:
            return
        self._terms_of[record.update] = ticket.terms
        self._sharing[ticket.terms] += 1
        for helper in self._lacking:
            self._lack(helper, record)

    def remove(self, update: UpdateId) -> None:
        """It has come to its end."""
        digest = self._terms_of.pop(update, None)
        if digest is None:
            return
        self._sharing -= Counter({digest: 1})
        for kept in (*self._lacking.values(), *self._unsaid.values()):
            kept.pop(update, None)
        self._drop_ready(update, digest)

    def hold(self, helper: HelperId, update: UpdateId) -> None:
        """A helper holds its seeds."""
        record = self._lacking[helper].pop(update, None)
        self._unsaid[helper].pop(update, None)
        if record is not None:
            self._consider(record)

    def lose(self, helper: HelperId, records: Iterable[UpdateRecord]) -> None:
        """Whatever a helper held is not known any more: it must be asked anew."""
        for record in records:
            digest = self._terms_of.get(record.update)
            if digest is not None:
                self._lack(helper, record)
                if helper in self._needed:
                    self._drop_ready(record.update, digest)

    def need(self, helpers: Collection[HelperId], records: Iterable[UpdateRecord]) -> None:
        """A batch is made only of what all of these hold."""
        if self._needed != frozenset(helpers):
            self._needed = frozenset(helpers)
            self._ready.clear()
            for record in records:
                if record.update in self._terms_of:
                    self._consider(record)

    def owed(self, helper: HelperId, *, all_of_them: bool) -> list[UpdateRecord]:
        """The updates whose seeds a helper is to be sent: all that it lacks, or those that it was never sent."""
        lacking, unsaid = self._lacking[helper], self._unsaid[helper]
        found = list((lacking if all_of_them else unsaid).values())
        unsaid.clear()
        return found

    def lacks(self, helper: HelperId) -> int:
        """How many these are."""
        return len(self._lacking[helper])

    # --- batches ----------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> int:
        """How many updates can be in one batch now."""
        if self.admits is _everybody:
            return max(map(len, self._ready.values()), default=0)
        return max((len(self._admitted(ready.values())) for ready in self._ready.values()), default=0)

    @property
    def unheld(self) -> int:
        """How many wait for a helper."""
        if not self._needed:
            return 0
        frozen = frozenset[UpdateId]() if self.batch is None else self.batch.updates
        lacking = {update for helper in self._needed for update in self._lacking[helper]}
        return len(lacking - frozen)

    def choose(self, most: int) -> tuple[PrivacyTerms, list[UpdateRecord]]:
        """The next batch: the most that share their terms, at most so many of them, first come first."""
        admitted = {digest: self._admitted(ready.values()) for digest, ready in self._ready.items()}
        digest, records = max(admitted.items(), key=lambda one: len(one[1]))
        return self._known[digest], records[:most]

    def _admitted(self, records: Iterable[UpdateRecord]) -> list[UpdateRecord]:
        return [record for record in records if self.admits(record.node)]

    def free(self, records: Iterable[UpdateRecord]) -> list[UpdateRecord]:
        """Those that are in no frozen batch: what is frozen ends with its batch, and not before."""
        return [record for record in records if self.batch is None or record.update not in self.batch.updates]

    def freeze(self, batch: BatchRecord) -> None:
        """These are the members; they can be in no other batch."""
        self.batch = batch
        for update in batch.updates:
            digest = self._terms_of.get(update)
            if digest is not None:
                self._drop_ready(update, digest)

    def thaw(self) -> None:
        """The batch has come to its end; its members go with their verdicts."""
        self.batch = None

    def _lack(self, helper: HelperId, record: UpdateRecord) -> None:
        self._lacking[helper][record.update] = record
        self._unsaid[helper][record.update] = record

    def _consider(self, record: UpdateRecord) -> None:
        update, digest = record.update, self._terms_of[record.update]
        frozen = self.batch is not None and update in self.batch.updates
        lacking = any(update in self._lacking[helper] for helper in self._needed)
        if not frozen and not lacking and digest in self._known:
            self._ready.setdefault(digest, {})[update] = record

    def _drop_ready(self, update: UpdateId, digest: Digest) -> None:
        ready = self._ready.get(digest, {})
        ready.pop(update, None)
        if not ready:
            self._ready.pop(digest, None)


def _everybody(node: NodeId) -> bool:
    """Without noise nobody rests."""
    del node
    return True
