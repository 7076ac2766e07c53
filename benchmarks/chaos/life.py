"""One process from its start to its end, and what is going to kill it."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from fedmq.demo.processes import Line

KILLED = -signal.SIGKILL
"""Exit code of a process that was killed."""


@dataclass(slots=True)
class Life:
    """One process from its start to its end.

    Attributes:
        name: Whose.
        generation: 0 is the first.
        began_s: Monotonic seconds of its start.
        label: What is going to kill it, or "".
        fuse: Log lines until it is killed from outside; None is never.
        works_s: When it first did its work: a commit, or an update of its own applied; None is not yet.
        counts_from: Work that was logged before this is not counted.
        ended_s: When it ended.
        code: Its exit code.
    """

    name: str
    generation: int
    began_s: float
    label: str = ""
    fuse: int | None = None
    works_s: float | None = None
    counts_from: datetime | None = None
    ended_s: float | None = None
    code: int | None = None

    def work(self, line: Line) -> None:
        """A log line says that it has done its work."""
        said = datetime.fromisoformat(str(line.fields["timestamp"]))
        if self.works_s is None and (self.counts_from is None or said >= self.counts_from):
            self.works_s = time.monotonic()

    @property
    def recovery_s(self) -> float | None:
        """From its start to its first work, in seconds."""
        return None if self.works_s is None else self.works_s - self.began_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """What kills the next life of a process: a failpoint, or the campaign after some log lines.

    Attributes:
        failpoint: ``name:hit``, or "" for none.
        fuse: Log lines until SIGKILL; with a failpoint it only matters when that is never reached.
    """

    failpoint: str = ""
    fuse: int | None = None

    @property
    def label(self) -> str:
        """The name that the table counts it under."""
        return self.failpoint.partition(":")[0] or ("random moment" if self.fuse is not None else "")

    @property
    def environment(self) -> dict[str, str]:
        """Its variables."""
        return {"FEDMQ_FAILPOINT": self.failpoint} if self.failpoint else {}


HARMLESS = Arms()
Armoury = Callable[[str], Arms]
"""Gives a process that is about to start what will kill it."""
