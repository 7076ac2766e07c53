"""Where a command is to write: asked before the work, because a typing mistake must not cost half an hour of it."""

import os
from pathlib import Path

from federation.errors import ConfigError

__all__ = ["check_file", "make_out_folder"]


def check_file(option: str, file: Path | None, *endings: str) -> None:
    """Ask before the work, not after it, whether a file can be written.

    Args:
        option: The option or argument that names it.
        file: It; None is none.
        endings: What its name must end in, one of them; none is any.

    Raises:
        ConfigError: Its folder is not there or cannot be written, it is a folder, or its name ends otherwise.
    """
    if file is None:
        return
    folder, problem = file.absolute().parent, ""
    if file.is_dir():
        problem = f"{file} is a folder"
    elif endings and file.suffix.lower() not in endings:
        problem = f"{file.name} must end in {' or '.join(endings)}"
    elif not folder.is_dir():
        problem = f"there is no folder {folder}"
    elif not file.exists() and not os.access(folder, os.W_OK | os.X_OK):
        problem = f"nothing can be written in {folder}"
    if problem:
        raise ConfigError(option, problem, source="command line")


def make_out_folder(option: str, folder: Path | None) -> None:
    """Make a folder for what is written at the end, before the work; arguments as of `check_file`.

    Raises:
        ConfigError: It cannot be made, or nothing can be written in it.
    """
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(option, f"{folder} cannot be made: {error.strerror}", source="command line") from error
    check_file(option, folder / "file")
