"""Who is enrolled, as a coordinator that runs follows it: who leaves the list of nodes' keys leaves the federation."""

import hashlib
import queue
import threading
from pathlib import Path
from typing import Self

from coordinator.engine.events import NodesEnrolled
from federation.errors import ConfigError
from federation.identity.signing_keys import enrolled_nodes
from federation.runtime.transport import Inbox, InboxItem

__all__ = ["EnrolledWatch", "keys_digest"]

LOOK_S = 0.25
"""How often the file is looked at, in seconds: a revoked node is not waited for any longer than this."""


class EnrolledWatch:
    """While entered, tells the machine who is enrolled: at the start, and each time the file has changed.

    Args:
        keys: The file of the nodes' public keys; None follows nothing.
        inbox: The driver's.
    """

    def __init__(self, keys: Path | None, inbox: Inbox) -> None:
        self._keys, self._inbox = keys, inbox
        self._told = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="enrolled", daemon=True)

    def __enter__(self) -> Self:
        if self._keys is not None:
            self._look(self._keys)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_S):
            if self._keys is not None:
                self._look(self._keys)

    def _look(self, keys: Path) -> None:
        """Tell what the file says when that is news; what cannot be read, or not be told now, is tried again."""
        try:
            digest = keys_digest(keys)
            if digest != self._told:
                event = NodesEnrolled(nodes=enrolled_nodes(keys), digest=digest)
                self._inbox.put_nowait(InboxItem(event=event))
                self._told = digest
        except (OSError, ConfigError, queue.Full):
            return


def keys_digest(keys: Path) -> str:
    """What tells one content of the file of the nodes' keys from another.

    Raises:
        OSError: It cannot be read.
    """
    return hashlib.blake2b(keys.read_bytes(), digest_size=16).hexdigest()
