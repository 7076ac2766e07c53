"""The stores of a federation that has stopped, read without changing them: no lock, no new epoch, no repair."""

from pathlib import Path

from coordinator.storage import schema
from coordinator.storage.database import DATABASE, storing
from coordinator.storage.evaluations import read_retained
from coordinator.storage.files import blob_digest, model_file, model_from_bytes, part_file, payload_file, reading
from coordinator.storage.queries import open_read_only, read_history, read_updates
from coordinator.storage.store import ModelState, UpdateRow, VersionRow
from federation.errors import StorageError
from federation.types import ModelVersion, RunId, UpdateId
from update_codec import Manifest

__all__ = ["StoppedStore"]

NODE_DATABASE = "node.sqlite"
NODE_MODEL = "model.safetensors"


class StoppedStore:
    """The coordinator's state folder.

    Args:
        folder: The state folder.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._database = open_read_only(folder / DATABASE)

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
        with storing("integrity check"):
            found = str(self._database.execute("PRAGMA integrity_check(1)").fetchone()[0])
        return "" if found == "ok" else found

    def versions(self) -> list[VersionRow]:
        """All versions in order."""
        return read_history(self._database)

    def updates(self) -> list[UpdateRow]:
        """All updates in order of arrival."""
        return list(read_updates(self._database))

    def rounds_reserved(self) -> int:
        """How many round numbers have been reserved: the first one that is free."""
        last = self._database.execute("SELECT MAX(round) AS last FROM rounds").fetchone()["last"]
        return 0 if last is None else int(last) + 1

    def payloads(self) -> dict[UpdateId, bytes | None]:
        """The payloads that rows name; None is in a file."""
        rows = self._database.execute("SELECT update_id, body FROM payloads")
        return {UpdateId(row["update_id"]): row["body"] for row in rows}

    def payload(self, update: UpdateId) -> bytes:
        """The codec frame of an update.

        Raises:
            StorageError: It is not there.
        """
        row = self._database.execute("SELECT body FROM payloads WHERE update_id = ?", (update,)).fetchone()
        if row is None:
            raise StorageError(f"the payload of {update} is not in the store")
        with reading(f"payload of {update}"):
            return bytes(row["body"]) if row["body"] is not None else self._blob(payload_file(update))

    def model(self, version: ModelVersion) -> ModelState:
        """The arrays of the head, or of the version before it.

        Raises:
            StorageError: They are not there, or damaged.
        """
        row = self._database.execute("SELECT blob_digest FROM versions WHERE version = ?", (version,)).fetchone()
        with reading(f"model of version {version}"):
            body = self._blob(model_file(version))
        if row is None or blob_digest(body) != row["blob_digest"]:
            raise StorageError(f"the model of version {version} is damaged")
        return model_from_bytes(version, body)

    def orphans(self) -> list[str]:
        """Files that no row names: what a crash has left, swept at the next start."""
        named = {payload_file(update) for update, body in self.payloads().items() if body is None}
        named |= {model_file(version) for version in read_retained(self._database)}
        head = self.versions()[-1].record.version
        for version in (head - 1, head):
            named.add(model_file(version))
            row = self._database.execute("SELECT parts FROM versions WHERE version = ?", (version,)).fetchone()
            for key in schema.parts_keys(row["parts"]) if row is not None else ():
                part = self._database.execute("SELECT * FROM parts WHERE kind = ? AND version = ?", key).fetchone()
                named.add(part_file(schema.part_of(part)))
        return sorted(path.name for path in (self._folder / "blobs").iterdir() if path.name not in named)

    def _blob(self, name: str) -> bytes:
        return (self._folder / "blobs" / name).read_bytes()

    def _meta(self, key: str) -> bytes:
        row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise StorageError(f"the store in {self._folder} has no {key}: no coordinator has finished its first start")
        value: bytes = row["value"]
        return value
