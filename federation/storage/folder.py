"""A state folder: one process owns it, and its files are whole or absent after a crash."""

import contextlib
import errno
import fcntl
import os
import stat
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from federation.errors import ConfigError, StorageError, StoreLocked
from federation.storage.remedies import misplaced, remedy_for

__all__ = [
    "TEMPORARY",
    "Folder",
    "FolderLock",
    "ReadableFolder",
    "empty_folder",
    "file_mark",
    "file_place",
    "has_content",
    "lock",
    "lock_holder",
    "lock_mark",
    "lost",
    "open_file",
    "point_link",
    "replacing",
    "sync_bytes",
    "sync_folder",
    "write_file",
]

TEMPORARY = ".tmp"
"""Suffix of a file that is not whole yet; one that a crash has left may be deleted."""

_LOCK = "lock"
_NAMED_MAX: Final = 3
"""Files that a message names; the rest is counted."""


def empty_folder(folder: Path, option: str) -> Path:
    """Make a folder that does not exist, or take one in which nothing is, for what a command keeps.

    Args:
        folder: Where.
        option: Whose value it is, such as ``--keep``.

    Returns:
        Its absolute path.

    Raises:
        ConfigError: Something is in it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise ConfigError(option, f"{folder} is no folder that can be used: {error}", source="command line") from error
    if found:
        problem = f"{folder} is not empty, it has {', '.join(found[:3])}: name a new folder"
        raise ConfigError(option, problem, source="command line")
    return folder.resolve()


class FolderLock:
    """Sees to it that one process owns a state folder; the kernel releases it when the process dies.

    A process that a user's task forks lets go of it at once: it may live longer, and would keep the folder from us.
    Nobody but its owner may look into it: a folder that an earlier release left open to others is closed.

    Args:
        folder: The state folder; created when it is missing.

    Raises:
        StoreLocked: Another process has it; the message names the process.
        StorageError: It cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if odd := misplaced(folder):
                raise StorageError(f"the state folder {folder} cannot be used{odd}")
            if (folder / _LOCK).exists():
                _close_to_others(folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._file = os.fdopen(os.open(folder / _LOCK, flags, 0o600), "r+b", buffering=0)
        except OSError as error:
            raise _unusable(folder, error) from error
        try:
            self._take(folder)
        except BaseException:
            self._file.close()
            raise
        _HELD.add(self)

    def _take(self, folder: Path) -> None:
        try:
            held = lock(self._file.fileno())
            if held:
                self._file.truncate(0)
                self._file.write(f"{os.getpid()}\n".encode())
        except OSError as error:
            raise _unusable(folder, error) from error
        if not held:
            by = f"in use by the process with pid {_holder(self._file.fileno())}"
            raise StoreLocked(f"the state folder {folder} is {by}: stop it, or choose another store.folder")

    def release(self) -> None:
        """Give the folder up."""
        self._file.close()


_HELD: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


def _let_go() -> None:
    for each in list(_HELD):
        each.release()


os.register_at_fork(after_in_child=_let_go)


def _close_to_others(folder: Path) -> None:
    """A folder that was ours before; not one that all use, such as /tmp. Where the system forbids it, it stays."""
    with contextlib.suppress(OSError):
        mode = folder.stat().st_mode
        if mode & 0o077 and not mode & stat.S_ISVTX:
            folder.chmod(mode & 0o700)


def _unusable(folder: Path, error: OSError) -> StorageError:
    return StorageError(f"the state folder {folder} cannot be used: {error}{remedy_for(error, folder)}")


def lock(handle: int, *, shared: bool = False) -> bool:
    """Lock an open file or folder until it is closed; False where another process has it."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def file_mark(file: Path) -> tuple[int, int, int] | None:
    """What is another one once a file or its content is: inode, size in bytes, time in ns; None: there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def lock_holder(folder: Path) -> str | None:
    """The pid of the process that owns a state folder; None when nobody does."""
    with contextlib.suppress(OSError), open_file(folder / _LOCK) as file:
        return None if lock(file.fileno(), shared=True) else _holder(file.fileno())
    return None


def lock_mark(folder: Path) -> int:
    """What names the last time that somebody took a state folder; 0 where nobody has."""
    with contextlib.suppress(OSError):
        return (folder / _LOCK).stat().st_mtime_ns
    return 0


def _holder(handle: int) -> str:
    return os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"


def open_file(path: Path) -> IO[bytes]:
    """Open a file of a state folder to read; a pipe in its place is not waited for.

    Raises:
        OSError: It is missing or unreadable, or no file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise OSError(errno.ENXIO, "it is no file", str(path))


def file_place(path: Path) -> tuple[int, int] | None:
    """Which file stands there; None is none.

    Whoever has it open writes on in it when it was moved or deleted, and no start finds that.
    """
    try:
        there = os.stat(path)  # noqa: PTH116 - at each transaction, and twice as fast
    except FileNotFoundError:
        return None
    return there.st_dev, there.st_ino


def lost(path: Path, traces: Sequence[str], remedy: str) -> StorageError:
    """The error of a database that knows nothing although there was a run; ``traces`` are files of it."""
    there = path.exists()
    state = "knows of no run" if there and path.stat().st_size else "is empty" if there else "is missing"
    more = f" and {len(traces) - _NAMED_MAX} more" if len(traces) > _NAMED_MAX else ""
    return StorageError(
        f"{path} {state}, but its folder has {', '.join(traces[:_NAMED_MAX])}{more}: {remedy}; nothing has been deleted"
    )


def has_content(path: Path) -> bool:
    """Whether there is such a file with a byte in it."""
    return path.exists() and path.stat().st_size > 0


def write_file(path: Path, body: bytes | memoryview, *, durable: bool = True, mode: int | None = None) -> None:
    """Replace a file as a whole.

    Args:
        path: Which.
        body: Its new content.
        durable: Whether it survives a power cut from here on.
        mode: Its rights, whatever the mask: it never exists with more than these. None leaves them to the mask.

    Raises:
        OSError: The disk is full or broken; unless only the folder could not be synced, nothing has changed.
    """
    with replacing(path, durable=durable, mode=mode) as file:
        file.write(body)


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Replace a file as a whole, written piece by piece: it takes its name at the end. As `write_file` else."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}{TEMPORARY}")
    try:
        with _new_file(temporary, mode) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def point_link(link: Path, target: str) -> None:
    """Let a symbolic link lead elsewhere, in one step that survives a power cut.

    Args:
        link: Which; made where it is missing.
        target: Where to, seen from its folder.

    Raises:
        OSError: The disk is full or broken, or the file system has no links; the link leads where it did.
    """
    temporary = link.with_name(f".{link.name}.{os.getpid()}-{threading.get_ident()}{TEMPORARY}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(link.parent)


def _new_file(path: Path, mode: int | None) -> IO[bytes]:
    path.unlink(missing_ok=True)
    # Exclusive, and with its final rights from the first byte on: a key is never readable for a moment.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else mode)
    if mode is not None:
        os.fchmod(handle, mode)
    return os.fdopen(handle, "wb")


def sync_bytes(handle: int) -> None:
    """Wait until a file's bytes and its length are on the disk, and not for the time of its last change.

    That one would cost the file system a transaction of its own, with each wait.

    Args:
        handle: Of the open file.

    Raises:
        OSError: The disk has failed.
    """
    if hasattr(os, "fdatasync"):
        os.fdatasync(handle)
    else:
        os.fsync(handle)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable: a name is on the disk only once the folder that holds it is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class ReadableFolder:
    """Files that somebody else may be replacing.

    Args:
        path: Where.

    Attributes:
        path: Where.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes:
        """Read a file; raises `OSError` when it is missing or unreadable."""
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> IO[bytes]:
        """Open a file to read; raises `OSError` when it is missing or unreadable."""
        return open_file(self.path / name)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.path / name).exists()

    def names(self) -> Iterator[str]:
        """All files, unfinished ones included."""
        return (entry.name for entry in os.scandir(self.path))


class Folder(ReadableFolder):
    """Files that are replaced as a whole.

    Args:
        path: Where; created when it is missing.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        super().__init__(path)

    def write(self, name: str, body: bytes | memoryview, *, durable: bool = True) -> None:
        """Replace a file; arguments and errors as for `write_file`."""
        write_file(self.path / name, body, durable=durable)

    def delete(self, name: str) -> None:
        """Remove a file; it may be gone already."""
        (self.path / name).unlink(missing_ok=True)
