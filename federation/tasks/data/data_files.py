"""This device's own data from files: a CSV table, NumPy arrays, or a folder of pictures.

```python
from federation.tasks import TorchTask, csv_data

def build(context):
    data = csv_data(context, "readings.csv", target="state", classes=("ok", "worn"))
    return TorchTask(context, model=..., loss=..., train_data=data.train, test_data=data.test, classes=data.classes)
```

Nothing is read before it is needed, so that a coordinator without data can build the task.
"""

import csv
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.picture import PictureInput
from federation.task import Array, TaskContext
from update_codec import CodecError
from update_codec.files import read_npy

__all__ = ["OwnData", "csv_data", "image_data", "numpy_data"]

BYTES_MAX = 4 << 30
"""More pictures than fit this many bytes once unpacked are refused; a Dataset reads them lazily."""

PICTURE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_SHUFFLE_SEED = 20_260
"""One division into training and test for every start of a device."""

_UNREADABLE = (OSError, CodecError, LookupError, ValueError, RuntimeError, MemoryError, BadZipFile, zlib.error)
"""What reading arrays raises; `RuntimeError` is an archive with a password, or one packed in an unknown way."""

Examples = tuple[Array, Array]
"""Inputs and targets."""


@dataclass(frozen=True)
class OwnData:
    """The examples of one device; give `train` and `test` to `TorchTask` as they are, without calling them.

    Attributes:
        read: Reads all inputs and targets.
        classes: Names of the classes; empty for numbers.
        test_share: The share that is held out of the training.
    """

    read: Callable[[], Examples]
    classes: Sequence[str] = ()
    test_share: float = 0.2

    def train(self) -> Examples:
        """The examples to train on.

        Raises:
            TaskError: The data cannot be read.
        """
        order, held_out = self._order
        return self._arrays[0][order[held_out:]], self._arrays[1][order[held_out:]]

    def test(self) -> Examples:
        """The examples that are held out.

        Raises:
            TaskError: The data cannot be read, or none are held out.
        """
        order, held_out = self._order
        if held_out == 0:
            raise TaskError("no example is held out: give test_share, or no test_data")
        return self._arrays[0][order[:held_out]], self._arrays[1][order[:held_out]]

    @cached_property
    def _arrays(self) -> Examples:
        inputs, targets = self.read()
        if len(inputs) != len(targets) or len(inputs) < 2:
            raise TaskError(f"{len(inputs)} inputs and {len(targets)} targets: need as many of each, at least two")
        return inputs, targets

    @cached_property
    def _order(self) -> tuple[NDArray[np.int64], int]:
        if not 0 <= self.test_share < 1:
            raise TaskError(f"test_share must be at least 0 and below 1, not {self.test_share}")
        count = len(self._arrays[0])
        held_out = min(count - 1, max(1, round(self.test_share * count))) if self.test_share else 0
        return np.random.default_rng(_SHUFFLE_SEED).permutation(count), held_out


def csv_data(
    context: TaskContext,
    name: str,
    *,
    target: str,
    classes: Sequence[str] = (),
    features: Sequence[str] | None = None,
    test_share: float = 0.2,
) -> OwnData:
    """A table whose first line names the columns; the separator is a comma, a semicolon or a tab.

    Args:
        context: Has the data folder (``--data``).
        name: The file in it.
        target: The column to predict.
        classes: What the target column can say, in the same order on every device; empty: it is a number.
        features: The columns to predict from, numbers all; None is every other column.
        test_share: The share of rows that is held out.

    Returns:
        Inputs, float32 of shape (n, features); targets, int64 of shape (n,) for classes, else float32 of shape (n, 1).
    """
    return OwnData(lambda: _read_csv(_path(context, name), target, classes, features), tuple(classes), test_share)


def numpy_data(
    context: TaskContext,
    inputs: str,
    targets: str | None = None,
    *,
    classes: Sequence[str] = (),
    test_share: float = 0.2,
) -> OwnData:
    """Arrays: two ``.npy`` files, or one ``.npz`` file with the arrays ``x`` and ``y``; pickled objects are refused.

    Args:
        context: Has the data folder (``--data``).
        inputs: File in it: the inputs, or both.
        targets: File with the targets, where there are two.
        classes: Names of the classes, where the targets are whole numbers from 0.
        test_share: The share of rows that is held out.
    """
    return OwnData(
        lambda: _read_numpy(_path(context, inputs), None if targets is None else _path(context, targets)),
        tuple(classes),
        test_share,
    )


def image_data(
    context: TaskContext, name: str, *, classes: Sequence[str], picture: PictureInput, test_share: float = 0.2
) -> OwnData:
    """A folder with one folder of pictures for each class; a device need not have pictures of every class.

    Args:
        context: Has the data folder (``--data``).
        name: The folder in it; ``.`` is the data folder itself.
        classes: Names of the folders, in the same order on every device.
        picture: What every picture is made into; give it to `TorchTask` too.
        test_share: The share of pictures that is held out.
    """
    return OwnData(lambda: _read_images(_path(context, name), classes, picture), tuple(classes), test_share)


def _path(context: TaskContext, name: str) -> Path:
    if context.data is None:
        raise TaskError(f"{name} is looked for in the data folder, and none is given: --data DIR")
    path = context.data / name
    if not path.exists():
        raise TaskError(f"there is no {path}: give the folder that has {name} as --data")
    return path


def _read_csv(path: Path, target: str, classes: Sequence[str], features: Sequence[str] | None) -> Examples:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            separator = max(",;\t", key=header.count)
            names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
            rows = [row for row in csv.reader(file, delimiter=separator) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"{path} cannot be read: {error}") from error
    wanted = [name for name in names if name != target] if features is None else list(features)
    missing = [name for name in [target, *wanted] if name not in names]
    if missing or not wanted:
        raise TaskError(f"{path} has no column {', '.join(missing) or 'to predict from'}: it has {', '.join(names)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise TaskError(f"{path} line {number}: {len(row)} values, and {len(names)} columns")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
    inputs = np.stack([_numbers(path, name, columns[name]) for name in wanted], axis=1)
    if classes:
        return inputs, _class_numbers(path, target, columns[target], classes)
    return inputs, _numbers(path, target, columns[target])[:, None]


def _numbers(path: Path, name: str, values: Sequence[str]) -> NDArray[np.float32]:
    found = np.empty(len(values), np.float32)
    for index, value in enumerate(values):
        try:
            found[index] = float(value)
        except ValueError:
            raise TaskError(f"{path} line {index + 2}: {name} is {value!r}, which is no number") from None
        if not np.isfinite(found[index]):
            raise TaskError(f"{path} line {index + 2}: {name} is {value!r}, which is not finite")
    return found


def _class_numbers(path: Path, name: str, values: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    number_of = {each: number for number, each in enumerate(classes)}
    try:
        return np.array([number_of[value.strip()] for value in values], np.int64)
    except KeyError as error:
        raise TaskError(f"{path}: {name} is {error}, and the classes are {', '.join(classes)}") from None


def _read_numpy(inputs: Path, targets: Path | None) -> Examples:
    try:
        if targets is not None:
            return _read_npy(inputs), _read_npy(targets)
        with ZipFile(inputs) as archive:
            return _unpacked(archive, "x.npy"), _unpacked(archive, "y.npy")
    except (
        OSError,
        CodecError,
        LookupError,
        ValueError,
        NotImplementedError,
        MemoryError,
        BadZipFile,
        zlib.error,
    ) as why:
        wanted = "two .npy files" if targets is not None else "one .npz file with x and y"
        raise TaskError(f"{inputs} cannot be read as {wanted}: {why}") from why


def _read_npy(path: Path) -> Array:
    with path.open("rb") as file:
        return read_npy(file, path.stat().st_size, path.name)


def _unpacked(archive: ZipFile, name: str) -> Array:
    """One array of an .npz file, whose bytes are counted before they are unpacked."""
    size = archive.getinfo(name).file_size
    if size > BYTES_MAX:
        raise ValueError(f"{name} has {size:,} bytes: at most {BYTES_MAX:,} are read")
    with archive.open(name) as file:
        return read_npy(file, size, name)


def _read_images(folder: Path, classes: Sequence[str], picture: PictureInput) -> Examples:
    strange = sorted(one.name for one in folder.iterdir() if one.is_dir() and one.name not in classes)
    if strange:
        raise TaskError(f"{folder} has a folder {strange[0]}, which is no class: they are {', '.join(classes)}")
    found = [
        (path, number)
        for number, name in enumerate(classes)
        for path in sorted((folder / name).glob("*"))
        if path.suffix.lower() in PICTURE_SUFFIXES
    ]
    if 4 * len(found) * int(np.prod(picture.shape)) > BYTES_MAX:
        raise TaskError(f"{len(found):,} pictures do not fit memory: give TorchTask a Dataset that reads them lazily")
    inputs = np.empty((len(found), *picture.shape), np.float32)
    for index, (path, _) in enumerate(found):
        inputs[index] = picture.read(path)[0]
    return inputs, np.array([number for _, number in found], np.int64)
