"""An identity that begins again, or exists twice: wiped devices, a copy of the coordinator's folder, a second run."""

import random
import shutil
import signal
from pathlib import Path
from time import monotonic

from benchmarks.chaos.federation import COORDINATOR, LIMIT_S, Federation, running
from benchmarks.chaos.kills import SMALL, judge
from benchmarks.chaos.plan import coordinator_arguments, write_settings
from benchmarks.chaos.restores import at_some_moment, lose
from benchmarks.chaos.table import Row
from coordinator.storage.read_only import ReadOnlyStore
from federation.runtime.local_broker import LocalBroker
from fedmq.demo.processes import Line

__all__ = ["second_runs", "stale_copies", "wipe_nodes"]

REFUSED = 2
"""Exit code of a coordinator that may not lead."""

HANG_S = 8.0
"""The leader hangs for so long while a copy of its folder is started."""


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


def stale_copies(broker: LocalBroker, folder: Path, count: int) -> Row:
    """The leader hangs, and somebody starts an older copy of its folder, with the same configuration.

    Whether the copy leaves or holds, it ends nobody's work; the leader goes on.
    """
    row, rng = Row(fault="old copy of the coordinator's folder, leader hangs", bar_s=30.0), random.Random(7)
    with running(SMALL, folder, broker.url) as federation:
        if not federation.wait(federation.everybody_works):
            row.hung += 1
        for number in range(count):
            at_some_moment(federation, rng)
            name = f"copy-{number}"
            _copy(federation, folder, name)
            # A copy that lacks nothing leads as a restart does (ADR 0030): what was only stored is offered again.
            if not _wait_for_news(federation, folder / name / "coordinator"):
                row.failures.append("neither a round nor a version after the copy was made")
                break
            federation.fleet.send_signal(COORDINATOR, signal.SIGSTOP)
            federation.expect(name, REFUSED)
            federation.retired.add(name)
            federation.join(name, "coordinator", coordinator_arguments(folder / name))
            federation.wait(lambda: False, HANG_S)
            federation.fleet.send_signal(COORDINATOR, signal.SIGCONT)
            row.injected += 1
            recovery_s = federation.work_again(COORDINATOR, 2 * LIMIT_S)
            row.hung += recovery_s is None
            row.recovery_s += [] if recovery_s is None else [recovery_s]
            federation.retire(name, number=signal.SIGKILL)
            federation.work_again(COORDINATOR)
        row.note = f"{federation.version} versions"
        judge(federation, row)
    return row


def _wait_for_news(federation: Federation, state: Path) -> bool:
    """Until a node trains for a round, or hears of a version, that a copy lacks; False when none does in time."""
    with ReadOnlyStore(state) as store:
        rounds, version = store.rounds_reserved(), store.history()[-1].record.version
    heard: list[str] = []

    def listen(line: Line) -> None:
        for event, name, least in (("training_started", "round", rounds), ("receipt", "version", version + 1)):
            said = line.fields.get(name)
            if line.event == event and isinstance(said, int) and said >= least:
                heard.append(event)

    federation.watchers.append(listen)
    found = federation.wait(lambda: bool(heard))
    federation.watchers.remove(listen)
    return found


def _copy(federation: Federation, folder: Path, name: str) -> None:
    """Copy the folder of a coordinator that stands still, as somebody does who copies a disk."""
    federation.fleet.send_signal(COORDINATOR, signal.SIGSTOP)
    shutil.copytree(folder / "coordinator", folder / name / "coordinator")
    federation.fleet.send_signal(COORDINATOR, signal.SIGCONT)
    write_settings(SMALL, folder / name, federation.url)


def second_runs(broker: LocalBroker, folder: Path, count: int) -> Row:
    """Somebody starts a coordinator with an empty folder in a federation that has one."""
    row, rng = Row(fault="coordinator of another run", bar_s=15.0), random.Random(8)
    with running(SMALL, folder, broker.url) as federation:
        if not federation.wait(federation.everybody_works):
            row.hung += 1
        for number in range(count):
            at_some_moment(federation, rng)
            name = f"second-{number}"
            (folder / name).mkdir()
            write_settings(SMALL, folder / name, federation.url)
            row.injected += 1
            if not federation.intrude(name, "coordinator", coordinator_arguments(folder / name), REFUSED):
                row.failures.append(f"{name} did not end with {REFUSED}")
            recovery_s = federation.work_again(COORDINATOR)
            row.hung += recovery_s is None
            row.recovery_s += [] if recovery_s is None else [recovery_s]
        row.note = f"{federation.version} versions"
        judge(federation, row)
    return row
