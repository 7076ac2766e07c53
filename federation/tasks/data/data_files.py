"""This device's own data from files: a CSV table, NumPy arrays, or a folder of pictures.

```python
from federation.tasks import TorchTask, csv_data

def build(context):
    data = csv_data(context, "readings.csv", target="state", classes=("ok", "worn"))
    return TorchTask(context, model=..., loss=..., train_data=data.train, test_data=data.test, classes=data.classes)
```

Nothing is read before it is needed, so that a coordinator without data can build the task.
"""

import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.inputs import Inputs
from federation.picture import PictureInput
from federation.task import Array, TaskContext
from federation.tasks.data.table_spec import TableSpec, as_names
from federation.tasks.data.tables import Table, coarse_in, first_gap, read_table
from update_codec import CodecError
from update_codec.files import read_npy

__all__ = ["OwnData", "csv_data", "image_data", "numpy_data"]

BYTES_MAX = 4 << 30
"""More pictures than fit this many bytes once unpacked are refused; a Dataset reads them lazily."""

PICTURE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
OTHER_PICTURES = frozenset(
    {".avif", ".cr2", ".dcm", ".dng", ".exr", ".hdr", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".psd", ".svg", ".tga"}
)
"""Pictures that are not read: refused by name, for whoever has them would train without them."""

PICTURE_BEGINS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
"""Of PNG, JPEG, GIF and TIFF."""

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
"""What systems put beside people's folders; whatever begins with a dot is passed over, too."""

_SHUFFLE_SEED = 20_260
"""One division into training and test for every start of a device."""

_UNREADABLE = (OSError, CodecError, LookupError, ValueError, RuntimeError, MemoryError, BadZipFile, zlib.error)
"""What reading arrays raises; `RuntimeError` is an archive with a password, or one packed in an unknown way."""

Examples = tuple[Array, Array]
"""Inputs and targets."""


@dataclass
class OwnData:
    """The examples of one device; give `train` and `test` to `TorchTask` as they are, without calling them.

    Attributes:
        read: Reads all inputs and targets, with the columns and classes that are wanted, where they have names.
        classes: Names of the classes; empty for numbers.
        test_share: The share that is held out of the training.
        described: What is known before anything is read.
        by_name: Whether the data has names, so that it can be read as another description says.
    """

    read: Callable[[Inputs], Table]
    classes: Sequence[str] = ()
    test_share: float = 0.2
    described: Inputs = Inputs()  # noqa: RUF009 - it is frozen
    by_name: bool = True
    _wanted: Inputs = field(default=Inputs(), init=False, repr=False)

    def inputs(self, *, needed: bool = True) -> Inputs:
        """What the inputs and targets mean.

        Args:
            needed: Whether the data must be there; else what is known without it will do.

        Raises:
            TaskError: It is needed, and cannot be read.
        """
        features = self.described.features
        if self.described.target:
            try:
                features = self._table.features
            except TaskError:
                if needed:
                    raise
        classes = self._wanted.classes or self.described.classes
        return replace(self.described, features=features, classes=classes)

    @property
    def chosen(self) -> bool:
        """Whether the columns are those that somebody has named, or have no names."""
        return bool(self.described.features or self._wanted.features) or not self.described.target

    def adopt(self, wanted: Inputs) -> None:
        """Take columns and classes by these names from now on, where the data has names."""
        if not self.by_name:
            return
        self._wanted = wanted
        for name in ("_table", "_order"):
            self.__dict__.pop(name, None)

    def train(self) -> Examples:
        """The examples to train on.

        Raises:
            TaskError: The data cannot be read.
        """
        order, held_out = self._order
        return self._table.inputs[order[held_out:]], self._table.targets[order[held_out:]]

    def test(self) -> Examples:
        """The examples that are held out.

        Raises:
            TaskError: The data cannot be read, or none are held out.
        """
        order, held_out = self._order
        if held_out == 0:
            raise TaskError("no example is held out: give test_share, or no test_data")
        return self._table.inputs[order[:held_out]], self._table.targets[order[:held_out]]

    @cached_property
    def _table(self) -> Table:
        table = self.read(self._wanted)
        inputs, targets = table.inputs, table.targets
        if len(inputs) != len(targets) or len(inputs) < 2:
            raise TaskError(f"{len(inputs)} inputs and {len(targets)} targets: need as many of each, at least two")
        return table

    @cached_property
    def _order(self) -> tuple[NDArray[np.int64], int]:
        if not 0 <= self.test_share < 1:
            raise TaskError(f"test_share must be at least 0 and below 1, not {self.test_share}")
        count = len(self._table.inputs)
        held_out = min(count - 1, max(1, round(self.test_share * count))) if self.test_share else 0
        return np.random.default_rng(_SHUFFLE_SEED).permutation(count), held_out


def csv_data(  # noqa: PLR0913 - one argument for each way in which tables differ
    context: TaskContext,
    name: str,
    *,
    target: str,
    classes: Sequence[object] = (),
    features: Sequence[str] | None = None,
    test_share: float = 0.2,
    missing: str | float | None = None,
    decimal: str = ".",
    thousands: str | None = None,
    sep: str | None = None,
    encoding: str | None = None,
) -> OwnData:
    """A table whose first line names the columns; the separator is a comma, a semicolon, a tab or a bar.

    What is not certain is refused with its line, its column and the argument that resolves it. Empty lines, separators
    at the end of lines, columns without a name and a value, and Excel's ``sep=;`` are passed over.

    Args:
        context: Has the data folder (``--data``).
        name: The file in it.
        target: The column to predict.
        classes: What the target column can say, in the same order on every device; empty: it is a number.
        features: The columns to predict from, numbers all, in the order of the inputs. None is every other column, in
            the order of their names: the same on every device, however its table is ordered.
        test_share: The share of rows that is held out.
        missing: None refuses a cell without a value, ``"drop"`` leaves its row out, a number takes its place.
        decimal: The decimal mark: ``"."`` or ``","``.
        thousands: What stands between groups of three digits, such as ``","`` or ``" "``.
        sep: What separates cells; None finds it out.
        encoding: Such as ``"cp1252"``; None is UTF-8, or UTF-16 where the file begins with its mark.

    Returns:
        Inputs, float32 of shape (n, features); targets, int64 of shape (n,) for classes, else float32 of shape (n, 1).

    Raises:
        TaskError: An argument is none of these.
    """
    spec = TableSpec(
        target=target,
        classes=as_names(classes, "classes"),
        features=None if features is None else as_names(features, "features"),
        missing=missing,
        decimal=decimal,
        thousands=thousands,
        sep=sep,
        encoding=encoding,
    )

    def read(wanted: Inputs) -> Table:
        chosen = replace(
            spec, features=wanted.features or spec.features, classes=wanted.classes if classes else spec.classes
        )
        return read_table(_path(context, name), chosen if wanted.known else spec)

    kind = "class" if spec.classes else "number"
    known = Inputs(features=spec.features or (), classes=spec.classes, target=f"{target} ({kind})")
    return OwnData(read, spec.classes, test_share, known)


def numpy_data(
    context: TaskContext,
    inputs: str,
    targets: str | None = None,
    *,
    classes: Sequence[object] = (),
    test_share: float = 0.2,
) -> OwnData:
    """Arrays: two ``.npy`` files, or one ``.npz`` file with the arrays ``x`` and ``y``; pickled objects are refused.

    Args:
        context: Has the data folder (``--data``).
        inputs: File in it: the inputs, or both.
        targets: File with the targets, where there are two.
        classes: Names of the classes, where the targets are whole numbers from 0.
        test_share: The share of rows that is held out.

    Raises:
        TaskError: The classes are no names in a fixed order.
    """
    names = as_names(classes, "classes")

    def read(_: Inputs) -> Table:
        files = _path(context, inputs), None if targets is None else _path(context, targets)
        x, y = _checked(files, _read_numpy(*files), names)
        return Table(inputs=x, targets=y)

    return OwnData(read, names, test_share, Inputs(classes=names), by_name=False)


def image_data(
    context: TaskContext, name: str, *, classes: Sequence[object], picture: PictureInput, test_share: float = 0.2
) -> OwnData:
    """A folder with one folder of pictures for each class; a device need not have pictures of every class.

    Hidden files and those of the system are passed over; folders within a class's folder belong to the class.

    Args:
        context: Has the data folder (``--data``).
        name: The folder in it; ``.`` is the data folder itself.
        classes: Names of the folders, in the same order on every device.
        picture: What every picture is made into; give it to `TorchTask` too.
        test_share: The share of pictures that is held out.

    Raises:
        TaskError: The classes are no names in a fixed order.
    """
    names = as_names(classes, "classes")

    def read(wanted: Inputs) -> Table:
        x, y = _read_images(_path(context, name), wanted.classes or names, picture)
        return Table(inputs=x, targets=y)

    return OwnData(read, names, test_share, Inputs(classes=names))


def _path(context: TaskContext, name: str) -> Path:
    if context.data is None:
        raise TaskError(f"{name} is looked for in the data folder, and none is given: --data DIR")
    path = context.data / name
    if not path.exists():
        raise TaskError(f"there is no {path}: give the folder that has {name} as --data")
    return path


def _read_numpy(inputs: Path, targets: Path | None) -> Examples:
    try:
        if targets is not None:
            return _read_npy(inputs), _read_npy(targets)
        with ZipFile(inputs) as archive:
            return _unpacked(archive, "x.npy"), _unpacked(archive, "y.npy")
    except _UNREADABLE as why:
        wanted = "two .npy files" if targets is not None else "one .npz file with x and y"
        raise TaskError(f"{inputs} cannot be read as {wanted}: {why}") from why


def _checked(files: tuple[Path, Path | None], arrays: Examples, classes: Sequence[str]) -> Examples:
    """Arrays of finite numbers, and targets that are numbers of classes where there are any."""
    inputs, targets = arrays
    for file, name, array in ((files[0], "inputs", inputs), (files[1] or files[0], "targets", targets)):
        if array.ndim == 0 or array.dtype.kind not in "fiub":
            raise TaskError(f"{file}: the {name} are {array.dtype}{list(array.shape)}, and must be rows of numbers")
        if place := first_gap(array):
            raise TaskError(f"{file}: {place} of the {name} is not finite: fill the gap, or leave the row out")
    for column in range(inputs.shape[1] if inputs.ndim == 2 and inputs.dtype == np.float64 else 0):
        if problem := coarse_in(inputs[:, column]):
            raise TaskError(f"{files[0]}: column {column} of the inputs {problem}")
    if classes and not np.isin(targets, np.arange(len(classes))).all():
        row = int(np.argwhere(~np.isin(targets, np.arange(len(classes))))[0, 0])
        known = f"{', '.join(classes)} are 0 to {len(classes) - 1}"
        raise TaskError(f"{files[1] or files[0]}: row {row} of the targets is {targets[row]}, and {known}")
    if classes and targets.shape[1:] == (1,):
        targets = targets[:, 0]
    return inputs, targets.astype(np.int64) if classes else targets


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
    if not folder.is_dir():
        raise TaskError(f"{folder} is no folder: give one that has a folder of pictures for each class")
    folders = {unicodedata.normalize("NFC", one.name): one for one in folder.iterdir() if one.is_dir()}
    if strange := sorted(name for name in folders if name not in classes and not _is_of_the_system(name)):
        raise TaskError(f"{folder} has a folder {strange[0]}, which is no class: they are {', '.join(classes)}")
    if astray := sorted(one.name for one in folder.iterdir() if one.is_file() and _is_picture(one)):
        raise TaskError(f"{folder / astray[0]} lies beside the classes' folders: move it into one of them, or away")
    found = [
        (path, number) for number, name in enumerate(classes) if name in folders for path in _pictures(folders[name])
    ]
    if not found:
        raise TaskError(f"{folder} has no picture in the folders of its classes: {', '.join(classes)}")
    if 4 * len(found) * int(np.prod(picture.shape)) > BYTES_MAX:
        raise TaskError(f"{len(found):,} pictures do not fit memory: give TorchTask a Dataset that reads them lazily")
    inputs = np.empty((len(found), *picture.shape), np.float32)
    for index, (path, _) in enumerate(found):
        inputs[index] = picture.read(path)[0]
    return inputs, np.array([number for _, number in found], np.int64)


def _pictures(folder: Path) -> Iterator[Path]:
    """All pictures in a folder and below it, in one order."""
    for path in sorted(folder.rglob("*")):
        if any(_is_of_the_system(part) for part in path.relative_to(folder).parts):
            continue
        suffix = path.suffix.lower()
        if suffix in OTHER_PICTURES:
            raise TaskError(f"{path} is a picture that is not read: save it as PNG, TIFF or JPEG, or take it out")
        if not suffix and path.is_file() and _begins_as_picture(path):
            raise TaskError(f"{path} is a picture whose name does not say so: give it an ending, such as .png or .jpg")
        if suffix in PICTURE_SUFFIXES and path.is_symlink() and not path.exists():
            raise TaskError(f"{path} is a link to {path.readlink()}, which is not there")
        if suffix in PICTURE_SUFFIXES and path.is_file():
            yield path


def _begins_as_picture(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16).startswith(PICTURE_BEGINS)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES | OTHER_PICTURES and not _is_of_the_system(path.name)


def _is_of_the_system(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FOLDERS
