"""The coordinator's database: its file, its layout, and the steps from every earlier one."""

from pathlib import Path

from coordinator.storage.files import NO_RUN, of_later_versions, remedy_of, traces
from coordinator.storage.schema import TABLES
from federation.errors import StorageError
from federation.storage.folder import lost
from federation.storage.sqlite import Connection, Database, Layout
from federation.storage.sqlite_reading import ReadOnlyDatabase
from federation.storage.upgrade import StoreKind

__all__ = ["DATABASE", "LAYOUT", "STORE", "lost_run", "open_database", "open_read_only"]

DATABASE = "coordinator.sqlite3"
"""File name of the database in the state folder."""

_UNNUMBERED = 4
"""Layouts up to this one all say that they are 1, as the releases that wrote them did: their tables tell which."""


def _read_number(connection: Connection) -> int:
    number: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if number != 1:
        return number
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"surveys", "node_results", "retained"} <= tables:
        return 1
    return _UNNUMBERED if "attendance" in tables else 2


def _write_number(connection: Connection, number: int) -> None:
    connection.execute(f"PRAGMA user_version = {1 if number <= _UNNUMBERED else number}")


def _add_evaluations(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS surveys (version INTEGER PRIMARY KEY, share TEXT NOT NULL,"
        " closed INTEGER NOT NULL DEFAULT 0, nodes INTEGER NOT NULL DEFAULT 0,"
        " num_examples INTEGER NOT NULL DEFAULT 0, metrics TEXT NOT NULL DEFAULT '{}')"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS node_results (version INTEGER NOT NULL, node TEXT NOT NULL,"
        " num_examples INTEGER NOT NULL, metrics TEXT NOT NULL, evaluate_s REAL NOT NULL, reason TEXT NOT NULL,"
        " counted INTEGER NOT NULL, PRIMARY KEY (version, node)) WITHOUT ROWID"
    )
    connection.execute("CREATE TABLE IF NOT EXISTS retained (version INTEGER PRIMARY KEY, best INTEGER NOT NULL)")


def _add_attendance(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS attendance (node TEXT PRIMARY KEY, incarnation INTEGER,"
        " restarts INTEGER NOT NULL DEFAULT 0, asked INTEGER NOT NULL DEFAULT 0,"
        " absences TEXT NOT NULL DEFAULT '{}') WITHOUT ROWID"
    )


def _add_seals(connection: Connection) -> None:
    for table in ("versions", "updates"):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN seal BLOB")


def _add_medians(connection: Connection) -> None:
    connection.execute("ALTER TABLE surveys ADD COLUMN medians TEXT NOT NULL DEFAULT '{}'")


def _add_restores(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS restores (epoch INTEGER PRIMARY KEY, version INTEGER NOT NULL,"
        " first_round INTEGER NOT NULL, next_round INTEGER NOT NULL)"
    )


def _add_masked_sums(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS seeds (update_id TEXT PRIMARY KEY, ticket BLOB NOT NULL, boxes BLOB NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS batches (version INTEGER PRIMARY KEY, request BLOB NOT NULL,"
        " members TEXT NOT NULL, reason TEXT NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS sums (version INTEGER NOT NULL, part INTEGER NOT NULL, digest BLOB NOT NULL,"
        " body BLOB NOT NULL, PRIMARY KEY (version, part))"
    )


def _add_ledger(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS spent (node TEXT NOT NULL, sampling_rate REAL NOT NULL, noise REAL NOT NULL,"
        " steps INTEGER NOT NULL, round INTEGER NOT NULL, clip REAL NOT NULL, epsilon REAL NOT NULL,"
        " delta REAL NOT NULL, PRIMARY KEY (node, sampling_rate, noise)) WITHOUT ROWID"
    )


def _add_releases(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS releases (number INTEGER PRIMARY KEY, batch BLOB NOT NULL UNIQUE,"
        " version INTEGER NOT NULL, noise REAL NOT NULL, clip REAL NOT NULL, epsilon REAL NOT NULL,"
        " delta REAL NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS prices (number INTEGER NOT NULL, node TEXT NOT NULL, price REAL NOT NULL,"
        " PRIMARY KEY (number, node)) WITHOUT ROWID"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS takings (node TEXT PRIMARY KEY, releases INTEGER NOT NULL,"
        " last INTEGER NOT NULL, spent REAL NOT NULL) WITHOUT ROWID"
    )


def _add_groups(connection: Connection) -> None:
    connection.execute("ALTER TABLE batches ADD COLUMN others BLOB")


def _add_masked_reports(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS masked_reports (version INTEGER NOT NULL, node TEXT NOT NULL,"
        " report BLOB NOT NULL, PRIMARY KEY (version, node))"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS masked_evaluations (version INTEGER PRIMARY KEY, request BLOB NOT NULL)"
    )


def _add_site_results(connection: Connection) -> None:
    connection.execute("ALTER TABLE node_results ADD COLUMN nodes INTEGER NOT NULL DEFAULT 1")


def _add_claims(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS claims (claim BLOB PRIMARY KEY, node BLOB NOT NULL, update_id TEXT) WITHOUT ROWID"
    )
    connection.execute("CREATE INDEX IF NOT EXISTS claims_by_update ON claims (update_id)")
    connection.execute("CREATE INDEX IF NOT EXISTS claims_by_node ON claims (node)")
    connection.execute("ALTER TABLE transfers ADD COLUMN members BLOB")


def _add_compaction(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS compacted_updates (block INTEGER PRIMARY KEY, seq_first INTEGER NOT NULL,"
        " seq_last INTEGER NOT NULL, round_min INTEGER NOT NULL, round_max INTEGER NOT NULL,"
        " updates INTEGER NOT NULL, changed INTEGER NOT NULL, fates BLOB NOT NULL, body BLOB NOT NULL,"
        " seal BLOB NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS compacted_nodes (number INTEGER PRIMARY KEY, node TEXT NOT NULL UNIQUE,"
        " version INTEGER, base_version INTEGER, num_examples INTEGER, metrics TEXT, seal BLOB NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS compacted_sums (node TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL,"
        " updates INTEGER NOT NULL, up INTEGER NOT NULL, down_high INTEGER NOT NULL, down_low INTEGER NOT NULL,"
        " staleness INTEGER NOT NULL, seal BLOB NOT NULL, PRIMARY KEY (node, status, reason)) WITHOUT ROWID"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS compacted_versions (version INTEGER PRIMARY KEY,"
        " stale INTEGER NOT NULL DEFAULT 0, refused INTEGER NOT NULL DEFAULT 0, seal BLOB)"
    )
    connection.execute(
        "CREATE TABLE IF NOT EXISTS compacted_claims (claim INTEGER PRIMARY KEY, block INTEGER NOT NULL,"
        " place INTEGER NOT NULL)"
    )
    connection.execute("CREATE INDEX IF NOT EXISTS compacted_by_round ON compacted_updates (round_max, round_min)")


LAYOUT = Layout(
    tables=TABLES,
    read=_read_number,
    write=_write_number,
    # 3 has a row of `meta` more than 2, `began_ms`, which every start puts in where it is missing.
    steps={
        2: _add_evaluations,
        _UNNUMBERED: _add_attendance,
        5: _add_seals,
        6: _add_medians,
        8: _add_restores,
        9: _add_masked_sums,
        10: _add_ledger,
        11: _add_releases,
        12: _add_groups,
        13: _add_masked_reports,
        14: _add_site_results,
        15: _add_claims,
        16: _add_compaction,
    },
)


def open_database(folder: Path) -> Database:
    """Open the database of a state folder to write; an earlier layout is upgraded.

    Raises:
        StorageError: It is damaged, lost, of a newer layout, or cannot be opened.
    """
    found = traces(folder, DATABASE)
    return Database(folder / DATABASE, LAYOUT, remedy=remedy_of(folder), role="coordinator", traces=found)


def lost_run(folder: Path) -> StorageError | None:
    """The error of a state folder with models of a run that its database does not know; None where there are none."""
    found = of_later_versions(folder)
    return lost(folder / DATABASE, found, remedy_of(folder)) if found else None


def open_read_only(folder: Path, *, at_once: bool = False) -> ReadOnlyDatabase:
    """Open the database of a state folder to read, while a coordinator may be writing it.

    Args:
        folder: The state folder.
        at_once: Whether all that is read is of this moment.

    Raises:
        StorageError: There is none, it is of a newer layout, or it cannot be read.
    """
    return ReadOnlyDatabase(folder / DATABASE, LAYOUT, missing=NO_RUN, at_once=at_once)


STORE = StoreKind(
    role="coordinator",
    database=DATABASE,
    layout=LAYOUT,
    read=open_read_only,
    write=open_database,
    changes={
        2: "room for evaluations by nodes, and for versions that are kept",
        _UNNUMBERED: "room for each node's absences and restarts",
        5: "room for the sums that protect a run's identity",
        6: "room for medians of what nodes measure",
        8: "room for restores from backups",
        9: "room for masked sums",
        10: "room for the ledger of differential privacy",
        11: "room for the accounts of noised sums",
        12: "room for masked sums over groups",
        13: "room for masked reports of nodes that evaluate",
        14: "room for evaluations by whole sites",
        15: "room for what gateways claim for their sites",
        16: "room for updates that are compacted",
    },
)
"""What `coordinator upgrade` works on."""
