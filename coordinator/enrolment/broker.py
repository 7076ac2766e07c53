"""The federation's Mosquitto as a process: started beside the coordinator, and told to read its lists again."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Self

from federation.runtime.local_broker import MosquittoProcess
from federation.runtime.log import get_log

__all__ = ["FleetBroker", "reload_broker"]

PID_BYTES_MAX = 32


class FleetBroker(MosquittoProcess):
    """Mosquitto with the configuration in a folder, for as long as this context lasts.

    One that already listens on the port is used as it is: a coordinator that was killed has left its broker behind.

    Args:
        folder: Has ``mosquitto.conf``; its paths are relative to it.
        hear: Called with each line of its log, on another thread.
    """

    def __init__(self, folder: Path, hear: Callable[[str], None] = lambda _: None) -> None:
        super().__init__()
        self._folder, self._hear = folder, hear

    def __enter__(self) -> Self:
        if self._launch(self._folder / "mosquitto.conf"):
            get_log("broker").info("broker_started", pid=self.pid)
        else:
            get_log("broker").warning("broker_in_use", why="another one listens on the port: it is used as it is")
        return self

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGTERM)

    def _heard(self, said: str) -> None:
        self._hear(said)
        log = get_log("broker")
        (log.warning if _is_trouble(said) else log.debug)("broker", said=said)


def _is_trouble(said: str) -> bool:
    """Refused certificates and failed connections; not that it warns of being root, or of rules for all nodes."""
    return "rror" in said and "not be run as root" not in said


def reload_broker(folder: Path) -> bool:
    """Have the broker of this folder read certificates, access rules and revocations again; False: none runs here."""
    try:
        text = (folder / "data" / "mosquitto.pid").read_text(encoding="ascii")[:PID_BYTES_MAX]
        pid = int(text)
        # A number that was left behind may be anybody's by now: only a Mosquitto that runs in this folder is ours.
        if (Path("/proc") / str(pid) / "comm").read_text(encoding="utf-8").strip() != "mosquitto":
            return False
        if not (Path("/proc") / str(pid) / "cwd").samefile(folder):
            return False
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError):
        return False
    return True
