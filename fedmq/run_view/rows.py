"""Plain rows by the ten thousand: each is kept as the JSON that is sent, its numbers in arrays to sum and to sort."""

import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

from federation.documents import read_json

__all__ = ["Rows", "encoded"]

Row = Mapping[str, Any]


class Rows(Sequence[Row]):
    """Rows of one shape, which nobody changes; a row as a mapping is made when it is asked for.

    Args:
        columns: Members that are kept beside the JSON: of what type (``q`` whole numbers, ``d`` others), by name.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._lines: list[bytes] = []
        self._odd: dict[int, Row] = {}
        self._columns: dict[str, array[Any]] = {name: array(kind) for name, kind in columns.items()}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._lines)

    def __iter__(self) -> Iterator[Row]:
        """Each in order."""
        return map(self.__getitem__, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        """One of them, or some."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        odd = self._odd.get(place)
        if odd is not None:
            return odd
        row: Row = read_json(self._lines[place])
        return row

    def column(self, name: str) -> "array[Any]":
        """A member of each row.

        Raises:
            KeyError: It is not kept.
        """
        return self._columns[name]

    def line(self, place: int) -> bytes:
        """One of them as JSON."""
        return self._lines[place]

    def replaced(self, rows: Iterator[tuple[int, Row]], length: int) -> "Rows":
        """The first ``length`` of these, with these rows at these places; a place after the last one adds to them."""
        made = Rows({})
        made._lines, made._odd = (
            self._lines[:length],
            {place: row for place, row in self._odd.items() if place < length},
        )
        made._columns = {name: column[:length] for name, column in self._columns.items()}
        for place, row in rows:
            made._put(place, row)
        return made

    def sorted_by(self, order: Sequence[int | None], new: Callable[[int], Row]) -> "Rows":
        """Rows at other places: for each of them its place until now, or None for one that ``new`` makes."""
        made = Rows({})
        made._columns = {name: array(column.typecode) for name, column in self._columns.items()}
        for place, before in enumerate(order):
            if before is None:
                made._put(place, new(place))
                continue
            made._lines.append(self._lines[before])
            if before in self._odd:
                made._odd[place] = self._odd[before]
            for name, column in made._columns.items():
                column.append(self._columns[name][before])
        return made

    def _put(self, place: int, row: Row) -> None:
        try:
            line = json.dumps(row, allow_nan=False, separators=(",", ":")).encode()
            self._odd.pop(place, None)
        except ValueError:
            line = encoded(row)
            self._odd[place] = row
        if place == len(self._lines):
            self._lines.append(line)
            for name, column in self._columns.items():
                column.append(_bounded(row[name]))
        else:
            self._lines[place] = line
            for name, column in self._columns.items():
                column[place] = _bounded(row[name])


def _bounded(value: float) -> float:
    """What a node has said may be more than 64 bits hold; it is in its JSON as it is."""
    return min(value, _LARGEST) if isinstance(value, int) else value


_LARGEST = (1 << 63) - 1


def encoded(value: object) -> bytes:
    """JSON that every reader takes: what a node has said may be infinite or no number, and becomes null."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError):
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":")).encode()


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(one) for one in value]
    return value
