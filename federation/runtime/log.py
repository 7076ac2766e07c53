"""The log: structlog, one stable event key per line, JSON for machines or aligned text for people."""

import json as json_module
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from threading import Event, Thread, get_ident
from typing import TextIO, cast

import structlog

from federation.errors import place_in

DEFAULT_LEVEL = "info"
SLOW_S = 20.0
"""After so many seconds people ask whether it hangs."""


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


def _to_json(line: Mapping[str, object], **_options: object) -> str:
    return _JSON.encode(line)


def configure_log(*, json: bool, level: str = DEFAULT_LEVEL, stream: TextIO | None = None) -> None:
    """Send the log of this process to one stream. A second call replaces the first.

    Args:
        json: One JSON object per line, or aligned text (in colour on a terminal).
        level: ``debug``, ``info``, ``warning``, ``error``, or ``critical``.
        stream: Where to; None is standard output for JSON, standard error for text. Each line is flushed, so that a
            killed process loses none.

    Raises:
        ValueError: No such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"no such log level: {level!r}; use debug, info, warning, error or critical")
    target = stream or (sys.stdout if json else sys.stderr)
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_to_json)
        if json
        else structlog.dev.ConsoleRenderer(
            colors=target.isatty(), pad_event_to=28, exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if json else []),
            _spread_fields,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=target),
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
