"""What a user's code leaves changed in the whole process is put back: our own threads and streams depend on it.

A file that takes ``sys.stdout`` away, empties ``sys.path``, lets threads have small stacks or gives sockets a short
timeout would end a node, a coordinator or a whole demo, each in a place that says nothing of it. What belongs to the
task alone (its folder, environment, warnings, default types, threads of its libraries) stays as it has set it.
"""

import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, NoReturn

import numpy as np

from federation.runtime.standard_output import OURS, missing_descriptor

__all__ = ["process_state_kept"]

_HANDLED: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE") if hasattr(signal, name)
)
"""Signals by which programs are ended, or told that nobody reads them."""

_OWN: Final = (
    (sys, "stdin"),
    (sys, "stdout"),
    (sys, "stderr"),
    (sys, "excepthook"),
    (sys, "unraisablehook"),
    (threading, "excepthook"),
)


_end = os._exit
_replace: Final[Mapping[str, Callable[..., Any]]] = {"execv": os.execv, "execve": os.execve}
"""Those of the system; what the library's other functions of the kind call in the end."""

DESCRIPTORS_CLOSED: Final = 2
"""Exit code of a program below which a user's code has closed descriptors: it takes a person, as a wrong task does."""


class _Watched(threading.local):
    """The process in which this thread runs a user's code; None: it does not."""

    process: int | None = None


_watched = _Watched()


def _ended(status: int) -> NoReturn:
    """What stands for ``os._exit``: a user's code ends its own import, building or training, and says so.

    In processes that it has forked, in its other threads, and where we call it (a second Ctrl-C), it ends the process.
    """
    if _is_a_users(sys._getframe(1)):  # noqa: SLF001 - nothing else tells who calls
        raise SystemExit(status)
    _end(status)


def _replaced(name: str, *arguments: Any) -> NoReturn:
    """What stands for ``os.execv`` and ``os.execve``, by which a process becomes another program without a word."""
    if _is_a_users(sys._getframe(1)):  # noqa: SLF001 - as above
        raise SystemExit(
            f"os.{name} would put another program in the place of the one that runs the task: start programs with"
            " subprocess, and set environment variables before"
        )
    _replace[name](*arguments)
    raise AssertionError  # it does not come back


def _is_a_users(frame: Any) -> bool:
    """Whether a user's code calls, on the thread and in the process in which we have called it."""
    while frame is not None and frame.f_globals.get("__name__") == "os":
        frame = frame.f_back
    caller = "" if frame is None else str(frame.f_globals.get("__name__", ""))
    return _watched.process == os.getpid() and caller.partition(".")[0] not in OURS


def _end_without_descriptors() -> None:
    """End a process below which a user's code has closed what is not its own: it could say and send nothing."""
    if gone := missing_descriptor():
        told = (
            f"the task has closed descriptors that are not its own ({gone} is gone): see os.closerange, os.close and"
            " what closes streams in it\n"
        )
        with suppress(OSError):
            os.write(2, told.encode())
        _end(DESCRIPTORS_CLOSED)


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Around a user's code, on any thread; handlers of signals can be changed on the main thread only."""
    put_back = [*_attributes(), *_settings(), *_of_threads()]
    known, before, process = list(sys.path), _watched.process, os.getpid()
    try:
        _watched.process = process
        os._exit, os.execv, os.execve = _ended, partial(_replaced, "execv"), partial(_replaced, "execve")
        with np.errstate():
            yield
    finally:
        _watched.process = before
        sys.path.extend(entry for entry in known if entry not in sys.path)
        for each in put_back:
            each()
        if os.getpid() == process:
            _end_without_descriptors()


def _attributes() -> Iterator[Callable[[], Any]]:
    for owner, name in _OWN:
        yield partial(setattr, owner, name, getattr(owner, name))


def _settings() -> Iterator[Callable[[], Any]]:
    """Numbers that are asked and set by functions."""
    limit, interval = sys.getrecursionlimit(), sys.getswitchinterval()
    timeout, stack = socket.getdefaulttimeout(), threading.stack_size()
    yield lambda: sys.setrecursionlimit(max(limit, sys.getrecursionlimit()))  # a deep model may need more
    yield partial(sys.setswitchinterval, interval)
    yield partial(socket.setdefaulttimeout, timeout)
    yield partial(threading.stack_size, stack)
    for number in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        yield partial(_raise_limit, number, resource.getrlimit(number)[0])


def _raise_limit(number: int, before: int) -> None:
    """Put back what a store needs where it was lowered; more is left, and what only root could raise again, too."""
    soft, hard = resource.getrlimit(number)
    wanted = before if hard == resource.RLIM_INFINITY or 0 <= before <= hard else hard
    if soft not in {wanted, resource.RLIM_INFINITY} and (wanted == resource.RLIM_INFINITY or soft < wanted):
        with suppress(OSError, ValueError):
            resource.setrlimit(number, (wanted, hard))


def _of_threads() -> Iterator[Callable[[], Any]]:
    if hasattr(signal, "pthread_sigmask"):
        yield partial(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    if threading.current_thread() is threading.main_thread():
        mask = os.umask(0o077)
        os.umask(mask)  # there is no way to ask but to set, which is left to one thread
        yield partial(os.umask, mask)
        for number in _HANDLED:
            handler = signal.getsignal(number)
            if handler is not None:  # else code that is not Python's has set it
                yield partial(signal.signal, number, handler)
