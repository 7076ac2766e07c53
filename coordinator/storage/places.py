"""Where the store of a state folder is: in the folder, or in the database that a note in it names."""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit, urlunsplit

from coordinator.storage.database import DATABASE, open_read_only
from coordinator.storage.files import BLOBS
from coordinator.storage.parts import Leader, ReadableBlobs
from federation.documents import read_json
from federation.errors import ConfigError, StorageError
from federation.storage.folder import ReadableFolder, open_file, write_file
from federation.storage.remedies import remedy_for
from federation.storage.sql import Readable

if TYPE_CHECKING:
    from coordinator.storage.postgresql.reading import PostgresReader

__all__ = [
    "NOTE",
    "Opened",
    "ReadableStore",
    "has_store",
    "leader_at",
    "leader_of",
    "open_to_read",
    "reader_of",
    "remember_url",
    "require_library",
    "url_of",
]

NOTE = "postgresql.json"
"""The file that names the database; without the password, which belongs elsewhere."""

_NOTE_BYTES_MAX = 1 << 16


class ReadableStore(Readable, Protocol):
    """The tables of a store, for those who only read."""

    def damage(self) -> str:
        """What the engine itself finds; empty when all is whole."""

    def copy(self, path: Path) -> None:
        """Write all tables to a new file of SQLite."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A store that is open to read."""

    database: ReadableStore
    files: ReadableBlobs


def open_to_read(folder: Path, *, at_once: bool = False) -> Opened:
    """Open the store of a state folder to read, while a coordinator may be writing it.

    Args:
        folder: The state folder.
        at_once: Whether all that is read is of this moment.

    Raises:
        StorageError: There is none, it is of a newer layout, or it cannot be read.
    """
    url = url_of(folder)
    if url is None:
        return Opened(open_read_only(folder, at_once=at_once), ReadableFolder(folder / BLOBS))
    reader = reader_of(url, at_once=at_once)
    return Opened(reader, reader.files)


def reader_of(url: str, *, at_once: bool = False) -> "PostgresReader":
    """A run in a database, to read.

    Raises:
        ConfigError: The library for it is not installed.
        StorageError: There is none, or it cannot be read.
    """
    require_library()
    from coordinator.storage.postgresql.reading import PostgresReader  # noqa: PLC0415 - of an extra

    return PostgresReader(url, at_once=at_once)


def leader_of(folder: Path) -> Leader | None:
    """Who leads the run of a state folder, or has led it last; None where its store is in the folder.

    Raises:
        ConfigError: The library for the database is not installed.
        StorageError: The database cannot be read.
    """
    url = url_of(folder)
    return None if url is None else leader_at(url)


def leader_at(url: str) -> Leader | None:
    """Who leads the run of a database, or has led it last; errors as of `leader_of`."""
    require_library()
    from coordinator.storage.postgresql.lead import leader_in  # noqa: PLC0415 - of an extra

    return leader_in(url)


def require_library() -> None:
    """See that PostgreSQL can be spoken to.

    Raises:
        ConfigError: The library for it is not installed.
    """
    if find_spec("psycopg") is None:
        problem = "PostgreSQL needs a library that is not installed: pip install 'fedmq[postgresql]'"
        raise ConfigError("store.url", problem)


def has_store(folder: Path) -> bool:
    """Whether a coordinator has run with this folder."""
    return (folder / DATABASE).is_file() or (folder / NOTE).is_file()


def remember_url(folder: Path, url: str) -> None:
    """Leave a note of where the store is, without the password.

    Raises:
        StorageError: It cannot be written.
    """
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    plain = f"{user.partition(':')[0]}@{host}" if user else host
    note = {"url": urlunsplit(parts._replace(netloc=plain))}
    try:
        write_file(folder / NOTE, json.dumps(note).encode(), mode=0o600)
    except OSError as error:
        raise StorageError(f"{folder / NOTE} cannot be written: {error}{remedy_for(error, folder)}") from error


def url_of(folder: Path) -> str | None:
    """The database that a state folder's note names; None where the store is in the folder.

    Raises:
        StorageError: The note cannot be read.
    """
    try:
        with open_file(folder / NOTE) as file:
            return str(read_json(file.read(_NOTE_BYTES_MAX))["url"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"{folder / NOTE} cannot be read: {error}{remedy_for(error, folder)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{folder / NOTE} cannot be read: {error}") from error
