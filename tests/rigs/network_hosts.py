"""Hosts with addresses of their own: network namespaces on one bridge, which is in a namespace of its own too.

Nothing of this machine's network is touched. Each host has a home folder and a loopback, and sees the others by name.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

LIMIT_S = 60.0
STOP_S = 10.0
ADDRESS = "10.77.7.{}"
LINK = "eth0"


def why_no_namespaces() -> str | None:
    """Why this machine cannot make network namespaces; None when it can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "ip is not installed (apt-get install iproute2)"
    name = f"fmq{os.getpid()}-try"
    made = _try("netns", "add", name)
    if made is None:
        # A bridge and a pair of links are what some containers forbid.
        made = _try("-n", name, "link", "add", "b0", "type", "bridge") or _try(
            "-n", name, "link", "add", "v0", "type", "veth", "peer", "name", "v1"
        )
        _try("netns", "del", name)
    return made and f"network namespaces cannot be made here: {made}"


def _try(*arguments: str) -> str | None:
    program = shutil.which("ip") or "/usr/sbin/ip"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip() or f"ip {' '.join(arguments)} failed")


class Program:
    """A process that is listened to, line by line.

    Attributes:
        said: All lines so far.
    """

    def __init__(self, command: list[str], home: Path, environ: Mapping[str, str]) -> None:
        self.said: list[str] = []
        self._heard, self._ended = threading.Condition(), False
        self._process = subprocess.Popen(
            command,
            cwd=home,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, wanted: Callable[[str], bool] | str, *, since: int = 0, limit_s: float = LIMIT_S) -> int:
        """Wait for a line; returns the place behind it.

        Args:
            wanted: A part of the line, or whether it is the one.
            since: Lines before this place do not count.
            limit_s: Then the test fails with all that was said.
        """
        is_wanted = wanted if callable(wanted) else lambda line: wanted in line
        place = since
        with self._heard:
            while True:
                while place < len(self.said):
                    place += 1
                    if is_wanted(self.said[place - 1]):
                        return place
                if self._ended or not self._heard.wait(limit_s):
                    break
        raise AssertionError(f"never said {wanted!r}:\n" + "\n".join(self.said[-40:]))

    def event(self, name: str, *, since: int = 0, **fields: object) -> int:
        """Wait for a JSON log line with this event and these fields; returns the place behind it."""

        def wanted(line: str) -> bool:
            return is_event(line, name, fields)

        return self.wait_for(wanted, since=since)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait_for_end(self, limit_s: float = LIMIT_S) -> int:
        """Wait until it has ended by itself; returns its exit code."""
        return self._process.wait(limit_s)

    def stop(self) -> None:
        """Ask it to end, and insist."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_S)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                with self._heard:
                    self.said.append(line.rstrip())
                    self._heard.notify_all()
        with self._heard:
            self._ended = True
            self._heard.notify_all()


def is_event(line: str, name: str, fields: Mapping[str, object]) -> bool:
    """Whether a log line is this event with these fields."""
    try:
        said = json.loads(line)
    except ValueError:
        return False
    return isinstance(said, dict) and {"event": name, **fields}.items() <= said.items()


@dataclass
class Host:
    """One host.

    Attributes:
        name: As the others call it.
        namespace: Its network namespace; None is this machine's own network.
        home: Its home folder.
        environ: Variables of everything that runs on it.
        names: File with the names of the other hosts, which it sees as ``/etc/hosts``.
    """

    name: str
    namespace: str | None
    home: Path
    environ: Mapping[str, str]
    names: Path
    _programs: list[Program] = field(default_factory=list)

    def run(self, line: str) -> str:
        """Run a shell command line to its end; it must succeed."""
        done = subprocess.run(
            self._command(line), cwd=self.home, env=self.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{self.name}: {line}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, line: str, **variables: str) -> Program:
        """Start a shell command line; it is stopped with its host."""
        program = Program(self._command(f"exec {line}"), self.home, {**self.environ, **variables})
        self._programs.append(program)
        return program

    def cut(self) -> None:
        """Take its link down: nothing says so to either side."""
        self._link("down")

    def restore(self) -> None:
        """Bring its link up again."""
        self._link("up")

    def stop(self) -> None:
        """End what runs on it."""
        for program in reversed(self._programs):
            program.stop()

    def _link(self, state: str) -> None:
        assert self.namespace is not None
        _ip("-n", self.namespace, "link", "set", LINK, state)

    def _command(self, line: str) -> list[str]:
        if self.namespace is None:
            return ["/bin/bash", "-c", line]
        # `ip netns exec` has made a mount namespace: what is mounted in it is seen in it alone.
        inside = f"mount --bind {self.names} /etc/hosts && {line}"
        return ["ip", "netns", "exec", self.namespace, "/bin/bash", "-c", inside]


class Network:
    """A bridge and the hosts on it; everything is removed at the end, whatever happened.

    Args:
        folder: For the hosts' homes.
        programs: Folder with programs that all hosts find first.
    """

    def __init__(self, folder: Path, programs: Path | None = None) -> None:
        self._folder, self._prefix = folder, f"fmq{os.getpid()}"
        self._switch, self._names = f"{self._prefix}-switch", folder / "hosts"
        path = [str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]
        self._path = os.pathsep.join([*([str(programs)] if programs else []), *path])
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Self:
        self._names.write_text("127.0.0.1 localhost\n")
        _remove_abandoned()
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "bridge", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in reversed(self.hosts.values()):
            host.stop()
        for name in (*(host.namespace for host in self.hosts.values()), self._switch):
            if name is not None:
                _try("netns", "del", name)

    def add(self, name: str, *, aliases: tuple[str, ...] = ()) -> Host:
        """A new host with its own address, linked to the bridge."""
        number = len(self.hosts) + 1
        namespace, home = f"{self._prefix}-{number}", self._folder / name
        home.mkdir()
        environ = os.environ | {"PATH": self._path, "HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        host = self.hosts[name] = Host(name=name, namespace=namespace, home=home, environ=environ, names=self._names)
        _ip("netns", "add", namespace)
        pair = ("link", "add", LINK, "netns", namespace, "type", "veth", "peer", "name", f"port{number}")
        _ip(*pair, "netns", self._switch)
        _ip("-n", self._switch, "link", "set", f"port{number}", "master", "bridge", "up")
        _ip("-n", namespace, "addr", "add", f"{ADDRESS.format(number)}/24", "dev", LINK)
        for link in ("lo", LINK):
            _ip("-n", namespace, "link", "set", link, "up")
        with self._names.open("a") as names:
            names.write(f"{ADDRESS.format(number)} {' '.join((name, *aliases))}\n")
        return host


@contextmanager
def on_one_machine(folder: Path, programs: Path) -> Iterator[dict[str, Host]]:
    """Two home folders on this machine's own network, where namespaces cannot be made."""
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    hosts = {}
    for name in ("server", "device"):
        home = folder / name
        home.mkdir()
        environ = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        hosts[name] = Host(name=name, namespace=None, home=home, environ=environ, names=folder / "hosts")
    try:
        yield hosts
    finally:
        for host in reversed(hosts.values()):
            host.stop()


def _remove_abandoned() -> None:
    """Namespaces of test processes that were killed and could not clean up."""
    for place in Path("/run/netns").glob("fmq*-*"):
        found = re.fullmatch(r"fmq(\d+)-\w+", place.name)
        if found and not Path("/proc", found.group(1)).exists():
            _try("netns", "del", place.name)


def _ip(*arguments: str) -> None:
    failed = _try(*arguments)
    assert failed is None, f"ip {' '.join(arguments)}: {failed}"
