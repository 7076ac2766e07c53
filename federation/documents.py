"""TOML and JSON that somebody else has written: a document that cannot be read is one kind of error, whatever is in it.

The parsers of the standard library raise `RecursionError` for what is nested too deeply, and a plain `ValueError` for a
number of thousands of digits, beside errors of their own.
"""

import json
import tomllib
from typing import Any

__all__ = ["TOML_LEVELS_MAX", "read_json", "read_toml"]

TOML_LEVELS_MAX = 32
"""Tables and lists in each other: dotted keys nest without the parser's own limit, and whoever walks them has one."""

_TOO_DEEP = "it is nested too deeply"


def read_json(text: str | bytes | bytearray) -> Any:
    """What a JSON document says; NaN and Infinity, which no standard has, are numbers.

    Raises:
        ValueError: It is not JSON, too deep, or has a number that is too long.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


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
