"""A gateway's disk: both its stores on one device, which loses in a power cut what neither of them has waited for."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from coordinator.storage.store import Commit
from edge_node.storage.store import NodeStore
from federation.storage import sqlite
from federation.storage.sqlite import Connection
from federation.types import NodeId, RunId, StateId
from fedmq.simulation.world.disks import Disk
from fedmq.simulation.world.stores import node_disk, site_disk
from site_gateway.storage.store import SiteStore
from update_codec import Manifest

__all__ = ["GatewayDisk"]


class GatewayDisk:
    """Stands where another participant has its one `Disk`; a store is synchronised by itself, and both fail together.

    Args:
        folder: Where.
        gateway: Who the gateway is above.
        run: The run above.
        first: The model's manifest, and version 0.
        draw: Gives the identity of each node store that is made.

    Attributes:
        site: The half of the coordinator below.
        node: The half of the node above.
    """

    def __init__(
        self, folder: Path, gateway: NodeId, run: RunId, first: tuple[Manifest, Commit], draw: Callable[[], StateId]
    ) -> None:
        self._first = first
        self.site: Disk[SiteStore] = site_disk(folder / "site", gateway, run)
        self.node: Disk[NodeStore] = node_disk(folder / "above", draw)
        with self:
            self._begin()

    @property
    def store(self) -> SiteStore:
        """The site's."""
        return self.site.store

    @property
    def node_store(self) -> NodeStore:
        """The node's above."""
        return self.node.store

    @property
    def path(self) -> Path:
        """Where the site's store is."""
        return self.site.path

    @property
    def full(self) -> bool:
        """Whether nothing can be written."""
        return self.site.full

    @full.setter
    def full(self, full: bool) -> None:
        self.site.full = self.node.full = full

    @property
    def failing(self) -> bool:
        """Whether the next `os.fsync` fails, of whichever store."""
        return self.site.failing

    @failing.setter
    def failing(self, failing: bool) -> None:
        self.site.failing = failing

    @property
    def failed(self) -> bool:
        """Whether one has, since this disk was entered last."""
        return self.site.failed or self.node.failed

    @property
    def passage(self) -> Callable[[], None]:
        """Called at each failpoint of the process that works on it."""
        return self.site.passage

    @passage.setter
    def passage(self, passage: Callable[[], None]) -> None:
        self.site.passage = self.node.passage = passage

    @property
    def refuses(self) -> Callable[[], bool]:
        """Asked before each commit: whether it fails."""
        return self.site.refuses

    @refuses.setter
    def refuses(self, refuses: Callable[[], bool]) -> None:
        self.site.refuses = self.node.refuses = refuses

    def stop(self, power_cut: random.Random | None = None) -> None:
        """The process is gone; a power cut takes from both stores what was not synchronised."""
        self.site.stop(power_cut)
        self.node.stop(power_cut)
        self.failing = False

    def reopen(self) -> SiteStore:
        """What the next process finds."""
        self.site.reopen()
        self.node.reopen()
        self._begin()
        return self.store

    def close(self) -> None:
        """Close both."""
        self.site.close()
        self.node.close()

    def __enter__(self) -> None:
        """From now on what is opened, synchronised and passed is of these stores."""
        self.node.failed = False
        self.site.__enter__()
        sqlite.connect, os.fsync = self._connect, self._fsync  # type: ignore[assignment]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Everything is as it was."""
        self.site.__exit__(kind, error, trace)

    def _begin(self) -> None:
        """As a first start does, and each one after it that finds nothing."""
        if self.store.head() is None:
            self.store.initialise(*self._first)

    def _connect(self, path: Path) -> Connection:
        return (self.node if path.is_relative_to(self.node.path) else self.site).connect(path)

    def _fsync(self, handle: int) -> None:
        """Each half notes what is synchronised by the file that it is: the other half never looks for that one."""
        self.site.fsync(handle)
        self.node.fsync(handle)
