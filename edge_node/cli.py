"""The ``edge-node`` command: options, messages for people, and exit codes."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from edge_node.model.cli import model_app, predict, score
from federation.command_line import (
    BrokerOption,
    DataOption,
    FederationOption,
    JsonOption,
    LogJsonOption,
    TaskOption,
    VersionOption,
    arrange,
    as_service,
    call,
    ending_in_time,
    errors_told,
)
from federation.errors import ConfigError
from federation.runtime.standard_output import reserve, start_again

__all__ = ["app", "main"]

PROGRAM = "edge-node"

EXIT_CODES = (
    "Exit codes: 0 stopped in order, 2 a setting or the task is wrong, 3 the state folder is in use, lost, or "
    "cannot be written, 4 the broker cannot be used or another client has this node's id, 130 interrupted by "
    "Ctrl-C."
)

app = typer.Typer(
    name=PROGRAM,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(model_app, name="model")
app.command()(errors_told(PROGRAM)(predict))
app.command(epilog=EXIT_CODES)(errors_told(PROGRAM)(as_service()(score)))

PANELS: Mapping[str, Sequence[str]] = {
    "Join a federation": ("request", "join", "doctor", "run"),
    "See this node": ("status",),
    "Use the model here": ("predict", "score", "model"),
    "Keep it going": ("upgrade",),
}
"""All commands, in the order in which people need them."""

ConfigOption = Annotated[Path | None, typer.Option(help="TOML file, or the folder of edge-node join.", exists=True)]
NodeOption = Annotated[str | None, typer.Option("--id", help="Name of this node: unique in the federation.")]
StateOption = Annotated[Path | None, typer.Option(help="State folder (default: state/ID). One process at a time.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto (a GPU when there is one), cpu or cuda.")]


@app.callback()
def options(*, version: VersionOption = False) -> None:
    """The device role: trains on this device's own data and delivers updates until they are receipted."""


@app.command(epilog=EXIT_CODES)
@errors_told(PROGRAM)
def run(  # noqa: PLR0913 - one parameter per option is how the library declares them
    *,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    federation: FederationOption = None,
    node: NodeOption = None,
    task: TaskOption = None,
    data: DataOption = None,
    index: Annotated[int | None, typer.Option(help="Which part of the data is this node's, from 0.")] = None,
    count: Annotated[int | None, typer.Option(help="How many parts there are.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the partition: the same at all participants.")] = None,
    partition: Annotated[
        str | None, typer.Option(help="iid, shards:N, dirichlet:ALPHA or natural. Default: the task's own.")
    ] = None,
    state: StateOption = None,
    device: DeviceOption = None,
    log_json: LogJsonOption = None,
    exit_when_finished: Annotated[
        bool | None, typer.Option("--exit-when-finished", help="Exit once the run has ended and all is receipted.")
    ] = None,
) -> None:
    """Take part in a federation until stopped.

    Options win over environment variables (FEDMQ_NODE__BROKER__URL), which win over the file. Updates that were not
    receipted survive a crash or a power cut in the state folder and are delivered after the next start.

    \b
    Examples:
      edge-node run --config node.toml
      edge-node run --broker mqtt://10.0.0.2 --federation demo --id pi-3 --task digits --index 3 --count 5
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    flags = {
        "broker.url": broker,
        "federation.id": federation,
        "node.id": node,
        "node.exit_when_finished": exit_when_finished,
        "task.name": task,
        "task.data": data,
        "task.index": index,
        "task.count": count,
        "task.seed": seed,
        "task.partition": partition,
        "store.folder": state,
        "training.device": device,
        "log.json": log_json,
    }
    raise typer.Exit(_run(config, flags, again=sys.orig_argv[1:]))


@app.command()
@errors_told(PROGRAM)
def join(  # noqa: PLR0913 - one parameter per option is how the library declares them
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The enrolment file of this node.")],
    *,
    into: Annotated[Path | None, typer.Option(help="Folder for settings, key and state. Default: NODE.")] = None,
    task: TaskOption = None,
    data: DataOption = None,
    helper: Annotated[
        list[str] | None, typer.Option(metavar="NAME=KEY", help="Pin a helper of masked sums, by its owner's word.")
    ] = None,
    with_task: Annotated[
        bool, typer.Option("--with-task", help="Let this device run the task's code that the file brings.")
    ] = False,
    updates: Annotated[
        str, typer.Option(help="manual, or signed: run releases of the task that the federation's authority signs.")
    ] = "manual",
    start: Annotated[bool, typer.Option("--run", help="Take part at once, as edge-node run would.")] = False,
    service: Annotated[
        bool, typer.Option("--service", help="Examine this device, and start the node as a systemd service.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="With --service: seconds to wait for the first update.")] = 600.0,
) -> None:
    """Install an enrolment file on this device; a second one for the same node renews its certificate.

    \b
    Examples:
      edge-node join edge-01.fedmq --run
      sudo /opt/fedmq/bin/edge-node join edge-01.fedmq --service
      edge-node join edge-01.fedmq --into /etc/fedmq --task my_task.py:build --data /data
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    from edge_node.setup.join import check_own_file, install, kept_settings, own_key_line, proposal  # noqa: PLC0415 - as in `_run`
    from edge_node.setup.service import Host, start_service  # noqa: PLC0415 - as in `_run`

    host = Host()
    if service:
        into = host.settings if into is None else into
        host.check(into)
    check_own_file(file)
    kept = kept_settings(file, into)
    folder = install(
        file, into, task=task, data=data, helpers=helper or (), with_task=with_task, signed_updates=_signed(updates)
    )
    proposed = proposal(file)
    if proposed:
        typer.echo("the server names these helpers of masked sums; compare each line with who runs it, then pin it")
        typer.echo("with --helper, or as privacy.helpers in the settings:")
        for one in proposed:
            typer.echo(f"  {one}")
    if proposed or helper:
        typer.echo(f"helpers admit this node by its own line: {own_key_line(folder)}")
    typer.echo(f"joined: settings, certificate and key are in {folder}; {file} is not needed any more: delete it")
    if kept is not None:
        typer.echo(f"{kept} was there and is kept as it is: to change the task, its data or its updates, edit it")
    if service:
        raise typer.Exit(start_service(folder, host, wait_s=wait))
    if start:
        raise typer.Exit(_run(folder, {}, again=["-m", "edge_node", "run", "--config", str(folder)]))
    typer.echo(f"next: edge-node run --config {folder}")


@app.command()
@errors_told(PROGRAM)
def request(
    node: Annotated[str, typer.Argument(metavar="NODE", help="This device's name.")],
    *,
    into: Annotated[Path | None, typer.Option(help="Folder for keys, settings and state. Default: NODE.")] = None,
) -> None:
    """Make this device's keys, which never leave it, and the file that asks for its certificate.

    \b
    Examples:
      edge-node request edge-04
      coordinator enroll plant --csr edge-04.request     (there; bring back plant/enrolled/edge-04.fedmq)
      edge-node join edge-04.fedmq --run
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    from edge_node.setup.join import ask  # noqa: PLC0415 - as in `_run`

    file = ask(node, into)
    typer.echo(f"bring {file} to the server; there: coordinator enroll DIR --csr {file.name}")
    there = "" if into is None else f" --into {into}"
    typer.echo(f"bring back DIR/enrolled/{node}.fedmq; here: edge-node join {node}.fedmq{there}")


@app.command()
@errors_told(PROGRAM)
def doctor(  # noqa: PLR0913 - one parameter per option is how the library declares them
    *,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    federation: FederationOption = None,
    node: NodeOption = None,
    task: TaskOption = None,
    data: DataOption = None,
    state: StateOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check clock, state folder, disk, task, broker, access rules and coordinator, and say what to do.

    Exit code: 0 nothing failed, 1 a check failed, 2 a setting is wrong. A running node is not disturbed.

    \b
    Examples:
      edge-node doctor --config node.toml
      edge-node doctor --broker mqtt://10.0.0.2 --federation demo --id pi-3 --task digits
    """  # noqa: D301 - as above
    flags = {
        "broker.url": broker,
        "federation.id": federation,
        "node.id": node,
        "task.name": task,
        "task.data": data,
        "store.folder": state,
        "training.device": device,
    }
    from edge_node.config import read_config  # noqa: PLC0415 - as in `_run`
    from edge_node.setup.doctor import examine  # noqa: PLC0415 - as in `_run`
    from federation.doctor import tell  # noqa: PLC0415 - as in `_run`
    from federation.runtime.log import configure_log  # noqa: PLC0415 - as in `_run`
    from federation.tasks.set_order import in_one_order  # noqa: PLC0415 - as in `_run`

    settings = read_config(config, flags)
    in_one_order(settings.task.name)
    configure_log(json=False, level="critical")
    raise typer.Exit(tell(examine(settings), as_json=as_json))


@app.command()
@errors_told(PROGRAM)
def upgrade(
    *,
    config: ConfigOption = None,
    state: StateOption = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what would be done; try it on a copy.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a state folder to the layout of this release; every start does it, too. A running node is refused.

    With --config the settings are read as well: a key that this release does not know is an error. Exit code: 0 done,
    or nothing to do, 1 the disk has no room, 3 the store is newer than this release, damaged, or in use.

    \b
    Examples:
      edge-node upgrade --config node.toml --check
    """  # noqa: D301 - as above
    from edge_node.config import read_config  # noqa: PLC0415 - as in `_run`
    from edge_node.storage.read_only import STORE  # noqa: PLC0415 - as in `_run`
    from federation.storage.upgrade import upgrade_store  # noqa: PLC0415 - as in `_run`

    found = None if config is None else read_config(config, {}).state_folder
    folder = state or found
    if folder is None:
        raise ConfigError("--state", "name the node's state folder, or its settings as --config", source="command line")
    raise typer.Exit(upgrade_store(folder, STORE, check=check, as_json=as_json))


@app.command()
@errors_told(PROGRAM)
def status(
    *,
    config: ConfigOption = None,
    node: NodeOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show this node's work and its readings: kept, dropped, refused, how old, how far they moved.

    It reads the state folder only: a running node is not disturbed.

    \b
    Examples:
      edge-node status --config node.toml
      edge-node status --state state/press-7 --json
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    from edge_node.setup.status import show_status  # noqa: PLC0415 - as in `_run`

    if state is None:
        from edge_node.config import read_config  # noqa: PLC0415 - as in `_run`

        state = read_config(config, {"node.id": node}).state_folder
    show_status(state, time.time(), as_json=as_json)


def _signed(updates: str) -> bool:
    """Whether releases may run.

    Raises:
        ConfigError: It is neither of the two words.
    """
    if updates not in {"manual", "signed"}:
        raise ConfigError("--updates", f"must be manual or signed, not {updates!r}", source="command line")
    return updates == "signed"


@as_service()
def _run(file: Path | None, flags: Mapping[str, object], *, again: Sequence[str]) -> int:
    """Run a node; ``again``: how Python is called when the process is to start again, with another release."""
    # Imported here: `--help` answers before numpy, pydantic and the MQTT library are loaded.
    from edge_node.config import read_config  # noqa: PLC0415

    settings = read_config(file, flags)
    from federation.tasks.set_order import in_one_order  # noqa: PLC0415

    in_one_order(settings.task.name, again)
    from edge_node.app import START_AGAIN, run_node  # noqa: PLC0415

    code = run_node(settings)
    if code == START_AGAIN:
        start_again(again)
    return code


arrange(app, PANELS)


def main() -> None:
    """Entry point of ``edge-node`` and ``python -m edge_node``."""
    reserve()
    with ending_in_time(PROGRAM), errors_told(PROGRAM):
        call(app, PROGRAM)
