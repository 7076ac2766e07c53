"""The ``fedmq`` command: all roles and what stands above them, under one name."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from federation.command_line import (
    LazyCommands,
    VersionOption,
    add_commands,
    arrange,
    call,
    elsewhere,
    ending_in_time,
    errors_told,
)
from federation.runtime.standard_output import reserve

__all__ = ["main", "make_app"]

PROGRAM = "fedmq"

COMMANDS: LazyCommands = {
    "demo": ("fedmq.demo.cli", "demo", "A whole federation on this machine: broker, coordinator, nodes."),
    "demo-sensors": ("fedmq.demo.sensors.cli", "demo_sensors", "Pumps whose sensors speak MQTT: learn, and score."),
    "simulate": ("fedmq.simulation.cli", "simulate", "A whole fleet in virtual time, without a broker."),
    "audit": ("fedmq.audit.cli", "audit_command", "Check the stores of a stopped federation: I1 to I9, P1 to P5."),
    "new": ("fedmq.new.project", "new", "Begin a project of your own: task, settings, README and a test."),
}
"""Commands that are imported only when they are called: module, function, summary."""

ROLES: Mapping[str, tuple[str, str]] = {
    "coordinator": ("coordinator.cli", "The server role: everything that `coordinator` can do."),
    "node": ("edge_node.cli", "The device role: everything that `edge-node` can do."),
    "helper": ("sum_helper.cli", "The helper role: sums over many nodes, and no single one."),
    "gateway": ("site_gateway.cli", "The gateway role: a whole site as one node."),
}

PANELS: Mapping[str, Sequence[str]] = {
    "Try it, on this machine": ("demo", "demo-sensors", "simulate", "new"),
    "The roles": tuple(ROLES),
    "Around them": ("units", "audit"),
}
"""All commands, in the order in which people need them."""

EXIT_CODES = "Exit codes are those of coordinator --help and edge-node --help."


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """The command line; of its parts only the one that ``arguments`` call is imported."""
    app = typer.Typer(
        name=PROGRAM,
        epilog=EXIT_CODES,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for name, (module, summary) in ROLES.items():
        if name in arguments[:1]:
            app.add_typer(_role(import_module(module), list(arguments[1:])), name=name)
        else:
            app.command(name, help=summary)(elsewhere)
    add_commands(app, COMMANDS, arguments)
    app.command()(units)
    arrange(app, PANELS)
    return app


def main() -> None:
    """Entry point of ``fedmq`` and ``python -m fedmq``."""
    reserve()
    with ending_in_time(PROGRAM), errors_told(PROGRAM):
        call(make_app(_words(sys.argv[1:], os.environ)), PROGRAM)


def _words(arguments: Sequence[str], environ: Mapping[str, str]) -> Sequence[str]:
    """What was typed so far: a shell that wants to complete it says so in its environment, and gives no arguments."""
    typed = environ.get("COMP_WORDS") or environ.get("_TYPER_COMPLETE_ARGS")
    return typed.split()[1:] if typed and "_FEDMQ_COMPLETE" in environ else arguments


def _role(module: Any, arguments: Sequence[str]) -> typer.Typer:
    """The coordinator's commands depend on the arguments too, the node's do not."""
    made: typer.Typer = module.make_app(arguments) if hasattr(module, "make_app") else module.app
    return made


def units(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Such as /etc/systemd/system.")],
    *,
    federation: Annotated[
        Path | None, typer.Option(help="The folder of coordinator init. Default: /etc/fedmq/plant.")
    ] = None,
) -> None:
    """Write the systemd units of all roles, with the paths of this installation; then: systemctl daemon-reload.

    \b
    Examples:
      sudo /opt/fedmq/bin/fedmq units /etc/systemd/system
      sudo /opt/fedmq/bin/fedmq units /etc/systemd/system --federation /etc/fedmq/press
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    from federation.identity.private_files import PUBLIC, write_text  # noqa: PLC0415 - `--help` answers before
    from federation.services import UNITS, unit_text  # noqa: PLC0415 - the same

    for name in UNITS:
        place = None if name in ("fedmq-node.service", "fedmq-helper.service") else federation
        write_text(folder / name, unit_text(name, settings=place), mode=PUBLIC)
        typer.echo(folder / name)


def _options(*, version: VersionOption = False) -> None:
    """Asynchronous federated learning over MQTT for edge fleets."""
