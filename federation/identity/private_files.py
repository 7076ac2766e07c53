"""Text files of an identity: nobody else can read those that hold a key."""

from pathlib import Path

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
    except OSError as error:
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
