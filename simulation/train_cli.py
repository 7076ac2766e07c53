"""``coordinator simulate --train``: from its options to an experiment, and from its result to a table or JSON."""

import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from coordinator.config import CoordinatorConfig, read_config
from coordinator.progress import Source, StoppingSettings
from coordinator.records import SurveySettings
from coordinator.settings import committer_settings, engine_settings, uses_controls
from federation.errors import ConfigError
from federation.protocol.cohort import COHORT_NODES_MAX
from federation.task import TaskContext
from federation.tasks.pool import NodePool
from federation.tasks.registry import load_task
from simulation.experiment import Experiment, Plan, Result, VersionFigures
from simulation.outages import parse_outages
from simulation.run_report import run_report
from simulation.trainer import parse_stragglers

__all__ = ["TrainOptions", "build_experiment", "report", "train"]

SHOWN = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """The options as they were given; None takes the default of the task or of the others."""

    task: str = "digits"
    nodes: int = 10
    rounds: int = 10
    per_round: int | None = None
    buffer: int | None = None
    codec: str = "lossless"
    strategy: str | None = None
    selector: str = "uniform"
    partition: str | None = None
    data: Path | None = None
    stragglers: str = ""
    outages: str = ""
    seed: int = 0
    evaluate_every: int = 1
    config: Path | None = None
    settings: Sequence[str] = ()
    stacked: bool = True
    workers: int = 1
    device: str = "cpu"
    report: Path | None = None


def build_experiment(options: TrainOptions) -> Experiment:
    """Check the options, read the configuration as a real coordinator does, and build.

    Raises:
        ConfigError: An option is out of range, or two settings do not fit together.
    """
    config = _configuration(options)
    per_round = options.nodes if options.per_round is None else options.per_round
    if not 1 <= per_round <= options.nodes:
        raise ConfigError("--per-round", f"needs 1 to {options.nodes:,}, not {per_round:,}", source="command line")
    # The experiment evaluates by itself, as the coordinator would; simulated nodes evaluate nothing.
    engine = replace(engine_settings(config), evaluate_every=0, survey=SurveySettings())
    _check_stopping(engine.stopping, options)
    if per_round > COHORT_NODES_MAX:
        if options.buffer is not None:
            raise ConfigError("--buffer", f"needs --per-round up to {COHORT_NODES_MAX}", source="command line")
        # More than one announcement can name: asked in several, as the machine does by itself.
        engine = replace(
            engine, concurrency=per_round, buffer=per_round, refill=per_round, quorum=max(1, per_round // 2)
        )
    context = TaskContext(
        node_index=None,
        node_count=options.nodes,
        data=options.data,
        device=options.device,
        seed=config.task.seed,
        partition=options.partition,
    )
    plan = Plan(
        nodes=options.nodes,
        engine=engine,
        committer=committer_settings(config),
        selector=config.round.selector,
        seed=config.task.seed,
        stragglers=parse_stragglers(options.stragglers),
        outages=parse_outages(options.outages, options.nodes),
        evaluate_every=options.evaluate_every,
        update_norm_max=config.limits.update_norm_max,
    )
    pool = NodePool(load_task(options.task), context, stacked=options.stacked, controlled=uses_controls(config))
    return Experiment(plan, pool, workers=options.workers)


def train(options: TrainOptions, *, as_json: bool) -> Result:
    """Run it, and tell what came of it."""
    if options.report is not None and not options.report.absolute().parent.is_dir():
        raise ConfigError("--report", f"there is no folder {options.report.parent}", source="command line")
    console = Console(stderr=True)
    experiment = build_experiment(options)
    step = max(1, options.rounds // SHOWN)

    def say(figures: VersionFigures) -> None:
        if figures.version % step == 0 or figures.version == options.rounds:
            console.print(_line(figures), highlight=False)

    result = experiment.run(say)
    if options.report is not None:
        made = run_report(experiment, result, strategy=options.strategy or "", codec=options.codec)
        options.report.write_text(json.dumps(made) + "\n")
    if as_json:
        sys.stdout.write(json.dumps(report(options, result)) + "\n")
    else:
        _show(options, result)
    return result


def report(options: TrainOptions, result: Result) -> Mapping[str, object]:
    """The options and the result as plain data."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    return given | asdict(result)


def _configuration(options: TrainOptions) -> CoordinatorConfig:
    per_round = options.nodes if options.per_round is None else options.per_round
    flags: dict[str, object] = {
        "federation.id": "simulation",
        "broker.url": "mqtt://localhost",
        "task.name": options.task,
        "task.data": options.data,
        "task.seed": options.seed,
        "codec.up": options.codec,
        "strategy.name": options.strategy,
        "strategy.nodes": options.nodes if options.strategy == "scaffold" else None,
        "round.selector": options.selector,
        "round.versions": options.rounds,
        "round.concurrency": min(per_round, COHORT_NODES_MAX),
        "round.buffer": options.buffer,
    }
    if options.config is not None:
        # What the file says counts where the command line says nothing.
        flags = {
            key: flags[key] for key in ("broker.url", "task.name", "task.data", "round.concurrency", "round.versions")
        }
    return read_config(options.config, flags | dict(map(_setting, options.settings)), environ={})


def _check_stopping(stopping: StoppingSettings, options: TrainOptions) -> None:
    """An early stop needs evaluations.

    Raises:
        ConfigError: Nobody makes those that count.
    """
    if stopping.patience and stopping.source is Source.NODES:
        raise ConfigError("stopping.on", "simulated nodes do not evaluate: take central")
    if stopping.patience and not options.evaluate_every:
        problem = "0 makes no evaluation, and stopping.patience waits for those"
        raise ConfigError("--evaluate-every", problem, source="command line")


def _setting(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError("--set", f"{text!r} is not KEY=VALUE, such as train.learning_rate=0.1", source="command line")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _line(figures: VersionFigures) -> str:
    measured = ", ".join(f"{name} {value:.4f}" for name, value in sorted(figures.metrics.items()))
    return f"version {figures.version}: {measured or 'not evaluated'}, {figures.updates} updates"


def _show(options: TrainOptions, result: Result) -> None:
    table = Table(
        box=SIMPLE_HEAD, title=f"{options.nodes:,} nodes train {options.task}, {len(result.versions)} versions"
    )
    table.add_column("what")
    table.add_column("value", justify="right")
    for what, value in _rows(result):
        table.add_row(what, value)
    Console().print(table)


def _rows(result: Result) -> Iterator[tuple[str, str]]:
    measured = [figures for figures in result.versions if figures.metrics]
    for name, value in sorted(measured[-1].metrics.items()) if measured else ():
        yield name, f"{value:.4f}"
    for name, count in sorted(result.verdicts.items()):
        yield f"updates {name}", f"{count:,}"
    yield "staleness, mean", f"{sum(f.staleness_mean for f in result.versions) / max(1, len(result.versions)):.2f}"
    if result.away_share:
        yield "nodes offline, share of the time", f"{result.away_share:.0%}"
    if result.stopped_early:
        yield "stopped early, at version", str(result.versions[-1].version)
    yield "bytes up", f"{result.payload_bytes / 1e6:,.1f} MB"
    yield "virtual time", f"{result.virtual_s:,.1f} s"
    yield "wall time", f"{result.wall_s:.1f} s"
    yield "model digest", result.digest
