"""What a stopped node's state folder says."""

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from coordinator.storage.database import storing
from coordinator.storage.read_only import NODE_DATABASE, NODE_MODEL
from federation.errors import RemoteProtocolError, StorageError
from federation.protocol.messages import UpdateOffer
from federation.protocol.wire import decode_message
from federation.types import RunId, UpdateId

__all__ = ["StoppedNode", "read_node"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedNode:
    """What one node's state folder says.

    Attributes:
        folder: Where it is.
        run: The run that it takes part in; None before its first round.
        outbox: Updates without a final receipt, and whether the coordinator has said `stored`.
        held_version: The version of the model that it holds, or None.
        damage: What is wrong with the database; empty when nothing is.
    """

    folder: Path
    run: RunId | None
    outbox: dict[UpdateId, tuple[UpdateOffer, bool]]
    held_version: int | None
    damage: str = ""


def read_node(folder: Path) -> StoppedNode:
    """Read a node's state folder.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with storing("node's store"), contextlib.closing(_open_node(folder)) as database:
        found = str(database.execute("PRAGMA integrity_check(1)").fetchone()[0])
        run = database.execute("SELECT value FROM meta WHERE name = 'run'").fetchone()
        rows = database.execute("SELECT update_id, offer, stored FROM outbox ORDER BY position").fetchall()
    outbox = {}
    for update, body, stored in rows:
        try:
            offer = decode_message(body)
        except RemoteProtocolError as error:
            raise StorageError(f"the outbox in {folder} holds an unreadable offer of {update}: {error}") from error
        if isinstance(offer, UpdateOffer):
            outbox[UpdateId(update)] = (offer, bool(stored))
    return StoppedNode(
        folder=folder,
        run=None if run is None or run[0] is None else RunId(str(run[0])),
        outbox=outbox,
        held_version=_held_version(folder / NODE_MODEL),
        damage="" if found == "ok" else found,
    )


def _open_node(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{folder / NODE_DATABASE}?mode=ro", uri=True, isolation_level=None, timeout=5.0)


def _held_version(path: Path) -> int | None:
    with (
        contextlib.suppress(OSError, SafetensorError, KeyError, ValueError),
        safe_open(path, framework="numpy") as file,
    ):
        return int((file.metadata() or {})["version"])
    return None
