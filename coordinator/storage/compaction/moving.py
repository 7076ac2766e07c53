"""Takes updates out of their rows: into blocks, and into the sums by node and version that people read.

All of it is part of the transaction of a commit. What was damaged before is counted in the block, never made whole.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coordinator.storage.compaction.blocks import BLOCK_UPDATES_MAX, Entry, Fate, compacted_until, pack
from coordinator.storage.seals import row_is_whole, seal_block, seal_compacted, seal_of_compacted, unsealed_is
from federation.protocol.claims import number_of
from federation.storage.columns import blob
from federation.storage.sql import Database, Row

__all__ = ["UPDATES_KEPT", "compact"]

UPDATES_KEPT = 10_000
"""Newest updates that keep their whole row, unless the configuration says another number."""

_VERSIONS_KEPT = 2
"""The newest version may be undone at the next start: its updates wait again, as they were."""

_STEP = 8
"""A commit compacts only when a share of one in so many of what is kept has come together."""

_FIRST_THAT_STAYS = """
SELECT seq FROM updates WHERE seq <= ? AND (
    status = 'stored' OR COALESCE(version, 0) > ? OR round IN (SELECT round FROM assignments)
    OR update_id <> round || '-' || node
) ORDER BY seq LIMIT 1
"""
"""Waits, may wait again, belongs to an open round, or has an id that nobody could ask for by round and node."""

_CLAIMS = """
SELECT claim, seq FROM claims JOIN updates USING (update_id) WHERE seq <= ?
"""
_NEWEST_NUMBER = "SELECT COALESCE(MAX(number), 0) FROM compacted_nodes"
_COUNT_DROPPED = """
INSERT INTO compacted_versions (version, stale, refused) VALUES (?, ?, ?) ON CONFLICT (version) DO UPDATE
SET stale = compacted_versions.stale + excluded.stale, refused = compacted_versions.refused + excluded.refused
"""


def compact(database: Database, head: int, *, updates: int, versions: int) -> int:
    """Compact the oldest updates, as many as one block holds; inside a transaction.

    Args:
        database: The coordinator's.
        head: The newest version.
        updates: So many of the newest keep their row.
        versions: So many of the newest versions, and no fewer than two, keep the rows of their members.

    Returns:
        How many were compacted: 0 until enough have come together.
    """
    newest, before = (
        database.execute("SELECT COALESCE(MAX(seq), 0) FROM updates").fetchone()[0],
        compacted_until(database),
    )
    step = min(BLOCK_UPDATES_MAX, max(1, updates // _STEP))
    if newest - updates - before < step:
        return 0
    until = min(newest - updates, before + BLOCK_UPDATES_MAX)
    stays = database.execute(_FIRST_THAT_STAYS, until, head - max(versions, _VERSIONS_KEPT)).fetchone()
    until = until if stays is None else stays["seq"] - 1
    if until - before < step:
        return 0
    rows = database.execute("SELECT * FROM updates WHERE seq <= ? ORDER BY seq", until).fetchall()
    if rows:
        _move(database, rows, (before + 1, until))
    return len(rows)


def _move(database: Database, rows: Sequence[Row], span: tuple[int, int]) -> None:
    seal_compacted(database, {row["version"] for row in rows if row["version"] is not None})
    numbers = _number_nodes(database, rows)
    _add_sums(database, rows)
    _count_dropped(database, rows)
    block = _write_block(database, rows, numbers, span)
    places = {row["seq"]: place for place, row in enumerate(rows)}
    claims = database.execute(_CLAIMS, span[1]).fetchall()
    moved = [{"claim": number_of(blob(row["claim"])), "block": block, "place": places[row["seq"]]} for row in claims]
    database.insert("compacted_claims", *moved, conflict="IGNORE")
    for table in ("claims", "payloads", "seeds"):
        of_these = "(SELECT update_id FROM updates WHERE seq <= ?)"
        database.execute(f"DELETE FROM {table} WHERE update_id IN {of_these}", span[1])  # noqa: S608 - our own names
    database.execute("DELETE FROM updates WHERE seq <= ?", span[1])


def _number_nodes(database: Database, rows: Sequence[Row]) -> Mapping[str, int]:
    """Give each node a number, and keep the newest of what it has measured while it trained."""
    last = {row["node"]: row for row in sorted(rows, key=lambda row: row["version"] or -1)}
    newest, numbers = database.execute(_NEWEST_NUMBER).fetchone()[0], dict[str, int]()
    for node, row in sorted(last.items()):
        known = database.execute("SELECT * FROM compacted_nodes WHERE node = ?", node).fetchone()
        numbers[node] = known["number"] if known is not None else (newest := newest + 1)
        point = dict.fromkeys(("version", "base_version", "num_examples", "metrics"))
        if known is not None:
            point = {name: known[name] for name in point}
        if row["version"] is not None and row["version"] > (point["version"] or 0):
            point = {name: row[name] for name in point}
        made = {"number": numbers[node], "node": node} | point
        database.insert("compacted_nodes", made | {"seal": seal_of_compacted(made)}, conflict="REPLACE")
    return numbers


def _add_sums(database: Database, rows: Iterable[Row]) -> None:
    """Add what `participation` adds up of rows."""
    sums: defaultdict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0] * 5)
    for row in rows:
        down = row["fetched_bytes"]
        more = (1, row["payload_bytes"], down >> 32, down & 0xFFFFFFFF, row["staleness"])
        into = sums[row["node"], row["status"], row["reason"]]
        for place, value in enumerate(more):
            into[place] += value
    names = ("updates", "up", "down_high", "down_low", "staleness")
    for key, added in sorted(sums.items()):
        where = "SELECT * FROM compacted_sums WHERE node = ? AND status = ? AND reason = ?"
        known = database.execute(where, *key).fetchone()
        before = [0] * len(names) if known is None else [known[name] for name in names]
        made: dict[str, Any] = dict(zip(("node", "status", "reason"), key, strict=True))
        made |= {name: was + more for name, was, more in zip(names, before, added, strict=True)}
        database.insert("compacted_sums", made | {"seal": seal_of_compacted(made)}, conflict="REPLACE")


def _count_dropped(database: Database, rows: Iterable[Row]) -> None:
    """Add to what `history` counts by the version at which updates were judged."""
    counts = Counter((row["judged_at"], row["status"]) for row in rows if row["judged_at"] is not None)
    versions = sorted({version for version, status in counts if status in ("stale", "refused")})
    dropped = [(version, counts[version, "stale"], counts[version, "refused"]) for version in versions]
    database.execute_all(_COUNT_DROPPED, dropped)


def _write_block(database: Database, rows: Sequence[Row], numbers: Mapping[str, int], span: tuple[int, int]) -> int:
    names = ("status", "reason", "version", "staleness", "judged_at", "base_version")
    entries = [Entry(row["round"], numbers[row["node"]], Fate(*(row[name] for name in names))) for row in rows]
    unsealed = unsealed_is(database)
    whole = [row_is_whole(dict(row), unsealed=unsealed) for row in rows]
    block = int(database.execute("SELECT COALESCE(MAX(block), 0) + 1 FROM compacted_updates").fetchone()[0])
    made: dict[str, Any] = {
        "block": block,
        "seq_first": span[0],
        "seq_last": span[1],
        "round_min": min(entry.round for entry in entries),
        "round_max": max(entry.round for entry in entries),
        "updates": len(rows),
        "changed": whole.count(False),
        **pack(entries),
    }
    database.insert("compacted_updates", made | {"seal": seal_block(database, made)})
    return block
