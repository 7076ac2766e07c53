"""Databases of every earlier layout become the one that a new store has; a column more is a field and a step.

The earlier ones are in tests/golden/state_folders; what is found in them, test_former_state_folders.py says.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coordinator.storage.database import DATABASE, LAYOUT
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.sqlite_store import SqliteStore
from edge_node.storage.database import DATABASE as NODE_DATABASE
from edge_node.storage.read_only import read_node
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.errors import StorageError
from tests.rigs.former_state import FORMER, folder_of_layout

ROOT = Path(__file__).parents[2]
COORDINATOR = ("coordinator-1", "coordinator-2", "coordinator-3", "coordinator/state", "coordinator_killed/state")
NODE = ("node-1", "node-2", "node-3", "node/state")


def former(name: str, folder: Path) -> Path:
    """A state folder of an earlier layout, or of the release before."""
    if "/" in name:
        shutil.copytree(FORMER / name, folder)
    else:
        folder_of_layout(name, folder)
    return folder


def schema_of(path: Path) -> dict[str, Any]:
    """Every table with its columns, keys and uniqueness, and every index with what it covers."""
    with closing(sqlite3.connect(path)) as database:
        tables = database.execute("SELECT name, wr FROM pragma_table_list WHERE schema = 'main'").fetchall()
        found: dict[str, Any] = {"layout": database.execute("PRAGMA user_version").fetchone()[0]}
        for table, without_rowid in tables:
            columns = database.execute(
                'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info(?)', (table,)
            )
            indexes = database.execute('SELECT name, "unique", origin, partial FROM pragma_index_list(?)', (table,))
            found[table] = [without_rowid, columns.fetchall(), sorted(indexes)]
        indexes = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        return found | {name: sql.replace(" IF NOT EXISTS", "") for name, sql in indexes}


def new_coordinator(folder: Path) -> dict[str, Any]:
    SqliteStore(folder).close()
    return schema_of(folder / DATABASE)


def new_node(folder: Path) -> dict[str, Any]:
    SqliteNodeStore(folder).close()
    return schema_of(folder / NODE_DATABASE)


@pytest.mark.parametrize("name", COORDINATOR)
def test_a_coordinators_database_of_any_layout_becomes_as_a_new_one(name: str, tmp_path: Path) -> None:
    assert new_coordinator(former(name, tmp_path / "old")) == new_coordinator(tmp_path / "new")


@pytest.mark.parametrize("name", NODE)
def test_a_nodes_database_of_any_layout_becomes_as_a_new_one(name: str, tmp_path: Path) -> None:
    assert new_node(former(name, tmp_path / "old")) == new_node(tmp_path / "new")


def test_what_a_node_of_one_run_has_kept_is_of_the_run_that_it_heard_last(tmp_path: Path) -> None:
    """Layout 1 to 2: bodies, outbox and model get their run; the newest that was heard may be of another one."""
    folder = former("node/state", tmp_path / "old")
    with closing(sqlite3.connect(folder / NODE_DATABASE)) as database, database:
        seen = json.loads(database.execute("SELECT value FROM meta WHERE name = 'seen'").fetchone()[0])
        other = json.dumps(seen | {"run": "00000000000000bb", "epoch": 6})
        database.execute("UPDATE meta SET value = ? WHERE name = 'seen'", (other,))
    before = read_node(folder)
    store = SqliteNodeStore(folder)
    recovered = store.recovered()
    assert (recovered.run, recovered.seen, recovered.last_round) == (seen["run"], None, before.last_round)
    assert [one.offer.update for one in recovered.outbox] == list(before.outbox)
    assert store.held_model() is not None
    assert (hidden := recovered.hidden[0].seen) is not None
    assert (hidden.run, hidden.epoch, hidden.start) == ("00000000000000bb", 6, 0)
    assert store.enter_run(hidden.run) == ()
    assert (store.residual(), store.held_model()) == (None, None)
    store.close()
    assert not (folder / "model.safetensors").exists()
    assert read_node(folder, seen["run"]).outbox == before.outbox


@pytest.mark.parametrize("run", [None, "00000000000000aa"])
def test_a_node_that_has_only_heard_of_a_coordinator_remembers_it(run: str | None, tmp_path: Path) -> None:
    """Layout 1 to 2, killed before its first round was done; a model that belongs to no run is pulled again."""
    folder = former("node/state", tmp_path / "old")
    with closing(sqlite3.connect(folder / NODE_DATABASE)) as database, database:
        database.execute("DELETE FROM outbox")
        database.execute("DELETE FROM body")
        database.execute("UPDATE meta SET value = ? WHERE name = 'run'", (run,))
        database.execute("DELETE FROM meta WHERE name IN ('last_round', 'residual_version', 'incarnation')")
    store = SqliteNodeStore(folder)
    recovered = store.recovered()
    assert (recovered.run, recovered.last_round, recovered.hidden) == ("00000000000000aa", None, ())
    assert recovered.seen is not None
    store.close()


def test_layouts_that_have_one_number_on_the_disk_are_told_apart_by_their_tables(tmp_path: Path) -> None:
    found = []
    for index, name in enumerate(COORDINATOR[:4]):
        with closing(sqlite3.connect(former(name, tmp_path / str(index)) / DATABASE)) as database:
            found.append(LAYOUT.read(database))
    assert found == [1, 2, 2, 4], "3 has the tables of 2"


@pytest.mark.parametrize("name", COORDINATOR[:3])
def test_a_reader_sees_an_earlier_layout_as_the_newest_and_leaves_the_file_alone(name: str, tmp_path: Path) -> None:
    folder = former(name, tmp_path / "old")
    before = schema_of(folder / DATABASE)
    with ReadOnlyStore(folder) as store:
        assert store.damage() == ""
        read = [store.history(), list(store.updates()), store.participation(), store.curves(), store.best()]
    assert schema_of(folder / DATABASE) == before
    owner = SqliteStore(folder)
    assert [owner.history(), list(owner.updates()), owner.participation(), owner.curves(), owner.best()] == read
    owner.close()


# --- a column more --------------------------------------------------------------------------------------------------

UPDATE_STEP = """17: lambda connection: [
    connection.execute(f"ALTER TABLE {table} ADD COLUMN waited_s REAL NOT NULL DEFAULT 0.0")
    for table in ("updates", "transfers")
]"""
OUTBOX_STEP = """4: lambda connection: connection.execute("ALTER TABLE outbox ADD COLUMN tries INTEGER")"""

CHANGES = {
    "coordinator/records.py": (
        "    fetched_bytes: int = 0\n",
        "    waited_s: float = 0.0\n    fetched_bytes: int = 0\n",
    ),
    "coordinator/storage/database.py": (
        "16: _add_compaction,\n",
        f"16: _add_compaction, {UPDATE_STEP},\n",
    ),
    "edge_node/records.py": ("    stored: bool = False\n", "    stored: bool = False\n    tries: int | None = None\n"),
    "edge_node/storage/database.py": ("3: add_ledger}", f"3: add_ledger, {OUTBOX_STEP}}}"),
}
"""For each role the field, which is the column, and the step."""

COORDINATOR_STORY = """
import json, sys
from dataclasses import replace
from pathlib import Path
from coordinator.records import TransferRecord
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.sqlite_store import SqliteStore

folder, new = Path(sys.argv[1]), Path(sys.argv[2])
with ReadOnlyStore(folder) as reader:
    found = {"read": [row.record.waited_s for row in reader.updates()]}
store = SqliteStore(folder)
first = next(store.updates()).record
store.save_update(replace(first, update="90-x", node="x", round=90, waited_s=2.5), b"frame")
record = replace(first, update="91-x", node="x", round=91, waited_s=1.5)
store.open_transfer(TransferRecord(record=record, chunk_bytes=16))
store.close()
store = SqliteStore(folder)
found["kept"] = [row.record.waited_s for row in store.updates()]
found["transfers"] = {one.record.update: one.record.waited_s for one in store.recovered(recent=1).transfers}
store.close()
SqliteStore(new).close()
print(json.dumps(found))
"""

NODE_STORY = """
import json, sys
from dataclasses import replace
from pathlib import Path
from edge_node.storage.sqlite_store import SqliteNodeStore

folder, new = Path(sys.argv[1]), Path(sys.argv[2])
store = SqliteNodeStore(folder)
first = store.recovered().outbox[0]
found = {"read": [entry.tries for entry in store.recovered().outbox]}
store.save_outbox(replace(first, offer=replace(first.offer, update="90-x", round=90), tries=7), b"frame", None)
store.close()
store = SqliteNodeStore(folder)
found["kept"] = [entry.tries for entry in store.recovered().outbox]
store.close()
SqliteNodeStore(new).close()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of a later release, which knows a column more of either role."""
    release = tmp_path_factory.mktemp("later")
    for package in ("coordinator", "edge_node", "federation"):
        shutil.copytree(ROOT / package, release / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (before, after) in CHANGES.items():
        text = (release / name).read_text(encoding="utf-8")
        assert text.count(before) == 1
        (release / name).write_text(text.replace(before, after), encoding="utf-8")
    return release


def told(release: Path, story: str, *folders: Path) -> dict[str, Any]:
    """What a script of the later release finds."""
    command = [sys.executable, "-c", story, *map(str, folders)]
    environment = os.environ | {"PYTHONPATH": str(release)}
    made = subprocess.run(command, cwd=release, env=environment, check=True, capture_output=True, timeout=120)
    found: dict[str, Any] = json.loads(made.stdout)
    return found


def without_defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """A column that came later stands at the end, and has a default for the rows that were there."""
    plain = {
        name: sorted((*one[:3], one[4]) for one in table[1]) for name, table in schema.items() if type(table) is list
    }
    return plain | {"layout": schema["layout"]}


@pytest.mark.parametrize("name", COORDINATOR)
def test_a_new_column_of_an_update_is_one_field_and_one_step(name: str, tmp_path: Path, later: Path) -> None:
    folder, new = former(name, tmp_path / "old"), tmp_path / "new"
    found = told(later, COORDINATOR_STORY, folder, new)
    assert found["read"] == [0.0] * len(found["read"]) != []
    assert found["kept"] == [*found["read"], 2.5]
    assert found["transfers"]["91-x"] == 1.5
    assert without_defaults(schema_of(folder / DATABASE)) == without_defaults(schema_of(new / DATABASE))
    for read in (SqliteStore, ReadOnlyStore):
        with pytest.raises(
            StorageError, match=r"has layout 17, and this release knows those up to 16: install the newer"
        ):
            read(folder)


@pytest.mark.parametrize("name", NODE)
def test_a_new_column_of_the_outbox_is_one_field_and_one_step(name: str, tmp_path: Path, later: Path) -> None:
    folder, new = former(name, tmp_path / "old"), tmp_path / "new"
    found = told(later, NODE_STORY, folder, new)
    assert found["read"] == [None] * len(found["read"]) != []
    assert found["kept"] == [*found["read"], 7]
    assert without_defaults(schema_of(folder / NODE_DATABASE)) == without_defaults(schema_of(new / NODE_DATABASE))
    for read in (SqliteNodeStore, read_node):
        with pytest.raises(
            StorageError, match=r"has layout 4, and this release knows those up to 3: install the newer"
        ):
            read(folder)
