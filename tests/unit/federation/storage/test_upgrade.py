"""`upgrade` says what a store is and what becomes of it; a check changes nothing, and a newer one is refused."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.storage.database import STORE as COORDINATOR
from edge_node.cli import app as node_app
from edge_node.storage.read_only import STORE as NODE
from federation.errors import StorageError
from federation.storage.folder import FolderLock
from federation.storage.upgrade import StoreKind, plan_upgrade, upgrade_store
from tests.rigs.former_state import folder_of_layout, layout_of

KINDS = pytest.mark.parametrize("store", [COORDINATOR, NODE], ids=["coordinator", "node"])


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def former(store: StoreKind, tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder_of_layout("coordinator-1" if store is COORDINATOR else "node-1", folder)
    return folder


def number_of(folder: Path, store: StoreKind) -> int:
    with closing(sqlite3.connect(folder / store.database)) as database:
        return store.layout.read(database)


@KINDS
def test_every_step_says_what_it_brings(store: StoreKind) -> None:
    assert store.changes.keys() == store.layout.steps.keys()
    assert all(store.changes.values())


@KINDS
def test_a_check_says_what_lies_between_and_changes_nothing(
    store: StoreKind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = former(store, tmp_path)
    before = layout_of(folder / store.database)
    assert upgrade_store(folder, store, check=True, as_json=False) == 0
    said = capsys.readouterr().out
    assert "layout 1; release" in said
    assert all(f"  {number}: {brings}" in said for number, brings in store.changes.items())
    assert "tried on a copy, and it works" in said
    assert "make a backup before" in said
    assert layout_of(folder / store.database) == before


@KINDS
def test_an_upgrade_makes_the_layout_of_this_release_and_then_has_nothing_to_do(
    store: StoreKind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = former(store, tmp_path)
    assert upgrade_store(folder, store, check=False, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["upgraded"] is True
    assert number_of(folder, store) == store.layout.number
    assert upgrade_store(folder, store, check=False, as_json=False) == 0
    assert "nothing to do" in capsys.readouterr().out


@KINDS
def test_a_newer_store_is_refused_with_what_to_do(store: StoreKind, tmp_path: Path) -> None:
    folder = former(store, tmp_path)
    upgrade_store(folder, store, check=False, as_json=True)
    with closing(sqlite3.connect(folder / store.database)) as database, database:
        store.layout.write(database, store.layout.number + 1)
    remedy = "install the newer release again, or restore a backup"
    for check in (True, False):
        with pytest.raises(StorageError, match=remedy):
            upgrade_store(folder, store, check=check, as_json=False)
    assert number_of(folder, store) == store.layout.number + 1


@KINDS
def test_a_store_in_use_is_looked_at_and_left_alone(
    store: StoreKind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = former(store, tmp_path)
    lock = FolderLock(folder)
    try:
        assert upgrade_store(folder, store, check=True, as_json=False) == 0
        assert "stop it, and start" in capsys.readouterr().out
        with pytest.raises(StorageError, match="in use by the process"):
            upgrade_store(folder, store, check=False, as_json=False)
    finally:
        lock.release()
    assert number_of(folder, store) == 1


@KINDS
def test_without_room_nothing_is_begun(
    store: StoreKind, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = former(store, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: Usage(100, 99, 1))
    assert upgrade_store(folder, store, check=False, as_json=False) == 1
    assert "NOT YET" in capsys.readouterr().out
    assert number_of(folder, store) == 1


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    folder = former(COORDINATOR, tmp_path)
    path = folder / COORDINATOR.database
    raw = bytearray(path.read_bytes())
    raw[4096:] = b"\xff" * (len(raw) - 4096)
    path.write_bytes(raw)
    with pytest.raises(StorageError):
        plan_upgrade(folder, COORDINATOR)


def said_by(app: Any, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.stdout


def test_both_command_lines_have_it(tmp_path: Path) -> None:
    coordinator, node = former(COORDINATOR, tmp_path / "c"), former(NODE, tmp_path / "n")
    code, said = said_by(make_app(["upgrade"]), "upgrade", "--state", str(coordinator), "--check", "--json")
    assert (code, json.loads(said)["layout_of_release"]) == (0, COORDINATOR.layout.number)
    code, said = said_by(node_app, "upgrade", "--state", str(node), "--check", "--json")
    assert (code, [one["layout"] for one in json.loads(said)["changes"]]) == (0, [2, 3])
    assert said_by(node_app, "upgrade") == (2, "")
