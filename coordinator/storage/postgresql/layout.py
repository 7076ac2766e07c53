"""The tables of a run in PostgreSQL: those of `coordinator.storage.schema`, and what SQLite's store keeps in files.

`fence` has the term under which may be written, `lead` says who leads: those are of `lead` in this room.
A run's rows go from one engine's tables to the other's as they are.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path

from coordinator.storage.database import LAYOUT
from coordinator.storage.schema import TABLE_NAMES
from federation.errors import StorageError
from federation.storage.dialect import translated
from federation.storage.postgresql import PostgresDatabase, PostgresSession
from federation.storage.sql import Database, Readable
from federation.storage.sqlite import Database as SqliteDatabase

__all__ = ["check_layout", "copy_rows", "copy_to_file", "new_schema", "prepare_tables"]

ROWS = 500
"""Rows that are in memory at once."""

_ORDER = {"updates": "seq", "transfers": "rowid"}
"""Tables whose rows have an order of their own."""

_COUNTED = "rowid"
"""A column that each engine counts itself."""

_BLOBS = "name TEXT NOT NULL, piece INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (name, piece)"
_CHUNKS = "transfer TEXT NOT NULL, start INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (transfer, start)"
_OWN = (
    "CREATE TABLE IF NOT EXISTS layout (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL)",
    f"CREATE TABLE IF NOT EXISTS blobs ({_BLOBS})",
    f"CREATE TABLE IF NOT EXISTS chunks ({_CHUNKS})",
    # They are compressed already.
    "ALTER TABLE blobs ALTER COLUMN body SET STORAGE EXTERNAL",
    "ALTER TABLE chunks ALTER COLUMN body SET STORAGE EXTERNAL",
)


class _Translated:
    """What a step of the layout works on."""

    def __init__(self, database: PostgresSession) -> None:
        self._database = database

    def execute(self, statement: str) -> None:
        self._database.script(translated(statement))


def prepare_tables(database: PostgresDatabase) -> None:
    """Make the tables, or bring those of an earlier release to this one's layout, in one transaction.

    Raises:
        StorageError: A newer release has made them, or they cannot be made.
    """
    with database.transaction("layout"):
        for statement in _OWN:
            database.script(translated(statement))
        found = check_layout(database)
        for statement in LAYOUT.tables if not found else ():
            database.script(translated(statement))
        for number in sorted(LAYOUT.steps) if found else ():
            if number > found:
                LAYOUT.steps[number](_Translated(database))  # type: ignore[arg-type] # all that a step needs
        database.insert("layout", {"one": 1, "number": LAYOUT.number}, conflict="REPLACE")


def check_layout(database: PostgresSession) -> int:
    """The layout that is there; 0 is none yet.

    Raises:
        StorageError: A newer release has made it.
    """
    row = database.execute("SELECT number FROM layout").fetchone()
    found = 0 if row is None else int(row["number"])
    if found > LAYOUT.number:
        raise StorageError(
            f"the database of store.url has layout {found}, and this release knows those up to {LAYOUT.number}: "
            "install the newer release again"
        )
    return found


def new_schema(url: str, name: str) -> str:
    """Make an empty schema, whatever was in one of this name; returns the url that sees it alone."""
    with closing(PostgresSession(url, "fedmq-schema")) as session:
        session.script(f"DROP SCHEMA IF EXISTS {name} CASCADE", f"CREATE SCHEMA {name}")
    return f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{name}"


def copy_rows(source: Readable, target: Database) -> None:
    """Add all rows to empty tables, inside a transaction of the target."""
    for table in TABLE_NAMES:
        order = f" ORDER BY {_ORDER[table]}" if table in _ORDER else ""
        rows = iter(source.execute(f"SELECT * FROM {table}{order}"))  # noqa: S608 - our own names
        while some := list(islice(_plain(rows), ROWS)):
            target.insert(table, *some)
    last = source.execute("SELECT seq FROM sqlite_sequence WHERE name = 'updates'").fetchone()
    if last is not None:
        # The last ones may be gone: their loss is to be found here, too.
        target.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'updates'", last["seq"])


def copy_to_file(source: Readable, path: Path) -> None:
    """Write all rows to a new file of SQLite, which needs no other beside it.

    Raises:
        StorageError: The disk is full or broken.
    """
    with closing(SqliteDatabase(path, LAYOUT, remedy="delete it", role="coordinator")) as target:
        with target.transaction("copy"):
            copy_rows(source, target)
        target.execute("PRAGMA journal_mode = DELETE")


def _plain(rows: Iterator[Mapping[str, object]]) -> Iterator[dict[str, object]]:
    return ({name: row[name] for name in row.keys() if name != _COUNTED} for row in rows)  # noqa: SIM118 - no mapping
