"""The noised sums of each run in a helper's database, and each node's part in them: never forgotten."""

from typing import Final

from federation.errors import StorageError
from federation.privacy.releases import Taking
from federation.storage.columns import real, whole
from federation.storage.sql import Readable, Row
from federation.storage.sqlite import Connection, Database
from federation.types import NodeId, RunId
from sum_helper.records import Charge, Released

__all__ = ["NOISED_TABLES", "add_noised_tables", "pay", "read_released", "read_taking", "read_takings"]

NOISED_TABLES: Final = (
    "CREATE TABLE noised (run TEXT PRIMARY KEY, plan TEXT NOT NULL, releases INTEGER NOT NULL)",
    (
        "CREATE TABLE takings (run TEXT NOT NULL, node TEXT NOT NULL, releases INTEGER NOT NULL, last INTEGER NOT NULL,"
        " spent REAL NOT NULL, PRIMARY KEY (run, node))"
    ),
)

_PAY: Final = (
    "INSERT INTO ledger VALUES (?, 1, ?)"
    " ON CONFLICT (node) DO UPDATE SET releases = releases + 1, spent = spent + excluded.spent"
)
_TAKE: Final = (
    "INSERT INTO takings VALUES (?, ?, 1, ?, ?) ON CONFLICT (run, node) DO UPDATE"
    " SET releases = releases + 1, last = excluded.last, spent = spent + excluded.spent"
)


def add_noised_tables(connection: Connection) -> None:
    """Make the tables in a store of before."""
    for statement in NOISED_TABLES:
        connection.execute(statement)


def read_taking(database: Readable, run: RunId, node: NodeId) -> Taking | None:
    """A node's part in the noised sums of a run; None where it was in none."""
    row = database.execute("SELECT * FROM takings WHERE run = ? AND node = ?", run, node).fetchone()
    return None if row is None else _taking(row)


def read_takings(database: Readable, run: RunId) -> dict[NodeId, Taking]:
    """Each node's part in the noised sums of a run, by name; nothing where a release of before has written last."""
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'takings'").fetchone() is None:
        return {}
    rows = database.execute("SELECT * FROM takings WHERE run = ? ORDER BY node", run).fetchall()
    return {NodeId(row["node"]): _taking(row) for row in rows}


def read_released(database: Readable, run: RunId) -> Released:
    """The noised sums of a run."""
    row = database.execute("SELECT * FROM noised WHERE run = ?", run).fetchone()
    return Released() if row is None else Released(releases=whole(row["releases"]), plan=str(row["plan"]))


def _taking(row: Row) -> Taking:
    return Taking(releases=whole(row["releases"]), last=whole(row["last"]), spent=real(row["spent"]))


def pay(database: Database, run: RunId, charge: Charge) -> None:
    """Charge the members of a sum, and give a noised one its number; within the transaction of their use.

    Raises:
        StorageError: The number was given to another batch: our own bug.
    """
    for node, spent in charge.prices.items():
        database.execute(_PAY, node, spent)
    if charge.release is None:
        return
    if read_released(database, run).releases != charge.release:
        raise StorageError(f"noised sum {charge.release} of run {run} is another batch: nothing is revealed")
    row = {"run": run, "plan": charge.plan, "releases": charge.release + 1}
    database.insert("noised", row, conflict="REPLACE")
    for node, spent in charge.prices.items():
        database.execute(_TAKE, run, node, charge.release, spent)
