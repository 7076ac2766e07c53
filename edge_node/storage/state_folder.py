"""One process's hold on a node's state folder, and the files in it."""

import contextlib
from collections.abc import Collection
from pathlib import Path

from federation.errors import StorageError
from federation.storage.folder import TEMPORARY, Folder, FolderLock

__all__ = ["StateFolder"]


class StateFolder(Folder):
    """A locked folder; the lock dies with the process, however it dies.

    Raises:
        StoreLocked: Another process holds the folder.
        StorageError: It cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self._lock = FolderLock(path)
        super().__init__(path)

    def remove(self, name: str) -> None:
        """Delete a file; one that stays behind is swept at the next start."""
        with contextlib.suppress(OSError):
            self.delete(name)

    def rename(self, name: str, new: str) -> None:
        """Give a file another name.

        Raises:
            StorageError: It keeps the one that it has.
        """
        try:
            (self.path / name).replace(self.path / new)
        except OSError as error:
            raise StorageError(f"{self.path / name} cannot be renamed: {error}") from error

    def sweep(self, suffix: str, keep: Collection[str]) -> None:
        """Delete what a crash left: half-written files, and files with this suffix that nothing names."""
        for name in list(self.names()):
            if name.endswith(TEMPORARY) or (name.endswith(suffix) and name not in keep):
                self.remove(name)

    def close(self) -> None:
        """Let another process take the folder."""
        self._lock.release()
