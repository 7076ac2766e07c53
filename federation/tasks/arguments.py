"""A task's name with what the task is told: in the name itself, or in a file that stands for both.

``sensors/autoencoder?columns=Pressure,Current&window=60`` names a task and its arguments. ``pump.toml`` is a file with
the same: ``task = "sensors/autoencoder"``, and every other key is an argument. What a configuration says as
``[task.arguments]`` becomes part of the name as JSON, so that a name is all that has to be handed on.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from federation.documents import read_json, read_toml
from federation.errors import ConfigError

__all__ = ["ARGUMENTS_BYTES_MAX", "FILE_SUFFIX", "divided", "joined"]

FILE_SUFFIX: Final = ".toml"
"""A task's name that ends so is a file."""

ARGUMENTS_BYTES_MAX: Final = 1 << 16
"""Longer arguments are refused, in bytes; what is large belongs in the data folder."""

_KEY: Final = "task"
_NAME: Final = "task"
"""What a file calls the name of its task."""


def joined(name: str, arguments: Mapping[str, Any]) -> str:
    """One name that says the arguments, too.

    Args:
        name: A task's name; it may say arguments itself, over which ``arguments`` win.
        arguments: Plain values: text, numbers, truth values, lists and tables of these.

    Raises:
        ConfigError: They are no plain values, or too long.
    """
    base, question, text = name.partition("?")
    known = {**(_parsed(text, name) if question else {}), **arguments}
    if not known:
        return name
    try:
        return f"{base}?{json.dumps(known, allow_nan=False, separators=(',', ':'))}"
    except (TypeError, ValueError) as error:
        problem = f"must be text, numbers, true or false, and lists of them: {error}"
        raise ConfigError("task.arguments", problem) from None


def divided(name: str) -> tuple[str, Mapping[str, Any]]:
    """The task's own name, and its arguments.

    Raises:
        ConfigError: The arguments cannot be read, or the file is not there or names no task.
    """
    base, question, text = name.partition("?")
    arguments = _parsed(text, name) if question else {}
    if not base.endswith(FILE_SUFFIX):
        return base, arguments
    inner, of_file = _from_file(Path(base).expanduser(), name)
    return inner, {**of_file, **arguments}


def _parsed(text: str, name: str) -> Mapping[str, Any]:
    """JSON, or pairs as an address has them, each value as TOML writes it, else text."""
    if len(text.encode()) > ARGUMENTS_BYTES_MAX:
        raise ConfigError(_KEY, f"the arguments have more than {ARGUMENTS_BYTES_MAX:,} bytes", source=name[:80])
    if text.startswith("{"):
        try:
            found = read_json(text)
        except ValueError as error:
            raise ConfigError(_KEY, f"the arguments are no JSON: {error}", source=name[:80]) from None
        return dict(found)
    pairs = [pair.partition("=") for pair in text.split("&") if pair]
    if (wrong := next((key for key, equals, _ in pairs if not (key and equals)), None)) is not None:
        raise ConfigError(_KEY, f"{wrong!r} is not KEY=VALUE; write NAME?window=60&model=conv", source=name[:80])
    return {key: _value(value) for key, _, value in pairs}


def _value(text: str) -> Any:
    try:
        return read_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def _from_file(path: Path, name: str) -> tuple[str, dict[str, Any]]:
    try:
        if path.stat().st_size > ARGUMENTS_BYTES_MAX:
            raise ConfigError(_KEY, f"{path} has more than {ARGUMENTS_BYTES_MAX:,} bytes", source=name[:80])
        found = read_toml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(_KEY, f"{name!r} cannot be read: {error}", source=str(path)) from error
    inner = found.pop(_NAME, None)
    if not isinstance(inner, str) or inner.partition("?")[0].endswith(FILE_SUFFIX):
        problem = f'{path} names no task: begin it with a line such as {_NAME} = "sensors/autoencoder"'
        raise ConfigError(_KEY, problem, source=str(path))
    base, question, text = inner.partition("?")
    return base, {**(_parsed(text, inner) if question else {}), **found}
