"""The log: structlog, one stable event key per line, JSON for machines or aligned text for people.

A log that cannot be written costs lines, never the process: its disk may be full, its reader gone or asleep.
"""

import json as json_module
import logging
import os
import select
import stat
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread, get_ident
from typing import Any, Final, TextIO, cast

from federation.errors import place_in

# structlog takes rich with it where that is installed, to draw errors that we write plainly: 3 MB in each process.
_rich = sys.modules.setdefault("rich", cast("Any", None))
import structlog  # noqa: E402
from structlog.contextvars import merge_contextvars  # noqa: E402

if _rich is None:
    del sys.modules["rich"]

DEFAULT_LEVEL = "info"
SLOW_S = 20.0
"""After so many seconds people ask whether it hangs."""

READER_S = 10.0
"""So long a line waits for the reader of a pipe that is full, in seconds; the next ones do not until it reads again."""

READER_AGAIN_S = 0.5
"""The same of a reader that has slept before, in seconds: an orderly stop has other things to wait for."""

_AT_ONCE = 4_096
"""A pipe or socket that takes anything takes so many bytes without blocking."""


def get_log(name: str, /, **fields: object) -> structlog.typing.FilteringBoundLogger:
    """A logger that says ``name`` (and ``fields``) as ``component`` in each line; cheap, and safe at import time."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(component=name, **fields))


_FIELDS = "_fields"
_RESERVED = frozenset({"event", "level", "timestamp", "exception", "exc_info", "stack", "stack_info"})


def write_fields(write: Callable[..., object], event: str, fields: Mapping[str, object]) -> None:
    """Write a line with fields of any name, such as a node's metrics: as keywords, some would mean something.

    Args:
        write: A method of a logger, such as ``log.info``.
        event: The stable event key.
        fields: What it says.
    """
    write(event, **{_FIELDS: fields})


def _spread_fields(_logger: object, _method: str, line: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Put them beside the others; what the renderer would take for its own gets another name."""
    fields = cast("Mapping[str, object]", line.pop(_FIELDS, {}))
    return {**{f"{name}_" if name in _RESERVED else name: value for name, value in fields.items()}, **line}


_JSON = json_module.JSONEncoder(default=str)
_LEVELS = {"warn": "warning", "exception": "error"}
"""Levels of methods that have another name."""


_STEPS: Final[tuple[structlog.typing.Processor, ...]] = (
    merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _spread_fields,
)


def _finish(logger: object, method: str, line: MutableMapping[str, Any]) -> str:
    """All steps in one, for JSON: a line is written for each step of a round, and what a step adds is not copied."""
    merge_contextvars(logger, method, line)
    line["level"] = _LEVELS.get(method, method)
    line["timestamp"] = f"{datetime.now(UTC).isoformat(timespec='microseconds')[:-6]}Z"
    if "exc_info" in line:
        line = structlog.processors.format_exc_info(logger, method, line)
    if _FIELDS in line:
        line = _spread_fields(logger, method, line)
    return _JSON.encode(line)


class LogStream:
    """Where lines go: those that cannot be written are counted, and told as soon as one can be again.

    Each goes out at once and past Python's buffers, which would keep what failed and fail with it at the end.

    Args:
        stream: A file, a pipe, a terminal, or one in memory; None is nowhere.
        told: Makes the line of a count and a reason.
        reader_s: How long a full pipe is waited for, in seconds.
    """

    def __init__(self, stream: TextIO | None, told: Callable[[int, str], str], *, reader_s: float) -> None:
        self._stream, self._told, self._reader_s = stream, told, reader_s
        self._descriptor, self._encoding = _descriptor(stream), getattr(stream, "encoding", None) or "utf-8"
        self._patient = True
        self._begun = False
        self._lost, self._reason = 0, ""

    def write(self, text: str) -> None:
        """Write a line, or lose it."""
        try:
            if self._lost:
                self._put(("\n" if self._begun else "") + self._told(self._lost, self._reason) + "\n")
                self._lost = 0
            self._put(text)
        except (OSError, ValueError) as error:  # ValueError: somebody has closed it
            self._lost, self._reason = self._lost + 1, str(error)

    def flush(self) -> None:
        """Nothing is kept back."""

    def _put(self, text: str) -> None:
        if self._stream is None:
            return
        if self._descriptor is None:
            self._stream.write(text)
            self._stream.flush()
            return
        left = memoryview(text.encode(self._encoding, "backslashreplace"))
        while left:
            at_once = self._await_room(self._descriptor) or len(left)
            left = left[os.write(self._descriptor, left[:at_once]) :]
            self._begun = len(left) > 0

    def _await_room(self, descriptor: int) -> int:
        """How many bytes it takes without blocking; 0 is any number.

        Raises:
            TimeoutError: Nobody reads.
        """
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return 0
        room = select.poll()
        room.register(descriptor, select.POLLOUT)
        self._patient = bool(room.poll(self._reader_s * 1_000 if self._patient else 0))
        if not self._patient:
            self._reader_s = min(self._reader_s, READER_AGAIN_S)
            raise TimeoutError("nobody reads it")
        return _AT_ONCE


def _descriptor(stream: TextIO | None) -> int | None:
    """The file below; None where there is none, as in tests."""
    try:
        return None if stream is None else stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def _text(target: TextIO | None) -> structlog.typing.Processor:
    return structlog.dev.ConsoleRenderer(
        colors=target is not None and target.isatty(),
        pad_event_to=28,
        exception_formatter=structlog.dev.plain_traceback,
    )


def configure_log(*, json: bool, level: str = DEFAULT_LEVEL, stream: TextIO | None = None) -> None:
    """Send the log of this process to one stream. A second call replaces the first.

    Args:
        json: One JSON object per line, or aligned text (in colour on a terminal).
        level: ``debug``, ``info``, ``warning``, ``error``, or ``critical``.
        stream: Where to; None is standard output for JSON, standard error for text. Each line goes out at once, so
            that a killed process loses none.

    Raises:
        ValueError: No such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"no such log level: {level!r}; use debug, info, warning, error or critical")
    target: TextIO | None = stream or (sys.stdout if json else sys.stderr)
    steps: tuple[Any, ...] = (_finish,) if json else (*_STEPS, _text(target))

    def told(count: int, reason: str) -> str:
        line: Any = {"component": "log", "event": "log_lines_lost", "count": count, "reason": reason}
        for step in steps:
            line = step(None, "warning", line)
        return str(line)

    logger = structlog.WriteLogger(cast("TextIO", LogStream(target, told, reader_s=READER_S)))
    structlog.configure(
        processors=steps,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: logger,
        # Off: module-level loggers must follow a later configuration, in tests and in `coordinator demo`.
        cache_logger_on_first_use=False,
    )


@contextmanager
def said_while_slow(doing: str, first_s: float = SLOW_S) -> Iterator[None]:
    """Warn while code that others wrote does not come back: ``still_busy``, with its place; pauses double.

    Args:
        doing: What it does, for people.
        first_s: After how many seconds the first line comes.
    """
    ended, thread = Event(), get_ident()

    def warn() -> None:
        passed, pause = 0.0, first_s
        while not ended.wait(pause):
            passed, pause = passed + pause, 2 * pause
            at = place_in(traceback.walk_stack(sys._current_frames()[thread]))  # noqa: SLF001 - the only way to ask
            get_log("process").warning("still_busy", doing=doing, seconds=round(passed, 1), at=at)

    watcher = Thread(target=warn, name="said-while-slow", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
