"""``make simulate``: thousands of small federations under random faults, each checked to the end.

By night: ``make simulate SEEDS=20000`` (8 to 12 seeds a second and core), or in slices of some minutes each, such as
``--seeds 20000 --minutes 9``: each slice says with which ``--first`` and ``--seeds`` the next one goes on.

Every eighth seed is run a second time with masked sums: three of four helpers must answer, and in most federations one
of the four leaves for ever. ``--masked all`` runs each seed so, and only so; ``--masked none`` none. Another eighth is
run a second time sealed, with noise that the coordinator adds, or both; some of those have masked sums, too. For them
``--private`` chooses as ``--masked`` does.
"""

import argparse
import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from enum import Enum
from typing import NamedTuple, assert_never

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.random_scenarios import (
    random_masked_scenario,
    random_private_scenario,
    random_scenario,
)
from fedmq.simulation.protocol.scenario import Outcome

__all__ = [
    "Kind",
    "Seed",
    "campaign",
    "main",
    "random_masked_scenario",
    "random_private_scenario",
    "random_scenario",
    "run_seed",
    "seeds_of",
]

WHICH = ("none", "some", "all")

AGAIN_EACH, MASKED_FIRST, PRIVATE_FIRST = 8, 3, 5
"""Every so many seeds one is run with masked sums, too, and another one with sealing or the coordinator's noise."""

CHUNK_SEEDS = 25
PROGRESS_S = 10.0
FIGURES = (
    "versions",
    "updates",
    "applied",
    "stale",
    "refused",
    "messages",
    "dropped",
    "duplicated",
    "reordered",
    "cuts",
    "coordinator_crashes",
    "node_crashes",
    "coordinator_power_cuts",
    "node_power_cuts",
    "failed_syncs",
    "wiped_nodes",
    "bad_updates",
    "stale_copies",
    "restores",
    "second_runs",
    "twins",
    "held",
    "fenced",
    "gave_way",
    "twins_given_up",
    "restored_above",
    "told_by_others",
    "helper_crashes",
    "wiped_helpers",
    "sums",
    "dropped_batches",
    "sealed_words",
    "rotated_keys",
    "shut_out",
    "noised",
    "ended_early",
    "broker_crashes",
    "full_disks",
    "stopped_processes",
    "leases_expired",
    "evaluations",
    "evaluated_nodes",
)


class Kind(Enum):
    """How a federation is drawn from its seed."""

    PLAIN = ""
    MASKED = "masked"
    PRIVATE = "private"


class Seed(NamedTuple):
    """One federation of a campaign: its seed, and how it is drawn."""

    number: int
    kind: Kind = Kind.PLAIN


def seeds_of(numbers: range, masked: str, private: str = "none") -> list[Seed]:
    """The federations of these seeds: masked and private ones are ``none``, ``some`` (an eighth, too) or ``all``."""
    chosen = ((Kind.MASKED, masked, MASKED_FIRST), (Kind.PRIVATE, private, PRIVATE_FIRST))
    found = []
    for number in numbers:
        if "all" not in (masked, private):
            found.append(Seed(number))
        for kind, which, first in chosen:
            if which == "all" or (which == "some" and number % AGAIN_EACH == first):
                found.append(Seed(number, kind))
    return found


def run_seed(seed: int, kind: Kind = Kind.PLAIN) -> tuple[Outcome, list[str]]:
    """Run one seed; the transcript's tail comes with a violation only."""
    match kind:
        case Kind.PLAIN:
            scenario = random_scenario(seed)
        case Kind.MASKED:
            scenario = random_masked_scenario(seed)
        case Kind.PRIVATE:
            scenario = random_private_scenario(seed)
        case _:
            assert_never(kind)
    with quiet_log():
        simulation = Simulation(scenario)
        outcome = simulation.run()
    simulation.close()
    return replace(outcome, kind=kind.value), list(simulation.transcript.tail()) if outcome.violations else []


def _run_chunk(seeds: Sequence[Seed]) -> list[tuple[Outcome, list[str]]]:
    return [run_seed(*seed) for seed in seeds]


def campaign(seeds: Sequence[Seed], *, jobs: int) -> Generator[tuple[Outcome, list[str]]]:
    """Run the seeds in their order; a failed one does not end the others."""
    size = CHUNK_SEEDS if jobs > 1 else 1
    chunks = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    # Ctrl-C reaches every process of a terminal: ours alone decides what it means.
    deaf = (signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(jobs, initializer=signal.signal, initargs=deaf) if jobs > 1 else nullcontext()
    with pool as workers:
        results: Iterable[list[tuple[Outcome, list[str]]]]
        results = map(_run_chunk, chunks) if workers is None else workers.map(_run_chunk, chunks)
        for chunk in results:
            yield from chunk


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign, print its table; 1 when an invariant was violated, 130 after Ctrl-C."""
    options = _options(arguments)
    console, failed = Console(), Console(stderr=True)
    began_s = said_s = time.perf_counter()
    numbers = range(options.first, options.first + options.seeds)
    seeds = seeds_of(numbers, options.masked, options.private)
    done = 0
    totals: Counter[str] = Counter()
    recoveries: list[float] = []
    failures: list[tuple[Outcome, list[str]]] = []
    interrupted = True
    with (
        suppress(KeyboardInterrupt),
        closing(campaign(seeds, jobs=options.jobs)) as outcomes,
    ):
        for outcome, tail in outcomes:
            done += 1
            totals.update({name: getattr(outcome, name) for name in FIGURES})
            recoveries.append(outcome.recovery_s)
            if outcome.violations:
                failures.append((outcome, tail))
                said = f"seed {_told(outcome)}: {outcome.violations[0]}"
                failed.print(said, markup=False, highlight=False, soft_wrap=True)
            if time.perf_counter() - said_s >= PROGRESS_S:
                said_s = time.perf_counter()
                failed.print(
                    f"{done:,} of {len(seeds):,} federations, {len(failures)} with violations", highlight=False
                )
            if time.perf_counter() - began_s >= 60.0 * options.minutes:
                break
        interrupted = False
    console.print(_table(done, totals, sorted(recoveries), len(failures), time.perf_counter() - began_s))
    if done < len(seeds):
        left, more = seeds[done].number, _chosen(options)
        rest = options.first + options.seeds - left
        console.print(f"go on: --first {left} --seeds {rest}{more}", highlight=False)
    if failures:
        _explain(failed, failures)
    return 1 if failures else 130 * interrupted


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m fedmq.simulation.protocol.campaign", description=summary, epilog=rest
    )
    parser.add_argument("--seeds", type=int, default=200, help="how many federations")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time, and say how to go on")
    parser.add_argument("--masked", choices=WHICH, default="some", help="which have masked sums")
    parser.add_argument("--private", choices=WHICH, default="some", help="which are sealed, or noised")
    return parser.parse_args(arguments)


def _chosen(options: argparse.Namespace) -> str:
    """The options that are not as they are when nothing is said."""
    chosen = (("masked", options.masked), ("private", options.private))
    return "".join(f" --{name} {which}" for name, which in chosen if which != "some")


def _table(seeds: int, totals: Counter[str], recoveries: list[float], failures: int, wall_s: float) -> Table:
    table = Table(box=SIMPLE_HEAD, title=f"{seeds:,} simulated federations")
    table.add_column("what")
    table.add_column("total", justify="right")
    for name in FIGURES:
        table.add_row(name.replace("_", " "), f"{totals[name]:,}")
    for label, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        value = recoveries[min(len(recoveries) - 1, int(share * len(recoveries)))] if recoveries else 0.0
        table.add_row(f"settled after the faults, {label}", f"{value:,.1f} s")
    table.add_row("wall time", f"{wall_s:,.1f} s")
    table.add_row("seeds per second", f"{seeds / wall_s:,.1f}")
    table.add_row("seeds with violations", f"{failures:,}")
    return table


def _told(outcome: Outcome) -> str:
    return f"{outcome.seed} {outcome.kind}".strip()


def _explain(console: Console, failures: list[tuple[Outcome, list[str]]]) -> None:
    outcome, tail = failures[0]
    for line in (
        f"seed {_told(outcome)}, transcript {outcome.transcript}, its last steps:",
        *tail,
        *outcome.violations,
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    others = ", ".join(_told(failure) for failure, _ in failures[1:20])
    how = "".join(f" --{kind.value} {'all' if kind.value == outcome.kind else 'none'}" for kind in list(Kind)[1:])
    console.print(
        f"again: python -m fedmq.simulation.protocol.campaign --first {outcome.seed} --seeds 1 --jobs 1{how}",
        highlight=False,
    )
    if others:
        console.print(f"further seeds: {others}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
