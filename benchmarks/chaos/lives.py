"""Processes that stop in order, freeze, vanish for ever, are started twice, or run out of disk."""

import resource
import signal
from dataclasses import replace
from pathlib import Path
from time import monotonic

import psutil

from benchmarks.chaos.federation import COORDINATOR, LIMIT_S, Federation, running
from benchmarks.chaos.kills import LARGE, SMALL, judge
from benchmarks.chaos.messages import flood
from benchmarks.chaos.plan import Plan, coordinator_arguments, node_arguments
from benchmarks.chaos.table import Row
from benchmarks.large_run import peak_rss_bytes
from coordinator.storage.sqlite_store import SqliteStore
from federation.runtime.local_broker import LocalBroker

TERM_S_MAX = 5.0
FREEZE_S = 8.0
DISK_FULL_S = 2.0
THROUGHPUT_S = 20.0
THROUGHPUT_LOSS_MAX = 0.25
MEMORY_MIB = 256
FLOOD_PER_MESSAGE = 20
IDLE_S = 5.0
IDLE_SHARE_MAX = 0.1
"""CPU time of a coordinator that waits, as a share of the time: a busy loop takes all."""
STORE_IN_USE = 3
BROKER_REFUSES = 4


def terminate(broker: LocalBroker, folder: Path, count: int) -> Row:
    """SIGTERM to the coordinator and to nodes in turn."""
    row = Row(fault="SIGTERM, coordinator and nodes in turn")
    worst_s = 0.0
    with running(SMALL, folder, broker.url) as federation:
        federation.wait(federation.everybody_works)
        for number in range(count):
            name = COORDINATOR if number % 2 else SMALL.names[number // 2 % SMALL.nodes]
            took_s = federation.terminate(name)
            row.injected += 1
            if took_s is None or took_s > TERM_S_MAX:
                row.failures.append(f"{name} did not stop within {TERM_S_MAX:.0f} s")
            worst_s = max(worst_s, took_s or 0.0)
            _note_recovery(federation, name, row)
        row.note = f"stopped within {worst_s:.2f} s, bar {TERM_S_MAX:.0f} s"
        judge(federation, row)
    return row


def freeze(broker: LocalBroker, folder: Path, count: int) -> Row:
    """SIGSTOP to the coordinator and to nodes in turn: connections stay open, leases pass."""
    row, plan = Row(fault=f"SIGSTOP for {FREEZE_S:.0f} s, in turn"), Plan(lease_s=2.0)
    with running(plan, folder, broker.url) as federation:
        federation.wait(federation.everybody_works)
        for number in range(count):
            name = COORDINATOR if number % 2 else plan.names[number // 2 % plan.nodes]
            before = federation.version
            federation.freeze(name, FREEZE_S)
            if name != COORDINATOR and federation.version < before + 2:
                row.failures.append(f"the others stood still while {name} was stopped")
            row.injected += 1
            recovery_s = federation.work_again(name)
            row.hung += recovery_s is None
            row.recovery_s += [] if recovery_s is None else [recovery_s]
        judge(federation, row)
    return row


def vanish(broker: LocalBroker, folder: Path, _: int) -> Row:
    """Two of ten nodes go for ever in mid-training, one of them without a word: throughput before and after.

    A node gives one update to each version, so whoever has given waits: with 2 updates per version the loss of 2 of 10
    nodes costs about (1/10 + 1/9) / (1/8 + 1/7) , or 21 %, by itself; with 4 per version it would be 25 %.
    """
    plan = Plan(nodes=10, buffer=2, lease_s=3.0, spread_s=0.5)
    row = Row(fault="20 % of the nodes vanish for ever")
    with running(plan, folder, broker.url) as federation:
        federation.wait(federation.everybody_works)
        before = _versions_in(federation, THROUGHPUT_S)
        silent, dead = plan.names[0], plan.names[1]
        federation.retired.update((silent, dead))
        federation.fleet.send_signal(silent, signal.SIGSTOP)
        federation.fleet.kill(dead)
        row.injected = 2
        after = _versions_in(federation, THROUGHPUT_S)
        loss = 1.0 - after / before
        row.note = f"versions per second {before / THROUGHPUT_S:.1f} → {after / THROUGHPUT_S:.1f} ({-loss:+.0%})"
        if loss > THROUGHPUT_LOSS_MAX:
            row.failures.append(f"throughput fell by {loss:.0%}, more than {THROUGHPUT_LOSS_MAX:.0%}")
        federation.fleet.kill(silent)
        judge(federation, row)
    # Who is silent looks online until the broker gives it up, and may be asked again: for a lease, and not for longer.
    in_a_lease = 2 * (plan.lease_s + plan.spread_s) * before / THROUGHPUT_S
    leaked = {node for node, age in _slots(folder).items() if node in {silent, dead} and age > in_a_lease}
    row.note += f"; {len(leaked)} slots leaked"
    if leaked:
        row.failures.append(f"slots are still held for {sorted(leaked)}")
    return row


def _slots(folder: Path) -> dict[str, int]:
    """Nodes with an open assignment in a stopped coordinator's store, and how many versions ago it began."""
    store = SqliteStore(folder / COORDINATOR)
    try:
        state = store.recovered(recent=1)
        return {node: state.head.version - record.version for record in state.open_rounds for node in record.nodes}
    finally:
        store.close()


def memory_cap(broker: LocalBroker, folder: Path, versions: int) -> Row:
    """The coordinator may allocate 256 MiB, while eight nodes send large updates and a stranger floods it."""
    row = Row(fault=f"memory cap {MEMORY_MIB} MiB for the coordinator, flood of chunks")
    with running(replace(LARGE, nodes=8, buffer=4), folder, broker.url) as federation:
        federation.wait(federation.everybody_works, 2 * LIMIT_S)
        pid, cap = federation.fleet.pid(COORDINATOR), MEMORY_MIB << 20
        resource.prlimit(pid, resource.RLIMIT_DATA, (cap, cap))
        with flood(broker.url, FLOOD_PER_MESSAGE) as echo:
            row.hung += not federation.wait_versions(versions, 4 * LIMIT_S)
        row.injected = echo.sent
        peak = peak_rss_bytes(pid) >> 20
        row.note = f"peak {peak} MiB resident; {federation.version} versions"
        if federation.lives[COORDINATOR].generation or peak > MEMORY_MIB:
            row.failures.append(f"the coordinator did not live within {MEMORY_MIB} MiB: {peak} MiB resident")
        judge(federation, row)
    return row


def twins(broker: LocalBroker, folder: Path, _: int) -> Row:
    """A second coordinator on one store, a second process on one node's state, a second node with the same id."""
    row = Row(fault="the same coordinator, store and node id twice")
    with running(SMALL, folder, broker.url) as federation:
        federation.wait(federation.everybody_works)
        name = SMALL.names[0]
        arguments = node_arguments(SMALL, folder, broker.url, name)
        elsewhere = [*arguments[: arguments.index("--state")], "--state", str(folder / "twin"), "--log-json"]
        for twin, module, theirs, code in (
            ("second-coordinator", "coordinator", coordinator_arguments(folder), STORE_IN_USE),
            ("second-process", "edge_node", arguments, STORE_IN_USE),
            ("twin", "edge_node", elsewhere, BROKER_REFUSES),
        ):
            row.injected += 1
            if not federation.intrude(twin, module, theirs, code):
                row.failures.append(f"{twin} did not end with {code}")
            elif not federation.fleet.stderr_tail(twin):
                row.failures.append(f"{twin} did not say why it ended")
            recovery_s = federation.work_again(COORDINATOR if twin == "second-coordinator" else name)
            row.hung += recovery_s is None
            row.recovery_s += [] if recovery_s is None else [recovery_s]
        judge(federation, row)
    return row


def all_gone(broker: LocalBroker, folder: Path, _: int) -> Row:
    """Nobody, and one less than the quorum: the coordinator waits, says so, and takes no CPU."""
    row, plan = Row(fault="all nodes gone; quorum - 1 alive"), Plan(nodes=3, buffer=3, quorum=2, lease_s=2.0)
    reasons: list[str] = []
    with running(plan, folder, broker.url) as federation:
        federation.wait(federation.everybody_works)
        for gone in (plan.names[1:], plan.names):
            row.injected += 1
            federation.retire(*gone, number=signal.SIGKILL)
            federation.wait(lambda: False, plan.lease_s + plan.max_wait_s)
            before, process = federation.version, psutil.Process(federation.fleet.pid(COORDINATOR))
            busy_s = sum(process.cpu_times()[:2])
            federation.wait(lambda: False, IDLE_S)
            share = (sum(process.cpu_times()[:2]) - busy_s) / IDLE_S
            reasons.append(federation.waiting)
            if share > IDLE_SHARE_MAX or federation.version > before or not federation.waiting:
                row.failures.append(f"{share:.0%} CPU, version {before} to {federation.version}, says {reasons}")
            _bring_back(federation, gone, row)
        row.note = f"waits for {', '.join(dict.fromkeys(reasons))}"
        judge(federation, row)
    return row


def disk_full(broker: LocalBroker, folder: Path, count: int) -> Row:
    """Every write to a file fails, at the coordinator and at nodes in turn (a limit of 0 bytes per file)."""
    row = Row(fault="disk full, coordinator and nodes in turn")
    with running(SMALL, folder, broker.url) as federation:
        federation.wait(federation.everybody_works)
        for number in range(count):
            name = COORDINATOR if number % 2 else SMALL.names[number // 2 % SMALL.nodes]
            row.injected += 1
            before = federation.storage_failures[name]
            _limit_files(federation.fleet.pid(name), 0)
            noticed = federation.wait(
                lambda name=name, before=before: federation.storage_failures[name] > before  # type: ignore[misc]
            )
            federation.wait(lambda: False, DISK_FULL_S)
            _limit_files(federation.fleet.pid(name), resource.RLIM_INFINITY)
            if not noticed:
                row.failures.append(f"{name} did not say that it cannot write")
            recovery_s = federation.work_again(name, 2 * LIMIT_S)  # a node that cannot write declines for 30 s
            row.hung += recovery_s is None
            row.recovery_s += [] if recovery_s is None else [recovery_s]
        judge(federation, row)
    return row


def _limit_files(pid: int, bytes_max: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (bytes_max, hard))


def _versions_in(federation: Federation, seconds: float) -> int:
    before = federation.version
    federation.wait(lambda: False, seconds)
    return federation.version - before


def _bring_back(federation: Federation, names: tuple[str, ...], row: Row) -> None:
    began_s, before = monotonic(), federation.version
    federation.retired.difference_update(names)
    for name in names:
        federation.restart(name)
    if federation.wait(lambda: federation.version > before):
        row.recovery_s.append(monotonic() - began_s)
    else:
        row.hung += 1


def _note_recovery(federation: Federation, name: str, row: Row) -> None:
    life = federation.lives[name]
    if federation.wait(lambda: life.works_s is not None, LIMIT_S) and life.recovery_s is not None:
        row.recovery_s.append(life.recovery_s)
    else:
        row.hung += 1
