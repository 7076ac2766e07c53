"""The demo's processes: started, listened to line by line, killed and cleaned up."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO

from federation.documents import read_json
from fedmq.demo.fork_server import ForkedProcess, ForkServer

STOP_GRACE_S = 5.0
"""How long a process may take to stop by itself, in seconds."""

NO_VARIABLES: Mapping[str, str] = MappingProxyType({})

CRASH = "Fatal Python error:"
CRASHED_THREAD = "Current thread"
"""How Python's own account of a crash begins, and that of the thread in which it was."""

LINES_MAX = 10_000
"""Lines that may wait for the demo; readers block beyond it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One JSON log line of a process."""

    source: str
    fields: Mapping[str, object]

    @property
    def event(self) -> str:
        """The stable event key."""
        return str(self.fields.get("event", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """A process has ended and all its lines have been read."""

    source: str
    generation: int
    code: int


Process = subprocess.Popen[str] | ForkedProcess


@dataclass(slots=True)
class _Child:
    command: Sequence[str]
    process: Process
    reader: threading.Thread
    generation: int


@dataclass(slots=True)
class Fleet:
    """Named child processes, each in a session of its own so that Ctrl-C reaches the demo alone.

    Attributes:
        folder: Where each process writes its stderr, ``NAME.stderr``.
        server: Forks them; None starts each from nothing.
        unforked: Names of those that are started from nothing nevertheless: a forked one has the server's pages.
        lines: What the processes said, in order of arrival.
        interrupted: Set by Ctrl-C.
    """

    folder: Path
    server: ForkServer | None = None
    unforked: frozenset[str] = frozenset()
    lines: "queue.Queue[Line | Exited]" = field(default_factory=lambda: queue.Queue(LINES_MAX))
    interrupted: threading.Event = field(default_factory=threading.Event)
    _children: dict[str, _Child] = field(default_factory=dict)
    _closing: threading.Event = field(default_factory=threading.Event)

    def start(
        self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str] = NO_VARIABLES
    ) -> None:
        """Start ``python -m MODULE ARGUMENTS`` under this name; ``environment`` is for this process alone.

        Raises:
            KeyboardInterrupt: Somebody has pressed Ctrl-C: nothing more is started.
        """
        self._spawn(name, [sys.executable, "-m", module, *arguments], environment, generation=0)

    def restart(self, name: str, environment: Mapping[str, str] = NO_VARIABLES) -> None:
        """Start a process that has ended again, with the same command; its former environment is forgotten."""
        child = self._children[name]
        child.process.wait()
        self._spawn(name, child.command, environment, generation=child.generation + 1)

    def interrupt(self) -> None:
        """Somebody has pressed Ctrl-C: nothing more is started, and what is to be forked is not waited for."""
        self.interrupted.set()
        if self.server is not None:
            self.server.abandon()

    def kill(self, name: str) -> None:
        """SIGKILL: the process has no chance to clean up."""
        self.send_signal(name, signal.SIGKILL)

    def send_signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the process alone; one that has ended gets nothing."""
        self._children[name].process.send_signal(number)

    def pid(self, name: str) -> int:
        """The process id of the newest process of this name."""
        return self._children[name].process.pid

    def generation(self, name: str) -> int:
        """How often this process has been started again."""
        return self._children[name].generation

    def stderr_tail(self, name: str, lines: int = 12) -> str:
        """The last lines that a process wrote to stderr; of one that crashed the first ones of what led there."""
        path = self.folder / f"{name}.stderr"
        said = path.read_text(errors="replace").splitlines() if path.exists() else []
        crashes = [place for place, line in enumerate(said) if line.startswith(CRASH)]
        if not crashes:
            return "\n".join(said[-lines:])
        dump = said[crashes[-1] :]
        # All threads are listed; the one that crashed comes last.
        begin = next((place for place, line in enumerate(dump) if line.startswith(CRASHED_THREAD)), 1)
        return "\n".join([dump[0], *dump[begin : begin + lines - 1]])

    def last_words(self, exited: Exited, task: str) -> str:
        """How a process came to its end, and what it said last; what may have ended one that said nothing.

        Args:
            exited: Which one.
            task: The name of the task that it ran.
        """
        code = exited.code
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if tail := self.stderr_tail(exited.source):
            return f"{exited.source} {how}; it said last:\n{tail}"
        why = "may have ended it (os._exit, sys.exit in a thread of its own), or the system, for want of memory"
        return f"{exited.source} {how} without a word: the task {task} {why}"

    def stop(self) -> None:
        """Ask every process to stop, insist after the grace time, and reap all of them."""
        self._closing.set()
        alive = [child.process for child in self._children.values() if child.process.poll() is None]
        for process in alive:
            _signal_session(process, signal.SIGTERM)
        for process in alive:
            try:
                process.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                _signal_session(process, signal.SIGKILL)
                process.wait()
        for child in self._children.values():
            child.reader.join(STOP_GRACE_S)

    def _spawn(self, name: str, command: Sequence[str], environment: Mapping[str, str], *, generation: int) -> None:
        self._go_on()
        # One thread per process: ten processes with a pool each would fight for two cores.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | dict(environment)
        with (self.folder / f"{name}.stderr").open("ab") as errors:
            process: Process | None = self._forked(name, command, environment, errors.fileno())
            if process is None:
                self._go_on()
                process = subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    stdin=subprocess.DEVNULL,
                    text=True,
                    env=environment,
                    start_new_session=True,
                )
        reader = threading.Thread(target=self._read, args=(name, process, generation), daemon=True)
        self._children[name] = _Child(command, process, reader, generation)
        reader.start()

    def _go_on(self) -> None:
        if self.interrupted.is_set():
            raise KeyboardInterrupt

    def _forked(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], errors: int
    ) -> ForkedProcess | None:
        match command:
            case [_, "-m", module, *arguments] if self.server is not None and name not in self.unforked:
                return self.server.start(module, arguments, environment, errors)
            case _:
                return None

    def _read(self, name: str, process: Process, generation: int) -> None:
        if process.stdout is not None:
            with process.stdout as stream:
                self._pump(name, stream)
        self._put(Exited(source=name, generation=generation, code=process.wait()))

    def _pump(self, name: str, stream: IO[str]) -> None:
        for text in stream:
            try:
                fields = read_json(text)
            except ValueError:
                continue
            if isinstance(fields, dict):
                self._put(Line(source=name, fields=fields))

    def _put(self, item: Line | Exited) -> None:
        # While the fleet stops nobody reads: dropping lines then is better than a reader that never ends.
        while not self._closing.is_set():
            try:
                self.lines.put(item, timeout=1.0)
            except queue.Full:
                continue
            return


def _signal_session(process: Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


@contextlib.contextmanager
def work_folder(name: str = "fedmq-demo-") -> Iterator[Path]:
    """A folder for configuration and state that is gone afterwards; its name begins so."""
    with tempfile.TemporaryDirectory(prefix=name, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def interrupts(fleet: Fleet) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal interrupt the fleet; a second Ctrl-C cannot interrupt the cleaning up."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = {number: signal.signal(number, lambda *_: fleet.interrupt()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
