"""The ``fedmq helper`` command: options, messages for people, and exit codes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.command_line import (
    BrokerOption,
    JsonOption,
    LogJsonOption,
    VersionOption,
    as_service,
    call,
    errors_told,
)
from federation.errors import ConfigError
from federation.runtime.standard_output import reserve
from federation.units import counted

if TYPE_CHECKING:
    from sum_helper.config import HelperConfig

__all__ = ["app", "main"]

PROGRAM = "fedmq helper"

EXIT_CODES = (
    "Exit codes: 0 stopped in order, 2 a setting is wrong, 3 the state folder is in use, damaged, or cannot be "
    "written, 4 the broker cannot be used or another client has this helper's id, 130 interrupted by Ctrl-C."
)

app = typer.Typer(
    name=PROGRAM,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path, typer.Option(help="TOML file, or the folder of fedmq helper init.", exists=True)]
IntoOption = Annotated[Path | None, typer.Option(help="Folder for keys, settings and state. Default: NAME.")]


@app.callback()
def options(*, version: VersionOption = False) -> None:
    """The helper role: holds random seeds, never data, so that a server sees sums over many machines, never one."""


@app.command()
@errors_told(PROGRAM)
def init(
    what: Annotated[str, typer.Argument(metavar="NAME|FILE", help="This helper's name, or its enrolment file.")],
    *,
    into: IntoOption = None,
) -> None:
    """Make this helper's keys and the file that asks for its certificate; then install the answer.

    \b
    Examples:
      fedmq helper init works-council
      coordinator enroll plant --csr works-council.request     (there; bring back plant/enrolled/works-council.fedmq)
      fedmq helper init works-council.fedmq
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    from sum_helper.setup.folder import ask, install  # noqa: PLC0415 - as in `_settings`

    if Path(what).is_file():
        folder = install(Path(what), into)
        typer.echo(f"installed: {folder}; {what} is not needed any more")
        typer.echo(f"next, for each node: fedmq helper admit NODE=KEY --config {folder}")
        typer.echo(f"then: fedmq helper run --config {folder}")
        return
    if "." in what or "/" in what:
        raise ConfigError(
            "NAME|FILE", f"there is no file {what}: say where the answer is, or a name", source="command line"
        )
    file, line = ask(what, into)
    typer.echo(f"bring {file} to the server; there: coordinator enroll DIR --csr {file.name}")
    typer.echo(f"bring back DIR/enrolled/{what}.fedmq; here: fedmq helper init {what}.fedmq")
    typer.echo("nodes and coordinator pin this line; compare it by another way than the server:")
    typer.echo(f"  {line}")


@app.command()
@errors_told(PROGRAM)
def admit(
    nodes: Annotated[list[str], typer.Argument(metavar="NODE=KEY|FILE...", help="Public keys, or request files.")],
    *,
    config: ConfigOption,
) -> None:
    """Count these nodes from now on; take their keys from the machines themselves, never from the server.

    A server could invent nodes, and a sum of one real machine and seven invented ones is that machine's update.

    \b
    Examples:
      fedmq helper admit edge-01=KEY edge-02=KEY --config works-council
      fedmq helper admit edge-04.request --config works-council
    """  # noqa: D301 - as above
    from sum_helper.setup.folder import admit as write  # noqa: PLC0415 - as in `_settings`

    settings = _settings(config, {})
    for what in nodes:
        node, count = write(settings.helper.register_file, what)
        typer.echo(f"admitted {node}: {counted(count, 'node')}")


@app.command(epilog=EXIT_CODES)
@errors_told(PROGRAM)
@as_service()
def run(
    *,
    config: ConfigOption,
    broker: BrokerOption = None,
    state: Annotated[Path | None, typer.Option(help="State folder. One process at a time.")] = None,
    log_json: LogJsonOption = None,
) -> None:
    """Hold seeds and reveal sums until stopped.

    \b
    Examples:
      fedmq helper run --config works-council
    """  # noqa: D301 - as above
    settings = _settings(config, {"broker.url": broker, "store.folder": state, "log.json": log_json})
    from sum_helper.app import run_helper  # noqa: PLC0415 - as in `_settings`

    raise typer.Exit(run_helper(settings))


@app.command()
@errors_told(PROGRAM)
def status(*, config: ConfigOption, as_json: JsonOption = False) -> None:
    """What is held, what was revealed, and what each node's contributions can have told by now.

    \b
    Examples:
      fedmq helper status --config works-council
    """  # noqa: D301 - as above
    from sum_helper.setup.doctor import status as read  # noqa: PLC0415 - as in `_settings`

    found = read(_settings(config, {}))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    nodes = found.pop("nodes")
    newest = found.pop("newest")
    trouble = found.pop("trouble")
    assert isinstance(trouble, dict)  # noqa: S101 - for the type checker
    found["newest"] = "none yet" if not isinstance(newest, Mapping) else _newest(newest)
    for name, value in (found | trouble).items():
        typer.echo(f"{name:12} {'not yet' if value is None else value}")
    assert isinstance(nodes, dict)  # noqa: S101 - for the type checker
    for node, told in nodes.items():
        epsilon = (
            "no noise" if told["epsilon"] is None else f"epsilon {told['epsilon']:.3g} at delta {found['delta']:g}"
        )
        typer.echo(f"  {node:20} in {counted(told['sums'], 'sum')}, {epsilon}")


def _newest(told: Mapping[str, object]) -> str:
    return f"version {told['version']} of run {told['run']}, {told['members']} nodes, {told['at']}"


@app.command()
@errors_told(PROGRAM)
def doctor(*, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Check keys, register, broker and coordinator, and whether this machine is apart from the coordinator's.

    Exit code: 0 nothing failed, 1 a check failed, 2 a setting is wrong. A running helper is not disturbed.

    \b
    Examples:
      fedmq helper doctor --config works-council
    """  # noqa: D301 - as above
    from federation.doctor import tell  # noqa: PLC0415 - as in `_settings`
    from federation.runtime.log import configure_log  # noqa: PLC0415 - as in `_settings`
    from sum_helper.setup.doctor import examine  # noqa: PLC0415 - as in `_settings`

    configure_log(json=False, level="critical")
    raise typer.Exit(tell(examine(_settings(config, {})), as_json=as_json))


def _settings(file: Path, flags: Mapping[str, object]) -> "HelperConfig":
    # Imported here: `--help` answers before numpy, pydantic and the MQTT library are loaded.
    from sum_helper.config import read_config  # noqa: PLC0415

    return read_config(file, flags)


def main() -> None:
    """Entry point of ``python -m sum_helper``."""
    reserve()
    call(app, PROGRAM)
