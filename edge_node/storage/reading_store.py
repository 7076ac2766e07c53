"""The device's own readings, within bounds: blocks of a SQLite file of their own, one transaction for many readings.

A flash chip wears by pages written, not by readings: a block packs what came since the last transaction into 14 bytes
for each reading, and one transaction waits for the disk once. What is over a bound goes, oldest first, and is counted.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from federation.documents import read_json
from federation.errors import DamagedStore, StorageError
from federation.readings.live import Readings
from federation.storage.sql import Readable
from federation.storage.sqlite import Connection, Database, Layout, Row, SqliteError
from federation.storage.sqlite_reading import ReadOnlyDatabase

__all__ = [
    "COLUMNS_MAX",
    "READINGS",
    "Block",
    "Bounds",
    "ReadingStore",
    "Stored",
    "read_memo",
    "read_newest",
    "read_readings",
    "read_stored",
]

READINGS = "readings.sqlite"
"""File name in the node's state folder."""

COLUMNS_MAX = 256
"""Columns of one store: a topic with a wildcard, or a hostile sensor, makes no more."""

READING_BYTES = 14
"""Of one reading in a block: time float64, column uint16, value float32."""

PAGE_BYTES = 1_024
"""Of the file: each transaction writes whole pages, and touches those of four tables for a few thousand bytes."""

_SLACK = 0.02
"""What goes beyond the bound when it is exceeded, as a share of it: so that not every transaction deletes."""

_BLOCK = "id INTEGER PRIMARY KEY, first REAL NOT NULL, last REAL NOT NULL, count INTEGER NOT NULL, body BLOB NOT NULL"
_COUNT = "kind TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (kind, reason)"
_TABLES = (
    "CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    f"CREATE TABLE block ({_BLOCK})",
    "CREATE TABLE cursor (source TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID",
    f"CREATE TABLE tally ({_COUNT}) WITHOUT ROWID",
    "CREATE TABLE memo (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)


def _read_number(connection: Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _write_number(connection: Connection, number: int) -> None:
    connection.execute(f"PRAGMA user_version = {number}")


LAYOUT = Layout(tables=_TABLES, read=_read_number, write=_write_number, page_bytes=PAGE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The most that is kept.

    Attributes:
        rows: Readings.
        bytes: Of all blocks.
        age_s: Of a reading, against the newest one, in seconds.
    """

    rows: int = 1_000_000
    bytes: int = 64 << 20
    age_s: float = 90 * 86_400.0


@dataclass(frozen=True, slots=True)
class Block:
    """Readings that are stored together.

    Attributes:
        times: float64 (R,), in seconds since 1970.
        columns: Their names, one for each reading.
        values: float (R,).
    """

    times: Sequence[float]
    columns: Sequence[str]
    values: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a store says of itself.

    Attributes:
        rows: Readings that are kept.
        bytes: Of their blocks.
        oldest: Time of the oldest block's first reading; None where nothing is kept.
        newest: Time of the newest reading.
        received: Readings that were ever stored.
        dropped: Readings that went, by the bound that they exceeded.
        refused: Readings and messages that were not taken, by reason.
        columns: Names.
    """

    rows: int = 0
    bytes: int = 0
    oldest: float | None = None
    newest: float | None = None
    received: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    columns: tuple[str, ...] = ()


class ReadingStore:
    """The store of one node; one writer, in one thread.

    Args:
        folder: The node's state folder.
        bounds: The most that is kept.

    Raises:
        StorageError: It is damaged, or cannot be opened.
    """

    def __init__(self, folder: Path, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / READINGS
        self._db = Database(path, LAYOUT, remedy=_remedy(path), role="readings")
        self._names: dict[str, int] = {row["name"]: row["id"] for row in self._db.execute("SELECT * FROM names")}
        row = self._db.execute(_TOTALS).fetchone()
        self._rows, self._bytes = int(row["rows"]), int(row["bytes"])
        self._newest: float | None = row["newest"]

    @property
    def rows(self) -> int:
        """Readings that are kept."""
        return self._rows

    def knows(self, column: str) -> bool:
        """Whether there is such a column."""
        return column in self._names

    @property
    def room(self) -> int:
        """Columns that could be added."""
        return COLUMNS_MAX - len(self._names)

    def add(
        self,
        block: Block | None,
        *,
        cursors: Mapping[str, object] | None = None,
        refused: Mapping[str, int] | None = None,
        memos: Mapping[str, object] | None = None,
        latest: float | None = np.inf,
    ) -> None:
        """Store readings, how far their sources are read, and what was refused meanwhile: all of it, or nothing.

        Args:
            block: The readings; None or an empty one stores none.
            cursors: Plain data by source.
            refused: Counts by reason, added to those that are there.
            memos: Plain data by name, kept beside the readings.
            latest: A reading from later than this was stored while the clock was wrong, and none is too old because
                of it, in seconds since 1970; None: nothing is too old, as after the clock has jumped.

        Raises:
            StorageError: Nothing of it is stored.
        """
        with self._db.transaction("batch"):
            names = dict(self._names)
            rows, size, newest = self._rows, self._bytes, self._newest
            if block is not None and len(block.times):
                body, first, last = self._packed(block, names)
                self._db.insert("block", {"first": first, "last": last, "count": len(block.times), "body": body})
                rows, size = rows + len(block.times), size + len(body)
                newest = last if newest is None else max(newest, last)
            for source, state in (cursors or {}).items():
                self._db.insert("cursor", {"source": source, "state": json.dumps(state)}, conflict="REPLACE")
            for name, value in (memos or {}).items():
                self._db.insert("memo", {"name": name, "value": json.dumps(value)}, conflict="REPLACE")
            self._count("refused", refused or {})
            rows, size = self._prune(rows, size)
            rows, size = self._prune_old(rows, size, newest, latest)
        self._names, self._rows, self._bytes, self._newest = names, rows, size, newest

    def cursor(self, source: str) -> object:
        """How far a source was read; None where it was not."""
        row = self._db.execute("SELECT state FROM cursor WHERE source = ?", source).fetchone()
        return _plain(None if row is None else row["state"])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _packed(self, block: Block, names: dict[str, int]) -> tuple[bytes, float, float]:
        for name in block.columns:
            if name not in names:
                names[name] = len(names)
                self._db.insert("names", {"id": names[name], "name": name})
        times = np.asarray(block.times, "<f8")
        columns = np.fromiter((names[name] for name in block.columns), "<u2", len(block.columns))
        body = times.tobytes() + columns.tobytes() + np.asarray(block.values, "<f4").tobytes()
        return body, float(times.min()), float(times.max())

    def _count(self, kind: str, counts: Mapping[str, int]) -> None:
        for reason, count in counts.items():
            self._db.execute(_TALLY, kind, reason, count)

    def _prune(self, rows: int, size: int) -> tuple[int, int]:
        """Let the oldest go, until what is left is little enough."""
        bounds, gone = self._bounds, dict[str, int]()
        slack = 1 - _SLACK if rows > bounds.rows or size > bounds.bytes else 1.0
        while rows > bounds.rows * slack or size > bounds.bytes * slack:
            row = self._db.execute(_OLDEST, np.inf).fetchone()
            if row is None:
                break
            self._let_go(row["id"], row["count"], "rows" if rows > bounds.rows * slack else "bytes", gone)
            rows, size = rows - row["count"], size - row["size"]
        self._count("dropped", gone)
        return rows, size

    def _prune_old(self, rows: int, size: int, newest: float | None, latest: float | None) -> tuple[int, int]:
        """Let go what is too old against the newest that can be."""
        if latest is None or newest is None:
            return rows, size
        if newest > latest:
            newest = self._db.execute(_NEWEST_BY, latest).fetchone()["last"]
        gone = dict[str, int]()
        while newest is not None and (row := self._db.execute(_OLDEST, latest).fetchone()) is not None:
            if row["last"] >= newest - self._bounds.age_s * (1 if gone else 1 + _SLACK):
                break
            self._let_go(row["id"], row["count"], "age", gone)
            rows, size = rows - row["count"], size - row["size"]
        self._count("dropped", gone)
        return rows, size

    def _let_go(self, block: int, count: int, reason: str, gone: dict[str, int]) -> None:
        self._db.execute("DELETE FROM block WHERE id = ?", block)
        gone[reason] = gone.get(reason, 0) + count


def read_readings(folder: Path, columns: Sequence[str] | None = None, *, since: float | None = None) -> Readings:
    """What a store has, by time; a running node is not disturbed.

    Args:
        folder: The node's state folder.
        columns: Which, in this order; None is all.
        since: Only what is of this time or later, in seconds since 1970.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with _opened(folder) as database:
        numbers = {row["name"]: row["id"] for row in database.execute("SELECT * FROM names ORDER BY id")}
        wanted = tuple(numbers) if columns is None else tuple(columns)
        place = np.full(1 << 16, -1, np.int64)
        for index, name in enumerate(wanted):
            if name in numbers:
                place[numbers[name]] = index
        rows = database.execute(_SINCE, -np.inf if since is None else since).fetchall()
    return _joined([_unpacked(row) for row in rows], place, wanted, since)


def read_stored(folder: Path) -> Stored:
    """How much a store has, and what became of the rest.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with _opened(folder) as database:
        totals = database.execute(_TOTALS).fetchone()
        tallies: dict[str, dict[str, int]] = {}
        for row in database.execute("SELECT * FROM tally ORDER BY count DESC, reason"):
            tallies.setdefault(row["kind"], {})[row["reason"]] = row["count"]
        names = tuple(row["name"] for row in database.execute("SELECT name FROM names ORDER BY id"))
    return Stored(
        rows=totals["rows"],
        bytes=totals["bytes"],
        oldest=totals["oldest"],
        newest=totals["newest"],
        received=totals["rows"] + sum(tallies.get("dropped", {}).values()),
        dropped=tallies.get("dropped", {}),
        refused=tallies.get("refused", {}),
        columns=names,
    )


def read_newest(folder: Path) -> dict[str, tuple[int, float, float]]:
    """How many readings each column has, the time of its newest one, and its value.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    found = read_readings(folder)
    made: dict[str, tuple[int, float, float]] = {}
    for name in found.names:
        times, values = found.of(name)
        if len(times):
            made[name] = (len(times), float(times[-1]), float(values[-1]))
    return made


def read_memo(folder: Path, name: str) -> object:
    """What `ReadingStore.add` has kept by this name; None where there is nothing.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with _opened(folder) as database:
        row = database.execute("SELECT value FROM memo WHERE name = ?", name).fetchone()
    return _plain(None if row is None else row["value"])


_TOTALS = (
    "SELECT COALESCE(SUM(count), 0) AS rows, COALESCE(SUM(length(body)), 0) AS bytes, MIN(first) AS oldest, "
    "MAX(last) AS newest FROM block"
)
_NEWEST_BY = "SELECT MAX(last) AS last FROM block WHERE last <= ?"
_OLDEST = "SELECT id, last, count, length(body) AS size FROM block WHERE last <= ? ORDER BY id LIMIT 1"
_SINCE = "SELECT id, count, body FROM block WHERE last >= ? ORDER BY id"
_TALLY = (
    "INSERT INTO tally (kind, reason, count) VALUES (?, ?, ?) "
    "ON CONFLICT (kind, reason) DO UPDATE SET count = count + excluded.count"
)


def _plain(text: str | None) -> object:
    try:
        made: object = None if text is None else read_json(text)
    except ValueError:
        return None
    return made


_Part = tuple[NDArray[np.float64], NDArray[np.uint16], NDArray[np.float32]]


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Readable]:
    path = folder / READINGS
    missing = "is this a node's state folder, and has the node [data]?"
    with contextlib.closing(ReadOnlyDatabase(path, LAYOUT, missing=missing, at_once=True)) as database:
        try:
            yield database
        except SqliteError as error:
            raise StorageError(f"{path} cannot be read: {error}; {_remedy(path)}") from error


def _remedy(path: Path) -> str:
    return f"stop the node and delete {path.name} in {path.parent}: the readings in it are lost, and nothing else"


def _unpacked(row: Row) -> _Part:
    count, body = row["count"], row["body"]
    if not isinstance(body, bytes) or len(body) != READING_BYTES * count:
        raise DamagedStore(f"block {row['id']} of the readings is damaged")
    times = np.frombuffer(body, "<f8", count)
    columns = np.frombuffer(body, "<u2", count, 8 * count)
    return times, columns, np.frombuffer(body, "<f4", count, 10 * count)


def _joined(parts: Sequence[_Part], place: NDArray[np.int64], names: tuple[str, ...], since: float | None) -> Readings:
    """One array of each; of two readings of one column and time the later one in the store stays."""
    if not parts:
        nothing = np.zeros(0)
        return Readings(names, nothing, np.zeros(0, np.int64), nothing)
    times = np.concatenate([part[0] for part in parts])
    columns = place[np.concatenate([part[1] for part in parts])]
    values = np.concatenate([part[2] for part in parts]).astype(np.float64)
    keep = columns >= 0
    if since is not None:
        keep &= times >= since
    times, columns, values = times[keep], columns[keep], values[keep]
    order = np.lexsort((columns, times))  # stable: equal ones stay in the order of the store
    times, columns, values = times[order], columns[order], values[order]
    last = np.ones(len(times), bool)
    last[:-1] = (times[1:] != times[:-1]) | (columns[1:] != columns[:-1])
    return Readings(names, times[last], columns[last], values[last])
