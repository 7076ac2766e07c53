"""``coordinator export``, ``predict`` and ``report``: their options and what they print."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from coordinator.artifacts.export import TaskSource, check_export, constants_of, export_model
from coordinator.artifacts.prediction import Prediction, predict_with_file, predict_with_store
from coordinator.config.sections import CoordinatorConfig, read_config, state_folder
from federation.command_line import JsonOption
from federation.errors import ConfigError
from federation.out_files import check_file
from federation.tasks.set_order import in_one_order

__all__ = ["export", "predict", "report"]

BAR_CELLS = 30
CLASSES_SHOWN = 10
NAMES_SHOWN = 4
BLOCK, REST = "█", "▏▎▍▌▋▊▉"

ConfigOption = Annotated[
    Path | None, typer.Option(help="TOML file with all settings, or the folder of coordinator init.", exists=True)
]
StateOption = Annotated[Path | None, typer.Option(help="State folder, instead of the configuration's.")]
VersionOption = Annotated[str, typer.Option(help="newest, best, or the number of a version that is kept.")]
TaskOption = Annotated[
    str | None, typer.Option(help="digits, ... or FILE.py:FUNCTION, instead of the configuration's.")
]
DataOption = Annotated[Path | None, typer.Option(help="Data folder of the task.")]


PROGRAMS = frozenset({".onnx", ".pt2"})
"""Endings of what a task itself writes, with its libraries."""


def export(  # noqa: PLR0913 - one parameter per option is how the library declares them
    *,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="FILE.safetensors, FILE.pt2 or FILE.onnx.")],
    config: ConfigOption = None,
    state: StateOption = None,
    version: VersionOption = "newest",
    task: TaskOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model: its arrays as safetensors, or as a program that runs without this package.

    A program needs the task: the configuration's, or --task; so do the arrays of a model that has what never changes,
    such as frozen layers, to have those. FILE.pt2 is for torch.export.load, FILE.onnx (the extra
    'onnx') for every ONNX runtime; how many inputs it is given at once is free. The coordinator may be running.

    \b
    Examples:
      coordinator export model.safetensors --config plant
      coordinator export model.onnx --config plant --version best
      coordinator export model.pt2 --state state/coordinator --task digits
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    settings = None if config is None else read_config(config, {})
    folder, source = state_folder(settings, state), _source(settings, task, data)
    check_export(folder, out, version, source)
    if out.suffix in PROGRAMS and not as_json:
        typer.echo(f"loading the task, which writes {out.name} …", err=True)  # half a minute on a small machine
    written = export_model(folder, out, version, source)
    missing = constants_of(folder) if source is None else ()
    if as_json:
        told = {"version": written, "file": str(out), "bytes": out.stat().st_size}
        sys.stdout.write(json.dumps(told | ({"without": list(missing)} if missing else {})) + "\n")
        return
    typer.echo(f"version {written} written to {out}")
    if missing:
        more = f" and {len(missing) - NAMES_SHOWN} more" if len(missing) > NAMES_SHOWN else ""
        named = ", ".join(missing[:NAMES_SHOWN]) + more
        typer.echo(f"without what never changes, which is with the task (--task): {named}", err=True)


def predict(  # noqa: PLR0913 - as above
    *,
    image: Annotated[Path, typer.Option(help="Picture of any size: PNG, JPEG, ...", exists=True, dir_okay=False)],
    model: Annotated[
        Path | None, typer.Option(help="FILE.onnx or FILE.safetensors of coordinator export.", exists=True)
    ] = None,
    config: ConfigOption = None,
    state: StateOption = None,
    version: VersionOption = "newest",
    task: TaskOption = None,
    data: DataOption = None,
    plot: Annotated[Path | None, typer.Option(help="Draw what the model saw and its answer: FILE.png or .svg.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a picture to a model, and print the class and the probabilities.

    An ONNX file needs nothing else. safetensors and the versions of a store need their task. The task says how a
    picture becomes an input (TorchTask(picture=...)): grey or colour, the size, and whether paper is black.

    \b
    Examples:
      coordinator predict --image seven.png --model model.onnx
      coordinator predict --image seven.png --config plant --version best
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    check_file("--plot", plot, ".png", ".svg")
    settings = None if config is None else read_config(config, {})
    source = _source(settings, task, data)
    if model is not None:
        found = predict_with_file(image, model, source)
    elif source is None:
        problem = "name a model: --model FILE, --config, or --task with --state"
        raise ConfigError("predict", problem, source="command line")
    else:
        found = predict_with_store(image, state_folder(settings, state), version, source)
    _tell(found, as_json=as_json)
    if plot is not None:
        from coordinator.artifacts.plots.gallery import draw_answer  # noqa: PLC0415 - matplotlib is an extra

        draw_answer(found, plot)


def report(
    *,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="FILE.html to write.")],
    config: ConfigOption = None,
    state: StateOption = None,
) -> None:
    """Explain a run to whoever was not there: one page with its story, pictures, nodes and what went wrong.

    The page needs no network and runs nothing; pictures need the extra 'plot'. The coordinator may be running.

    \b
    Examples:
      coordinator report run.html --config plant
      coordinator report run.html --state state/coordinator
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    from coordinator.artifacts.run_report import write_run_report  # noqa: PLC0415 - the other commands do without

    check_file("FILE", out, ".html", ".htm")
    settings = None if config is None else read_config(config, {})
    write_run_report(state_folder(settings, state), out)
    typer.echo(str(out))


def _tell(found: Prediction, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found.to_dict()) + "\n")
        return
    if not found.classes:
        typer.echo(" ".join(f"{score:.6g}" for score in found.scores))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("class", no_wrap=True)
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("")
    for name, share in found.ranked()[:CLASSES_SHOWN]:
        table.add_row(name, f"{share:.2%}", bar(share))
    Console().print(table)


def bar(share: float) -> str:
    """A bar of `BAR_CELLS` cells for the whole, in eighths of a cell."""
    eighths = round(share * BAR_CELLS * 8)
    return BLOCK * (eighths // 8) + (REST[eighths % 8 - 1] if eighths % 8 else "")


def _source(settings: CoordinatorConfig | None, task: str | None, data: Path | None) -> TaskSource | None:
    name = task or (None if settings is None else settings.task.name)
    if name is None:
        return None
    in_one_order(name)
    return TaskSource(name=name, data=data or (None if settings is None else settings.task.data))
