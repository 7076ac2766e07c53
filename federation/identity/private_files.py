"""Text files of an identity: nobody else can read those that hold a key."""

import os
from pathlib import Path

from federation.documents import read_file
from federation.errors import ConfigError, StorageError
from federation.storage.folder import write_file

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
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        write_file(path, text.encode(), mode=mode)
        _keep_owner(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def _keep_owner(path: Path) -> None:
    """What root writes belongs to whom the folder belongs to: a broker that runs as that user must read it."""
    owner = path.parent.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid)


def read_text(path: Path, *, bytes_max: int) -> str:
    """The content of a text file.

    Raises:
        ConfigError: It is missing, unreadable, not UTF-8, or larger than ``bytes_max``.
    """
    try:
        return read_file(path, bytes_max=bytes_max).decode("utf-8")
    except OSError as error:
        raise ConfigError(path.name, f"cannot be read: {error.strerror or error}", source=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(path.name, "is not UTF-8 text", source=str(path)) from error
    except ValueError as error:
        raise ConfigError(path.name, str(error), source=str(path)) from error
