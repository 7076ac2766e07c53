"""Compacted updates: thousands in one row of the database, and what can still be asked about each of them.

A block has a prefix of the updates in order of arrival. Of each it keeps its round, the number of its node and its
fate; the fates of a block are few, so each is written once. Rounds are differences, and all numbers are compressed.
What a verdict says is exact for ever: a block answers an offer that comes again as the row has answered it.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain, pairwise
from typing import Final, NamedTuple

from coordinator.records import UpdateRecord, Verdict
from coordinator.storage.schema import update_row
from coordinator.storage.store import UpdateRow
from federation.documents import read_json
from federation.errors import DamagedStore
from federation.protocol.claims import number_of
from federation.protocol.limits import INT32_MAX
from federation.protocol.messages import Reason, ReceiptStatus
from federation.storage.sql import Readable, Row
from federation.types import Digest, ModelVersion, NodeId, RoundId, UpdateId, update_id

__all__ = [
    "BLOCK_UPDATES_MAX",
    "Entry",
    "Fate",
    "claimed_verdict",
    "compacted_until",
    "compacted_verdict",
    "node_names",
    "pack",
    "read_updates",
    "unpack",
]

BLOCK_UPDATES_MAX: Final = 4096
"""Updates in one block: some 10 KB, and as many as one commit compacts."""

_FATES_BYTES_MAX: Final = 1 << 20
_UNTIL = "SELECT COALESCE(MAX(seq_last), 0) FROM compacted_updates"
_BLOCKS = "SELECT * FROM compacted_updates WHERE seq_first > ? ORDER BY block"
_WITH_ROUND = "SELECT * FROM compacted_updates WHERE round_max >= ? AND round_min <= ?"
_ROWS = f"SELECT updates.*, ({_UNTIL}) AS until FROM updates WHERE seq > ? ORDER BY seq"  # noqa: S608 - our own words
_CLAIM = "SELECT * FROM compacted_claims JOIN compacted_updates USING (block) WHERE claim = ?"


class Fate(NamedTuple):
    """What became of an update, and from which version it was trained.

    Attributes:
        status, reason, version: Of its verdict.
        staleness: Versions that it lagged behind when it was applied.
        judged_at: The version at which it was judged; None where it is not known.
        base_version: The version that it was trained from.
    """

    status: str
    reason: str
    version: int | None
    staleness: int
    judged_at: int | None
    base_version: int


class Entry(NamedTuple):
    """One update of a block: its round, the number of its node, its fate."""

    round: int
    number: int
    fate: Fate


def pack(entries: Sequence[Entry]) -> Mapping[str, bytes]:
    """The columns ``fates`` and ``body`` of a block with these updates, in order of arrival."""
    fates = {fate: place for place, fate in enumerate(dict.fromkeys(entry.fate for entry in entries))}
    rounds = [entry.round for entry in entries]
    steps = (after - before for before, after in pairwise([0, *rounds]))
    numbers = chain(steps, (entry.number for entry in entries), (fates[entry.fate] for entry in entries))
    body = struct.pack(_layout(len(entries)), *numbers)
    return {"fates": zlib.compress(json.dumps(list(fates)).encode()), "body": zlib.compress(body)}


def unpack(block: Row) -> Iterator[Entry]:
    """The updates of a block, in order of arrival.

    Raises:
        DamagedStore: It is not what was written.
    """
    count = int(block["updates"])
    try:
        numbers = struct.unpack(_layout(count), _expand(block["body"], struct.calcsize(_layout(count))))
        fates = [Fate(*fate) for fate in read_json(_expand(block["fates"], _FATES_BYTES_MAX))]
        rounds, places = accumulate(numbers[:count]), numbers[2 * count :]
        found = [Entry(*each) for each in zip(rounds, numbers[count : 2 * count], map(fates.__getitem__, places))]  # noqa: B905 - all have this length
    except (zlib.error, struct.error, ValueError, TypeError, IndexError) as error:
        raise DamagedStore(f"the compacted updates of block {block['block']} are damaged: {error}") from error
    yield from found


def _layout(count: int) -> str:
    return f"<{count}q{2 * count}I"


def _expand(body: bytes, most: int) -> bytes:
    return zlib.decompressobj().decompress(bytes(body), most)


def compacted_until(database: Readable) -> int:
    """The number of arrival up to which all updates are compacted; 0 is none."""
    return int(database.execute(_UNTIL).fetchone()[0])


def node_names(database: Readable) -> Mapping[int, NodeId]:
    """The nodes that blocks name, by number."""
    rows = database.execute("SELECT number, node FROM compacted_nodes")
    return {row["number"]: NodeId(row["node"]) for row in rows}


def compacted_verdict(database: Readable, update: UpdateId) -> Verdict | None:
    """What became of an update that is compacted; None where it is not.

    Raises:
        DamagedStore: The block that may have it is damaged.
    """
    number, _, node = update.partition("-")
    if not (number.isascii() and number.isdecimal()) or int(number) > INT32_MAX or number != str(int(number)):
        return None
    round_id = int(number)
    for block in database.execute(_WITH_ROUND, round_id, round_id).fetchall():
        known = database.execute("SELECT number FROM compacted_nodes WHERE node = ?", node).fetchone()
        for entry in () if known is None else unpack(block):
            if entry.round == round_id and entry.number == known["number"]:
                return _verdict(update, NodeId(node), entry.fate)
    return None


def claimed_verdict(database: Readable, claim: bytes) -> Verdict | None:
    """What became of the compacted update that makes a claim; None where none does.

    Raises:
        DamagedStore: The block that has it is damaged.
    """
    block = database.execute(_CLAIM, number_of(claim)).fetchone()
    if block is None:
        return None
    entries = list(unpack(block))
    if not 0 <= block["place"] < len(entries):
        raise DamagedStore(f"a claim names no update of block {block['block']}")
    entry = entries[block["place"]]
    row = database.execute("SELECT node FROM compacted_nodes WHERE number = ?", entry.number).fetchone()
    node = NodeId("" if row is None else row["node"])
    return _verdict(update_id(RoundId(entry.round), node), node, entry.fate)


def read_updates(database: Readable) -> Iterator[UpdateRow]:
    """All updates in order of arrival, while they may be compacted; of a compacted one the row is not whole."""
    until = 0
    while True:
        names = node_names(database)
        for block in database.execute(_BLOCKS, until):
            for entry in unpack(block):
                yield _row_of(names.get(entry.number, NodeId("")), entry)
            until = block["seq_last"]
        rows = iter(database.execute(_ROWS, until))
        first = next(rows, None)
        if first is None or first["until"] == until:
            break
    yield from map(update_row, () if first is None else chain([first], rows))


def _verdict(update: UpdateId, node: NodeId, fate: Fate) -> Verdict:
    return Verdict(
        update=update,
        node=node,
        status=ReceiptStatus(fate.status),
        reason=Reason(fate.reason),
        version=None if fate.version is None else ModelVersion(fate.version),
    )


def _row_of(node: NodeId, entry: Entry) -> UpdateRow:
    record = UpdateRecord(
        update=update_id(RoundId(entry.round), node),
        node=node,
        round=RoundId(entry.round),
        base_version=ModelVersion(entry.fate.base_version),
        num_examples=0,
        codec="",
        payload_bytes=0,
        payload_digest=Digest(b""),
    )
    verdict = _verdict(record.update, node, entry.fate)
    return UpdateRow(record=record, verdict=verdict, staleness=entry.fate.staleness, whole=False)
