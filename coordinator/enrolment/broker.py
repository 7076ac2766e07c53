"""The federation's Mosquitto as a process: started beside the coordinator, and told to read its lists again."""

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

from federation.runtime.local_broker import BrokerFailed, find_mosquitto
from federation.runtime.log import get_log

__all__ = ["FleetBroker", "reload_broker"]

START_S = 10.0
STOP_S = 5.0
STOP_ATTEMPTS = 20
LOG_LINES_MAX = 20
PID_BYTES_MAX = 32


class FleetBroker:
    """Mosquitto with the configuration in a folder, for as long as this context lasts.

    One that already listens on the port is used as it is: a coordinator that was killed has left its broker behind.

    Args:
        folder: Has ``mosquitto.conf``; its paths are relative to it.
        hear: Called with each line of its log, on another thread.
    """

    def __init__(self, folder: Path, hear: Callable[[str], None] = lambda _: None) -> None:
        self._folder, self._hear = folder, hear
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._decided = threading.Event()
        self._running = False
        self._log: deque[str] = deque(maxlen=LOG_LINES_MAX)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [find_mosquitto(), "-c", "mosquitto.conf"],
            cwd=self._folder,
            # Mosquitto speaks to a service manager too; it would say that we are ready.
            env={name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for the coordinator, which says goodbye through the broker first
        )
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), name="broker-log", daemon=True)
        self._reader.start()
        self._decided.wait(START_S)
        if self._running:
            get_log("broker").info("broker_started", pid=self._process.pid)
            return self
        self._end()
        if any("in use" in line for line in self._log):
            get_log("broker").warning("broker_in_use", why="another one listens on the port: it is used as it is")
            return self
        raise BrokerFailed("Mosquitto did not start:\n" + "\n".join(f"  {line}" for line in list(self._log)[-5:]))

    def __exit__(self, *_: object) -> None:
        self._end()

    def _read(self, stream: IO[str]) -> None:
        """Drain its log for as long as it lives: a full pipe would stop it."""
        log = get_log("broker")
        with stream:
            for line in stream:
                _, _, said = line.rstrip().partition(": ")
                self._log.append(said)
                self._hear(said)
                (log.warning if _is_trouble(said) else log.debug)("broker", said=said)
                if said.endswith(" running"):
                    self._running = True
                    self._decided.set()
        self._decided.set()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # Mosquitto forgets a SIGTERM that comes between "running" and its main loop: say it until it is heard.
        for number in (*[signal.SIGTERM] * STOP_ATTEMPTS, signal.SIGKILL):
            process.send_signal(number)
            try:
                process.wait(STOP_S / STOP_ATTEMPTS)
                break
            except subprocess.TimeoutExpired:
                continue
        if self._reader is not None:
            self._reader.join(STOP_S)


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
