"""What no setting may be, whatever it is for: what a file may say and neither a system call nor a database takes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel

from federation.errors import ConfigError

__all__ = ["NUMBER_MAX", "check_bounds", "check_place", "check_value"]

NUMBER_MAX: Final = (1 << 63) - 1
"""The largest whole number of a setting: a database has 64 bits, with the sign."""


def check_value(value: object, annotation: Any) -> None:
    """What was given for a setting, before it is made what the setting is.

    Args:
        value: As the file, the environment or the command line has it.
        annotation: The type of the setting.

    Raises:
        ValueError: It is an empty path, has a NUL character, or is a truth value for a number or the other way round.
    """
    if not value and isinstance(value, str) and _takes(annotation, Path):
        raise ValueError("is empty: leave the key out")  # as a path it would be the current folder
    section = isinstance(annotation, type) and issubclass(annotation, BaseModel)  # it looks at its own settings itself
    if not section and any("\0" in text for text in _texts_in(value)):
        raise ValueError("has a NUL character, which no path and no broker takes")
    if isinstance(value, bool):
        if _takes(annotation, int, float) and not _takes(annotation, bool):
            raise ValueError(f"must be a number, and {str(value).lower()} is none")
    elif isinstance(value, int | float) and annotation is bool:
        raise ValueError("must be true or false, and a number is neither")


def check_bounds(value: object) -> None:
    """What a setting has become.

    Raises:
        ValueError: It is a whole number beyond `NUMBER_MAX`.
    """
    if isinstance(value, int) and abs(value) > NUMBER_MAX:
        raise ValueError(f"must be at most {NUMBER_MAX:,}")


def check_place(key: str, path: Path | None, is_right: Callable[[Path], bool], problem: str) -> None:
    """A file or folder that a setting names is what it must be; None is none.

    Raises:
        ConfigError: It is not, or the system does not say: the name is too long, or a folder above may not be entered.
    """
    try:
        right = path is None or is_right(path)
    except OSError as error:
        raise ConfigError(key, f"{path} cannot be used: {error.strerror}") from error
    if not right:
        raise ConfigError(key, f"{path} {problem}")


def _texts_in(value: object) -> Iterator[str]:
    """All texts of a value, however deep."""
    match value:
        case str() | Path():
            yield str(value)
        case list() | tuple():
            for each in value:
                yield from _texts_in(each)
        case dict():
            for name, each in value.items():
                yield from _texts_in(name)
                yield from _texts_in(each)


def _takes(annotation: Any, *kinds: type) -> bool:
    """Whether a setting may be of one of these kinds, itself or as one of several."""
    return annotation in kinds or any(_takes(each, *kinds) for each in get_args(annotation))
