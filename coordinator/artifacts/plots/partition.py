"""Who would own which labels: a table, and one stacked bar for every node (matplotlib, the extra ``plot``)."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from coordinator.artifacts.plots.canvas import DOTS_PER_INCH, PALETTE, require_matplotlib, styled
from federation.command_line import JsonOption
from federation.out_files import check_file
from federation.task import TaskContext
from federation.tasks.label_counts import LabelCounts, label_counts
from federation.tasks.registry import load_task
from federation.tasks.set_order import in_one_order
from federation.units import counted

__all__ = ["draw_partition", "partition"]

GAP_NODES_MAX = 60
"""With more nodes than this the bars touch."""

COLOURS = 5
"""Of the palette: the sixth is too like the first in a thin slice."""

HATCHES = ("", "////", "....")
LEGEND_ROWS = 12
ROWS_SHOWN = 20
PIPED_COLUMNS = 160


def draw_partition(counts: LabelCounts, out: Path, title: str) -> None:
    """Write the picture; the file's name says whether as PNG or SVG.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and it takes a second

    table = np.array(counts.rows)
    with styled():
        figure = Figure(figsize=(8.4, 4.8), layout="constrained")
        axes = figure.subplots()
        bottom = np.zeros(len(table))
        width = 0.85 if len(table) <= GAP_NODES_MAX else 1.0
        for column, (label, (colour, hatch)) in enumerate(zip(counts.labels, _shades(len(counts.labels)), strict=True)):
            look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4, "label": label}
            axes.bar(np.arange(len(table)), table[:, column], width, bottom=bottom, **look)
            bottom += table[:, column]
        axes.set_title(title, loc="left")
        axes.set_xlabel("node")
        axes.set_ylabel("examples")
        axes.set_xlim(-0.5, len(table) - 0.5)
        axes.grid(visible=False, axis="x")
        if len(table) <= 20:
            axes.set_xticks(range(len(table)))
        columns = -(-len(counts.labels) // LEGEND_ROWS)
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], names[::-1], title="label", loc="outside right upper", ncols=columns)
        figure.savefig(out, dpi=DOTS_PER_INCH)


def _shades(count: int) -> list[tuple[Any, str]]:
    """Colour and hatch of each label: the palette, and again with hatches; of many labels a scale of colours."""
    if count <= len(HATCHES) * COLOURS:
        return [(PALETTE[place % COLOURS], HATCHES[place // COLOURS]) for place in range(count)]
    from matplotlib import colormaps  # noqa: PLC0415 - an extra, and it takes a second

    return [(colormaps["viridis"](place / (count - 1)), "") for place in range(count)]


def partition(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    task: Annotated[str, typer.Option(help="digits, mnist-mlp, har, ... or FILE.py:FUNCTION.")] = "digits",
    nodes: Annotated[int, typer.Option(help="Into how many parts.", min=1)] = 10,
    by: Annotated[
        str | None,
        typer.Option("--partition", help="iid, shards:N, dirichlet:ALPHA or natural. Default: the task's own."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder. Default: bundled or downloaded.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the partition: the same for all participants.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Picture to write: FILE.png or FILE.svg.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how many examples of each label every node would own; with -o as stacked bars (needs the extra plot).

    \b
    Examples:
      coordinator partition --task digits --nodes 10 --partition dirichlet:0.1 -o parts.png
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    check_file("--out", out, ".png", ".svg")
    in_one_order(task)
    context = TaskContext(node_index=0, node_count=nodes, data=data, device="cpu", seed=seed, partition=by)
    counts = label_counts(load_task(task)(context))
    if as_json:
        sys.stdout.write(
            json.dumps({"partition": counts.partition, "labels": counts.labels, "nodes": counts.rows}) + "\n"
        )
    else:
        Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS).print(_table(counts))
    if out is not None:
        draw_partition(counts, out, f"{task}, {counted(nodes, 'node')}, {counts.partition}, seed {seed}")
        typer.echo(f"picture written to {out}", err=as_json)


def _table(counts: LabelCounts) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), title=f"examples by label, {counts.partition}")
    table.add_column("node", justify="right")
    for label in counts.labels:
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("all", justify="right", no_wrap=True)
    for node, row in enumerate(counts.rows[:ROWS_SHOWN]):
        table.add_row(str(node), *(f"{count:,}" for count in row), f"{sum(row):,}")
    if len(counts.rows) > ROWS_SHOWN:
        table.add_row("…", *("" for _ in counts.labels), counted(len(counts.rows), "node"))
    return table
