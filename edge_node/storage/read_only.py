"""What a stopped node's state folder says."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from edge_node.storage.database import open_read_only, read_outbox
from edge_node.storage.model_file import MODEL, held_version
from federation.errors import StorageError
from federation.protocol.messages import UpdateOffer
from federation.storage.sqlite import SqliteError
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
    with contextlib.closing(open_read_only(folder)) as database:
        try:
            damage = database.damage()
            run = database.execute("SELECT value FROM meta WHERE name = 'run'").fetchone()
            rows = database.execute("SELECT * FROM outbox ORDER BY position").fetchall()
        except SqliteError as error:
            raise StorageError(f"the store in {folder} cannot be read: {error}") from error
    outbox = {}
    for update, entry in read_outbox(rows):
        if entry is None:
            raise StorageError(f"the outbox in {folder} holds an unreadable offer of {update}")
        outbox[update] = (entry.offer, entry.stored)
    return StoppedNode(
        folder=folder,
        run=None if run is None or run[0] is None else RunId(str(run[0])),
        outbox=outbox,
        held_version=held_version(folder / MODEL),
        damage=damage,
    )
