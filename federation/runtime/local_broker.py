"""A Mosquitto of one's own: as a process, and on a free loopback port for the demo, the tests and the benchmarks."""

import contextlib
import ctypes
import os
import platform
import pwd
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Self

from federation.errors import TransportError

BROKER_LIMITS: Mapping[str, str] = MappingProxyType(
    {
        "per_listener_settings": "false",
        "max_packet_size": "262144",
        "max_inflight_messages": "20",
        "max_inflight_bytes": "2097152",
        "max_queued_messages": "20000",
        "max_queued_bytes": "100663296",
        "max_keepalive": "300",
        "set_tcp_nodelay": "true",
        "persistent_client_expiration": "7d",
        "memory_limit": "2147483648",
        "sys_interval": "10",
    }
)
"""The limits of ``mosquitto/limits`` in every configuration there, which gives the reason of each."""
# Below the ephemeral range of Linux and macOS: a client that retries a closed ephemeral port on loopback can connect
# to itself, and then holds the port that the broker wants back.
_PORTS = (20_000, 32_000)
_PR_SET_PDEATHSIG = 1
_START_S = 10.0
_STOP_S = 5.0
_STOP_ATTEMPTS = 20
_ATTEMPTS_MAX = 20
_LOG_LINES_MAX = 200
# To standard error: Mosquitto's standard output, when a pipe, is buffered for minutes. Not `debug`: a line per packet.
_LOG_TYPES = ("log_type error", "log_type warning", "log_type notice", "log_type information")
_TIME = re.compile(r"^\d+: ")
_RUNNING = re.compile(r"mosquitto version (\S+) running")
_ELSEWHERE = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin", "C:\\Program Files\\mosquitto")


class MosquittoMissing(TransportError):  # noqa: N818 - the name says what it is
    """Mosquitto is not installed; the message says how to install it here."""

    def __init__(self) -> None:
        super().__init__(
            "Mosquitto is not installed.\n"
            "  Debian, Ubuntu:  sudo apt-get install mosquitto\n"
            "  macOS:           brew install mosquitto\n"
            "  Windows:         winget install EclipseFoundation.Mosquitto\n"
            "  container:       docker run -p 1883:1883 eclipse-mosquitto:2 mosquitto -c /mosquitto-no-auth.conf\n"
            "                   and then pass --broker mqtt://127.0.0.1:1883"
        )


class BrokerFailed(TransportError):  # noqa: N818 - the name says what it is
    """Mosquitto did not start; the message has its own last words."""


class MosquittoProcess:
    """One Mosquitto as a child of ours: started, its log read for as long as it lives, and stopped.

    Attributes:
        version: Of the program, such as ``2.0.11``; empty until it listens.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES_MAX)
        self._decided = threading.Event()
        self.version = ""

    @property
    def pid(self) -> int:
        """Process id.

        Raises:
            BrokerFailed: It does not run.
        """
        if self._process is None:
            raise BrokerFailed("the broker does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_lines(self) -> tuple[str, ...]:
        """Its last log lines, without their times."""
        return tuple(self._log)

    def _command(self, configuration: Path) -> list[str]:
        """What runs Mosquitto in the configuration's folder; a subclass may run it somewhere else."""
        # By its name alone: as whom it runs may not enter the folders above that one.
        return [find_mosquitto(), "-c", configuration.name]

    def _owner(self) -> tuple[int, int] | None:
        """As which user and group it runs; None is as we do."""
        return None

    def _on_birth(self) -> Callable[[], None] | None:
        """What the new process does before it becomes Mosquitto."""
        return None

    def _environ(self) -> dict[str, str]:
        """Its variables. Mosquitto speaks to a service manager too: it would say that we are ready."""
        return {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}

    def _signal(self, process: "subprocess.Popen[str]", number: signal.Signals) -> None:
        process.send_signal(number)

    def _heard(self, said: str) -> None:
        """It has logged this line: called on a thread of its own."""

    def _launch(self, configuration: Path) -> bool:
        """Whether it listens; False: the port is taken. Relative paths in a configuration begin at its folder.

        Raises:
            MosquittoMissing: Not installed.
            BrokerFailed: It does not start.
        """
        self._log.clear()
        self._decided.clear()
        owner = self._owner()
        with _most_files():
            process = subprocess.Popen(
                self._command(configuration.absolute()),
                cwd=configuration.parent,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                user=None if owner is None else owner[0],
                group=None if owner is None else owner[1],
                extra_groups=None if owner is None else [],
                preexec_fn=self._on_birth(),  # noqa: PLW1509 - none of ours, or one that only asks the kernel for something
                start_new_session=True,  # Ctrl-C is for its owner, who stops it after the last words of the others
            )
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), name="broker-log", daemon=True)
        self._reader.start()
        self._decided.wait(_START_S)
        if self.version and self.running:
            return True
        self._end(signal.SIGKILL)
        if any("in use" in line for line in self._log):
            return False
        raise BrokerFailed(self._last_words())

    def _read(self, stream: IO[str]) -> None:
        """Drain its log for as long as it lives: a full pipe would stop it."""
        self.version = ""
        with stream:
            for line in stream:
                said = _TIME.sub("", line.rstrip())
                self._log.append(said)
                self._heard(said)
                if match := _RUNNING.search(said):
                    self.version = match.group(1)
                    self._decided.set()
        self._decided.set()

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # Mosquitto forgets a SIGTERM that comes between "running" and its main loop: say it until it is heard.
        for attempt in (*[number] * _STOP_ATTEMPTS, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self._signal(process, attempt)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S / _STOP_ATTEMPTS)
                break
        if self._reader is not None:
            self._reader.join(_STOP_S)

    def _last_words(self) -> str:
        return "Mosquitto did not start:\n" + "\n".join(f"  {line}" for line in list(self._log)[-5:])


class LocalBroker(MosquittoProcess):
    """One Mosquitto process on 127.0.0.1, started by `start` or as a context manager.

    Args:
        folder: For its configuration and store; None is a temporary folder that goes with `stop`.
        persistence: Keep sessions and retained messages in the folder when it ends orderly.
        settings: Lines of its configuration, by name. Default: `BROKER_LIMITS`; empty: Mosquitto's own defaults.
        lines: Further lines, after the listener's (``acl_file``, ``cafile``, ``protocol websockets``).

    Attributes:
        settings: As given; a change acts at the next `restart`.
        port: Of its listener; the same after `restart`.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        *,
        folder: Path | None = None,
        persistence: bool = False,
        settings: Mapping[str, str] = BROKER_LIMITS,
        lines: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self._own_folder = tempfile.TemporaryDirectory(prefix="fedmq-broker-") if folder is None else None
        self._folder = Path(self._own_folder.name) if self._own_folder is not None else Path(str(folder))
        self._persistence, self._lines = persistence, lines
        self.settings = settings
        self.port = 0

    @property
    def url(self) -> str:
        """For `parse_broker_url`."""
        return f"mqtt://{self.host}:{self.port}"

    def _on_birth(self) -> Callable[[], None] | None:
        # Of another thread's children the kernel would say that their parent has ended with it.
        here = threading.current_thread() is threading.main_thread()
        # It forgets a SIGTERM before its main loop, and the kernel sends one. Who keeps nothing has nothing to save.
        number = signal.SIGTERM if self._persistence else signal.SIGKILL
        return ends_with_us(number) if here else None

    def start(self) -> Self:
        """Start it and wait until it listens; on another port when somebody was faster.

        Raises:
            MosquittoMissing: Not installed.
            BrokerFailed: It does not start.
        """
        try:
            for _ in range(_ATTEMPTS_MAX):
                self.port = free_port()
                if self._listen():
                    return self
            raise BrokerFailed(self._last_words())
        except (TransportError, OSError):
            self.stop()
            raise

    def kill(self) -> None:
        """SIGKILL, as a power cut: nothing is saved."""
        self._end(signal.SIGKILL)

    def restart(self, *, wipe_store: bool = False) -> None:
        """Start again on the same port, after an orderly stop when it runs.

        Args:
            wipe_store: Forget sessions and retained messages.

        Raises:
            BrokerFailed: It does not start, or the port is taken.
        """
        self._end(signal.SIGTERM)
        if wipe_store:
            (self._folder / "mosquitto.db").unlink(missing_ok=True)
        if not self._listen():
            raise BrokerFailed(self._last_words())

    def stop(self) -> None:
        """Orderly stop; nothing of it is left behind."""
        self._end(signal.SIGTERM)
        if self._own_folder is not None:
            self._own_folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _owner(self) -> tuple[int, int] | None:
        """Not root where all that it needs is in a folder of our own; what a caller names, it may be unable to read."""
        return unprivileged() if self._own_folder is not None and not self._lines else None

    def _listen(self) -> bool:
        """Write the configuration and start; False: the port is taken."""
        configuration, owner = self._folder / "mosquitto.conf", self._owner()
        configuration.write_text(self._configuration())
        if owner is not None:
            give_away(self._folder, owner)
        return self._launch(configuration)

    def _configuration(self) -> str:
        lines = [f"{name} {value}" for name, value in self.settings.items()]
        if os.geteuid() == 0:
            lines.append(
                "user root"
            )  # it stays who we start it as; a user of its own choice could not write our folder
        if self._persistence:
            store = "./" if self._owner() is not None else f"{self._folder}/"
            lines += ["persistence true", "autosave_interval 300", f"persistence_location {store}"]
        lines += [f"listener {self.port} {self.host}", "allow_anonymous true", "log_dest stderr", *_LOG_TYPES]
        return "\n".join([*lines, *self._lines, ""])


def ends_with_us(number: signal.Signals) -> Callable[[], None] | None:
    """What a new process runs to get this signal when we end, in whatever way; None where the system has no such thing.

    "We" is the thread that starts it: it must be one that lives as long as the process.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # we have ended before
            os._exit(1)

    return arm


def unprivileged() -> tuple[int, int] | None:
    """User and group of a broker that root starts; None where we are not root, or the system has nobody for it."""
    if os.geteuid() != 0:
        return None
    for name in ("mosquitto", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return found.pw_uid, found.pw_gid
    return None


def give_away(folder: Path, owner: tuple[int, int]) -> None:
    """Let a folder, and all that is in it, belong to ``owner`` (user and group).

    Raises:
        BrokerFailed: The file system does not let us.
    """
    try:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, *owner, follow_symlinks=False)
    except OSError as error:
        raise BrokerFailed(f"{folder} cannot be given to the user {owner[0]}: {error.strerror}") from error


@contextlib.contextmanager
def _most_files() -> Iterator[None]:
    """What is started inside may open as many files as the system allows: each client is one.

    Under the usual soft limit of 1,024 about a thousand connections that say nothing would keep everybody else out.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS takes no "infinite" number of files.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def find_mosquitto() -> str:
    """Path of the program; looks also where packages put it outside of PATH.

    Raises:
        MosquittoMissing: Not installed.
    """
    name = "mosquitto.exe" if platform.system() == "Windows" else "mosquitto"
    path = os.pathsep.join([os.environ.get("PATH", ""), *_ELSEWHERE])
    found = shutil.which(name, path=path)
    if found is None:
        raise MosquittoMissing
    return found


def free_port() -> int:
    """A loopback port that nobody listens on now.

    Raises:
        BrokerFailed: None was found.
    """
    chooser = random.SystemRandom()
    for _ in range(100):
        port = chooser.randrange(*_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LocalBroker.host, port))
            return port
    raise BrokerFailed(f"no free loopback port between {_PORTS[0]} and {_PORTS[1]}")
