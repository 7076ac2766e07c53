"""What is wrong with a setting: the key in full, where it came from, and the key that was meant."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from federation.errors import ConfigError

__all__ = ["explained", "siblings"]


def explained(
    model: type[BaseModel], detail: ErrorDetails, sources: Mapping[str, str], more: Sequence[str] = ()
) -> ConfigError:
    """What is wrong with a setting, in the words of whoever wrote it.

    Args:
        model: The whole configuration.
        detail: What pydantic says of it.
        sources: Where each ``section.key`` came from.
        more: Other keys that are unknown, too.
    """
    location = [str(part) for part in detail["loc"]]
    source = sources.get(".".join(location[:2]), "defaults")
    # Of what lies deeper, such as a table of a list, the file has no line of its own: the place is said.
    key = (
        ".".join(location if detail["type"] in ("extra_forbidden", "missing") else _keys_of(location)) or model.__name__
    )
    match detail["type"]:
        case "extra_forbidden":
            if len(location) == 1:  # the whole section is unknown: say where its first key came from
                source = next((where for name, where in sources.items() if name.startswith(f"{key}.")), source)
            others = f"; unknown, too: {', '.join(more)}" if more else ""
            return ConfigError(key, _unknown(model, location) + others, source=source)
        case "missing":
            of_a_file = any(where.startswith("file ") for where in sources.values())
            hint = "" if of_a_file else "; --config FILE names the settings"
            return ConfigError(key, f"is required and was given nowhere{hint}", source=source)
        case _:
            return ConfigError(key, detail["msg"].removeprefix("Value error, "), source=source)


def _keys_of(location: list[str]) -> list[str]:
    """The keys to a setting; below two of them only the places in lists, and what is in them."""
    return location[:2] if len(location) < 4 else location


def siblings(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that would have been known there."""
    if not path:
        return list(model.model_fields)
    for part in path:
        if not part.isdecimal():  # the place in a list
            field = model.model_fields.get(part)
            found = None if field is None else _section_in(field.annotation)
            if found is None:
                return []
            model = found
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a setting is, or of which it has some, or may be none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _section_in(each)) is not None), None)


def _unknown(model: type[BaseModel], location: list[str]) -> str:
    known, name = siblings(model, location[:-1]), location[-1]
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"unknown key; did you mean {close[0]!r}?"
    elsewhere = [section for section in model.model_fields if name in siblings(model, [section])]
    if elsewhere:
        return f"unknown key; it belongs below [{'] or ['.join(elsewhere)}]"
    return f"unknown key; known are {', '.join(sorted(known))}"
