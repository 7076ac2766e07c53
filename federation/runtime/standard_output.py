"""Standard output is the program's own: whatever a task prints goes to standard error.

A command's JSON stays JSON, and a log stays a log, when a user's file, a library that it calls, one of its threads or a
process that it starts prints something.
"""

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import IO, Any, Final, Never, TextIO

__all__ = ["flush", "is_reserved", "missing_descriptor", "reserve", "start_again"]

OURS: Final = frozenset({"coordinator", "edge_node", "federation", "fedmq", "site_gateway", "sum_helper"})
THEIRS: Final = "federation.tasks."
"""Where tasks are run, and libraries download data for them: nothing of ours is printed there."""

OUTPUT: Final = 1
"""The descriptor that every process has for its standard output."""

WRITERS: Final = frozenset({"click", "contextlib", "functools", "json", "logging", "rich", "structlog", "typer"})
"""Libraries that print what somebody else has to say."""


def reserve() -> None:
    """Keep standard output for this program; called first of all, and once.

    Processes that a task starts get standard error as their standard output, and print there by themselves.
    """
    _fill_in()
    out, errors = sys.stdout, sys.stderr
    if not isinstance(out, io.TextIOWrapper):
        return  # there is none, or somebody else looks after it
    try:
        if out.fileno() != OUTPUT:
            return
        own = os.dup(OUTPUT)
        os.dup2(errors.fileno(), OUTPUT)
    except (AttributeError, OSError, ValueError):
        return  # one of them is closed, or is no file
    whole_lines = out.line_buffering or out.write_through
    stream = open(own, "w", buffering=1 if whole_lines else -1, encoding=out.encoding, errors=out.errors)  # noqa: PTH123, SIM115 - a descriptor, until the process ends
    sys.stdout = Divided(stream, errors)


def missing_descriptor() -> str:
    """What somebody has closed below this program and cannot be opened again; empty where it is all there.

    Standard streams are opened again, as standard error: else a file that is opened next would get their number, and
    what is printed. Where the output that this program has reserved is gone, others are (the broker's socket, stores),
    and a file may have its number by now.
    """
    if not isinstance(sys.stdout, Divided):
        return ""
    gone = "" if sys.stdout.is_there() else "the program's own output"
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            try:
                os.dup2(sys.stdout.spare, number)
            except OSError:
                gone = gone or f"descriptor {number}"
    if sys.stderr is not None and sys.stderr.closed:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
        sys.stdout.divert(sys.stderr)
    return gone


def is_reserved() -> bool:
    """Whether this process is a program of ours, which has its standard output for itself."""
    return isinstance(sys.stdout, Divided)


def _fill_in() -> None:
    """Open what the caller has closed (``2>&-``): else a store would get that number, and what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(number, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor, for ever
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - the same


def start_again(arguments: Sequence[str]) -> Never:
    """Replace this process by a new one that Python runs with ``arguments``; it keeps its number and its output."""
    flush()
    os.dup2(sys.stdout.fileno(), OUTPUT)
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - the command line that we were called with


def flush() -> str:
    """Write what Python still keeps of both streams; what cannot be written is dropped, and the reason is the answer.

    Python would try again at the end of the process, and change its exit code to 120.
    """
    reason = ""
    for stream in (sys.stderr, sys.stdout):  # in this order: the second flushes the first, too
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            reason = str(error)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with contextlib.suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return reason


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Which file a descriptor is of; None of none."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Divided(io.TextIOBase):
    """A stream that asks who writes.

    Args:
        ours: For this program.
        theirs: For everybody else.

    Attributes:
        spare: Another descriptor for where everybody else writes.
    """

    def __init__(self, ours: TextIO, theirs: TextIO) -> None:
        self._ours, self._theirs = ours, theirs
        self._descriptor = ours.fileno()
        self._file = _identity(self._descriptor)
        self.spare = os.dup(theirs.fileno())

    def divert(self, theirs: TextIO) -> None:
        """Another stream for everybody else."""
        self._theirs = theirs

    def is_there(self) -> bool:
        """Whether the program's own output is the file that it was."""
        return _identity(self._descriptor) == self._file

    def write(self, text: str) -> int:
        """Write where it belongs."""
        return self._stream().write(text)

    def flush(self) -> None:
        """Flush both."""
        self._ours.flush()
        self._theirs.flush()

    def isatty(self) -> bool:
        """Whether the program's own output is a terminal."""
        return self._ours.isatty()

    def fileno(self) -> int:
        """The descriptor for who asks."""
        return self._stream().fileno()

    def writable(self) -> bool:
        """It is."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read only
        """The encoding of the program's own output."""
        return self._ours.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # read only
        """How it writes what it cannot encode."""
        return self._ours.errors

    @property
    def buffer(self) -> IO[bytes]:
        """The bytes below, for who asks."""
        return self._stream().buffer

    def _stream(self) -> TextIO:
        return self._ours if _is_ours(sys._getframe(2)) else self._theirs  # noqa: SLF001 - nothing else tells who calls


def _is_ours(frame: Any) -> bool:
    """Whether the innermost caller that has something to say is of this program."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        package = name.partition(".")[0]
        if package in OURS:
            return not name.startswith(THEIRS)
        if package not in WRITERS:
            return False
        frame = frame.f_back
    return False
