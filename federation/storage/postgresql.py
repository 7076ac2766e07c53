"""The one way to PostgreSQL: a connection whose statements are SQLite's, with its errors as `StorageError`.

What SQLite says otherwise is translated, statement by statement (`dialect`).
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import errors, pq
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.types.json import Json
from psycopg.types.numeric import NumericBinaryLoader

from federation.documents import read_json
from federation.errors import LeadershipLost, StorageError
from federation.runtime.failpoint import failpoint
from federation.storage.dialect import insertion, translated
from federation.storage.sql import Cursor
from federation.storage.sqlite import DuplicateRow

__all__ = ["PostgresDatabase", "PostgresSession", "Row"]

CONNECT_S: Final = 5
"""How long a server may take to answer the first time, in seconds."""

LOCK_S: Final = 10
"""How long a statement may wait for another one's lock, in seconds: nobody holds one longer but who is stopped."""


class Row:
    """One row: values by name or number, iterated in the order of the columns, as SQLite's."""

    __slots__ = ("_places", "_values")

    def __init__(self, places: Mapping[str, int], values: Sequence[Any]) -> None:
        self._places, self._values = places, tuple(values)

    def __getitem__(self, key: str | int) -> Any:
        return self._values[key if isinstance(key, int) else self._places[key]]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and self._places == other._places and self._values == other._values

    def __hash__(self) -> int:
        return hash(self._values)

    def keys(self) -> list[str]:
        """The names of the columns."""
        return list(self._places)


class _RowMaker:
    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self._places: dict[str, int] = {}
        for place, column in enumerate(cursor.description or ()):
            # Of two columns of one name the first counts, as in SQLite.
            self._places.setdefault(column.name, place)

    def __call__(self, values: Sequence[Any]) -> Row:
        return Row(self._places, values)


class _Whole(NumericBinaryLoader):
    """A sum of whole numbers is one, too."""

    def load(self, data: Buffer) -> Any:
        return int(super().load(data))


class _Typeless(Loader):
    """Reads a column that has no type in SQLite."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> object:
        value = read_json(bytes(data))
        return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


class _Number(Dumper):
    """A truth value is 0 or 1."""

    oid = psycopg.adapters.types["int8"].oid

    def dump(self, obj: bool) -> bytes:  # noqa: FBT001 - the library calls it so
        return b"1" if obj else b"0"


class PostgresSession:
    """One connection, used by one thread; every statement is its own transaction, unless one is begun.

    Args:
        url: Where, as libpq reads it; the schema that its ``search_path`` begins with holds everything.
        name: Tells the server's administrator, and a successor, whose connection it is.
        patience_s: How long the network may swallow everything before the connection counts as lost, in seconds.

    Raises:
        StorageError: There is no such server or database, or it does not let us in.
    """

    def __init__(self, url: str, name: str, *, patience_s: float = 30.0) -> None:
        try:
            self._connection: psycopg.Connection[Row] = psycopg.connect(
                url,
                autocommit=True,
                row_factory=_RowMaker,
                application_name=name,
                connect_timeout=CONNECT_S,
                client_encoding="UTF8",
                keepalives_idle=max(1, int(patience_s / 2)),
                keepalives_interval=1,
                tcp_user_timeout=int(patience_s * 1000),
            )
        except psycopg.Error as error:
            raise StorageError(f"the database of store.url cannot be used: {_words(error)}{_remedy(error)}") from error
        adapters = self._connection.adapters
        adapters.register_loader("numeric", _Whole)
        adapters.register_loader("json", _Typeless)
        adapters.register_dumper(bool, _Number)

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._connection.broken or self._connection.closed

    def execute(self, statement: str, *values: object) -> Cursor:
        """Run one statement of SQLite's kind.

        Raises:
            DuplicateRow: There is such a row.
            StorageError: It cannot be run.
        """
        with self._saying():
            return self._connection.execute(translated(statement), values, binary=True)

    def execute_all(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Run one statement for each row; errors as of `execute`."""
        with self._saying(), self._connection.cursor() as cursor:
            cursor.executemany(translated(statement), rows)

    def script(self, *statements: str) -> Row | None:
        """Run statements without values, in PostgreSQL's own words, on one way to the server; the last row of them."""
        with self._saying():
            cursor = self._connection.execute("; ".join(statements))
            row = None
            while True:
                if cursor.description:
                    row = cursor.fetchone()
                if not cursor.nextset():
                    return row

    def own(self, statement: str, *values: object) -> list[Row]:
        """Run one statement in PostgreSQL's own words; errors as of `execute`."""
        with self._saying():
            cursor = self._connection.execute(statement, values, binary=True)
            return cursor.fetchall() if cursor.description else []

    def roll_back(self) -> None:
        """Undo what has been begun, if anything can be."""
        with contextlib.suppress(psycopg.Error):
            self._connection.rollback()

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(psycopg.Error):
            self._connection.close()

    @contextlib.contextmanager
    def _saying(self) -> Iterator[None]:
        try:
            yield
        except errors.UniqueViolation as error:
            raise DuplicateRow(_words(error)) from error
        except (psycopg.Error, UnicodeError) as error:
            raise self.said(error) from error

    def said(self, error: Exception) -> StorageError:
        """What a reader hears of an error; a writer whose connection is lost has lost more than a statement."""
        return StorageError(f"the database has failed: {_words(error)}{_remedy(error)}")


class PostgresDatabase(PostgresSession):
    """A connection that writes for as long as it leads: every transaction compares the term with the fence's.

    Args:
        url: Where.
        name: As of `PostgresSession`.
        term: Under which term it writes; another one in the table `fence` ends it.
        role: Who it is, for failpoints.
        patience_s: As of `PostgresSession`.

    Attributes:
        waits_later: Whether a durable transaction is on the disk only after the next `sync`.

    Raises:
        StorageError: The database cannot be used.
        LeadershipLost: Another process leads already.
    """

    def __init__(self, url: str, name: str, *, term: int, role: str, patience_s: float = 30.0) -> None:
        super().__init__(url, name, patience_s=patience_s)
        self._term, self._role = term, role
        self._tables: dict[str, tuple[list[str], list[str], set[str]]] = {}
        self.waits_later = self._unsynced = False
        self._waits = True
        self.script(f"SET lock_timeout = '{LOCK_S}s'", "SET synchronous_commit = on")

    def insert(self, table: str, *rows: Mapping[str, object], conflict: str = "ABORT") -> None:
        """Add rows, which have the same columns; ``conflict`` is ``ABORT``, ``IGNORE`` or ``REPLACE``."""
        if not rows:
            return
        all_columns, key, typeless = self._table(table)
        columns = tuple(rows[0])
        statement = insertion(table, columns, conflict, tuple(key), tuple(all_columns))
        values = [[_untyped(row[name]) if name in typeless else row[name] for name in columns] for row in rows]
        with self._saying():
            if len(rows) == 1:
                self._connection.execute(statement, values[0], binary=True)
                return
            with self._connection.cursor() as cursor:
                cursor.executemany(statement, values)

    def transaction(self, what: str, *, durable: bool = True) -> "_Transaction":
        """One transaction under the fence.

        Raises:
            StorageError: Nothing of it is in the database.
            LeadershipLost: Another process leads; nothing of it is in the database.
        """
        self._unsynced |= durable and self.waits_later
        wait = durable and not self.waits_later
        return _Transaction(self, what, f"{self._role}_commit_{what}", wait=wait)

    def wait_later(self) -> None:
        """From now on a durable transaction is on the disk only after the next `sync`."""
        self.waits_later = True

    def sync(self) -> None:
        """Wait for the disk once for all transactions since the last call: they are in one log, in order.

        Raises:
            StorageError: The disk has failed; what it has kept is unknown.
            LeadershipLost: Another process leads.
        """
        if not self._unsynced:
            return
        failpoint(f"{self._role}_fsync")
        # A lock of a row is written to the log: the commit that ends it waits for the disk, and all before it is there.
        self.begin(wait=True)
        self.script("COMMIT")
        self._unsynced = False

    def begin(self, *, wait: bool) -> None:
        """Begin a transaction under the fence; the fence's row stays as it is until the end.

        Raises:
            StorageError: It cannot be begun.
            LeadershipLost: Another process leads.
        """
        mode = () if wait is self._waits else (f"SET synchronous_commit = {'on' if wait else 'off'}",)
        try:
            row = self.script(*mode, "BEGIN", "SELECT term FROM fence FOR SHARE")
        except StorageError:
            self.roll_back()  # it may have begun: the next statement would hear of nothing else
            raise
        self._waits = wait
        if row is None or row[0] != self._term:
            self.roll_back()
            led = "nobody" if row is None else f"term {row[0]}"
            raise LeadershipLost(f"another coordinator leads this run ({led} in place of {self._term}): stopped")

    def said(self, error: Exception) -> StorageError:
        """A connection that is lost is the lead that is lost: what was begun is unknown until a new start."""
        if self.lost:
            raise LeadershipLost(
                f"the connection to the database of store.url was lost, and the lead with it: {_words(error)}; "
                "the next start goes on, as standby where another one leads"
            ) from error
        return super().said(error)

    def _table(self, name: str) -> tuple[list[str], list[str], set[str]]:
        if name not in self._tables:
            rows = self.own(_DESCRIBED, name)
            # Columns that the server counts itself are nobody's to write.
            own = [row for row in rows if not row["counted"]]
            self._tables[name] = (
                [row["name"] for row in own],
                [row["name"] for row in own if row["keyed"]],
                {row["name"] for row in own if row["type"] == "json"},
            )
        return self._tables[name]


_DESCRIBED = """
SELECT a.attname::text AS name, format_type(a.atttypid, NULL) AS type,
    a.attidentity <> '' AS counted,
    EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey))
        AS keyed
FROM pg_attribute a WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""


class _Transaction:
    __slots__ = ("_database", "_point", "_wait", "_what")

    def __init__(self, database: PostgresDatabase, what: str, point: str, *, wait: bool) -> None:
        self._database, self._what, self._point, self._wait = database, what, point, wait

    def __enter__(self) -> None:
        self._database.begin(wait=self._wait)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            if error is None:
                failpoint(self._point)
                self._database.script("COMMIT")
        except BaseException as failure:
            self._database.roll_back()
            self._say(failure)
            raise
        if error is not None:
            self._database.roll_back()
            self._say(error)

    def _say(self, error: BaseException) -> None:
        if isinstance(error, (DuplicateRow, OSError)):
            raise StorageError(f"the {self._what} cannot be stored: {error}") from error


def _untyped(value: object) -> Json:
    return Json({"hex": bytes(value).hex()} if isinstance(value, (bytes, memoryview)) else value)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())


def _remedy(error: Exception) -> str:
    """What to do about it, with its own semicolon; empty where the error needs none of these."""
    match error:
        case errors.DiskFull():
            return "; make room on the server's disk"
        case errors.InsufficientPrivilege():
            return "; make this user the owner of the run's tables, and let it create some: GRANT CREATE ON SCHEMA"
        case errors.ReadOnlySqlTransaction():
            return "; it takes no writes: name the primary in store.url, or end default_transaction_read_only"
        case errors.UndefinedTable() | errors.UndefinedColumn():
            return "; somebody has changed the run's tables: undo that, or restore a backup (coordinator restore FILE)"
        case errors.LockNotAvailable():
            return "; somebody holds a lock on the run's tables: see pg_locks"
        case _:
            # Of an error before there is a connection only the server's words are known.
            return next((remedy for words, remedy in _BEFORE.items() if words in str(error)), "")


_BEFORE = {
    "password": "; give the password with PGPASSWORD or ~/.pgpass",
    "not currently accepting": "; its owner has closed it: ALTER DATABASE ... ALLOW_CONNECTIONS true",
    "database": "; make the database first: createdb",
    "onnection refused": "; start the server, or correct store.url",
    "No such file": "; start the server, or correct store.url",
}
"""By a part of the server's or the library's words, in English."""
