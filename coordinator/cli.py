"""The ``coordinator`` command: options, messages for people, and exit codes."""

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from federation.command_line import (
    BrokerOption,
    FederationOption,
    JsonOption,
    LazyCommands,
    LogJsonOption,
    VersionOption,
    add_commands,
    arrange,
    as_service,
    call,
    ending_in_time,
    errors_told,
)
from federation.errors import ConfigError, StorageError
from federation.out_files import check_file
from federation.runtime.standard_output import reserve

__all__ = ["main", "make_app"]

EXIT_CODES = (
    "Exit codes: 0 the run is over or was stopped in order, 1 a demo, a simulation or a check failed, 2 a setting "
    "or the task is wrong, 3 the store is in use, lost, or cannot be written, 4 the broker cannot be used or "
    "another client has our id, 130 interrupted by Ctrl-C."
)

LAZY_COMMANDS: LazyCommands = {
    "demo": ("fedmq.demo.cli", "demo", "A whole federation on this machine: broker, coordinator, nodes."),
    "demo-sensors": ("fedmq.demo.sensors.cli", "demo_sensors", "Pumps whose sensors speak MQTT: learn, and score."),
    "audit": ("fedmq.audit.cli", "audit_command", "Check the stores of a stopped federation: I1 to I9, P1 to P5."),
    "backup": ("coordinator.backup.cli", "backup", "Write a run to one file, while its coordinator runs."),
    "restore": ("coordinator.backup.cli", "restore", "Make a state folder from a backup; nodes obey it at once."),
    "move-store": ("coordinator.backup.cli", "move_store", "Take a run from its state folder into a database."),
    "plot": ("coordinator.artifacts.plots.cli", "plot", "Draw runs: learning curves, nodes, participation, staleness."),
    "compare": ("coordinator.artifacts.plots.cli", "compare", "Lay runs side by side, as a table and as curves."),
    "export": ("coordinator.artifacts.cli", "export", "Write a model as safetensors, torch.export or ONNX."),
    "predict": ("coordinator.artifacts.cli", "predict", "Show a picture to a model."),
    "report": ("coordinator.artifacts.cli", "report", "Explain a run to whoever was not there: one HTML page."),
    "serve": ("fedmq.page.cli", "serve", "Show a run on a page, with JSON and numbers for Prometheus."),
    "alerts": ("fedmq.alerts.cli", "alerts", "Tell people when a run needs them: webhook, topic, command."),
    "simulate": ("fedmq.simulation.cli", "simulate", "The same machines in virtual time, without a broker."),
    "analyze": ("fedmq.statistics.cli", "analyze", "What the nodes' columns look like: exact figures, histograms."),
    "partition": (
        "coordinator.artifacts.plots.partition",
        "partition",
        "Who would own which labels: a table and a picture.",
    ),
    "init": ("coordinator.enrolment.cli", "init", "Make a federation: certificates, broker configuration, settings."),
    "enroll": ("coordinator.enrolment.cli", "enroll", "Write the file with which a node joins."),
    "revoke": ("coordinator.enrolment.cli", "revoke", "Shut nodes out."),
    "task": ("coordinator.rollout.cli", "task_app", "Send the fleet another release of its task."),
    "rotate-key": ("coordinator.enrolment.cli", "rotate_key", "Have nodes seal to another key of the coordinator."),
    "renew": ("coordinator.enrolment.cli", "renew", "Write new certificates before the old ones end."),
}
"""Commands that are imported only when they are called: module, function, summary."""

PANELS: Mapping[str, Sequence[str]] = {
    "Try it, on this machine": ("demo", "demo-sensors", "simulate", "partition"),
    "Make a federation and run it": ("init", "enroll", "doctor", "analyze", "run"),
    "See a run": ("status", "why", "serve", "alerts", "plot", "compare", "report", "privacy"),
    "Use its model": ("export", "predict"),
    "Keep it going": ("backup", "restore", "upgrade", "task", "renew", "revoke", "rotate-key", "move-store", "audit"),
}
"""All commands, in the order in which people need them."""

ConfigOption = Annotated[
    Path | None, typer.Option(help="TOML file with all settings, or the folder of coordinator init.", exists=True)
]
StateOption = Annotated[Path | None, typer.Option(help="State folder, instead of the configuration's.")]


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """The command line; of the lazy commands only the one that ``arguments`` call is imported."""
    app = typer.Typer(
        name="coordinator",
        epilog=EXIT_CODES,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    add_commands(app, LAZY_COMMANDS, arguments)
    app.callback()(_options)
    app.command(epilog=EXIT_CODES)(run)
    app.command()(status)
    app.command()(why)
    app.command()(privacy)
    app.command()(doctor)
    app.command()(upgrade)
    arrange(app, PANELS)
    return app


def main() -> None:
    """Entry point of ``coordinator`` and ``python -m coordinator``."""
    reserve()
    with ending_in_time("coordinator"), errors_told("coordinator"):
        call(make_app(sys.argv[1:]), "coordinator")


@as_service()
def run(  # noqa: PLR0913 - one parameter per option is how the library declares them
    *,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    federation: FederationOption = None,
    task: Annotated[str | None, typer.Option(help="digits, mnist-mlp, ... or FILE.py:FUNCTION.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the data, for the evaluation.")] = None,
    state: StateOption = None,
    versions: Annotated[int | None, typer.Option(help="Model versions after which the run is over.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report of the run to this file at the end.")] = None,
    with_broker: Annotated[bool, typer.Option("--with-broker", help="Start the folder's Mosquitto too.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the federation over from another run's coordinator.")
    ] = False,
    log_json: LogJsonOption = None,
) -> None:
    """Coordinate a federation until the run is over, or until stopped.

    Options win over environment variables (FEDMQ_COORDINATOR__BROKER__URL), which win over the file. After a crash or
    a power cut the next start goes on with the last committed version. A federation has one coordinator: where that of
    another run is online, the start is refused (exit code 2), unless --replace is given; then the other one leaves.

    \b
    Examples:
      coordinator run --config coordinator.toml
      coordinator run --config plant --with-broker
      coordinator run --broker mqtt://10.0.0.2 --federation demo --task digits --versions 15
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    flags = {
        "broker.url": broker,
        "federation.id": federation,
        "task.name": task,
        "task.data": data,
        "store.folder": state,
        "round.versions": versions,
        "log.json": log_json,
    }
    # Imported here: `--help` answers before numpy, pydantic and the MQTT library are loaded.
    from coordinator.config.sections import read_config  # noqa: PLC0415

    settings = read_config(config, flags)
    check_file("--report", report)
    if not settings.evaluation.apart:
        from federation.tasks.set_order import in_one_order  # noqa: PLC0415

        in_one_order(settings.task.name)
    from coordinator.app import run_coordinator  # noqa: PLC0415

    if not with_broker:
        raise typer.Exit(run_coordinator(settings, report, replaces=replace))
    from coordinator.enrolment.broker import broker_of  # noqa: PLC0415
    from coordinator.monitoring.state_files import read_incidents  # noqa: PLC0415
    from coordinator.runtime.incidents import Incidents, count_denied  # noqa: PLC0415
    from federation.runtime.log import configure_log  # noqa: PLC0415
    from federation.runtime.transport import INBOX_ITEMS_MAX, Inbox  # noqa: PLC0415

    configure_log(json=settings.log.as_json, level=settings.log.level)
    incidents, inbox = Incidents(read_incidents(settings.store.folder)), Inbox(INBOX_ITEMS_MAX)
    with broker_of(config, partial(count_denied, incidents, inbox)):
        raise typer.Exit(run_coordinator(settings, report, incidents=incidents, inbox=inbox, replaces=replace))


def status(
    *,
    config: ConfigOption = None,
    state: StateOption = None,
    watch: Annotated[bool, typer.Option(help="Show again every second, until Ctrl-C.")] = False,
    nodes: Annotated[bool, typer.Option("--nodes", help="Only the nodes, with what they reported.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the versions of a run and what became of each node's work; the coordinator may be running or not.

    With --nodes --json: every number that nodes and evaluations reported, by version ("curves").

    \b
    Examples:
      coordinator status --config plant --watch
      coordinator status --state state/coordinator --nodes
      coordinator status --config plant --json
    """  # noqa: D301 - as above
    from coordinator.monitoring.status import show_nodes, show_status, watch_status  # noqa: PLC0415

    folder = _state_folder(config, state)
    if nodes:
        show_nodes(folder, as_json=as_json)
    elif watch and not as_json:
        watch_status(folder)
    else:
        show_status(folder, as_json=as_json, more=_certificates(config) if as_json else None)
    if config is not None and config.is_dir() and not as_json:
        from coordinator.enrolment.cli import tell_expiring  # noqa: PLC0415

        tell_expiring(config)


def why(*, config: ConfigOption = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """Say what the coordinator waits for, for whom and since when.

    \b
    Examples:
      coordinator why --config plant
    """  # noqa: D301 - as above
    from coordinator.monitoring.noised_sums import nodes_line, nodes_report, nodes_row  # noqa: PLC0415
    from coordinator.monitoring.presence import PresenceSeen, read_presence  # noqa: PLC0415
    from coordinator.monitoring.privacy import privacy_line, privacy_report, privacy_row  # noqa: PLC0415
    from coordinator.monitoring.sites import site_lines, sites_row  # noqa: PLC0415
    from coordinator.monitoring.state_files import helper_lines, read_helper_trouble, read_waiting  # noqa: PLC0415
    from coordinator.monitoring.why import explain  # noqa: PLC0415
    from coordinator.storage.places import leader_of  # noqa: PLC0415
    from coordinator.storage.read_only import ReadOnlyStore  # noqa: PLC0415

    folder = _state_folder(config, state)
    leader = None
    with suppress(StorageError, ConfigError):
        leader = leader_of(folder)
    waiting, spent, noised, seen = read_waiting(folder, leader), None, None, PresenceSeen()
    # What is waited for is said in a file of its own, whatever the store is like.
    with suppress(StorageError), ReadOnlyStore(folder) as store:
        spent, noised, seen = privacy_report(store), nodes_report(store), read_presence(folder, store.run)
    if as_json:
        told = {} if spent is None else {"privacy": privacy_row(spent)}
        told |= {} if noised is None else {"nodes_privacy": nodes_row(noised)}
        told |= {"sites": sites_row(seen.sites, seen.gateways_here, waiting.known_s)} if seen.sites else {}
        told |= {} if not (trouble := read_helper_trouble(folder)) else {"helper_trouble": dict(trouble)}
        typer.echo(json.dumps(asdict(waiting) | told))
        return
    sites = site_lines(seen.sites, seen.gateways_here, waiting.known_s)
    said = (explain(waiting), *helper_lines(folder), *sites, privacy_line(spent), nodes_line(noised))
    typer.echo("\n".join(map(_wrapped, filter(None, said))))


def _wrapped(sentence: str) -> str:
    """Within a terminal's width, words whole; a program gets one line."""
    if not sys.stdout.isatty():
        return sentence
    return textwrap.fill(sentence, shutil.get_terminal_size().columns, break_long_words=False, break_on_hyphens=False)


def privacy(*, config: ConfigOption = None, state: StateOption = None, as_json: JsonOption = False) -> None:
    """State what this run has promised each row of the nodes' data, and what it has not, in words that can be filed.

    \b
    Examples:
      coordinator privacy --config plant > statement.txt
    """  # noqa: D301 - as above
    from coordinator.monitoring.privacy import show_privacy  # noqa: PLC0415

    show_privacy(_state_folder(config, state), as_json=as_json)


def doctor(*, config: Annotated[Path, typer.Option(exists=True)], as_json: JsonOption = False) -> None:
    """Check clock, state folder, task, store, disk, broker and access rules, and say what to do.

    Exit code: 0 nothing failed, 1 a check failed, 2 a setting is wrong. A running coordinator is not disturbed.

    \b
    Examples:
      coordinator doctor --config plant
    """  # noqa: D301 - as above
    from coordinator.config.sections import read_config  # noqa: PLC0415

    settings = read_config(config, {})
    from coordinator.monitoring.doctor import examine  # noqa: PLC0415
    from federation.doctor import tell  # noqa: PLC0415
    from federation.runtime.log import configure_log  # noqa: PLC0415

    configure_log(json=False, level="critical")
    raise typer.Exit(tell(examine(settings), as_json=as_json))


def upgrade(
    *,
    config: ConfigOption = None,
    state: StateOption = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what would be done; try it on a copy.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a state folder to the layout of this release; every start does it, too. A running coordinator is refused.

    With --config the settings are read as well: a key that this release does not know is an error. Exit code: 0 done,
    or nothing to do, 1 the disk has no room, 3 the store is newer than this release, damaged, or in use.

    \b
    Examples:
      coordinator upgrade --config plant --check
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    from coordinator.config.sections import read_config, state_folder  # noqa: PLC0415
    from coordinator.storage.database import STORE  # noqa: PLC0415
    from federation.storage.upgrade import upgrade_store  # noqa: PLC0415

    folder = state_folder(None if config is None else read_config(config, {}), state)
    raise typer.Exit(upgrade_store(folder, STORE, check=check, as_json=as_json))


def _certificates(config: Path | None) -> dict[str, object]:
    """When each certificate of the federation in a folder ends; nothing without its register."""
    if config is None or not config.is_dir():
        return {}
    from coordinator.enrolment.cli import certificate_ends  # noqa: PLC0415

    return {"certificates": certificate_ends(config)}


def _state_folder(config: Path | None, state: Path | None) -> Path:
    if config is None or state is not None:
        from coordinator.storage.files import STATE_FOLDER  # noqa: PLC0415

        return state or STATE_FOLDER
    from coordinator.config.sections import read_config  # noqa: PLC0415 - it takes longer than all that is shown

    return read_config(config, {}).store.folder


def _options(*, version: VersionOption = False) -> None:
    """The server role: announces rounds, collects updates from edge nodes, and makes model versions of them."""
