"""Programs of ours that start warm: forked from a process that has imported their modules, torch too.

A start from nothing costs half a second to two seconds of imports, and the tests start hundreds of programs. One that
starts warm is as real: a process with its own id, descriptors, signals, session, environment and working folder, which
runs ``__main__`` from its first line. It shares only imported modules. What it starts in turn starts warm as well.
Everything else (brokers, console scripts, programs with other Python settings) starts as ever, and so does everything
where there is no Linux.
"""

import atexit
import contextlib
import gc
import importlib
import inspect
import io
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

PROGRAMS = {
    "coordinator",
    "edge_node",
    "coordinator.global_model.initial",
    "edge_node.rollout.trial",
    "fedmq",
    "fedmq.demo.fork_server",
    "pytest",
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
ONE_ORDER = {"PYTHONHASHSEED": "0"}
"""What a program starts again with, where it runs a user's task: see federation.tasks.set_order."""
NUMBER = struct.Struct("<i")
GIVEN = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]
"""What the standard library's own, private method is told to start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What to start: ``python -m module arguments``."""

    module: str
    arguments: list[str]
    environ: dict[str, str]
    folder: str
    new_session: bool

    @property
    def is_warm(self) -> bool:
        """Whether it would find the same modules: nothing that Python reads at its start differs from ours."""
        return self.module in PROGRAMS and _read_at_start(self.environ) == _read_at_start(os.environ)


def _read_at_start(environ: Mapping[str, str]) -> dict[str, str]:
    read = {name: text for name, text in environ.items() if name.startswith("PYTHON") and name != "PYTHONUNBUFFERED"}
    return dict(read.items() - ONE_ORDER.items())


class WarmPopen(subprocess.Popen[Any]):
    """A `subprocess.Popen` that starts our programs warm; the kernel's parent of the process is the warm one."""

    address: ClassVar[str] = ""
    """Where the warm process listens; empty starts everything as ever."""

    _line: socket.socket | None = None

    def _execute_child(self, *given: Any) -> None:
        start = GIVEN.bind(self, *given).arguments
        wanted = _wanted(start)
        if not self.address or wanted is None or not wanted.is_warm:
            super()._execute_child(*given)  # type: ignore[misc]
            return
        ends = [start[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        line = self._line = socket.socket(socket.AF_UNIX)
        line.connect(f"\0{self.address}")
        socket.send_fds(line, [b"f"], [own if end == -1 else end for own, end in enumerate(ends)])
        line.sendall(json.dumps(asdict(wanted)).encode())
        line.shutdown(socket.SHUT_WR)
        (self.pid,) = NUMBER.unpack(line.recv(NUMBER.size, socket.MSG_WAITALL))
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(start[name] for name in pipes))  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._line is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc,no-any-return]
        try:
            told = self._line.recv(NUMBER.size, socket.MSG_WAITALL | (socket.MSG_DONTWAIT if wait_flags else 0))
        except BlockingIOError:
            return 0, 0
        self._line.close()
        return self.pid, NUMBER.unpack(told)[0] if told else signal.SIGKILL

    def _internal_poll(self, _deadstate: int | None = None, **more: Any) -> int | None:
        if self._line is None:
            return super()._internal_poll(_deadstate, **more)  # type: ignore[misc,no-any-return]
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG) if self.returncode is None else (0, 0)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def _wanted(given: Mapping[str, Any]) -> Start | None:
    """What a call of `subprocess.Popen` would start, if it is ``python -m module`` with nothing special."""
    match given["args"]:
        case [sys.executable, "-m", str(module), *arguments] if not (given["pass_fds"] or given["preexec_fn"]):
            return Start(
                module=module,
                arguments=[str(argument) for argument in arguments],
                environ=dict(os.environ if given["env"] is None else given["env"]),
                folder=str(given["cwd"] or Path.cwd()),
                new_session=bool(given.get("start_new_session", given.get("unused_start_new_session"))),
            )
        case _:
            return None


class WarmProcess:
    """The process from which programs are forked; it ends with the block, and with us."""

    def __enter__(self) -> Self:
        self.address = f"fedmq-warm-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{self.address}")
            listener.listen()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.rigs.warm_start", str(listener.fileno()), self.address],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | ONE_THREAD | ONE_ORDER,
                pass_fds=[listener.fileno()],
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), "the warm process has not become ready"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def serve(listener: socket.socket) -> Start | None:
    """Fork what is asked for, and tell how it ended; returns in each new program, and here when stdin is closed."""
    running: dict[int, tuple[int, socket.socket]] = {}
    with ExitStack() as ours, selectors.DefaultSelector() as selector:
        ours.enter_context(listener)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == sys.stdin.fileno():
                    return None
                if key.fd in running:
                    pid, line = running.pop(key.fd)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _tell(line, os.waitpid(pid, 0)[1])
                    line.close()
                    continue
                line, _ = listener.accept()
                start, ends = _asked(line)
                pid = os.fork()
                if pid == 0:
                    ours.enter_context(line)
                    for other, (_, others_line) in running.items():
                        ours.callback(os.close, other)
                        ours.enter_context(others_line)
                    _take(ends)
                    return start
                for end in ends:
                    os.close(end)
                _tell(line, pid)
                ended = os.pidfd_open(pid)
                running[ended] = (pid, line)
                selector.register(ended, selectors.EVENT_READ)


def _asked(line: socket.socket) -> tuple[Start, list[int]]:
    _, ends, _, _ = socket.recv_fds(line, 1, 3)
    body = b"".join(iter(lambda: line.recv(1 << 16), b""))
    return Start(**json.loads(body)), ends


def _tell(line: socket.socket, number: int) -> None:
    try:
        line.sendall(NUMBER.pack(number))
    except OSError:
        return  # whoever asked is gone


def _take(ends: list[int]) -> None:
    for own, end in enumerate(ends):
        os.dup2(end, own)
        os.close(end)


def become(start: Start, address: str) -> None:
    """Make this process what a new interpreter would be when it comes to ``__main__``."""
    if start.new_session:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(start.folder)
    os.environ.clear()
    os.environ.update(start.environ)
    sys.path[0] = start.folder
    sys.argv = [start.module, *start.arguments]
    unbuffered = bool(start.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(open(0, "rb", closefd=False))  # type: ignore[misc] # noqa: SIM115
    sys.stdout = sys.__stdout__ = _writer(1, unbuffered=unbuffered)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _writer(2, unbuffered=unbuffered)  # type: ignore[misc]
    subprocess.Popen = WarmPopen  # type: ignore[misc]
    WarmPopen.address = address


def _writer(descriptor: int, *, unbuffered: bool) -> io.TextIOWrapper:
    stream = open(descriptor, "wb", buffering=0 if unbuffered else -1, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(stream, write_through=unbuffered, line_buffering=descriptor == 2)


def run(module: str) -> int:
    """Run a module to its end; returns its exit code."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    return 0


def leave(code: int) -> NoReturn:
    """End as the interpreter does, but do not take hundreds of megabytes of modules to pieces before."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def main() -> None:
    """Import what the programs need, serve, and in each new process run its program."""
    with contextlib.suppress(ImportError):
        for module in ("sklearn.datasets", "torch", "federation.tasks.training.torch_task"):
            importlib.import_module(module)
    from coordinator.cli import LAZY_COMMANDS

    loaded = ("pytest", "coordinator.app", "edge_node.app", "edge_node.cli", "federation.tasks.builtin.digits")
    for module in (*loaded, *(module for module, _, _ in LAZY_COMMANDS.values())):
        importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which then end this process
    gc.collect()
    gc.freeze()
    print("ready", flush=True)  # noqa: T201 - to whoever started us
    start = serve(socket.socket(fileno=int(sys.argv[1])))
    if start is not None:
        become(start, sys.argv[2])
        leave(run(start.module))


if __name__ == "__main__":
    main()
