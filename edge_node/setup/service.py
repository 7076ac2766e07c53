"""``edge-node join --service``: the node as a service of this device, from its settings to its first update."""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from edge_node.storage.read_only import read_node
from federation.errors import ConfigError, StorageError
from federation.identity.private_files import PUBLIC, write_text
from federation.services import check_place, unit_text

__all__ = ["FIRST_UPDATE_S", "Host", "first_update", "start_service"]

UNIT = "fedmq-node.service"
FIRST_UPDATE_S = 600.0
"""How long the command waits for the first update, in seconds; the service goes on whatever becomes of it."""
_POLL_S = 1.0
_NO_SYSTEMD = "no systemd runs here: have your init run this as an unprivileged user, and again whenever it ends"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where a device keeps what a service needs.

    Attributes:
        booted: Exists where systemd is in charge.
        units: Units that an administrator adds.
        settings: The node's folder.
        state: Its state folder, as the unit names it.
        user: Who runs it.
        run: Runs a command, and gives its exit code.
    """

    booted: Path = Path("/run/systemd/system")
    units: Path = Path("/etc/systemd/system")
    settings: Path = Path("/etc/fedmq/node")
    state: Path = Path("/var/lib/fedmq/node")
    user: str = "fedmq"
    run: Callable[[Sequence[str]], int] = lambda words: subprocess.run(words, check=False).returncode

    @property
    def has_systemd(self) -> bool:
        """Whether systemd runs here."""
        return self.booted.is_dir()

    def check(self, settings: Path) -> None:
        """See to it that a service can be made, before anything is written.

        Raises:
            ConfigError: It takes root, or the unit could not see the program or the settings.
        """
        if not self.has_systemd:
            return
        if os.geteuid() != 0:
            raise ConfigError("--service", "takes root: the same command with sudo before it", source="command line")
        unit_text(UNIT)
        check_place(settings)


def start_service(folder: Path, host: Host, *, wait_s: float) -> int:
    """Install the unit, examine the device, start the node, and wait for its first update.

    Args:
        folder: The node's settings, as `install` has left them.
        host: Where things are.
        wait_s: How long to wait for the update, in seconds; 0 does not wait.

    Returns:
        The exit code: 1 where the doctor or systemd has failed; the node is not started then.

    Raises:
        ConfigError: The unit cannot name a folder.
        StorageError: The unit cannot be written.
    """
    if not host.has_systemd:
        typer.echo(f"{_NO_SYSTEMD}\n  {Path(sys.prefix) / 'bin/edge-node'} run --config {folder.absolute()}")
        return 0
    _make_user(host)
    _give(folder, host)
    write_text(host.units / UNIT, unit_text(UNIT, settings=folder), mode=PUBLIC)
    typer.echo(f"unit: {host.units / UNIT}")
    if _call(host, "systemctl", "daemon-reload") or _examine(folder, host):
        typer.echo("not started. Mend what failed; then: systemctl enable --now fedmq-node", err=True)
        return 1
    # Not awaited: it is ready only once it is connected, and a device may be off the net for a week.
    if _call(host, "systemctl", "enable", UNIT) or _call(host, "systemctl", "restart", "--no-block", UNIT):
        typer.echo("systemd has refused: systemctl status fedmq-node", err=True)
        return 1
    typer.echo("started; it starts again with the device. journalctl -u fedmq-node -f shows what it does")
    if wait_s:
        typer.echo("waiting for its first update (Ctrl-C ends the waiting, not the node) …")
        typer.echo(first_update(host.state, wait_s))
    return 0


def first_update(state: Path, wait_s: float, pause: Callable[[float], None] = time.sleep) -> str:
    """Wait until the coordinator has said that it has an update of this node, and say so.

    Args:
        state: The node's state folder; it may not be there yet.
        wait_s: For how long, in seconds.
        pause: Waits so many seconds between two looks.
    """
    give_up_s = time.monotonic() + wait_s
    while True:
        # Until the node has made its store there is nothing to read.
        with contextlib.suppress(StorageError):
            node = read_node(state)
            if node.seen is not None and node.seen.applied is not None:
                return f"the first update is in: it became part of version {node.seen.applied}"
            if any(stored for _, stored in node.outbox.values()):
                return "the first update is in: the coordinator has stored it for its next version"
        if time.monotonic() >= give_up_s:
            return (
                f"no update after {wait_s:.0f} s; the node goes on by itself. What it does: "
                "systemctl status fedmq-node; what the coordinator waits for, there: coordinator why"
            )
        pause(_POLL_S)


def _make_user(host: Host) -> None:
    try:
        pwd.getpwnam(host.user)
    except KeyError:
        home, shell = str(host.state.parent), "/usr/sbin/nologin"
        if _call(host, "useradd", "--system", "--home-dir", home, "--shell", shell, host.user):
            raise StorageError(f"the user {host.user} cannot be made: useradd has failed") from None


def _give(folder: Path, host: Host) -> None:
    """The settings belong to who runs the node; nothing is followed out of the folder."""
    try:
        owner = pwd.getpwnam(host.user)
        host.state.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.chown(host.state.parent, owner.pw_uid, owner.pw_gid)
        for place in (folder, *folder.rglob("*")):
            os.chown(place, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    except (KeyError, OSError) as error:
        raise StorageError(f"{folder} cannot be given to {host.user}: {error}") from error


def _examine(folder: Path, host: Host) -> int:
    """The doctor as the user that will run the node: what only root may read must not pass."""
    words = [sys.executable, "-m", "edge_node", "doctor", "--config", str(folder), "--state", str(host.state)]
    runuser = shutil.which("runuser")
    if runuser is not None:
        words = [runuser, "-u", host.user, "--", *words]
    return _call(host, *words)


def _call(host: Host, *words: str) -> int:
    try:
        return host.run(words)
    except OSError as error:
        raise StorageError(f"{words[0]} cannot be run: {error.strerror}") from error
