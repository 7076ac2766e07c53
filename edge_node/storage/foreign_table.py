"""A table that somebody else's program writes, read forward along a column that only grows."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from federation.errors import StorageError
from federation.storage.sqlite import Layout, ReadOnlyDatabase, SqliteError

__all__ = ["ROWS_MAX", "rows_after"]

ROWS_MAX: Final = 5_000
"""Rows that are read at a time."""

_ANY: Final = Layout(tables=(), read=lambda _: 1, write=lambda _connection, _number: None)
"""Whatever is in it is not ours, and never changed."""


def rows_after(
    path: Path, table: str, columns: Sequence[str], *, cursor: str, after: float | str | None
) -> list[tuple[object, ...]]:
    """The next rows, with the cursor's value first, then the columns'.

    Args:
        path: The database; another program may be writing it.
        table: A table or a view.
        columns: Of it.
        cursor: A column that grows with each new row, such as an id or a time.
        after: The cursor's value of the last row that was read; None begins with the first.

    Raises:
        StorageError: There is no such file, table or column.
    """
    missing = "is it a SQLite database that this user may read?"
    names = ", ".join(map(_quoted, (cursor, *columns)))
    where = "" if after is None else f"WHERE {_quoted(cursor)} > ? "
    statement = f"SELECT {names} FROM {_quoted(table)} {where}ORDER BY {_quoted(cursor)} LIMIT {ROWS_MAX}"  # noqa: S608 - quoted
    if not path.is_file():
        raise StorageError(f"there is no {path}")
    with contextlib.closing(ReadOnlyDatabase(path, _ANY, missing=missing)) as database:
        try:
            values = () if after is None else (after,)
            return [tuple(row) for row in database.execute(statement, *values)]
        except SqliteError as error:
            raise StorageError(f"{path}: {error}: see data.tables, its table, cursor, time and columns") from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
