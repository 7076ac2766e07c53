"""``make simulate-trees``: many small federations through gateways under random faults, each checked to the end.

By night: ``make simulate-trees SEEDS=20000``, or in slices of some minutes each, such as ``--seeds 20000 --minutes 9``:
each slice says with which ``--first`` and ``--seeds`` the next one goes on.
"""

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedmq.simulation.tree.federation import run_tree
from fedmq.simulation.tree.scenario import TreeOutcome

__all__ = ["main"]

CHUNK_SEEDS = 10
FIGURES = (
    "versions",
    "applied",
    "given_back",
    "gateway_crashes",
    "power_cuts",
    "coordinator_crashes",
    "node_crashes",
    "late",
    "passes",
    "moves",
    "evaluated",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign, print its table; 1 when a rule was violated."""
    options = _options(arguments)
    console, failed = Console(), Console(stderr=True)
    began_s, done, violated = time.perf_counter(), 0, 0
    totals: Counter[str] = Counter()
    pool = ProcessPoolExecutor(options.jobs) if options.jobs > 1 else nullcontext()
    with pool as workers:
        seeds = range(options.first, options.first + options.seeds)
        results: Iterable[tuple[TreeOutcome, list[str]]]
        results = map(run_tree, seeds) if workers is None else workers.map(run_tree, seeds, chunksize=CHUNK_SEEDS)
        for outcome, tail in results:
            done += 1
            totals.update({name: getattr(outcome, name) for name in FIGURES})
            if outcome.violations:
                violated += 1
                for line in (f"seed {outcome.seed}:", *outcome.violations, *tail[-20:]):
                    failed.print(line, markup=False, highlight=False, soft_wrap=True)
            if time.perf_counter() - began_s >= 60.0 * options.minutes:
                break
        if workers is not None:
            workers.shutdown(cancel_futures=True)
    console.print(_table(done, totals, violated, time.perf_counter() - began_s))
    if done < options.seeds:
        console.print(f"go on: --first {options.first + done} --seeds {options.seeds - done}", highlight=False)
    return 1 if violated else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m fedmq.simulation.tree.campaign", description=summary, epilog=rest)
    parser.add_argument("--seeds", type=int, default=100, help="how many trees")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time, and say how to go on")
    return parser.parse_args(arguments)


def _table(trees: int, totals: Counter[str], violated: int, wall_s: float) -> Table:
    table = Table(box=SIMPLE_HEAD, title=f"{trees:,} simulated trees")
    table.add_column("what")
    table.add_column("total", justify="right")
    for name in FIGURES:
        table.add_row(name.replace("_", " "), f"{totals[name]:,}")
    table.add_row("wall time", f"{wall_s:,.1f} s")
    table.add_row("seeds with violations", f"{violated:,}")
    return table


if __name__ == "__main__":
    sys.exit(main())
