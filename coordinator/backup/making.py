"""Makes a backup: the database as of one moment, and the files that it names then, while a coordinator may be writing.

A coordinator writes a file before the row that names it, and removes it only after no row does: the files of a moment
are opened right after it, and an open file stays as it is, whatever becomes of its name.
"""

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from coordinator.backup.archive import Entry, Progress, write_archive
from coordinator.storage.database import DATABASE
from coordinator.storage.files import BLOBS, model_file
from coordinator.storage.read_only import ReadOnlyStore
from federation.errors import ConfigError, DamagedStore, StorageError
from federation.storage.folder import TEMPORARY, replacing
from federation.storage.remedies import remedy_for
from federation.types import Digest, ModelVersion

__all__ = ["BackupMade", "RunFacts", "make_backup", "refuse_site"]

ATTEMPTS = 20
"""A file that is gone before it is opened belonged to a moment that has passed: the next one is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run was when its backup was made.

    Attributes:
        run: Its identity.
        task: What it trains; None where an earlier release has made the store.
        epoch: The fencing number of its newest start.
        version: Its newest version.
        rounds: Rounds that were reserved.
        waiting: Updates that were acknowledged and are in no version yet.
        made_at: When the backup was made by this machine's clock, for people.
    """

    run: str
    task: str | None
    epoch: int
    version: int
    rounds: int
    waiting: int
    made_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupMade:
    """What is in a backup.

    Attributes:
        file: Where it is.
        bytes: Its size.
        facts: What the run was.
        damaged: Files that rows name and that are not whole: each costs its update, or is made again.
    """

    file: Path
    bytes: int
    facts: RunFacts
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """What the store was at one moment.

    Attributes:
        facts: What the run was.
        head: Name of the head's model file.
        named: The files that rows name, with their digests.
        files: Those that are there, open; with the database.
    """

    facts: RunFacts
    head: str
    named: Mapping[str, Digest]
    files: Mapping[str, IO[bytes]]


def refuse_site(state: Path, what: str) -> None:
    """Say of the state folder of a gateway's site that it is none of a coordinator's.

    Args:
        state: A state folder.
        what: What is to be done instead.

    Raises:
        StorageError: It is a site's.
    """
    gateway = ""
    with suppress(StorageError), ReadOnlyStore(state) as store:
        gateway = store.gateway
    if gateway:
        raise StorageError(f"{state} is of the site of gateway {gateway}, whose versions come from above: {what}")


def make_backup(
    state: Path, file: Path, *, force: bool = False, progress: Callable[[int], Progress] = lambda _: lambda _: None
) -> BackupMade:
    """Write a run to one file, which is whole and durable when this returns.

    Args:
        state: The coordinator's state folder; a coordinator may be running.
        file: The new file.
        force: Whether one that is there may be replaced.
        progress: Given the bytes that will be read, returns who hears of them.

    Raises:
        ConfigError: The file is there already, or its folder is not.
        StorageError: There is no run, its newest model is damaged, or the disk is full or broken.
    """
    if file.is_dir() or (file.exists() and not force):
        raise ConfigError("backup", f"{file} is there already: choose another name, or --force", source="command line")
    if not file.absolute().parent.is_dir():
        raise ConfigError("backup", f"there is no folder {file.absolute().parent}", source="command line")
    with ExitStack() as opened:
        try:
            moment = _moment(state, file, opened)
            hears = progress(sum(os.fstat(one.fileno()).st_size for one in moment.files.values()))
            with replacing(file, mode=0o600) as out:
                entries = write_archive(out, moment.files, asdict(moment.facts), hears)
                damaged = _damaged(moment, entries)
        except OSError as error:
            raise StorageError(f"the backup cannot be made: {error}{remedy_for(error)}") from error
    return BackupMade(file=file, bytes=file.stat().st_size, facts=moment.facts, damaged=damaged)


def _moment(state: Path, file: Path, opened: ExitStack) -> _Moment:
    """Look at the store, again and again until all its files could be opened."""
    _open_many()
    for attempt in range(ATTEMPTS):
        with ReadOnlyStore(state, at_once=True) as store, ExitStack() as tried:
            named = {f"{BLOBS}/{name}": digest for name, digest in store.named_files().items()}
            files = dict(_open_all(store, named, tried))
            if len(files) < len(named) and attempt < ATTEMPTS - 1 and _has_moved_on(state, store):
                continue
            head = store.head()
            if head is None:
                raise StorageError(f"{state} has no version yet: there is nothing to back up")
            database = tried.enter_context(_copied(store, file))
            opened.push(tried.pop_all())
            return _Moment(
                facts=_facts(store, head),
                head=f"{BLOBS}/{model_file(head)}",
                named=named,
                files={DATABASE: database, **files},
            )
    raise AssertionError


def _open_all(store: ReadOnlyStore, names: Mapping[str, Digest], opened: ExitStack) -> Iterator[tuple[str, IO[bytes]]]:
    for name in sorted(names):
        try:
            yield name, opened.enter_context(store.open_file(name.removeprefix(f"{BLOBS}/")))
        except FileNotFoundError:
            continue


def _has_moved_on(state: Path, seen: ReadOnlyStore) -> bool:
    """Whether other files are named by now: else what is missing is lost."""
    with ReadOnlyStore(state, at_once=True) as now:
        return now.named_files().keys() != seen.named_files().keys()


@contextmanager
def _copied(store: ReadOnlyStore, file: Path) -> Iterator[IO[bytes]]:
    """The database of the moment: an open file that goes away with its owner, also with one that is killed."""
    path = file.with_name(f".{file.name}.{os.getpid()}.sqlite3{TEMPORARY}")
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        store.copy(path)
        copy = path.open("rb")
    finally:
        path.unlink(missing_ok=True)
    with copy:
        yield copy


def _facts(store: ReadOnlyStore, head: ModelVersion) -> RunFacts:
    return RunFacts(
        run=store.run,
        task=store.task(),
        epoch=store.epoch(),
        version=head,
        rounds=store.rounds_reserved(),
        waiting=store.waiting(),
        made_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time())),
    )


def _damaged(moment: _Moment, entries: Mapping[str, Entry]) -> tuple[str, ...]:
    """Files that are not what their rows say; without a newest model the backup would be none.

    Raises:
        DamagedStore: The newest model is one of them.
    """
    whole = {name for name, entry in entries.items() if moment.named.get(name, b"").hex() == entry.digest}
    if moment.head not in whole:
        raise DamagedStore("the newest model is missing or damaged: coordinator audit says what else is")
    return tuple(sorted(moment.named.keys() - whole))


def _open_many() -> None:
    """As many open files as the system allows: each large payload is one."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # A service may be forbidden to.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
