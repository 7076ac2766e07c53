"""One list of columns for each record: its own fields. What CREATE TABLE says, a row and a record follow from it.

```python
UPDATE = Columns(UpdateRecord, names={"update": "update_id"})
f"CREATE TABLE updates ({UPDATE.definitions(update_id='TEXT PRIMARY KEY')})"
database.insert("updates", UPDATE.row(record))
UPDATE.record(row) == record
```

A new field of the record is a new column of every table that has these; databases that exist need a step of `Layout`.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from federation.documents import read_mapping
from federation.errors import DamagedStore
from federation.storage.sql import Row

__all__ = ["UNSIGNED", "Columns", "DamagedRow", "Kind", "blob", "real", "whole"]

Record = TypeVar("Record")


class DamagedRow(DamagedStore):
    """A column of a row holds what its type has not."""


def blob(value: object) -> bytes:
    """What a column of bytes holds.

    Raises:
        DamagedRow: It is something else; of a number `bytes` would make so many zeros.
    """
    if not isinstance(value, bytes):
        raise DamagedRow(f"a row is damaged: {value!r:.{_SHOWN}} is where bytes should be")
    return value


def whole(value: object) -> int:
    """What a column of whole numbers holds.

    Raises:
        DamagedRow: It is something else.
    """
    if type(value) is not int:
        raise DamagedRow(f"a row is damaged: {value!r:.{_SHOWN}} is where a whole number should be")
    return value


def real(value: object) -> float:
    """What a column of numbers holds.

    Raises:
        DamagedRow: It is something else.
    """
    return value if isinstance(value, float) else float(whole(value))


@dataclass(frozen=True, slots=True)
class Kind:
    """How values of one type are kept; NULL is None.

    Attributes:
        sql: The column's type.
        keep: Makes what SQLite keeps; None where it is the value itself.
        read: Makes the value again.
    """

    sql: str
    keep: Callable[[Any], object] | None = None
    read: Callable[[Any], Any] | None = None


UNSIGNED = Kind("TEXT", str, int)
"""A number of 64 bits without sign, which SQLite has not."""

_KINDS: Mapping[type, Kind] = {
    bool: Kind("INTEGER", read=bool),
    int: Kind("INTEGER"),
    float: Kind("REAL", float),
    str: Kind("TEXT"),
    bytes: Kind("BLOB"),
    Mapping: Kind("TEXT", lambda value: json.dumps(dict(value)), read_mapping),
}

_TYPES: Mapping[str, tuple[type, ...]] = {"INTEGER": (int,), "REAL": (float, int), "TEXT": (str,), "BLOB": (bytes,)}
"""What a column gives: SQLite keeps whatever is written, as text in a column of numbers."""

_SHOWN = 40


@dataclass(frozen=True, slots=True)
class _Column:
    field: str
    name: str
    kind: Kind
    nullable: bool


class Columns(Generic[Record]):
    """The columns of one record.

    Args:
        record: Its dataclass: each field is a column, of its type.
        names: Columns that have another name than their field.
        kinds: Fields that are kept in another way than their type is.
        without: Fields that are no columns.
    """

    def __init__(
        self,
        record: type[Record],
        *,
        names: Mapping[str, str] | None = None,
        kinds: Mapping[str, Kind] | None = None,
        without: Collection[str] = (),
    ) -> None:
        hints, named, kept = get_type_hints(record), names or {}, kinds or {}
        self._record = record
        self._columns = tuple(
            _column(one.name, named.get(one.name, one.name), hints[one.name], kept.get(one.name))
            for one in fields(record)  # type: ignore[arg-type]
            if one.name not in without
        )
        self.names = ", ".join(column.name for column in self._columns)
        self._plain = tuple(
            (one.field, one.name, (*_TYPES[one.kind.sql], *((NoneType,) if one.nullable else ())))
            for one in self._columns
        )
        self._read = tuple((one.field, one.kind.read) for one in self._columns if one.kind.read is not None)

    def definitions(self, **given: str) -> str:
        """Their part of CREATE TABLE; ``given`` are columns with more to say than their type."""
        return ", ".join(f"{one.name} {given.get(one.name) or _definition(one)}" for one in self._columns)

    def row(self, record: Record) -> dict[str, object]:
        """What is kept of a record, by column."""
        made: dict[str, object] = {}
        for column in self._columns:
            value, keep = getattr(record, column.field), column.kind.keep
            made[column.name] = value if keep is None or value is None else keep(value)
        return made

    def record(self, row: Row, **more: object) -> Record:
        """The record of a row; ``more`` are the fields that are no columns.

        Raises:
            DamagedRow: A column holds what its type has not.
        """
        made: dict[str, Any] = {}
        for field, name, types in self._plain:
            made[field] = value = row[name]
            if type(value) not in types:
                raise DamagedRow(f"a row is damaged: its {name} is {value!r:.{_SHOWN}}")
        for field, read in self._read:
            if made[field] is not None:
                try:
                    made[field] = read(made[field])
                except (ValueError, TypeError) as error:
                    raise DamagedRow(f"a row is damaged: its {field} is {made[field]!r:.{_SHOWN}}") from error
        return self._record(**made, **more)


def _column(field: str, name: str, hint: Any, kind: Kind | None) -> _Column:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    (plain,) = (one for one in options if one is not NoneType)
    return _Column(field, name, kind or _kind_of(plain), nullable=NoneType in options)


def _kind_of(hint: Any) -> Kind:
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    hint = get_origin(hint) or hint
    return Kind("TEXT", attrgetter("value"), hint) if issubclass(hint, Enum) else _KINDS[hint]


def _definition(column: _Column) -> str:
    return column.kind.sql if column.nullable else f"{column.kind.sql} NOT NULL"
