"""The coordinator's state after whatever happened: repair the head, read where to go on."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import starmap
from pathlib import Path

from coordinator.records import (
    RecoveredState,
    Restored,
    RoundRecord,
    TransferRecord,
    UpdateRecord,
    Verdict,
    VersionRecord,
)
from coordinator.storage import schema
from coordinator.storage.batches import read_frozen, read_seeds, read_sum_parts
from coordinator.storage.compaction.blocks import claimed_verdict, compacted_verdict
from coordinator.storage.evaluations import read_best, read_evaluated, read_reported, read_retained, read_surveys
from coordinator.storage.files import blob_digest, frame_file, model_file, payload_file, remedy_of
from coordinator.storage.hidden_reports import read_hidden
from coordinator.storage.participation import read_spent
from coordinator.storage.parts import Blobs, Transfers
from coordinator.storage.releases import read_ledger
from coordinator.storage.seals import seal_identity, seal_update, unseal_above
from coordinator.storage.statements import drop_batch
from federation.errors import DamagedStore, LocalProtocolError, StorageError
from federation.protocol.claims import claim_of
from federation.protocol.limits import INT32_MAX
from federation.protocol.messages import ModelPart, Reason, ReceiptStatus
from federation.storage.remedies import is_gone, remedy_for
from federation.storage.sql import Database, Readable, Row
from federation.types import Digest, Epoch, ModelVersion, NodeId, RoundId, RunId, UpdateId

__all__ = [
    "count_start",
    "read_inputs",
    "read_keys",
    "read_named",
    "read_next_round",
    "read_obsolete",
    "read_recovered",
    "read_restored",
    "read_stored",
    "read_verdict",
    "read_version",
    "repair",
    "repair_batch",
    "repair_best",
    "repair_head",
    "whole_parts",
]


_UNDONE = "undone_version"
"""Key in `meta`: the newest version whose commit was undone."""


def count_start(database: Database, first: Mapping[str, object]) -> tuple[RunId, Epoch, int]:
    """Count the epoch up for this start, inside a transaction.

    Args:
        database: The coordinator's.
        first: ``run``, ``epoch`` and ``began_ms`` of a run that begins with it.

    Returns:
        The run, the new epoch, and when the run began, in milliseconds since 1970.
    """
    database.insert("meta", *({"key": key, "value": first[key]} for key in first), conflict="IGNORE")
    meta = {row["key"]: row["value"] for row in database.execute("SELECT key, value FROM meta")}
    before, began_ms = meta.get("epoch"), meta.get("began_ms")
    if not isinstance(before, int) or not isinstance(began_ms, int) or not 0 <= before < INT32_MAX:
        raise DamagedStore(f"epoch and begin of the run are damaged: {before!r:.40}, {began_ms!r:.40}")
    epoch = Epoch(before + 1)
    database.insert("meta", {"key": "epoch", "value": epoch}, conflict="REPLACE")
    seal_identity(database)
    return RunId(meta["run"]), epoch, began_ms


def repair(database: Database, blobs: Blobs, folder: Path) -> list[str]:
    """Repair what a crash or a broken disk has left; arguments and errors as for `repair_head`.

    Returns:
        What was repaired, for the log.
    """
    return [*repair_head(database, blobs, folder), *repair_best(database, blobs, folder), *repair_batch(database)]


def repair_head(database: Database, blobs: Blobs, folder: Path) -> list[str]:
    """Verify the head's arrays; if they are damaged, undo its commit: the same updates then make it once more.

    Args:
        database: The coordinator's.
        blobs: The large files.
        folder: The state folder, for the remedy.

    Returns:
        What was repaired, for the log.

    Raises:
        StorageError: The version before it is damaged, too.
    """
    rows = database.execute("SELECT version, blob_digest FROM versions ORDER BY version DESC LIMIT 2").fetchall()
    if not rows or _intact(blobs, rows[0], folder):
        return []
    head = rows[0]["version"]
    if len(rows) < 2 or not _intact(blobs, rows[1], folder):
        problem = f"the models of version {head} and of the one before are missing or damaged"
        raise StorageError(f"{problem}: {remedy_of(folder)}")
    before = ModelVersion(rows[1]["version"])  # a site leaves out what it was away for
    with database.transaction("repair"):
        _give_back_members(database, head, before)
        database.execute("DELETE FROM assignments WHERE round IN (SELECT round FROM rounds WHERE version >= ?)", head)
        for table in schema.OF_A_VERSION:
            database.execute(f"DELETE FROM {table} WHERE version = ?", head)  # noqa: S608 - constants
        unseal_above(database, before)
        # Nodes have heard of it: their word must not make a copy of this store.
        database.insert("meta", {"key": _UNDONE, "value": head}, conflict="REPLACE")
    return [f"the model of version {head} was missing or damaged: back to version {before}, its updates count again"]


def _give_back_members(database: Database, version: int, before: ModelVersion) -> None:
    """The updates of a version wait again; one whose payload is gone can be in no version any more."""
    members = database.execute(
        "SELECT update_id, update_id IN (SELECT update_id FROM payloads) AS kept FROM updates WHERE version = ?",
        version,
    ).fetchall()
    for member in members:
        status, reason = (
            (ReceiptStatus.STORED, Reason.NONE) if member["kept"] else (ReceiptStatus.REFUSED, Reason.DIGEST_MISMATCH)
        )
        database.execute(
            "UPDATE updates SET status = ?, reason = ?, version = NULL, staleness = 0, judged_at = ?"
            " WHERE update_id = ?",
            status,
            reason,
            None if member["kept"] else before,
            member["update_id"],
        )
        seal_update(database, UpdateId(member["update_id"]))


def repair_best(database: Database, blobs: Blobs, folder: Path) -> list[str]:
    """Forget the best version when its arrays are damaged: the next better one takes its place.

    Returns:
        What was repaired, for the log.

    Raises:
        StorageError: They cannot be read by this process.
    """
    best = read_best(database)
    if best is None:
        return []
    row = database.execute("SELECT version, blob_digest FROM versions WHERE version = ?", best).fetchone()
    if row is not None and _intact(blobs, row, folder):
        return []
    with database.transaction("repair"):
        database.execute("DELETE FROM retained WHERE version = ?", best)
    return [f"the model of the best version, {best}, was missing or damaged: it is the best one no longer"]


def repair_batch(database: Database) -> list[str]:
    """Drop a frozen batch of which a member is gone: no sum of the others can ever be had.

    Returns:
        What was repaired, for the log.
    """
    batch = read_frozen(database)
    if batch is None:
        return []
    stored = {row["update_id"] for row in database.execute("SELECT update_id FROM updates WHERE status = 'stored'")}
    if batch.updates <= stored:
        return []
    verdicts = [
        Verdict(update=member.update, node=member.node, status=ReceiptStatus.STALE, reason=Reason.HELPER_LOST)
        for member in batch.members
        if member.update in stored
    ]
    with database.transaction("repair"):
        drop_batch(database, batch.version, verdicts)
    return [f"a member of the batch for version {batch.version} was lost: its other members go back to their nodes"]


def read_recovered(
    database: Database, transfers: Transfers, identity: tuple[RunId, Epoch], recent: int
) -> RecoveredState:
    """Read everything that the machine needs to go on.

    Raises:
        LocalProtocolError: There is no version yet.
    """
    rows = database.execute("SELECT * FROM versions ORDER BY version DESC LIMIT ?", max(1, recent)).fetchall()
    if not rows:
        raise LocalProtocolError("the store has no version yet: initialise it first")
    delivered = database.execute(
        "SELECT update_id FROM updates WHERE round IN (SELECT DISTINCT round FROM assignments)"
    ).fetchall()
    stored = database.execute("SELECT * FROM updates WHERE status = 'stored' ORDER BY seq").fetchall()
    surveys, batch = read_surveys(database), read_frozen(database)
    return RecoveredState(
        run=identity[0],
        epoch=identity[1],
        head=read_version(database, rows[0]),
        recent={ModelVersion(row["version"]): Digest(row["digest"]) for row in rows},
        next_round=read_next_round(database),
        open_rounds=_open_rounds(database),
        delivered=frozenset(UpdateId(row["update_id"]) for row in delivered),
        stored=tuple(
            schema.UPDATE.record(row, seeds=read_seeds(database, UpdateId(row["update_id"]))) for row in stored
        ),
        transfers=_open_transfers(database, transfers),
        evaluated=read_evaluated(database),
        surveyed=surveys,
        reported=read_reported(database, surveys[-1].version) if surveys else {},
        masked_reports=read_hidden(database),
        retained=read_retained(database),
        best=read_best(database),
        restored=read_restored(database),
        inputs=read_inputs(database),
        newest=_read_newest(database),
        nodes_seen=_read_nodes(database),
        batch=batch,
        sums=frozenset() if batch is None else read_sum_parts(database, batch.version),
        spent=read_spent(database),
        released=read_ledger(database),
    )


def _read_nodes(database: Database) -> int:
    """How many nodes were ever seen."""
    return int(database.execute("SELECT COUNT(*) FROM attendance").fetchone()[0])


def _read_newest(database: Database) -> ModelVersion:
    """The highest version that there ever was; an earlier release did not write down what it has undone."""
    undone = database.execute("SELECT value FROM meta WHERE key = ?", _UNDONE).fetchone()
    known = database.execute("SELECT MAX(version) FROM versions UNION SELECT MAX(version) FROM rounds").fetchall()
    return ModelVersion(max(0 if undone is None else int(undone["value"]), *(row[0] or 0 for row in known)))


def read_inputs(database: Readable) -> str | None:
    """What the run's inputs mean; None where it was not known when the run began."""
    row = database.execute("SELECT value FROM meta WHERE key = 'inputs'").fetchone()
    return None if row is None else str(row["value"])


def read_next_round(database: Readable) -> RoundId:
    """The first round number that was never given out, also not by a run that was lost."""
    given = database.execute("SELECT MAX(round) + 1 FROM rounds").fetchone()[0]
    skipped = database.execute("SELECT MAX(next_round) FROM restores").fetchone()[0]
    return RoundId(max(given or 0, skipped or 0))


def read_restored(database: Readable) -> Restored | None:
    """The newest time that the run was begun again from a backup."""
    row = database.execute("SELECT * FROM restores ORDER BY epoch DESC LIMIT 1").fetchone()
    return None if row is None else schema.RESTORED.record(row)


def read_verdict(database: Readable, update: UpdateId) -> Verdict | None:
    """What became of an update; None where nobody has heard of it."""
    row = database.execute("SELECT * FROM updates WHERE update_id = ?", update).fetchone()
    return _read_fate(database, update) if row is None else schema.verdict_of(row)


def read_stored(database: Readable, update: UpdateId) -> UpdateRecord | None:
    """What is kept of an update that is ``stored``."""
    where = "SELECT * FROM updates WHERE update_id = ? AND status = 'stored'"
    row = database.execute(where, update).fetchone()
    return None if row is None else schema.UPDATE.record(row, seeds=read_seeds(database, update))


def _read_fate(database: Readable, update: UpdateId) -> Verdict | None:
    """What became of an update that is no row here: compacted, or by the claim on it; None where nobody knows it."""
    compacted, claim = compacted_verdict(database, update), claim_of(update)
    row = database.execute("SELECT update_id FROM claims WHERE claim = ?", claim).fetchone()
    if compacted is not None or row is None:
        return compacted or claimed_verdict(database, claim)
    found = database.execute("SELECT * FROM updates WHERE update_id = ?", row["update_id"]).fetchone()
    if found is None:
        return Verdict(update=UpdateId(""), node=NodeId(""), status=ReceiptStatus.REFUSED, reason=Reason.NOT_ASSIGNED)
    return schema.verdict_of(found)


def read_version(database: Readable, row: Row) -> VersionRecord:
    """Read a version with its parts; one whose row was lost or damaged is left out."""
    query = f"SELECT {schema.PART.names} FROM parts WHERE kind = ? AND version = ?"  # noqa: S608 - our own names
    rows = (each for key in schema.parts_keys(row["parts"]) for each in database.execute(query, *key))
    return schema.VERSION.record(row, parts=tuple(whole_parts(rows)))


def read_published(database: Readable) -> list[ModelPart]:
    """Parts that may still be on the broker, oldest first."""
    query = f"SELECT {schema.PART.names} FROM parts WHERE cleared = 0 ORDER BY version, kind"  # noqa: S608 - our own
    return list(whole_parts(database.execute(query)))


def whole_parts(rows: Iterable[Row]) -> Iterator[ModelPart]:
    """The parts in these rows; one whose row is damaged is as one that is lost: it is made again from the model."""
    for row in rows:
        with contextlib.suppress(DamagedStore):
            yield schema.PART.record(row)


def read_obsolete(database: Readable, head: VersionRecord) -> tuple[ModelPart, ...]:
    """Parts of neither this head nor its predecessor that may still be on the broker."""
    former = "SELECT parts FROM versions WHERE version < ? ORDER BY version DESC LIMIT 1"
    row = database.execute(former, head.version).fetchone()
    before = [] if row is None else schema.parts_keys(row["parts"])
    there = (part for part in read_published(database) if part not in head.parts)
    return tuple(part for part in there if (part.kind.value, part.version) not in before)


def read_keys(database: Readable, version: int) -> list[tuple[str, int]]:
    """Kind and version of each part of a version, also of one whose row was lost."""
    row = database.execute("SELECT parts FROM versions WHERE version = ?", version).fetchone()
    return [] if row is None else schema.parts_keys(row["parts"])


def read_named(database: Readable) -> set[str]:
    """The large files that rows name."""
    payloads = database.execute("SELECT update_id FROM payloads WHERE body IS NULL")
    named = {payload_file(row["update_id"]) for row in payloads}
    named |= {model_file(version) for version in read_retained(database)}
    newest = database.execute("SELECT version FROM versions ORDER BY version DESC LIMIT 2").fetchall()
    for version in (row["version"] for row in newest):
        named |= {model_file(version), *starmap(frame_file, read_keys(database, version))}
    return named


def _open_rounds(database: Database) -> tuple[RoundRecord, ...]:
    nodes: dict[int, list[NodeId]] = {}
    for row in database.execute("SELECT round, node FROM assignments ORDER BY round, seq"):
        nodes.setdefault(row["round"], []).append(NodeId(row["node"]))
    rows = database.execute(
        "SELECT rounds.*, surveys.share AS evaluation FROM rounds LEFT JOIN surveys USING (version)"
        " WHERE round IN (SELECT DISTINCT round FROM assignments) ORDER BY round"
    )
    return tuple(schema.round_record(row, nodes[row["round"]]) for row in rows)


def _open_transfers(database: Database, files: Transfers) -> tuple[TransferRecord, ...]:
    found = []
    for row in database.execute("SELECT * FROM transfers ORDER BY rowid"):
        seeds = read_seeds(database, UpdateId(row["update_id"]))
        record, chunk_bytes = schema.UPDATE.record(row, seeds=seeds, members=row["members"] or b""), row["chunk_bytes"]
        arrived = files.arrived(record.update, record.payload_bytes, chunk_bytes)
        found.append(TransferRecord(record=record, chunk_bytes=chunk_bytes, arrived=arrived))
    files.clear_all_but(frozenset(transfer.record.update for transfer in found))
    return tuple(found)


def _intact(blobs: Blobs, row: Row, folder: Path) -> bool:
    """Whether a version's arrays are what they were.

    Raises:
        StorageError: This process may not read them, or cannot just now: that is no damage, and undoes nothing.
    """
    name = model_file(row["version"])
    try:
        return bool(blob_digest(blobs.read(name)) == row["blob_digest"])
    except OSError as error:
        if is_gone(error):
            return False
        raise StorageError(f"the model {name} cannot be read: {error}{remedy_for(error, folder)}") from error
