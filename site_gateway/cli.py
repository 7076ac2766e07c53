"""The ``fedmq gateway`` command: options, messages for people, and exit codes."""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.command_line import JsonOption, LogJsonOption, VersionOption, as_service, call, errors_told
from federation.errors import ConfigError, StorageError
from federation.runtime.standard_output import reserve
from federation.units import counted

if TYPE_CHECKING:
    from site_gateway.config import GatewaySettings

__all__ = ["app", "main"]

PROGRAM = "fedmq gateway"

EXIT_CODES = (
    "Exit codes: 0 stopped in order, or the run above is over; 2 a setting is wrong; 3 a state folder is in use, "
    "damaged, or cannot be written; 4 a broker cannot be used, or no run is known above; 130 interrupted by "
    "Ctrl-C."
)

app = typer.Typer(
    name=PROGRAM,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path, typer.Option(help="The folder of fedmq gateway init.", exists=True, file_okay=False)]


@app.callback()
def options(*, version: VersionOption = False) -> None:
    """The gateway role: a whole site behind one thin link, as one node of the federation above.

    \b
    The site has a broker of its own. Its nodes know no other coordinator than the gateway; what they send stays at the
    site until it is added, and one sum goes up. Above, the gateway is a node that the
    coordinator's settings name, in the section gateways.
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines


@app.command()
@errors_told(PROGRAM)
def init(  # noqa: PLR0913 - the options of the command
    folder: Annotated[Path, typer.Argument(help="Where the gateway's settings and state go.")],
    *,
    join: Annotated[
        Path | None, typer.Option(help="Its enrolment file above: with certificates on both sides.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="With --join: name or address of the site's broker; its nodes use the first."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="With --join: the site's broker's TLS port.")] = 8883,
    above: Annotated[str | None, typer.Option(help="Broker of the federation above, such as mqtt://hub.")] = None,
    below: Annotated[str | None, typer.Option(help="The site's own broker, such as mqtt://localhost.")] = None,
    task: Annotated[str | None, typer.Option(help="What is trained: as above, and as on the nodes.")] = None,
    federation: Annotated[str | None, typer.Option(help="Name of the federation, above and at the site.")] = None,
    name: Annotated[str | None, typer.Option("--id", help="Its name as a node above. Default: the folder's.")] = None,
    form: Annotated[str, typer.Option(help="exact: the integers. mean: coded again, for a thin link.")] = "exact",
    seed: Annotated[int, typer.Option(help="task.seed of the coordinator above.")] = 0,
    nodes: Annotated[int, typer.Option(help="Nodes of the site that train at once, at most.")] = 100,
) -> None:
    """Write a gateway's settings: its own, those of the node above, those of the coordinator below.

    With --join the site has an authority and a broker of its own: certificates, access rules, sealed both ways.
    Without it name both brokers, the task and the federation.

    \b
    Examples:
      coordinator enroll plant press-shop                                          (where the federation above is)
      fedmq gateway init press-shop --join press-shop.fedmq --host press-shop.example
      fedmq gateway init press-shop --above mqtt://hub --below mqtt://localhost --task digits --federation plant
    """  # noqa: D301 - as above
    from site_gateway.setup.folder import Site, Wanted, enrol_folder, make_folder  # noqa: PLC0415 - as in `_settings`

    plain = {"--above": above, "--below": below, "--federation": federation, "--id": name}
    if join is not None:
        _refuse({option for option, value in plain.items() if value is not None})
        if not host:
            raise ConfigError("--host", "name the site's broker, as its nodes reach it", source="command line")
        site = Site(file=join, hosts=tuple(host), port=port, task=task)
        wanted, files = enrol_folder(folder, site, form=form, nodes=nodes, seed=seed)
    else:
        wanted = Wanted(
            name=folder.absolute().name if name is None else name,
            federation=_needed("--federation", federation),
            above=_needed("--above", above),
            below=_needed("--below", below),
            task=_needed("--task", task),
            form=form,
            nodes=nodes,
            seed=seed,
        )
        files = make_folder(folder, wanted)
    for file in files:
        typer.echo(file)
    typer.echo("above, add this to the coordinator's settings, and start it again:")
    typer.echo(f"  [gateways]\n  members_max = {{ {wanted.name} = {nodes} }}")
    typer.echo("a gateway is one node there: while this site is alone, round.quorum = 1, too")
    if wanted.enrolled:
        typer.echo(f"for each node of the site: coordinator enroll {folder}/below NODE")
    typer.echo(f"then: fedmq gateway run --config {folder}{' --with-broker' if wanted.enrolled else ''}")


def _needed(option: str, value: str | None) -> str:
    if value is None:
        raise ConfigError(option, "is needed, or --join with the gateway's enrolment file", source="command line")
    return value


def _refuse(options: Collection[str]) -> None:
    if options:
        said = "the enrolment file of --join says it: leave it out"
        raise ConfigError(min(options), said, source="command line")


@app.command(epilog=EXIT_CODES)
@errors_told(PROGRAM)
@as_service()
def run(
    *,
    config: ConfigOption,
    form: Annotated[str | None, typer.Option(help="exact or mean, instead of what the settings say.")] = None,
    with_broker: Annotated[bool, typer.Option("--with-broker", help="Start the site's Mosquitto too.")] = False,
    log_json: LogJsonOption = None,
) -> None:
    """Stand for a site until stopped, or until the run above is over.

    \b
    Examples:
      fedmq gateway run --config press-shop --with-broker
    """  # noqa: D301 - as above
    settings = _settings(config, {"gateway.form": form, "log.json": log_json})
    from site_gateway.app import run_gateway  # noqa: PLC0415 - as in `_settings`

    if not with_broker:
        raise typer.Exit(run_gateway(settings))
    from coordinator.enrolment.broker import broker_of  # noqa: PLC0415
    from federation.runtime.log import configure_log  # noqa: PLC0415
    from site_gateway.config import BELOW_FOLDER  # noqa: PLC0415

    configure_log(json=settings.own.log.as_json, level=settings.own.log.level)
    with broker_of(config / BELOW_FOLDER, made_by="fedmq gateway init --join"):
        raise typer.Exit(run_gateway(settings))


@app.command()
@errors_told(PROGRAM)
def status(*, config: ConfigOption, as_json: JsonOption = False) -> None:
    """The run, the site's version, what became of its nodes' updates, what it waits for, and what is owed above.

    \b
    Examples:
      fedmq gateway status --config press-shop
    """  # noqa: D301 - as above
    from coordinator.monitoring.presence import read_presence  # noqa: PLC0415 - as in `_settings`
    from coordinator.monitoring.sites import site_lines, sites_row  # noqa: PLC0415
    from coordinator.monitoring.state_files import known_s, read_waiting  # noqa: PLC0415
    from coordinator.monitoring.why import explain  # noqa: PLC0415
    from site_gateway.storage.read_only import newest_run, read_site  # noqa: PLC0415

    settings = _settings(config, {})
    folder = newest_run(settings.below.store.folder)
    if folder is None:
        raise StorageError(f"{settings.below.store.folder} has no run yet: start fedmq gateway run --config {config}")
    found: dict[str, Any] = {
        "gateway": settings.above.node.id,
        "form": settings.own.gateway.form.value,
        **asdict(read_site(folder)),
    }
    with suppress(StorageError):
        found["waits"] = explain(read_waiting(folder))
    seen = read_presence(folder, found["run"])
    if as_json and seen.sites:
        found["sites"] = sites_row(seen.sites, seen.gateways_here, known_s(folder))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    owed = found.pop("owed")
    found["waits"] = str(found.get("waits", "")).removeprefix("waiting ")
    for name, value in found.items():
        shown = ", ".join(f"{number} {what}" for what, number in value.items()) if isinstance(value, Mapping) else value
        typer.echo(f"{name:10} {'-' if shown in (None, '') else shown}")
    for line in site_lines(seen.sites, seen.gateways_here, known_s(folder)):
        typer.echo(line)
    for one in owed:
        told = (
            f"{counted(one['num_examples'], 'example')} from version {one['base_version']}, {one['frame_bytes']} bytes"
        )
        typer.echo(f"owes       {one['update']}: {told}; waits for the verdict from above")


@app.command()
@errors_told(PROGRAM)
def doctor(*, config: ConfigOption, as_json: JsonOption = False) -> None:
    """Check this machine, the broker above, the site's broker, and what became of the site's sums; say what to do.

    Exit code: 0 nothing failed, 1 a check failed, 2 a setting is wrong. A running gateway is not disturbed.

    \b
    Examples:
      fedmq gateway doctor --config press-shop
    """  # noqa: D301 - as above
    settings = _settings(config, {})
    from federation.doctor import tell  # noqa: PLC0415 - as in `_settings`
    from federation.runtime.log import configure_log  # noqa: PLC0415
    from site_gateway.setup.doctor import examine  # noqa: PLC0415

    configure_log(json=False, level="critical")
    raise typer.Exit(tell(examine(settings), as_json=as_json))


def _settings(folder: Path, flags: Mapping[str, object]) -> "GatewaySettings":
    # Imported here: `--help` answers before numpy, pydantic and the MQTT library are loaded.
    from site_gateway.config import read_config  # noqa: PLC0415

    return read_config(folder, flags)


def main() -> None:
    """Entry point of ``python -m site_gateway``."""
    reserve()
    call(app, PROGRAM)
