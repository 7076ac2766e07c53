"""Links that are slow, cut or silent, and a broker that goes away in order or for a while."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic

from benchmarks.chaos.federation import Federation, running
from benchmarks.chaos.kills import LARGE, SMALL, judge
from benchmarks.chaos.plan import Plan
from benchmarks.chaos.table import Row
from federation.protocol.limits import CHUNK_BYTES
from federation.runtime.local_broker import LocalBroker
from federation.testing import TcpProxy
from fedmq.demo.processes import Line

SLOW_BYTES_PER_S = 2_000.0
SLOW_LATENCY_S = 0.3
SLOW_LIMIT_S = 400.0
FIRST_CUT_BYTES = 66_000
"""The first chunk has arrived, the second is under way."""
NEXT_CUT_BYTES = 15_000
SLOW = Plan(nodes=1, task="null-88000", codec="lossless", buffer=1, lease_s=600.0, spread_s=0.0)
AWAY_S = 20.0
CUT_BYTES = (5_000, 200_000)
NOTICE_S = 25.0
"""Twice the keep-alive, and what a reconnect into a dead link takes."""


@contextmanager
def through_proxy(broker: LocalBroker, folder: Path, plan: Plan, *names: str) -> Iterator[tuple[Federation, TcpProxy]]:
    """A federation of which these nodes reach the broker through one bad link."""
    with TcpProxy(broker.host, broker.port) as proxy:
        urls = dict.fromkeys(names, f"mqtt://{proxy.host}:{proxy.port}")
        with running(replace(plan, urls=urls), folder, broker.url) as federation:
            yield federation, proxy


def slow_link(broker: LocalBroker, folder: Path, cuts: int) -> Row:
    """16 kbit/s and 600 ms: one update of 100 KB, cut several times; what was sent twice is measured."""
    row = Row(fault="16 kbit/s, 600 ms, 100 KB update, cut")
    sent: dict[str, int] = {}
    with through_proxy(broker, folder, SLOW, *SLOW.names) as (federation, proxy):
        proxy.slow_down(latency_s=SLOW_LATENCY_S, bytes_per_s=SLOW_BYTES_PER_S)

        def watch(line: Line) -> None:
            if line.event == "update_offered" and not sent:
                sent.update(payload=int(str(line.fields["bytes"])), before=proxy.up.passed)
                proxy.up.cut_after = FIRST_CUT_BYTES
            elif line.event == "disconnected" and line.source in SLOW.names and proxy.cuts < cuts:
                proxy.up.cut_after = NEXT_CUT_BYTES
            elif line.event == "update_stored":
                sent.setdefault("after", proxy.up.passed)

        federation.watchers.append(watch)
        began_s = monotonic()
        if federation.wait_versions(1, SLOW_LIMIT_S) and proxy.cuts == cuts:
            again = sent["after"] - sent["before"] - sent["payload"]
            row.note = f"{sent['payload']:,} B in {monotonic() - began_s:.0f} s, {again:,} B sent again or as headers"
            if again > cuts * CHUNK_BYTES:
                row.failures.append(f"{again:,} B for {cuts} cuts, more than one chunk each")
        else:
            row.hung += 1
        row.injected = proxy.cuts
        proxy.slow_down(latency_s=0.0, bytes_per_s=None)
        judge(federation, row)
    return row


def cuts(broker: LocalBroker, folder: Path, count: int) -> Row:
    """All nodes' connections are cut after a random number of bytes, in the middle of chunked updates."""
    row, rng = Row(fault="all links cut after N bytes, chunked updates", bar_s=15.0), random.Random(4)
    with through_proxy(broker, folder, LARGE, *LARGE.names) as (federation, proxy):
        federation.wait(federation.everybody_works)
        for number in range(count):
            proxy.up.cut_after = rng.randint(*CUT_BYTES)
            cut = federation.wait(lambda number=number: proxy.cuts > number)  # type: ignore[misc]
            row.hung += not cut
            began_s = monotonic()
            if federation.wait_versions(2):  # the first may be of what had arrived before
                row.recovery_s.append(monotonic() - began_s)
            else:
                row.hung += 1
        row.injected = proxy.cuts
        for name in LARGE.names:
            row.hung += federation.work_again(name) is None
        judge(federation, row)
    return row


def partition(broker: LocalBroker, folder: Path, count: int) -> Row:
    """One node's link falls silent one way, the other way, and both; the others go on."""
    row, plan = Row(fault="partition of a node, one way and both"), replace(SMALL, keepalive_s=5)
    name = plan.names[0]
    with through_proxy(broker, folder, plan, name) as (federation, proxy):
        federation.wait(federation.everybody_works)
        noticed: list[Line] = []
        federation.watchers.append(
            lambda line: noticed.append(line) if (line.source, line.event) == (name, "disconnected") else None
        )
        for number in range(count):
            up, down = ((True, False), (False, True), (True, True))[number % 3]
            before, known = federation.version, len(noticed)
            proxy.partition(up=up, down=down)
            row.injected += 1
            if not federation.wait(lambda known=known: len(noticed) > known, NOTICE_S):  # type: ignore[misc]
                row.failures.append(f"the node did not notice a partition (up={up}, down={down})")
            if federation.version < before + plan.nodes:
                row.failures.append("the others stood still")
            proxy.heal()
            recovery_s = federation.work_again(name)
            row.hung += recovery_s is None
            row.recovery_s += [] if recovery_s is None else [recovery_s]
        judge(federation, row)
    return row


def broker_away(broker: LocalBroker, folder: Path, count: int) -> Row:
    """The broker is killed and stays away for a while; its store is wiped."""
    row = Row(fault=f"broker away for {AWAY_S:.0f} s, store wiped", bar_s=15.0)
    with running(SMALL, folder, broker.url) as federation:
        federation.wait(federation.everybody_works)
        for _ in range(count):
            broker.kill()
            row.injected += 1
            federation.wait(lambda: False, AWAY_S)
            _restart_broker(federation, broker, row, wipe_store=True)
        judge(federation, row)
    return row


def broker_restart(broker: LocalBroker, folder: Path, count: int) -> Row:
    """The broker is restarted in order, in turn with its store and without."""
    row = Row(fault="broker restart, store kept and wiped in turn", bar_s=15.0)
    with running(SMALL, folder, broker.url) as federation:
        federation.wait(federation.everybody_works)
        for number in range(count):
            row.injected += 1
            _restart_broker(federation, broker, row, wipe_store=number % 2 == 1)
        judge(federation, row)
    return row


def _restart_broker(federation: Federation, broker: LocalBroker, row: Row, *, wipe_store: bool) -> None:
    began_s = monotonic()
    broker.restart(wipe_store=wipe_store)
    if federation.wait_reconnect() and federation.wait_versions(1):
        row.recovery_s.append(monotonic() - began_s)
    else:
        row.hung += 1
