"""The durable node store: one SQLite file, and files beside it for large arrays.

Only what could not be had again waits for the disk (``synchronous=FULL``): the boot counter, a finished update, a
residual that got an update back, a task's state. Losing another change in a power cut costs a repeated message. The
write-ahead log keeps all of them in order.
"""

import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from edge_node.records import NO_CHANGE, OutboxEntry, RecoveredNode, Residual, Seen, StateChange
from edge_node.storage.database import Database, frame_name, read_outbox, read_seen
from edge_node.storage.model_file import MODEL, pack_model, read_model
from edge_node.storage.state_folder import StateFolder
from edge_node.storage.store import HeldModel
from edge_node.storage.task_state import added, pack_arrays, unpack_arrays
from federation.errors import LocalProtocolError, StorageError
from federation.protocol.limits import INT64_MAX
from federation.task import Parameters
from federation.types import Incarnation, ModelVersion, RoundId, RunId, StateId, UpdateId

__all__ = ["SqliteNodeStore"]

_RESIDUAL = "residual"
_RESIDUAL_VERSION = "residual_version"
_STATE = "state"


def _draw() -> StateId:
    return StateId(1 + secrets.randbelow(INT64_MAX))


class SqliteNodeStore:
    """One node's state folder.

    Args:
        path: The folder; made where it is missing.
        draw: Gives a new store its identity; a simulation gives its own.

    Raises:
        StoreLocked: Another process owns the folder.
        StorageError: The folder cannot be used, or is damaged.
    """

    def __init__(self, path: Path, *, draw: Callable[[], StateId] = _draw) -> None:
        self._folder = StateFolder(path)
        try:
            self._db = Database(self._folder, draw)
            self._incarnation = Incarnation(int(self._db.meta("incarnation")))
            self._state_id = StateId(int(self._db.meta("state_id")))
            self._outbox = self._read_outbox()
            self._model = read_model(path / MODEL)
            self._residual = self._read_residual()
            self._state = unpack_arrays(self._db.body(_STATE))
        except StorageError:
            self._folder.close()
            raise

    @property
    def incarnation(self) -> Incarnation:
        """Boot number: 1 at the first start on this state, one more at each."""
        return self._incarnation

    @property
    def state_id(self) -> StateId:
        """Drawn when this state was made: a folder that was lost and made again has another."""
        return self._state_id

    def recovered(self) -> RecoveredNode:
        """Where the last process left off."""
        run, last_round = self._db.meta("run"), self._db.meta("last_round")
        return RecoveredNode(
            run=None if run is None else RunId(str(run)),
            last_round=None if last_round is None else RoundId(int(last_round)),
            held_version=self._model.version if self._model else None,
            held_digest=self._model.digest if self._model else None,
            outbox=self.outbox(),
            seen=read_seen(self._db.meta("seen")),
        )

    def outbox(self) -> tuple[OutboxEntry, ...]:
        """The updates without a final receipt, oldest first."""
        return tuple(self._outbox.values())

    def held_model(self) -> HeldModel | None:
        """The model as it was saved last; None when there is none or its digest is wrong."""
        return self._model

    def save_model(self, model: HeldModel) -> None:
        """Replace the held model, without waiting for the disk: it can be pulled again."""
        try:
            self._folder.write(MODEL, pack_model(model), durable=False)
        except OSError as error:
            raise StorageError(f"the model cannot be saved: {error}") from error
        self._model = model

    def residual(self) -> Residual | None:
        """What was learnt and not sent, float32 (D,), or None for zero."""
        return self._residual

    def residual_version(self) -> ModelVersion | None:
        """The base version of the newest update that was saved with a residual; None when there is no residual."""
        version = self._db.meta(_RESIDUAL_VERSION)
        return None if self._residual is None or version is None else ModelVersion(int(version))

    def task_state(self) -> Parameters:
        """The arrays that the task keeps here, as they are settled."""
        return self._state

    def pending(self, update: UpdateId) -> Parameters:
        """What is added to the task's state when this update of the outbox is applied."""
        return unpack_arrays(self._db.body(_pending_name(update))) if update in self._outbox else {}

    def save_outbox(
        self,
        entry: OutboxEntry,
        frame: bytes,
        residual: Residual | None,
        change: StateChange = NO_CHANGE,
        context: bytes | None = None,
    ) -> None:
        """In one step: put an update into the outbox, replace the residual, and finish the update's round.

        Raises:
            StorageError: Nothing was saved.
            LocalProtocolError: The update is in the outbox already.
        """
        entry = replace(entry, offer=replace(entry.offer, inline=None))
        offer = entry.offer
        if offer.update in self._outbox:
            raise LocalProtocolError(f"update {offer.update} is in the outbox already")
        state = {**self._state, **change.kept} if change.kept else self._state
        with self._db.transaction(durable=True):
            self._db.add_entry(entry)
            self._db.set_body(frame_name(offer.update), frame)
            if change.pending:
                self._db.set_body(_pending_name(offer.update), pack_arrays(change.pending))
            if context is not None:
                self._db.set_body(_context_name(offer.update), context)
            self._put_residual(residual)
            self._put_state(state)
            self._db.set_meta(_RESIDUAL_VERSION, offer.base_version)
            self._advance(offer.run, offer.round)
        self._outbox[offer.update], self._residual, self._state = entry, residual, state

    def frame(self, update: UpdateId) -> bytes | None:
        """The codec frame of an update in the outbox, or None when there is no such entry."""
        return self._db.body(frame_name(update))

    def context(self, update: UpdateId) -> bytes | None:
        """What the frame of an update in the outbox needs to be decoded; None when it needs nothing."""
        return self._db.body(_context_name(update))

    def entry(self, update: UpdateId) -> OutboxEntry | None:
        """An update in the outbox, or None when there is no such entry."""
        return self._outbox.get(update)

    def mark_stored(self, update: UpdateId) -> None:
        """Remember that the coordinator has the payload."""
        if update in self._outbox:
            with self._db.transaction(durable=False):
                self._db.change("UPDATE outbox SET stored = 1 WHERE update_id = ?", update)
            self._outbox[update] = replace(self._outbox[update], stored=True)

    def settle(self, update: UpdateId, residual: Residual | None, *, applied: bool = False) -> None:
        """In one step: drop an update from the outbox, replace the residual, settle the task's state."""
        if update not in self._outbox:
            return
        pending = self.pending(update) if applied else {}
        state = added(self._state, pending) if pending else self._state
        # The frame's file goes after this: were the row to come back without it, nobody could settle it again.
        with self._db.transaction(durable=residual is not self._residual or state is not self._state):
            self._db.change("DELETE FROM outbox WHERE update_id = ?", update)
            self._db.drop_body(frame_name(update))
            self._db.drop_body(_pending_name(update))
            self._db.drop_body(_context_name(update))
            self._put_residual(residual)
            self._put_state(state)
        del self._outbox[update]
        self._residual, self._state = residual, state

    def save_progress(self, run: RunId, last_round: RoundId) -> None:
        """Remember the run and its newest round that is finished or declined."""
        with self._db.transaction(durable=False):
            self._advance(run, last_round)

    def save_seen(self, seen: Seen) -> None:
        """Remember the newest that was heard of the coordinator; on the disk with the next update, at the latest."""
        with self._db.transaction(durable=False):
            self._db.set_meta("seen", json.dumps(asdict(seen)))

    def forget_run(self, run: RunId) -> None:
        """Another run has begun: drop outbox, residual, task state, model and round of the old one."""
        with self._db.transaction(durable=False):
            self._db.change("DELETE FROM outbox")
            self._db.drop_bodies()
            self._db.set_meta("run", run)
            self._db.set_meta("last_round", None)
        self._folder.remove(MODEL)
        self._model, self._residual, self._state = None, None, {}
        self._outbox.clear()

    def close(self) -> None:
        """Release the state folder."""
        self._db.close()
        self._folder.close()

    def _read_outbox(self) -> dict[UpdateId, OutboxEntry]:
        found = read_outbox(self._db.query("SELECT * FROM outbox ORDER BY position"))
        # An entry without its payload was settled just before a power cut, or is damaged: it cannot be delivered.
        return {update: entry for update, entry in found if entry is not None and self.frame(update) is not None}

    def _read_residual(self) -> Residual | None:
        body = self._db.body(_RESIDUAL)
        return None if body is None else np.frombuffer(body, "<f4").astype(np.float32, copy=False)

    def _put_residual(self, residual: Residual | None) -> None:
        if residual is self._residual:
            return
        if residual is None:
            self._db.drop_body(_RESIDUAL)
        else:
            self._db.set_body(_RESIDUAL, np.ascontiguousarray(residual, "<f4").tobytes())

    def _put_state(self, state: Parameters) -> None:
        if state is not self._state:
            self._db.set_body(_STATE, pack_arrays(state))

    def _advance(self, run: RunId, round_id: RoundId) -> None:
        last = self._db.meta("last_round")
        if self._db.meta("run") != run or last is None or round_id > int(last):
            self._db.set_meta("run", run)
            self._db.set_meta("last_round", round_id)


def _pending_name(update: UpdateId) -> str:
    return f"pending-{update}"


def _context_name(update: UpdateId) -> str:
    return f"context-{update}"
