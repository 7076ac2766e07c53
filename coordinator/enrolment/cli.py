"""``coordinator init``, ``enroll``, ``revoke`` and ``renew``: their options and what they tell a person."""

import datetime as dt
import ipaddress
import json
import os
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from coordinator.config.sections import read_config
from coordinator.enrolment.broker import reload_broker
from coordinator.enrolment.federation import Fleet
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.issuing import PackedTask, pack_release, pack_task
from coordinator.enrolment.shut_out import SHUT, running_state, still_open
from coordinator.enrolment.texts import FleetPlan
from coordinator.runtime.task_releases import ReleaseShelf
from federation.command_line import JsonOption
from federation.errors import ConfigError, LocalProtocolError, StorageError
from federation.identity.bundle import BUNDLE_BYTES_MAX
from federation.identity.certificates import AUTHORITY_DAYS, CERTIFICATE_DAYS
from federation.identity.private_files import read_text
from federation.identity.request import decode_request
from federation.protocol.topics import validate_federation_id
from federation.storage.folder import lock_holder
from federation.storage.sealing_keys import ROTATE
from federation.tasks.registry import is_builtin
from federation.types import FederationId, NodeId

__all__ = ["certificate_ends", "enroll", "init", "renew", "revoke", "rotate_key", "tell_expiring"]

EXPIRING_DAYS = 30
HOST_MAX = 253
HOST_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")

_ELSEWHERE = (
    "no broker of this folder was reached from here. Where none runs, the next start reads its files again. Where it"
    " runs elsewhere: copy broker/ to it, and have it read them\n"
    "  systemctl reload fedmq-broker    or    docker compose kill -s HUP broker    or    kill -HUP PID"
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's folder.")]
Nodes = Annotated[list[str], typer.Argument(metavar="NODE...", help="Names of nodes: letters, digits, '-' and '_'.")]
Days = Annotated[int, typer.Option(min=1, max=AUTHORITY_DAYS, help="Days until the new certificates end.")]


def init(  # noqa: PLR0913 - one parameter per option is how the library declares them
    folder: Folder,
    *,
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address of the broker; devices use the first. Default: this host.")
    ] = None,
    federation: Annotated[str | None, typer.Option(help="Its name. Default: the folder's.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The broker's TLS port.")] = 8883,
    task: Annotated[str, typer.Option(help="digits, mnist-mlp, ... or FILE.py:FUNCTION.")] = "digits",
    evaluate: Annotated[bool, typer.Option(help="Evaluate each version here; needs what the task needs.")] = True,
    enroll_: Annotated[list[str] | None, typer.Option("--enroll", metavar="NODE", help="Enroll this node too.")] = None,
    days: Days = CERTIFICATE_DAYS,
    as_json: JsonOption = False,
) -> None:
    """Make a federation: authority, certificates, broker configuration, access rules, settings, compose file.

    \b
    Examples:
      coordinator init plant --host broker.example --enroll edge-01
      coordinator init plant --host 10.0.0.2 --host broker.example --task my_task.py:build
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    plan = FleetPlan(
        federation=_federation_id(federation or folder.absolute().name),
        hosts=tuple(_host(one) for one in host or [socket.gethostname()]),
        port=port,
        task=task,
        evaluate=evaluate,
    )
    fleet = _fleet(folder)
    fleet.create(plan, days=days)
    if as_json:
        enrolled = _enrolled_rows(fleet, fleet.enroll(enroll_ or [], days=days))
        made = {"federation": plan.federation, "folder": str(folder), "broker_url": plan.broker_url}
        typer.echo(json.dumps(made | {"enrolled": enrolled}))
        return
    typer.echo(f"federation {plan.federation} made in {folder}; the broker's address is {plan.broker_url}")
    typer.echo(f"keep {folder}/authority to yourself: whoever has it can enroll nodes")
    if os.getuid() == 0:
        typer.echo(
            "made by root: compose.yaml runs its containers as root, too; make it as another user, or edit user: there"
        )
    _tell_enrolled(fleet, fleet.enroll(enroll_ or [], days=days), more=_task_option(task))
    typer.echo(f"next: coordinator run --config {folder} --with-broker")
    if not is_builtin(task):
        typer.echo(f"{task} is no built-in task: where it reads files, these commands want --data DIR, too")


def enroll(
    folder: Folder,
    nodes: Annotated[list[str] | None, typer.Argument(metavar="[NODE]...", help="Names of nodes.")] = None,
    *,
    csr: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Request file of edge-node request or fedmq helper init.")
    ] = None,
    bundle: Annotated[
        bool,
        typer.Option("--bundle", help="Pack the task, too: its published release, or the source FILE.py:FUNCTION."),
    ] = False,
    days: Days = CERTIFICATE_DAYS,
    as_json: JsonOption = False,
) -> None:
    """Write one enrolment file for each node: it holds the node's keys, so move it as you would move a password.

    With --csr the device has made its own keys, and the file holds no secret. With --bundle a device needs nothing but
    this file and the package; it runs the code only if its owner joins with --with-task.

    \b
    Examples:
      coordinator enroll plant edge-02 edge-03
      coordinator enroll plant pi-{1..5} --bundle
      coordinator enroll plant --csr edge-04.request
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    if not nodes and not csr:
        raise ConfigError("NODE", "name a node, or give its request file as --csr", source="command line")
    fleet = _fleet(folder)
    requests = [decode_request(read_text(file, bytes_max=BUNDLE_BYTES_MAX)) for file in csr or []]
    packed = _packed(folder) if bundle else None
    named = fleet.enroll(nodes or [], days=days, packed=packed)
    asked = [fleet.enroll_request(request, days=days, packed=packed) for request in requests]
    if as_json:
        reloaded = reload_broker(fleet.folder.broker)
        typer.echo(json.dumps({"enrolled": _enrolled_rows(fleet, [*named, *asked]), "broker_reloaded": reloaded}))
        return
    more = " --with-task" if bundle else _task_option(read_config(folder, {}).task.name)
    _tell_enrolled(fleet, named, more=more)
    _tell_enrolled(fleet, asked, asked=True, more=more)
    _tell_reloaded(fleet, needed=False)


def revoke(folder: Folder, nodes: Nodes, *, as_json: JsonOption = False) -> None:
    """Shut nodes out: certificates are refused, connections end, nobody waits for them. Exit code 1: not proved.

    Run it again to check, such as after its files were copied to a broker that runs elsewhere.

    \b
    Examples:
      coordinator revoke plant edge-02
    """  # noqa: D301 - as above
    fleet = _fleet(folder)
    names = fleet.revoke(nodes)
    for name in () if as_json else names:
        typer.echo(f"{name} is revoked")
    reached = reload_broker(fleet.folder.broker)
    config = read_config(folder, {})
    problems = list(still_open(fleet, config, names))
    if as_json:
        runs = running_state(config.store.folder) is not None
        shut = {"revoked": names, "shut_out": not problems, "still_open": problems, "coordinator_runs_here": runs}
        typer.echo(json.dumps(shut))
        raise typer.Exit(1 if problems else 0)
    if not problems:
        typer.echo(SHUT)
        if running_state(config.store.folder) is None:
            typer.echo(
                f"no coordinator runs with {config.store.folder} here; elsewhere, give it coordinator/nodes.json"
            )
        return
    for problem in problems:
        typer.echo(f"NOT SHUT OUT: {problem}", err=True)
    if not reached:
        typer.echo(_ELSEWHERE, err=True)
    typer.echo(f"then check it: coordinator revoke {folder} {' '.join(names)}", err=True)
    raise typer.Exit(1)


def renew(
    folder: Folder,
    nodes: Annotated[list[str] | None, typer.Argument(metavar="[NODE]...", help="Default: see --within.")] = None,
    *,
    within: Annotated[int, typer.Option(min=0, help="Renew what ends within this many days.")] = EXPIRING_DAYS,
    days: Days = CERTIFICATE_DAYS,
    as_json: JsonOption = False,
) -> None:
    """Write new certificates: for the named nodes, or for every node, the broker and the coordinator that end soon.

    \b
    Examples:
      coordinator renew plant
      coordinator renew plant edge-02 --days 730
    """  # noqa: D301 - as above
    fleet = _fleet(folder)
    soon = dict(fleet.expiring(within_days=within))
    server = nodes is None and any(fleet.is_server(name) for name in soon)
    wanted = [name for name in soon if not fleet.is_server(name)] if nodes is None else nodes
    if server:
        fleet.renew_server(days=days)
    renewed = fleet.renew(wanted, days=days)
    if as_json:
        reloaded = reload_broker(fleet.folder.broker)
        made = {"renewed": _enrolled_rows(fleet, renewed), "server_renewed": server, "broker_reloaded": reloaded}
        typer.echo(json.dumps(made))
        return
    if server:
        typer.echo("broker and coordinator renewed: start the coordinator again")
    if not server and not renewed:
        typer.echo(f"no certificate ends within {within} days: nothing was written")
    _tell_enrolled(fleet, renewed)
    _tell_reloaded(fleet, needed=bool(soon))


def rotate_key(folder: Folder) -> None:
    """Have the coordinator take another key that nodes seal to, at once; it does so by itself, too (privacy.rotate_s).

    The one before opens what is under way, and is forgotten with the next. The model's group key stays: see revoke.

    \b
    Examples:
      coordinator rotate-key plant
    """  # noqa: D301 - as above
    config = read_config(folder, {})
    if not config.privacy.sealed:
        raise ConfigError("privacy.sealed", "this federation is not sealed, so there is no key to replace")
    state = config.store.folder
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        (state / ROTATE).touch()
    except OSError as error:
        raise StorageError(f"{state} cannot be written: {error.strerror}") from error
    runs = lock_holder(state) is not None
    typer.echo("the coordinator takes another key" if runs else "the coordinator takes another key once it runs here")


def tell_expiring(folder: Path, *, within_days: int = EXPIRING_DAYS) -> None:
    """Say which certificates end soon; nothing where there is no register, as on a host that only runs the broker."""
    fleet = _fleet(folder)
    if fleet.folder.register.exists():
        for name, ends in fleet.expiring(within_days=within_days):
            typer.echo(f"the certificate of {name} ends on {ends:%Y-%m-%d}: coordinator renew {folder}")


def certificate_ends(folder: Path) -> dict[str, str]:
    """When each valid name's newest certificate ends, as ISO 8601; nothing where there is no register."""
    fleet = _fleet(folder)
    if not fleet.folder.register.exists():
        return {}
    return {name: ends.isoformat() for name, ends in fleet.expiring(within_days=AUTHORITY_DAYS)}


def _fleet(folder: Path) -> Fleet:
    return Fleet(folder=FleetFolder(folder), now=dt.datetime.now(dt.UTC))


def _packed(folder: Path) -> PackedTask:
    """The task that goes with the files: the release that is published now, else the source that the settings name."""
    config = read_config(folder, {})
    return pack_release(ReleaseShelf(config.store.folder)) or pack_task(config.task.name)


def _enrolled_rows(fleet: Fleet, names: Sequence[NodeId]) -> list[dict[str, str]]:
    return [{"node": name, "file": str(fleet.folder.bundle(name))} for name in names]


def _tell_enrolled(fleet: Fleet, names: Sequence[NodeId], *, asked: bool = False, more: str = "") -> None:
    """Say what comes next.

    Args:
        fleet: The federation.
        names: Who was enrolled.
        asked: By a request, of which nobody can see whether a node or a helper has made it.
        more: Options of ``edge-node join``, each after a space.
    """
    for name in names:
        path = fleet.folder.bundle(name)
        other = f" (a helper of masked sums: fedmq helper init {path.name})" if asked else ""
        typer.echo(f"{name}: bring {path} to the device, then there: edge-node join {path.name}{more} --run{other}")


def _task_option(task: str) -> str:
    """A device must be told where the source of a task is that does not come with the project."""
    return "" if is_builtin(task) else f" --task {shlex.quote(task)}"


def _tell_reloaded(fleet: Fleet, *, needed: bool) -> None:
    if reload_broker(fleet.folder.broker):
        typer.echo("the broker has read its lists again")
    elif needed:
        typer.echo(_ELSEWHERE)


def _federation_id(text: str) -> FederationId:
    try:
        return validate_federation_id(text)
    except LocalProtocolError as error:
        raise ConfigError("--federation", str(error), source="command line") from error


def _host(text: str) -> str:
    """A name or an address; only an address of IPv6 has colons."""
    if ":" in text:
        try:
            return str(ipaddress.IPv6Address(text))
        except ValueError as error:
            shown = "this" if "@" in text else repr(text[:80])
            raise ConfigError("--host", f"{shown} is no address; give the port as --port") from error
    if not 0 < len(text) <= HOST_MAX or not set(text) <= HOST_CHARACTERS:
        # With an @ it may be a URL with a password.
        shown = "this" if "@" in text else repr(text[:80])
        raise ConfigError("--host", f"{shown} is no host name and no address", source="command line")
    return text
