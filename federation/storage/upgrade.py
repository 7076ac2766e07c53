"""``upgrade``: which layout a role's store has, which one this release writes, and making it so."""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import federation
from federation.errors import StorageError
from federation.storage.folder import FolderLock, lock_holder
from federation.storage.sqlite import Database, Layout
from federation.storage.sqlite_reading import ReadOnlyDatabase
from federation.units import human_bytes

__all__ = ["Change", "StoreKind", "Upgrade", "plan_upgrade", "upgrade_store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreKind:
    """The store of one role.

    Attributes:
        role: The command that runs on it.
        database: Name of its file in the state folder.
        layout: What this release writes.
        read: Opens the one of a folder as it is.
        write: Opens it to write, which makes it newer.
        changes: By number, what that layout brought, in words; each step of ``layout`` has one.
    """

    role: str
    database: str
    layout: Layout
    read: Callable[[Path], ReadOnlyDatabase]
    write: Callable[[Path], Database]
    changes: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One step: the layout that it leads to, and what it brings."""

    layout: int
    brings: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """What would be done to a store.

    Attributes:
        database: The file.
        release: This release.
        layout: That of the file.
        layout_of_release: The one that this release writes.
        changes: What lies between them, in order; empty: nothing to do.
        database_bytes: Size of the file.
        free_bytes: What is free on its disk.
        pid: The process that uses it, or None.
    """

    database: str
    release: str
    layout: int
    layout_of_release: int
    changes: tuple[Change, ...]
    database_bytes: int
    free_bytes: int
    pid: str | None

    @property
    def has_room(self) -> bool:
        """Whether the disk can hold what the upgrade writes: at most the database again, until it is committed."""
        return not self.changes or self.free_bytes > self.database_bytes


def plan_upgrade(folder: Path, store: StoreKind) -> Upgrade:
    """Look at a store; nothing in the folder is changed.

    All steps are tried on a copy in memory.

    Raises:
        StorageError: There is none, a newer release has made it, or it is damaged.
    """
    with contextlib.closing(store.read(folder)) as database:
        found, damage = database.layout, database.damage()
    path = folder / store.database
    if damage:
        raise StorageError(f"{path} is damaged ({damage}): restore a backup, with the release that made it")
    return Upgrade(
        database=str(path),
        release=federation.RELEASE,
        layout=found,
        layout_of_release=store.layout.number,
        changes=tuple(
            Change(layout=number, brings=store.changes[number])
            for number in sorted(store.layout.steps)
            if number > found
        ),
        database_bytes=path.stat().st_size,
        free_bytes=shutil.disk_usage(folder).free,
        pid=lock_holder(folder),
    )


def upgrade_store(folder: Path, store: StoreKind, *, check: bool, as_json: bool) -> int:
    """Say what an upgrade does to a store and, unless it is only checked, do it.

    Returns:
        The exit code: 0, or 1 where the disk has no room for it.

    Raises:
        StorageError: There is no store, a newer release has made it, it is damaged, or, to be changed, it is in use.
    """
    plan = plan_upgrade(folder, store)
    if not check and plan.changes and plan.has_room:
        lock = FolderLock(folder)
        try:
            store.write(folder).close()
        finally:
            lock.release()
    if as_json:
        done = not check and plan.has_room
        said = json.dumps(asdict(plan) | {"room": plan.has_room, "upgraded": done and bool(plan.changes)})
    else:
        said = "\n".join(_lines(plan, store, check=check))
    sys.stdout.write(f"{said}\n")
    return 0 if plan.has_room else 1


def _lines(plan: Upgrade, store: StoreKind, *, check: bool) -> list[str]:
    said = [f"{plan.database}: layout {plan.layout}; release {plan.release} writes layout {plan.layout_of_release}"]
    said += [f"  {one.layout}: {one.brings}" for one in plan.changes]
    if not plan.has_room:
        need = f"needs up to {human_bytes(plan.database_bytes)}, and {human_bytes(plan.free_bytes)} are free"
        said.append(f"NOT YET: the upgrade {need}: make room on this disk")
    elif not plan.changes:
        said.append("nothing to do")
    elif not check:
        said.append("upgraded: an earlier release refuses it from now on")
    elif plan.pid is not None:
        said.append(f"the process with pid {plan.pid} uses it: stop it, and start {store.role} of this release")
    else:
        said.append(f"tried on a copy, and it works; the next start of {store.role} does it, or {store.role} upgrade")
    if check and plan.changes:
        said.append("an earlier release refuses it then: make a backup before (docs/how-to/upgrade.md)")
    return said
