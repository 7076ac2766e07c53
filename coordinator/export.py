"""``coordinator export``: the newest model as a file that other programs read."""

from pathlib import Path

import safetensors.numpy
from safetensors import SafetensorError

from coordinator.blobs import blob_digest, model_file, model_from_bytes, reading
from coordinator.database import DATABASE
from coordinator.history import open_read_only
from federation.errors import StorageError
from federation.types import ModelVersion
from update_codec import Manifest, Vectors

__all__ = ["export_model"]


def export_model(folder: Path, out: Path) -> ModelVersion:
    """Write the newest model of a store; the coordinator may be running.

    Returns:
        Its version.

    Raises:
        StorageError: There is no model, or it cannot be read or written.
    """
    database = open_read_only(folder / DATABASE)
    try:
        head = database.execute("SELECT version, blob_digest FROM versions ORDER BY version DESC LIMIT 1").fetchone()
        manifest = database.execute("SELECT value FROM meta WHERE key = 'manifest'").fetchone()
    finally:
        database.close()
    if head is None or manifest is None:
        raise StorageError(f"{folder} has no model yet")
    version = ModelVersion(head["version"])
    with reading(f"model of version {version}"):
        body = (folder / "blobs" / model_file(version)).read_bytes()
    if blob_digest(body) != head["blob_digest"]:
        raise StorageError(f"the model of version {version} is damaged")
    model = model_from_bytes(version, body)
    vectors = Vectors(model.parameters, model.shadow.statistics, model.shadow.counters)
    arrays = Manifest.from_bytes(manifest["value"]).unflatten(vectors)
    try:
        safetensors.numpy.save_file(arrays, out)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{out} cannot be written: {error}") from error
    return version
