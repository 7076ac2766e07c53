"""The node's database: its tables, and named bodies: small ones in the row, large ones in files that a row names.

What belongs to a run has its name in the row: hearing of another run hides it, and changes nothing of it.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_node.records import OutboxEntry, Seen
from edge_node.storage.bodies import BODY, SUFFIX, Bodies, placed
from edge_node.storage.ledger import SPENT_TABLE, add_ledger, charge, read_ledgers
from edge_node.storage.model_file import is_model
from edge_node.storage.state_folder import StateFolder
from federation.documents import read_json
from federation.errors import DamagedStore, RemoteProtocolError, StorageError
from federation.protocol.limits import INT32_MAX, INT64_MAX
from federation.protocol.messages import UpdateOffer
from federation.protocol.wire import decode_message, encode_message
from federation.storage import sqlite
from federation.storage.columns import UNSIGNED, Columns, Kind
from federation.storage.sqlite import Connection, Layout, Row, SqliteError
from federation.storage.sqlite_reading import ReadOnlyDatabase
from federation.types import (
    NO_START,
    Epoch,
    Incarnation,
    ModelVersion,
    RoundId,
    RunId,
    SampledSteps,
    Start,
    StateId,
    UpdateId,
)

__all__ = [
    "APPLIED",
    "DATABASE",
    "LAYOUT",
    "NEWEST_FIRST",
    "Database",
    "RunRow",
    "frame_name",
    "open_read_only",
    "read_outbox",
    "read_run",
    "remedy_of",
    "traces",
]

DATABASE = "node.sqlite"
"""File name of the database in the state folder."""

APPLIED = "applied"
"""Name of the body with the newest version of which an update became part: 4 bytes, big endian; it may be missing."""

NEWEST_FIRST = "SELECT * FROM runs ORDER BY heard DESC, run"
"""The run that was heard last, and those before it."""

RUNS_MAX = 4
"""Runs that are kept; of more, the longest unheard goes first."""

RUNS_OWED_MAX = 32
"""Runs that are kept where all but the newest have updates that nobody has received: then no other one is entered."""

OWED_S = 30 * 86_400.0
"""How long an update that nobody has received keeps its run, in seconds of the wall clock."""

_CLOCK_S = 1_577_836_800.0
"""A clock before 2020 was never set: what it has stamped may be of today."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """What is kept of a run beside its outbox and its bodies.

    Attributes:
        run: Which run.
        heard: Counts up: the run that was heard last has the highest.
        last_round: Its newest round that is finished or declined.
        residual_version: Base version of the newest update that was saved with a residual.
        epoch: As `Seen` has it, and what follows; None where nothing was heard.
    """

    run: RunId
    heard: int = 0
    last_round: RoundId | None = None
    residual_version: ModelVersion | None = None
    epoch: Epoch | None = None
    start: Start = NO_START
    began_ms: int | None = None
    round: RoundId | None = None
    version: ModelVersion | None = None

    @property
    def seen(self) -> Seen | None:
        """The newest that was heard of the coordinator."""
        if self.epoch is None:
            return None
        return Seen(
            run=self.run,
            epoch=self.epoch,
            start=self.start,
            began_ms=self.began_ms,
            round=self.round,
            version=self.version,
        )


_RUN = Columns(RunRow, kinds={"start": UNSIGNED})
_PUT_RUN = f"INSERT INTO runs ({_RUN.names}) {placed(_RUN.names, ('run',))}"
_ENTRY = Columns(OutboxEntry, kinds={"offer": Kind("BLOB", encode_message, decode_message)})

_OUTBOX = (
    "position INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, update_id TEXT NOT NULL, saved_s REAL NOT NULL, "
    f"{_ENTRY.definitions(stored='INTEGER NOT NULL DEFAULT 0')}, UNIQUE (run, update_id)"
)
_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    f"CREATE TABLE IF NOT EXISTS runs ({_RUN.definitions(run='TEXT PRIMARY KEY')})",
    f"CREATE TABLE IF NOT EXISTS body ({BODY.definitions()}, PRIMARY KEY (run, name))",
    f"CREATE TABLE IF NOT EXISTS outbox ({_OUTBOX})",
    SPENT_TABLE,
)


def _read_number(connection: Connection) -> int:
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
        return 0
    row = connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
    if row is not None and not isinstance(row[0], int):
        raise StorageError(f"the node's store cannot be read: its layout is {row[0]!r}")
    return 0 if row is None else int(row[0])


def _write_number(connection: Connection, number: int) -> None:
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('format', ?)", (number,))


_BY_RUN = """
ALTER TABLE body RENAME TO former_body;
ALTER TABLE outbox RENAME TO former_outbox;
CREATE TABLE runs (run TEXT PRIMARY KEY, heard INTEGER NOT NULL, last_round INTEGER, residual_version INTEGER,
    epoch INTEGER, start TEXT NOT NULL, began_ms INTEGER, round INTEGER, version INTEGER);
CREATE TABLE body (run TEXT NOT NULL, name TEXT NOT NULL, digest BLOB NOT NULL, inline BLOB, file TEXT,
    PRIMARY KEY (run, name));
CREATE TABLE outbox (position INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, update_id TEXT NOT NULL,
    saved_s REAL NOT NULL, offer BLOB NOT NULL, stored INTEGER NOT NULL DEFAULT 0, UNIQUE (run, update_id))
"""
_FORMER = ("run", "last_round", "residual_version", "seen")


def _keep_by_run(connection: Connection) -> None:
    """2: everything so far is of the run that was heard last; how old its updates are, nobody knows: as of today."""
    meta = dict(tuple(row) for row in connection.execute("SELECT name, value FROM meta").fetchall())
    for statement in _BY_RUN.split(";"):
        connection.execute(statement)
    run, seen = meta.get("run"), read_json(meta.get("seen") or "{}")
    add = "INSERT INTO runs (run, heard, last_round, residual_version, start) VALUES (?, ?, ?, ?, '0')"
    if run is not None:
        connection.execute(add, (run, 2, meta.get("last_round"), meta.get("residual_version")))
        body = "INSERT INTO body SELECT ?, name, digest, inline, file FROM former_body"
        connection.execute(body, (run,))
        outbox = (
            "INSERT INTO outbox SELECT position, ?, update_id, CAST(strftime('%s', 'now') AS REAL), offer, stored "
            "FROM former_outbox"
        )
        connection.execute(outbox, (run,))
    if seen:
        if seen["run"] != run:
            connection.execute(add, (seen["run"], 1, None, None))
        columns = ("epoch", "began_ms", "round", "version")
        heard = "UPDATE runs SET epoch = ?, began_ms = ?, round = ?, version = ? WHERE run = ?"
        connection.execute(heard, (*(seen.get(name) for name in columns), seen["run"]))
    connection.execute("DROP TABLE former_body")
    connection.execute("DROP TABLE former_outbox")
    connection.executemany("DELETE FROM meta WHERE name = ?", [(name,) for name in _FORMER])


LAYOUT = Layout(tables=_TABLES, read=_read_number, write=_write_number, steps={2: _keep_by_run, 3: add_ledger})
"""Layout 1 has had one run at a time; rows of `meta` and named bodies have come to it, and none has to be there."""


NO_NODE = (
    "has a node run with this state folder? --state names it, --config the settings, such as the folder of"
    " edge-node join"
)
"""What to do where a folder has no node's work."""


def open_read_only(folder: Path) -> ReadOnlyDatabase:
    """Open the database of a node's state folder to read.

    Raises:
        StorageError: There is none, it is of a newer layout, or it cannot be read.
    """
    return ReadOnlyDatabase(folder / DATABASE, LAYOUT, missing=NO_NODE)


def traces(folder: Path) -> list[str]:
    """What only a node's work leaves beside its database: nothing at a first start."""
    with contextlib.suppress(OSError):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        log = f"{DATABASE}-wal"
        left = [one for one in entries if (is_model(one.name) or one.name == log) and one.stat().st_size]
        return [one.name for one in entries if one.name.endswith(SUFFIX) or one in left]
    return []


def remedy_of(folder: Path) -> str:
    """What to do about a node's state that is lost or damaged."""
    return f"move {folder} away to start afresh: only updates that were never delivered are in it"


def read_outbox(rows: Iterable[Row]) -> Iterator[tuple[UpdateId, OutboxEntry | None]]:
    """The entries in rows of `outbox`; None for one whose offer cannot be read."""
    for row in rows:
        try:
            entry = _ENTRY.record(row)
        except (RemoteProtocolError, DamagedStore):
            yield row["update_id"], None
        else:
            yield row["update_id"], entry if isinstance(entry.offer, UpdateOffer) else None


def frame_name(update: UpdateId) -> str:
    """Name of the body with an update's frame."""
    return f"frame-{update}"


def read_run(row: Row) -> RunRow:
    """What a row of `runs` says."""
    return _RUN.record(row)


class Database:
    """One connection, used by one thread.

    Args:
        folder: Where it is.
        draw: Gives a new store its identity.

    Attributes:
        incarnation: Which start of the store this is: 1 is the first.
        state_id: Drawn when the store was made.

    Raises:
        StorageError: The database cannot be opened, is damaged, or of a newer layout.
    """

    def __init__(self, folder: StateFolder, draw: Callable[[], StateId]) -> None:
        self._folder = folder
        self._tables = sqlite.Database(
            folder.path / DATABASE, LAYOUT, remedy=remedy_of(folder.path), role="node", traces=traces(folder.path)
        )
        incarnation = self._number("incarnation", INT32_MAX) + 1
        with _reading():
            self.bodies = Bodies(folder, self._tables, incarnation)
        with self.transaction(durable=True):
            self.set_meta("incarnation", incarnation)
            if self.meta("state_id") is None:
                self.set_meta("state_id", str(draw()))
        self.bodies.sweep()
        self.incarnation = Incarnation(incarnation)
        self.state_id = StateId(self._number("state_id", INT64_MAX))

    def _number(self, name: str, most: int) -> int:
        """A number of `meta`; 0 where there is none."""
        said = self.meta(name)
        try:
            number = int(said or 0)
        except ValueError:
            number = -1
        if not 0 <= number <= most:
            problem = f"the {name.replace('_', ' ')} of this state is {said!r:.40}"
            raise DamagedStore(f"{problem}; {remedy_of(self._folder.path)}")
        return number

    def query(self, statement: str, *values: object) -> list[Row]:
        """All rows of a query.

        Raises:
            StorageError: The disk failed.
        """
        with _reading():
            return self._tables.execute(statement, *values).fetchall()

    def body(self, run: RunId, name: str) -> bytes | None:
        """A named body of a run; None when it is missing or its digest is wrong.

        Raises:
            StorageError: The disk failed.
        """
        with _reading():
            return self.bodies.read(run, name)

    def change(self, statement: str, *values: object) -> None:
        """Change rows inside a `transaction`."""
        self._tables.execute(statement, *values)

    def add_entry(self, entry: OutboxEntry, saved_s: float) -> None:
        """Add an update to the outbox inside a `transaction`; ``saved_s`` is the time, by the wall clock."""
        offer = entry.offer
        row = {"run": offer.run, "update_id": offer.update, "saved_s": saved_s} | _ENTRY.row(entry)
        self._tables.insert("outbox", row)

    def spent(self) -> dict[RunId, tuple[SampledSteps, ...]]:
        """What was spent in each run."""
        return read_ledgers(self.query)

    def charge(self, run: RunId, update: UpdateId | None, spent: Iterable[SampledSteps]) -> None:
        """Charge what a run's ledger lacks of ``spent`` inside a `transaction`."""
        charge(self.query, self.change, (run, update), spent)

    def runs(self) -> list[RunRow]:
        """The runs that are kept, the one that was heard last first."""
        return [_RUN.record(row) for row in self.query(NEWEST_FIRST)]

    def run(self, run: RunId) -> RunRow:
        """What is kept of a run."""
        rows = self.query("SELECT * FROM runs WHERE run = ?", run)
        return _RUN.record(rows[0]) if rows else RunRow(run=run)

    def newest_run(self, run: RunId) -> RunRow:
        """The same, as the run that was heard last."""
        row, others = self.run(run), self.query("SELECT MAX(heard) FROM runs WHERE run != ?", run)
        return replace(row, heard=max(row.heard, 1 + (others[0][0] or 0)))

    def put_run(self, row: RunRow) -> None:
        """Replace what is kept of a run inside a `transaction`."""
        self._tables.execute(_PUT_RUN, *_RUN.row(row).values())

    def enter_run(self, run: RunId, now_s: float) -> tuple[RunId, ...]:
        """Keep a run as the one that was heard last inside a `transaction`; says which ones had to go for it.

        Raises:
            StorageError: There is no room: too many runs have updates that nobody has received.
        """
        known = self.runs()
        others = [row.run for row in known if row.run != run]
        recent = "run IN (SELECT run FROM outbox WHERE NOT stored AND (saved_s > ? OR saved_s < ?))"
        kept = {row[0] for row in self.query(f"SELECT run FROM runs WHERE {recent}", now_s - OWED_S, _CLOCK_S)}  # noqa: S608
        free = [other for other in reversed(others) if other not in kept]
        gone = tuple(free[: max(0, len(others) + 1 - RUNS_MAX)])
        if run not in {row.run for row in known} and len(others) - len(gone) >= RUNS_OWED_MAX:
            raise StorageError(
                f"{RUNS_OWED_MAX} runs have updates in {self._folder.path} that no coordinator has received yet, so no "
                "other run is entered: start one of their coordinators again, or move the folder away to drop them all"
            )
        for other in gone:
            self._drop_run(other)
        self.put_run(self.newest_run(run))
        return gone

    def _drop_run(self, run: RunId) -> None:
        self.bodies.drop_run(run)
        for table in ("outbox", "runs"):
            self.change(f"DELETE FROM {table} WHERE run = ?", run)  # noqa: S608 - our own names

    @contextlib.contextmanager
    def transaction(self, *, durable: bool) -> Iterator[None]:
        """All or nothing; ``durable`` also waits for the disk.

        Raises:
            StorageError: Nothing has changed.
        """
        self.bodies.begin()
        try:
            with self._tables.transaction("change", durable=durable):
                yield
        except BaseException:
            self.bodies.undo()
            raise
        self.bodies.end()

    def meta(self, name: str) -> Any:
        """One named value, or None."""
        rows = self.query("SELECT value FROM meta WHERE name = ?", name)
        return rows[0][0] if rows else None

    def set_meta(self, name: str, value: object) -> None:
        """Set one named value inside a `transaction`."""
        self._tables.insert("meta", {"name": name, "value": value}, conflict="REPLACE")

    def close(self) -> None:
        """Close the connection."""
        self._tables.close()


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except SqliteError as error:
        raise StorageError(f"the store cannot be read: {error}") from error
