"""``make simulate``: thousands of small federations under random faults, each checked to the end.

By night: ``make simulate SEEDS=20000`` (8 to 12 seeds a second and core), or in slices of some minutes each, such as
``--seeds 20000 --minutes 9``: each slice says with which ``--first`` and ``--seeds`` the next one goes on.

Every eighth seed is run a second time with masked sums: three of four helpers must answer, and in most federations one
of the four leaves for ever. ``--masked all`` runs each seed so, and only so; ``--masked none`` none.
"""

import argparse
import math
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from coordinator.engine.early_stopping import Goal, Source, StoppingSettings
from coordinator.engine.settings import EngineSettings, FederatedEvaluationSettings
from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.strategies.strategy import StrategySettings, make_strategy
from edge_node.engine.machine import NodeSettings
from federation.tasks.registry import default_settings
from federation.testing import BrokerSettings
from federation.types import NodeId
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.helper_actor import helper_key
from fedmq.simulation.protocol.masked_sums import HELPERS, masked_scenario
from fedmq.simulation.protocol.scenario import Outcome, Scenario
from fedmq.simulation.world.faults import FaultPlan, some_of
from fedmq.simulation.world.trainer import Stragglers

__all__ = ["Seed", "campaign", "main", "random_masked_scenario", "random_scenario", "run_seed", "seeds_of"]

MASKED_EACH, MASKED_FIRST = 8, 3
"""Every so many seeds one is run with masked sums, too."""

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
    "ended_early",
    "broker_crashes",
    "full_disks",
    "stopped_processes",
    "leases_expired",
    "evaluations",
    "evaluated_nodes",
)


def random_scenario(seed: int) -> Scenario:
    """One small federation, everything about it drawn from the seed."""
    rng = random.Random(f"campaign/{seed}")  # noqa: S311 - a simulation, not a secret
    nodes = rng.randint(2, 8)
    task = f"{rng.choice(('null', 'quadratic'))}-{rng.choice((20, 50, 300, 1500))}"
    strategy = "fedavg" if rng.random() < 0.4 else rng.choice(("fedbuff", "fedbuff", "fedasync", "fedadam"))
    # The least that a transfer in chunks needs: several chunks, and windows smaller than the whole.
    chunk_bytes = rng.choice((64, 256, 1024, 61_440))
    downlink = DownlinkSettings(chunk_bytes=rng.choice((256, 1024, 61_440)), delta_chain_max=rng.choice((0, 1, 8)))
    return Scenario(
        seed=seed,
        nodes=nodes,
        task=task,
        engine=_stopping(
            seed,
            replace(
                _engine(rng, nodes, strategy, task), federated_evaluation=_survey(seed, nodes), signed=_signed(seed)
            ),
        ),
        committer=CommitterSettings(strategy=make_strategy(StrategySettings(name=strategy)), downlink=downlink),
        node=NodeSettings(node=NodeId("node"), task=task, chunk_bytes=chunk_bytes, outbox_max=rng.choice((1, 2, 16))),
        faults=_identities(seed, _later_faults(seed, _faults(rng))),
        faults_s=rng.uniform(30.0, rng.choice((300.0, 300.0, 300.0, 2000.0))),
        stragglers=Stragglers(train_s=rng.choice((0.2, 2.0, 10.0)), slow_share=rng.choice((0.0, 0.2))),
        broker=BrokerSettings(max_queued_messages=rng.choice((5, 1000))),
        busy_s=_busy_s(seed),
        audit=_audit(seed),
    )


def random_masked_scenario(seed: int) -> Scenario:
    """The same with masked sums, and helpers as further participants."""
    keys = tuple(bytes.fromhex(helper_key(number).public_hex) for number in range(HELPERS))
    return masked_scenario(random_scenario(seed), keys)


def _engine(rng: random.Random, nodes: int, strategy: str, task: str) -> EngineSettings:
    concurrency = rng.randint(1, nodes)
    match strategy:
        case "fedavg":
            buffer = max(1, concurrency - rng.randint(0, 1))
            refill, staleness = concurrency, 0
        case "fedasync":
            buffer, refill, staleness = 1, 1, rng.choice((2, 10))
        case _:
            buffer = rng.randint(1, concurrency)
            refill, staleness = rng.randint(1, concurrency), rng.choice((0, 1, 10))
    return EngineSettings(
        task=task,
        train=default_settings(task),
        codec_up=rng.choice(("lossless", "edge")),
        versions=rng.randint(3, 8),
        concurrency=concurrency,
        buffer=buffer,
        refill=refill,
        quorum=rng.randint(1, buffer),
        nodes_min=rng.randint(1, nodes),
        lease_s=rng.choice((10.0, 60.0)),
        max_wait_s=rng.choice((3.0, 20.0)),
        max_staleness=staleness,
        per_node_quota=rng.choice((1, 1, 2)),
        spread_s=rng.choice((0.0, 1.0)),
        window_chunks=rng.choice((1, 2, 32)),
        transfers_max=rng.choice((1, 16)),
    )


def _survey(seed: int, nodes: int) -> FederatedEvaluationSettings:
    """Drawn apart, so that a seed's other choices are those that it has always had."""
    rng = random.Random(f"campaign/{seed}/survey")  # noqa: S311 - a simulation, not a secret
    return FederatedEvaluationSettings(
        every=rng.choice((0, 1, 1, 3)), fraction=rng.choice((0.3, 1.0)), nodes_min=rng.randint(1, nodes)
    )


def _signed(seed: int) -> bool:
    """In every second federation all messages are signed, and its nodes obey nothing that is out of date, ever."""
    return random.Random(f"campaign/{seed}/signed").random() < 0.5  # noqa: S311 - as above


def _busy_s(seed: int) -> float:
    """In most federations several messages arrive while the coordinator is busy, and are settled together."""
    return random.Random(f"campaign/{seed}/busy").choice((0.0, 0.02, 0.2, 2.0))  # noqa: S311 - as above


def _audit(seed: int) -> bool:
    """In every fifth federation nothing is kept to make versions again: its updates are compacted at each commit."""
    return random.Random(f"campaign/{seed}/audit").random() < 0.8  # noqa: S311 - as above


def _faults(rng: random.Random) -> FaultPlan:
    """Each kind of fault is off in a part of the seeds, so that its absence is tested, too."""
    some = partial(some_of, rng)
    return FaultPlan(
        drop=some(0.1),
        duplicate=some(0.2),
        reorder=some(0.2),
        node_crash=some(0.05),
        coordinator_crash=some(0.03),
        disconnect=some(120.0),
        partition=some(60.0),
        broker_crash=some(60.0),
        freeze=some(20.0),
        disk_full=some(30.0),
        reorder_s=rng.choice((1.0, 5.0, 120.0, 3600.0)),
        vanish=some(0.5),
        skew_s=86_400.0,
    )


def _later_faults(seed: int, plan: FaultPlan) -> FaultPlan:
    """Drawn apart, as above: kinds of faults that have come since."""
    rng = random.Random(f"campaign/{seed}/later faults")  # noqa: S311 - as above

    some = partial(some_of, rng, off=0.5)
    return replace(plan, failed_commit=some(0.02), bad_update=some(0.2), wipe=some(0.3))


def _identities(seed: int, plan: FaultPlan) -> FaultPlan:
    """In every second federation some identity goes backwards, or is there twice; drawn apart, as above."""
    rng = random.Random(f"campaign/{seed}/identities")  # noqa: S311 - a simulation, not a secret
    stale_copy, restore, second_run, twin = (float(rng.random() < share) for share in (0.18, 0.15, 0.15, 0.2))
    return replace(plan, stale_copy=stale_copy, restore=restore, second_run=second_run, twin=twin)


def _stopping(seed: int, engine: EngineSettings) -> EngineSettings:
    """Every fifth run ends when nothing gets better any more."""
    rng = random.Random(f"campaign/{seed}/stopping")  # noqa: S311 - as above
    if rng.random() > 0.2:
        return engine
    source, metric = rng.choice(((Source.CENTRAL, "norm"), (Source.NODES, "loss")))
    goal, patience = rng.choice((Goal.MAX, Goal.MIN)), rng.randint(1, 3)
    stopping = StoppingSettings(source=source, metric=metric, goal=goal, patience=patience)
    return replace(engine, stopping=stopping, versions=rng.randint(4, 20))


class Seed(NamedTuple):
    """One federation of a campaign: its seed, and whether it has masked sums."""

    number: int
    masked: bool = False


def seeds_of(numbers: range, masked: str) -> list[Seed]:
    """The federations of these seeds: with masked sums are ``none``, ``some`` (each so often, too) or ``all``."""
    found = []
    for number in numbers:
        if masked != "all":
            found.append(Seed(number))
        if masked == "all" or (masked == "some" and number % MASKED_EACH == MASKED_FIRST):
            found.append(Seed(number, masked=True))
    return found


def run_seed(seed: int, *, masked: bool = False) -> tuple[Outcome, list[str]]:
    """Run one seed; the transcript's tail comes with a violation only."""
    with quiet_log():
        simulation = Simulation((random_masked_scenario if masked else random_scenario)(seed))
        outcome = simulation.run()
    simulation.close()
    return outcome, list(simulation.transcript.tail()) if outcome.violations else []


def _run_chunk(seeds: Sequence[Seed]) -> list[tuple[Outcome, list[str]]]:
    return [run_seed(seed.number, masked=seed.masked) for seed in seeds]


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
    seeds = seeds_of(range(options.first, options.first + options.seeds), options.masked)
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
        left, more = seeds[done].number, "" if options.masked == "some" else f" --masked {options.masked}"
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
    parser.add_argument("--masked", choices=("none", "some", "all"), default="some", help="which have masked sums")
    return parser.parse_args(arguments)


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
    return f"{outcome.seed} masked" if outcome.masked else str(outcome.seed)


def _explain(console: Console, failures: list[tuple[Outcome, list[str]]]) -> None:
    outcome, tail = failures[0]
    for line in (
        f"seed {_told(outcome)}, transcript {outcome.transcript}, its last steps:",
        *tail,
        *outcome.violations,
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    others = ", ".join(_told(failure) for failure, _ in failures[1:20])
    how = " --masked all" if outcome.masked else " --masked none"
    console.print(
        f"again: python -m fedmq.simulation.protocol.campaign --first {outcome.seed} --seeds 1 --jobs 1{how}",
        highlight=False,
    )
    if others:
        console.print(f"further seeds: {others}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
