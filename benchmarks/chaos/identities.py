"""An identity that begins again, or exists twice: wiped devices, a copy of the coordinator's folder, a second run."""

import random
from pathlib import Path
from time import monotonic

from benchmarks.chaos.federation import running
from benchmarks.chaos.kills import SMALL, judge
from benchmarks.chaos.restores import at_some_moment, lose
from benchmarks.chaos.table import Row
from federation.runtime.local_broker import LocalBroker

__all__ = ["wipe_nodes"]


def wipe_nodes(broker: LocalBroker, folder: Path, count: int) -> Row:
    """A device gets a new SD card at a random moment: the node of the same name begins with nothing.

    What its outbox held is gone with it; the coordinator must neither wait for that nor shut the new node out.
    """
    row, rng = Row(fault="node's state lost, coordinator goes on", bar_s=10.0), random.Random(6)
    with running(SMALL, folder, broker.url) as federation:
        if not federation.wait(federation.everybody_works):
            row.hung += 1
        for number in range(count):
            name = SMALL.names[number % SMALL.nodes]
            at_some_moment(federation, rng)
            lose(federation, name, folder / name)
            row.injected += 1
            began_s = monotonic()
            federation.restart(name)
            life = federation.lives[name]
            if federation.wait(lambda life=life: life.works_s is not None):  # type: ignore[misc]
                row.recovery_s.append(monotonic() - began_s)
            else:
                row.hung += 1
        row.note = f"{federation.version} versions"
        judge(federation, row)
    return row
