"""Files of a store that are whole or absent: temporary file, fsync, rename, fsync of the folder."""

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from coordinator.storage.store import ModelState
from federation.errors import StorageError, StoreLocked
from federation.protocol.messages import ModelPart
from federation.types import ModelVersion
from update_codec import Vectors

__all__ = [
    "BlobFolder",
    "FolderLock",
    "blob_digest",
    "lock_holder",
    "model_file",
    "model_from_bytes",
    "model_to_bytes",
    "part_file",
    "payload_file",
    "reading",
    "write_beside",
]


class BlobFolder:
    """One folder of immutable files.

    Args:
        folder: Where; created when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def put(self, name: str, body: bytes) -> None:
        """Write a file so that it survives a power cut, or leave nothing under this name.

        Raises:
            OSError: The disk is full or broken; an fsync that failed once is never tried again as a success.
        """
        temporary = self._folder / f".{name}.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._folder / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(self._folder)

    def get(self, name: str) -> bytes:
        """Read a file; raises `OSError` when it is not there."""
        return (self._folder / name).read_bytes()

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self._folder / name).exists()

    def delete(self, name: str) -> None:
        """Remove a file; it may be gone already."""
        (self._folder / name).unlink(missing_ok=True)

    def names(self) -> Iterator[str]:
        """All files, unfinished ones included."""
        return (entry.name for entry in os.scandir(self._folder))


class FolderLock:
    """Sees to it that one process owns a state folder; the kernel releases it when the process dies.

    Raises:
        StoreLocked: Another process has it; the message names the process.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "lock"
        self._file = path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read(32).strip() or "unknown"
            self._file.close()
            raise StoreLocked(
                f"{folder} is in use by the process with pid {holder}: stop it, or choose another store.folder"
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Give the folder up."""
        self._file.close()


def lock_holder(folder: Path) -> str | None:
    """The pid of the process that owns a state folder; None when nobody does."""
    try:
        with (folder / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read(32).strip() or "unknown"
    except OSError:
        return None
    return None


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def model_file(version: int) -> str:
    """Name of the file with a version's arrays."""
    return f"model-{version}.safetensors"


def part_file(part: ModelPart) -> str:
    """Name of the file with a part's frame."""
    return f"{part.kind.value}-{part.version}.frame"


def payload_file(update: str) -> str:
    """Name of the file with a large update's frame."""
    return f"update-{update}.frame"


def blob_digest(body: bytes) -> bytes:
    """16 bytes: BLAKE2b of a file's content."""
    return blake2b(body, digest_size=16).digest()


def model_to_bytes(model: ModelState) -> bytes:
    """Write a version's arrays as safetensors."""
    tensors: dict[str, np.ndarray] = {
        "shadow.parameters": model.shadow.parameters,
        "shadow.statistics": model.shadow.statistics,
        "shadow.counters": model.shadow.counters,
    }
    if model.exact is not None:
        tensors["exact.parameters"] = model.exact
    tensors |= {f"strategy.{name}": array for name, array in model.strategy.items()}
    return safetensors.numpy.save(tensors)


def model_from_bytes(version: ModelVersion, body: bytes) -> ModelState:
    """Read what `model_to_bytes` wrote.

    Raises:
        StorageError: The bytes are something else.
    """
    with reading(f"model of version {version}"):
        tensors: Mapping[str, np.ndarray] = safetensors.numpy.load(body)
        shadow = Vectors(tensors["shadow.parameters"], tensors["shadow.statistics"], tensors["shadow.counters"])
    prefix = "strategy."
    return ModelState(
        version=version,
        shadow=shadow,
        exact=tensors.get("exact.parameters"),
        strategy={name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)},
    )


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn every way in which a file can be unreadable into a `StorageError`."""
    try:
        yield
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise StorageError(f"the {what} cannot be read: {error}") from error


def write_beside(folder: Path, name: str, content: object) -> None:
    """Replace a JSON file at once, or not at all: a full disk is no reason to stop."""
    temporary = folder / f".{name}.{threading.get_ident()}.tmp"
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(folder / name)
