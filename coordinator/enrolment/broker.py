"""The federation's Mosquitto as a process: started beside the coordinator, and told to read its lists again."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from federation.errors import ConfigError
from federation.runtime.local_broker import MosquittoProcess, ends_with_us, give_away, unprivileged
from federation.runtime.log import get_log

__all__ = ["FleetBroker", "broker_of", "brokers_of", "reload_broker"]

PROCESSES = Path("/proc")

OWNER = "FEDMQ_BROKER_OWNER"
"""A broker's variable that says when the process that it ends with began, in the kernel's ticks since the start."""

LEAVES_S = 2.0
"""So long a broker of a former release may take to leave when its coordinator was killed, in seconds."""

SAVES_S = 10.0
"""So long one that has outlived its coordinator may take to save its state, in seconds."""

LOOK_S = 0.05


def broker_of(
    config: Path | None, hear: Callable[[str], None] = lambda _: None, *, made_by: str = "coordinator init"
) -> "FleetBroker":
    """The Mosquitto of a federation's folder, for ``--with-broker``; the log is configured.

    Args:
        config: The folder; None, or none that is there, has no broker.
        hear: As for `FleetBroker`.
        made_by: The command that makes such a folder, for people.

    Raises:
        ConfigError: It is no such folder.
    """
    if config is None or not config.is_dir():
        raise ConfigError("--with-broker", f"needs --config with the folder of {made_by}", source="command line")
    return FleetBroker(config / "broker", hear)


class FleetBroker(MosquittoProcess):
    """Mosquitto with the configuration in a folder, for as long as this context lasts.

    It ends with this process, also when that is killed; where it has not, since Mosquitto forgets a signal that comes
    before its main loop, the next start ends it. One that runs in the folder all the same, or listens on the
    port, is used as it is: another coordinator has it, or one of a former release has left it behind. It never runs as
    root: for root it runs as the folder's owner, or as a user without rights,
    who then becomes the owner.

    Args:
        folder: Has ``mosquitto.conf``; its paths are relative to it.
        hear: Called with each line of its log, on another thread.
    """

    def __init__(self, folder: Path, hear: Callable[[str], None] = lambda _: None) -> None:
        super().__init__()
        self._folder, self._hear = folder, hear

    def __enter__(self) -> Self:
        log = get_log("broker")
        # A second Mosquitto would find the port taken, and delete the first one's pid file as it leaves.
        if running := self._staying():
            log.warning("broker_in_use", pid=running[0], why="it runs in this folder already: it is used as it is")
        elif self._launch(self._folder / "mosquitto.conf"):
            log.info("broker_started", pid=self.pid)
        else:
            log.warning("broker_in_use", why="another one listens on the port: it is used as it is")
        return self

    def _staying(self) -> list[int]:
        """Brokers that run here for somebody; those of a process that is gone have left, or were ended, by then."""
        began_s = time.monotonic()
        while running := brokers_of(self._folder):
            told = {pid: _owner_lives(pid) for pid in running}
            past_s = time.monotonic() - began_s
            if (False not in told.values() and (True in told.values() or past_s > LEAVES_S)) or past_s > 2 * SAVES_S:
                break
            for pid in (pid for pid, lives in told.items() if lives is False):
                # Again and again: it has forgotten the first one.
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGTERM if past_s < SAVES_S else signal.SIGKILL)
            time.sleep(LOOK_S)
        return running

    def _environ(self) -> dict[str, str]:
        return {**super()._environ(), OWNER: _began(PROCESSES / "self")}

    def _on_birth(self) -> Callable[[], None] | None:
        return ends_with_us(signal.SIGTERM)

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGTERM)

    def _owner(self) -> tuple[int, int] | None:
        nobody = unprivileged()
        if nobody is None:
            return None
        owner = self._folder.stat()
        if owner.st_uid != 0:
            return owner.st_uid, owner.st_gid
        give_away(self._folder, nobody)
        return nobody

    def _heard(self, said: str) -> None:
        self._hear(said)
        log = get_log("broker")
        (log.warning if _is_trouble(said) else log.debug)("broker", said=said)


def _is_trouble(said: str) -> bool:
    """Refused certificates and failed connections; not that it warns of being root, or of rules for all nodes."""
    return "rror" in said and "not be run as root" not in said


def brokers_of(folder: Path) -> list[int]:
    """The process ids of the Mosquittos that run in a folder.

    Not by its pid file: it may be gone, and the number that was left behind may be anybody's by now.
    """
    return [int(entry.name) for entry in PROCESSES.glob("[0-9]*") if _runs_in(entry, folder)]


def reload_broker(folder: Path) -> bool:
    """Have the broker of this folder read certificates, access rules and revocations again; False: none runs here."""
    reached = False
    for pid in brokers_of(folder):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGHUP)
            reached = True
    return reached


def _owner_lives(broker: int) -> bool | None:
    """Whether the process that a broker ends with is there; None: it does not say, or is not ours to ask.

    That process is its parent, until it is gone. By its number alone it could be another one in its place.
    """
    try:
        variables = (PROCESSES / str(broker) / "environ").read_bytes().split(b"\0")
        parent = _stat(PROCESSES / str(broker))[1]
    except OSError:
        return None
    said = next((one.removeprefix(f"{OWNER}=".encode()) for one in variables if one.startswith(OWNER.encode())), b"")
    return _began(PROCESSES / parent).encode() == said if said else None


def _began(process: Path) -> str:
    """When it began, in ticks since the start of the machine; empty where that is not said."""
    try:
        return _stat(process)[19]
    except OSError:
        return ""


def _stat(process: Path) -> list[str]:
    """What the kernel says of it, from its state on: the name before may hold spaces and brackets."""
    return (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _runs_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "comm").read_text(encoding="utf-8").strip() == "mosquitto" and (process / "cwd").samefile(
            folder
        )
    except OSError:  # it has ended, or is somebody else's
        return False
