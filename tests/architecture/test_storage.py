"""One way to the disk: who opens SQLite, who locks, and where statements of SQL may stand."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.rigs.source_tree import files, nodes, shown, tree

pytestmark = pytest.mark.xdist_group("source")

ROOMS = (
    "federation/storage/",
    "coordinator/storage/",
    "coordinator/storage/compaction/",
    "coordinator/storage/postgresql/",
    "edge_node/storage/",
    "site_gateway/storage/",
    "sum_helper/storage/",
)
"""Where SQL may stand."""

MAY_IMPORT = {
    "sqlite3": {"federation/storage/sqlite.py"},
    "psycopg": {"federation/storage/postgresql.py"},
    "fcntl": {"federation/storage/folder.py"},
}
MAY_TUNE = {
    "fedmq/simulation/world/disks.py": "a simulated disk makes checkpoints itself, and knows that it has no rival"
}
"""Where settings of SQLite may stand besides, and nothing else of it."""
SYNC = frozenset({"os.fsync", "os.fdatasync", "sync_bytes"})
MAY_SYNC = {
    "federation/storage/folder.py": "a file that is replaced, and its folder",
    "federation/storage/sqlite.py": "the log, once for a batch",
    "federation/doctor.py": "whether the disk takes a write at all",
}
SQL = re.compile(
    r"\b(SELECT\b.+\bFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|(CREATE|DROP|ALTER)\s+(TABLE|INDEX)"
    r"|PRAGMA\s+\w+|BEGIN\s+IMMEDIATE)\b",
    re.DOTALL,
)


def sources() -> Iterator[tuple[str, ast.AST]]:
    """Every module of the packages, with its name from the root."""
    for path in files():
        yield shown(path), tree(path)


def imported(tree: ast.AST) -> set[str]:
    """Every module that is imported, wherever the import stands."""
    found = set()
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def statements(tree: ast.AST) -> list[str]:
    """The texts that are SQL; of a text with gaps, its parts."""
    texts = (node.value for node in nodes(tree) if isinstance(node, ast.Constant))
    return [text for text in texts if isinstance(text, str) and SQL.search(text)]


@cache
def calls(tree: ast.AST) -> frozenset[str]:
    """What is called, as it is written."""
    return frozenset(ast.unparse(node.func) for node in nodes(tree) if isinstance(node, ast.Call))


def test_one_module_opens_sqlite_and_one_locks() -> None:
    every = {name: imported(tree) for name, tree in sources()}
    assert {module: {name for name, found in every.items() if module in found} for module in MAY_IMPORT} == MAY_IMPORT


def test_one_module_waits_for_the_disk_with_each_kind_of_file() -> None:
    assert {name for name, tree in sources() if SYNC & calls(tree)} == set(MAY_SYNC)


def test_sql_stands_in_the_storage_rooms_only() -> None:
    found = {name: statements(tree) for name, tree in sources() if not name.startswith(ROOMS)}
    assert all(text.startswith("PRAGMA ") for name in MAY_TUNE for text in found[name])
    assert {name for name, texts in found.items() if texts} == set(MAY_TUNE)
    inside = {name.rpartition("/")[0] + "/" for name, tree in sources() if name.startswith(ROOMS) and statements(tree)}
    assert inside == set(ROOMS)


def test_files_are_replaced_by_the_one_writer() -> None:
    """A temporary file of one's own is half a writer of one's own."""
    renames = re.compile(r"\b(\w*(part|temporary|tmp|new)\w*)\.(replace|rename)$|^os\.(replace|rename)$")
    found = {name for name, tree in sources() if any(renames.search(call) for call in calls(tree))}
    assert found == {"federation/storage/folder.py"}


def test_what_is_forbidden_would_be_noticed() -> None:
    tree = ast.parse(
        "def f(database, part):\n"
        "    import sqlite3\n"
        "    database.execute('SELECT value\\nFROM meta')\n"
        "    database.execute(f'DELETE FROM {part}')\n"
        "    say('select a row from the table, or update it')\n"
    )
    assert "sqlite3" in imported(tree)
    assert statements(tree) == ["SELECT value\nFROM meta", "DELETE FROM "]
