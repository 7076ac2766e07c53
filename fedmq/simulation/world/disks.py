"""The durable state of the participants: the roles' own stores in memory, on a disk that can be full."""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from coordinator.records import (
    NodeResult,
    NodesEvaluation,
    RecoveredState,
    RoundRecord,
    TransferRecord,
    UpdateRecord,
    Verdict,
)
from coordinator.storage.memory_store import MemoryStore
from coordinator.storage.store import Commit
from edge_node.storage.memory_store import MemoryNodeStore
from federation.errors import StorageError
from federation.protocol.messages import ModelPart
from federation.types import ModelVersion, NodeId, RoundId, RunId, UpdateId

__all__ = ["CoordinatorDisk", "Ledger", "NodeDisk"]

AUDIT_VERSIONS = 1_000_000
"""Payloads of so many versions are kept where the end is checked: all of them."""
CHUNK_LOSS = 0.3
"""A power cut costs each chunk of an open transfer with this probability."""


class Ledger(Protocol):
    """Hears what became durable; `fedmq.simulation.protocol.checker.Checker` is one."""

    def reserved(self, record: RoundRecord) -> None:
        """A round is on disk."""

    def stored(self, record: UpdateRecord) -> None:
        """An update is on disk."""

    def judged(self, verdict: Verdict) -> None:
        """A final verdict is on disk."""

    def committed(self, commit: Commit) -> None:
        """A version is on disk."""

    def evaluated(self, run: RunId, result: NodeResult) -> None:
        """What a node found is on disk."""

    def surveyed(self, evaluation: NodesEvaluation) -> None:
        """The mean over the nodes is on disk."""


class CoordinatorDisk(MemoryStore):
    """A `MemoryStore` that tells the ledger, and can be full.

    Args:
        run: Identity of the store.
        ledger: Hears every change.
        audit: Keep all payloads, so that the end can be recomputed.

    Attributes:
        full: While it is set, every change fails and changes nothing.
    """

    def __init__(self, run: RunId, ledger: Ledger, *, audit: bool) -> None:
        super().__init__(run, audit_versions=AUDIT_VERSIONS if audit else 1)
        self.full = False
        self._ledger = ledger
        self._lazy: list[tuple[RoundId, tuple[NodeId, ...]]] = []

    def cut_power(self, rng: random.Random) -> None:
        """What the interface allows to be lost is lost: closed assignments, and chunks of open transfers."""
        self._lazy.clear()
        self._retained = frozenset()
        for transfer in self._transfers.values():
            for index in [index for index in sorted(transfer.arrived) if rng.random() < CHUNK_LOSS]:
                size = transfer.record.chunk_bytes
                end = min(len(transfer.body), (index + 1) * size)
                transfer.body[index * size : end] = bytes(end - index * size)
                transfer.arrived.discard(index)

    def recovered(self, *, recent: int) -> RecoveredState:
        """Where the last machine left off."""
        self._synchronise()
        return super().recovered(recent=recent)

    def save_round(self, record: RoundRecord) -> None:
        """Reserve a round and open its assignments."""
        self._write()
        self._synchronise()
        super().save_round(record)
        self._ledger.reserved(record)

    def close_round(self, round_id: RoundId, nodes: Sequence[NodeId]) -> None:
        """Forget open assignments; on disk with the next change that is synchronised."""
        self._write()
        self._lazy.append((round_id, tuple(nodes)))

    def save_update(self, record: UpdateRecord, payload: bytes) -> None:
        """Save an update with its payload as ``stored``."""
        self._write()
        super().save_update(record, payload)
        self._ledger.stored(record)

    def save_verdict(self, verdict: Verdict, record: UpdateRecord | None) -> None:
        """Save a final verdict."""
        self._write()
        super().save_verdict(verdict, record)
        self._ledger.judged(verdict)

    def open_transfer(self, transfer: TransferRecord) -> None:
        """Expect a large update in chunks."""
        self._write()
        super().open_transfer(transfer)

    def save_chunk(self, update: UpdateId, index: int, body: bytes) -> None:
        """Save one chunk of an open transfer."""
        self._write()
        super().save_chunk(update, index, body)

    def drop_transfer(self, update: UpdateId) -> None:
        """Forget a large update that stopped arriving."""
        self._write()
        super().drop_transfer(update)

    def commit(self, commit: Commit) -> None:
        """Save a version."""
        self._write()
        self._synchronise()
        super().commit(commit)
        self._ledger.committed(commit)

    def mark_cleared(self, parts: Sequence[ModelPart]) -> None:
        """Remember that these parts are off the broker."""
        self._write()
        super().mark_cleared(parts)

    def save_evaluation(self, version: ModelVersion, metrics: Mapping[str, float]) -> None:
        """Remember what an evaluation found."""
        self._write()
        super().save_evaluation(version, metrics)

    def save_node_result(self, result: NodeResult) -> NodeResult:
        """Save what a node found; its first word stays."""
        self._write()
        kept = super().save_node_result(result)
        self._ledger.evaluated(self.run, kept)
        return kept

    def close_evaluation(self, version: ModelVersion) -> NodesEvaluation:
        """Make the mean over the nodes that count, and save it."""
        self._write()
        made = super().close_evaluation(version)
        self._ledger.surveyed(made)
        return made

    def retain(self, versions: Collection[ModelVersion], best: ModelVersion | None) -> None:
        """Keep the arrays of exactly these versions and of the best one."""
        self._write()
        super().retain(versions, best)

    def _synchronise(self) -> None:
        for round_id, nodes in self._lazy:
            super().close_round(round_id, nodes)
        self._lazy.clear()

    def _write(self) -> None:
        if self.full:
            raise StorageError("the simulated disk is full")


@dataclass(slots=True)
class NodeDisk:
    """One node's disk over its lives: which store the next process opens.

    Attributes:
        store: The newest process's store.
        full: While it is set, every change fails.
    """

    store: MemoryNodeStore
    full: bool = False

    def fill(self, *, full: bool) -> None:
        """The disk runs full, or has space again."""
        self.full = self.store.failing = full

    def reopen(self, *, keeps_model: bool) -> MemoryNodeStore:
        """What the next process finds; a model that was not synchronised may be gone."""
        self.store = self.store.reopen()
        self.store.failing = self.full
        if not keeps_model:
            self.store = replace(self.store, _model=None)
        return self.store
