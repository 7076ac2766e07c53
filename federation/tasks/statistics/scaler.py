"""A scaler file: mean and standard deviation of each column, over all nodes, named by the digest of its bytes.

Every node puts its inputs on the same scale with it. It is JSON: people read it, a device without this package too::

    {"format": "fedmq-scaler/1", "columns": {"heat": {"mean": 50.1, "std": 0.3, "min": 48.9, "max": 51.2}}}
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.documents import read_json
from federation.errors import StorageError, TaskError

__all__ = ["FORMAT", "ScaledColumn", "Scaler"]

FORMAT: Final = "fedmq-scaler/1"
BYTES_MAX: Final = 16 << 20
"""A larger file is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledColumn:
    """One column.

    Attributes:
        name: Its name.
        mean: Over all rows of all nodes.
        std: Standard deviation (of the population), above 0; 1 for a column that never changes.
        minimum: No value is below.
        maximum: No value is above.
    """

    name: str
    mean: float
    std: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of columns, in the order of the model's inputs.

    Attributes:
        columns: The columns.
    """

    columns: tuple[ScaledColumn, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot scale.

        Raises:
            TaskError: It names the column.
        """
        names = [column.name for column in self.columns]
        if not names or len(set(names)) != len(names):
            raise TaskError("a scaler needs columns, each once")
        for column in self.columns:
            numbers = (column.mean, column.std, column.minimum, column.maximum)
            if not all(map(math.isfinite, numbers)) or not column.std > 0:
                raise TaskError(f"the scaler cannot scale {column.name}: mean {column.mean}, std {column.std}")

    @classmethod
    def read(cls, path: Path | str, digest: str = "") -> "Scaler":
        """Read a file that `write` made.

        Args:
            path: The file.
            digest: The begin of the file's SHA-256, in hexadecimal digits; empty takes any.

        Raises:
            TaskError: It cannot be read, is no scaler file, or another one.
        """
        try:
            content = _content(Path(path))
            scaler = cls(tuple(_column(name, said) for name, said in read_json(content)["columns"].items()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TaskError(f"{path} cannot be read as a scaler file: {error or type(error).__name__}") from error
        if not (found := sha256(content).hexdigest()).startswith(digest):
            raise TaskError(f"the scaler {path} has the digest {found[:12]}, and {digest[:12]} is wanted")
        return scaler

    def write(self, path: Path | str) -> None:
        """Write the file.

        Raises:
            StorageError: It cannot be written.
        """
        try:
            Path(path).write_bytes(self.to_bytes())
        except OSError as error:
            raise StorageError(f"the scaler cannot be written to {path}: {error}") from error

    def to_bytes(self) -> bytes:
        """The file's content: the same columns and numbers, the same bytes."""
        columns = {
            each.name: {"mean": each.mean, "std": each.std, "min": each.minimum, "max": each.maximum}
            for each in self.columns
        }
        return (json.dumps({"format": FORMAT, "columns": columns}, indent=1) + "\n").encode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file's content, 64 hexadecimal digits."""
        return sha256(self.to_bytes()).hexdigest()

    @property
    def label(self) -> str:
        """How it is told from another one in a message."""
        return self.digest[:12]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Shape (columns,)."""
        return np.array([column.mean for column in self.columns])

    @property
    def std(self) -> NDArray[np.float64]:
        """Shape (columns,), all above 0."""
        return np.array([column.std for column in self.columns])

    def of(self, names: Sequence[str]) -> "Scaler":
        """The scaler of these columns, in this order.

        Raises:
            TaskError: It lacks one.
        """
        known = {column.name: column for column in self.columns}
        if missing := [name for name in names if name not in known]:
            raise TaskError(f"the scaler {self.label} lacks {', '.join(missing)}: it has {', '.join(known)}")
        return Scaler(tuple(known[name] for name in names))

    def apply(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values of shape (..., columns) on the common scale: float32, mean 0 and standard deviation 1 over all nodes.

        Raises:
            TaskError: They have another number of columns.
        """
        if values.ndim == 0 or values.shape[-1] != len(self.columns):
            raise TaskError(f"the scaler {self.label} has {len(self.columns)} columns, not {values.shape[-1:]}")
        return np.asarray((values.astype(np.float64) - self.mean) / self.std, np.float32)


def _content(path: Path) -> bytes:
    if path.stat().st_size > BYTES_MAX:
        raise ValueError(f"it has more than {BYTES_MAX} bytes")
    content = path.read_bytes()
    if (found := read_json(content)["format"]) != FORMAT:
        raise ValueError(f"its format is {found!r}, not {FORMAT!r}")
    return content


def _column(name: str, said: Mapping[str, Any]) -> ScaledColumn:
    numbers = [said[key] for key in ("mean", "std", "min", "max")]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        raise ValueError(f"the column {name} has something else than numbers")
    mean, std, minimum, maximum = map(float, numbers)
    return ScaledColumn(name=name, mean=mean, std=std, minimum=minimum, maximum=maximum)
