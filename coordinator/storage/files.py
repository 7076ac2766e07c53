"""The files of the coordinator's store: their names, and what is in them."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.storage.store import ModelState
from federation.errors import DamagedStore, StorageError
from federation.protocol.messages import ModelPart
from federation.storage.columns import DamagedRow
from federation.storage.folder import TEMPORARY, has_content, open_file
from federation.storage.sqlite import SqliteError
from federation.types import ModelVersion, UpdateId

if TYPE_CHECKING:
    import numpy as np

    from update_codec import Manifest

__all__ = [
    "BLOBS",
    "NO_COORDINATOR",
    "NO_RUN",
    "PRESENCE",
    "STATE_FOLDER",
    "STATUS",
    "TRANSFERS",
    "TransferFiles",
    "blob_digest",
    "manifest_of",
    "model_file",
    "model_from_bytes",
    "model_to_bytes",
    "of_later_versions",
    "part_file",
    "payload_file",
    "reading",
    "remedy_of",
    "traces",
    "undamaged",
]

STATE_FOLDER = Path("state/coordinator")
"""Where a run's state is as long as nobody says otherwise."""

BLOBS = "blobs"
"""Folder of the large files in the state folder."""

TRANSFERS = "transfers"
"""Folder of the updates that are arriving."""

STATUS = "status.json"
"""What tells others of a run; a coordinator writes it once it has opened its database."""

PRESENCE = "nodes.json"
"""What tells others when each node was last heard, and who came and went."""

NO_RUN = (
    "has a coordinator run with this store? --state names its folder, --config its settings;"
    " coordinator demo keeps its run with --keep DIR"
)
"""What to do where a folder has no run."""

NO_COORDINATOR = (
    "no coordinator has run with this state folder: a simulation has kept it, or it was restored and not started yet"
)
"""Why a folder that has a run does not say what is waited for."""

FORMER_STATUS = ("counters.json", "stopping.json", "waiting.json")
"""The same of earlier releases."""


def model_file(version: int) -> str:
    """Name of the file with a version's arrays."""
    return f"model-{version}.safetensors"


def part_file(part: ModelPart) -> str:
    """Name of the file with a part's frame."""
    return frame_file(part.kind.value, part.version)


def frame_file(kind: str, version: int) -> str:
    """The same of a part that is known by its kind and version alone."""
    return f"{kind}-{version}.frame"


def payload_file(update: str) -> str:
    """Name of the file with a large update's frame."""
    return f"update-{update}.frame"


def traces(folder: Path, database: str) -> list[str]:
    """Files that only a run leaves beside its database: none at a first start, which makes the database first."""
    found = [name for name in (f"{database}-wal", STATUS, *FORMER_STATUS) if has_content(folder / name)]
    for name in (TRANSFERS, BLOBS):
        with contextlib.suppress(OSError):
            whole = (entry.name for entry in os.scandir(folder / name) if not entry.name.endswith(TEMPORARY))
            found = [f"{name}/{one}" for one in sorted(whole)] + found
    return found


def of_later_versions(folder: Path) -> list[str]:
    """Large files that a first start cannot have left, not even one that was killed."""
    first = (model_file(0), "-0.frame")
    return [name for name in traces(folder, "") if "/" in name and not name.endswith(first)]


def remedy_of(folder: Path) -> str:
    """What to do about a coordinator's state that is lost or damaged."""
    return f"move {folder} away and restore a backup (coordinator restore FILE), or begin with an empty store.folder"


def blob_digest(body: bytes) -> bytes:
    """16 bytes: BLAKE2b of a file's content."""
    return blake2b(body, digest_size=16).digest()


def model_to_bytes(model: ModelState) -> bytes:
    """Write a version's arrays as safetensors."""
    import safetensors.numpy  # noqa: PLC0415 - whoever shows a run loads no arrays

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
    import safetensors.numpy  # noqa: PLC0415 - as above

    from update_codec import Vectors  # noqa: PLC0415 - as above

    with reading(f"model of version {version}"):
        try:
            tensors: Mapping[str, np.ndarray] = safetensors.numpy.load(body)
        except safetensors.SafetensorError as error:
            raise ValueError(error) from error
        shadow = Vectors(tensors["shadow.parameters"], tensors["shadow.statistics"], tensors["shadow.counters"])
    prefix = "strategy."
    return ModelState(
        version=version,
        shadow=shadow,
        exact=tensors.get("exact.parameters"),
        strategy={name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)},
    )


def manifest_of(body: bytes, folder: Path) -> "Manifest":
    """Read the manifest that the store in ``folder`` has.

    Raises:
        DamagedStore: It is none.
    """
    from update_codec import CodecError, Manifest  # noqa: PLC0415 - as for the arrays

    try:
        return Manifest.from_bytes(body)
    except (CodecError, TypeError) as error:
        raise DamagedStore(f"the manifest in {folder} is damaged: {error}") from error


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn every way in which a file or a row can be unreadable into a `StorageError`."""
    try:
        yield
    except DamagedRow as error:
        raise DamagedStore(f"the {what} cannot be read: {error}") from error
    except (SqliteError, OSError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise StorageError(f"the {what} cannot be read: {error}") from error


@contextmanager
def undamaged(folder: Path) -> Iterator[None]:
    """Turn what only a damaged row can raise into a `DamagedStore` that says what to do; not what the disk says."""
    try:
        yield
    except (DamagedRow, KeyError, ValueError, TypeError, OverflowError) as error:
        raise DamagedStore(f"the state in {folder} cannot be read: {error}: {remedy_of(folder)}") from error


SUM_BYTES = 8
"""Bytes of the sum that is kept beside every chunk."""


class TransferFiles:
    """One folder of large updates that are arriving: a file for the chunks and one for their sums, without fsyncs.

    At a restart only chunks whose sum is right count as arrived, so a killed process loses nothing and a power cut
    costs sending again what the disk had not kept.

    Args:
        folder: Where; created when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def write(self, update: UpdateId, start: int, index: int, body: bytes) -> None:
        """Keep a chunk that begins at byte ``start``; the sum comes after the body, so a half-written one is no chunk.

        Raises:
            OSError: The disk is full or broken.
        """
        _write_at(self._body(update), start, body)
        _write_at(self._sums(update), index * SUM_BYTES, _sum(body))

    def arrived(self, update: UpdateId, payload_bytes: int, chunk_bytes: int) -> frozenset[int]:
        """Which chunks are here and whole."""
        try:
            with open_file(Path(self._sums(update))) as file:
                sums = file.read()
            with open_file(Path(self._body(update))) as file:
                chunks = -(-payload_bytes // chunk_bytes)
                return frozenset(
                    index
                    for index in range(chunks)
                    if _sum(file.read(min(chunk_bytes, payload_bytes - index * chunk_bytes)))
                    == sums[index * SUM_BYTES : (index + 1) * SUM_BYTES]
                )
        except OSError:
            return frozenset()

    def read(self, update: UpdateId) -> bytes:
        """Everything that has arrived; raises `OSError` when there is nothing."""
        with open_file(Path(self._body(update))) as file:
            return file.read()

    def delete(self, update: UpdateId) -> None:
        """Remove what there is."""
        for file in (self._body(update), self._sums(update)):
            Path(file).unlink(missing_ok=True)

    def clear_all_but(self, updates: frozenset[UpdateId]) -> None:
        """Remove what belongs to no open transfer."""
        kept = {file for update in updates for file in (self._body(update), self._sums(update))}
        for entry in os.scandir(self._folder):
            if entry.path not in kept:
                Path(entry.path).unlink(missing_ok=True)

    def _body(self, update: UpdateId) -> str:
        return f"{self._folder}/{update}.chunks"

    def _sums(self, update: UpdateId) -> str:
        return f"{self._folder}/{update}.sums"


def _sum(body: bytes) -> bytes:
    return blake2b(body, digest_size=SUM_BYTES).digest()


def _write_at(path: str, offset: int, body: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        written = 0
        while written < len(body):
            written += os.pwrite(handle, body[written:], offset + written)
    finally:
        os.close(handle)
