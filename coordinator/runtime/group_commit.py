"""Save, then say, for many messages at once: what is said waits until everything saved before it is on the disk.

The driver handles all messages that have arrived, and the disk is waited for once. Ten updates that come together cost
one wait instead of ten, and each receipt still follows its update's bytes.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from coordinator.runtime.publisher import Publisher
from federation.runtime.failpoint import failpoint

__all__ = ["BATCH_MAX", "GroupCommit"]

BATCH_MAX = 32
"""Messages that wait for the disk together at most."""


class _Disk(Protocol):
    def sync(self) -> None:
        """Wait until everything that was saved is on the disk."""


class GroupCommit:
    """Holds back publishes of one coordinator, in their order.

    Args:
        store: What must be on the disk first.
        control: Connection for everything but bulk.
        data: Connection for bulk.

    Attributes:
        control: Says over ``control``, at the next `settle`.
        data: The same over ``data``.
    """

    def __init__(self, store: _Disk, control: Publisher, data: Publisher) -> None:
        self._store = store
        self._held: list[Callable[[], None]] = []
        self.control: Publisher = _Holding(control, self._held)
        self.data: Publisher = _Holding(data, self._held)

    def passing(self, name: str) -> None:
        """A failpoint among what is said: passed when that is."""
        self._held.append(partial(failpoint, name))

    def settle(self) -> None:
        """Wait for the disk, then say what was held back.

        Raises:
            StorageError: The disk has failed, so nothing was said: only a new start knows what the disk has kept.
        """
        self._store.sync()
        held, self._held[:] = self._held[:], []
        for say in held:
            say()


class _Holding:
    def __init__(self, connection: Publisher, held: list[Callable[[], None]]) -> None:
        self._connection, self._held = connection, held

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish at the next settlement."""
        self._held.append(partial(self._connection.publish, topic, payload, qos=qos, retain=retain))
