"""Begins a run again from a backup: so that its nodes obey at once, or as a new run from the backup's model.

Everything is unpacked and prepared in a folder of its own within the state folder. The database takes its name last, so
a restore that was interrupted has left no run, and can be repeated.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.backup.archive import Archive, Progress
from coordinator.backup.making import make_backup
from coordinator.global_model.committer import first_commit
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.records import Restored
from coordinator.storage.database import DATABASE
from coordinator.storage.files import BLOBS
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.restoring import begin_after, ledger_after, lift
from coordinator.storage.sqlite_store import SqliteStore
from federation.errors import ConfigError, StorageError
from federation.storage.folder import TEMPORARY, FolderLock, sync_folder
from federation.storage.remedies import remedy_for
from update_codec import Manifest, Vectors

__all__ = ["Restoration", "restore"]

WORK = f"restoring{TEMPORARY}"
"""Folder in the state folder in which a restore works."""

NOTHING = frozenset({"lock", "lost+found", WORK})
"""What may be in a folder that is called empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """What a restore has made.

    Attributes:
        run: The run in the folder now.
        former_run: The backup's run.
        version: Its newest version: the backup's, or 0 in a new run.
        former_version: The backup's newest version.
        restored: From where the run goes on; None in a new run.
        waiting: Updates that wait for the next version.
        missing: Files that rows name and that the backup has not: each costs its update.
        changed: Whether run, epoch or manifest were not what a coordinator had written, before the backup.
    """

    run: str
    former_run: str
    version: int
    former_version: int
    restored: Restored | None = None
    waiting: int = 0
    missing: tuple[str, ...] = ()
    changed: bool = False


def restore(
    source: Path,
    state: Path,
    *,
    new_run: bool = False,
    above: int = 0,
    released: int | None = None,
    progress: Callable[[str, int], Progress] = lambda _what, _total: lambda _count: None,
) -> Restoration:
    """Make a state folder from a backup.

    Args:
        source: A backup, or a state folder that was copied as it was.
        state: The new state folder: missing or empty.
        new_run: Whether a new run begins with the backup's model as its version 0.
        above: An epoch that nodes have obeyed since; 0 where nobody knows more than the backup.
        released: The newest version that anybody may have got, where the coordinator adds noise; see `lift`.
        progress: Given what is done and its bytes, returns who hears of them.

    Raises:
        ConfigError: The state folder is not empty, or is the source.
        DamagedStore: The backup is not whole.
        StorageError: There are no higher epochs left, or the disk is full or broken.
    """
    _check_empty(source, state)
    with ExitStack() as opened:
        try:
            archive = opened.enter_context(_verified(source, state, progress))
            lock = FolderLock(state)
            opened.callback(lock.release)
            # Verifying took its time, and somebody may have been here.
            _check_empty(source, state)
            work = state / WORK
            # One that was killed has left its own.
            shutil.rmtree(work, ignore_errors=True)
            opened.callback(shutil.rmtree, work, ignore_errors=True)
            archive.unpack(work / "old", progress("unpacked", archive.total_bytes))
            made = _begun_anew(work, above, released) if new_run else _lifted(work, above, released)
            _move_up(work / ("new" if new_run else "old"), state)
        except OSError as error:
            raise StorageError(f"the backup cannot be restored: {error}{remedy_for(error, state)}") from error
    return made


def _check_empty(source: Path, state: Path) -> None:
    where = "command line"
    if not source.exists():
        raise ConfigError("restore", f"there is no backup {source}", source=where)
    if state.exists() and not state.is_dir():
        raise ConfigError("restore", f"{state} is no folder", source=where)
    ours = NOTHING | {BLOBS} if (state / WORK).exists() and not (state / DATABASE).exists() else NOTHING
    found = sorted(path.name for path in state.iterdir() if path.name not in ours) if state.is_dir() else []
    if found:
        problem = f"{state} is not empty, it has {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
        raise ConfigError("restore", f"{problem}: move it away, or name another folder with --state", source=where)


@contextmanager
def _verified(source: Path, state: Path, progress: Callable[[str, int], Progress]) -> Iterator[Archive]:
    """The backup, read to its end; a folder becomes one first."""
    if not source.is_dir():
        with Archive(source, progress("verified", source.stat().st_size)) as archive:
            yield archive
        return
    state.parent.mkdir(parents=True, exist_ok=True)
    file = state.parent / f".{state.name}.backup{TEMPORARY}"
    try:
        make_backup(source, file, force=True, progress=lambda total: progress("copied", total))
        with Archive(file, progress("verified", file.stat().st_size)) as archive:
            yield archive
    finally:
        file.unlink(missing_ok=True)


def _lifted(work: Path, above: int, released: int | None) -> Restoration:
    folder = work / "old"
    run, restored, whole = lift(folder, above=above, released=released)
    with ReadOnlyStore(folder) as store:
        head = store.head() or 0
        store.model(restored.version)
        missing = sorted(name for name in store.named_files() if not (folder / BLOBS / name).exists())
        return Restoration(
            run=run,
            former_run=run,
            version=head,
            former_version=head,
            restored=restored,
            waiting=store.waiting(),
            missing=tuple(missing),
            changed=not whole,
        )


def _begun_anew(work: Path, above: int, released: int | None) -> Restoration:
    """Version 0 of a new run is what nodes held at the backup's newest version; no node has any part in it yet.

    Noise that the coordinator adds is over the same data as before: what that has cost is taken over.
    """
    ledger = ledger_after(work / "old", released, above=above)
    with ReadOnlyStore(work / "old") as old:
        head, manifest = old.head(), old.manifest()
        if head is None:
            raise StorageError("the backup has no version: there is nothing to begin from")
        (work / "new").mkdir()
        begin_after(work / "new", max(time.time_ns() // 1_000_000, old.began_ms() + 1))
        first = first_commit(
            _without_controls(old.model(head).shadow, manifest), manifest, DownlinkSettings(), seed=None
        )
        task, inputs, changed = old.task(), old.inputs(), old.identity_is_sealed() is False
        former = old.run
    new = SqliteStore(work / "new")
    try:
        new.initialise(manifest, first)
        if task is not None:
            new.save_task(task)
        if inputs is not None:
            new.save_inputs(inputs)
        new.batches.take_over(ledger)
        return Restoration(run=new.run, former_run=former, version=0, former_version=head, changed=changed)
    finally:
        new.close()


def _without_controls(model: Vectors, manifest: Manifest) -> Vectors:
    """SCAFFOLD's controls belong to nodes' own, which begin at zero in a new run."""
    statistics = model.statistics.copy()
    statistics[len(statistics) - manifest.control_count :] = 0
    return Vectors(model.parameters, np.asarray(statistics), model.counters)


def _move_up(work: Path, state: Path) -> None:
    """Give the run its place: the large files, then the database that names them."""
    (work / BLOBS).mkdir(exist_ok=True)
    shutil.rmtree(state / BLOBS, ignore_errors=True)
    (work / BLOBS).replace(state / BLOBS)
    sync_folder(state)
    (work / DATABASE).replace(state / DATABASE)
    sync_folder(state)
