"""Programs that the settings name, such as who is told of an alert: run without a shell, within a time."""

import contextlib
import io
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["run_program"]

SAID_BYTES_MAX: Final = 200
"""Of what a failed program has said last."""

KILL_WAIT_S: Final = 5.0
"""So long a program that was killed may take to end, in seconds: it may wait for a disk."""

SECRET_MIN: Final = 4
"""Characters from which an argument may be a secret, and is not repeated."""


def run_program(
    command: Sequence[str], *, limit_s: float, told: bytes = b"", environment: Mapping[str, str] | None = None
) -> str:
    """Run a program, and end it and what it has started after so many seconds.

    What it leaves running when it ends in time goes on. Its arguments may be secrets: no problem that is told has them.

    Args:
        command: The program and its arguments.
        limit_s: How long it may take, in seconds.
        told: What it reads on its standard input.
        environment: Variables beside this process's own.

    Returns:
        What went wrong, for a person; empty where it ended with 0.
    """
    # Files, and no pipes: what the program leaves running would hold them open, and print without an end.
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as errors:
        asked.write(told)
        asked.seek(0)
        try:
            process = subprocess.Popen(
                list(command),
                stdin=asked,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=os.environ | dict(environment or {}),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"{command[0]} cannot be started: {getattr(error, 'strerror', None) or error}"
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            return f"{command[0]} took longer than {limit_s:g} s and was killed"
        if code == 0:
            return ""
        errors.seek(max(0, errors.seek(0, io.SEEK_END) - SAID_BYTES_MAX))
        said = _without(command[1:], errors.read().decode(errors="replace").strip())
    return f"{command[0]} ended with {code}{': ' if said else ''}{said}"


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """With all that it has started, which is in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_WAIT_S)


def _without(arguments: Sequence[str], text: str) -> str:
    for argument in arguments:
        if len(argument) >= SECRET_MIN and not argument.startswith("-"):
            text = text.replace(argument, "…")
    return text
