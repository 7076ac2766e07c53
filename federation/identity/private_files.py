"""Files that are whole or absent after a crash, and that nobody else can read when they hold a key."""

import contextlib
import os
from pathlib import Path

from federation.errors import ConfigError, StorageError

__all__ = ["PRIVATE", "PUBLIC", "read_text", "write_text"]

PRIVATE = 0o600
PUBLIC = 0o644


def write_text(path: Path, text: str, *, mode: int) -> None:
    """Replace a file as a whole, durable when this returns; missing folders are made.

    Args:
        path: Which.
        text: Its new content.
        mode: `PRIVATE` or `PUBLIC`; the file never exists with more rights than these.

    Raises:
        StorageError: It cannot be written; what was there before is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        _write_new(temporary, text, mode)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def read_text(path: Path, *, bytes_max: int) -> str:
    """The content of a text file.

    Raises:
        ConfigError: It is missing, unreadable, not UTF-8, or larger than ``bytes_max``.
    """
    try:
        with path.open("rb") as file:
            body = file.read(bytes_max + 1)
    except OSError as error:
        raise ConfigError(path.name, f"cannot be read: {error.strerror}", source=str(path)) from error
    if len(body) > bytes_max:
        raise ConfigError(path.name, f"larger than {bytes_max} bytes", source=str(path))
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(path.name, "is not UTF-8 text", source=str(path)) from error


def _write_new(path: Path, text: str, mode: int) -> None:
    path.unlink(missing_ok=True)
    # Exclusive, and with its final rights from the first byte on: a key is never readable for a moment.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchmod(handle, mode)
        file.write(text)
        file.flush()
        os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
