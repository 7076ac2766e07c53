"""The tasks on MNIST, and its arrays: read from a given folder, or downloaded once by torchvision.

Perceptrons are job J1 (784-128-64-10), J3 (logistic regression) and J0 (784-256-10); J4 is a small convolutional
network with two label shards per node.
"""

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.picture import PictureInput
from federation.task import Parameters, TaskContext
from federation.tasks.builtin.mlp import cross_entropy, initial_mlp, mlp
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.torch_task import TorchTask

if TYPE_CHECKING:
    from torch.nn import Module

Examples = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images, uint8 of shape (n, 28, 28) with 0 for black, and labels, int64 of shape (n,)."""

_FOLDERS = ("", "raw", "MNIST/raw", "mnist", "mnist/raw", "mnist/MNIST/raw")
_FILE_BYTES_MAX = 64 << 20
"""The largest file of the set has 47,040,016 bytes when unpacked."""

MEAN, DEVIATION = 0.1307, 0.3081
"""Of all pixels of the training images, in [0, 1]."""

CHANNELS = (8, 16)


def build_mlp(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``mnist-mlp``: images in [-1, 1]."""
    return _perceptron(context, (784, 128, 64, 10), mean=0.5, deviation=0.5)


def build_logreg(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``mnist-logreg``: images in [0, 1]."""
    return _perceptron(context, (784, 10), mean=0.0, deviation=1.0)


def build_wide(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``mnist-wide``: images standardised, full-batch steps."""
    return _perceptron(context, (784, 256, 10), mean=MEAN, deviation=DEVIATION)


def _perceptron(context: TaskContext, widths: tuple[int, ...], *, mean: float, deviation: float) -> TorchTask:
    prepare = partial(scaled, mean=mean, deviation=deviation)
    return TorchTask(
        context,
        model=partial(mlp, *widths),
        train_data=WholeData(partial(mnist, context.data, train=True), prepare=prepare),
        test_data=WholeData(partial(mnist, context.data, train=False), prepare=prepare),
        loss=cross_entropy,
        picture=PictureInput(height=28, width=28, dark_background=True, mean=mean, deviation=deviation),
        classes=tuple("0123456789"),
        initial=partial(initial_mlp, widths),
    )


def build_cnn(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``mnist-cnn``."""
    return TorchTask(
        context,
        model=network,
        train_data=WholeData(partial(mnist, context.data, train=True), prepare=pictures),
        test_data=WholeData(partial(mnist, context.data, train=False), prepare=pictures),
        loss=cross_entropy,
        split="shards:2",
        picture=PictureInput(height=28, width=28, dark_background=True),
        classes=tuple("0123456789"),
        initial=initial_network,
    )


def network() -> "Module":
    """Two convolutions of stride 2 and a linear layer: 9,226 parameters."""
    import torch  # noqa: PLC0415 - costs a second and 200 MB: only where the model is made

    first, second = CHANNELS
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, first, 5, stride=2, padding=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(first, second, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(second * 49, 10),
    )


def initial_network(seed: int) -> Parameters:
    """Initial tensors of `network`, float32, distributed as torch draws them, but the same bits everywhere."""
    rng, (first, second) = np.random.default_rng(abs(seed)), CHANNELS
    parameters: dict[str, NDArray[np.float32]] = {}
    for layer, shape in ((0, (first, 1, 5, 5)), (2, (second, first, 3, 3)), (5, (10, second * 49))):
        bound = np.float32(1 / np.sqrt(np.prod(shape[1:])))
        for name, size in (("weight", shape), ("bias", shape[:1])):
            parameters[f"{layer}.{name}"] = (rng.random(size, dtype=np.float32) * 2 - 1) * bound
    return parameters


def pictures(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images in [0, 1] with one channel, float32 of shape (n, 1, 28, 28)."""
    return scaled(images)[:, np.newaxis]


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
        from federation.tasks.training.vision_compat import import_torchvision  # noqa: PLC0415 - slow, and needed once

        cache.mkdir(parents=True, exist_ok=True)
        import_torchvision().datasets.MNIST(str(cache), download=True)
    except (OSError, RuntimeError, ImportError) as error:
        raise TaskError(
            f"MNIST cannot be downloaded ({error}): give the folder with its four idx files as data (--data DIR), "
            "or use the task 'digits', which needs no download"
        ) from error
    return _find(cache)
