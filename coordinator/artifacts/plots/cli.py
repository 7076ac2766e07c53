"""``coordinator plot`` and ``coordinator compare``: their options and what they print."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from coordinator.artifacts.plots.compare import compare_runs, comparison_row, comparison_tables
from coordinator.artifacts.plots.gallery import Gallery, draw_run, draw_runs
from coordinator.artifacts.plots.run import load_runs
from coordinator.artifacts.plots.tensorboard import write_events
from federation.command_line import JsonOption
from federation.errors import ConfigError
from federation.out_files import make_out_folder

__all__ = ["compare", "plot"]

RunsArgument = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="State folder, configuration (file or folder) or report JSON.", exists=True),
]


def plot(
    runs: RunsArgument,
    *,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for the pictures, PNG and SVG.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard event files.")] = None,
    dark: Annotated[bool, typer.Option("--dark", help="For a dark page; the files' names end in -dark.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Draw a run: its story in one picture, accuracy and loss over versions, time and bytes, and each node's part.

    Needs the extra 'plot', for --tensorboard the extra 'tensorboard'. Several runs get a folder each; one picture for
    all of them is what 'coordinator compare -o' draws.

    \b
    Examples:
      coordinator plot state/coordinator -o pictures
      coordinator plot plant report.json -o pictures --tensorboard events
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    if out is None and tensorboard is None:
        raise ConfigError(
            "plot", "say where to: -o DIR for pictures, --tensorboard DIR for event files", source="command line"
        )
    make_out_folder("--out", out)
    make_out_folder("--tensorboard", tensorboard)
    files: list[str] = []
    left_out: list[str] = []
    found = load_runs(runs)
    for run in found:
        if out is not None:
            drawn = draw_run(run, out if len(found) == 1 else out / run.name.replace("/", "-"), dark=dark)
            files += map(str, drawn.files)
            left_out += drawn.left_out
        if tensorboard is not None:
            files.append(str(write_events(run, tensorboard)))
    _tell(files, left_out, as_json=as_json)


def compare(
    runs: RunsArgument,
    *,
    metric: Annotated[str, typer.Option(help="What the runs are measured by.")] = "accuracy",
    target: Annotated[float | None, typer.Option(help="What it took to reach this value, such as 0.9.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for one picture of all curves.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Lay runs side by side: versions, final and best value, time, bytes, and what a target took.

    \b
    Examples:
      coordinator compare sync.json async.json --target 0.95
      coordinator compare state/a state/b --metric loss -o pictures
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    make_out_folder("--out", out)
    found = load_runs(runs)
    rows = compare_runs(found, metric=metric, target=target)
    drawn = Gallery(files=[], left_out=[]) if out is None else draw_runs(found, out)
    if as_json:
        sys.stdout.write(json.dumps([comparison_row(row) for row in rows]) + "\n")
        return
    if not any(row.final is not None for row in rows):
        names = sorted({name for run in found for name in run.metric_names()})
        there = f"; there is {', '.join(names)}" if names else ""
        drawn = Gallery(files=drawn.files, left_out=[*drawn.left_out, f"no run was evaluated by {metric}{there}"])
    Console().print(comparison_tables(rows, target=target))
    _tell([str(file) for file in drawn.files], list(drawn.left_out), as_json=False)


def _tell(files: list[str], left_out: list[str], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"files": files, "left_out": left_out}) + "\n")
        return
    for file in files:
        typer.echo(file)
    for reason in left_out:
        typer.echo(f"left out: {reason}", err=True)
