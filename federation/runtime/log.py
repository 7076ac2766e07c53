"""The log: structlog, one stable event key per line, JSON for machines or aligned text for people."""

import logging
import sys
from typing import TextIO, cast

import structlog

DEFAULT_LEVEL = "info"


def get_log(name: str, /, **fields: object) -> structlog.typing.FilteringBoundLogger:
    """A logger that says ``name`` (and ``fields``) as ``component`` in each line; cheap, and safe at import time."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(component=name, **fields))


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
        structlog.processors.JSONRenderer(default=str)
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
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=target),
        # Off: module-level loggers must follow a later configuration, in tests and in `coordinator demo`.
        cache_logger_on_first_use=False,
    )
