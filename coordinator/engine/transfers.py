"""Updates on their way: of large ones a bitmap per transfer, never a body; and those that are to be offered again."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from coordinator.engine.masked.holdings import seeds_of
from coordinator.engine.registry import NODES_MAX
from coordinator.engine.round import FETCHED_BYTES_MAX
from coordinator.engine.timers import Timers
from coordinator.records import TransferRecord, UpdateRecord, believable
from federation.protocol.chunking import Bitmap, chunk_count, chunk_slice
from federation.protocol.claims import claim_of
from federation.protocol.messages import Grant, RetryAfter, UpdateOffer
from federation.types import NodeId, UpdateId

TRANSFER_IDLE_S = 600.0
"""Connected seconds without a new chunk after which a transfer is dropped; its node offers again and starts over."""

REGRANTS_PER_S = 0.5
"""Grants that one transfer gets for repeated offers, each second."""

REGRANTS_BURST = 10
"""And so many at once."""


ABSENT_S = 30.0
"""Connected seconds after which a node that is gone gives its transfer's place to one that waits."""

CHUNKS_UNDER_WAY_MAX = 512
"""Chunks that all transfers together may have under way: half of what Mosquitto queues for us by default.

A message beyond its queue's end is acknowledged and dropped.
"""


UNHEARD_MAX = 8
"""Updates of one node that are asked for again at once."""

UNHEARD_RETRY_S = 1.0
"""The first of them is asked for after so long, in seconds: nodes wait no less."""

UNHEARD_PER_S = 500.0
"""Of more, so many are asked for each second."""


class Arrival(Enum):
    """What one chunk means."""

    FOREIGN = auto()
    """It does not belong to what was granted."""
    KNOWN = auto()
    """It is on disk already."""
    NEW = auto()
    """It must be stored."""


@dataclass(slots=True)
class Transfer:
    """One large update on its way; ``touched`` is when something last arrived, in connected seconds."""

    record: UpdateRecord
    chunk_bytes: int
    bitmap: Bitmap
    window: int = 0
    since_grant: int = 0
    touched: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every chunk is on disk."""
        return self.bitmap.complete

    @property
    def wants_grant(self) -> bool:
        """Whether half of the window has arrived since the last grant."""
        return self.since_grant * 2 >= self.window

    def matches(self, offer: UpdateOffer) -> bool:
        """Whether an offer speaks of the same bytes: a node that lost its disk may have trained the round again."""
        return (offer.payload_digest, offer.payload_bytes, offer.chunk_bytes) == (
            self.record.payload_digest,
            self.record.payload_bytes,
            self.chunk_bytes,
        )

    def arrival(self, index: int, body: bytes) -> Arrival:
        """Classify a chunk by its index and size."""
        if not 0 <= index < self.bitmap.count:
            return Arrival.FOREIGN
        place = chunk_slice(index, self.record.payload_bytes, self.chunk_bytes)
        if len(body) != place.stop - place.start:
            return Arrival.FOREIGN
        return Arrival.KNOWN if index in self.bitmap else Arrival.NEW

    def take(self, index: int) -> None:
        """A chunk is on disk."""
        self.bitmap.add(index)
        self.since_grant += 1

    def grant(self, window: int) -> Grant:
        """What the node is told: what has arrived, and how many of the others it may have under way."""
        self.since_grant, self.window = 0, window
        return Grant(update=self.record.update, bitmap=self.bitmap.to_bytes(), window=window)


class Transfers:
    """Open transfers by update id, oldest first, and when each is given up."""

    def __init__(self, recovered: tuple[TransferRecord, ...]) -> None:
        self._open: dict[UpdateId, Transfer] = {}
        self._idle: Timers[UpdateId] = Timers()
        self._dropping: dict[UpdateId, bool] = {}
        for saved in recovered:
            self.open(saved, 0.0)

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Transfer]:
        """Those that are open now, oldest first; they may be closed meanwhile."""
        return iter(tuple(self._open.values()))

    def get(self, update: UpdateId) -> Transfer | None:
        """The transfer of an update."""
        return self._open.get(update)

    def window(self, window_max: int) -> int:
        """Chunks that each node may have under way, so that all together stay within `CHUNKS_UNDER_WAY_MAX`."""
        return max(1, min(window_max, CHUNKS_UNDER_WAY_MAX // max(1, len(self._open))))

    def open(self, saved: TransferRecord, now: float) -> Transfer:
        """Begin or go on with a transfer; ``now`` is in connected seconds."""
        bitmap = Bitmap(chunk_count(saved.record.payload_bytes, saved.chunk_bytes))
        for index in sorted(saved.arrived):
            bitmap.add(index)
        transfer = Transfer(record=saved.record, chunk_bytes=saved.chunk_bytes, bitmap=bitmap)
        self._open[saved.record.update] = transfer
        self.dropped(saved.record.update)
        self.touch(saved.record.update, now)
        return transfer

    def touch(self, update: UpdateId, now: float) -> None:
        """Something arrived at ``now`` (connected seconds)."""
        self._open[update].touched = now
        self._idle.set(update, now + TRANSFER_IDLE_S)

    def close(self, update: UpdateId) -> bool:
        """Forget a transfer; says whether there was one."""
        self._idle.cancel(update)
        return self._open.pop(update, None) is not None

    def drop(self, update: UpdateId) -> UpdateId:
        """The disk is asked to forget it, too: until it has answered, that may have to be asked again."""
        self._dropping[update] = False
        return update

    def dropped(self, update: UpdateId) -> None:
        """The disk has forgotten it, or has it again."""
        self._dropping.pop(update, None)

    def storage_failed(self) -> None:
        """What the disk was asked to forget is still there."""
        self._dropping = dict.fromkeys(self._dropping, True)

    def left(self) -> list[UpdateId]:
        """What the disk must be asked to forget once more."""
        left = [update for update, failed in self._dropping.items() if failed]
        self._dropping.update(dict.fromkeys(left, False))
        return left

    def quiet(self, now: float, lease_s: float, is_present: Callable[[NodeId], bool]) -> Iterator[Transfer]:
        """Those that wait for chunks which have not come for a lease, of a node that is gone sooner."""
        for transfer in self:
            patience_s = lease_s if is_present(transfer.record.node) else min(lease_s, ABSENT_S)
            if not transfer.complete and now - transfer.touched >= patience_s:
                yield transfer

    def next_timer(self) -> float | None:
        """When the next transfer is given up, in connected seconds."""
        return self._idle.next()

    def idle(self, now: float) -> list[Transfer]:
        """Transfers to give up at ``now`` (connected seconds); the caller closes them."""
        return [self._open[update] for update in self._idle.pop_due(now)]


def record_of(node: NodeId, offer: UpdateOffer, gateways: Collection[NodeId] = ()) -> UpdateRecord:
    """What is kept of an offer; with gateways also what it claims: its members, or of any other node itself."""
    own = claim_of(offer.update) if gateways else b""
    return UpdateRecord(
        update=offer.update,
        node=node,
        round=offer.round,
        base_version=offer.base_version,
        num_examples=offer.num_examples,
        codec=offer.codec,
        payload_bytes=offer.payload_bytes,
        payload_digest=offer.payload_digest,
        fetched_bytes=min(offer.fetched_bytes, FETCHED_BYTES_MAX),  # a refused one is kept, too
        train_s=offer.train_s,
        metrics=believable(offer.metrics),
        seeds=seeds_of(offer),
        members=(offer.members or b"") if node in gateways else own,
    )


class Unheard:
    """What nodes have said of their updates and nobody has heard: they are to offer them again, and not all at once.

    Else they would only after a back-off, or, where chunks are lost, when they have waited long for the next grant.
    """

    def __init__(self) -> None:
        self._updates: dict[NodeId, dict[UpdateId, None]] = {}

    def add(self, node: NodeId, update: UpdateId) -> None:
        """An offer, or what was sent after one, is lost."""
        if node in self._updates or len(self._updates) < NODES_MAX:
            mine = self._updates.setdefault(node, {})
            if len(mine) < UNHEARD_MAX:
                mine[update] = None

    def forget(self, node: NodeId) -> None:
        """A node has left the federation."""
        self._updates.pop(node, None)

    def take(self) -> list[tuple[NodeId, RetryAfter]]:
        """Each node's word for each of its updates; from now on there are none."""
        unheard, self._updates = self._updates, {}
        updates = [(node, update) for node, mine in unheard.items() for update in mine]
        return [
            (node, RetryAfter(update=update, seconds=UNHEARD_RETRY_S + count / UNHEARD_PER_S))
            for count, (node, update) in enumerate(updates)
        ]
