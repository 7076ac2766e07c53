"""One process's hold on a state folder: the lock, and files that are whole or absent after a crash."""

import contextlib
import fcntl
import os
from collections.abc import Collection
from pathlib import Path

from federation.errors import StorageError, StoreLocked

__all__ = ["StateFolder"]

_TEMPORARY = ".tmp"


class StateFolder:
    """A locked folder; the lock dies with the process, however it dies.

    Raises:
        StoreLocked: Another process holds the folder.
        StorageError: It cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"the state folder {path} cannot be used: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            problem = (
                f"the state folder {path} is in use by process {holder}: stop it, or give this node its own folder"
            )
            raise StoreLocked(problem) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def write(self, name: str, body: bytes | memoryview, *, durable: bool) -> None:
        """Replace a file as a whole.

        Args:
            name: File name in the folder.
            body: Its new content.
            durable: Whether it must survive a power cut from here on.

        Raises:
            OSError: Nothing has changed.
        """
        temporary = self.path / f"{name}{_TEMPORARY}"
        try:
            with temporary.open("wb") as file:
                file.write(body)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(self.path / name)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if durable:
            self._sync_folder()

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            OSError: It is missing or unreadable.
        """
        return (self.path / name).read_bytes()

    def remove(self, name: str) -> None:
        """Delete a file; one that stays behind is swept at the next start."""
        with contextlib.suppress(OSError):
            (self.path / name).unlink(missing_ok=True)

    def sweep(self, suffix: str, keep: Collection[str]) -> None:
        """Delete what a crash left: half-written files, and files with this suffix that nothing names."""
        for path in self.path.iterdir():
            orphan = path.name.endswith(suffix) and path.name not in keep
            if orphan or path.name.endswith(_TEMPORARY):
                self.remove(path.name)

    def close(self) -> None:
        """Let another process take the folder."""
        os.close(self._lock)

    def _sync_folder(self) -> None:
        # A rename is durable only once the folder that holds the name is.
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
