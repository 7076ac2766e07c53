"""Failpoints: named places where a test makes this process kill itself, as a power cut would, or its disk fail."""

import errno
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

_SPECIFICATION = "FEDMQ_FAILPOINT"
_ONCE = "FEDMQ_FAILPOINT_ONCE"

_PART = re.compile(r"([^:+]+)(?::([1-9][0-9]*)(?:\+([1-9][0-9]*))?)?")

_passages: Counter[str] = Counter()
_watcher: Callable[[str], None] | None = None


def watch(watcher: Callable[[str], None] | None) -> None:
    """From now on tell this one, in the same process, of each passage, and do nothing else; it may raise."""
    global _watcher  # noqa: PLW0603 - failpoints are called from everywhere, by their names alone
    _watcher = watcher


def failpoint(name: str) -> None:
    """Kill this process here, or fail as a broken disk does, when ``FEDMQ_FAILPOINT=name:hit[+times][,...]`` says so.

    The process gets SIGKILL at its ``hit``-th passage (counted from 1; ``name`` alone is ``name:1``). With ``+times``
    this passage and the next ones raise an I/O error instead, so many times: for places that write.
    With ``FEDMQ_FAILPOINT_ONCE=path`` it is killed only if that file does not exist yet; it is created first, so that
    the process which a supervisor starts again survives. Without the variable this is one look-up.

    Raises:
        ValueError: The variable is not ``name:hit[+times][,...]``.
        OSError: Input/output error (EIO), where that was asked for.
    """
    if _watcher is not None:
        _watcher(name)
        return
    specification = os.environ.get(_SPECIFICATION)
    if specification is None:
        return
    wanted = _parse(specification).get(name)
    if wanted is None:
        return
    hit, times = wanted
    _passages[name] += 1
    if hit <= _passages[name] < hit + times:
        raise OSError(errno.EIO, f"{os.strerror(errno.EIO)} (failpoint {name})")
    if not times and _passages[name] == hit and _first_time():
        _die(name)


def _parse(specification: str) -> dict[str, tuple[int, int]]:
    """Hit and times by name; 0 times is SIGKILL."""
    wanted: dict[str, tuple[int, int]] = {}
    for part in filter(None, specification.split(",")):
        found = _PART.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"{_SPECIFICATION} must be name:hit[+times][,...], not {specification!r}")
        name, hit, times = found.groups()
        wanted[name] = (int(hit or "1"), int(times or "0"))
    return wanted


def _first_time() -> bool:
    path = os.environ.get(_ONCE)
    if path is None:
        return True
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _die(name: str) -> None:
    sys.stderr.write(f"failpoint {name}: SIGKILL\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)
