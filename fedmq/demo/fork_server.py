"""Starts the demo's processes by forking them from one that has imported what all of them need.

Eleven interpreters that import torch at once take most of a short demo's time on two cores. A forked process is as
real: an id, a session, descriptors, an environment of its own, and each can be killed alone. It shares memory pages and
nothing else. In production no process is started so.

Between the two ends of a socket pair: a request is one JSON line with two descriptors (standard output and error); the
answers are JSON lines, ``{"pid": …}`` for each request in turn, and ``{"pid": …, "code": …}`` when a process has ended.
"""

import atexit
import contextlib
import gc
import json
import os
import queue
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Self

from federation.command_line import bounded_end
from federation.documents import read_json

__all__ = ["ALWAYS", "WITHOUT_TORCH", "ForkServer", "ForkedProcess", "modules_of", "warm"]

REQUEST_BYTES_MAX = 1 << 20
READY_S = 120.0
"""A loaded machine may take long to import torch; whoever waits longer starts processes as ever."""

END_S = 10.0
"""How long the server may take to end by itself, in seconds."""

ALWAYS = ("coordinator.app", "edge_node.app", "site_gateway.app")
WITHOUT_TORCH = ("null", "quadratic")
"""Built-in tasks that torch has nothing to do with; a size may follow."""


def modules_of(task: str) -> tuple[str, ...]:
    """What all processes of a demo import; not a user's own file, which may do anything when it is imported."""
    if task.partition("-")[0] in WITHOUT_TORCH:
        return ALWAYS
    return ("torch", "federation.tasks.training.local_training", *ALWAYS)


@contextlib.contextmanager
def warm(task: str) -> "Iterator[ForkServer | None]":
    """A server that imports what a task's demo needs, while the caller goes on; None where none can be."""
    if not ForkServer.is_possible():
        yield None
        return
    with ForkServer(modules_of(task)) as server:
        yield server


@dataclass(slots=True)
class ForkedProcess:
    """A process that the server has forked; as much of `subprocess.Popen` as the demo needs.

    Attributes:
        pid: Its id.
        stdout: The text that it writes.
        returncode: Its exit code, negative for a signal; None while it runs.
    """

    pid: int
    stdout: IO[str] | None
    returncode: int | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, in seconds.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        if not self._ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to it alone; one that has ended gets nothing."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self, code: int) -> None:
        """It has ended."""
        self.returncode = code
        self._ended.set()


class ForkServer:
    """The server's process, seen from the demo; it ends with the block, and with the demo.

    Args:
        modules: What it imports before it forks; a module that is not installed is left out.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = tuple(modules)
        self._processes: dict[int, ForkedProcess] = {}
        self._born: queue.Queue[ForkedProcess | None] = queue.Queue()
        self._lock = threading.Lock()
        self._used = False

    @staticmethod
    def is_possible() -> bool:
        """Whether processes can be forked safely here: elsewhere system libraries forbid it."""
        return sys.platform == "linux"

    def __enter__(self) -> Self:
        """Start it; it imports while the caller goes on."""
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        # With the hashes of programs that run a user's task by themselves: see federation.tasks.set_order.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-m", "fedmq.demo.fork_server", *self._modules]
        with theirs:
            self._server = subprocess.Popen(command, stdin=theirs.fileno(), env=environment, start_new_session=True)
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_WR)
        if not self._used:
            self._server.kill()  # it may still import, and nobody waits for that
        try:
            self._server.wait(END_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._reader.join()
        self._ours.close()

    def abandon(self) -> None:
        """End it while it still imports, so that nobody waits for that; may be called in a signal's handler.

        One that has imported does not hear it: what it has forked needs it, and what is asked of it takes no time.
        """
        with contextlib.suppress(OSError):
            self._server.terminate()

    def start(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], errors: int
    ) -> ForkedProcess | None:
        """Fork a process that runs ``python -m module arguments`` in a session of its own.

        Args:
            module: What it runs.
            arguments: Its command line.
            environment: Its whole environment.
            errors: Descriptor for its standard error.

        Returns:
            The process; None where the server is gone: start it as ever.
        """
        reads, writes = os.pipe()
        request = {"module": module, "arguments": list(arguments), "environment": dict(environment)}
        with self._lock:
            self._used = True
            try:
                socket.send_fds(self._ours, [json.dumps(request).encode() + b"\n"], [writes, errors])
                process = self._born.get(timeout=READY_S)
            except (OSError, queue.Empty):
                # Whatever holds it up: it must not serve this request later, beside the process that is started now.
                self._server.kill()
                process = None
            finally:
                os.close(writes)
        if process is None:
            os.close(reads)
            return None
        process.stdout = os.fdopen(reads, "r")
        return process

    def _listen(self) -> None:
        # A server that was killed over an unread request is a reset, and not an end.
        with contextlib.suppress(OSError), self._ours.makefile("rb") as answers:
            for line in answers:
                told = read_json(line)
                if "code" in told:
                    self._processes.pop(told["pid"]).end(told["code"])
                else:
                    process = self._processes[told["pid"]] = ForkedProcess(pid=told["pid"], stdout=None)
                    self._born.put(process)
        for process in self._processes.values():
            process.end(-signal.SIGKILL)
        self._born.put(None)


@dataclass(slots=True)
class _Line:
    """The server's end of the socket pair."""

    connection: socket.socket
    received: bytearray = field(default_factory=bytearray)
    descriptors: list[int] = field(default_factory=list)

    def requests(self) -> Iterator[tuple[Mapping[str, object], list[int]]] | None:
        """What has arrived, each with its descriptors; None when the demo has gone."""
        body, descriptors, _, _ = socket.recv_fds(self.connection, REQUEST_BYTES_MAX, 16)
        if not body:
            return None
        self.received += body
        self.descriptors += descriptors
        return self._whole()

    def _whole(self) -> Iterator[tuple[Mapping[str, object], list[int]]]:
        while b"\n" in self.received:
            line, _, rest = bytes(self.received).partition(b"\n")
            self.received = bytearray(rest)
            ends, self.descriptors = self.descriptors[:2], self.descriptors[2:]
            yield read_json(line), ends

    def tell(self, **answer: int) -> None:
        """Answer; whoever asked may be gone."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(answer).encode() + b"\n")


def _serve(line: _Line) -> Mapping[str, object] | None:
    """Fork what is asked for; returns the request in each new process, and None here when the demo has gone."""
    running: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(line.connection, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in running:
                    selector.unregister(key.fd)
                    pid = running.pop(key.fd)
                    os.close(key.fd)
                    line.tell(pid=pid, code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                    continue
                requests = line.requests()
                if requests is None:
                    _end_all(running.values())
                    return None
                for request, ends in requests:
                    pid = os.fork()
                    if pid == 0:
                        _take(ends, [*running, line.connection.detach()])
                        return request
                    for end in ends:
                        os.close(end)
                    line.tell(pid=pid)
                    ended = os.pidfd_open(pid)
                    running[ended] = pid
                    selector.register(ended, selectors.EVENT_READ)


def _end_all(pids: Iterable[int]) -> None:
    """Whoever was killed has ended nothing: its processes would train on for ever."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _take(ends: Sequence[int], others: Sequence[int]) -> None:
    """Give a new process its own descriptors, and none of the server's."""
    for own, end in enumerate((os.open(os.devnull, os.O_RDONLY), *ends)):
        os.dup2(end, own)
        os.close(end)
    for other in others:
        os.close(other)


def _become(request: Mapping[str, object]) -> None:
    """Make this process what a new interpreter would be when it comes to ``__main__``."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    sys.argv = [str(request["module"]), *request["arguments"]]  # type: ignore[misc]
    # Forked at one moment, all would draw the same.
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, open(descriptor, "w", buffering=1, closefd=False))  # noqa: SIM115 - for the process's life


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        with contextlib.suppress(ImportError):
            __import__(module)
    gc.collect()
    # Forked processes would copy every page that the collector touches.
    gc.freeze()


def _run(module: str) -> int:
    """Run a program to its end, as ``python -m`` does, its threads and exit handlers too; returns its exit code."""
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - what an interpreter does with it
        traceback.print_exc()
        code = 1
    number = code if isinstance(code, int) else int(code is not None)
    threading.Thread(target=bounded_end, args=(module, number), name="end", daemon=True).start()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()  # noqa: SLF001 - as multiprocessing ends its forked processes
    if number and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
    return number


def main() -> None:
    """Import, serve, and in each new process run its program."""
    # The demo ends this process, by ending itself; SIGTERM is its word that nobody waits for the imports any more.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=os.dup(0))
    _import(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    request = _serve(_Line(connection))
    if request is not None:
        _become(request)
        code = _run(str(request["module"]))
        sys.stdout.flush()
        sys.stderr.flush()
        # Not through the C++ destructors: those of libraries that the server has loaded wait for threads that are not
        # in this process, or abort it over them.
        os._exit(code)


if __name__ == "__main__":
    main()
