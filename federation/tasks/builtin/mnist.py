"""MNIST as arrays: read from a given folder, or downloaded once by torchvision."""

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError

Examples = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images, uint8 of shape (n, 28, 28) with 0 for black, and labels, int64 of shape (n,)."""

_FOLDERS = ("", "raw", "MNIST/raw", "mnist", "mnist/raw", "mnist/MNIST/raw")
_FILE_BYTES_MAX = 64 << 20
"""The largest file of the set has 47,040,016 bytes when unpacked."""


def mnist(data: Path | None, *, train: bool) -> Examples:
    """The 60,000 training or the 10,000 test examples.

    Args:
        data: Folder that has the idx files (plain or .gz), itself or below ``mnist`` or ``MNIST/raw``; None downloads
            them into the user's cache folder, unless they are there.
        train: Which of the two sets.

    Raises:
        TaskError: The files are not there, cannot be downloaded, or are not what they should be.
    """
    folder = _find(data) if data is not None else _find_or_download()
    stem = "train" if train else "t10k"
    images = read_idx(_file(folder, f"{stem}-images-idx3-ubyte"))
    labels = read_idx(_file(folder, f"{stem}-labels-idx1-ubyte"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise TaskError(f"{folder}: {images.shape} images and {labels.shape} labels do not belong together")
    return images, labels.astype(np.int64)


def scaled(images: NDArray[np.uint8], *, mean: float = 0.0, deviation: float = 1.0) -> NDArray[np.float32]:
    """(image / 255 - mean) / deviation as float32: 0 and 1 give [0, 1]; 0.5 and 0.5 give [-1, 1].

    Divide among nodes first: floats take four times the memory.
    """
    return (images.astype(np.float32) / np.float32(255) - np.float32(mean)) / np.float32(deviation)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of bytes, plain or gzip: magic (0, 0, 8, dimensions), big-endian sizes, data.

    Raises:
        TaskError: The file is not such a file, or too large.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path} cannot be read: {error}") from error
    if len(content) > _FILE_BYTES_MAX or len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 3:
        raise TaskError(f"{path} is no idx file of bytes")
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if len(content) <= start or len(content) - start != math.prod(shape):
        raise TaskError(f"{path} is empty or not complete")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def cache_folder() -> Path:
    """Where downloaded data lies: ``fedmq`` below the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedmq"


def _find(data: Path) -> Path:
    for folder in _candidates(data):
        return folder
    raise TaskError(
        f"no MNIST files in {data}: it needs train-images-idx3-ubyte.gz and its three companions "
        f"(there or in one of {', '.join(name for name in _FOLDERS if name)}); without a folder they are downloaded"
    )


def _candidates(data: Path) -> Iterator[Path]:
    for name in _FOLDERS:
        for suffix in (".gz", ""):
            if (data / name / f"train-images-idx3-ubyte{suffix}").is_file():
                yield data / name


def _file(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() else folder / name


def _find_or_download() -> Path:
    cache = cache_folder()
    for folder in _candidates(cache):
        return folder
    try:
        from federation.tasks.builtin.vision_compat import import_torchvision  # noqa: PLC0415 - slow, and needed once

        cache.mkdir(parents=True, exist_ok=True)
        import_torchvision().datasets.MNIST(str(cache), download=True)
    except (OSError, RuntimeError, ImportError) as error:
        raise TaskError(
            f"MNIST cannot be downloaded ({error}): give the folder with its four idx files as data (--data DIR), "
            "or use the task 'digits', which needs no download"
        ) from error
    return _find(cache)
