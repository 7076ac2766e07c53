"""A disk that fails with EIO: commits fail for a while and then work again, an fsync of the log ends the process."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.federation import COORDINATOR, LIMIT_S, Federation, running
from benchmarks.chaos.kills import SMALL, judge
from benchmarks.chaos.life import HARMLESS, Arms
from benchmarks.chaos.plan import Plan
from benchmarks.chaos.table import Row
from federation.runtime.local_broker import LocalBroker
from fedmq.demo.processes import Line

EXIT_STORE = 3
COORDINATOR_ERRORS = (
    "coordinator_commit_update:6+2,coordinator_commit_round:9+1,coordinator_commit_version:7+2,coordinator_fsync:60+1"
)
"""What fails in one life of the coordinator: an update, a round and a version cannot be saved, then the log fails."""

NODE_ERRORS = "node_commit_change:12+2"
REMEDY = "kernel's log"


@dataclass(slots=True)
class Watch:
    """Listens to the coordinator: from a failure until it goes on, nothing may be stored or committed.

    Attributes:
        row: Where what is wrong is written to.
    """

    row: Row
    failing: bool = False
    resumed: int = 0

    def __call__(self, line: Line) -> None:
        """Take one log line."""
        if line.event == "storage_failed" and REMEDY not in str(line.fields):
            self.row.failures.append(f"{line.source} names no remedy: {dict(line.fields)}")
        if line.source != COORDINATOR:
            return
        if line.event in ("storage_failed", "storage_resumed", "coordinator_started"):
            self.failing = line.event == "storage_failed"
            self.resumed += line.event == "storage_resumed"
        elif self.failing and line.event in ("update_stored", "version_committed"):
            self.row.failures.append(f"{line.event} while the disk failed")


@dataclass(slots=True)
class Failing:
    """Gives so many lives of the coordinator, and the first one of each node, a failing disk."""

    lives: int

    def __call__(self, name: str) -> Arms:
        """What fails in the next life."""
        if name != COORDINATOR:
            return Arms(failpoint=NODE_ERRORS)
        self.lives -= 1
        return Arms(failpoint=COORDINATOR_ERRORS) if self.lives >= 0 else HARMLESS


def disk_errors(broker: LocalBroker, folder: Path, count: int, plan: Plan = SMALL) -> Row:
    """EIO at the coordinator in ``count`` of its lives, and at every node."""
    row = Row(fault="EIO from commit and fsync, coordinator and all nodes")
    with running(plan, folder, broker.url, Failing(count)) as federation:
        federation.expect(COORDINATOR, EXIT_STORE)
        watch = Watch(row)
        federation.watchers.append(watch)
        for number in range(count):
            _wait_for_end(federation, number + 1, row)
            life = federation.lives[COORDINATOR]
            row.hung += not federation.wait(lambda life=life: life.works_s is not None)  # type: ignore[misc]
            row.recovery_s += [] if life.recovery_s is None else [life.recovery_s]
        said = federation.wait(lambda: all(federation.storage_failures[name] for name in plan.names))
        if not said:
            row.failures.append(f"not all nodes said that they cannot write: {dict(federation.storage_failures)}")
        for name in plan.names:
            row.hung += federation.work_again(name, 2 * LIMIT_S) is None
        row.injected = count + federation.storage_failures.total()
        row.note = f"the coordinator went on by itself {watch.resumed} times, ended and came back {count} times"
        judge(federation, row)
    return row


def _wait_for_end(federation: Federation, number: int, row: Row) -> None:
    """Until the coordinator has ended so often because of its disk, and has said why."""

    def ends() -> int:
        return sum(life.code == EXIT_STORE for life in federation.past)

    if not federation.wait(lambda: ends() >= number, 2 * LIMIT_S):
        row.hung += 1
    elif REMEDY not in federation.fleet.stderr_tail(COORDINATOR):
        row.failures.append(f"it ended without a remedy: {federation.fleet.stderr_tail(COORDINATOR, 2)}")
