"""Failpoints: named places where a test makes this process kill itself, as a power cut would."""

import os
import signal
import sys
from collections import Counter
from pathlib import Path

_SPECIFICATION = "FEDMQ_FAILPOINT"
_ONCE = "FEDMQ_FAILPOINT_ONCE"

_passages: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill this process here, when ``FEDMQ_FAILPOINT=name:hit[,name:hit]`` says so.

    The process gets SIGKILL at its ``hit``-th passage (counted from 1; ``name`` alone is ``name:1``).
    With ``FEDMQ_FAILPOINT_ONCE=path`` only if that file does not exist yet; it is created first, so that the process
    which a supervisor starts again survives. Without the variable this is one look-up.

    Raises:
        ValueError: The variable is not ``name:hit[,name:hit]``.
    """
    specification = os.environ.get(_SPECIFICATION)
    if specification is None:
        return
    wanted = _parse(specification)
    if name not in wanted:
        return
    _passages[name] += 1
    if _passages[name] == wanted[name] and _first_time():
        _die(name)


def _parse(specification: str) -> dict[str, int]:
    wanted: dict[str, int] = {}
    for part in filter(None, specification.split(",")):
        name, _, hit = part.strip().partition(":")
        if not name or not (hit or "1").isdecimal() or int(hit or "1") < 1:
            raise ValueError(f"{_SPECIFICATION} must be name:hit[,name:hit], not {specification!r}")
        wanted[name] = int(hit or "1")
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
