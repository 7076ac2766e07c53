"""What a stopped node's state folder says."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from edge_node.records import Held, Seen
from edge_node.storage.database import frame_name, open_read_only, read_outbox, read_seen
from edge_node.storage.model_file import MODEL, read_held
from federation.errors import StorageError
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import UpdateOffer
from federation.storage.sqlite import ReadOnlyDatabase, SqliteError
from federation.types import RoundId, RunId, UpdateId

__all__ = ["StoppedNode", "read_node"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedNode:
    """What one node's state folder says.

    Attributes:
        folder: Where it is.
        run: The run that it takes part in; None before its first round.
        outbox: Updates without a final receipt, and whether the coordinator has said `stored`.
        held: The model that it holds, or None.
        last_round: The newest round of the run that is finished or declined, or None.
        seen: The newest that was heard of the coordinator.
        frames_lost: Updates of the outbox whose frame is gone or damaged.
        damage: What is wrong with the database; empty when nothing is.
    """

    folder: Path
    run: RunId | None
    outbox: dict[UpdateId, tuple[UpdateOffer, bool]]
    held: Held | None = None
    last_round: RoundId | None = None
    seen: Seen | None = None
    frames_lost: frozenset[UpdateId] = frozenset()
    damage: str = ""

    @property
    def held_version(self) -> int | None:
        """The version of the model that it holds, or None."""
        return None if self.held is None else self.held.version


def read_node(folder: Path) -> StoppedNode:
    """Read a node's state folder.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with contextlib.closing(open_read_only(folder)) as database:
        try:
            return _read(database, folder)
        except (SqliteError, ValueError, TypeError, KeyError) as error:
            raise StorageError(f"the store in {folder} cannot be read: {error}") from error


def _read(database: ReadOnlyDatabase, folder: Path) -> StoppedNode:
    rows = database.execute("SELECT * FROM outbox ORDER BY position").fetchall()
    meta = {row["name"]: row["value"] for row in database.execute("SELECT name, value FROM meta")}
    outbox = {}
    for update, entry in read_outbox(rows):
        if entry is None:
            raise StorageError(f"the outbox in {folder} holds an unreadable offer of {update}")
        outbox[update] = (entry.offer, entry.stored)
    run, last_round = meta.get("run"), meta.get("last_round")
    return StoppedNode(
        folder=folder,
        run=None if run is None else RunId(str(run)),
        outbox=outbox,
        held=read_held(folder / MODEL),
        last_round=None if last_round is None else RoundId(int(last_round)),
        seen=read_seen(meta.get("seen")),
        frames_lost=frozenset(update for update, (offer, _) in outbox.items() if not _has(database, folder, offer)),
        damage=database.damage(),
    )


def _has(database: ReadOnlyDatabase, folder: Path, offer: UpdateOffer) -> bool:
    """Whether the frame of an update is there and whole."""
    row = database.execute("SELECT * FROM body WHERE name = ?", frame_name(offer.update)).fetchone()
    try:
        frame = None if row is None else row["inline"] if row["file"] is None else (folder / row["file"]).read_bytes()
    except OSError:
        return False
    return frame is not None and payload_digest(frame) == offer.payload_digest
