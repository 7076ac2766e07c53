"""The process in which a user's task trains: a mark of a training that ended it, and its forks.

A task may end the process (``os._exit``, a crash in a library, all memory taken) before anything can be said of it. A
mark in the state folder says it at the next start.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from federation.runtime.log import get_log
from federation.storage.folder import open_file
from federation.types import RoundId

__all__ = ["TrainingMark", "end_if_forked"]

FORK_CAME_BACK: Final = 70
"""Exit code of a child that a task forked and that came back into our code (EX_SOFTWARE)."""

MARK: Final = "in_training"
_MARK_BYTES_MAX: Final = 64


def end_if_forked(pid: int) -> None:
    """End this process where it is a child that a task forked: it has no driver, and would wait for ever.

    Args:
        pid: Of the process that trains.
    """
    if os.getpid() != pid:
        get_log("training").error("fork_came_back", why="the task forked, and the child returned: it must end itself")
        os._exit(FORK_CAME_BACK)


class TrainingMark:
    """A file that is there while the task trains, or where a training has ended the process.

    It need not survive a power cut, so nothing waits for the disk.

    Args:
        folder: The node's state folder.
        task: The task's name, for people.
    """

    def __init__(self, folder: Path, task: str) -> None:
        self._path, self._task = folder / MARK, task
        self._ends = 0

    def tell(self) -> None:
        """Say in the log that the process ended in a training, where it did, and how often in a row."""
        try:
            with open_file(self._path) as file:
                number, ends = map(int, file.read(_MARK_BYTES_MAX).split())
        except (OSError, ValueError):
            return
        self._ends = ends + 1
        why = (
            "killed, out of memory, a power cut, or ended by the task itself (os._exit, a crash in a library: see the"
            " last lines before this start)"
        )
        get_log("training").warning("died_in_training", task=self._task, round=number, times=self._ends, why=why)

    @contextlib.contextmanager
    def training(self, round_id: RoundId) -> Iterator[None]:
        """While entered the task trains; a child that it forks, and that comes back, leaves the mark."""
        own = os.getpid()
        with contextlib.suppress(OSError):
            self._path.write_text(f"{round_id} {self._ends}\n")
        try:
            yield
        finally:
            if os.getpid() == own:
                self._ends = 0
                with contextlib.suppress(OSError):
                    self._path.unlink(missing_ok=True)
