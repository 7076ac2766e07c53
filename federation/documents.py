"""TOML and JSON that somebody else has written: a document that cannot be read is one kind of error, whatever is in it.

The parsers of the standard library raise `RecursionError` for what is nested too deeply, and a plain `ValueError` for a
number of thousands of digits, beside errors of their own. A file that somebody names may be a pipe or a device.
"""

import json
import os
import select
import time
import tomllib
from pathlib import Path
from typing import Any

__all__ = ["TOML_LEVELS_MAX", "WRITER_S", "read_file", "read_json", "read_mapping", "read_toml"]

WRITER_S = 10.0
"""So long a pipe may take to be filled, in seconds: a password may come from another program."""

TOML_LEVELS_MAX = 32
"""Tables and lists in each other: dotted keys nest without the parser's own limit, and whoever walks them has one."""

_TOO_DEEP = "it is nested too deeply"
_SHOWN = 40


def read_file(path: Path, *, bytes_max: int, writer_s: float = WRITER_S) -> bytes:
    """The content of a file, or what is written into a pipe; neither is waited for, or read, without a bound.

    Args:
        path: Which.
        bytes_max: The most that it may hold.
        writer_s: How long a pipe may take to be filled, in seconds.

    Raises:
        OSError: It cannot be read, or is a pipe that is not filled in time.
        ValueError: It is larger than ``bytes_max``.
    """
    body, end_s = b"", time.monotonic() + writer_s
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        filled = select.poll()
        filled.register(descriptor, select.POLLIN)
        while len(body) <= bytes_max:
            if not filled.poll(max(0.0, end_s - time.monotonic()) * 1_000):
                raise TimeoutError(f"it is no file, and nobody has written into it within {writer_s:g} s")
            read = os.read(descriptor, bytes_max + 1 - len(body))
            if not read:
                return body
            body += read
    finally:
        os.close(descriptor)
    raise ValueError(f"larger than {bytes_max} bytes")


def read_json(text: str | bytes | bytearray) -> Any:
    """What a JSON document says; NaN and Infinity, which no standard has, are numbers.

    Raises:
        ValueError: It is not JSON, too deep, or has a number that is too long.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def read_mapping(text: str | bytes | bytearray) -> dict[str, Any]:
    """The object that a JSON document is.

    Raises:
        ValueError: As for `read_json`, or it is something else.
    """
    made = read_json(text)
    if not isinstance(made, dict):
        raise ValueError(f"{text[:_SHOWN]!r} is no object")  # noqa: TRY004 - a document's content, not an argument
    return made


def read_toml(text: str) -> dict[str, Any]:
    """What a TOML document says.

    Raises:
        ValueError: It is not TOML, too deep, or has a number that is too long.
    """
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level: list[Any] = [found]
    for _ in range(TOML_LEVELS_MAX):
        level = [each for one in level for each in (one.values() if isinstance(one, dict) else one)]
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return found
    raise ValueError(_TOO_DEEP)
