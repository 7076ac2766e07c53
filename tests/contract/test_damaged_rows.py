"""What a damaged row does to whoever opens or reads a store: a reason in words, or nothing; never a traceback.

SQLite keeps text in a column of numbers. Each column of a state folder with work in it gets what it cannot have.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from coordinator.storage.database import DATABASE
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.sqlite_store import SqliteStore
from edge_node.storage.database import DATABASE as NODE_DATABASE
from edge_node.storage.read_only import read_node
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.errors import FederationError
from federation.protocol.sum_messages import SumOffer
from federation.types import Digest, ModelVersion, UpdateId
from site_gateway.storage.store import SiteStore
from sum_helper.storage.read_only import read_helper
from sum_helper.storage.store import DATABASE as HELPER_DATABASE
from sum_helper.storage.store import HelperStore, open_read_only, read_totals
from tests.contract.test_store_layouts import former
from tests.rigs import gateway_rig, helper_rig
from tests.rigs.helper_rig import HelperRig, fleet, request, terms

VALUES = ("text", b"\xff", 2**63 - 1)


def _open_coordinator(folder: Path) -> None:
    with closing(SqliteStore(folder)) as store:
        store.recovered(recent=2)
        store.manifest()


def _read_coordinator(folder: Path) -> None:
    with ReadOnlyStore(folder) as store:
        for read in (store.history, lambda: list(store.updates()), store.manifest, store.epoch, store.began_ms):
            with suppress(FederationError):
                read()
        for also in (store.read_the_rest, store.named_files, store.published, store.restored, store.masked_past):
            with suppress(FederationError):
                also()


def _open_node(folder: Path) -> None:
    with closing(SqliteNodeStore(folder)) as store:
        for entry in store.recovered().outbox:
            update = entry.offer.update
            for read in (store.frame, store.context, store.pending):
                read(update)
        for also in (store.held_model, store.residual, store.task_state, store.spent):
            also()


def _read_one(folder: Path) -> None:
    read_node(folder)


def _damages(database: sqlite3.Connection) -> Iterator[Callable[[sqlite3.Connection], object]]:
    """One for each value and column; of a table its newest row."""
    tables = (
        "SELECT name, sql LIKE '%WITHOUT ROWID%' FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    )
    for table, keyed in database.execute(tables).fetchall():
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        key = columns[0] if keyed else "rowid"
        keys = database.execute(f"SELECT {key} FROM {table}").fetchall()  # noqa: S608 - the same
        for (row,) in keys if table in ("meta", "body") else keys[-1:]:
            for column in columns:
                for value in VALUES:
                    statement = f"UPDATE {table} SET {column} = ? WHERE {key} = ?"  # noqa: S608 - the same
                    yield partial(_set, statement, (value, row))


def _set(statement: str, values: tuple[object, ...], database: sqlite3.Connection) -> None:
    with database:
        database.execute(statement, values)


def _former(name: str, folder: Path) -> Path:
    return former(name, folder / "state")


def _helper(folder: Path) -> Path:
    """A helper's store that holds seeds, and has answered a batch."""
    nodes = fleet(7)
    rig = HelperRig(folder, nodes)
    updates = [node.update(1, terms(), [rig.public]) for node in nodes]
    rig.hold(*updates)
    assert isinstance(rig.ask(request(updates[:6], terms())), SumOffer)
    rig.close()
    return folder / "state"


def _open_helper(folder: Path) -> None:
    with closing(HelperStore(folder)) as store, closing(open_read_only(folder)) as database:
        tickets = [Digest(row["ticket"]) for row in database.execute("SELECT ticket FROM updates").fetchall()]
        store.members(tickets)
        batches = [Digest(row["batch"]) for row in database.execute("SELECT batch FROM batches").fetchall()]
        for batch in batches:
            store.batch(batch)
            store.answer(batch, 0)
        held = database.execute("SELECT ticket FROM updates WHERE batch IS NULL").fetchall()
        store.seeds([Digest(row["ticket"]) for row in held], 0)
        store.keys()
        store.key_age_s()
        store.held_count()
        store.newest_version(helper_rig.RUN)
        store.sweep(keep_s=1e9, versions_back=4)


def _read_helper(folder: Path) -> None:
    with suppress(FederationError):
        read_helper(folder, None)
    with closing(open_read_only(folder)) as database:
        read_totals(database)


def _site(folder: Path) -> Path:
    """A gateway's store with a sum that is frozen, and no verdict yet."""
    rig = gateway_rig.Rig(folder)
    rig.above.announce()
    rig.until_offered(UpdateId(f"0-{gateway_rig.GATEWAY}"))
    rig.die()
    return folder / "site"


def _open_site(folder: Path) -> None:
    with closing(SiteStore(folder, gateway=gateway_rig.GATEWAY, run=gateway_rig.RUN)) as store:
        store.recovered_site(recent=2)
        store.results(ModelVersion(0))


@pytest.mark.parametrize(
    ("made", "database", "uses"),
    [
        (partial(_former, "coordinator_killed/state"), DATABASE, (_read_coordinator, _open_coordinator)),
        (partial(_former, "node/state"), NODE_DATABASE, (_read_one, _open_node)),
        (_helper, HELPER_DATABASE, (_read_helper, _open_helper)),
        (_site, DATABASE, (_read_coordinator, _open_site)),
    ],
    ids=["coordinator", "node", "helper", "gateway"],
)
def test_no_damaged_column_is_a_traceback(
    made: Callable[[Path], Path], database: str, uses: tuple[Callable[[Path], None], ...], tmp_path: Path
) -> None:
    folder = made(tmp_path)
    uses[-1](folder)  # it gets the layout of this release
    with closing(sqlite3.connect(folder / database)) as connection:
        damages = list(_damages(connection))
    assert len(damages) > 100
    for number, damage in enumerate(damages):
        damaged = tmp_path / f"damaged-{number}"
        shutil.copytree(folder, damaged)
        with closing(sqlite3.connect(damaged / database)) as connection, suppress(sqlite3.IntegrityError):
            damage(connection)
        for use in uses:
            with suppress(FederationError):
                use(damaged)
        shutil.rmtree(damaged)
