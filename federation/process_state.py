"""What a user's code leaves changed in the whole process is put back: our own threads and streams depend on it.

A file that takes ``sys.stdout`` away, empties ``sys.path``, lets threads have small stacks or gives sockets a short
timeout would end a node, a coordinator or a whole demo, each in a place that says nothing of it. What belongs to the
task alone (its folder, environment, warnings, default types, threads of its libraries) stays as it has set it.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NoReturn

import numpy as np

from federation.runtime.standard_output import OURS

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


class _Watched(threading.local):
    """The process in which this thread runs a user's code; None: it does not."""

    process: int | None = None


_watched = _Watched()


def _ended(status: int) -> NoReturn:
    """What stands for ``os._exit``: a user's code ends its own import, building or training, and says so.

    In processes that it has forked, in its other threads, and where we call it (a second Ctrl-C), it ends the process.
    """
    caller = str(sys._getframe(1).f_globals.get("__name__", ""))  # noqa: SLF001 - nothing else tells who calls
    if _watched.process == os.getpid() and caller.partition(".")[0] not in OURS:
        raise SystemExit(status)
    _end(status)


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Around a user's code, on any thread; handlers of signals can be changed on the main thread only."""
    put_back = [*_attributes(), *_settings(), *_of_threads()]
    known, before = list(sys.path), _watched.process
    try:
        _watched.process = os.getpid()
        os._exit = _ended
        with np.errstate():
            yield
    finally:
        _watched.process = before
        sys.path.extend(entry for entry in known if entry not in sys.path)
        for each in put_back:
            each()


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
