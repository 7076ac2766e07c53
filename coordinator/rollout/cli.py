"""``coordinator task``: its commands, their options, and what they tell a person."""

import datetime as dt
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.enrolment.folder import FleetFolder
from coordinator.rollout.publishing import NewRelease, publish, restate
from coordinator.runtime.task_releases import NodeTask, ReleaseShelf
from federation.command_line import JsonOption
from federation.identity.task_release import TaskRelease
from federation.protocol.task_messages import TaskState
from federation.storage.folder import lock_holder
from federation.types import NodeId
from federation.units import human_bytes, human_share

__all__ = ["task_app"]

_NOBODY_SAYS = "no node has said anything yet; those that joined with --updates signed take releases, others do not"

task_app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's folder.")]
Share = Annotated[float, typer.Option(min=0.0001, max=1, help="Which share of the nodes takes it.")]


@task_app.command("publish")
def publish_command(  # noqa: PLR0913 - one parameter per option is how the library declares them
    folder: Folder,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder, a Python file, or a wheel -none-any.")],
    *,
    task: Annotated[
        str | None, typer.Option(help="FILE.py:FUNCTION or MODULE:FUNCTION in it. Default: as in the settings.")
    ] = None,
    share: Share = 1.0,
    number: Annotated[int | None, typer.Option(min=1, help="Its number. Default: the next one.")] = None,
    new_model: Annotated[
        bool, typer.Option("--new-model", help="Its model has other tensors than the release before.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Sign a bundle with the authority's key and give it to the nodes whose owners take signed releases.

    A node tries it, runs it from its next start on, and goes back if its first training fails. With --share less than
    1 only some nodes take it (canaries): see what they say, then widen it.

    \b
    Examples:
      coordinator task publish plant my_task.py
      coordinator task publish plant pumps/ --task lib/pump.py:build --share 0.1
      coordinator task publish plant dist/pumps-2-py3-none-any.whl --task pumps.task:build
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    fleet, config = FleetFolder(folder), read_config(folder, {})
    made_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    new = NewRelease(bundle=bundle, task=task, share=share, number=number, new_model=new_model, made_at=made_at)
    _tell(config, publish(fleet, config, new), as_json=as_json)


@task_app.command()
def widen(folder: Folder, *, share: Share = 1.0, as_json: JsonOption = False) -> None:
    """Give the current release to more nodes: those that have it keep it.

    \b
    Examples:
      coordinator task widen plant --share 0.5
      coordinator task widen plant
    """  # noqa: D301 - as above
    config = read_config(folder, {})
    _tell(config, restate(FleetFolder(folder), config, share=share), as_json=as_json)


@task_app.command()
def withdraw(folder: Folder, *, as_json: JsonOption = False) -> None:
    """Take the current release back: nodes that run it go back to the one before.

    \b
    Examples:
      coordinator task withdraw plant
    """  # noqa: D301 - as above
    config = read_config(folder, {})
    _tell(config, restate(FleetFolder(folder), config, withdrawn=True), as_json=as_json)


@task_app.command("list")
def list_command(folder: Folder, *, as_json: JsonOption = False) -> None:
    """Show the releases that are kept here, the newest one first.

    \b
    Examples:
      coordinator task list plant
    """  # noqa: D301 - as above
    releases = [_row(one) for one in reversed(ReleaseShelf(read_config(folder, {}).store.folder).releases())]
    if as_json:
        typer.echo(json.dumps({"releases": releases}))
        return
    if not releases:
        typer.echo(f"nothing was published: coordinator task publish {folder} BUNDLE")
        return
    columns = ("number", "step", "task", "share", "withdrawn", "bytes", "made_at")
    _show(columns, [_in_words(one) for one in releases])


@task_app.command()
def status(folder: Folder, *, as_json: JsonOption = False) -> None:
    """Show what has become of the current release: on how many nodes, and why where it was refused or has failed.

    Exit code: 0 also where nodes refused it; the document says who.

    \b
    Examples:
      coordinator task status plant
    """  # noqa: D301 - as above
    shelf = ReleaseShelf(read_config(folder, {}).store.folder)
    found, reports = shelf.current(), shelf.reports()
    release = None if found is None else found[1]
    about = {node: said for node, said in reports.items() if release is not None and said.number == release.number}
    counts = _counts(about)
    rows = [_node_row(node, said) for node, said in sorted(reports.items())]
    if as_json:
        current = None if release is None else _row(release)
        typer.echo(json.dumps({"release": current, "counts": counts, "nodes": rows}))
        return
    if release is None:
        typer.echo(f"nothing was published: coordinator task publish {folder} BUNDLE")
        return
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or _NOBODY_SAYS
    withdrawn = ", withdrawn" if release.withdrawn else f", for {human_share(release.share)} of the nodes"
    typer.echo(f"release {release.number} ({release.task}){withdrawn}: {said}")
    if rows:
        _show(("node", "release", "state", "running", "reason"), rows)


def _tell(config: CoordinatorConfig, release: TaskRelease, *, as_json: bool) -> None:
    runs = lock_holder(config.store.folder) is not None
    if as_json:
        typer.echo(json.dumps({"release": _row(release), "coordinator_runs_here": runs}))
        return
    what = "is withdrawn" if release.withdrawn else f"is for {human_share(release.share)} of the nodes"
    typer.echo(f"release {release.number} of {release.task} {what}; SHA-256 {release.sha256}")
    if not runs:
        typer.echo(f"no coordinator runs with {config.store.folder} here; nodes hear of it once one does")


def _counts(about: Mapping[NodeId, NodeTask]) -> dict[str, int]:
    counted = Counter(said.state for said in about.values())
    return {state.value: counted[state.value] for state in TaskState}


def _row(release: TaskRelease) -> dict[str, object]:
    return {
        "number": release.number,
        "step": release.step,
        "task": release.task,
        "sha256": release.sha256,
        "bytes": release.archive_bytes,
        "share": release.share,
        "withdrawn": release.withdrawn,
        "new_model": release.new_model,
        "made_at": release.made_at,
    }


def _in_words(row: dict[str, object]) -> dict[str, object]:
    """A release's row for people, in the units of `status`."""
    size, share = int(str(row["bytes"])), float(str(row["share"]))
    withdrawn = "yes" if row["withdrawn"] else "no"
    return row | {"bytes": human_bytes(size), "share": human_share(share), "withdrawn": withdrawn}


def _node_row(node: NodeId, said: NodeTask) -> dict[str, object]:
    return {
        "node": node,
        "release": said.number,
        "state": said.state,
        "running": said.running,
        "reason": said.reason,
    }


def _show(columns: tuple[str, ...], rows: list[dict[str, object]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    Console().print(table)
