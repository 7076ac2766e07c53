"""The coordinator's store: tables for what is counted, files for what is large; of SQLite and a folder, `SqliteStore`.

Arrays and large frames are whole, durable files before the transaction that names them (see `write_file`), so a crash
leaves at most a file that nobody names.
"""

import json
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from coordinator.records import (
    Attendance,
    NodeResult,
    NodesEvaluation,
    NodeSpent,
    RecoveredState,
    RoundRecord,
    TransferRecord,
    UpdateRecord,
    Verdict,
    VersionRecord,
)
from coordinator.storage import evaluations, participation, recovery, schema, statements
from coordinator.storage.batch_store import BatchStore
from coordinator.storage.claims import Claims
from coordinator.storage.compaction.moving import UPDATES_KEPT, compact
from coordinator.storage.database import lost_run, open_database
from coordinator.storage.files import (
    BLOBS,
    TRANSFERS,
    TransferFiles,
    blob_digest,
    manifest_of,
    model_file,
    model_to_bytes,
    part_file,
    payload_file,
    reading,
    undamaged,
)
from coordinator.storage.parts import StoreParts
from coordinator.storage.read_only import StoreReader
from coordinator.storage.recovery import (
    count_start,
    read_keys,
    read_named,
    read_obsolete,
    read_recovered,
    repair,
)
from coordinator.storage.seals import head_changes, identity_changes, identity_is_sealed, seal_identity, seal_version
from coordinator.storage.store import Commit
from federation.errors import DamagedStore, LocalProtocolError
from federation.protocol.messages import ModelPart, ReceiptStatus
from federation.runtime.failpoint import failpoint
from federation.storage.folder import Folder, FolderLock
from federation.storage.sqlite import storing
from federation.types import ModelVersion, NodeId, RoundId, RunId, UpdateId
from update_codec import Manifest

__all__ = ["INLINE_BYTES_MAX", "SqlStore", "SqliteStore"]

INLINE_BYTES_MAX = 128 * 1024
"""Frames up to this size live in the database, larger ones in files, in bytes."""

_CHANGED = "run, epoch or manifest are not what this store has written: coordinator audit says what else was changed"


class SqlStore(StoreReader):
    """Owns one run's state, whichever engine keeps it.

    Args:
        parts: The engine's; with `run` it follows a run that is led elsewhere, whose versions it may miss.
        audit_versions: How many versions keep the payloads that they were made of.
        updates_kept: How many of the newest updates keep their whole row.

    Attributes:
        run: Identity of this store.
        epoch: This start's fencing number, already on disk.
        batches: What masked sums keep here; ``claims``: what gateways claim for their sites.
        alarms: What was wrong at the start and has been repaired, for the log.

    Raises:
        StorageError: The database is damaged, lost beside models, or cannot be written.
    """

    def __init__(
        self, parts: StoreParts, *, audit_versions: int = 1, updates_kept: int = UPDATES_KEPT, run: RunId | None = None
    ) -> None:
        super().__init__(parts.database, parts.folder, parts.blobs)
        self._audit_versions, self._updates_kept, self._followed = max(1, audit_versions), updates_kept, run
        self._outdated: list[Callable[[], None]] = []
        self._database, self._blobs, self._transfers = parts.database, parts.blobs, parts.transfers
        self._lost, self._release = parts.lost, parts.release
        with storing("state folder"), undamaged(parts.folder):
            self._open()

    @property
    def folder(self) -> Path:
        """The state folder."""
        return self._folder

    def wait_later(self) -> None:
        """From now on what is saved survives a killed process at once, and a power cut only after the next `sync`."""
        self._database.wait_later()

    def sync(self) -> None:
        """Wait until everything that was saved is on the disk; whoever tells others about it calls this first.

        Raises:
            StorageError: The disk has failed; what it has kept is unknown.
        """
        self._database.sync()
        with storing("removal of files"):
            while self._outdated:
                self._outdated.pop(0)()

    def manifest(self) -> Manifest | None:
        """The model's manifest; None before `initialise`."""
        said = self._said("manifest")
        return None if said is None else manifest_of(said, self._folder)

    def initialise(self, manifest: Manifest, first: Commit) -> None:
        """Save the manifest and version 0."""
        if self.head() is not None:
            raise LocalProtocolError("the store has a version already")
        digest = self._put_arrays(first)
        with self._database.transaction("first version"):
            self._database.insert("meta", {"key": "manifest", "value": manifest.to_bytes()}, conflict="REPLACE")
            statements.insert_version(self._database, first, digest)
            seal_version(self._database, first.record.version)
            seal_identity(self._database)

    def save_task(self, label: str, *, simulated: bool = False) -> None:
        """Remember what the run trains, and whether a simulation does."""
        said = [{"key": "task", "value": label}, *([{"key": "simulated", "value": "yes"}] if simulated else [])]
        with self._database.transaction("task"), identity_changes(self._database):
            self._database.insert("meta", *said, conflict="REPLACE")

    def save_inputs(self, description: str) -> None:
        """Remember what the run's inputs and targets mean."""
        with self._database.transaction("inputs"), identity_changes(self._database):
            self._database.insert("meta", {"key": "inputs", "value": description}, conflict="REPLACE")

    def recovered(self, *, recent: int) -> RecoveredState:
        """Where the last process left off."""
        with storing("state"), undamaged(self._folder):
            found = read_recovered(self._database, self._transfers, (self.run, self.epoch), recent)
            return replace(found, began_ms=self._began_ms)

    def verdict(self, update: UpdateId) -> Verdict | None:
        """What is known of an update."""
        with storing("verdict"):
            return None if self.claims.is_new(update) else recovery.read_verdict(self._database, update)

    def stored(self, update: UpdateId) -> UpdateRecord | None:
        """What is kept of an update that is ``stored``."""
        with storing("update"):
            return recovery.read_stored(self._database, update)

    def reserved(self, round_id: RoundId) -> RoundRecord | None:
        """A reserved round with its rule and version."""
        with storing("round"):
            query = "SELECT *, NULL AS evaluation FROM rounds WHERE round = ?"
            row = self._database.execute(query, round_id).fetchone()
        return None if row is None else schema.round_record(row, ())

    def save_round(self, record: RoundRecord) -> None:
        """Reserve a round and open its assignments."""
        with self._database.transaction("round"):
            if statements.insert_round(self._database, record):
                self.claims.begins(record.round)
                participation.count_asked(self._database, record.nodes)
            evaluations.insert_survey(self._database, record)

    def close_round(self, round_id: RoundId, nodes: Sequence[NodeId]) -> None:
        """Forget open assignments."""
        with self._database.transaction("round", durable=False):
            rows = [(round_id, node) for node in nodes]
            self._database.execute_all("DELETE FROM assignments WHERE round = ? AND node = ?", rows)

    def save_update(self, record: UpdateRecord, payload: bytes) -> None:
        """Save an update with its payload as ``stored``."""
        failpoint("coordinator_before_update_stored")
        body = payload if len(payload) <= INLINE_BYTES_MAX else None
        if body is None and self.verdict(record.update) is None:
            with storing("payload"):
                self._blobs.write(payload_file(record.update), payload)
        self.claims.comes(record)
        with self._database.transaction("update"):
            statements.insert_update(self._database, record, ReceiptStatus.STORED, body)
            if record.update in self._chunk_bytes:
                statements.drop_transfer(self._database, record.update)
        self._forget_transfer(record.update)
        failpoint("coordinator_after_update_stored")

    def save_verdict(self, verdict: Verdict, record: UpdateRecord | None) -> None:
        """Save a final verdict."""
        known = self.verdict(verdict.update)
        if known == verdict:
            return
        if (known is None and record is None) or (known is not None and known.status.final):
            raise LocalProtocolError(f"update {verdict.update} cannot be judged {verdict.status}")
        with self._database.transaction("verdict"):
            if known is None and record is not None:
                self.claims.comes(record)
                statements.insert_update(self._database, record, verdict.status)
            statements.judge_update(self._database, verdict)
            statements.drop_transfer(self._database, verdict.update)
        self._outdate(partial(self._blobs.delete, payload_file(verdict.update)))
        self._forget_transfer(verdict.update)

    def open_transfer(self, transfer: TransferRecord) -> None:
        """Expect a large update in chunks."""
        with self._database.transaction("transfer"):
            statements.insert_transfer(self._database, transfer)
        self._chunk_bytes.setdefault(transfer.record.update, transfer.chunk_bytes)

    def save_chunk(self, update: UpdateId, index: int, body: bytes) -> None:
        """Save one chunk of an open transfer."""
        if update not in self._chunk_bytes:
            raise LocalProtocolError(f"no transfer of {update} is open")
        with storing("chunk"):
            self._transfers.write(update, index * self._chunk_bytes[update], index, body)

    def transfer_payload(self, update: UpdateId) -> bytes:
        """The payload of a transfer as it has arrived."""
        with reading(f"transfer of {update}"):
            return self._transfers.read(update)

    def drop_transfer(self, update: UpdateId) -> UpdateId:
        """Forget a large update that stopped arriving; returns its id once nothing of it is left."""
        with self._database.transaction("transfer", durable=False):
            statements.drop_transfer(self._database, update)
        self._forget_transfer(update)
        return update

    def commit(self, commit: Commit) -> None:
        """Save a version."""
        version, head = commit.record.version, self.head()
        if head is None:
            raise DamagedStore("the run's versions are gone, and nobody here has deleted them: restore a backup")
        if not (version == head + 1 or (self._followed and version > head)):
            raise LocalProtocolError(f"version {version} does not follow {head}")
        digest = self._put_arrays(commit)
        failpoint("coordinator_after_blob")
        with self._database.transaction("version"):
            statements.insert_version(self._database, commit, digest)
            statements.apply_members(self._database, commit.members, version)
            seal_version(self._database, version)
            statements.expire_payloads(self._database, version - self._audit_versions)
            made = {(part.kind.value, part.version) for part in commit.record.parts}
            statements.drop_frames(self._database, {*made, *read_keys(self._database, head)})
            compact(self._database, version, updates=self._updates_kept, versions=self._audit_versions)
        failpoint("coordinator_after_commit")
        self._outdate(self._sweep)

    def retain(self, versions: Collection[ModelVersion], best: ModelVersion | None) -> None:
        """Keep the arrays of exactly these versions and of the best one."""
        named = (version for version in {*versions, best} if version is not None)
        there = {version for version in named if self._blobs.has(model_file(version))}
        changed = best != self.best()
        with self._database.transaction("retained models", durable=changed):
            evaluations.write_retained(self._database, there, best if best in there else None)
        self._outdate(self._sweep)

    def replace_parts(self, head: VersionRecord, frames: Mapping[ModelPart, bytes]) -> None:
        """Publish the head in other parts from now on."""
        self._put_frames(frames)
        with self._database.transaction("parts"), head_changes(self._database, head.version):
            statements.insert_parts(self._database, frames)
            statements.list_parts(self._database, head)

    def obsolete_parts(self, head: VersionRecord) -> tuple[ModelPart, ...]:
        """Parts of neither this head nor its predecessor that have not been marked cleared."""
        return read_obsolete(self._database, head)

    def mark_cleared(self, parts: Sequence[ModelPart]) -> None:
        """Remember that these parts are off the broker."""
        with self._database.transaction("parts", durable=False):
            rows = [(part.kind.value, part.version) for part in parts]
            self._database.execute_all("UPDATE parts SET cleared = 1 WHERE kind = ? AND version = ?", rows)

    def save_evaluation(self, version: ModelVersion, metrics: Mapping[str, float]) -> None:
        """Remember what an evaluation found."""
        row = {"version": version, "metrics": json.dumps(dict(metrics))}
        with self._database.transaction("evaluation", durable=False):
            self._database.insert("evaluations", row, conflict="REPLACE" if metrics else "IGNORE")

    def save_node_result(self, result: NodeResult) -> NodeResult:
        """Save what a node found; its first word stays."""
        with self._database.transaction("result of a node"):
            evaluations.save_result(self._database, result)
        return self.node_result(result.version, result.node) or result

    def node_result(self, version: ModelVersion, node: NodeId) -> NodeResult | None:
        """What a node found at a version."""
        with storing("result of a node"):
            return evaluations.read_result(self._database, version, node)

    def close_evaluation(self, version: ModelVersion) -> NodesEvaluation:
        """Make the mean over the nodes that count, and save it."""
        with self._database.transaction("evaluation on the nodes"):
            return evaluations.close_survey(self._database, version)

    def save_spent(self, spent: NodeSpent) -> None:
        """Raise what is known of a node's privacy budget."""
        participation.save_spent(self._database, spent)

    def save_attendance(self, attendance: Attendance) -> None:
        """Add what was seen of nodes."""
        with self._database.transaction("attendance", durable=False):
            participation.add_attendance(self._database, attendance)

    def close(self) -> None:
        """Release the state folder."""
        try:
            self._database.close()
        finally:
            self._release()

    def _open(self) -> None:
        """Draw the run's identity at the first start, count the epoch up, and repair what a crash left."""
        database = self._database
        if self.head() is None and (lost := self._lost()) is not None:
            raise lost
        damaged = identity_is_sealed(database) is False
        with database.transaction("start"):
            first = {"run": self._followed or secrets.token_hex(8), "epoch": 0, "began_ms": time.time_ns() // 1_000_000}
            self.run, self.epoch, self._began_ms = count_start(database, first)
            statements.expire_payloads(database, (self.head() or 0) - self._audit_versions)
        self.alarms = [*([_CHANGED] if damaged else []), *repair(database, self._blobs, self._folder)]
        self.claims = Claims(database)
        self.batches = BatchStore(database, self._transfers, self._blobs, self._outdate)
        rows = database.execute("SELECT update_id, chunk_bytes FROM transfers")
        self._chunk_bytes = {UpdateId(row["update_id"]): int(row["chunk_bytes"]) for row in rows}
        self._sweep()

    def _outdate(self, remove: Callable[[], None]) -> None:
        """Remove files that no row names any more: once that is on the disk, or a power cut would leave a row alone."""
        self._outdated.append(remove)
        if not self._database.waits_later:
            self.sync()

    def _put_arrays(self, commit: Commit) -> bytes:
        """Write the version's files and return the digest of its blob."""
        body = model_to_bytes(commit.model)
        self._put_frames(commit.frames)
        with storing("model"):
            self._blobs.write(model_file(commit.record.version), body)
        return blob_digest(body)

    def _put_frames(self, frames: Mapping[ModelPart, bytes]) -> None:
        with storing("model"):
            for part, frame in frames.items():
                if len(frame) > statements.FRAME_INLINE_BYTES_MAX:
                    self._blobs.write(part_file(part), frame)

    def _forget_transfer(self, update: UpdateId) -> None:
        if self._chunk_bytes.pop(update, None) is not None:
            with storing("transfer"):  # at once: the same update may be offered again, and a lost chunk is sent again
                self._transfers.delete(update)

    def _sweep(self) -> None:
        """Remove the files that no row names any more, such as those of a crash between file and transaction."""
        for name in sorted({*self._blobs.names()} - read_named(self._database)):
            self._blobs.delete(name)


class SqliteStore(SqlStore):
    """Owns one state folder; created when it is missing. As `SqlStore` else.

    Raises:
        StoreLocked: Another process owns the folder.
    """

    def __init__(
        self, folder: Path, *, audit_versions: int = 1, updates_kept: int = UPDATES_KEPT, run: RunId | None = None
    ) -> None:
        lock = FolderLock(folder)
        try:
            with storing("state folder"):
                parts = StoreParts(
                    folder=folder,
                    database=open_database(folder),
                    blobs=Folder(folder / BLOBS),
                    transfers=TransferFiles(folder / TRANSFERS),
                    lost=partial(lost_run, folder),
                    release=lock.release,
                )
            super().__init__(parts, audit_versions=audit_versions, updates_kept=updates_kept, run=run)
            self._lock = lock
        except BaseException:
            lock.release()
            raise
