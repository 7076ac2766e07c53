"""``coordinator simulate --train``: from its options to an experiment, and from its result to a table or JSON."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from coordinator.artifacts.export import kept_line
from coordinator.config.sections import CoordinatorConfig
from coordinator.config.settings import (
    committer_settings,
    engine_settings,
    strategy_name,
    update_norm_max,
    uses_controls,
)
from coordinator.engine.early_stopping import Source, StoppingSettings, missing_metric
from coordinator.engine.settings import FederatedEvaluationSettings
from federation.errors import ConfigError
from federation.out_files import check_file
from federation.protocol.cohort import COHORT_NODES_MAX
from federation.storage.folder import empty_folder
from federation.task import TaskContext, task_label
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.registry import load_task
from federation.tasks.set_order import in_one_order
from federation.types import NodeId
from federation.units import counted, human_bytes, human_metric
from fedmq.simulation.experiment.experiment import Experiment, NobodyTrains, Plan, Result, VersionFigures, run_report
from fedmq.simulation.experiment.options import TrainOptions, resolve
from fedmq.simulation.experiment.outages import parse_outages
from fedmq.simulation.training.training_workers import open_cluster
from fedmq.simulation.world.trainer import parse_stragglers

__all__ = ["TrainOptions", "build_experiment", "experiment_of", "report", "train"]

EXIT_FAILED = 1
SHOWN = 15
COMPLAINTS_SHOWN = 5


def build_experiment(options: TrainOptions) -> Experiment:
    """Check the options, read the configuration as a real coordinator does, and build.

    Raises:
        ConfigError: An option is out of range, or two settings do not fit together.
    """
    return experiment_of(*resolve(options))


def experiment_of(options: TrainOptions, config: CoordinatorConfig) -> Experiment:
    """Build the experiment of options that are resolved, with their configuration.

    Raises:
        ConfigError: Two settings do not fit together.
    """
    per_round, every = options.per_round or options.nodes, options.evaluate_every or 0
    # The experiment evaluates by itself, as the coordinator would; simulated nodes evaluate nothing.
    engine = engine_settings(config)
    engine = replace(
        engine, versions=options.rounds or 0, evaluate_every=0, federated_evaluation=FederatedEvaluationSettings()
    )
    _check_stopping(engine.stopping, every)
    if per_round > COHORT_NODES_MAX:
        if config.round.buffer is not None:
            raise ConfigError("--buffer", f"needs --per-round up to {COHORT_NODES_MAX}", source="command line")
        # More than one announcement can name: asked in several, as the machine does by itself.
        engine = replace(
            engine, concurrency=per_round, buffer=per_round, refill=per_round, quorum=max(1, per_round // 2)
        )
    context = TaskContext(
        node_index=None,
        node_count=options.nodes,
        data=config.task.data,
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
        evaluate_every=every,
        update_norm_max=update_norm_max(config),
        keep=options.keep is not None,
        masks=options.masks,
    )
    pool = NodePool(load_task(config.task.name), context, stacked=options.stacked, controlled=uses_controls(config))
    cluster = open_cluster(options.cluster, options.workers, _say) if options.cluster else None
    return Experiment(plan, pool, workers=options.workers, cluster=cluster)


def _say(words: str) -> None:
    Console(stderr=True).print(words, markup=False, highlight=False, soft_wrap=True)


def train(options: TrainOptions, *, as_json: bool) -> Result:
    """Run it, and tell what came of it.

    Raises:
        ConfigError: An option is out of range, or two settings do not fit together.
        Exit: With code 1: nothing comes of any training.
    """
    console = Console(stderr=True)
    kept_in = None if options.keep is None else empty_folder(options.keep.absolute(), "--keep")
    check_file("--report", options.report)
    # A task may change the working directory, as scripts do to find their files.
    report_to = None if options.report is None else options.report.absolute()
    options, config = resolve(options)
    in_one_order(config.task.name)
    experiment = experiment_of(options, config)
    _check_metric(experiment)
    step = max(1, experiment.plan.engine.versions // SHOWN)

    def say(figures: VersionFigures) -> None:
        if figures.version % step == 0 or figures.version == experiment.plan.engine.versions:
            console.print(_line(figures), highlight=False)
        if standing := experiment.coordinator.standing():
            console.print(f"nothing is learnt: {standing}", markup=False, highlight=False, soft_wrap=True)

    try:
        result = experiment.run(say, Complaints(console).hear)
        if report_to is not None:
            made = run_report(experiment, result, strategy=strategy_name(config), codec=config.codec.up)
            report_to.write_text(json.dumps(made) + "\n")
    except NobodyTrains as error:
        console.print(f"simulation failed: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from error
    finally:
        if kept_in is not None:
            experiment.coordinator.keep(kept_in, task_label(config.task.name))
            console.print(kept_line(kept_in, config.task.name), markup=False, highlight=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(json.dumps(report(options, result)) + "\n")
    else:
        _show(options, result)
    return result


@dataclass(slots=True)
class Complaints:
    """Says which nodes fail, and why; of many, the first ones."""

    console: Console
    said: int = 0

    def hear(self, node: NodeId, reason: str) -> None:
        """One node's training fails for a reason that it has not had before."""
        self.said += 1
        if self.said <= COMPLAINTS_SHOWN:
            self.console.print(f"{node} fails: {reason}", highlight=False, markup=False, soft_wrap=True)
        elif self.said == COMPLAINTS_SHOWN + 1:
            self.console.print("more nodes fail; the report (--json) has all", highlight=False)


def report(options: TrainOptions, result: Result) -> Mapping[str, object]:
    """The options and the result as plain data."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    return given | asdict(result)


def _check_stopping(stopping: StoppingSettings, evaluate_every: int) -> None:
    """An early stop needs evaluations.

    Raises:
        ConfigError: Nobody makes those that count.
    """
    if stopping.patience and stopping.source is Source.NODES:
        raise ConfigError("stopping.on", "simulated nodes do not evaluate: take central")
    if stopping.patience and not evaluate_every:
        problem = "0 makes no evaluation, and stopping.patience waits for those"
        raise ConfigError("--evaluate-every", problem, source="command line")


def _check_metric(experiment: Experiment) -> None:
    """An early stop waits for a number that evaluations have.

    Raises:
        ConfigError: They do not have it.
    """
    stopping, pool = experiment.plan.engine.stopping, experiment.pool
    if not experiment.plan.evaluate_every or not (stopping.patience or stopping.metric):
        return
    if why := missing_metric(stopping, pool.evaluate(pool.initial_parameters(experiment.plan.seed))):
        raise ConfigError("stopping.metric", why)


def _line(figures: VersionFigures) -> str:
    measured = ", ".join(f"{name} {human_metric(name, value)}" for name, value in sorted(figures.metrics.items()))
    return f"version {figures.version}: {measured or 'not evaluated'}, {counted(figures.updates, 'update')}"


def _show(options: TrainOptions, result: Result) -> None:
    nodes, versions = counted(options.nodes, "node"), counted(len(result.versions), "version")
    table = Table(box=SIMPLE_HEAD, title=f"{options.task} on {nodes}, {versions}")
    table.add_column("what")
    table.add_column("value", justify="right")
    for what, value in _rows(options, result):
        table.add_row(what, value)
    Console().print(table)


def _rows(options: TrainOptions, result: Result) -> Iterator[tuple[str, str]]:
    measured = [figures for figures in result.versions if figures.metrics]
    for name, value in sorted(measured[-1].metrics.items()) if measured else ():
        yield name, human_metric(name, value)
    for name, count in sorted(result.verdicts.items()):
        yield f"updates {name}", f"{count:,}"
    if failed := sum(sum(reasons.values()) for reasons in result.failures.values()):
        yield (
            "trainings failed",
            f"{failed:,}, on {counted(len(result.failures), 'node')}",
        )
    yield "staleness, mean", f"{sum(f.staleness_mean for f in result.versions) / max(1, len(result.versions)):.2f}"
    if result.connected_peak:
        share = result.connected_peak / options.nodes
        yield "nodes connected at once, at most", f"{result.connected_peak:,} ({share:.2%})"
        yield "check-ins of a node, mean", f"{result.check_ins / options.nodes:.2f}"
    if result.away_share:
        yield "nodes offline, share of the time", f"{result.away_share:.2%}"
    if result.stopped_early:
        yield "stopped early, at version", str(result.versions[-1].version if result.versions else 0)
    for spent in (result.privacy, result.nodes_privacy):
        if spent is not None:
            what = f"epsilon, largest of any node (unit {spent['unit']})"
            yield what, f"{spent['largest_epsilon']:.4f}"
    yield "bytes up", human_bytes(result.payload_bytes)
    yield "virtual time", f"{result.virtual_s:,.1f} s"
    yield "wall time", f"{result.wall_s:.1f} s"
    yield "model digest", result.digest
