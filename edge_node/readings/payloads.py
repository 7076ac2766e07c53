"""From the bytes that a sensor sends to numbers and times: a number, or the reason why it is none.

A payload comes from the network: its size, its depth and its numbers are checked, and nothing in it is a name of ours.
"""

import datetime as dt
import math
import re
import zoneinfo
from collections.abc import Mapping
from functools import cache
from typing import Any

from federation.documents import read_json

__all__ = [
    "PAYLOAD_BYTES_MAX",
    "NoReading",
    "document_of",
    "number_of",
    "parse_path",
    "pick",
    "time_of",
    "within",
    "zone_of",
]

PAYLOAD_BYTES_MAX = 64 << 10
"""A larger message is no reading, in bytes."""

NO_SUCH_VALUE = "no such value"
"""The path leads nowhere in this payload."""

VALUE_MAX = 3.4e38
"""What is beyond float32 is no measurement."""

_NUMBER = re.compile(r"\s*[-+]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][-+]?\d{1,4})?\s*")
_WORDS: Mapping[str, float] = {
    **dict.fromkeys(("true", "on", "yes", "open", "opened", "online", "home", "detected", "active"), 1.0),
    **dict.fromkeys(("false", "off", "no", "closed", "offline", "not_home", "clear", "inactive"), 0.0),
}
_NOTHING = frozenset({"", "null", "none", "nan", "unknown", "unavailable", "n/a"})

_LATEST_S = 4_102_444_800.0
"""2100: a number of seconds above it is of milliseconds, or less."""


class NoReading(Exception):  # noqa: N818 - the name says what it is
    """There is no reading in it; the text is one of few words that are counted."""


def document_of(payload: bytes) -> Any:
    """What a JSON payload says.

    Raises:
        NoReading: It is too large, too deep, or not JSON.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise NoReading("too large")
    try:
        # NaN and Infinity are no JSON, and many write them: they cost their own value, and not the others.
        return read_json(payload)
    except ValueError as error:
        raise NoReading("not JSON") from error


def number_of(value: Any, words: Mapping[str, float]) -> float:
    """A number of what a payload says: a number, a text of one, a truth value, or a word.

    Args:
        value: What was found.
        words: The owner's own words, in lower case, before the common ones (on, off, open, closed...).

    Raises:
        NoReading: It is nothing, no number, or none that float32 can say.
    """
    if isinstance(value, bool):
        return words.get(str(value).lower(), float(value))
    if isinstance(value, str):
        return _number_in(value, words)
    if not isinstance(value, int | float):
        raise NoReading("no value" if value is None else "not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return within(number)


def time_of(value: Any, zone: dt.tzinfo | None, near: float | None = None) -> float:
    """Seconds since 1970 of a number (seconds, milli-, micro- or nanoseconds) or a text (ISO 8601, or a number).

    Args:
        value: What was found.
        zone: Of a text that names none; None is the device's own.
        near: About when it was, in seconds since 1970: of the two times that a text names in the hour when clocks go
            back, the one that is nearer. None takes the first.

    Raises:
        NoReading: It is no time.
    """
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        try:
            when = dt.datetime.fromisoformat(value.strip())
            when = when if when.tzinfo or zone is None else when.replace(tzinfo=zone)
            first, second = when.timestamp(), when.replace(fold=1).timestamp()
            return _in_range(first if near is None or abs(first - near) <= abs(second - near) else second)
        except (ValueError, OverflowError, OSError) as error:
            raise NoReading("not a time") from error
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise NoReading("not a time")
    try:
        number = float(value)
    except (OverflowError, ValueError):
        number = math.nan
    for _ in range(3):
        number = number / 1_000 if number > _LATEST_S else number
    return _in_range(number)


def _in_range(seconds: float) -> float:
    if not 0 <= seconds <= _LATEST_S:
        raise NoReading("not a time")
    return seconds


@cache
def zone_of(name: str) -> dt.tzinfo | None:
    """A time zone by its name; None is this device's own, ``local``.

    Raises:
        ValueError: There is none of that name.
    """
    if name == "local":
        return None
    if name.upper() == "UTC":
        return dt.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r}: give UTC, local, or one as Europe/Berlin") from error


def parse_path(text: str) -> tuple[str | int, ...]:
    """The steps to a value in a JSON document: ``a.b[0].c``, or ``/a.b/c:0`` where names have dots.

    Raises:
        ValueError: It is no such path.
    """
    if text.startswith("/"):
        steps = text[1:].split("/")
        return tuple(int(step) if step.isdecimal() else step for step in steps)
    found = re.fullmatch(r"[^.\[\]]+(\[\d{1,6}\])*(\.[^.\[\]]+(\[\d{1,6}\])*)*", text)
    if found is None:
        raise ValueError(f"{text!r} is no path such as ENERGY.Power or emeters[0].power")
    return tuple(int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", text))


def pick(document: Any, path: tuple[str | int, ...]) -> Any:
    """The value at a path.

    Raises:
        NoReading: There is none.
    """
    for step in path:
        if isinstance(document, Mapping):
            if str(step) not in document:
                raise NoReading(NO_SUCH_VALUE)
            document = document[str(step)]
        elif isinstance(document, list) and isinstance(step, int) and step < len(document):
            document = document[step]
        else:
            raise NoReading(NO_SUCH_VALUE)
    return document


def _number_in(text: str, words: Mapping[str, float]) -> float:
    if _NUMBER.fullmatch(text):
        return within(float(text.strip()))  # strip knows more white space of ASCII than float does, and so does \s
    word = text.strip().lower()[:64]
    found = words.get(word, _WORDS.get(word))
    if found is None:
        raise NoReading("no value" if word in _NOTHING else "not a number")
    return found


def within(number: float) -> float:
    """The number itself.

    Raises:
        NoReading: float32 cannot say it.
    """
    if not abs(number) <= VALUE_MAX:
        raise NoReading("not finite")
    return number
