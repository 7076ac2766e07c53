"""Sets of text in one order: a user's task that numbers words by the order of a set does so alike in every process.

Python draws anew in each process how it hashes text, and with it the order in which a set gives its names. A vocabulary
made by ``enumerate(set(words))``, or columns and classes listed so, would mean another thing on each node, silently.
With a fixed seed of hashes all processes that run a user's task have one order, as far as they run one release of
Python. A coordinator needs none for itself: its task is in a process of its own.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from federation.runtime.standard_output import is_reserved, start_again
from federation.tasks.registry import is_builtin

__all__ = ["environment_for", "in_one_order"]

_NAME: Final = "PYTHONHASHSEED"
_SEED: Final = "0"


def environment_for(task: str) -> Mapping[str, str]:
    """The environment of a process that is to run this task.

    Args:
        task: The task's name.
    """
    return os.environ if is_builtin(task) else {**os.environ, _NAME: _SEED}


def in_one_order(task: str, again: Sequence[str] | None = None) -> None:
    """Go on with a fixed seed of hashes, for which this program starts again where it has another.

    To be called before anything is opened. A notebook, or whatever else has not been started as a program of ours, goes
    on as it is, and so does all where no process can be replaced.

    Args:
        task: The task's name; one that comes with the project depends on no such order.
        again: How Python is called then; None is as it was called.
    """
    if is_builtin(task):
        return
    has_other = bool(sys.flags.hash_randomization)
    if has_other and not _may_start_again():
        return
    os.environ[_NAME] = _SEED  # of what the task itself starts, too
    if has_other:
        start_again(sys.orig_argv[1:] if again is None else again)


def _may_start_again() -> bool:
    words = sys.argv[1:]
    # A notebook, or a test, calls commands in a process that somebody else has started.
    ours = is_reserved() and bool(words) and sys.orig_argv[-len(words) :] == words
    heeded = not sys.flags.ignore_environment and os.environ.get(_NAME) != _SEED
    return ours and heeded and bool(sys.executable) and os.name == "posix"
