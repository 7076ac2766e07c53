"""Data frames as arrays: rows by their place, columns by their names, and numbers only.

pandas, polars and pyarrow are told by what they offer, so that none of them need be installed.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.tasks.data.table_spec import normal, twice
from federation.tasks.data.tables import coarse_in

__all__ = [
    "ByName",
    "by_name",
    "columns_of",
    "frame_numbers",
    "in_float32",
    "is_frame",
    "number_objects",
    "refuse_other_rows",
    "rows_at",
]

F32_MAX = float(np.finfo(np.float32).max)
TIMES = ("datetime", "timestamp", "Datetime", "period", "date", "time", "duration")
"""How the types of columns begin that have times, where they are no numbers of NumPy."""

VALUE_SHOWN = 40
"""Characters of a value that an error tells."""


def is_frame(values: Any) -> bool:
    """Whether this is a data frame, whose columns may be of several kinds.

    Raises:
        TaskError: It is one that has read nothing yet.
    """
    kind = type(values)
    if kind.__name__ == "LazyFrame":
        raise TaskError("the data is a LazyFrame, which has read nothing yet: give what its collect() returns")
    has_columns = hasattr(kind, "columns") or hasattr(kind, "column_names")
    return has_columns and any(hasattr(kind, name) for name in ("iloc", "get_column", "column"))


def rows_at(values: Any, rows: NDArray[np.int64]) -> Any:
    """Some rows of an array, a tensor, a frame or one of its columns, by their places.

    A frame's own brackets take columns, and a series' what its index calls so.
    """
    kind = type(values)
    if hasattr(kind, "iloc"):
        return values.iloc[rows]
    return values.take(rows) if hasattr(kind, "combine_chunks") else values[rows]


@dataclass
class ByName:
    """A function that gives a node's own data, of whose frame the columns are taken by their names.

    Attributes:
        read: The function.
        features: The columns that are wanted, in their order; empty takes all as they are.
        columns: Those of the frame that was given last; empty where there was none.
    """

    read: Callable[[], Any]
    features: tuple[str, ...] = ()
    columns: tuple[str, ...] = field(default=(), init=False)

    def __call__(self) -> Any:
        """What the function gives.

        Raises:
            TaskError: A column is missing, or there twice.
        """
        data = by_name(self.read(), self.features)
        self.columns = columns_of(data)
        return data


def by_name(data: Any, features: Sequence[str]) -> Any:
    """The same data with the columns of the inputs' frame in this order, also of what a function will give.

    Args:
        data: What a task was given: of anything but a frame with targets, and a function, nothing changes.
        features: The columns that are wanted, in their order; others are passed over. Empty takes all as they are.

    Raises:
        TaskError: A column is missing, or there twice.
    """
    if isinstance(data, ByName):
        return ByName(data.read, tuple(features))
    if (inspect.isfunction(data) or isinstance(data, partial)) and not hasattr(data, "__self__"):
        return ByName(data, tuple(features))
    if not features or not _has_frame(data):
        return data
    frame, *rest = data
    names = _names(frame)
    places = _places(names, features)
    kind = type(frame)
    if hasattr(kind, "iloc"):
        return (frame.iloc[:, places], *rest)
    return (frame.select([names[place] for place in places]), *rest)


def columns_of(data: Any) -> tuple[str, ...]:
    """Names of the inputs' columns, where they are a frame's and all text; empty where nothing is known (yet)."""
    if isinstance(data, ByName):
        return data.columns
    names = _names(data[0]) if _has_frame(data) else []
    return tuple(map(normal, names)) if all(isinstance(name, str) for name in names) else ()


def _has_frame(data: Any) -> bool:
    return isinstance(data, tuple | list) and len(data) > 1 and is_frame(data[0])


def refuse_other_rows(inputs: Any, targets: Any) -> None:
    """Refuse targets whose index names the inputs' rows in another order: rows are taken by their places.

    An index that only counts names nothing.

    Args:
        inputs: A data frame with an index; of anything else nothing is known.
        targets: The same, or a column of one.

    Raises:
        TaskError: It names the first row whose target is another row's.
    """
    if not (hasattr(type(inputs), "iloc") and hasattr(type(targets), "iloc")) or len(inputs) != len(targets):
        return
    of_inputs, of_targets = (list(each.index) for each in (inputs, targets))
    if of_targets in (of_inputs, list(range(len(of_targets)))):
        return
    if len(set(of_targets)) < len(of_targets) or set(of_inputs) != set(of_targets):
        return
    row = next(place for place, each in enumerate(of_inputs) if each != of_targets[place])
    raise TaskError(
        "the index of the targets has the rows in another order than that of the inputs: row"
        f" {row} is {of_inputs[row]!r} in the inputs and {of_targets[row]!r} in the targets. Give"
        " targets.loc[inputs.index], or reset_index(drop=True) on both if their places are right"
    )


def frame_numbers(frame: Any, *, fine: bool = True) -> NDArray[Any]:
    """A frame as one array.

    Args:
        frame: See `is_frame`.
        fine: Refuse a column whose numbers float32 cannot tell apart.

    Returns:
        Of shape (rows, columns): int64 where all are whole numbers or all truth values, else float32. A value that is
        missing is NaN.

    Raises:
        TaskError: A column is there twice, or has no numbers: it names the column, and what to do.
    """
    names = _names(frame)
    columns = [(_said(names[place]), _numbers(frame, names, place)) for place in _places(names)]
    kinds = {column.dtype.kind.replace("u", "i") for _, column in columns}
    to_kind = _to_int64 if kinds in ({"i"}, {"b"}) else partial(_to_float32, fine=fine)
    return np.stack([to_kind(column, whose) for whose, column in columns], axis=1)


def in_float32(values: NDArray[Any], whose: str) -> NDArray[np.float32]:
    """The same in float32.

    Args:
        values: Floats of any shape.
        whose: Said before the number, such as ``the data``.

    Raises:
        TaskError: A number is finite, and not in float32.
    """
    with np.errstate(over="ignore"):
        found = values.astype(np.float32, copy=False)
    if found is not values and np.isinf(found).any() and (lost := np.isinf(found) & np.isfinite(values)).any():
        place = tuple(map(int, np.argwhere(lost)[0]))
        column = f", column {', '.join(map(str, place[1:]))}" if place[1:] else ""
        raise TaskError(
            f"{whose} has {values[place]:g} in row {place[0] if place else 0}{column}, and float32 ends at"
            f" {F32_MAX:.3g}: divide it, or leave it out"
        )
    return found


def _names(frame: Any) -> list[Any]:
    # Asked of its type: a column may be called like an attribute.
    return list(frame.column_names if hasattr(type(frame), "column_names") else frame.columns)


def _column(frame: Any, place: int) -> Any:
    kind = type(frame)
    if hasattr(kind, "iloc"):
        return frame.iloc[:, place]
    return frame.to_series(place) if hasattr(kind, "to_series") else frame.column(place)


def _places(names: Sequence[Any], features: Sequence[str] = ()) -> list[int]:
    spelled = [normal(name) if isinstance(name, str) else name for name in names]
    wanted: Sequence[Any] = [normal(name) for name in features] or spelled
    if not names:
        raise TaskError("the data has no column")
    if missing := [name for name in wanted if name not in spelled]:
        raise TaskError(f"the data has no column {', '.join(missing)}: it has {', '.join(map(str, names))}")
    # Numbers that nobody chose come twice wherever two frames are put side by side.
    if double := twice([name for name in spelled if name in wanted and not isinstance(name, int)]):
        both = " and ".join(str(place) for place, name in enumerate(spelled) if name == double)
        raise TaskError(f"columns {both} of the data are both called {double!r}: rename one, or leave it out")
    return [spelled.index(name) for name in features] if features else list(range(len(names)))


def _said(name: Any) -> str:
    return f"column {name!r} of the data"


def _numbers(frame: Any, names: Sequence[Any], place: int) -> NDArray[Any]:
    """One column: floats, whole numbers or truth values; of shape (rows,)."""
    column, whose = _column(frame, place), _said(names[place])
    values = np.asarray(column)
    if values.dtype.kind in "fiub" and values.ndim == 1:
        return values
    kind = getattr(column, "dtype", getattr(column, "type", values.dtype))
    if values.dtype.kind in "mM" or str(kind).startswith(TIMES):
        raise TaskError(f"{whose} is {kind}: give seconds since a fixed time as a number, or leave it out")
    return number_objects(values, f"{whose} is {kind}")


def number_objects(values: NDArray[Any], whose: str) -> NDArray[Any]:
    """Numbers of Python's own kinds as an array of the same shape.

    Args:
        values: Of shape (rows,) or (rows, columns), of any type.
        whose: Said before the value that is no number, such as ``the data is object``.

    Returns:
        int64 or bool where all of a column are such, else float64 with NaN for what is missing; the widest for all.

    Raises:
        TaskError: One is no number.
    """
    if values.ndim > 1 and values.shape[1]:
        columns = [number_objects(values[:, place], f"column {place} of {whose}") for place in range(values.shape[1])]
        return np.stack(columns, axis=1)
    found = values.tolist()
    for row, value in enumerate(found):
        if value is None or type(value).__name__ == "NAType":
            found[row] = math.nan
        elif not isinstance(value, Real | Decimal | np.bool_):
            raise TaskError(
                f"{whose}, and must be numbers: row {row} has {repr(value)[:VALUE_SHOWN]}. Encode it, the same on every"
                " node, or leave it out"
            )
    if all(isinstance(value, bool | np.bool_) for value in found):
        return np.array(found, np.bool_)
    if all(isinstance(value, Integral) and abs(int(value)) < 1 << 63 for value in found):
        return np.array(found, np.int64)
    return np.array(found, np.float64)


def _to_int64(column: NDArray[Any], whose: str) -> NDArray[np.int64]:
    if column.dtype == np.uint64 and column.max(initial=0) > np.iinfo(np.int64).max:
        raise TaskError(f"{whose} has {column.max()}, and whole numbers go up to {np.iinfo(np.int64).max}")
    return column.astype(np.int64)


def _to_float32(column: NDArray[Any], whose: str, *, fine: bool) -> NDArray[np.float32]:
    found = in_float32(column, whose)
    if fine and column.dtype.kind != "b" and column.dtype.itemsize > 2:
        wide = column.astype(np.float64)
        if problem := coarse_in(wide[np.isfinite(wide)]):
            raise TaskError(f"{whose} {problem}, or leave it out")
    return found
