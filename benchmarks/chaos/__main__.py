"""``make chaos``: the whole campaign and its closing table.

    python -m benchmarks.chaos [--privacy] [--only NAME,NAME] [--scale 0.1] [--json]

Every fault meets a federation whose small rounds go on without a pause. After each scenario the stores are audited
(`fedmq.audit.audit`): an update that a node was told is stored, applied or stale is in the coordinator's store, none
counts twice, the head can be made again from its updates. Names: see `SCENARIOS`. With ``--privacy`` it is a federation
with certificates, sealing and masked sums, and helpers are killed, too: see `PRIVATE`.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic

from rich.console import Console

from benchmarks.chaos import disk_errors, identities, kills, lives, messages, network, private, restores
from benchmarks.chaos.table import Row, show
from federation.runtime.local_broker import LocalBroker
from federation.runtime.log import configure_log

Run = Callable[[LocalBroker, Path, int], Row]
RunAlone = Callable[[Path, int], Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row of the table.

    Attributes:
        name: For ``--only``.
        run: Does it, ``count`` times: with a broker without certificates,
        alone: or with one of its own.
        count: How often in a whole campaign.
        shards: Federations that share the count, at the same time: for those that mostly wait.
        quiet: Takes little CPU, so it runs beside the others.
    """

    name: str
    count: int
    run: Run | None = None
    alone: RunAlone | None = None
    shards: int = 1
    quiet: bool = False


SCENARIOS = (
    Scenario(name="coordinator", run=partial(kills.kill_coordinator, plan=kills.SMALL), count=45),
    Scenario(name="coordinator-sync", run=partial(kills.kill_coordinator, plan=kills.SYNCHRONOUS), count=36),
    Scenario(name="coordinator-large", run=partial(kills.kill_coordinator, plan=kills.LARGE), count=27),
    Scenario(name="node", run=partial(kills.kill_nodes, plan=kills.SMALL), count=84),
    Scenario(name="node-sync", run=partial(kills.kill_nodes, plan=kills.SYNCHRONOUS), count=60),
    Scenario(name="node-large", run=partial(kills.kill_nodes, plan=kills.LARGE), count=64),
    Scenario(name="broker", run=partial(kills.kill_broker, plan=kills.SMALL), count=30, shards=3),
    Scenario(name="broker-large", run=partial(kills.kill_broker, plan=kills.LARGE), count=20, shards=2),
    Scenario(name="terminate", run=lives.terminate, count=10),
    Scenario(name="vanish", run=lives.vanish, count=2),
    Scenario(name="repeat", run=messages.repeat, count=40),
    Scenario(name="vandal", run=messages.vandalise, count=40),
    Scenario(name="restore", run=partial(restores.lose_and_restore, plan=kills.SMALL), count=12),
    Scenario(name="restore-large", run=partial(restores.lose_and_restore, plan=kills.LARGE), count=12),
    Scenario(name="wipe", run=identities.wipe_nodes, count=12),
    Scenario(name="copy", run=identities.stale_copies, count=6),
    Scenario(name="second-run", run=identities.second_runs, count=6),
    Scenario(name="disk-full", run=lives.disk_full, count=4, quiet=True),
    Scenario(name="disk-errors", run=disk_errors.disk_errors, count=3, quiet=True),
    Scenario(name="memory-cap", run=lives.memory_cap, count=10),
    Scenario(name="cuts", run=network.cuts, count=12),
    Scenario(name="slow-link", run=network.slow_link, count=5, quiet=True),
    Scenario(name="partition", run=network.partition, count=3, quiet=True),
    Scenario(name="broker-away", run=network.broker_away, count=2, quiet=True),
    Scenario(name="broker-restart", run=network.broker_restart, count=6, quiet=True),
    Scenario(name="freeze", run=lives.freeze, count=4, quiet=True),
    Scenario(name="twins", run=lives.twins, count=3, quiet=True),
    Scenario(name="all-gone", run=lives.all_gone, count=2, quiet=True),
)

PRIVATE = (
    Scenario(name="helper", alone=partial(private.kill_helpers, helped=private.THREE_OF_FOUR), count=40),
    Scenario(name="helper-all", alone=partial(private.kill_helpers, helped=private.ALL_OF_TWO), count=40),
    Scenario(name="helper-large", alone=partial(private.kill_helpers, helped=private.BIG), count=20),
    Scenario(
        name="masked-coordinator", alone=partial(private.kill_coordinator, helped=private.THREE_OF_FOUR), count=60
    ),
    Scenario(
        name="masked-coordinator-all", alone=partial(private.kill_coordinator, helped=private.ALL_OF_TWO), count=40
    ),
    Scenario(name="masked-node", alone=partial(private.kill_nodes, helped=private.THREE_OF_FOUR), count=100),
    Scenario(name="masked-broker", alone=partial(private.kill_broker, helped=private.THREE_OF_FOUR), count=20),
)

ELSEWHERE = (
    ("messages late by an hour, SIGSTOP for 5 minutes, broker away for 10 minutes", "make simulate (virtual time)"),
    ("clock ±1 day, jumping back", "make simulate; tests/architecture/test_clocks.py: only monotonic time decides"),
    ("power cut: writes that were not synced are gone", "make simulate, tests/contract/*store*"),
    ("poisoned updates: NaN, infinite, 1e30, wrong shape, negative or huge weight", "tests/hostile, tests/unit"),
    ("other protocol version, other model", "tests/scenarios, tests/unit/coordinator, tests/unit/edge_node"),
    ("memory of the coordinator over thousands of versions", "make soak"),
)

WHOLE = frozenset({"slow-link", "vanish", "twins", "all-gone"})
"""Scenarios whose count says what they do, not how often: they are not scaled."""


def main() -> int:
    """Run what was asked for; 0 when all is good."""
    options = _options()
    configure_log(json=False, level="critical")  # the processes' own logs are listened to; ours is a broker's
    console = Console(stderr=True)
    scenarios = PRIVATE if options.privacy else SCENARIOS
    chosen = [scenario for scenario in scenarios if not options.only or scenario.name in options.only]
    began_s = monotonic()
    with ThreadPoolExecutor(max_workers=2) as beside:
        quiet = [(s, beside.submit(_run, s, options.scale, console)) for s in chosen if s.quiet]
        rows = {s.name: _run(s, options.scale, console) for s in chosen if not s.quiet}
        rows |= {s.name: _result(s, future) for s, future in quiet}
    console.print(f"the whole campaign: {monotonic() - began_s:.0f} s", highlight=False)
    return 0 if show([rows[s.name] for s in chosen], ELSEWHERE, as_json=options.json) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--privacy", action="store_true", help="masked sums, sealing and certificates; helpers, too")
    privacy, _ = parser.parse_known_args()
    names = [scenario.name for scenario in (PRIVATE if privacy.privacy else SCENARIOS)]
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help=f"of {', '.join(names)}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the kills; 0.1 is a short run")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    unknown = set(options.only) - set(names)
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; choose of {', '.join(names)}")
    return options


def _run(scenario: Scenario, scale: float, console: Console) -> Row:
    began_s = monotonic()
    count = scenario.count if scenario.name in WHOLE else max(1, round(scenario.count * scale))
    shares = [len(range(shard, count, scenario.shards)) for shard in range(scenario.shards)]
    with ThreadPoolExecutor(max_workers=scenario.shards) as shards:
        parts = [shards.submit(_alone, scenario, share) for share in shares if share]
        row = _merge([_result(scenario, part) for part in parts])
    verdict = "good" if row.good else f"BAD ({'; '.join(row.problems)})"
    console.print(
        f"{scenario.name}: {verdict}, {monotonic() - began_s:.0f} s; {row.fault}: {row.injected}",
        highlight=False,
        markup=False,
    )
    return row


def _alone(scenario: Scenario, count: int) -> Row:
    """A broker and a folder of its own."""
    folder = tempfile.TemporaryDirectory(prefix="fedmq-chaos-", ignore_cleanup_errors=True)
    with folder as path:
        if scenario.alone is not None:
            return scenario.alone(Path(path), count)
        assert scenario.run is not None  # noqa: S101 - one of the two is given
        with LocalBroker(persistence=True) as broker:
            return scenario.run(broker, Path(path), count)


def _result(scenario: Scenario, future: Future[Row]) -> Row:
    """A scenario that breaks is a bad row, not the end of the campaign."""
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - whatever it is, it goes into the table
        return Row(fault=scenario.name, failures=[f"{type(error).__name__}: {error}"])


def _merge(parts: Sequence[Row]) -> Row:
    row, *others = parts
    for other in others:
        row.injected += other.injected
        row.lost += other.lost
        row.double += other.double
        row.hung += other.hung
        row.recovery_s += other.recovery_s
        row.failures += other.failures
        row.note += f"; {other.note}"
    return row


if __name__ == "__main__":
    sys.exit(main())
