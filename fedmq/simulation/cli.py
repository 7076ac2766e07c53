"""``coordinator simulate``: a whole fleet in virtual time, with its faults, and what came of it."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from federation.errors import ConfigError
from federation.tasks.set_order import in_one_order
from federation.units import counted, human_bytes
from fedmq.simulation.experiment.cli import train
from fedmq.simulation.experiment.options import ROUNDS, TrainOptions
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.options import PER_ROUND_LEAST, FleetOptions, fleet_scenario
from fedmq.simulation.protocol.scenario import Outcome

__all__ = ["simulate"]

EXIT_FAILED = 1
TAIL_SHOWN = 60
PLAIN_STEPS = 10


def simulate(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    nodes: Annotated[int, typer.Option(help="Edge nodes.")] = 1000,
    rounds: Annotated[int | None, typer.Option(help="Model versions to commit. Default: 100.")] = None,
    per_round: Annotated[
        int | None, typer.Option(help="Nodes training at once. Default: a tenth, at least 10.")
    ] = None,
    buffer: Annotated[int | None, typer.Option(help="Updates that make a version; below --per-round: FedBuff.")] = None,
    task: Annotated[
        str | None, typer.Option(help="quadratic, null-500, digits, ... or FILE.py:FUNCTION. Default: quadratic.")
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="Codec of the updates: lossless (default) is the fastest, edge the smallest.")
    ] = None,
    faults: Annotated[str, typer.Option(help="none, mild, harsh, and key=value pairs: mild,drop=0.05.")] = "none",
    stragglers: Annotated[str, typer.Option(help="key=value: train_s, spread, jitter, slow_share, slow_factor.")] = "",
    seed: Annotated[int | None, typer.Option(help="Everything random comes from it. Default: 0.")] = None,
    real: Annotated[bool, typer.Option("--train", help="Train for real; the options below are for this.")] = False,
    data: Annotated[Path | None, typer.Option(help="Data folder. Default: bundled or downloaded.")] = None,
    partition: Annotated[str | None, typer.Option(help="iid, shards:N, dirichlet:ALPHA or natural.")] = None,
    strategy: Annotated[str | None, typer.Option(help="fedavg, fedavgm, fedadam, fedbuff, ... Default: fits.")] = None,
    selector: Annotated[str | None, typer.Option(help="uniform (default), fair, repeatable, ...")] = None,
    outages: Annotated[str, typer.Option(help="Nodes offline: share=0.2,away_s=30 or away=3,change_s=10.")] = "",
    workers: Annotated[int, typer.Option(help="Processes that train, on one copy of the data.", min=1, max=64)] = 1,
    cluster: Annotated[
        str, typer.Option(help="Train on local (processes that may die), dask://HOST:PORT or ray://HOST:PORT.")
    ] = "",
    stack: Annotated[bool, typer.Option(help="Train several nodes at once where that is possible.")] = True,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Evaluate each n-th version; 0 is never. Default: 1.", min=0)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A coordinator's TOML file; options that are given win over it.", exists=True)
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A coordinator's setting: round.pace_s=60")
    ] = None,
    report_to: Annotated[Path | None, typer.Option("--report", help="For coordinator plot and compare: FILE.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="With --train: keep the state in this new folder, for export, plot, status.")
    ] = None,
    helpers: Annotated[int, typer.Option(help="With --train: masked sums over so many helpers; 0 masks nothing.")] = 0,
    masks: Annotated[bool, typer.Option(help="Mask for real; without, the same sums come out sooner.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
) -> None:
    """Run both machines in virtual time, without a broker: the same code as in production, hours in seconds.

    The same options and the same seed take the same steps to the byte: the transcript's digest says so. At the end the
    invariants are checked; a violation prints the last steps and exits with 1.

    \b
    Faults per message: drop, duplicate, reorder; delay=0.005..0.2 s. Per handled event: node_crash, coordinator_crash.
    Per hour: disconnect and partition (each connection), broker_crash, disk_full and freeze (each participant).
    Per transaction: failed_commit. Per training: bad_update. Per start after a crash: wipe, a lost state folder.
    Per federation: stale_copy, restore, second_run, twin.
    vanish is the share of nodes that leave for ever; skew_s sets the clocks apart.

    \b
    Examples:
      coordinator simulate --nodes 1000 --rounds 100
      coordinator simulate --train --task mnist-mlp --nodes 10 --per-round 5 --rounds 5
      coordinator simulate --train --task mnist-mlp --nodes 10 --helpers 4 --set privacy.threshold=3
      coordinator simulate --nodes 200 --rounds 50 --buffer 10 --per-round 40 --faults mild,vanish=0.2
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    if task is not None:
        in_one_order(task)
    if real:
        least = None if config is not None else min(nodes, max(PER_ROUND_LEAST, nodes // 10))
        train(
            TrainOptions(
                task=task,
                nodes=nodes,
                rounds=rounds,
                per_round=per_round or least,
                buffer=buffer,
                codec=codec,
                strategy=strategy,
                selector=selector,
                partition=partition,
                data=data,
                stragglers=stragglers,
                outages=outages,
                seed=seed,
                evaluate_every=evaluate_every,
                config=config,
                settings=settings or (),
                stacked=stack,
                workers=workers,
                cluster=cluster,
                report=report_to,
                keep=keep,
                helpers=helpers,
                masks=masks,
            ),
            as_json=as_json,
        )
        return
    for option, given in (("--report", report_to), ("--keep", keep), ("--helpers", helpers or None)):
        if given is not None:
            raise ConfigError(option, "is for --train: without it nothing is learned", source="command line")
    options = FleetOptions(
        nodes=nodes,
        rounds=rounds or ROUNDS,
        per_round=per_round,
        buffer=buffer,
        task=task or "quadratic",
        codec=codec or "lossless",
        faults=faults,
        stragglers=stragglers,
        seed=seed or 0,
    )
    _survive(options, as_json=as_json)


def _survive(options: FleetOptions, *, as_json: bool) -> None:
    """Run both machines under the faults, and fail when an invariant did."""
    scenario = fleet_scenario(options)
    console = Console(stderr=True)
    with quiet_log():
        simulation = Simulation(scenario)
        with _progress(console, options.rounds) as progress:
            outcome = simulation.run(progress)
    if as_json:
        sys.stdout.write(json.dumps(report(options, outcome)) + "\n")
    else:
        _show(options, outcome)
    if outcome.violations:
        console.print(f"{len(outcome.violations)} violations:", style="bold red")
        for line in (*outcome.violations, "the last steps:", *list(simulation.transcript.tail())[-TAIL_SHOWN:]):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        console.print(f"again: {command(options)}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)


def report(options: FleetOptions, outcome: Outcome) -> Mapping[str, object]:
    """The options and the outcome as plain data."""
    return asdict(options) | asdict(outcome)


def command(options: FleetOptions) -> str:
    """The command line that takes the same steps again."""
    words = ["coordinator", "simulate"]
    for name, value in asdict(options).items():
        if value not in (None, ""):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _show(options: FleetOptions, outcome: Outcome) -> None:
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{counted(options.nodes, 'node')}, {counted(outcome.versions, 'version')} of {options.task}",
    )
    table.add_column("what")
    table.add_column("value", justify="right")
    for what, value in _rows(outcome):
        table.add_row(what, value)
    Console().print(table)


def _rows(outcome: Outcome) -> Iterator[tuple[str, str]]:
    staleness = ", ".join(f"{lag}: {count:,}" for lag, count in outcome.staleness.items())
    crashes = (outcome.coordinator_crashes, outcome.node_crashes, outcome.broker_crashes)
    yield "versions", f"{outcome.versions:,}"
    yield "virtual time", f"{outcome.virtual_s:,.1f} s"
    yield "messages", f"{outcome.messages:,}"
    yield "payload", human_bytes(outcome.payload_bytes)
    yield "updates applied", f"{outcome.applied:,}"
    yield "updates stale", f"{outcome.stale:,}"
    yield "updates refused", f"{outcome.refused:,}"
    yield "applied by staleness", staleness or "-"
    yield "leases expired", f"{outcome.leases_expired:,}"
    yield "crashes: coordinator, nodes, broker", " / ".join(f"{count:,}" for count in crashes)
    yield "of them power cuts", f"{outcome.coordinator_power_cuts:,} / {outcome.node_power_cuts:,}"
    yield "connections lost, disks full", f"{outcome.cuts:,} / {outcome.full_disks:,}"
    lost = (outcome.dropped, outcome.duplicated, outcome.reordered)
    yield "messages dropped, doubled, overtaken", " / ".join(f"{count:,}" for count in lost)
    yield "violations", f"{len(outcome.violations):,}"
    yield "wall time", f"{outcome.wall_s:.1f} s"
    yield "transcript", outcome.transcript


@contextmanager
def _progress(console: Console, rounds: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else about ten lines."""
    if not console.is_terminal:
        said = {0}

        def say(version: int) -> None:
            tenth = version * PLAIN_STEPS // rounds
            if tenth not in said:
                said.add(tenth)
                console.print(f"version {version} of {rounds}", highlight=False)

        yield say
        return
    columns = (TextColumn("versions"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("versions", total=rounds)
        yield lambda version: bar.update(task, completed=version)
