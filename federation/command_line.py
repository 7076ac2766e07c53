"""What the command lines share: options that mean the same everywhere, one line for an error, and exit codes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from federation.errors import ConfigError, FederationError, StorageError, TaskError, TransportError

__all__ = ["BrokerOption", "DataOption", "FederationOption", "JsonOption", "LogJsonOption", "TaskOption", "errors_told"]

INTERRUPTED = 130

BrokerOption = Annotated[str | None, typer.Option(help="Broker URL, such as mqtt://host:1883 or mqtts://host.")]
FederationOption = Annotated[str | None, typer.Option(help="Name of the federation.")]
TaskOption = Annotated[
    str | None, typer.Option(help="digits, mnist-mlp, ... or your own: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION.")
]
DataOption = Annotated[Path | None, typer.Option(help="Folder with the data.")]
LogJsonOption = Annotated[bool | None, typer.Option("--log-json", help="JSON lines on standard output.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@contextmanager
def errors_told(program: str) -> Iterator[None]:
    """Inside, what went wrong is one line on standard error and an exit code: for a command, or around all of them.

    Raises:
        FederationError: It has no exit code: our own bug.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except FederationError as error:
        code = _exit_code(error)
        typer.echo(f"{program}: {error}", err=True)
        sys.exit(code)


def _exit_code(error: FederationError) -> int:
    match error:
        case ConfigError() | TaskError():
            return 2
        case StorageError():
            return 3
        case TransportError():
            return 4
        case _:
            raise error
