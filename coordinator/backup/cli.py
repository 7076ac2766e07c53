"""``coordinator backup`` and ``coordinator restore``: their options and what they print."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from coordinator.backup.making import BackupMade, make_backup, refuse_site
from coordinator.backup.restoring import Restoration
from coordinator.backup.restoring import restore as restore_run
from coordinator.config.sections import read_config, state_folder
from coordinator.storage.places import require_library
from federation.command_line import JsonOption
from federation.errors import ConfigError
from federation.identity.signing_keys import NodeKeys, read_trust
from federation.protocol.limits import INT32_MAX
from federation.runtime.clock import MonotonicClock
from federation.units import counted, human_bytes

__all__ = ["backup", "move_store", "restore"]

TOLD_EVERY_S = 1.0
"""How often the progress is told, in seconds; what takes less tells nothing."""

ConfigOption = Annotated[
    Path | None, typer.Option(help="TOML file with all settings, or the folder of coordinator init.", exists=True)
]


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file, such as run.fedmq.tar.")],
    *,
    config: ConfigOption = None,
    state: Annotated[Path | None, typer.Option(help="State folder, instead of the configuration's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the whole run to one file, as of this moment; the coordinator may be running, and is not held up.

    In it are all versions, updates and rounds, the models that are kept, and what was acknowledged and is in no version
    yet; no key and no password. coordinator restore begins again from it. It takes its name when it is whole and on the
    disk.

    \b
    Examples:
      coordinator backup run.fedmq.tar --config plant
      coordinator backup /mnt/backup/$(date +%F).fedmq.tar --state /var/lib/fedmq/coordinator --json
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    settings = None if config is None or state is not None else read_config(config, {})
    folder = state_folder(settings, state)
    refuse_site(folder, "back up the run there; a gateway that has lost its folder starts with an empty one")
    made = make_backup(folder, file, force=force, progress=lambda total: _Told("backup", total))
    for name in made.damaged:
        typer.echo(f"coordinator: {name} is missing or damaged in the store: it costs its update", err=True)
    if as_json:
        sys.stdout.write(json.dumps(_as_json(made)) + "\n")
    else:
        facts = made.facts
        waiting = f", {counted(facts.waiting, 'update')} for the next one" if facts.waiting else ""
        typer.echo(f"run {facts.run}: version {facts.version}{waiting} written to {file} ({human_bytes(made.bytes)})")


def restore(  # noqa: PLR0913 - one parameter per option of the command line
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="The backup; or a state folder that was copied as it was.")
    ],
    *,
    config: ConfigOption = None,
    state: Annotated[Path | None, typer.Option(help="New state folder, instead of the configuration's.")] = None,
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Begin a new run with the backup's newest model as version 0.")
    ] = False,
    above: Annotated[
        int, typer.Option(min=0, max=INT32_MAX, metavar="EPOCH", help="Nodes have obeyed this epoch since.")
    ] = 0,
    released: Annotated[
        int | None,
        typer.Option(min=0, metavar="VERSION", help="Where the coordinator adds noise: the newest that anybody got."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a state folder from a backup, so that the nodes obey at once whatever they have seen since.

    Every byte is verified before anything is written; the state folder must be missing or empty. The run goes on from
    the backup's newest version, with epochs and rounds above all that it may have had: what was made after the backup
    is lost, and nodes give that work back. The coordinator that had the run before must be gone for good. Keys are in
    no backup: with --config of a federation that signs, its key is looked for first.

    \b
    Examples:
      coordinator restore run.fedmq.tar --config plant
      coordinator restore run.fedmq.tar --state /var/lib/fedmq/coordinator --json
      coordinator restore run.fedmq.tar --state state/again --new-run
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    settings = None if config is None else read_config(config, {})
    if settings is not None:
        # Without it no node would believe what is begun here.
        read_trust(settings.security.signing_key, None, NodeKeys)
    folder = state_folder(settings, state)
    refuse_site(source, "restore the run there; a gateway that has lost its folder starts with an empty one")
    made = restore_run(source, folder, new_run=new_run, above=above, released=released, progress=_Told)
    for name in made.missing:
        typer.echo(f"coordinator: {name} is not in the backup: it costs its update", err=True)
    if made.changed:
        typer.echo("coordinator: run, epoch or manifest had been changed by somebody before the backup", err=True)
    if as_json:
        sys.stdout.write(json.dumps({"state": str(folder)} | asdict(made)) + "\n")
    else:
        typer.echo(_restored_text(made, folder))


def move_store(
    *,
    config: Annotated[
        Path, typer.Option(help="TOML file with all settings, or the folder of coordinator init.", exists=True)
    ],
    as_json: JsonOption = False,
) -> None:
    """Take a run from its state folder into the database of store.url; the next start goes on from there.

    The coordinator must be stopped, and the database empty. Nodes notice nothing. What was arriving in pieces is sent
    again. The folder keeps the former database under another name, its status and its keys.

    \b
    Examples:
      coordinator move-store --config coordinator.toml
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    store = read_config(config, {}).store
    if store.url is None:
        raise ConfigError("store.url", "name the database that the run is moved to: postgresql://USER@HOST/DATABASE")
    require_library()
    refuse_site(store.folder, "move the run's store there")
    from coordinator.storage.postgresql.moving import move_store as move_run  # noqa: PLC0415 - of an extra

    moved = move_run(store.folder, store.url, store.lease_s)
    for name in moved.missing:
        typer.echo(f"coordinator: {name} is missing in the store: it costs its update", err=True)
    if as_json:
        sys.stdout.write(json.dumps(asdict(moved)) + "\n")
    else:
        typer.echo(
            f"run {moved.run}: version {moved.version} is in the database now, with {counted(moved.files, 'file')}"
        )


def _restored_text(made: Restoration, folder: Path) -> str:
    if made.restored is None:
        return (
            f"new run {made.run} in {folder}: its version 0 is version {made.former_version} of run {made.former_run}"
        )
    waiting = f", {counted(made.waiting, 'update')} for the next one" if made.waiting else ""
    return (
        f"run {made.run} goes on in {folder} from version {made.version}{waiting}; "
        f"its epochs are above {made.restored.epoch}, its rounds begin at {made.restored.next_round}"
    )


def _as_json(made: BackupMade) -> dict[str, object]:
    return {"file": str(made.file), "bytes": made.bytes, **asdict(made.facts), "damaged": list(made.damaged)}


class _Told:
    """Progress on standard error: one line that changes on a terminal, plain lines elsewhere."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._now = MonotonicClock().now
        self._told_at = self._now()

    def __call__(self, count: int) -> None:
        """So many bytes more."""
        self._done += count
        now = self._now()
        if now - self._told_at < TOLD_EVERY_S:
            return
        self._told_at = now
        begin, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
        sys.stderr.write(f"{begin}{self._what}: {human_bytes(self._done)} of {human_bytes(self._total)}{end}")
        sys.stderr.flush()
