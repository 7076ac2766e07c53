"""Takes a run from its state folder into a database, from which it goes on where it was."""

import os
import socket
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from coordinator.storage.database import DATABASE, open_database
from coordinator.storage.files import BLOBS
from coordinator.storage.parts import Blobs, Leader
from coordinator.storage.places import remember_url
from coordinator.storage.postgresql.blobs import BlobTable
from coordinator.storage.postgresql.layout import copy_rows, prepare_tables
from coordinator.storage.postgresql.lead import take_lead
from coordinator.storage.read_only import ReadOnlyStore
from federation.errors import ConfigError, StorageError
from federation.storage.folder import FolderLock, ReadableFolder, sync_folder
from federation.storage.postgresql import PostgresDatabase
from federation.storage.remedies import remedy_for
from federation.storage.sql import Database

__all__ = ["MOVED", "Moved", "move_store"]

MOVED = f"{DATABASE}.moved"
"""What the database in the folder is called afterwards: nobody opens it by mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What was moved.

    Attributes:
        run: Which run.
        version: Its newest version.
        files: Large files.
        missing: Files that rows name and that are not there: each costs its update.
    """

    run: str
    version: int
    files: int
    missing: tuple[str, ...] = ()


def move_store(folder: Path, url: str, lease_s: float) -> Moved:
    """Copy a run into an empty database, and have its folder say so; repeated after an interruption, it goes on.

    Args:
        folder: The state folder; its coordinator is stopped.
        url: The database.
        lease_s: How long the lead of it lasts, in seconds.

    Raises:
        ConfigError: There is no run in the folder, or another one in the database.
        StorageError: The folder is in use, or folder or database cannot be used.
    """
    if not (folder / DATABASE).exists():
        raise ConfigError("store.folder", f"{folder} has no run to move", source=str(folder))
    lock = FolderLock(folder)
    try:
        with closing(open_database(folder)) as source:
            moved = _into(url, source, folder, lease_s)
        remember_url(folder, url)
        try:
            (folder / DATABASE).rename(folder / MOVED)
            sync_folder(folder)
        except OSError as error:
            raise StorageError(f"{folder / DATABASE} cannot be renamed: {error}{remedy_for(error, folder)}") from error
    finally:
        lock.release()
    return moved


def _into(url: str, source: Database, folder: Path, lease_s: float) -> Moved:
    def refuse(leader: Leader | None) -> None:
        by = "" if leader is None else f" by {leader.holder}"
        raise ConfigError("store.url", f"the database is in use{by}: stop it, or name another one")

    lead = take_lead(url, f"{socket.gethostname()}:{os.getpid()}", lease_s=lease_s, waits=refuse)
    if lead is None:
        raise AssertionError
    with ReadOnlyStore(folder) as store:
        named = store.named_files().keys()
    try:
        with closing(PostgresDatabase(url, lead.name, term=lead.term, role="coordinator")) as target:
            prepare_tables(target)
            run, there = _run_of(source), _run_of(target)
            if there is not None and there != run:
                raise ConfigError("store.url", f"the database has run {there}, and the folder has run {run}")
            files, missing = _copy_files(ReadableFolder(folder / BLOBS), BlobTable(target), named)
            if there is None:
                with target.transaction("move"):
                    copy_rows(source, target)
            head = target.execute("SELECT MAX(version) FROM versions").fetchone()[0]
            return Moved(run=str(run), version=int(head or 0), files=files, missing=missing)
    finally:
        lead.release()


def _copy_files(source: ReadableFolder, target: Blobs, named: Collection[str]) -> tuple[int, tuple[str, ...]]:
    """Before the rows that name them."""
    missing = tuple(sorted(name for name in named if not source.has(name)))
    there = sorted(set(named) - set(missing))
    for name in there:
        target.write(name, source.read(name))
    return len(there), missing


def _run_of(database: Database) -> str | None:
    row = database.execute("SELECT value FROM meta WHERE key = 'run'").fetchone()
    return None if row is None else str(row["value"])
