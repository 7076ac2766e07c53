"""The coordinators of a federation: each with one store over its restarts, and the ledger of that store's history.

A store that is copied or restored goes on as another line, with a copy of the ledger. One line leads in the end.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coordinator.backup.making import make_backup
from coordinator.backup.restoring import restore
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import CommitterSettings
from coordinator.storage.store import Commit
from federation.types import Epoch, RunId
from fedmq.simulation.protocol.actors import Actor
from fedmq.simulation.protocol.checker import Checker
from fedmq.simulation.protocol.coordinator_actor import CoordinatorActor
from fedmq.simulation.protocol.processes import Place
from fedmq.simulation.world.disks import Disk
from fedmq.simulation.world.stores import ObservedStore, coordinator_disk
from update_codec import Manifest

__all__ = ["Copied", "Line", "Lines", "Model"]


@dataclass(slots=True, kw_only=True)
class Line:
    """One coordinator and its ledger."""

    actor: CoordinatorActor
    checker: Checker


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A store at one moment: in a folder or in the file of a backup, and what was in its ledger then."""

    source: Path
    checker: Checker


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What each run begins with, and how versions follow from it."""

    manifest: Manifest
    first: Commit
    committer: CommitterSettings


class Lines:
    """Makes them.

    Args:
        place: Where they live; its checker is the first one's.
        model: What each run begins with.
        folder: Where their disks are.
        keep: Takes each disk, to close it in the end.
        store: Tests put a faulty one in.
        disks: Makes the disk of a coordinator that begins with nothing.

    Attributes:
        all: In the order of their beginning.
        leading: Whose end is waited for.
    """

    def __init__(
        self,
        place: Place,
        model: Model,
        folder: Path,
        keep: Callable[[Disk[Any]], None],
        store: type[ObservedStore] = ObservedStore,
        disks: Callable[..., Disk[ObservedStore]] = coordinator_disk,
    ) -> None:
        self._place, self._model, self._folder, self._keep, self._store = place, model, folder, keep, store
        self._disks = disks
        self._joins: Callable[[Actor], None] = lambda _actor: None
        self._copies = 0
        self.all: list[Line] = []

    def begin(self, engine: EngineSettings, *, audit: bool, busy_s: float) -> None:
        """Make the first one."""
        self._audit, self._busy_s = audit, busy_s
        self.leading = self._line("coordinator", self._place.checker, engine, content=None)

    def hear_of(self, joins: Callable[[Actor], None]) -> None:
        """From now on this hears of each further actor."""
        self._joins = joins

    def another_run(self, run: RunId, engine: EngineSettings) -> Line:
        """A coordinator with an empty folder, for a run of its own."""
        checker = Checker(self._place.checker.violations, engine, self._place.witness, run)
        return self._line(f"coordinator-of-{run[:4]}", checker, engine, content=None)

    def copied(self, line: Line) -> Copied | None:
        """Copy a store between two steps of its process; None while it has none, or it waits for its disk."""
        disk = line.actor.disk
        if not line.actor.alive or disk.pending:
            return None
        self._copies += 1
        folder = self._folder / f"copied-{self._copies}"
        disk.copy(folder)
        return Copied(source=folder, checker=line.checker.fork())

    def backed_up(self, copied: Copied) -> Copied:
        """The same in the file of a backup, by the production code."""
        file = copied.source.with_suffix(".tar")
        make_backup(copied.source, file)
        return replace(copied, source=file)

    def on_copy(self, copied: Copied, engine: EngineSettings) -> Line:
        """A coordinator that is started on the copy of a folder, as it is."""
        return self._line("copy", copied.checker, engine, content=copied.source)

    def restored(self, copied: Copied, engine: EngineSettings, *, above: Epoch) -> Line:
        """A coordinator on what the production code restores, of a backup or of a copied folder."""
        self._copies += 1
        folder = self._folder / f"unpacked-{self._copies}"
        lost = [line.checker for line in self.all if line.checker.run == copied.checker.run]
        restore(copied.source, folder, above=above, released=max(one.head for one in lost))
        checker = copied.checker.fork()
        checker.accounts.outlive([one.accounts for one in lost])
        return self._line("restored", checker, engine, content=folder)

    def _line(self, name: str, checker: Checker, engine: EngineSettings, *, content: Path | None) -> Line:
        name = name if not self.all else f"{name}-{len(self.all)}"
        folder, audit = self._folder / name, self._audit
        make = self._disks if content is None else coordinator_disk
        disk = make(folder, checker.run, checker, audit=audit, store=self._store, content=content)
        self._keep(disk)
        if content is None:
            with disk:
                disk.store.initialise(self._model.manifest, self._model.first)
        place = replace(self._place, checker=checker)
        actor = CoordinatorActor(place, disk, engine, self._model.committer, busy_s=self._busy_s, name=name)
        line = Line(actor=actor, checker=checker)
        self.all.append(line)
        self._joins(actor)
        return line
