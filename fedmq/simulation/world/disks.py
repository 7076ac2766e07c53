"""A participant's disk: a folder in memory that can be full, and loses in a power cut what was not synchronised.

The roles' own stores work on it. It sees each call by which one of them makes something durable, `os.fsync` (or
`os.fdatasync`) and the commits of SQLite, and notes what a power cut would leave. Nothing of this is in the way of the
stores: the kernel writes and reads their files, and a full disk is its limit on the size of files.
"""

import contextlib
import errno
import os
import random
import resource
import shutil
import stat
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from coordinator.storage.files import TRANSFERS
from federation.errors import StorageError
from federation.runtime.failpoint import watch
from federation.storage import sqlite
from federation.storage.sqlite import Connection, SqliteError
from fedmq.simulation.world.ram_folders import Closable

__all__ = ["Disk", "Fact", "allow_disks"]

Fact = Callable[[], None]

_LOG_BYTES_MAX = 4 << 20
"""A write-ahead log of this size goes into the database at the next synchronisation, as by default, in bytes."""

_FULL = 2
"""From this level of ``synchronous`` on SQLite waits for the disk at each commit."""

_connect, _SYNCS = sqlite.connect, {name: getattr(os, name) for name in ("fsync", "fdatasync") if hasattr(os, name)}

_FILES_PER_DISK = 3
_FILES_SPARE = 100

_SECTOR_BYTES = 512
_SECTOR_LOSS = 0.3

StoreT = TypeVar("StoreT", bound=Closable)


class Disk(Generic[StoreT]):
    """One disk over the processes of its participant; as a context it is the disk at which something happens now.

    Args:
        folder: Where; created here.
        database: Name and content of the database that the first process finds.
        make: Opens the store in a folder of this disk.
        content: A folder that the first process finds instead; it becomes the disk's own.

    Attributes:
        store: The newest process's store.
        opened: Whether it could open it; if not, `store` is an older one, and closed.
        full: While it is set, nothing can be written.
        failing: The next `os.fsync` or `os.fdatasync` fails.
        failed: One has since this disk was entered last.
        failures: How many have, and how many commits.
        refuses: Asked before each commit: whether it fails.
        passage: Called at each failpoint of the process that works on it.
        waited: Whether everything that was committed so far would survive a power cut.
    """

    def __init__(
        self,
        folder: Path,
        database: tuple[str, bytes],
        make: Callable[[Path, "Disk[StoreT]"], StoreT],
        *,
        content: Path | None = None,
    ) -> None:
        self._folder, (self._name, self._empty), self._make = folder, database, make
        self._starts = 0
        self.full = self.failing = self.failed = False
        self.failures = 0
        self.waited = True
        self.passage: Callable[[], None] = lambda: None
        self.refuses: Callable[[], bool] = lambda: False
        self._log_bytes = 0
        self._pending: deque[tuple[int, Fact]] = deque()
        self._saving: Fact | None = None
        self._connection: _Connection | None = None
        self._sound = True
        self._syncs = 0
        self._synced: dict[int, tuple[int, int]] = {}
        self._folders: dict[int, int] = {}
        self._limit: tuple[int, int] | None = None
        self._path = folder / "0"
        self._log = f"{self._path}/{self._name}-wal"
        if content is None:
            self._lay_out()
        else:
            self._take(content)
        with self:
            self.store = make(self._path, self)
        self.opened = True

    @property
    def path(self) -> Path:
        """Where the newest process has its state."""
        return self._path

    @property
    def pending(self) -> int:
        """Facts that a power cut would undo."""
        return len(self._pending)

    @contextlib.contextmanager
    def learning(self, fact: Fact) -> Iterator[None]:
        """The next transaction saves something, unless it fails; the process may be killed right after it."""
        self._saving = fact
        try:
            yield
        finally:
            self._saving = None

    def learned(self, fact: Fact) -> None:
        """Something was saved: say so as soon as a power cut leaves it there."""
        if self.waited:
            fact()
        else:
            self._pending.append((self._log_size(), fact))

    def stop(self, power_cut: random.Random | None = None) -> None:
        """The process is gone, by a ``kill -9`` or by a power cut that these dice describe.

        What a ``kill -9`` leaves in the files of SQLite is what its connection has after a rollback, so that the next
        process gets the connection, too; not where the disk was full meanwhile: who knows what is left then.
        """
        if power_cut is None and self._sound:
            self._end_process()
        else:
            self._end_connection()
        self.failing = False
        if power_cut is not None:
            self._cut_power(power_cut)

    def arriving(self) -> list[str]:
        """The files of a coordinator's transfers."""
        return sorted(path.name for path in (self._path / TRANSFERS).iterdir())

    def copy(self, folder: Path) -> None:
        """Copy all of it as it is now, between two steps of its process, whether or not anybody has waited for it."""
        shutil.copytree(self._path, folder, ignore=shutil.ignore_patterns("lock"))

    def wipe(self) -> None:
        """Everything on it is lost: the next process finds it as the first one did."""
        self._end_connection()
        self._starts += 1
        self._path = self._folder / str(self._starts)
        self._log = f"{self._path}/{self._name}-wal"
        self._pending.clear()
        self._log_bytes, self.waited = 0, True
        self._lay_out()

    def reopen(self) -> StoreT:
        """What the next process finds.

        Raises:
            StorageError: The disk is full, or what it has kept is damaged.
        """
        try:
            self.store = self._make(self._path, self)
        except BaseException:
            self._end_connection()
            raise
        self.opened = True
        return self.store

    def close(self) -> None:
        """Close the newest process's store, if it could open one, and its connection."""
        self._end_process()
        if self._connection is not None:
            self._connection.end()
            self._connection = None

    def __enter__(self) -> None:
        """From now on what is opened, synchronised and passed is of this disk, and nothing waits for the real one."""
        sqlite.connect = self.connect
        vars(os).update(dict.fromkeys(_SYNCS, self.fsync))
        watch(lambda _name: self.passage())
        self.failed = False
        if self.full:
            self._sound = False
            self._limit = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, self._limit[1]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Everything is as it was."""
        if self._limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, self._limit)
            self._limit = None
        sqlite.connect = _connect
        vars(os).update(_SYNCS)
        watch(None)

    # --- what the store does ----------------------------------------------------------------------------------------

    def committed(self, *, waited: bool) -> None:
        """SQLite has changed something, and waited for the disk or not."""
        if waited:
            self._log_synced(self._log_size())
        else:
            self.waited = False
        if self._saving is not None:
            self.learned(self._saving)
            self._saving = None

    def fsync(self, handle: int) -> None:
        """The store synchronises a file or a folder."""
        if self.failing:
            self.failing, self.failed = False, True
            self.failures += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        found = os.fstat(handle)
        self._syncs += 1
        if stat.S_ISDIR(found.st_mode):
            self._folders[found.st_ino] = self._syncs
        elif (log := self._log_found()) is not None and found.st_ino == log.st_ino:
            self._log_synced(found.st_size)
        else:
            self._synced[found.st_ino] = (found.st_mtime_ns, self._syncs)

    def check_commit(self) -> None:
        """SQLite is about to commit.

        Raises:
            SqliteError: The disk has failed.
        """
        if self.refuses():
            self.failed = True
            self.failures += 1
            raise SqliteError("disk I/O error")

    @property
    def log_is_long(self) -> bool:
        """Whether it is time to put the log into the database."""
        return self.waited and self._log_bytes > _LOG_BYTES_MAX

    def emptied(self) -> None:
        """The log is in the database, which SQLite has waited for."""
        self._log_synced(self._log_size())

    def _log_synced(self, size: int) -> None:
        self._log_bytes, self.waited = size, True
        while self._pending:
            self._pending.popleft()[1]()

    def connect(self, path: Path) -> Connection:
        """The store opens its database."""
        if self._connection is None:
            self._connection = _Connection(self, path)
        return self._connection

    def _lay_out(self) -> None:
        self._path.mkdir(parents=True, mode=0o700)
        (self._path / self._name).write_bytes(self._empty)

    def _take(self, content: Path) -> None:
        """Whoever has laid this out has waited for it."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        content.rename(self._path)
        self._log_bytes = self._log_size()
        self._syncs = 1
        for root, _, names in os.walk(self._path):
            self._folders[Path(root).stat().st_ino] = self._syncs + 1
            for name in names:
                found = Path(root, name).stat()
                self._synced[found.st_ino] = (found.st_mtime_ns, self._syncs)

    def _end_process(self) -> None:
        if self.opened:
            self.opened = False
            self.store.close()

    def _end_connection(self) -> None:
        """A database that is no longer where it was opened is closed by SQLite as a killed process leaves it."""
        self._starts += 1
        moved = self._folder / str(self._starts)
        self._path.rename(moved)
        self._path, self._log = moved, f"{moved}/{self._name}-wal"
        self.close()
        self._sound = True

    def _cut_power(self, rng: random.Random) -> None:
        """Of what was not synchronised any part may be lost; of the log any end, for it is written in order."""
        kept, written = self._log_bytes, self._log_size()
        if written > kept:
            kept = rng.choice((kept, rng.randint(kept, written)))
            os.truncate(self._log, kept)
        while self._pending and self._pending[0][0] <= kept:
            self._pending.popleft()[1]()
        self._pending.clear()
        self._log_bytes, self.waited = kept, True
        for root, _, names in os.walk(self._path):
            synced_at = self._folders.get(Path(root).stat().st_ino, -1)
            for name in sorted(names):
                path = Path(root) / name
                if not name.startswith((self._name, "lock")) and not self._survives(path, synced_at):
                    _damage(path, rng)

    def _survives(self, path: Path, folder_synced_at: int) -> bool:
        found = path.stat()
        written, synced_at = self._synced.get(found.st_ino, (-1, 0))
        return written == found.st_mtime_ns and folder_synced_at > synced_at

    def _log_size(self) -> int:
        found = self._log_found()
        return 0 if found is None else found.st_size

    def _log_found(self) -> os.stat_result | None:
        try:
            return os.stat(self._log)  # noqa: PTH116 - at each commit, and twice as fast
        except FileNotFoundError:
            return None


def _damage(path: Path, rng: random.Random) -> None:
    """What may have become of a file that nobody has synchronised."""
    body = bytearray(path.read_bytes())
    match rng.randrange(4):
        case 0:
            path.unlink()
        case 1:
            path.write_bytes(body[: rng.randrange(len(body) + 1)])
        case 2:
            for start in range(0, len(body), _SECTOR_BYTES):
                if rng.random() < _SECTOR_LOSS:
                    end = min(len(body), start + _SECTOR_BYTES)
                    body[start:end] = bytes(end - start)
            path.write_bytes(body)
        case _:
            pass


# --- the system -------------------------------------------------------------------------------------------------------


def allow_disks(count: int) -> None:
    """Let this process have the files of so many disks open.

    Raises:
        StorageError: The system does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_PER_DISK * count + _FILES_SPARE
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise StorageError(f"{count} disks need {wanted} open files and {hard} are allowed: take fewer nodes")
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Connection(Connection):
    """SQLite's own, which tells the disk of each transaction; it alone has the file, and so needs no lock for each."""

    def __init__(self, disk: Disk[Any], path: Path) -> None:
        super().__init__(path, isolation_level=None)
        self._disk, self._changes = disk, 0
        self._waits: bool | None = None
        self.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.execute("PRAGMA wal_autocheckpoint = 0")

    def execute(self, statement: str, parameters: Any = (), /) -> Any:
        """Run one statement, and look whether it has put the log into the database, or changes who waits for it."""
        found = super().execute(statement, parameters)
        if statement.startswith("PRAGMA"):
            self._waits = None
            if statement.startswith("PRAGMA wal_checkpoint"):
                self._disk.emptied()
        return found

    def commit(self) -> None:
        """Commit, and look at what it means for the disk."""
        self._disk.check_commit()
        super().commit()
        if self.total_changes == self._changes:
            return
        self._changes = self.total_changes
        if self._waits is None:
            (level,) = super().execute("PRAGMA synchronous").fetchone()
            self._waits = level >= _FULL
        self._disk.committed(waited=self._waits)
        if self._disk.log_is_long:
            self.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        """A killed process has rolled back what it had not committed; the connection is there for the next one."""
        self.rollback()

    def end(self) -> None:
        """Close it."""
        super().close()
