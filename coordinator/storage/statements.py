"""The statements that change the coordinator's tables; each is part of a transaction of the store."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from coordinator.records import Member, RoundRecord, TransferRecord, UpdateRecord, Verdict, VersionRecord
from coordinator.storage import batches, releases, schema
from coordinator.storage.claims import insert_claims
from coordinator.storage.compaction.blocks import compacted_verdict
from coordinator.storage.seals import identity_changes, seal_round, seal_update, update_sum
from coordinator.storage.store import Commit
from federation.errors import LocalProtocolError
from federation.protocol.messages import ModelPart, ReceiptStatus
from federation.storage.sql import Database
from federation.storage.sqlite import DuplicateRow
from federation.types import ModelVersion, UpdateId

FRAME_INLINE_BYTES_MAX = 512 * 1024
"""Model frames up to this size live in the database: one fsync for all of a small version's frames; in bytes."""

__all__ = ["apply_members", "drop_transfer", "expire_payloads", "insert_round", "insert_transfer", "insert_update"]


def insert_round(database: Database, record: RoundRecord) -> bool:
    """Reserve a round; the same record again does nothing. Returns whether it is new.

    Raises:
        LocalProtocolError: It has been reserved for something else.
    """
    row = schema.round_row(record)
    known = database.execute("SELECT * FROM rounds WHERE round = ?", record.round).fetchone()
    if known is not None and dict(known) != row:
        raise LocalProtocolError(f"round {record.round} has been reserved before")
    if known is None:
        database.insert("rounds", row)
        rows = ({"round": record.round, "node": node, "seq": index} for index, node in enumerate(record.nodes))
        database.insert("assignments", *rows)
        seal_round(database, record.round)
    return known is None


_NEW: Mapping[str, object] = {"reason": "none", "version": None, "staleness": 0, "judged_at": None}
"""What a row of `updates` says before its verdict."""


def insert_update(database: Database, record: UpdateRecord, status: ReceiptStatus, body: bytes | None = None) -> None:
    """Add an update; one that is ``stored`` has a payload, in ``body`` or in a file.

    Raises:
        LocalProtocolError: It is known already.
    """
    row = schema.UPDATE.row(record) | {"status": status.value, **_NEW}
    if compacted_verdict(database, record.update) is not None:
        raise LocalProtocolError(f"update {record.update} is known already")
    try:
        database.insert("updates", row | {"seal": update_sum(row)})
    except DuplicateRow as error:
        raise LocalProtocolError(f"update {record.update} is known already") from error
    if status is ReceiptStatus.STORED:
        database.insert("payloads", {"update_id": record.update, "body": body})
        batches.insert_seeds(database, record)
    insert_claims(database, record)


def judge_update(database: Database, verdict: Verdict) -> None:
    """Write a final verdict to an update that is in the table, and drop its payload."""
    database.execute(
        "UPDATE updates SET status = ?, reason = ?, judged_at = (SELECT MAX(version) FROM versions)"
        " WHERE update_id = ?",
        verdict.status,
        verdict.reason,
        verdict.update,
    )
    seal_update(database, verdict.update)
    database.execute("DELETE FROM payloads WHERE update_id = ?", verdict.update)
    batches.delete_seeds(database, verdict.update)


def apply_members(database: Database, members: Sequence[Member], version: ModelVersion) -> None:
    """Updates have become part of a version; of many at once each costs one statement.

    Raises:
        LocalProtocolError: One of them was not waiting.
    """
    waiting = {row["update_id"]: row for row in database.execute("SELECT * FROM updates WHERE status = 'stored'")}
    applied = []
    for member in members:
        row = waiting.pop(member.update, None)
        if row is None:
            raise LocalProtocolError(f"member {member.update} is not stored")
        now = {"status": "applied", "version": version, "staleness": member.staleness, "judged_at": version - 1}
        sealed = update_sum(dict(row) | now)
        applied.append((version, member.staleness, version - 1, sealed, member.update))
    database.execute_all(
        "UPDATE updates SET status = 'applied', version = ?, staleness = ?, judged_at = ?, seal = ?"
        " WHERE update_id = ?",
        applied,
    )
    database.execute("DELETE FROM seeds WHERE update_id IN (SELECT update_id FROM updates WHERE version = ?)", version)


def expire_payloads(database: Database, version: int) -> None:
    """The updates of this version, and of those before it, need not be audited any more."""
    database.execute(
        "DELETE FROM payloads WHERE update_id IN"
        " (SELECT update_id FROM payloads JOIN updates USING (update_id) WHERE version <= ?)",
        version,
    )
    if ended := batches.ended_batches(database, version):
        with identity_changes(database):
            batches.expire_sums(database, version, ended)


def insert_version(database: Database, commit: Commit, blob_digest: bytes) -> None:
    """Make a version the head, and charge its noise; frames that are no file are kept in their rows."""
    record, figures = schema.VERSION.row(commit.record), schema.FIGURES.row(commit.figures)
    more = {"parts": schema.parts_text(commit.record.parts), "blob_digest": blob_digest, "reason": commit.reason}
    database.insert("versions", record | more | figures)
    insert_parts(database, commit.frames)
    if not commit.record.version:
        batches.begin_past(database)
    if commit.release is not None:
        releases.charge_release(database, commit.release, by_coordinator=True)


def insert_parts(database: Database, frames: Mapping[ModelPart, bytes]) -> None:
    """Keep parts, each instead of what its row had before; frames that are no file are kept in their rows."""
    for part, frame in frames.items():
        inline = frame if len(frame) <= FRAME_INLINE_BYTES_MAX else None
        database.insert("parts", schema.PART.row(part) | {"frame": inline}, conflict="REPLACE")


def list_parts(database: Database, head: VersionRecord) -> None:
    """The head has the parts of this record, and its seed."""
    text = schema.parts_text(head.parts)
    database.execute("UPDATE versions SET parts = ?, seed = ? WHERE version = ?", text, head.seed, head.version)


def drop_frames(database: Database, kept: Collection[tuple[str, int]]) -> None:
    """Let the frames go of parts that nobody may pull any more: all but those of these kinds and versions."""
    rows = database.execute("SELECT kind, version FROM parts WHERE frame IS NOT NULL")
    gone = [key for key in map(tuple, rows) if key not in kept]
    database.execute_all("UPDATE parts SET frame = NULL WHERE kind = ? AND version = ?", gone)


def insert_transfer(database: Database, transfer: TransferRecord) -> None:
    """Expect a large update; does nothing when it is expected already."""
    more = {"chunk_bytes": transfer.chunk_bytes, "members": transfer.record.members or None}
    row = schema.UPDATE.row(transfer.record) | more
    database.insert("transfers", row, conflict="IGNORE")
    batches.insert_seeds(database, transfer.record)


def drop_transfer(database: Database, update: UpdateId) -> None:
    """Nothing more of this update is expected."""
    database.execute("DELETE FROM transfers WHERE update_id = ?", update)
    unstored = "DELETE FROM seeds WHERE update_id = ? AND update_id NOT IN (SELECT update_id FROM payloads)"
    database.execute(unstored, update)


def drop_batch(database: Database, version: ModelVersion, verdicts: Iterable[Verdict]) -> None:
    """A frozen batch makes no version, and its members have these verdicts."""
    batches.delete_batch(database, version)
    for verdict in verdicts:
        judge_update(database, verdict)
