"""What can be read of a coordinator's store: by its owner, or by others without a lock, a new epoch or a repair."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from coordinator.records import BatchRecord, NodesEvaluation, NodeSpent, ReleaseLedger, ReleaseRecord, Restored
from coordinator.storage import batches, evaluations, schema, seals
from coordinator.storage.compaction.blocks import read_updates
from coordinator.storage.files import (
    blob_digest,
    manifest_of,
    model_file,
    model_from_bytes,
    part_file,
    payload_file,
    reading,
)
from coordinator.storage.history import GrowingHistory, read_history
from coordinator.storage.participation import GrowingParticipation, read_participation, read_spent
from coordinator.storage.parts import ReadableBlobs
from coordinator.storage.places import ReadableStore, open_to_read
from coordinator.storage.recovery import read_inputs, read_next_round, read_published, read_restored, whole_parts
from coordinator.storage.releases import read_ledger, read_releases
from coordinator.storage.seals import SealedRow
from coordinator.storage.store import CurvePoint, ModelState, Participation, UpdateRow, VersionRow
from federation.errors import DamagedStore, StorageError
from federation.protocol.chunking import chunk_count, payload_digest
from federation.protocol.limits import CHUNK_BYTES, CHUNKS_MAX
from federation.protocol.messages import ModelPart
from federation.storage.columns import blob
from federation.storage.sql import Readable
from federation.types import Digest, ModelVersion, NodeId, RunId, UpdateId

if TYPE_CHECKING:
    from update_codec import Manifest

__all__ = ["ReadOnlyStore", "StoreReader"]

_PAYLOAD = "SELECT body, payload_digest FROM payloads LEFT JOIN updates USING (update_id) WHERE update_id = ?"
_FRAME = "SELECT frame FROM parts WHERE kind = ? AND version = ?"
_DIGESTS = "SELECT version, blob_digest FROM versions"
_LARGE = "SELECT update_id, payload_digest FROM payloads LEFT JOIN updates USING (update_id) WHERE body IS NULL"
_WAITING = "SELECT COUNT(*) FROM updates WHERE status = 'stored'"
_PART = "SELECT * FROM parts WHERE kind = ? AND version = ?"


class StoreReader:
    """What its owner and everybody else may ask a store.

    Args:
        database: The database.
        folder: The state folder.
        files: The large files.
    """

    def __init__(self, database: Readable, folder: Path, files: ReadableBlobs) -> None:
        self._tables, self._folder, self._files = database, folder, files

    def history(self, after: int = -1) -> list[VersionRow]:
        """All versions after this one, in order; their parts are left out."""
        with reading("history"):
            return read_history(self._tables, after)

    def newest_versions(self, known: GrowingHistory, after: int) -> Iterator[VersionRow]:
        """The same for one who looks again and again; ``after`` never goes back."""
        with reading("history"):
            yield from known.newest(self._tables, after)

    def updates(self) -> Iterator[UpdateRow]:
        """All updates in order of arrival; rows of compacted ones are not whole."""
        with reading("updates"):
            yield from read_updates(self._tables)

    def participation(self) -> list[Participation]:
        """All nodes that were ever seen or asked, by name."""
        with reading("participation"):
            return read_participation(self._tables)

    def changed_participation(self, known: GrowingParticipation) -> Iterator[Participation]:
        """The nodes whose part is another one than when ``known`` was last asked, by name."""
        with reading("participation"):
            yield from known.changed(self._tables)

    def spent(self) -> dict[NodeId, NodeSpent]:
        """What nodes have spent under differential privacy."""
        with reading("ledger"):
            return read_spent(self._tables)

    def releases(self) -> list[ReleaseRecord]:
        """The noised sums, in order."""
        with reading("noised sums"):
            return read_releases(self._tables)

    def released(self) -> ReleaseLedger:
        """Each node's part in them."""
        with reading("noised sums"):
            return read_ledger(self._tables)

    def curves(self) -> list[CurvePoint]:
        """Every number that training and evaluation have given, by version."""
        with reading("curves"):
            return evaluations.read_curves(self._tables)

    def best(self) -> ModelVersion | None:
        """The best version; None before one was named."""
        with reading("best version"):
            return evaluations.read_best(self._tables)

    def head(self) -> ModelVersion | None:
        """The newest version; None where there is none yet."""
        with reading("head"):
            head: ModelVersion | None = self._tables.execute("SELECT MAX(version) FROM versions").fetchone()[0]
        return head

    def task(self) -> str | None:
        """What the run trains, by the name that is announced; None where an earlier release has made the store."""
        return None if (task := self._said("task")) is None else str(task)

    def inputs(self) -> str | None:
        """What the run's inputs and targets mean; None where it was not known when the run began."""
        with reading("inputs"):
            return read_inputs(self._tables)

    def payload(self, update: UpdateId) -> bytes:
        """The codec frame of an update.

        Raises:
            StorageError: It is not there, or damaged.
        """
        with reading(f"payload of {update}"):
            row = self._tables.execute(_PAYLOAD, update).fetchone()
            if row is None:
                raise DamagedStore(f"the payload of {update} is not in the store")
            body = self._blob(payload_file(update)) if row["body"] is None else blob(row["body"])
        if row["payload_digest"] is not None and payload_digest(body) != row["payload_digest"]:
            raise DamagedStore(f"the payload of {update} is not what was offered")
        return body

    def batch(self, version: ModelVersion) -> BatchRecord | None:
        """The masked batch that a version is made of, or will be; None where there is none, or it is too long ago."""
        with reading(f"batch of version {version}"):
            return batches.read_batch(self._tables, version)

    def masked_past(self) -> batches.MaskedPast | None:
        """What is known of the masked versions whose batches are gone; None in a store of an earlier release."""
        with reading("masked versions"):
            return batches.read_past(self._tables)

    def sums(self, version: ModelVersion) -> list[bytes]:
        """What helpers answered for a version's batch, by class.

        Raises:
            StorageError: They cannot be read, or are damaged.
        """
        with reading(f"sums of version {version}"):
            return batches.read_sums(self._tables, version)

    def frame(self, part: ModelPart) -> bytes:
        """The codec frame of a part.

        Raises:
            StorageError: It is not there, or damaged.
        """
        with reading(f"{part.kind} of version {part.version}"):
            row = self._tables.execute(_FRAME, part.kind, part.version).fetchone()
            if row is None:
                raise DamagedStore(f"the {part.kind} of version {part.version} is not in the store")
            frame = blob(row["frame"]) if row["frame"] is not None else self._blob(part_file(part))
        if (len(frame), payload_digest(frame)) != (part.payload_bytes, part.payload_digest) or not _can_cut(part):
            raise DamagedStore(f"the {part.kind} of version {part.version} is damaged")
        return frame

    def model(self, version: ModelVersion) -> ModelState:
        """The arrays of the head, of the version before it, or of one that is retained.

        Raises:
            StorageError: They are not there, or damaged.
        """
        with reading(f"model of version {version}"):
            row = self._tables.execute("SELECT blob_digest FROM versions WHERE version = ?", version).fetchone()
            body = self._blob(model_file(version))
        if row is None or blob_digest(body) != row["blob_digest"]:
            raise DamagedStore(f"the model of version {version} is damaged")
        return model_from_bytes(version, body)

    def _said(self, key: str) -> Any:
        with reading(key):
            row = self._tables.execute("SELECT value FROM meta WHERE key = ?", key).fetchone()
        return None if row is None else row["value"]

    def _blob(self, name: str) -> bytes:
        try:
            return self._files.read(name)
        except FileNotFoundError as error:
            raise DamagedStore(f"the file {name} is not in the store in {self._folder}") from error


def _can_cut(part: ModelPart) -> bool:
    return 1 <= part.chunk_bytes <= CHUNK_BYTES and chunk_count(part.payload_bytes, part.chunk_bytes) <= CHUNKS_MAX


class ReadOnlyStore(StoreReader):
    """The coordinator's state folder, read while a coordinator may be writing.

    Args:
        folder: The state folder.
        at_once: Whether all that is read is of this moment, whatever the coordinator writes meanwhile.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """

    def __init__(self, folder: Path, *, at_once: bool = False) -> None:
        opened = open_to_read(folder, at_once=at_once)
        self._database: ReadableStore = opened.database
        super().__init__(opened.database, folder, opened.files)

    def __enter__(self) -> Self:
        """Closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    @property
    def run(self) -> RunId:
        """Identity of the store."""
        return RunId(str(self._meta("run")))

    @property
    def gateway(self) -> NodeId:
        """Who the gateway is above, in the store of a site.

        Raises:
            StorageError: It is no site's.
        """
        return NodeId(str(self._meta("gateway")))

    def manifest(self) -> "Manifest":
        """The model's manifest."""
        return manifest_of(self._meta("manifest"), self._folder)

    def damage(self) -> str:
        """What SQLite itself finds; empty when the database is whole."""
        with reading("database"):
            return self._database.damage()

    def evaluated(self, after: int = -1) -> Mapping[ModelVersion, Mapping[str, float]]:
        """What the coordinator's own evaluations of later versions found, by version."""
        with reading("evaluations"):
            return evaluations.read_evaluated(self._database, after)

    def evaluated_on_nodes(self, after: int = -1) -> tuple[NodesEvaluation, ...]:
        """All evaluations of later versions on the nodes, in order."""
        with reading("evaluations"):
            return evaluations.read_surveys(self._database, after)

    def evaluation_counts(self) -> tuple[int, int]:
        """How many evaluations there are: the coordinator's own, and those on nodes that are closed."""
        with reading("evaluations"):
            return evaluations.count_evaluations(self._database)

    def kept_models(self) -> list[ModelVersion]:
        """The versions whose arrays are kept, oldest first."""
        head = self.head()
        if head is None:
            return []
        newest = {ModelVersion(head), ModelVersion(max(0, head - 1))}
        with reading("retained models"):
            return sorted(newest | evaluations.read_retained(self._database))

    def has_model(self, version: ModelVersion) -> bool:
        """Whether there is a file of a version's arrays."""
        return self._files.has(model_file(version))

    def open_file(self, name: str) -> IO[bytes]:
        """Open a file that a row names; raises `OSError` when it is missing or unreadable."""
        return self._files.open(name)

    def published(self) -> list[ModelPart]:
        """Parts that may still be on the broker, oldest first."""
        with reading("parts"):
            return read_published(self._database)

    def waiting(self) -> int:
        """How many updates are stored and in no version."""
        with reading("updates"):
            return int(self._database.execute(_WAITING).fetchone()[0])

    def rounds_reserved(self) -> int:
        """How many round numbers have been reserved: the first one that is free."""
        with reading("rounds"):
            return read_next_round(self._database)

    def payloads(self) -> dict[UpdateId, bytes | None]:
        """The payloads that rows name; None is in a file."""
        with reading("payloads"):
            rows = self._database.execute("SELECT update_id, body FROM payloads")
            return {UpdateId(row["update_id"]): row["body"] for row in rows}

    def read_the_rest(self) -> None:
        """Read what no invariant needs.

        Raises:
            StorageError: Something of it cannot be read.
        """
        _ = self.curves(), self.participation(), self.spent()
        _ = self.releases(), self.released(), self.evaluated_on_nodes()
        for table in ("transfers", "assignments", "retained", "seeds", "batches", "sums", "claims"):
            with reading(table):
                self._database.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - our own names

    def epoch(self) -> int:
        """The fencing number of the newest start."""
        with reading("epoch"):
            return int(self._meta("epoch"))

    def began_ms(self) -> int:
        """When the run was begun, in milliseconds since 1970; 0 where an earlier release has made the store."""
        with reading("time of the run's begin"):
            return int(self._said("began_ms") or 0)

    def simulated(self) -> bool:
        """Whether a simulation has made the run, and no device took part; earlier releases did not say."""
        return bool(self._said("simulated"))

    def listed_parts(self) -> tuple[list[ModelPart], list[str]]:
        """What nodes may pull: the parts that the head and its predecessor list, and those of which no row is left."""
        found, lost = dict[ModelPart, None](), list[str]()
        with reading("parts"):
            for row in self._database.execute("SELECT parts FROM versions ORDER BY version DESC LIMIT 2"):
                for key in schema.parts_keys(row["parts"]):
                    whole = list(whole_parts(self._database.execute(_PART, *key)))
                    found |= dict.fromkeys(whole)
                    lost += [] if whole else [f"{key[0]}:{key[1]}"]
        return list(found), lost

    def restored(self) -> Restored | None:
        """The newest time that the run was begun again from a backup; None is never."""
        with reading("restores"):
            return read_restored(self._database)

    def sealed_updates(self) -> list[SealedRow]:
        """Every update, and whether it is what was written."""
        with reading("updates"):
            return list(seals.sealed_updates(self._database))

    def sealed_versions(self) -> list[SealedRow]:
        """Every version, and whether row, parts and members are what was written."""
        with reading("versions"):
            return list(seals.sealed_versions(self._database))

    def sealed_rounds(self) -> SealedRow:
        """All rounds since the first that has a sum."""
        with reading("rounds"):
            return seals.sealed_rounds(self._database)

    def identity_is_sealed(self) -> bool | None:
        """Whether what the run says of itself is what was written; None where its writer knew no sums."""
        with reading("identity"):
            return seals.identity_is_sealed(self._database)

    def orphans(self) -> list[str]:
        """Files that no row names: what a crash has left, swept at the next start."""
        named = self.named_files().keys() | {part_file(part) for part in self.listed_parts()[0]}
        with reading("files"):
            return sorted(name for name in self._files.names() if name not in named)

    def named_files(self) -> dict[str, Digest]:
        """The files that rows name, with what their bytes must give: models, large payloads, large frames."""
        with reading("files"):
            digests = {row["version"]: blob(row["blob_digest"]) for row in self._database.execute(_DIGESTS)}
            named = {model_file(version): Digest(digests.get(version, b"")) for version in self.kept_models()}
            large = self._database.execute(_LARGE)
            named |= {payload_file(row["update_id"]): Digest(row["payload_digest"] or b"") for row in large}
            for part in self.listed_parts()[0]:
                row = self._database.execute(_FRAME, part.kind, part.version).fetchone()
                if row["frame"] is None:
                    named[part_file(part)] = part.payload_digest
        return named

    def copy(self, path: Path) -> None:
        """Write the whole database to a new file.

        Raises:
            StorageError: The disk is full or broken, or the database is damaged.
        """
        self._database.copy(path)

    def _meta(self, key: str) -> bytes:
        value: bytes | None = self._said(key)
        if value is None:
            raise StorageError(f"the store in {self._folder} has no {key}: no coordinator has finished its first start")
        return value
