"""What can be read of a coordinator's store: by its owner, or by others without a lock, a new epoch or a repair."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from coordinator.records import NodesEvaluation
from coordinator.storage import evaluations, schema
from coordinator.storage.database import open_read_only
from coordinator.storage.files import blob_digest, model_file, model_from_bytes, part_file, payload_file, reading
from coordinator.storage.participation import read_participation
from coordinator.storage.recovery import read_published
from coordinator.storage.store import CurvePoint, ModelState, Participation, UpdateRow, VersionRow
from federation.errors import StorageError
from federation.protocol.messages import ModelPart
from federation.storage.sqlite import Readable
from federation.types import ModelVersion, RunId, UpdateId
from update_codec import Manifest

__all__ = ["BLOBS", "ReadOnlyStore", "StoreReader"]

BLOBS = "blobs"
"""Folder of the large files in the state folder."""


_HISTORY = """
SELECT v.*, e.metrics,
    (SELECT COUNT(*) FROM updates u WHERE u.status = 'stale' AND u.judged_at = v.version - 1) AS stale,
    (SELECT COUNT(*) FROM updates u WHERE u.status = 'refused' AND u.judged_at = v.version - 1) AS refused
FROM versions v LEFT JOIN evaluations e ON e.version = v.version ORDER BY v.version
"""


class StoreReader:
    """What its owner and everybody else may ask a store.

    Args:
        database: The database.
        folder: The state folder.
    """

    def __init__(self, database: Readable, folder: Path) -> None:
        self._tables, self._folder = database, folder

    def history(self) -> list[VersionRow]:
        """All versions in order; their parts are left out."""
        with reading("history"):
            return [schema.version_row(row) for row in self._tables.execute(_HISTORY)]

    def updates(self) -> Iterator[UpdateRow]:
        """All updates in order of arrival."""
        return map(schema.update_row, self._tables.execute("SELECT * FROM updates ORDER BY seq"))

    def participation(self) -> list[Participation]:
        """All nodes that were ever seen or asked, by name."""
        with reading("participation"):
            return read_participation(self._tables)

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

    def payload(self, update: UpdateId) -> bytes:
        """The codec frame of an update.

        Raises:
            StorageError: It is not there.
        """
        with reading(f"payload of {update}"):
            row = self._tables.execute("SELECT body FROM payloads WHERE update_id = ?", update).fetchone()
            if row is None:
                raise StorageError(f"the payload of {update} is not in the store")
            return bytes(row["body"]) if row["body"] is not None else self._blob(payload_file(update))

    def model(self, version: ModelVersion) -> ModelState:
        """The arrays of the head, of the version before it, or of one that is retained.

        Raises:
            StorageError: They are not there, or damaged.
        """
        with reading(f"model of version {version}"):
            row = self._tables.execute("SELECT blob_digest FROM versions WHERE version = ?", version).fetchone()
            body = self._blob(model_file(version))
        if row is None or blob_digest(body) != row["blob_digest"]:
            raise StorageError(f"the model of version {version} is damaged")
        return model_from_bytes(version, body)

    def _blob(self, name: str) -> bytes:
        return (self._folder / BLOBS / name).read_bytes()


class ReadOnlyStore(StoreReader):
    """The coordinator's state folder, read while a coordinator may be writing.

    Args:
        folder: The state folder.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._database = open_read_only(folder)
        super().__init__(self._database, folder)

    def __enter__(self) -> Self:
        """Closed at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    @property
    def run(self) -> RunId:
        """Identity of the store."""
        return RunId(str(self._meta("run")))

    def manifest(self) -> Manifest:
        """The model's manifest."""
        return Manifest.from_bytes(self._meta("manifest"))

    def damage(self) -> str:
        """What SQLite itself finds; empty when the database is whole."""
        with reading("database"):
            return self._database.damage()

    def evaluated(self) -> Mapping[ModelVersion, Mapping[str, float]]:
        """What the coordinator's own evaluations found, by version."""
        with reading("evaluations"):
            return evaluations.read_evaluated(self._database)

    def evaluated_on_nodes(self) -> tuple[NodesEvaluation, ...]:
        """All evaluations on the nodes, in order."""
        with reading("evaluations"):
            return evaluations.read_surveys(self._database)

    def kept_models(self) -> list[ModelVersion]:
        """The versions whose arrays are kept, oldest first."""
        head = self.head()
        if head is None:
            return []
        newest = {ModelVersion(head), ModelVersion(max(0, head - 1))}
        with reading("retained models"):
            return sorted(newest | evaluations.read_retained(self._database))

    def published(self) -> list[ModelPart]:
        """Parts that may still be on the broker, oldest first."""
        with reading("parts"):
            return read_published(self._database)

    def rounds_reserved(self) -> int:
        """How many round numbers have been reserved: the first one that is free."""
        last = self._database.execute("SELECT MAX(round) AS last FROM rounds").fetchone()["last"]
        return 0 if last is None else int(last) + 1

    def payloads(self) -> dict[UpdateId, bytes | None]:
        """The payloads that rows name; None is in a file."""
        rows = self._database.execute("SELECT update_id, body FROM payloads")
        return {UpdateId(row["update_id"]): row["body"] for row in rows}

    def orphans(self) -> list[str]:
        """Files that no row names: what a crash has left, swept at the next start."""
        named = {payload_file(update) for update, body in self.payloads().items() if body is None}
        named |= {model_file(version) for version in self.kept_models()}
        for version in (self.history()[-1].record.version + back for back in (-1, 0)):
            row = self._database.execute("SELECT parts FROM versions WHERE version = ?", version).fetchone()
            for key in schema.parts_keys(row["parts"]) if row is not None else ():
                part = self._database.execute("SELECT * FROM parts WHERE kind = ? AND version = ?", *key).fetchone()
                named.add(part_file(schema.PART.record(part)))
        return sorted(path.name for path in (self._folder / BLOBS).iterdir() if path.name not in named)

    def _meta(self, key: str) -> bytes:
        row = self._database.execute("SELECT value FROM meta WHERE key = ?", key).fetchone()
        if row is None:
            raise StorageError(f"the store in {self._folder} has no {key}: no coordinator has finished its first start")
        value: bytes = row["value"]
        return value
