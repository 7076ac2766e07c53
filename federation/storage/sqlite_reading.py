"""A database of SQLite for those who only read, whether or not somebody writes it meanwhile."""

import contextlib
from pathlib import Path

from federation.errors import StorageError
from federation.storage.folder import has_content, lock_holder
from federation.storage.remedies import misplaced
from federation.storage.sqlite import (
    Connection,
    Cursor,
    Layout,
    Row,
    SqliteError,
    connect,
    connect_in_memory,
    connect_to_read,
    disk_remedy,
    found_damage,
    is_unshared,
    storing,
)

__all__ = ["ReadOnlyDatabase"]


class ReadOnlyDatabase:
    """A database that another process may be writing, as this release knows it; ``layout`` is the number in the file.

    Args:
        path: The file.
        layout: Of an earlier one an upgraded copy is read, in memory: the file stays as it is.
        missing: What to ask whoever names a file that is no such database.
        at_once: Whether all that is read is of this moment, whatever is written meanwhile.

    Raises:
        StorageError: There is none, it is of a newer layout, or it cannot be read.
    """

    def __init__(self, path: Path, layout: Layout, *, missing: str, at_once: bool = False) -> None:
        problem = f"{path} cannot be read; {missing}"
        if odd := misplaced(path.parent):
            raise StorageError(f"{path} cannot be read{odd}")
        try:
            self._file, self.layout = _opened(path, layout, at_once=at_once)
        except SqliteError as error:
            raise _unreadable(path, error, problem) from error
        try:
            self._newest = _as_known(self._file, layout, self.layout, problem)
        except BaseException as error:
            self._file.close()
            if isinstance(error, SqliteError):
                raise _unreadable(path, error, problem) from error
            raise
        self._newest.row_factory = Row

    def execute(self, statement: str, *values: object) -> Cursor:
        """Run one statement."""
        return self._newest.execute(statement, values)

    def damage(self) -> str:
        """What SQLite itself finds; empty when the file is whole."""
        return found_damage(self._file.execute)

    def copy(self, path: Path) -> None:
        """Write all that the file holds to a new one, which needs no other beside it.

        Raises:
            StorageError: The disk is full or broken, or the copy is not whole.
        """
        with storing("copy of the database"), contextlib.closing(connect(path)) as copy:
            copy.execute("PRAGMA synchronous = OFF")
            self._file.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            damage = found_damage(copy.execute)
        if damage:
            raise StorageError(f"the database is damaged ({damage})")

    def close(self) -> None:
        """Close the connection."""
        self._newest.close()
        self._file.close()


def _opened(path: Path, layout: Layout, *, at_once: bool) -> tuple[Connection, int]:
    """The file, and its layout. One that nobody writes is read on a disk that is full or read-only, too."""
    try:
        return _looked_at(connect_to_read(path), path, layout, at_once=at_once)
    except SqliteError as error:
        if not is_unshared(error) or not _at_rest(path):
            raise
    return _looked_at(connect_to_read(path, shared=False), path, layout, at_once=at_once)


def _looked_at(file: Connection, path: Path, layout: Layout, *, at_once: bool) -> tuple[Connection, int]:
    try:
        if at_once:
            # The moment is that of the first look.
            file.execute("BEGIN")
            file.execute("PRAGMA user_version").fetchone()
        return file, layout.check(file, path)
    except BaseException:
        file.close()
        raise


def _at_rest(path: Path) -> bool:
    """Whether all is in the file itself, and nobody has the folder."""
    return (
        not has_content(path.with_name(f"{path.name}-wal")) and has_content(path) and lock_holder(path.parent) is None
    )


def _unreadable(path: Path, error: SqliteError, nothing: str) -> StorageError:
    """The error of a file that cannot be read; ``nothing`` is said where there is none."""
    if not (path.is_file() and has_content(path)):
        return StorageError(nothing)
    part = f"; it is damaged, or was copied in part: copy it again, with {path.name}-wal, or restore a backup"
    return StorageError(f"{path} cannot be read: {error}{disk_remedy(error, path.parent) or part}")


def _as_known(file: Connection, layout: Layout, found: int, problem: str) -> Connection:
    if found == layout.number:
        return file
    if not found:
        raise StorageError(problem)
    copy = connect_in_memory()
    file.backup(copy)
    layout.upgrade(copy, found)
    return copy
