"""Sums over rows that a store keeps beside them: what was changed, added or lost behind the store's back is found.

An update's sum has all that was offered and what became of it. A version's sum has the sum of the version before, its
own row and parts, and the sums of its members: a chain over versions, members and weights. The newest of the chain, a
sum of all rounds and one of the identity are in `meta`, so that a row cannot go from the end either. Rows of former
releases have no sum: the chain begins with the first version that this one makes.

The sums prove damage, not intent: whoever can write the database can make them anew.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from json.encoder import encode_basestring_ascii
from typing import Any

from coordinator.storage.compaction.blocks import node_names, unpack
from federation.errors import DamagedStore
from federation.storage.columns import blob
from federation.storage.sql import Database, Readable
from federation.types import ModelVersion, UpdateId

__all__ = [
    "SealedRow",
    "head_changes",
    "identity_changes",
    "identity_is_sealed",
    "row_is_whole",
    "seal_block",
    "seal_compacted",
    "seal_identity",
    "seal_of_compacted",
    "seal_round",
    "seal_update",
    "seal_version",
    "sealed_rounds",
    "sealed_updates",
    "sealed_versions",
    "unseal_above",
    "unsealed_is",
    "update_sum",
]

_UPDATE = (
    *("update_id", "node", "round", "base_version", "num_examples", "codec", "payload_bytes", "payload_digest"),
    *("fetched_bytes", "train_s", "metrics", "status", "reason", "version", "staleness", "judged_at"),
)
_VERSION = (
    *("version", "digest", "previous", "manifest_digest", "seed", "accepted", "parts", "blob_digest", "reason"),
    *("wall_s", "bytes_up", "bytes_down"),
)
_PART = ("kind", "version", "payload_bytes", "payload_digest")
_ROUND = ("round", "version", "fingerprints", "share")
_BLOCK = ("block", "seq_first", "seq_last", "round_min", "round_max", "updates", "changed", "fates", "body")
_RESTORED = ("epoch", "version", "first_round", "next_round")
_IDENTITY = ("run", "epoch", "began_ms", "manifest", "task", "inputs", "masked_past")
_IDENTITY_BEFORE = _IDENTITY[:4]
"""What former releases have summed."""

_HEAD, _ROUNDS, _ROUNDS_FROM, _SELF = "versions_seal", "rounds_seal", "rounds_sealed_from", "identity_seal"
_BLOCKS = "compacted_seal"
"""Keys in `meta`."""


@dataclass(frozen=True, slots=True)
class SealedRow:
    """One row and its sum.

    Attributes:
        key: Its id or number.
        whole: Whether it is what was written; None where its writer knew no sums.
    """

    key: str
    whole: bool | None


# --- written with the rows --------------------------------------------------------------------------------------------


def update_sum(row: Mapping[str, object]) -> bytes:
    """The sum of a row of `updates`, as it is read or before it is written."""
    return _sum(row, _UPDATE)


def seal_update(database: Database, update: UpdateId) -> None:
    """Something has become of an update."""
    row = database.execute("SELECT * FROM updates WHERE update_id = ?", update).fetchone()
    database.execute("UPDATE updates SET seal = ? WHERE update_id = ?", update_sum(row), update)


def seal_version(database: Database, version: ModelVersion) -> None:
    """A version with all its members is in its tables: it is the head."""
    seal = _version_sum(database, _row_of(database, version), trusted=True)
    database.execute("UPDATE versions SET seal = ? WHERE version = ?", seal, version)
    _set(database, _HEAD, seal)


@contextmanager
def head_changes(database: Database, head: ModelVersion) -> Iterator[None]:
    """The head's row or parts are changed inside: its sum follows, unless it was wrong before."""
    before = _row_of(database, head)
    was_whole = before["seal"] is not None and _version_sum(database, before) == before["seal"]
    yield
    if was_whole:
        seal_version(database, head)


def unseal_above(database: Database, head: ModelVersion) -> None:
    """The versions above are undone: the chain ends here."""
    row = _row_of(database, head)
    if row["seal"] is None:
        database.execute("DELETE FROM meta WHERE key = ?", _HEAD)
    else:
        _set(database, _HEAD, row["seal"])


def seal_round(database: Database, number: int) -> None:
    """A round has been reserved."""
    known = _meta(database, _ROUNDS)
    if known is None:
        _set(database, _ROUNDS_FROM, number)
    row = database.execute("SELECT * FROM rounds WHERE round = ?", number).fetchone()
    _set(database, _ROUNDS, _sum(row, _ROUND, known or b""))


def seal_identity(database: Database) -> None:
    """Run, epoch or manifest have been written."""
    _set(database, _SELF, _identity_sum(database, _IDENTITY))


@contextmanager
def identity_changes(database: Database) -> Iterator[None]:
    """Something that a run says of itself is changed inside: the sum follows, unless it was wrong before."""
    was_whole = identity_is_sealed(database) is not False
    yield
    if was_whole:
        seal_identity(database)


def seal_block(database: Database, block: Mapping[str, object]) -> bytes:
    """The sum of a new row of `compacted_updates`, over that of the one before."""
    made = _sum(block, _BLOCK, _meta(database, _BLOCKS) or b"")
    _set(database, _BLOCKS, made)
    return made


def seal_of_compacted(row: Mapping[str, object]) -> bytes:
    """The sum of a row of `compacted_nodes` or `compacted_sums`, before it is written."""
    return _sum(row, sorted(row))


def seal_compacted(database: Database, versions: Iterable[int]) -> None:
    """Members of these versions lose their rows: what each version's sum had of them is compared a last time."""
    known = "SELECT 1 FROM compacted_versions WHERE version = ? AND seal IS NOT NULL"
    for version in versions:
        row = database.execute("SELECT * FROM versions WHERE version = ?", version).fetchone()
        if row is None or row["seal"] is None or database.execute(known, version).fetchone() is not None:
            continue
        whole = row["seal"] == _version_sum(database, row)
        database.execute(_SEAL_COMPACTED, version, _without_members(database, row) if whole else b"")


_SEAL_COMPACTED = """
INSERT INTO compacted_versions (version, seal) VALUES (?, ?)
ON CONFLICT (version) DO UPDATE SET seal = excluded.seal
"""


# --- compared with the rows -------------------------------------------------------------------------------------------


def identity_is_sealed(database: Readable) -> bool | None:
    """Whether what a run says of itself is what was written; None where its writer knew no sums."""
    known = _meta(database, _SELF)
    if known is None:
        return unsealed_is(database)
    return any(known == _identity_sum(database, keys) for keys in (_IDENTITY, _IDENTITY_BEFORE))


def sealed_updates(database: Readable) -> Iterator[SealedRow]:
    """Every update, in order of arrival; a number that is missing between them is a row that was lost."""
    expected, unsealed = 1, unsealed_is(database)
    for block in _sealed_blocks(database):
        expected = block.last + 1
        yield SealedRow(f"arrival numbers {block.first} to {block.last}", block.whole)
    if not _compacted_sums_are_whole(database):
        yield SealedRow("what was added up of compacted updates", whole=False)
    for row in database.execute("SELECT * FROM updates ORDER BY seq"):
        yield from _lost(range(expected, row["seq"]))
        expected = row["seq"] + 1
        yield SealedRow(row["update_id"], row_is_whole(row, unsealed=unsealed))
    last = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'updates'").fetchone()
    yield from _lost(range(expected, (0 if last is None else last["seq"]) + 1))


def row_is_whole(row: Mapping[str, object], *, unsealed: bool | None) -> bool | None:
    """Whether a row of `updates` is what was written; ``unsealed`` is what one without a sum is."""
    return unsealed if row["seal"] is None else row["seal"] == _sum(row, _UPDATE)


def unsealed_is(database: Readable) -> bool | None:
    """What a row without a sum is: False where this release has made the run, else None."""
    first = database.execute("SELECT seal FROM versions WHERE version = 0").fetchone()
    return None if first is None or first["seal"] is None else False


@dataclass(frozen=True, slots=True)
class _Block:
    first: int
    last: int
    whole: bool


def _sealed_blocks(database: Readable) -> Iterator[_Block]:
    """Every block, and whether it follows the one before, has all updates of its span, and is what was written."""
    before, expected = b"", 1
    for row in database.execute("SELECT * FROM compacted_updates ORDER BY block"):
        made = _sum(row, _BLOCK, before)
        complete = row["updates"] == row["seq_last"] - row["seq_first"] + 1 and row["changed"] == 0
        yield _Block(expected, row["seq_last"], complete and row["seq_first"] == expected and row["seal"] == made)
        before, expected = row["seal"], row["seq_last"] + 1
    if before != (_meta(database, _BLOCKS) or b""):
        yield _Block(expected, expected, whole=False)


def _compacted_sums_are_whole(database: Readable) -> bool:
    """Whether the sums by node that stand for compacted updates are what was written, and count these and no others."""
    for table in ("compacted_nodes", "compacted_sums"):
        for row in database.execute(f"SELECT * FROM {table}"):  # noqa: S608 - our own names
            words = dict(row)
            if words.pop("seal") != seal_of_compacted(words):
                return False
    names, counted = node_names(database), Counter[tuple[str | None, str, str]]()
    for block in database.execute("SELECT * FROM compacted_updates"):
        counted.update((names.get(each.number), each.fate.status, each.fate.reason) for each in unpack(block))
    rows = database.execute("SELECT node, status, reason, updates FROM compacted_sums")
    return counted == {(row["node"], row["status"], row["reason"]): row["updates"] for row in rows}


def sealed_versions(database: Readable) -> Iterator[SealedRow]:
    """Every version, in order; the last one also fails where a newer one has been there."""
    rows = database.execute("SELECT * FROM versions ORDER BY version").fetchall()
    head, compacted = _meta(database, _HEAD), _compacted_versions(database)
    for row in rows:
        whole = None if row["seal"] is None else _is_whole(database, row, compacted.get(row["version"]))
        if row is rows[-1] and (head is not None or whole is not None):
            whole = whole is True and head == row["seal"]
        yield SealedRow(str(row["version"]), whole)


def sealed_rounds(database: Readable) -> SealedRow:
    """All rounds since the first that has a sum, as one row of this round's number."""
    first, known = _meta(database, _ROUNDS_FROM), _meta(database, _ROUNDS)
    if first is None or known is None:
        return SealedRow("0", None if first is None and known is None else False)
    made: bytes = b""
    for row in database.execute("SELECT * FROM rounds WHERE round >= ? ORDER BY round", first):
        made = _sum(row, _ROUND, made)
    return SealedRow(str(first), made == known)


def _lost(numbers: Iterable[int]) -> Iterator[SealedRow]:
    return (SealedRow(f"arrival number {number}", whole=False) for number in numbers)


# --- sums -------------------------------------------------------------------------------------------------------------


def _version_sum(database: Readable, row: Mapping[str, object], *, trusted: bool = False) -> bytes:
    """The sum of a version; ``trusted`` members have been summed or compared just now, and are not summed again."""
    before = database.execute("SELECT seal FROM versions WHERE version = ? - 1", row["version"]).fetchone()
    members = database.execute("SELECT * FROM updates WHERE version = ? ORDER BY update_id", row["version"])
    parts = database.execute("SELECT * FROM parts WHERE version = ? ORDER BY kind", row["version"])
    known = (one["seal"] if trusted and one["seal"] is not None else _sum(one, _UPDATE) for one in members)
    sums = b"".join((*known, *(_sum(part, _PART) for part in parts)))
    return _sum(row, _VERSION, (b"" if before is None or before["seal"] is None else before["seal"]) + sums)


def _is_whole(database: Readable, row: Mapping[str, object], compacted: bytes | None) -> bool:
    if compacted is None:
        return bool(row["seal"] == _version_sum(database, row))
    return compacted == _without_members(database, row)


def _compacted_versions(database: Readable) -> Mapping[int, bytes]:
    """The sums of versions of which members have no row any more."""
    rows = database.execute("SELECT version, seal FROM compacted_versions WHERE seal IS NOT NULL")
    return {row["version"]: blob(row["seal"]) for row in rows}


def _without_members(database: Readable, row: Mapping[str, Any]) -> bytes:
    """The sum of a version's row, its parts and its own sum, which its members were compared with."""
    before = database.execute("SELECT seal FROM versions WHERE version = ? - 1", row["version"]).fetchone()
    parts = database.execute("SELECT * FROM parts WHERE version = ? ORDER BY kind", row["version"])
    known = b"" if before is None or before["seal"] is None else before["seal"]
    return _sum(row, (*_VERSION, "seal"), known + b"".join(_sum(part, _PART) for part in parts))


def _identity_sum(database: Readable, keys: Iterable[str]) -> bytes:
    restores = database.execute("SELECT * FROM restores ORDER BY epoch")
    before = b"".join(_sum(row, _RESTORED) for row in restores)
    return _sum({key: _meta(database, key) for key in keys}, keys, before)


def _sum(row: Mapping[str, object], columns: Iterable[str], before: bytes = b"") -> bytes:
    """16 bytes: BLAKE2b of these columns, each as text, as a list in JSON, after what came before."""
    words = ", ".join([_word(row[column]) for column in columns])
    return blake2b(b"%b[%b]" % (before, words.encode()), digest_size=16).digest()


def _word(value: object) -> str:
    kind = type(value)
    if kind is int or kind is float or kind is bytes:
        # Of these the text has nothing that JSON would write otherwise.
        return f'"{value.hex() if isinstance(value, bytes) else value}"'
    if value is None:
        return "null"
    # The encoder's own function for texts: a tenth of the time that it takes to make a list of them.
    return encode_basestring_ascii(value.hex() if isinstance(value, bytes) else str(value))


def _row_of(database: Readable, version: int) -> Mapping[str, object]:
    row: Mapping[str, object] | None = database.execute("SELECT * FROM versions WHERE version = ?", version).fetchone()
    if row is None:
        raise DamagedStore(f"version {version} is not in the store")
    return row


def _meta(database: Readable, key: str) -> Any:
    row = database.execute("SELECT value FROM meta WHERE key = ?", key).fetchone()
    return None if row is None else row["value"]


def _set(database: Database, key: str, value: object) -> None:
    database.insert("meta", {"key": key, "value": value}, conflict="REPLACE")
