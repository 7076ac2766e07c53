"""Stores in folders of their own, for tests that need a store and do not look into its folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from coordinator.storage.sqlite_store import SqliteStore
from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.errors import StorageError
from fedmq.simulation.world import ram_folders
from fedmq.simulation.world.ram_folders import ram_folder

ResultT = TypeVar("ResultT")
StoreT = TypeVar("StoreT", bound=SqliteStore | SqliteNodeStore)

_open: dict[SqliteStore | SqliteNodeStore, Path] = {}


def in_own_folder(kind: Callable[[Path], StoreT]) -> StoreT:
    """A new store."""
    return _opened(kind, ram_folder())


def reopened(store: StoreT) -> StoreT:
    """The same state, as the next process finds it."""
    store.close()
    return _opened(type(store), _open.pop(store))


def put_away() -> None:
    """Close the stores that were made here, and remove their folders."""
    while _open:
        store, folder = _open.popitem()
        ram_folders.put_away(folder, [store])


def _opened(kind: Callable[[Path], StoreT], folder: Path) -> StoreT:
    store = kind(folder / "state")
    _open[store] = folder
    return store


def _unless_failing(change: Callable[..., ResultT]) -> Callable[..., ResultT]:
    def checked(store: "FailingNodeStore", *arguments: object, **options: object) -> ResultT:
        if store.failing:
            raise StorageError("no space left on device")
        return change(store, *arguments, **options)

    return checked


class FailingNodeStore(SqliteNodeStore):
    """A node's store whose disk can be full.

    Attributes:
        failing: Set it to make every change raise `StorageError`, as a full disk does.
    """

    failing = False
    save_model = _unless_failing(SqliteNodeStore.save_model)
    save_outbox = _unless_failing(SqliteNodeStore.save_outbox)
    mark_stored = _unless_failing(SqliteNodeStore.mark_stored)
    settle = _unless_failing(SqliteNodeStore.settle)
    save_progress = _unless_failing(SqliteNodeStore.save_progress)
    save_seen = _unless_failing(SqliteNodeStore.save_seen)
    enter_run = _unless_failing(SqliteNodeStore.enter_run)
