"""Folders in memory: a killed simulation's goes with the next one, a living one's stays."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from coordinator.storage.sqlite_store import SqliteStore
from federation.storage.folder import lock
from fedmq.simulation.world import ram_folders
from fedmq.simulation.world.ram_folders import put_away, ram_folder

OWNER = """
import sys
from pathlib import Path
from fedmq.simulation.world import ram_folders
ram_folders._RAM = Path(sys.argv[1])
folder = ram_folders.ram_folder()
(folder / "node-0").mkdir()
(folder / "node-0" / "node.db").write_bytes(b"content")
print(folder, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ram_folders, "_RAM", tmp_path)
    monkeypatch.setattr(ram_folders, "_swept", set())
    return tmp_path


@pytest.fixture
def owner(place: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """Another simulation, and its folder."""
    command = [sys.executable, "-c", OWNER, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_the_folder_of_a_killed_simulation_goes_with_the_next_one(
    owner: tuple["subprocess.Popen[str]", Path],
) -> None:
    process, left = owner
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (left / "node-0" / "node.db").exists()
    put_away(ram_folder(), [])
    assert not left.exists()


def test_half_of_a_folder_that_was_being_removed_goes_too(owner: tuple["subprocess.Popen[str]", Path]) -> None:
    process, left = owner
    process.send_signal(signal.SIGKILL)
    process.wait()
    half = left.rename(left.with_name(f"{left.name}.gone"))
    put_away(ram_folder(), [])
    assert not half.exists()


def test_the_folder_of_a_living_simulation_stays(owner: tuple["subprocess.Popen[str]", Path]) -> None:
    _process, theirs = owner
    ours = ram_folder()
    ram_folders._swept.clear()
    put_away(ram_folder(), [])  # neither theirs nor ours is a leftover
    assert (theirs / "node-0" / "node.db").exists()
    assert ours.is_dir()
    put_away(ours, [])


def test_what_no_simulation_has_locked_is_never_taken_for_a_leftover(place: Path) -> None:
    others = [place / "fedmq-simulation-0a1b2c3d", place / "fedmq-simulation-link.locked", place / "user.locked"]
    others[0].mkdir()
    others[1].symlink_to(others[0])
    others[2].mkdir()
    put_away(ram_folder(), [])
    assert all(other.exists() for other in others)


def test_a_folder_that_another_process_takes_for_a_leftover_meanwhile_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between making a folder and locking it another simulation may look for leftovers: it removes the folder."""
    lost: list[Path] = []

    def late(handle: int) -> bool:
        if not lost:
            lost.append(Path(f"/proc/self/fd/{handle}").readlink())
            lost[0].rmdir()
        return lock(handle)

    monkeypatch.setattr(ram_folders, "lock", late)
    folder = ram_folder()
    assert folder.is_dir()
    assert folder != lost[0]
    put_away(folder, [])


def test_without_memory_the_folder_is_an_ordinary_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ram_folders, "_RAM", tmp_path / "missing")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = ram_folder()
    assert made.parent == tmp_path
    put_away(made, [])
    assert not made.exists()


class Store:
    """Knows whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


def in_forked(folder: Path, answer: Connection) -> None:
    """What a training worker does that collects its copy of the simulation as garbage, and lives on."""
    store = Store()
    put_away(folder, [store])
    answer.send(store.closed)
    answer.recv()


def test_a_forked_process_removes_and_closes_nothing_of_its_parent_and_keeps_no_lock_of_it() -> None:
    """A lock belongs to all copies of a handle: a worker that outlives its parent would keep the folder for ever."""
    folder = ram_folder()
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    worker = context.Process(target=in_forked, args=(folder, there), daemon=True)
    worker.start()
    assert here.recv() is False
    assert folder.is_dir()
    os.close(ram_folders._held.pop(folder))  # as the kernel does when the parent is killed
    ram_folders._swept.clear()
    put_away(ram_folder(), [])
    assert not folder.exists()
    here.send(None)
    worker.join()


def test_what_the_collector_puts_away_in_another_thread_leaves_no_lock_and_no_folder() -> None:
    """SQLite lets only the thread close a connection that has opened it; a finalizer runs in any."""
    folder = ram_folder()
    store = SqliteStore(folder / "state")
    thread = threading.Thread(target=put_away, args=(folder, [store]))
    thread.start()
    thread.join()
    assert not folder.exists()
    assert store._lock._file.closed
    store._database.close()
