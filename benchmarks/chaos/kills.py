"""SIGKILL in every phase: the coordinator, the nodes and the broker, while small rounds go on without a pause."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from benchmarks.chaos.federation import COORDINATOR, LIMIT_S, Federation, running
from benchmarks.chaos.life import HARMLESS, KILLED, Arms
from benchmarks.chaos.plan import Plan
from benchmarks.chaos.table import Row
from federation.runtime.local_broker import LocalBroker

COORDINATOR_POINTS = (
    "coordinator_before_announce",
    "coordinator_after_announce",
    "coordinator_before_update_stored",
    "coordinator_after_update_stored",
    "coordinator_before_puback",
    "coordinator_after_freeze",
    "coordinator_after_blob",
    "coordinator_after_commit",
)
"""In the order of a round."""

NODE_POINTS = (
    "node_fetching",
    "node_adopting",
    "node_training",
    "node_trained",
    "node_before_outbox",
    "node_after_outbox",
    "node_before_offer",
    "node_after_offer",
    "node_stored",
    "node_before_settle",
    "node_after_settle",
)
"""In the order of a round, for updates that fit one chunk."""

RANDOM_MOMENT = ""
FUSE_LINES = (1, 40)
"""A kill at a random moment comes after so many log lines of its victim."""
FALLBACK_LINES = 120
"""A failpoint that is not reached within so many log lines is replaced by a kill."""
HITS_MAX = 4

SMALL = Plan(nodes=4, task="null", codec="edge", buffer=2)
SYNCHRONOUS = Plan(nodes=4, task="quadratic", codec="edge", buffer=None)
LARGE = Plan(nodes=4, task="null-60000", codec="lossless", buffer=2)


@dataclass(slots=True)
class Killer:
    """Arms the victims' lives until enough of them have been killed.

    Attributes:
        victims: Who is killed.
        points: Failpoints in turn, `RANDOM_MOMENT` included.
        quota: Kills to make.
        rng: Draws hits and moments.
    """

    victims: frozenset[str]
    points: tuple[str, ...]
    quota: int
    rng: random.Random
    _armed: int = 0

    def __call__(self, name: str) -> Arms:
        """What kills the next life."""
        if name not in self.victims or self._armed >= self.quota:
            return HARMLESS
        point = self.points[self._armed % len(self.points)]
        self._armed += 1
        if point == RANDOM_MOMENT:
            return Arms(fuse=self.rng.randint(*FUSE_LINES))
        return Arms(failpoint=f"{point}:{self.rng.randint(1, HITS_MAX)}", fuse=FALLBACK_LINES)


def kill_processes(url: str, folder: Path, plan: Plan, killer: Killer, row: Row) -> Row:
    """Run until the killer has had its quota and everybody works again; then judge."""
    with running(plan, folder, url, killer) as federation:
        kill_all(federation, killer, row)
        judge(federation, row)
    return row


def kill_all(federation: Federation, killer: Killer, row: Row, limit_s: float = LIMIT_S) -> None:
    """Let the killer have its quota, and wait until everybody works again; each step at most so long."""

    def killed() -> int:
        return sum(life.code == KILLED for life in federation.past)

    while killed() < killer.quota:
        before = killed()
        if not federation.wait(lambda before=before: killed() > before, limit_s):  # type: ignore[misc]
            row.failures.append(f"no kill within {limit_s:.0f} s: version {federation.version}")
            break
    row.injected += killed()
    if not federation.wait(federation.everybody_works, limit_s):
        row.hung += sum(life.works_s is None for life in federation.lives.values())
    lives = [*federation.past, *federation.lives.values()]
    recoveries = [life.recovery_s for life in lives if life.generation and life.name in killer.victims]
    row.recovery_s += [recovery for recovery in recoveries if recovery is not None]
    row.hung += sum(recovery is not None and recovery > limit_s for recovery in recoveries)
    points = Counter(life.label for life in federation.past if life.code == KILLED)
    row.note = f"{len(points)} points; {federation.version} versions"


def judge(federation: Federation, row: Row) -> None:
    """Stop everything in order, and let the audit have the last word."""
    if not federation.drain():
        row.failures.append("did not stop in order")
    report = federation.audit()
    row.lost += len(report.lost)
    row.double += len(report.double)
    row.hung += len(report.waiting)
    row.failures += [f"{finding.invariant}: {finding.detail}" for finding in report.findings if finding.failed]
    row.failures += federation.surprises


def kill_coordinator(broker: LocalBroker, folder: Path, count: int, plan: Plan) -> Row:
    """At each of its failpoints and at random moments."""
    points = (*COORDINATOR_POINTS, RANDOM_MOMENT)
    killer = Killer(frozenset({COORDINATOR}), points, count, random.Random(1))
    return kill_processes(broker.url, folder, plan, killer, Row(fault=f"coordinator kill -9, {_kind(plan)}", bar_s=5.0))


def kill_nodes(broker: LocalBroker, folder: Path, count: int, plan: Plan) -> Row:
    """At each of their failpoints and at random moments, all nodes at the same time."""
    chunked = plan.codec == "lossless"
    points = (*NODE_POINTS, RANDOM_MOMENT, *(("node_mid_upload",) * 4 if chunked else ()))
    killer = Killer(frozenset(plan.names), points, count, random.Random(2))
    return kill_processes(broker.url, folder, plan, killer, Row(fault=f"node kill -9, {_kind(plan)}"))


@dataclass(slots=True)
class Trigger:
    """Something that happens after so many further log lines, whoever says them."""

    lines_left: int
    act: Callable[[], None]
    done: bool = field(default=False)

    def __call__(self, _: object) -> None:
        """Count one line."""
        self.lines_left -= 1
        if self.lines_left == 0:
            self.act()
            self.done = True


def kill_broker(broker: LocalBroker, folder: Path, count: int, plan: Plan) -> Row:
    """At random moments; sessions, queued and retained messages are gone each time."""
    row, rng = Row(fault=f"broker kill -9, store gone, {_kind(plan)}", bar_s=15.0), random.Random(3)
    with running(plan, folder, broker.url) as federation:
        federation.wait(federation.everybody_works)
        for _ in range(count):
            trigger = Trigger(rng.randint(1, 40), broker.kill)
            federation.watchers.append(trigger)
            if not federation.wait(lambda trigger=trigger: trigger.done):  # type: ignore[misc]
                row.hung += 1
                broker.kill()
            federation.watchers.remove(trigger)
            row.injected += 1
            began_s = monotonic()
            broker.restart(wipe_store=True)
            if federation.wait_reconnect() and federation.wait_versions(1):
                row.recovery_s.append(monotonic() - began_s)
            else:
                row.hung += 1
        if not federation.wait_versions(2 * plan.nodes):
            row.hung += 1
        row.note = f"{federation.version} versions"
        judge(federation, row)
    return row


def _kind(plan: Plan) -> str:
    size = "chunked updates" if plan.codec == "lossless" else "small updates"
    return f"{'synchronous' if plan.buffer is None else 'asynchronous'}, {size}"
