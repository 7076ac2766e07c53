"""Sources that are asked from time to time: files that grow, and tables that another program writes.

A source says how far it was read in a cursor of plain data, which is stored with the readings it gave: what a kill
takes is read again, and what is stored is not read twice.
"""

import contextlib
import csv
import datetime as dt
import glob
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from edge_node.readings.payloads import NoReading, number_of, time_of
from edge_node.readings.topics import Reading, column_name
from edge_node.storage.foreign_table import ROWS_MAX, rows_after
from federation.errors import StorageError

__all__ = ["FileSource", "Polled", "Source", "TableSource"]

FILES_MAX = 1_000
"""Files of one pattern; the first by name are read."""

LINE_BYTES_MAX = 64 << 10
"""A line that is longer is none of a table."""

READ_BYTES_MAX = 1 << 20
"""Of one file at a time."""

ROTATED_MAX, ROTATED_BYTES_MAX = 20, 16 << 20
"""So many files beside one are looked at for the former one, and so much of it is read, in bytes."""

_MARK_BYTES = 1 << 10
"""The begin of a file by which it is known again."""


@dataclass(slots=True)
class Polled:
    """What a look at a source has given.

    Attributes:
        readings: By time, column and value.
        cursor: Plain data from which the next look goes on.
        refused: Why something was no reading.
        more: Whether there is more to be had at once.
        problem: Why the source cannot be read; empty where it can.
    """

    readings: list[Reading] = field(default_factory=list)
    cursor: object = None
    refused: Counter[str] = field(default_factory=Counter)
    more: bool = False
    problem: str = ""


class Source(Protocol):
    """Something that can be asked for what is new."""

    @property
    def name(self) -> str:
        """In messages, and where its cursor is."""

    def poll(self, cursor: object, now: float) -> Polled:
        """What has come since this cursor; None begins with the first.

        Args:
            cursor: As the last look has given it.
            now: Seconds since 1970, for what has no time of its own.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """CSV files that programs append to; the first line names the columns.

    A line counts when its end is there. A file that has become shorter, or begins otherwise, is read from its begin;
    where the former one stands beside it under a longer name, as rotation leaves it, its last lines are read first.

    Attributes:
        name: Of the source, in messages.
        pattern: A file, a folder (its ``*.csv``), or a pattern with ``*``.
        time: The column with the time; None takes the moment of reading.
        columns: Header by column; empty takes every other column by its own name.
        zone: Of a time that names none.
        words: Numbers of words, in lower case.
        decimal: The decimal mark.
    """

    name: str
    pattern: str
    time: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    zone: dt.tzinfo | None = dt.UTC
    words: Mapping[str, float] = field(default_factory=dict)
    decimal: str = "."

    def poll(self, cursor: object, now: float) -> Polled:
        """See `Source`."""
        polled = Polled()
        before = cursor if isinstance(cursor, dict) else {}
        after: dict[str, object] = {}
        paths = self._paths()
        if not paths:
            polled.problem = f"there is no file {self.pattern}"
        for path in before.keys() - set(paths):  # what was renamed may have no successor yet
            self._read_former(path, before[path], paths, now, polled)
        for path in paths:
            try:
                after[path] = self._read(path, before.get(path), paths, now, polled)
            except OSError as error:
                polled.problem = f"{path} cannot be read: {error.strerror}"
                after[path] = before.get(path)
        polled.cursor = after
        return polled

    def _paths(self) -> Sequence[str]:
        pattern = os.path.join(self.pattern, "*.csv") if os.path.isdir(self.pattern) else self.pattern  # noqa: PTH112, PTH118 - a pattern
        return sorted(path for path in glob.glob(pattern) if os.path.isfile(path))[:FILES_MAX]  # noqa: PTH113, PTH207 - the same

    def _read(self, path: str, place: object, paths: Sequence[str], now: float, polled: Polled) -> object:
        """Take the whole lines that are new; returns the offset behind them, and by what the file is known again."""
        with open(path, "rb") as file:  # noqa: PTH123 - what glob gives
            offset, header = _resumed(file, place)
            if not offset and place is not None:
                self._read_former(path, place, paths, now, polled)
            file.seek(offset)
            body = file.read(READ_BYTES_MAX)
            end = body.rfind(b"\n") + 1
            if not end and len(body) > LINE_BYTES_MAX:
                polled.refused["line too long"] += 1
                end = len(body)
            polled.more |= len(body) == READ_BYTES_MAX
            lines = body[:end].splitlines()
            if header is None and lines:
                header = lines.pop(0).decode("utf-8-sig", "replace")
            if header is not None:
                self._rows(header, lines, now, polled)
            return [offset + end, *_mark(file, offset + end), header]

    def _read_former(self, path: str, place: object, paths: Sequence[str], now: float, polled: Polled) -> None:
        """Take the last lines of a file that was renamed since: what was appended after the last look."""
        for name in sorted(glob.glob(glob.escape(path) + "?*"))[:ROTATED_MAX]:  # noqa: PTH207 - as above
            if name in paths or not os.path.isfile(name):  # noqa: PTH113 - the same
                continue
            # One that this user may not read, or that is gone by now, is none of those that could be read before.
            with contextlib.suppress(OSError), open(name, "rb") as file:  # noqa: PTH123 - the same
                offset, header = _resumed(file, place)
                if not offset or header is None:
                    continue
                file.seek(offset)
                body = file.read(ROTATED_BYTES_MAX)
                self._rows(header, body[: body.rfind(b"\n") + 1].splitlines(), now, polled)
                return

    def _rows(self, header: str, lines: Sequence[bytes], now: float, polled: Polled) -> None:
        separator = max(",;\t|", key=header.count)
        names = [name.strip() for name in next(csv.reader([header], delimiter=separator))]
        wanted = self.columns or {column_name(name): name for name in names if name and name != self.time}
        missing = [
            name for name in (*wanted.values(), *([] if self.time is None else [self.time])) if name not in names
        ]
        if double := self._double(names):
            polled.problem = f"{self.name}: {double}"
            polled.refused["two of one name"] += len(lines)
            return
        if missing:
            polled.problem = f"{self.name}: there is no column {', '.join(missing)} among {', '.join(names)}"
            polled.refused["no such value"] += len(lines)
            return
        places = [(column, names.index(name)) for column, name in wanted.items()]
        at = None if self.time is None else names.index(self.time)
        for number, cells in enumerate(_cells(lines, separator, polled)):
            if len(cells) != len(names):
                polled.refused["row of another length"] += 1
                continue
            try:
                # What has no time of its own keeps its order: a microsecond apart.
                when = now + 1e-6 * number if at is None else time_of(cells[at].strip(), self.zone)
            except NoReading as why:
                polled.refused[str(why)] += 1
                continue
            self._take(cells, places, when, polled)

    def _double(self, names: Sequence[str]) -> str | None:
        """Which columns of the file would be one of ours, and what resolves it."""
        chosen = set(self.columns.values())
        found: dict[str, str] = {}
        for name in names:
            if not name or (name not in chosen if chosen else name == self.time):
                continue
            ours = name if chosen else column_name(name)
            if ours in found:
                return f"its columns {found[ours]!r} and {name!r} would be one: rename one, or give columns = {{...}}"
            found[ours] = name
        return None

    def _take(self, cells: Sequence[str], places: Sequence[tuple[str, int]], when: float, polled: Polled) -> None:
        for column, place in places:
            cell = cells[place].replace(self.decimal, ".") if self.decimal != "." else cells[place]
            try:
                polled.readings.append((when, column, number_of(cell, self.words)))
            except NoReading as why:
                polled.refused[str(why)] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSource:
    """A table of a SQLite database.

    Attributes:
        name: Of the source, in messages.
        path: The database.
        table: A table or a view in it.
        cursor: A column that never falls: an id, or the time.
        time: The column with the time; None takes the moment of reading.
        columns: The table's column by ours.
        zone: Of a time that names none.
        words: Numbers of words, in lower case.
    """

    name: str
    path: Path
    table: str
    cursor: str
    columns: Mapping[str, str]
    time: str | None = None
    zone: dt.tzinfo | None = dt.UTC
    words: Mapping[str, float] = field(default_factory=dict)

    def poll(self, cursor: object, now: float) -> Polled:
        """See `Source`."""
        after, seen = _read_to(cursor)
        polled = Polled(cursor=cursor if after is not None else None)
        names = [*([] if self.time is None else [self.time]), *self.columns.values()]
        try:
            rows = rows_after(self.path, self.table, names, cursor=self.cursor, after=after, seen=seen)
        except StorageError as error:
            polled.problem = str(error)
            return polled
        polled.more = len(rows) == ROWS_MAX
        for number, (place, *cells) in enumerate(rows):
            if isinstance(place, int | float | str):
                seen = (seen or 0) + 1 if place == after else 1
                after = place
                polled.cursor = [after, seen]
            try:
                when = now + 1e-6 * number if self.time is None else time_of(cells.pop(0), self.zone)
            except NoReading as why:
                polled.refused[str(why)] += 1
                continue
            for column, cell in zip(self.columns, cells, strict=True):
                try:
                    polled.readings.append((when, column, number_of(cell, self.words)))
                except NoReading as why:
                    polled.refused[str(why)] += 1
        return polled


def _read_to(cursor: object) -> tuple[int | float | str | None, int | None]:
    """The cursor's value of the last row that was read, and how many rows with it; of an older release all of them."""
    match cursor:
        case [int() | float() | str() as after, int(seen)] if seen >= 0:
            return after, seen
        case int() | float() | str():
            return cursor, None
    return None, None


def _cells(lines: Sequence[bytes], separator: str, polled: Polled) -> Iterator[list[str]]:
    for line in lines:
        if len(line) > LINE_BYTES_MAX:
            polled.refused["line too long"] += 1
        elif line.strip():
            try:
                yield next(csv.reader([line.decode("utf-8", "replace")], delimiter=separator))
            except (csv.Error, StopIteration):
                polled.refused["row of another length"] += 1


def _resumed(file: BinaryIO, place: object) -> tuple[int, str | None]:
    """Where to go on, and the header; the begin where the file is another one than it was."""
    match place:
        case [int(offset), int(length), int(mark), str(header)] if 0 <= length <= min(offset, _MARK_BYTES):
            file.seek(0, os.SEEK_END)
            if file.tell() >= offset and _mark(file, length) == (length, mark):
                return offset, header
    return 0, None


def _mark(file: BinaryIO, offset: int) -> tuple[int, int]:
    """The length of the file's begin that is looked at, and its check sum."""
    file.seek(0)
    begin = file.read(min(offset, _MARK_BYTES))
    return len(begin), zlib.crc32(begin)
