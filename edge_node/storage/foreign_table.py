"""A table that somebody else's program writes, read forward along a column that only grows."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from federation.errors import StorageError
from federation.storage.sqlite import Layout, SqliteError
from federation.storage.sqlite_reading import ReadOnlyDatabase

__all__ = ["ROWS_MAX", "rows_after"]

ROWS_MAX: Final = 5_000
"""Rows that are read at a time."""

_ANY: Final = Layout(tables=(), read=lambda _: 1, write=lambda _connection, _number: None)
"""Whatever is in it is not ours, and never changed."""


def rows_after(
    path: Path, table: str, columns: Sequence[str], *, cursor: str, after: float | str | None, seen: int | None = None
) -> list[tuple[object, ...]]:
    """The next rows, with the cursor's value first, then the columns'.

    Args:
        path: The database; another program may be writing it.
        table: A table or a view.
        columns: Of it.
        cursor: A column that never falls with a new row, such as an id or a time; several rows may have one value.
        after: The cursor's value of the last row that was read; None begins with the first.
        seen: How many rows with that value were read; None is all of them. Where no row has it any more, nor a greater
            one, the table is another one than it was, and is read from its begin.

    Raises:
        StorageError: There is no such file, table or column.
    """
    missing = "is it a SQLite database that this user may read?"
    names = ", ".join(map(_quoted, (cursor, *columns)))
    place, source = _quoted(cursor), _quoted(table)
    where = "" if after is None else f"WHERE {place} {'>' if seen is None else '>='} ? "
    limit = f"LIMIT {ROWS_MAX} OFFSET {seen or 0}"
    statement = f"SELECT {names} FROM {source} {where}ORDER BY {place} {limit}"  # noqa: S608 - quoted
    is_other = f"SELECT 1 FROM (SELECT MAX({place}) AS most FROM {source}) WHERE most < ?"  # noqa: S608 - quoted
    if not path.is_file():
        raise StorageError(f"there is no {path}")
    with contextlib.closing(ReadOnlyDatabase(path, _ANY, missing=missing)) as database:
        try:
            if after is None:
                return [tuple(row) for row in database.execute(statement)]
            found = [tuple(row) for row in database.execute(statement, after)]
            if found or database.execute(is_other, after).fetchone() is None:
                return found
        except SqliteError as error:
            raise StorageError(f"{path}: {error}: see data.tables, its table, cursor, time and columns") from error
    return rows_after(path, table, columns, cursor=cursor, after=None)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
