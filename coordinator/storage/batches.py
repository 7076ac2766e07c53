"""Masked sums in the coordinator's database: seeds that go to helpers, the batch that is frozen, what helpers answered.

A batch is frozen as long as its version is above the head: the commit of that version is what ends it, and a head that
is undone is made again from the same batch and the same sums, whether its helpers still have them or not. Of one that
need not be audited any more stays how many nodes and helpers it had, for the statement on privacy.
"""

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from coordinator.records import (
    BatchRecord,
    MaskedSeeds,
    Member,
    NodesEvaluation,
    ReleaseLedger,
    ReleaseRecord,
    UpdateRecord,
    Verdict,
)
from federation.documents import read_json
from federation.errors import DamagedStore, LocalProtocolError, RemoteProtocolError
from federation.privacy.taking import Taking
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import EvaluationReport
from federation.protocol.sum_messages import MaskedReport, SumRequest
from federation.protocol.wire import decode_message, encode_message
from federation.storage.columns import blob
from federation.storage.sql import Database, Readable, Row
from federation.types import ModelVersion, NodeId, UpdateId

if TYPE_CHECKING:  # it computes with arrays
    from federation.privacy.metrics import Measured

__all__ = [
    "Batches",
    "MaskedPast",
    "begin_past",
    "delete_batch",
    "delete_seeds",
    "ended_batches",
    "expire_sums",
    "insert_batch",
    "insert_seeds",
    "insert_sum",
    "read_batch",
    "read_frozen",
    "read_past",
    "read_seeds",
    "read_sum_parts",
    "read_sums",
]

_LENGTH_BYTES = 2
_REQUEST_BYTES = 4

_MEMBER = ("update", "node", "num_examples", "staleness")

_PAST = "masked_past"
"""Key in `meta`: `MaskedPast`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedPast:
    """Of the masked versions whose batches are gone, what a statement on privacy is made of.

    Attributes:
        since: The first version of which this is known; an earlier release has kept nothing of those before.
        versions: How many masked ones there were.
        members_least: The fewest nodes of any of their sums; 0 where there was none.
        helpers: How many helpers there were, and how many of them had to answer: each pair once, the newest last.
    """

    since: int
    versions: int = 0
    members_least: int = 0
    helpers: tuple[tuple[int, int], ...] = ()

    def after(self, batch: BatchRecord) -> "MaskedPast":
        """The same with one more."""
        terms, fewest = batch.request.terms, min(len(request.tickets) for request in batch.requests)
        pair = (terms.count, terms.threshold)
        return MaskedPast(
            since=self.since,
            versions=self.versions + 1,
            members_least=min(self.members_least or fewest, fewest),
            helpers=(*(one for one in self.helpers if one != pair), pair),
        )


class Batches(Protocol):
    """What masked sums keep; every method raises `StorageError` where it cannot, and has then changed nothing."""

    def freeze(self, batch: BatchRecord, release: ReleaseRecord | None = None) -> None:
        """Save who makes the next masked version, and what it costs them; the same batch again does nothing."""

    def raise_takings(self, takings: Mapping[NodeId, Taking]) -> None:
        """Take over what a helper knows better of these nodes' parts in noised sums."""

    def begin_noise(self, noise: float) -> None:
        """From now on the coordinator itself adds noise of this deviation, in units of the clip."""

    def take_over(self, ledger: ReleaseLedger) -> None:
        """Begin with what another run over the same data has spent."""

    def drop(self, version: ModelVersion, verdicts: Sequence[Verdict]) -> None:
        """Save that a frozen batch makes no version, and what became of its members."""

    def keep_chunk(self, transfer: UpdateId, start: int, index: int, body: bytes) -> None:
        """Keep one chunk of a sum, which begins at byte ``start``; a restart forgets it."""

    def take_chunks(self, transfer: UpdateId) -> bytes:
        """What has arrived of a sum, unchecked; it is not kept any longer."""

    def forget_chunks(self, transfer: UpdateId) -> None:
        """Nobody waits for this sum any more; one of which nothing is kept does no harm."""

    def save_sum(self, version: ModelVersion, part: int, body: bytes) -> None:
        """Save what a helper has answered for one class of a batch."""

    def keep_report(self, node: NodeId, report: EvaluationReport) -> None:
        """Save a node's masked report, until the evaluation is closed."""

    def reports(self, version: ModelVersion) -> Mapping[NodeId, MaskedReport]:
        """The masked reports on a version, by node."""

    def freeze_evaluation(self, request: SumRequest) -> None:
        """Save which reports are summed, before helpers are asked; the same again does nothing."""

    def evaluation_request(self, version: ModelVersion) -> SumRequest | None:
        """What `freeze_evaluation` has saved; None is nothing."""

    def close_evaluation(self, version: ModelVersion, measured: "Measured | None") -> NodesEvaluation:
        """Save what the sum of the reports says, or that there is none; a closed one is returned as it is.

        Raises:
            LocalProtocolError: No evaluation of this version was reserved with a round.
        """


def insert_seeds(database: Database, record: UpdateRecord) -> None:
    """Keep what goes to the helpers with an update, where there is something; the same again does nothing."""
    if record.seeds is not None:
        boxes = b"".join(len(box).to_bytes(_LENGTH_BYTES, "big") + box for box in record.seeds.boxes)
        row = {"update_id": record.update, "ticket": record.seeds.ticket, "boxes": boxes}
        database.insert("seeds", row, conflict="REPLACE")


def read_seeds(database: Readable, update: UpdateId) -> MaskedSeeds | None:
    """What goes to the helpers with an update; None where it is not masked, or has its verdict."""
    row = database.execute("SELECT ticket, boxes FROM seeds WHERE update_id = ?", update).fetchone()
    if row is None:
        return None
    packed, boxes = blob(row["boxes"]), list[bytes]()
    while packed:
        end = _LENGTH_BYTES + int.from_bytes(packed[:_LENGTH_BYTES], "big")
        boxes.append(packed[_LENGTH_BYTES:end])
        packed = packed[end:]
    return MaskedSeeds(ticket=blob(row["ticket"]), boxes=tuple(boxes))


def delete_seeds(database: Database, update: UpdateId) -> None:
    """An update has its verdict: nobody needs its seeds from here any more."""
    database.execute("DELETE FROM seeds WHERE update_id = ?", update)


def insert_batch(database: Database, batch: BatchRecord) -> None:
    """Freeze the members of a version; the same batch again does nothing.

    Raises:
        LocalProtocolError: Another batch is frozen for this version, or it does not follow the head.
    """
    row = {
        "version": batch.version,
        "request": encode_message(batch.request),
        "members": json.dumps([[getattr(member, name) for name in _MEMBER] for member in batch.members]),
        "reason": batch.reason,
        "others": _packed([encode_message(one) for one in batch.others]) if batch.others else None,
    }
    known = database.execute("SELECT * FROM batches WHERE version = ?", batch.version).fetchone()
    head = database.execute("SELECT MAX(version) FROM versions").fetchone()[0]
    if (known is not None and dict(known) != row) or batch.version != head + 1:
        raise LocalProtocolError(f"a batch for version {batch.version} cannot be frozen over head {head}")
    if known is None:
        database.insert("batches", row)


def read_frozen(database: Readable) -> BatchRecord | None:
    """The batch that is in no version yet."""
    query = "SELECT * FROM batches WHERE version > (SELECT MAX(version) FROM versions)"
    row = database.execute(query).fetchone()
    return None if row is None else _batch(row)


def read_batch(database: Readable, version: ModelVersion) -> BatchRecord | None:
    """The batch of a version; None where it was not made of one, or that is too long ago."""
    row = database.execute("SELECT * FROM batches WHERE version = ?", version).fetchone()
    return None if row is None else _batch(row)


def delete_batch(database: Database, version: ModelVersion) -> None:
    """A batch makes no version: it goes with what helpers answered."""
    for table in ("batches", "sums"):
        database.execute(f"DELETE FROM {table} WHERE version = ?", version)  # noqa: S608 - our own names


def insert_sum(database: Database, version: ModelVersion, part: int, body: bytes) -> None:
    """Keep what a helper answered for one class."""
    row = {"version": version, "part": part, "digest": payload_digest(body), "body": body}
    database.insert("sums", row, conflict="REPLACE")


def read_sum_parts(database: Readable, version: ModelVersion) -> frozenset[int]:
    """The classes whose sums are here."""
    rows = database.execute("SELECT part FROM sums WHERE version = ?", version)
    return frozenset(int(row["part"]) for row in rows)


def read_sums(database: Readable, version: ModelVersion) -> list[bytes]:
    """What helpers answered for a version, by class.

    Raises:
        DamagedStore: One of them is not what was written.
    """
    found = []
    for row in database.execute("SELECT * FROM sums WHERE version = ? ORDER BY part", version):
        if payload_digest(row["body"]) != row["digest"]:
            raise DamagedStore(f"the sum of class {row['part']} of version {version} is damaged")
        found.append(blob(row["body"]))
    return found


def begin_past(database: Database) -> None:
    """Know of every version from the first one on whether it was masked; in the transaction of version 0."""
    _write_past(database, MaskedPast(since=1))


def read_past(database: Readable) -> MaskedPast | None:
    """What is known of the masked versions whose batches are gone; None where an earlier release has kept nothing.

    Raises:
        DamagedStore: It is not what was written.
    """
    row = database.execute("SELECT value FROM meta WHERE key = ?", _PAST).fetchone()
    if row is None:
        return None
    try:
        found = read_json(row["value"])
        past = MaskedPast(**found | {"helpers": tuple((count, needed) for count, needed in found["helpers"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedStore(f"what is kept of former masked versions is damaged: {error}") from error
    said = (past.since, past.versions, past.members_least, *itertools.chain(*past.helpers))
    if not all(type(number) is int and number >= 0 for number in said):
        raise DamagedStore("what is kept of former masked versions is damaged: a number is none")
    return past


def _write_past(database: Database, past: MaskedPast) -> None:
    database.insert("meta", {"key": _PAST, "value": json.dumps(asdict(past))}, conflict="REPLACE")


def _past(database: Readable) -> MaskedPast | None:
    """The same where it is whole: a run does not end for what a statement is made of. The audit sees the damage."""
    try:
        return read_past(database)
    except DamagedStore:
        return None


def ended_batches(database: Readable, version: int) -> Sequence[Row]:
    """The batches of this version, and of those before it."""
    return database.execute("SELECT * FROM batches WHERE version <= ? ORDER BY version", version).fetchall()


def expire_sums(database: Database, version: int, rows: Sequence[Row]) -> None:
    """The sums of these batches need not be audited any more: they are all up to this version, and at least one.

    In a transaction, which sums anew what the run says of itself.
    """
    past = _past(database) or MaskedPast(since=rows[0]["version"])
    for row in rows:
        with contextlib.suppress(DamagedStore):
            past = past.after(_batch(row))
    _write_past(database, past)
    for table in ("batches", "sums"):
        database.execute(f"DELETE FROM {table} WHERE version <= ?", version)  # noqa: S608 - our own names


def _batch(row: Row) -> BatchRecord:
    request = _request(row, blob(row["request"]))
    others = tuple(_request(row, body) for body in _unpacked(bytes(row["others"] or b"")))
    members = tuple(
        Member(update=UpdateId(update), node=NodeId(node), num_examples=examples, staleness=staleness)
        for update, node, examples, staleness in read_json(row["members"])
    )
    return BatchRecord(
        version=ModelVersion(row["version"]),
        request=request,
        members=members,
        reason=str(row["reason"]),
        others=others,
    )


def _request(row: Row, body: bytes) -> SumRequest:
    try:
        request = decode_message(body)
    except RemoteProtocolError as error:
        raise DamagedStore(f"the batch of version {row['version']} is damaged: {error}") from error
    if not isinstance(request, SumRequest):
        raise DamagedStore(f"the batch of version {row['version']} is damaged")
    return request


def _packed(bodies: Sequence[bytes]) -> bytes:
    return b"".join(len(body).to_bytes(_REQUEST_BYTES, "big") + body for body in bodies)


def _unpacked(packed: bytes) -> Iterator[bytes]:
    while packed:
        end = _REQUEST_BYTES + int.from_bytes(packed[:_REQUEST_BYTES], "big")
        yield packed[_REQUEST_BYTES:end]
        packed = packed[end:]
