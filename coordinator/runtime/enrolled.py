"""What a coordinator that runs follows on the disk: the list of nodes' keys, whose leavers leave the federation.

And whether its own key, to which nodes seal, is to be replaced: because of its age, or because somebody asks for it.
"""

import contextlib
import hashlib
import queue
import threading
from pathlib import Path
from typing import Protocol, Self

from coordinator.engine.events import NodesEnrolled, RotationDue
from federation.errors import ConfigError
from federation.identity.signing_keys import enrolled_nodes
from federation.runtime.log import get_log
from federation.runtime.transport import Inbox, InboxItem

__all__ = ["EnrolledWatch", "keys_digest"]

LOOK_S = 0.25
"""How often the file is looked at, in seconds: a revoked node is not waited for any longer than this."""


class _Keys(Protocol):
    def rotation_is_due(self) -> bool:
        """Whether the newest key is old, or somebody asks for another; called on another thread."""


class EnrolledWatch:
    """While entered, tells the machine who is enrolled: at the start, and each time the file has changed.

    Args:
        keys: The file of the nodes' public keys; None follows nothing.
        inbox: The driver's.
        sealing: Knows whether the coordinator's key is to be replaced; None: there is none.
    """

    def __init__(self, keys: Path | None, inbox: Inbox, sealing: _Keys | None = None) -> None:
        self._keys, self._inbox, self._sealing = keys, inbox, sealing
        self._told, self._asked, self._trouble = "", False, ""
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
            self._watch_once()

    def _watch_once(self) -> None:
        if self._keys is not None:
            self._look(self._keys)
        self._look_at_key()

    def _look_at_key(self) -> None:
        """Ask once for another key, and again once there was one."""
        due = self._sealing is not None and self._sealing.rotation_is_due()
        if due and not self._asked:
            with contextlib.suppress(queue.Full):
                self._inbox.put_nowait(InboxItem(event=RotationDue()))
                self._asked = True
        self._asked = self._asked and due

    def _look(self, keys: Path) -> None:
        """Tell what the file says when that is news; what cannot be read, or not be told now, is tried again."""
        try:
            digest = keys_digest(keys)
            if digest != self._told:
                event = NodesEnrolled(nodes=enrolled_nodes(keys), digest=digest)
                self._inbox.put_nowait(InboxItem(event=event))
                self._told = digest
            self._trouble = ""
        except queue.Full:
            return
        except (OSError, ConfigError) as error:
            self._say(keys, str(error))

    def _say(self, keys: Path, trouble: str) -> None:
        """Say once what is wrong with the file: until it is right, nobody new is known, and nobody is revoked."""
        if trouble != self._trouble:
            self._trouble = trouble
            why = f"{trouble}; until it can be read, who was enrolled before it stays so"
            get_log("coordinator").warning("nodes_unreadable", file=str(keys), why=why)


def keys_digest(keys: Path) -> str:
    """What tells one content of the file of the nodes' keys from another.

    Raises:
        OSError: It cannot be read.
    """
    return hashlib.blake2b(keys.read_bytes(), digest_size=16).hexdigest()
