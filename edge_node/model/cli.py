"""``edge-node model``: what the device has of the model, and going back."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.command_line import JsonOption, LogJsonOption, errors_told
from federation.errors import ConfigError
from federation.units import counted

if TYPE_CHECKING:
    from edge_node.model.versions import Versions, Written

__all__ = ["model_app", "predict", "score"]

PROGRAM = "edge-node"

model_app = typer.Typer(no_args_is_help=True, help="The model on this device: its versions, and going back.")

ConfigOption = Annotated[Path | None, typer.Option(help="TOML file, or the folder of edge-node join.", exists=True)]
FolderOption = Annotated[Path | None, typer.Option(help="Folder of the model, instead of the configuration's.")]


@model_app.command("list")
@errors_told(PROGRAM)
def list_versions(*, config: ConfigOption = None, folder: FolderOption = None, as_json: JsonOption = False) -> None:
    """List the versions that are kept, the newest first, and whether each file is what was written.

    \b
    Examples:
      edge-node model list --config node.toml
      edge-node model list --folder /var/lib/pump/model --json
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    versions = _versions(config, folder)
    known, here = versions.all()[::-1], versions.here
    if as_json:
        rows = [{**one.to_dict(), "present": one.number == here, "intact": versions.is_intact(one)} for one in known]
        sys.stdout.write(json.dumps({"held": versions.held, "versions": rows}) + "\n")
        return
    if not known:
        typer.echo(
            f"{versions.folder} has no model yet: a node writes one when its coordinator has announced a version"
        )
        return
    typer.echo("  version  written                    figure            file")
    for one in known:
        mark = "*" if one.number == here else " "
        state = "" if versions.is_intact(one) else "   DAMAGED"
        typer.echo(f"{mark} {one.notes.version:>7}  {one.written_at:<25}  {_figure(one):<16}  {one.file}{state}")
    _tell_held(versions)


def _whole(versions: "Versions") -> Path | None:
    """The present model's file, which is what was written; None where there is none."""
    return None if versions.whole() is None else versions.file


@model_app.command()
@errors_told(PROGRAM)
def show(*, config: ConfigOption = None, folder: FolderOption = None, as_json: JsonOption = False) -> None:
    """Show the present version: its file, what goes in and comes out, and who was told of it.

    Exit code: 0 there is one, 3 there is none, or its note is damaged.

    \b
    Examples:
      edge-node model show --config node.toml
    """  # noqa: D301 - as above
    from edge_node.model.hooks import read_told  # noqa: PLC0415 - `--help` answers before numpy is loaded

    versions = _versions(config, folder)
    present, told = versions.present(), read_told(versions.folder)
    if present is None or versions.file is None:
        from federation.errors import StorageError  # noqa: PLC0415 - as above

        raise StorageError(f"{versions.folder} has no model yet")
    if as_json:
        known = {**present.to_dict(), "path": str(versions.file), "held": versions.held, "told": told}
        sys.stdout.write(json.dumps(known) + "\n")
        return
    typer.echo(f"version {present.notes.version} of {present.notes.task}, run {present.run}")
    state = "" if versions.is_intact(present) else ", DAMAGED"
    typer.echo(f"file     {versions.file} ({present.size_bytes} bytes, written {present.written_at}{state})")
    typer.echo(f"figure   {_figure(present) or 'this device has nothing to see it by'}")
    for way, values in present.signature.items():
        typer.echo(f"{way:<8} " + ", ".join(f"{one['name']} {one['type']}{one['shape']}" for one in values))
    rule = present.notes.score
    if rule is not None:
        bar = "none" if rule.threshold is None else f"{rule.threshold:.6g}, {rule.threshold_from}"
        typer.echo(
            f"windows  {counted(rule.rows, 'row')} of {', '.join(rule.window.columns)}; {rule.kind}, threshold {bar}"
        )
    _tell_hooks(told, present)
    _tell_held(versions)


@model_app.command()
@errors_told(PROGRAM)
def rollback(
    *,
    config: ConfigOption = None,
    folder: FolderOption = None,
    to: Annotated[int | None, typer.Option(help="Model version to go to. Default: the one before the present.")] = None,
    hold: Annotated[bool, typer.Option(help="Take no newer version until edge-node model resume.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Make an earlier version the present one; the node may be running.

    \b
    Examples:
      edge-node model rollback --config node.toml
      edge-node model rollback --config node.toml --to 12 --no-hold
    """  # noqa: D301 - as above
    versions = _versions(config, folder)
    chosen = versions.go_back(to, hold=hold)
    if as_json:
        sys.stdout.write(json.dumps({**chosen.to_dict(), "held": versions.held}) + "\n")
        return
    typer.echo(f"version {chosen.notes.version} is the present one; a running edge-node score takes it by itself")
    _tell_held(versions)


@model_app.command()
@errors_told(PROGRAM)
def resume(*, config: ConfigOption = None, folder: FolderOption = None, as_json: JsonOption = False) -> None:
    """Take newer versions again after a rollback.

    \b
    Examples:
      edge-node model resume --config node.toml
    """  # noqa: D301 - as above
    versions = _versions(config, folder)
    was = versions.resume()
    if as_json:
        sys.stdout.write(json.dumps({"held": None, "was_held": was}) + "\n")
        return
    typer.echo("newer versions are taken again" if was else "nothing was held")


def predict(  # noqa: PLR0913 - one parameter per option is how the library declares them
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="CSV file; - or nothing is standard input.")
    ] = None,
    *,
    model: Annotated[Path | None, typer.Option(help="FILE.onnx or FILE.safetensors.", exists=True)] = None,
    config: ConfigOption = None,
    folder: FolderOption = None,
    row: Annotated[list[str] | None, typer.Option(help="One row: pressure=1.2,flow=30. Again for more.")] = None,
    task: Annotated[str | None, typer.Option(help="The task, where a file holds arrays only.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV instead of JSON lines.")] = False,
) -> None:
    """Ask a model about rows: of a file, of standard input, or given here; a line of JSON for each.

    Columns are taken by name, others are left alone. A model of windows scores each row that ends one. The model is
    the present one of the node's folder, or a file; ONNX Runtime (the extra 'score') runs ONNX programs without torch.

    \b
    Examples:
      edge-node predict readings.csv --config node.toml
      edge-node predict --model model.onnx --row pressure=1.2,flow=30
      { head -n 1 log.csv; tail -n 100 log.csv; } | edge-node predict --folder /var/lib/pump/model --csv
    """  # noqa: D301 - as above
    from edge_node.model.prediction import predictions, read_rows, read_table, written  # noqa: PLC0415 - as above
    from edge_node.model.runner import load_model  # noqa: PLC0415 - as above
    from federation.tasks.set_order import in_one_order  # noqa: PLC0415 - as above

    path = model or _whole(_versions(config, folder))
    if path is None:
        raise ConfigError("--model", "the folder has no model yet", source="command line")
    if row and file is not None:
        raise ConfigError("--row", "give rows or a file, not both", source="command line")
    settings = None
    if config is not None:
        from edge_node.config import read_config  # noqa: PLC0415 - as above

        settings = read_config(config, {}).task
    name = task or (None if settings is None else settings.name)
    if name is not None:
        in_one_order(name)
    asked = load_model(path, name, None if settings is None else settings.data)
    rule = asked.notes.score
    wanted = asked.notes.features if rule is None else rule.window.columns
    if row:
        table = read_rows(row)
    elif file is None or str(file) == "-":
        table = read_table(sys.stdin, wanted)
    else:
        try:
            with file.open(encoding="utf-8", newline="") as stream:
                table = read_table(stream, wanted)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("FILE", f"{file} cannot be read: {error}", source="command line") from error
    for line in written(predictions(asked, table), as_csv=as_csv):
        sys.stdout.write(line + "\n")


def score(*, config: ConfigOption = None, log_json: LogJsonOption = None) -> None:
    """Score the windows of the live topics with the present model, and say each score on a topic, until stopped.

    It runs beside edge-node run, as a process of its own, with the same configuration: topics from data.mqtt, the
    model from the section model, where to say it from the section score. Another present version is taken by itself.

    \b
    Examples:
      edge-node score --config node.toml
    """  # noqa: D301 - as above
    from edge_node.config import read_config  # noqa: PLC0415 - as above

    settings = read_config(config, {"log.json": log_json})
    from federation.tasks.set_order import in_one_order  # noqa: PLC0415 - as above

    in_one_order(settings.task.name)
    from edge_node.model.service import run_score  # noqa: PLC0415 - as above

    raise typer.Exit(run_score(settings))


def _versions(config: Path | None, folder: Path | None) -> "Versions":
    from edge_node.model.versions import Versions  # noqa: PLC0415 - `--help` answers before numpy is loaded

    if folder is None and config is not None:
        from edge_node.config import read_config  # noqa: PLC0415 - as above

        folder = read_config(config, {}).model.folder
    if folder is None:
        problem = "name the folder: --folder, or --config with a [model] section that has folder"
        raise ConfigError("model.folder", problem, source="command line")
    return Versions(folder)


def _figure(written: "Written") -> str:
    return "" if written.figure is None else f"{written.figure.name} {written.figure.value:.5g}"


def _tell_held(versions: "Versions") -> None:
    if versions.held is not None:
        typer.echo(f"held since {versions.held}: no newer version is taken until edge-node model resume")


def _tell_hooks(told: Mapping[str, object], present: "Written") -> None:
    hooks = told.get("hooks")
    if not isinstance(hooks, dict) or told.get("number") != present.number:
        return
    for name, problem in hooks.items():
        typer.echo(f"told     {name}: {problem or 'done'}")
