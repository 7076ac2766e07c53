"""The task in a process of its own: what it imports, such as torch, is never in the coordinator, and goes with it.

The process is started when something is first to be made or evaluated, and ends when nothing was for a while, or when
its coordinator has gone. One that is killed, as by a system without memory, costs the figure that it was to find.

Between the two ends of a socket pair, in both directions: the lengths of two parts, a JSON object, and arrays as
safetensors. A request is ``build``, ``initial`` or ``evaluate``; an answer is ``metrics``, arrays, or ``error``.
"""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from coordinator.global_model.initial import (
    InitialModel,
    InitialRequest,
    as_requested,
    initial_model,
    model_arrays,
    model_of_arrays,
)
from federation.contract import checked_metrics
from federation.documents import read_json
from federation.errors import FederationError, TaskError, described
from federation.process_state import process_state_kept
from federation.task import Task, TaskContext
from federation.tasks.registry import load_task
from federation.tasks.set_order import environment_for
from federation.tasks.statistics.task import StatisticsRequest
from update_codec import Manifest, Vectors

__all__ = ["EvaluatedTask", "TaskApart", "TaskHere", "TaskSettings", "build_task", "end_without_coordinator"]

IDLE_S: Final = 60.0
"""A process that was asked for nothing for so long ends, in seconds."""

END_S: Final = 10.0
"""How long a process whose connection is closed may take to end before it is killed, in seconds."""

_LENGTHS: Final = struct.Struct("<QQ")
_Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """Which task, and how it is run.

    Attributes:
        request: Its name, data, seed, and what it is trained for.
        device: Where it evaluates.
        threads: CPU threads of its libraries.
    """

    request: InitialRequest
    device: str = "cpu"
    threads: int = 1

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "TaskSettings":
        """From plain data."""
        request = dict(fields["request"])
        counted = request.pop("statistics")
        statistics = None if counted is None else StatisticsRequest.from_json(counted)
        made = InitialRequest(**request, statistics=statistics)
        return cls(request=made, device=fields["device"], threads=fields["threads"])


class EvaluatedTask(Protocol):
    """What a coordinator asks of its task."""

    def initial(self) -> InitialModel:
        """Make version 0; raises `ConfigError` or `TaskError`."""

    def evaluate(self, manifest: Manifest, model: Vectors) -> Mapping[str, float]:
        """Evaluate a version; raises whatever goes wrong."""

    def rest(self) -> None:
        """Nothing was asked for a while."""

    def close(self) -> None:
        """Nothing will be asked any more; what is being evaluated is given up, where that can be."""


def build_task(settings: TaskSettings) -> Task:
    """The task as this run has it.

    Raises:
        ConfigError: There is no such task, or it cannot do what the run asks for.
        TaskError: It cannot be built.
    """
    # Read by the libraries when they are first imported.
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))
    request = settings.request
    data = None if request.data is None else Path(request.data)
    context = TaskContext(node_index=None, node_count=1, data=data, device=settings.device, seed=request.seed)
    return as_requested(load_task(request.task)(context), request)


class TaskHere:
    """The task in this process, built once, when it is first needed, on whichever thread that is.

    Args:
        build: Builds it.
        request: Which initial model.
    """

    def __init__(self, build: Callable[[], Task], request: InitialRequest) -> None:
        self._build, self._request, self._lock = build, request, threading.Lock()
        self._task: Task | None = None

    def get(self) -> Task:
        """The task; raises what building it raises."""
        with self._lock:
            if self._task is None:
                self._task = self._build()
            return self._task

    def initial(self) -> InitialModel:
        """Make version 0.

        Raises:
            ConfigError: There is no such task.
            TaskError: It cannot be built, or its model cannot travel.
        """
        return initial_model(self._request, self.get())

    def evaluate(self, manifest: Manifest, model: Vectors) -> Mapping[str, float]:
        """Evaluate a version; raises what the task raises."""
        with process_state_kept():
            return checked_metrics(self.get().evaluate(manifest.unflatten(model)))

    def rest(self) -> None:
        """It stays."""

    def close(self) -> None:
        """It ends with the process."""


class TaskApart:
    """The task in a process of its own; one thread at a time.

    Args:
        settings: Which task.
    """

    def __init__(self, settings: TaskSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._ours: socket.socket | None = None
        self._lock, self._closed = threading.Lock(), False

    @property
    def pid(self) -> int | None:
        """The process that runs; None where none does."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def initial(self) -> InitialModel:
        """Make version 0.

        Raises:
            TaskError: It cannot be made; the process's words are repeated.
        """
        _, arrays = self._asked({"do": "initial"}, {})
        return model_of_arrays(self._settings.request, arrays)

    def evaluate(self, manifest: Manifest, model: Vectors) -> Mapping[str, float]:
        """Evaluate a version.

        Raises:
            TaskError: It cannot be evaluated; the process's words are repeated.
        """
        arrays: _Arrays = {"parameters": model.parameters, "statistics": model.statistics, "counters": model.counters}
        arrays["manifest"] = np.frombuffer(manifest.to_bytes(), np.uint8)
        told, _ = self._asked({"do": "evaluate"}, arrays)
        return {str(name): float(value) for name, value in told["metrics"].items()}

    def rest(self) -> None:
        """End the process: it is started again when it is needed."""
        with self._lock:
            ours, process = self._ours, self._process
            self._ours = self._process = None
        if ours is not None and process is not None:
            ours.close()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:  # a thread of the task's own may never end
                process.kill()
                process.wait()

    def close(self) -> None:
        """End the process at once, whatever it does; from any thread."""
        with self._lock:
            self._closed, process, ours = True, self._process, self._ours
        if process is not None and ours is not None:
            process.kill()
            process.wait()
            ours.close()

    def _asked(self, request: Mapping[str, object], arrays: _Arrays) -> tuple[dict[str, Any], _Arrays]:
        ours = self._started()
        try:
            _send(ours, request, arrays)
            told, found = _received(ours)
        except (OSError, EOFError) as error:
            process = self._process
            self.rest()
            code = None if process is None else process.returncode
            raise TaskError(f"the task's process has ended with {code}: the system's log may say why") from error
        if "error" in told:
            raise TaskError(str(told["error"]))
        return told, found

    def _started(self) -> socket.socket:
        with self._lock:
            if self._closed:
                raise TaskError("the coordinator stops")
            if self._ours is None:
                self._ours, theirs = socket.socketpair()
                command = [sys.executable, "-m", "coordinator.runtime.task_process", str(theirs.fileno())]
                with theirs:
                    # What the task prints goes where the log's other words go, and Ctrl-C to the coordinator alone.
                    self._process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=2,
                        env=environment_for(self._settings.request.task),
                        pass_fds=(theirs.fileno(),),
                        start_new_session=True,
                    )
                _send(self._ours, self._settings.to_json(), {})
            return self._ours


def _send(connection: socket.socket, fields: Mapping[str, object], arrays: _Arrays) -> None:
    head = json.dumps(fields).encode()
    body = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    connection.sendall(_LENGTHS.pack(len(head), len(body)) + head)
    connection.sendall(body)


def _received(connection: socket.socket) -> tuple[dict[str, Any], _Arrays]:
    head_bytes, body_bytes = _LENGTHS.unpack(_exactly(connection, _LENGTHS.size))
    head = read_json(_exactly(connection, head_bytes))
    return head, safetensors.numpy.load(bytes(_exactly(connection, body_bytes)))


def _exactly(connection: socket.socket, count: int) -> bytearray:
    body = bytearray(count)
    view, done = memoryview(body), 0
    while done < count:
        got = connection.recv_into(view[done:])
        if not got:
            raise EOFError("the other end has gone")
        done += got
    return body


def _answer(task: TaskHere, request: Mapping[str, Any], arrays: _Arrays) -> tuple[dict[str, object], _Arrays]:
    if request["do"] == "initial":
        return {}, model_arrays(task.initial())
    manifest = Manifest.from_bytes(arrays["manifest"].tobytes())
    model = Vectors(arrays["parameters"], arrays["statistics"], arrays["counters"])
    return {"metrics": dict(task.evaluate(manifest, model))}, {}


def end_without_coordinator(connection: socket.socket, within_s: float = END_S) -> None:
    """Wait until the other end is closed, and end this process where a task that hangs does not; for a thread.

    Args:
        connection: To the coordinator.
        within_s: How long the task may take to end by itself, in seconds.
    """
    gone = select.poll()
    gone.register(connection.fileno(), getattr(select, "POLLRDHUP", 0))  # a hang-up is always told
    gone.poll()
    time.sleep(within_s)
    os._exit(1)


def main(descriptor: int) -> None:
    """Answer requests until the coordinator has gone, or wants no more."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its coordinator ends it
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(EOFError, OSError):
        threading.Thread(target=end_without_coordinator, args=(connection,), name="end", daemon=True).start()
        settings = TaskSettings.from_json(_received(connection)[0])
        task = TaskHere(lambda: build_task(settings), settings.request)
        while True:
            request, arrays = _received(connection)
            try:
                told, found = _answer(task, request, arrays)
            except FederationError as error:
                told, found = {"error": str(error)}, {}
            except BaseException as error:  # noqa: BLE001 - the user's code may raise anything, SystemExit too
                told, found = {"error": described(error)}, {}
            _send(connection, told, found)


if __name__ == "__main__":
    main(int(sys.argv[1]))
