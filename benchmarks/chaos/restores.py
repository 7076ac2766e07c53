"""The coordinator's state is lost, and restored from a backup that was made while it ran."""

import random
import shutil
from pathlib import Path
from time import monotonic

from benchmarks.chaos.federation import COORDINATOR, Federation, running
from benchmarks.chaos.kills import Trigger, judge
from benchmarks.chaos.plan import Plan
from benchmarks.chaos.table import Row
from coordinator.backup.making import make_backup
from coordinator.backup.restoring import restore
from coordinator.storage.read_only import ReadOnlyStore
from federation.runtime.local_broker import LocalBroker

__all__ = ["at_some_moment", "lose", "lose_and_restore"]

LINES = (1, 40)
"""After so many further log lines, whoever says them, something happens."""


def lose_and_restore(broker: LocalBroker, folder: Path, count: int, plan: Plan) -> Row:
    """Backed up at a random moment, killed at a later one; what nodes were told in between is nobody's any more."""
    size = "chunked" if plan.codec == "lossless" else "small"
    row, rng = Row(fault=f"coordinator's state restored from a backup, {size} updates", bar_s=10.0), random.Random(5)
    state = folder / "coordinator"
    with running(plan, folder, broker.url) as federation:
        if not federation.wait(federation.everybody_works):
            row.hung += 1
        for number in range(count):
            file = folder / f"{number}.tar"
            at_some_moment(federation, rng)
            make_backup(state, file)
            federation.wait_versions(rng.randint(0, 3))
            at_some_moment(federation, rng)
            lose(federation, COORDINATOR, state)
            restored = restore(file, state)
            federation.version = restored.version
            row.injected += 1
            began_s = monotonic()
            federation.restart(COORDINATOR)
            if federation.wait_versions(1):
                row.recovery_s.append(monotonic() - began_s)
            else:
                row.hung += 1
        if not federation.wait_versions(2 * plan.nodes):
            row.hung += 1
        with ReadOnlyStore(state) as store:
            row.note = f"{federation.version} versions, epoch {store.epoch()}"
        judge(federation, row)
    return row


def at_some_moment(federation: Federation, rng: random.Random) -> None:
    """Wait for so many further log lines as are drawn."""
    trigger = Trigger(rng.randint(*LINES), lambda: None)
    federation.watchers.append(trigger)
    federation.wait(lambda: trigger.done)
    federation.watchers.remove(trigger)


def lose(federation: Federation, name: str, state: Path) -> None:
    """SIGKILL a process; nothing of its state is left."""
    federation.retired.add(name)
    life = federation.lives[name]
    federation.kill(name)
    federation.wait(lambda: life.ended_s is not None)
    federation.retired.discard(name)
    shutil.rmtree(state)
