"""What a stopped node's state folder says."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_node.records import Held, Seen
from edge_node.storage.bodies import body_of
from edge_node.storage.database import (
    APPLIED,
    DATABASE,
    LAYOUT,
    NEWEST_FIRST,
    RunRow,
    frame_name,
    open_read_only,
    read_outbox,
    read_run,
    remedy_of,
    traces,
)
from edge_node.storage.ledger import read_charges
from edge_node.storage.model_file import FORMER_MODEL, model_name, read_held
from federation.errors import StorageError
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import UpdateOffer
from federation.storage.columns import DamagedRow
from federation.storage.folder import ReadableFolder
from federation.storage.sqlite import Database, SqliteError
from federation.storage.sqlite_reading import ReadOnlyDatabase
from federation.storage.upgrade import StoreKind
from federation.types import ModelVersion, RoundId, RunId, SampledSteps, UpdateId

__all__ = ["STORE", "StoppedNode", "read_node"]


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
        bodies_damaged: What is kept beside the tables, such as ``residual``, and is not what was written.
        charges: What each update of the run took of the privacy budget; that of no update is by the empty name.
    """

    folder: Path
    run: RunId | None
    outbox: dict[UpdateId, tuple[UpdateOffer, bool]]
    held: Held | None = None
    last_round: RoundId | None = None
    seen: Seen | None = None
    frames_lost: frozenset[UpdateId] = frozenset()
    damage: str = ""
    bodies_damaged: tuple[str, ...] = ()
    charges: Mapping[UpdateId, tuple[SampledSteps, ...]] = field(default_factory=dict)

    @property
    def held_version(self) -> int | None:
        """The version of the model that it holds, or None."""
        return None if self.held is None else self.held.version


def read_node(folder: Path, run: RunId | None = None) -> StoppedNode:
    """Read what a node's state folder has of one run.

    Args:
        folder: Where it is.
        run: Which run, where the node knows it; else the one that it has heard of last.

    Raises:
        StorageError: There is no store, or it cannot be read.
    """
    with contextlib.closing(open_read_only(folder)) as database:
        try:
            return _read(database, folder, run)
        except (SqliteError, DamagedRow, ValueError, TypeError, KeyError) as error:
            raise StorageError(f"the store in {folder} cannot be read: {error}") from error


def _read(database: ReadOnlyDatabase, folder: Path, wanted: RunId | None) -> StoppedNode:
    known = [read_run(row) for row in database.execute(NEWEST_FIRST)]
    chosen = next((row for row in known if row.run == wanted), known[0] if known else None)
    if chosen is None:
        return StoppedNode(folder=folder, run=None, outbox={}, damage=database.damage())
    rows = database.execute("SELECT * FROM outbox WHERE run = ? ORDER BY position", chosen.run).fetchall()
    outbox = {}
    for update, entry in read_outbox(rows):
        if entry is None:
            raise StorageError(f"the outbox in {folder} holds an unreadable offer of {update}")
        outbox[update] = (entry.offer, entry.stored)
    held = read_held(folder / model_name(chosen.run))
    return StoppedNode(
        folder=folder,
        run=chosen.run,
        outbox=outbox,
        held=read_held(folder / FORMER_MODEL) if held is None and chosen is known[0] else held,
        last_round=chosen.last_round,
        seen=_seen(database, chosen),
        frames_lost=frozenset(update for update, (offer, _) in outbox.items() if not _has(database, folder, offer)),
        damage=database.damage(),
        bodies_damaged=tuple(_damaged(database, folder, chosen.run)),
        charges=read_charges(database, chosen.run),
    )


def _seen(database: ReadOnlyDatabase, row: RunRow) -> Seen | None:
    body = database.execute("SELECT inline FROM body WHERE run = ? AND name = ?", row.run, APPLIED).fetchone()
    if row.seen is None or body is None:
        return row.seen
    return replace(row.seen, applied=ModelVersion(int.from_bytes(body["inline"])))


def _damaged(database: ReadOnlyDatabase, folder: Path, run: RunId) -> Iterator[str]:
    for row in database.execute("SELECT * FROM body WHERE run = ? ORDER BY name", run):
        with contextlib.suppress(OSError):
            if body_of(row, ReadableFolder(folder).read) is None:
                yield str(row["name"])


def _has(database: ReadOnlyDatabase, folder: Path, offer: UpdateOffer) -> bool:
    """Whether the frame of an update is there and whole."""
    query = "SELECT * FROM body WHERE run = ? AND name = ?"
    row = database.execute(query, offer.run, frame_name(offer.update)).fetchone()
    try:
        frame = (
            None if row is None else row["inline"] if row["file"] is None else ReadableFolder(folder).read(row["file"])
        )
    except OSError:
        return False
    return frame is not None and payload_digest(frame) == offer.payload_digest


def _made_newer(folder: Path) -> Database:
    return Database(folder / DATABASE, LAYOUT, remedy=remedy_of(folder), role="node", traces=traces(folder))


STORE = StoreKind(
    role="edge-node",
    database=DATABASE,
    layout=LAYOUT,
    read=open_read_only,
    write=_made_newer,
    changes={2: "what is kept gets the name of its run", 3: "room for the ledger of differential privacy"},
)
"""What `edge-node upgrade` works on."""
