"""A coordinator's database as a disk: on a server elsewhere, where a killed or powerless coordinator loses nothing.

The store is the production one on a real PostgreSQL. What the checker looks for is the same: that nothing is said
before one transaction has waited for the server's disk, that a kill between any two steps loses and doubles nothing,
and that what the next leader finds is what the last one has committed.
"""

import itertools
import random
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from coordinator.storage.compaction.moving import UPDATES_KEPT
from coordinator.storage.database import DATABASE
from coordinator.storage.files import BLOBS
from coordinator.storage.postgresql.blobs import arriving
from coordinator.storage.postgresql.layout import new_schema, prepare_tables
from coordinator.storage.postgresql.lead import Lead, take_lead
from coordinator.storage.postgresql.reading import PostgresReader
from coordinator.storage.postgresql.store import PostgresStore
from federation.errors import StorageError
from federation.runtime.failpoint import watch
from federation.storage.folder import FolderLock
from federation.storage.postgresql import PostgresDatabase, PostgresSession, Row
from federation.types import RunId
from fedmq.simulation.world.disks import Disk, Fact
from fedmq.simulation.world.stores import AUDIT_VERSIONS, Ledger, Observed

__all__ = ["DatabaseDisk"]

LEASE_S = 3600.0
"""Longer than a simulation takes: its clock is another one than the server's."""
LEAD_WAITS_MAX = 20
"""How often the lead is waited for, a second each: the server may hear late that a session has been closed."""


class DatabaseDisk(Disk[Any]):
    """One run in a schema of its own; no lead is ever shared.

    Args:
        folder: The state folder's place.
        run: 16 characters.
        ledger: Hears every change.
        audit: Keep all payloads.
        url: A database; the schema is named by the folder.
        others: What other disks are told besides.
    """

    def __init__(self, folder: Path, run: RunId, ledger: Ledger, *, audit: bool, url: str, **others: object) -> None:
        del others
        self._path, self._ledger, self._audit = folder / "0", ledger, audit
        self._path.mkdir(parents=True, mode=0o700)
        self.full = self.failing = self.failed = False
        self.failures, self.waited = 0, True
        self.passage: Callable[[], None] = lambda: None
        self.refuses: Callable[[], bool] = lambda: False
        self._pending: deque[tuple[int, Fact]] = deque()
        self._saving: Fact | None = None
        self.opened = False
        self._url = new_schema(url, f"run_{run}")
        self._begin(run)
        with self:
            self.reopen()

    def stop(self, power_cut: random.Random | None = None) -> None:
        """The process or its machine is gone: what was committed is the server's, and stays."""
        del power_cut
        self._end_process()
        self.failing = False
        self._all_kept()

    def arriving(self) -> list[str]:
        """The transfers of which chunks are there."""
        with closing(PostgresSession(self._url, "simulation")) as session:
            return [str(update) for update in arriving(session)]

    def copy(self, folder: Path) -> None:
        """Write it as a state folder without a server, as of now."""
        (folder / BLOBS).mkdir(parents=True)
        with closing(PostgresReader(self._url, at_once=True)) as reader:
            reader.copy(folder / DATABASE)
            for name in reader.files.names():
                (folder / BLOBS / name).write_bytes(reader.files.read(name))

    def wipe(self) -> None:
        """Nobody wipes a server."""
        raise NotImplementedError

    def reopen(self) -> Observed:
        """What the next leader finds.

        Raises:
            StorageError: The server's disk is full.
        """
        lock = FolderLock(self._path)
        try:
            lead = _lead(self._url)
            try:
                versions, updates = (AUDIT_VERSIONS, UPDATES_KEPT) if self._audit else (1, 1)
                store = _ObservedDatabase(
                    self._path,
                    self._url,
                    lead,
                    lock,
                    audit_versions=versions,
                    updates_kept=updates,
                    connect=self._connect_database,
                )
            except BaseException:
                lead.release()
                raise
        except BaseException:
            lock.release()
            self._all_kept()
            raise
        store.observe(self, self._ledger)
        self.store, self.opened = store, True
        return store

    def close(self) -> None:
        """Close the newest process's store."""
        self._end_process()

    def __enter__(self) -> None:
        """From now on what passes a failpoint is of this disk."""
        watch(lambda _name: self.passage())
        self.failed = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Everything is as it was."""
        watch(None)

    # --- what the store does ----------------------------------------------------------------------------------------

    def commits(self, *, waits: bool) -> None:
        """The store is about to commit.

        Raises:
            StorageError: The server's disk has failed.
        """
        broken = waits and self.failing
        if broken or self.refuses():
            self.failing, self.failed = self.failing and not broken, True
            self.failures += 1
            raise StorageError("the database has failed: could not write to the log: Input/output error")

    def committed(self, *, waited: bool) -> None:
        """The store has changed something, and the server has waited for its disk or not."""
        if waited:
            self._all_kept()
        else:
            self.waited = False
        if self._saving is not None:
            self.learned(self._saving)
            self._saving = None

    def learned(self, fact: Fact) -> None:
        """Something was saved: say so as soon as the server's disk has it."""
        if self.waited:
            fact()
        else:
            self._pending.append((0, fact))

    def _all_kept(self) -> None:
        self.waited = True
        while self._pending:
            self._pending.popleft()[1]()

    def _connect_database(self, url: str, name: str, **options: Any) -> PostgresDatabase:
        return _WatchedDatabase(self, url, name, **options)

    def _begin(self, run: RunId) -> None:
        lead = _lead(self._url)
        try:
            with closing(PostgresDatabase(self._url, lead.name, term=lead.term, role="coordinator")) as database:
                prepare_tables(database)
                with database.transaction("run"):
                    database.insert("meta", {"key": "run", "value": run})
        finally:
            lead.release()


class _ObservedDatabase(Observed, PostgresStore):
    """A `PostgresStore` of which a ledger hears."""


class _WatchedDatabase(PostgresDatabase):
    """Says to a disk what is about to be committed, and what was."""

    def __init__(self, disk: DatabaseDisk, url: str, name: str, **options: Any) -> None:
        self._disk = disk
        super().__init__(url, name, **options)

    def begin(self, *, wait: bool) -> None:
        """Begin a transaction; as of `PostgresDatabase`."""
        if self._disk.full:
            raise StorageError("the database has failed: no space left on device; make room on the server's disk")
        super().begin(wait=wait)

    def script(self, *statements: str) -> Row | None:
        """Run statements; as of `PostgresSession`."""
        commits = statements == ("COMMIT",)
        if commits:
            self._disk.commits(waits=self._waits)
        row = super().script(*statements)
        if commits:
            self._disk.committed(waited=self._waits)
        return row


def _lead(url: str) -> Lead:
    waited = itertools.count(1)

    def wait(leader: object) -> None:
        if next(waited) > LEAD_WAITS_MAX:
            raise AssertionError(leader)

    lead = take_lead(url, "simulation", lease_s=LEASE_S, waits=wait)
    if lead is None:
        raise AssertionError
    return lead
