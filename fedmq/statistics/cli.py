"""``coordinator analyze``: its options, the run that counts, and what it prints."""

import json
import math
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.config.settings import counting_config
from federation.command_line import BrokerOption, FederationOption, JsonOption, LogJsonOption
from federation.errors import ConfigError
from federation.out_files import check_file
from federation.tasks.statistics.layout import PASSES
from federation.tasks.statistics.summary import ColumnStatistics
from federation.units import counted
from fedmq.statistics.findings import Findings, findings_of, folder_for, passes_done

__all__ = ["analyze"]

PIPED_COLUMNS = 160
WIDE = 120
"""A terminal of fewer columns is shown fewer figures."""
NAME_WIDTH = 12
SHOWN = (0.05, 0.5, 0.95)


def analyze(  # noqa: PLR0913 - one parameter per option is how the library declares them
    *,
    config: Annotated[
        Path | None, typer.Option(help="The coordinator's TOML file, or the folder of coordinator init.", exists=True)
    ] = None,
    broker: BrokerOption = None,
    federation: FederationOption = None,
    task: Annotated[str | None, typer.Option(help="The nodes' task: digits, ... or FILE.py:FUNCTION.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the data, where the task needs it here.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Wait until so many nodes are online.", min=1)] = None,
    columns: Annotated[
        str | None, typer.Option(help="Names of the columns, with commas, or how many. Default: what the task knows.")
    ] = None,
    bound: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=LOW:HIGH", help="Values outside are counted apart. Repeatable.")
    ] = None,
    scaler: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write mean and standard deviation, for all nodes.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the histograms: FILE.png or FILE.svg.")] = None,
    state: Annotated[Path | None, typer.Option(help="State folder. Default: beside the training's.")] = None,
    simulate: Annotated[
        int | None, typer.Option(help="No broker: count what so many nodes of an experiment would own.", min=1)
    ] = None,
    with_broker: Annotated[bool, typer.Option("--with-broker", help="Start the folder's Mosquitto too.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Count anew, although it has been done.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the federation over from another run's coordinator.")
    ] = False,
    as_json: JsonOption = False,
    log_json: LogJsonOption = None,
) -> None:
    """Say what the nodes' columns look like, before anything is trained: exact figures, and no row leaves its node.

    The nodes are the ordinary ones (edge-node run with the same task): they count their own rows, in three passes,
    which travel as the updates of a training do: with receipts, signed, sealed and masked as the configuration says.
    Count, mean and variance are exact; quantiles and range are within one of 256 bins. What is over is shown at once.

    \b
    Examples:
      coordinator analyze --config coordinator.toml --nodes 12 --scaler scaler.json --plot columns.png
      coordinator analyze --broker mqtt://10.0.0.2 --federation demo --task my_task.py:build --json
      coordinator analyze --task digits --simulate 10 --json
      coordinator analyze --config plant --with-broker --columns temperature,current --bound temperature=-40:125
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    flags = {
        "broker.url": broker,
        "federation.id": federation,
        "task.name": task,
        "task.data": data,
        "statistics.only": True,
        "statistics.nodes": nodes,
        "statistics.columns": None if columns is None else tuple(map(str.strip, columns.split(","))),
        "statistics.bounds": dict(map(_bound, bound)) if bound else None,
        "log.json": False if as_json else log_json,
    }
    flags |= {"broker.url": "mqtt://localhost", "federation.id": "simulation"} if simulate and config is None else {}
    settings = read_config(config, flags)
    check_file("--scaler", scaler)
    check_file("--plot", plot, ".png", ".svg")
    if plot is not None:
        from coordinator.artifacts.plots.canvas import require_matplotlib  # noqa: PLC0415 - an extra

        require_matplotlib()
    if simulate:
        from fedmq.statistics.simulated import simulated  # noqa: PLC0415 - a run of its own needs none of it

        _tell(simulated(settings, simulate), scaler=scaler, plot=plot, as_json=as_json)
        return
    folder = folder_for(settings, state, again=again)
    with _broker(config, settings) if with_broker else nullcontext():
        _count(settings, folder, replaces=replace)
    _tell(findings_of(folder), scaler=scaler, plot=plot, as_json=as_json)


def _broker(config: Path | None, settings: CoordinatorConfig) -> AbstractContextManager[object]:
    from coordinator.enrolment.broker import broker_of  # noqa: PLC0415 - not needed for what is over
    from federation.runtime.log import configure_log  # noqa: PLC0415 - as above

    configure_log(json=settings.log.as_json, level=settings.log.level)
    return broker_of(config)


def _count(settings: CoordinatorConfig, folder: Path, *, replaces: bool) -> None:
    """Run until all passes are counted.

    Raises:
        Exit: It was stopped before.
    """
    if passes_done(folder) == PASSES:
        typer.echo(f"counted already, in {folder}: --again counts anew", err=True)
        return
    from coordinator.app import run_coordinator  # noqa: PLC0415 - not needed for what is over

    chosen = counting_config(settings)
    code = run_coordinator(
        chosen.model_copy(update={"store": chosen.store.model_copy(update={"folder": folder})}), replaces=replaces
    )
    done = passes_done(folder) or 0
    if done < PASSES:
        typer.echo(f"stopped after {done} of {PASSES} passes: the same command goes on", err=True)
        raise typer.Exit(code or 1)


def _tell(found: Findings, *, scaler: Path | None, plot: Path | None, as_json: bool) -> None:
    told = found.to_dict()
    if scaler is not None:
        made = found.statistics.scaler()
        made.write(scaler)
        told["scaler"] = {"file": str(scaler), "digest": made.digest}
    if plot is not None:
        from coordinator.artifacts.plots.statistics import draw_statistics  # noqa: PLC0415 - matplotlib is an extra

        title = f"{found.task}: {found.statistics.rows:,} rows of {counted(len(found.nodes), 'node')}"
        draw_statistics(found.statistics, plot, title)
        told["plot"] = str(plot)
    if as_json:
        sys.stdout.write(json.dumps(told) + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS)
    console.print(_table(found, narrow=console.width < WIDE))
    for name, why in found.left_out.items():
        console.print(f"without {name}: {why}", markup=False, highlight=False, soft_wrap=True)
    if scaler is not None:
        console.print(f"scaler {told['scaler']['digest']} written to {scaler}", highlight=False, soft_wrap=True)
    if plot is not None:
        console.print(f"picture written to {plot}", highlight=False, soft_wrap=True)


def _table(found: Findings, *, narrow: bool) -> Table:
    """All figures, or those that fit a terminal of 80 columns."""
    figures, count = found.statistics, len(found.nodes)
    title = f"{figures.rows:,} rows of {counted(count, 'node')}"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title)
    table.add_column("column", overflow="fold", min_width=NAME_WIDTH)
    shares, bins = ((0.5,), ()) if narrow else (SHOWN, ("bin",))
    for name in ("values", "mean", "std", "min", *(f"{share:.0%}" for share in shares), "max", *bins):
        table.add_column(name, justify="right", no_wrap=True)
    rare = any(column.missing or column.outside for column in figures.columns)
    for name in ("missing", "outside") if rare else ():
        table.add_column(name, justify="right", no_wrap=True)
    for column in figures.columns:
        numbers = (column.mean, column.std, column.minimum, *map(column.quantile, shares), column.maximum)
        last = (f"{column.missing:,}", f"{column.outside:,}") if rare else ()
        width = () if narrow else ("" if _constant(column) else _number(column.bin_width),)
        table.add_row(
            escape(column.name), f"{column.count:,}", *(_number(each, narrow) for each in numbers), *width, *last
        )
    return table


def _constant(column: ColumnStatistics) -> bool:
    """Whether it has one value, or none."""
    return not column.count or column.minimum == column.maximum


def _number(value: float, narrow: bool = False) -> str:  # noqa: FBT001, FBT002 - how many digits there is room for
    return f"{value:.{3 if narrow else 5}g}" if math.isfinite(value) else ""


def _bound(text: str) -> tuple[str, tuple[float, float]]:
    name, _, limits = text.rpartition("=")
    low, _, high = limits.partition(":")
    try:
        return name, (float(low), float(high))
    except ValueError:
        problem = f"{text!r} is not COLUMN=LOW:HIGH, such as temperature=-40:125"
        raise ConfigError("--bound", problem, source="command line") from None
