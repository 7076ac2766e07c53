"""The tables of the coordinator's SQLite database, and how its rows become records."""

import json
import sqlite3
from collections.abc import Sequence

from coordinator.records import RoundRecord, UpdateRecord, Verdict, VersionRecord
from coordinator.storage.store import Figures, UpdateRow, VersionRow
from federation.protocol.messages import Cohort, ModelPart, PartKind, Reason, ReceiptStatus
from federation.types import Digest, ModelVersion, NodeId, RoundId, UpdateId

__all__ = [
    "EVALUATION_SCHEMA",
    "EVALUATION_TABLES",
    "PART_COLUMNS",
    "SCHEMA",
    "SCHEMA_VERSION",
    "UPDATE_COLUMNS",
    "part_row",
    "round_record",
    "update_row",
    "update_values",
]

SCHEMA_VERSION = 1
"""Stored in ``user_version``: another number is another layout."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions (
    version INTEGER PRIMARY KEY, digest BLOB NOT NULL, previous BLOB NOT NULL, manifest_digest BLOB NOT NULL,
    seed INTEGER, accepted INTEGER NOT NULL, parts TEXT NOT NULL, blob_digest BLOB NOT NULL, reason TEXT NOT NULL,
    wall_s REAL NOT NULL, bytes_up INTEGER NOT NULL, bytes_down INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS parts (
    kind TEXT NOT NULL, version INTEGER NOT NULL, payload_bytes INTEGER NOT NULL, payload_digest BLOB NOT NULL,
    chunk_bytes INTEGER NOT NULL, cleared INTEGER NOT NULL DEFAULT 0, frame BLOB, PRIMARY KEY (kind, version));
CREATE TABLE IF NOT EXISTS rounds (
    round INTEGER PRIMARY KEY, version INTEGER NOT NULL, fingerprints BLOB NOT NULL, share TEXT);
CREATE TABLE IF NOT EXISTS assignments (
    round INTEGER NOT NULL, node TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (round, node)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS updates (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, update_id TEXT NOT NULL UNIQUE, node TEXT NOT NULL, round INTEGER NOT NULL,
    base_version INTEGER NOT NULL, num_examples INTEGER NOT NULL, codec TEXT NOT NULL, payload_bytes INTEGER NOT NULL,
    payload_digest BLOB NOT NULL, fetched_bytes INTEGER NOT NULL, train_s REAL NOT NULL, metrics TEXT NOT NULL,
    status TEXT NOT NULL, reason TEXT NOT NULL, version INTEGER, staleness INTEGER NOT NULL DEFAULT 0,
    judged_at INTEGER);
CREATE INDEX IF NOT EXISTS updates_by_status ON updates (status) WHERE status = 'stored';
CREATE INDEX IF NOT EXISTS updates_by_round ON updates (round);
CREATE INDEX IF NOT EXISTS updates_by_version ON updates (version) WHERE version IS NOT NULL;
CREATE TABLE IF NOT EXISTS payloads (update_id TEXT PRIMARY KEY, body BLOB);
CREATE TABLE IF NOT EXISTS transfers (
    update_id TEXT PRIMARY KEY, node TEXT NOT NULL, round INTEGER NOT NULL, base_version INTEGER NOT NULL,
    num_examples INTEGER NOT NULL, codec TEXT NOT NULL, payload_bytes INTEGER NOT NULL, payload_digest BLOB NOT NULL,
    fetched_bytes INTEGER NOT NULL, train_s REAL NOT NULL, metrics TEXT NOT NULL, chunk_bytes INTEGER NOT NULL);
"""

UPDATE_COLUMNS = (
    "update_id, node, round, base_version, num_examples, codec, payload_bytes, payload_digest, fetched_bytes, train_s,"
    " metrics"
)
"""The columns of an `UpdateRecord`, in `updates` and in `transfers`."""


PART_COLUMNS = "kind, version, payload_bytes, payload_digest, chunk_bytes"
"""The columns of a `ModelPart`: a frame is read only where it is wanted."""


def update_values(record: UpdateRecord) -> tuple[object, ...]:
    """The values of `UPDATE_COLUMNS`."""
    return (
        record.update,
        record.node,
        record.round,
        record.base_version,
        record.num_examples,
        record.codec,
        record.payload_bytes,
        record.payload_digest,
        record.fetched_bytes,
        record.train_s,
        json.dumps(dict(record.metrics)),
    )


def update_record(row: sqlite3.Row) -> UpdateRecord:
    """Read a row that has `UPDATE_COLUMNS`."""
    return UpdateRecord(
        update=UpdateId(row["update_id"]),
        node=NodeId(row["node"]),
        round=RoundId(row["round"]),
        base_version=ModelVersion(row["base_version"]),
        num_examples=row["num_examples"],
        codec=row["codec"],
        payload_bytes=row["payload_bytes"],
        payload_digest=Digest(row["payload_digest"]),
        fetched_bytes=row["fetched_bytes"],
        train_s=row["train_s"],
        metrics=json.loads(row["metrics"]),
    )


def verdict_of(row: sqlite3.Row) -> Verdict:
    """Read the verdict from a row of `updates`."""
    version = row["version"]
    return Verdict(
        update=UpdateId(row["update_id"]),
        node=NodeId(row["node"]),
        status=ReceiptStatus(row["status"]),
        reason=Reason(row["reason"]),
        version=None if version is None else ModelVersion(version),
    )


def update_row(row: sqlite3.Row) -> UpdateRow:
    """Read a whole row of `updates`."""
    return UpdateRow(record=update_record(row), verdict=verdict_of(row), staleness=row["staleness"])


def round_values(record: RoundRecord) -> tuple[object, ...]:
    """The values of a row of `rounds`; a share has 64 bits without sign, which SQLite has not: it is text."""
    share = None if record.cohort.share is None else str(record.cohort.share)
    return (record.round, record.version, record.cohort.fingerprints, share)


def round_record(row: sqlite3.Row, nodes: Sequence[NodeId]) -> RoundRecord:
    """Read a row of `rounds`, with its open assignments."""
    share, evaluation = row["share"], row["evaluation"]
    return RoundRecord(
        round=RoundId(row["round"]),
        version=ModelVersion(row["version"]),
        nodes=tuple(nodes),
        cohort=Cohort(fingerprints=row["fingerprints"], share=None if share is None else int(share)),
        evaluation=None if evaluation is None else int(evaluation),
    )


def part_row(part: ModelPart) -> tuple[object, ...]:
    """The values of a row of `parts`."""
    return (part.kind.value, part.version, part.payload_bytes, part.payload_digest, part.chunk_bytes)


def part_of(row: sqlite3.Row) -> ModelPart:
    """Read a row of `parts`."""
    return ModelPart(
        kind=PartKind(row["kind"]),
        version=ModelVersion(row["version"]),
        payload_bytes=row["payload_bytes"],
        payload_digest=Digest(row["payload_digest"]),
        chunk_bytes=row["chunk_bytes"],
    )


def parts_text(parts: Sequence[ModelPart]) -> str:
    """Name the parts of a version in their order."""
    return " ".join(f"{part.kind.value}:{part.version}" for part in parts)


def parts_keys(text: str) -> list[tuple[str, int]]:
    """Read what `parts_text` wrote: kind and version of each part."""
    return [(kind, int(version)) for kind, _, version in (name.partition(":") for name in text.split())]


def version_record(row: sqlite3.Row, parts: Sequence[ModelPart]) -> VersionRecord:
    """Read a row of `versions`."""
    return VersionRecord(
        version=ModelVersion(row["version"]),
        digest=Digest(row["digest"]),
        previous=Digest(row["previous"]),
        manifest_digest=Digest(row["manifest_digest"]),
        seed=row["seed"],
        parts=tuple(parts),
        accepted=row["accepted"],
    )


def version_row(row: sqlite3.Row) -> VersionRow:
    """Read a row of the history query: a version, its verdicts and its evaluation; its parts are left out."""
    metrics = row["metrics"]
    return VersionRow(
        record=version_record(row, ()),
        reason=row["reason"],
        figures=Figures(wall_s=row["wall_s"], bytes_up=row["bytes_up"], bytes_down=row["bytes_down"]),
        stale=row["stale"] or 0,
        refused=row["refused"] or 0,
        metrics={} if metrics is None else json.loads(metrics),
    )


EVALUATION_SCHEMA = """
CREATE TABLE IF NOT EXISTS evaluations (version INTEGER PRIMARY KEY, metrics TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS surveys (
    version INTEGER PRIMARY KEY, share TEXT NOT NULL, closed INTEGER NOT NULL DEFAULT 0,
    nodes INTEGER NOT NULL DEFAULT 0, num_examples INTEGER NOT NULL DEFAULT 0, metrics TEXT NOT NULL DEFAULT '{}');
CREATE TABLE IF NOT EXISTS node_results (
    version INTEGER NOT NULL, node TEXT NOT NULL, num_examples INTEGER NOT NULL, metrics TEXT NOT NULL,
    evaluate_s REAL NOT NULL, reason TEXT NOT NULL, counted INTEGER NOT NULL,
    PRIMARY KEY (version, node)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retained (version INTEGER PRIMARY KEY, best INTEGER NOT NULL);
"""
"""Part of the coordinator's schema; a share has 64 bits without sign, which SQLite has not: it is text."""

EVALUATION_TABLES = ("evaluations", "surveys", "node_results", "retained")
"""Whose rows of a version go with it when its commit is undone."""
