"""The durable node store: one SQLite file, and files beside it for large arrays.

Only what could not be had again waits for the disk (``synchronous=FULL``): the boot counter, a finished update, a
residual that got an update back, a task's state. Losing another change in a power cut costs a repeated message. The
write-ahead log keeps all of them in order.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edge_node.records import NO_CHANGE, OutboxEntry, RecoveredNode, RecoveredRun, Residual, Seen, StateChange
from edge_node.storage.database import APPLIED, Database, RunRow, frame_name, read_outbox, remedy_of
from edge_node.storage.model_file import FORMER_MODEL, is_model, model_name, pack_model, read_held, read_model
from edge_node.storage.state_folder import StateFolder
from edge_node.storage.store import HeldModel
from edge_node.storage.task_state import added, pack_arrays, unpack_arrays
from federation.errors import DamagedStore, LocalProtocolError, RemoteProtocolError, StorageError
from federation.protocol.limits import INT64_MAX
from federation.protocol.messages import Proof
from federation.protocol.wire import decode_message, encode_message
from federation.storage.columns import DamagedRow
from federation.task import Parameters
from federation.types import Incarnation, ModelVersion, RoundId, RunId, SampledSteps, StateId, UpdateId

__all__ = ["SqliteNodeStore"]

_RESIDUAL = "residual"
_STATE = "state"
_PROOF = "proof"
_NO_RUN = RunId("")
"""Before the first run is entered."""


def _draw() -> StateId:
    return StateId(1 + secrets.randbelow(INT64_MAX))


def _wall() -> float:
    return time.time()


@dataclass(slots=True, kw_only=True)
class _Run:
    """The run at hand, in memory."""

    run: RunId
    outbox: dict[UpdateId, OutboxEntry] = field(default_factory=dict)
    model: HeldModel | None = None
    residual: Residual | None = None
    state: Parameters = field(default_factory=dict)


class SqliteNodeStore:
    """One node's state folder.

    Args:
        path: The folder; made where it is missing.
        draw: Gives a new store its identity; a simulation gives its own.
        wall: The wall clock, in seconds since 1970: how old an update is that nobody has received.

    Raises:
        StoreLocked: Another process owns the folder.
        StorageError: The folder cannot be used, or is damaged.
    """

    def __init__(self, path: Path, *, draw: Callable[[], StateId] = _draw, wall: Callable[[], float] = _wall) -> None:
        self._folder, self._wall = StateFolder(path), wall
        try:
            self._db = Database(self._folder, draw)
            self._heard: dict[RunId, Seen] = {}
            known = self._db.runs()
            self._sweep_models([row.run for row in known])
            self._now = self._load(known[0].run if known else _NO_RUN)
        except DamagedRow as error:
            self._folder.close()
            raise DamagedStore(f"the store in {path} cannot be read: {error}; {remedy_of(path)}") from error
        except StorageError:
            self._folder.close()
            raise

    @property
    def incarnation(self) -> Incarnation:
        """Boot number: 1 at the first start on this state, one more at each."""
        return self._db.incarnation

    @property
    def state_id(self) -> StateId:
        """Drawn when this state was made: a folder that was lost and made again has another."""
        return self._db.state_id

    def recovered(self) -> RecoveredNode:
        """Where the last process left off."""
        run, model = self._now.run, self._now.model
        row = self._db.run(run)
        return RecoveredNode(
            run=run or None,
            last_round=row.last_round,
            held_version=model.version if model else None,
            held_digest=model.digest if model else None,
            outbox=self.outbox(),
            seen=self._seen(row),
            hidden=tuple(self._hidden(row) for row in self._db.runs() if row.run != run),
            spent=self._db.spent(),
        )

    def enter_run(self, run: RunId) -> tuple[RunId, ...]:
        """Everything is about this run from now on; what another one has left stays as it is, and can be entered again.

        Returns:
            The runs that had to go for it, for good.

        Raises:
            StorageError: It is entered, and a restart will not know it.
        """
        self._enter(run)
        with self._db.transaction(durable=False):
            gone = self._db.enter_run(run, self._wall())
        for other in gone:
            self._heard.pop(other, None)
            self._folder.remove(model_name(other))
        return gone

    def outbox(self) -> tuple[OutboxEntry, ...]:
        """The updates of the run without a final receipt, oldest first."""
        return tuple(self._now.outbox.values())

    def held_model(self) -> HeldModel | None:
        """The model as it was saved last; None when there is none or its digest is wrong."""
        return self._now.model

    def save_model(self, model: HeldModel) -> None:
        """Replace the held model, without waiting for the disk: it can be pulled again."""
        try:
            self._folder.write(model_name(self._now.run), pack_model(model), durable=False)
        except OSError as error:
            raise StorageError(f"the model cannot be saved: {error}") from error
        self._now.model = model

    def residual(self) -> Residual | None:
        """What was learnt and not sent, float32 (D,), or None for zero."""
        return self._now.residual

    def residual_version(self) -> ModelVersion | None:
        """The base version of the newest update that was saved with a residual; None when there is no residual."""
        return None if self._now.residual is None else self._db.run(self._now.run).residual_version

    def task_state(self) -> Parameters:
        """The arrays that the task keeps here, as they are settled."""
        return self._now.state

    def pending(self, update: UpdateId) -> Parameters:
        """What is added to the task's state when this update of the outbox is applied."""
        return unpack_arrays(self._body(_pending_name(update))) if update in self._now.outbox else {}

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
        now = self._enter(offer.run)
        if offer.update in now.outbox:
            raise LocalProtocolError(f"update {offer.update} is in the outbox already")
        state = {**now.state, **change.kept} if change.kept else now.state
        with self._db.transaction(durable=True):
            self._db.add_entry(entry, self._wall())
            self._db.charge(offer.run, offer.update, offer.spent or ())
            self._db.bodies.put(now.run, frame_name(offer.update), frame)
            if change.pending:
                self._db.bodies.put(now.run, _pending_name(offer.update), pack_arrays(change.pending))
            if context is not None:
                self._db.bodies.put(now.run, _context_name(offer.update), context)
            self._put_residual(residual)
            self._put_state(state)
            row = replace(self._db.newest_run(now.run), residual_version=offer.base_version)
            self._db.put_run(_advanced(row, offer.round))
        now.outbox[offer.update], now.residual, now.state = entry, residual, state

    def frame(self, update: UpdateId) -> bytes | None:
        """The codec frame of an update in the outbox, or None when there is no such entry."""
        return self._body(frame_name(update))

    def context(self, update: UpdateId) -> bytes | None:
        """What the frame of an update in the outbox needs to be decoded; None when it needs nothing."""
        return self._body(_context_name(update))

    def entry(self, update: UpdateId) -> OutboxEntry | None:
        """An update in the outbox, or None when there is no such entry."""
        return self._now.outbox.get(update)

    def mark_stored(self, update: UpdateId) -> None:
        """Remember that the coordinator has the payload."""
        now = self._now
        if update in now.outbox:
            with self._db.transaction(durable=False):
                mark = "UPDATE outbox SET stored = 1 WHERE run = ? AND update_id = ?"
                self._db.change(mark, now.run, update)
            now.outbox[update] = replace(now.outbox[update], stored=True)

    def settle(self, update: UpdateId, residual: Residual | None, *, applied: bool = False) -> None:
        """In one step: drop an update from the outbox, replace the residual, settle the task's state."""
        now = self._now
        if update not in now.outbox:
            return
        pending = self.pending(update) if applied else {}
        state = added(now.state, pending) if pending else now.state
        # The frame's file goes after this: were the row to come back without it, nobody could settle it again.
        with self._db.transaction(durable=residual is not now.residual or state is not now.state):
            self._db.change("DELETE FROM outbox WHERE run = ? AND update_id = ?", now.run, update)
            self._db.bodies.drop(now.run, frame_name(update), _pending_name(update), _context_name(update))
            self._put_residual(residual)
            self._put_state(state)
        del now.outbox[update]
        now.residual, now.state = residual, state

    def spent(self) -> Mapping[RunId, tuple[SampledSteps, ...]]:
        """What was spent under differential privacy, by run; it stays where a run is forgotten."""
        return self._db.spent()

    def save_spent(self, run: RunId, spent: tuple[SampledSteps, ...]) -> None:
        """Take over that at least so much was spent in a run."""
        with self._db.transaction(durable=True):
            self._db.charge(run, None, spent)

    def save_progress(self, run: RunId, last_round: RoundId) -> None:
        """Remember the run and its newest round that is finished or declined."""
        with self._db.transaction(durable=False):
            self._db.put_run(_advanced(self._db.newest_run(run), last_round))
        self._enter(run)

    def save_seen(self, seen: Seen) -> None:
        """Remember the newest that was heard of a run's coordinator; on the disk with the next update, at the latest.

        Rounds that were finished after it are those of a coordinator whose store has gone back since: they are asked
        again.
        """
        with self._db.transaction(durable=False):
            row = self._db.run(seen.run)
            last = row.last_round
            undone = last is not None and seen.round is not None and last > seen.round
            heard = replace(
                row,
                epoch=seen.epoch,
                start=seen.start,
                began_ms=seen.began_ms,
                round=seen.round,
                version=seen.version,
                last_round=None if undone else last,
            )
            self._db.put_run(heard)
            before = self._heard.get(seen.run)
            if seen.proof is not None and (before is None or before.proof != seen.proof):
                self._db.bodies.put(seen.run, _PROOF, encode_message(seen.proof))
            if before is None or before.applied != seen.applied:
                self._put_applied(seen)
        self._heard[seen.run] = seen

    def close(self) -> None:
        """Release the state folder."""
        try:
            self._db.close()
        finally:
            self._folder.close()

    def _enter(self, run: RunId) -> _Run:
        if run != self._now.run:
            self._now = self._load(run)
        return self._now

    def _load(self, run: RunId) -> _Run:
        body = self._db.body(run, _RESIDUAL)
        return _Run(
            run=run,
            outbox=self._read_outbox(run),
            model=read_model(self._folder.path / model_name(run)),
            residual=None if body is None else np.frombuffer(body, "<f4").astype(np.float32, copy=False),
            state=unpack_arrays(self._db.body(run, _STATE)),
        )

    def _hidden(self, row: RunRow) -> RecoveredRun:
        held = read_held(self._folder.path / model_name(row.run))
        return RecoveredRun(
            run=row.run,
            last_round=row.last_round,
            held_version=held.version if held else None,
            held_digest=held.digest if held else None,
            outbox=tuple(self._read_outbox(row.run).values()),
            seen=self._seen(row),
        )

    def _seen(self, row: RunRow) -> Seen | None:
        """What was heard; a proof that is damaged, or of another release, is none."""
        seen, body, applied = row.seen, self._db.body(row.run, _PROOF), self._db.body(row.run, APPLIED)
        if seen is not None and applied is not None:
            seen = replace(seen, applied=ModelVersion(int.from_bytes(applied)))
        if seen is None or body is None:
            return seen
        with contextlib.suppress(RemoteProtocolError):
            proof = decode_message(body)
            return replace(seen, proof=proof) if isinstance(proof, Proof) else seen
        return seen

    def _put_applied(self, seen: Seen) -> None:
        if seen.applied is None:
            self._db.bodies.drop(seen.run, APPLIED)
        else:
            self._db.bodies.put(seen.run, APPLIED, seen.applied.to_bytes(4))

    def _read_outbox(self, run: RunId) -> dict[UpdateId, OutboxEntry]:
        found = read_outbox(self._db.query("SELECT * FROM outbox WHERE run = ? ORDER BY position", run))
        # An entry without its payload was settled just before a power cut, or is damaged: it cannot be delivered.
        return {
            update: entry
            for update, entry in found
            if entry is not None and self._db.body(run, frame_name(update)) is not None
        }

    def _sweep_models(self, runs: list[RunId]) -> None:
        """Give a model of layout 1 the name of its run, and delete those of runs that are gone."""
        if runs and self._folder.has(FORMER_MODEL) and not self._folder.has(model_name(runs[0])):
            self._folder.rename(FORMER_MODEL, model_name(runs[0]))
        keep = {model_name(run) for run in runs}
        for name in list(self._folder.names()):
            if is_model(name) and name not in keep:
                self._folder.remove(name)

    def _body(self, name: str) -> bytes | None:
        return self._db.body(self._now.run, name)

    def _put_residual(self, residual: Residual | None) -> None:
        if residual is self._now.residual:
            return
        if residual is None:
            self._db.bodies.drop(self._now.run, _RESIDUAL)
        else:
            self._db.bodies.put(self._now.run, _RESIDUAL, np.ascontiguousarray(residual, "<f4").tobytes())

    def _put_state(self, state: Parameters) -> None:
        if state is not self._now.state:
            self._db.bodies.put(self._now.run, _STATE, pack_arrays(state))


def _advanced(row: RunRow, round_id: RoundId) -> RunRow:
    return row if row.last_round is not None and round_id <= row.last_round else replace(row, last_round=round_id)


def _pending_name(update: UpdateId) -> str:
    return f"pending-{update}"


def _context_name(update: UpdateId) -> str:
    return f"context-{update}"
