"""SIGKILL under sealing and masked sums: helpers, coordinator, nodes, broker (``make chaos ARGS=--privacy``).

What must hold beside I1 to I9: no update is in two sums that helpers reveal, versions are made of what they revealed,
and nothing is refused, since nobody did anything wrong: a mask that is not taken away, or is taken twice, leaves random
numbers, and so a sum that is out of range.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from benchmarks.chaos.federation import COORDINATOR, Federation, running_at
from benchmarks.chaos.kills import COORDINATOR_POINTS, NODE_POINTS, RANDOM_MOMENT, Killer, Trigger, kill_all
from benchmarks.chaos.life import HARMLESS, Armoury
from benchmarks.chaos.plan import Plan
from benchmarks.chaos.private_site import MEMBERS_MIN, PrivateSite, SiteBroker
from benchmarks.chaos.table import Row
from coordinator.storage.read_only import ReadOnlyStore
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import ModelVersion
from fedmq.demo.processes import Line

__all__ = ["ALL_OF_TWO", "BIG", "THREE_OF_FOUR", "kill_broker", "kill_coordinator", "kill_helpers", "kill_nodes"]

HELPER_POINTS = (
    "helper_before_held",
    "helper_after_held",
    "helper_before_used",
    "helper_after_used",
    "helper_before_offer",
    "helper_after_offer",
)
"""In the order of a version."""

MASKED_POINTS = (*COORDINATOR_POINTS, "coordinator_after_frozen", "coordinator_after_sum")

LIMIT_S = 60.0
"""As in `benchmarks.chaos.federation`, for twice as many processes, each with TLS."""

PATIENCE = 6
"""A helper that was not asked, since others answer, is killed from outside after so many versions."""

FAULTS = (Reason.NORM, Reason.HELPER_LOST, Reason.HELPER_REFUSED, Reason.TERMS)
"""Reasons that nobody has given cause for."""

LATE = (ReceiptStatus.STALE, Reason.TERMS)
"""An update that came after the terms had changed: late, as any stale one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Helped:
    """What runs.

    Attributes:
        plan: Nodes and rounds.
        count: Helpers.
        threshold: So many of them must answer.
    """

    plan: Plan = field(default_factory=lambda: Plan(nodes=7, task="quadratic-1000", buffer=MEMBERS_MIN))
    count: int = 4
    threshold: int = 3

    @property
    def told(self) -> str:
        """In words."""
        return f"{self.threshold} of {self.count} helpers"


THREE_OF_FOUR = Helped()
ALL_OF_TWO = Helped(count=2, threshold=2)
BIG = Helped(plan=Plan(nodes=7, task="quadratic-200000", buffer=MEMBERS_MIN), count=2, threshold=2)
"""Updates and sums of more than one chunk."""


@contextmanager
def _running(folder: Path, helped: Helped, armoury: Armoury) -> Iterator[tuple[Federation, SiteBroker]]:
    site = PrivateSite(helped.plan, folder, count=helped.count, threshold=helped.threshold)
    site.prepare()
    with SiteBroker(site) as broker, running_at(site, armoury) as federation:
        yield federation, broker


@dataclass(slots=True)
class Impatience:
    """Kills helpers that are armed and never come to it, since the others have answered before."""

    federation: Federation
    helpers: frozenset[str]
    _since: Counter[tuple[str, int]] = field(default_factory=Counter)

    def __call__(self, line: Line) -> None:
        """Count the versions in each armed life."""
        if line.source != COORDINATOR or line.event != "version_committed":
            return
        for name in self.helpers:
            life = self.federation.lives[name]
            self._since[name, life.generation] += 1
            if life.label and life.ended_s is None and self._since[name, life.generation] >= PATIENCE:
                self._since[name, life.generation] = -PATIENCE
                self.federation.kill(name)


def kill_helpers(folder: Path, count: int, helped: Helped) -> Row:
    """At each of their failpoints, or from outside while the others answer."""
    site = PrivateSite(helped.plan, folder, count=helped.count, threshold=helped.threshold)
    big = helped is BIG
    points = (*HELPER_POINTS, RANDOM_MOMENT, *(("helper_mid_sum",) * 3 if big else ()))
    killer = Killer(frozenset(site.helpers), points, count, random.Random(21))
    return _kill(folder, helped, killer, Row(fault=f"helper kill -9, {_kind(helped)}", bar_s=10.0))


def kill_coordinator(folder: Path, count: int, helped: Helped) -> Row:
    """At each of its failpoints and at random moments, also while a sum is under way."""
    killer = Killer(frozenset({COORDINATOR}), (*MASKED_POINTS, RANDOM_MOMENT), count, random.Random(22))
    return _kill(folder, helped, killer, Row(fault=f"coordinator kill -9, {_kind(helped)}", bar_s=10.0))


def kill_nodes(folder: Path, count: int, helped: Helped) -> Row:
    """At each of their failpoints and at random moments, all nodes at the same time."""
    killer = Killer(frozenset(helped.plan.names), (*NODE_POINTS, RANDOM_MOMENT), count, random.Random(23))
    return _kill(folder, helped, killer, Row(fault=f"node kill -9, {_kind(helped)}"))


def _kill(folder: Path, helped: Helped, killer: Killer, row: Row) -> Row:
    with _running(folder, helped, killer) as (federation, _):
        federation.watchers.append(Impatience(federation, killer.victims & set(federation.site.helpers)))
        kill_all(federation, killer, row, LIMIT_S)
        if not federation.wait_versions(2, LIMIT_S):
            row.hung += 1
            row.failures.append(f"no version after the last kill: {federation.waiting}")
        judge(federation, row)
    return row


def kill_broker(folder: Path, count: int, helped: Helped) -> Row:
    """At random moments; sessions, queued and retained messages are gone each time, group keys and helpers' too."""
    row, rng = Row(fault=f"broker kill -9, store gone, {_kind(helped)}", bar_s=15.0), random.Random(24)
    with _running(folder, helped, lambda _: HARMLESS) as (federation, broker):
        federation.wait(federation.everybody_works, LIMIT_S)
        for _ in range(count):
            trigger = Trigger(rng.randint(1, 40), broker.kill)
            federation.watchers.append(trigger)
            if not federation.wait(lambda trigger=trigger: trigger.done, LIMIT_S):  # type: ignore[misc]
                row.hung += 1
                broker.kill()
            federation.watchers.remove(trigger)
            row.injected += 1
            began_s = monotonic()
            broker.restart()
            if federation.wait_reconnect(LIMIT_S) and federation.wait_versions(1, LIMIT_S):
                row.recovery_s.append(monotonic() - began_s)
            else:
                row.hung += 1
                row.failures.append(f"no version after a restart of the broker: {federation.waiting}")
        row.note = f"{federation.version} versions"
        judge(federation, row)
    return row


def judge(federation: Federation, row: Row) -> None:
    """Stop everything in order, and let the audit have the last word."""
    federation.armoury = lambda _: HARMLESS
    ended = federation.retire(*federation.plan.names)
    # Fewer than a version needs stay: nobody may learn a sum over so few.
    settled = federation.wait(_settled(federation), LIMIT_S)
    ended = federation.retire(COORDINATOR, *federation.site.helpers) and ended
    if not (ended and settled):
        row.failures.append(f"did not stop in order: ended {ended}, sums are done {settled}; {federation.waiting}")
    report = federation.audit()
    row.lost += len(report.lost)
    row.double += len(report.double)
    row.failures += [f"{finding.invariant}: {finding.detail}" for finding in report.findings if finding.failed]
    row.failures += federation.surprises
    row.failures += _unfounded(federation)


def _settled(federation: Federation) -> Callable[[], bool]:
    """Whether no sum is under way, and too few updates wait for one."""

    def settled() -> bool:
        with ReadOnlyStore(federation.site.state(COORDINATOR)) as store:
            head = store.history()[-1].record.version
            waiting = [row for row in store.updates() if row.verdict.status is ReceiptStatus.STORED]
            return store.batch(ModelVersion(head + 1)) is None and len(waiting) < MEMBERS_MIN

    return settled


def _unfounded(federation: Federation) -> list[str]:
    with ReadOnlyStore(federation.site.state(COORDINATOR)) as store:
        judged = [row for row in store.updates() if row.verdict.reason in FAULTS]
        found = [row for row in judged if (row.verdict.status, row.verdict.reason) != LATE]
    return [f"{row.record.update} is {row.verdict.status}: {row.verdict.reason}" for row in found]


def _kind(helped: Helped) -> str:
    return f"{helped.told}, {'chunked' if helped is BIG else 'small'} updates"
