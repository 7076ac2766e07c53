"""The roles' own stores on simulated disks: the coordinator's also tells a ledger what it has saved."""

import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

from coordinator.records import (
    BatchRecord,
    NodeResult,
    NodesEvaluation,
    ReleaseLedger,
    ReleaseRecord,
    RoundRecord,
    UpdateRecord,
    Verdict,
)
from coordinator.storage import database as coordinator_database
from coordinator.storage.batches import Batches
from coordinator.storage.compaction.moving import UPDATES_KEPT
from coordinator.storage.database import open_database
from coordinator.storage.sqlite_store import SqliteStore, SqlStore
from coordinator.storage.store import Commit
from edge_node.storage import database as node_database
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.storage.store import NodeStore
from federation.privacy.metrics import Measured
from federation.privacy.releases import Taking
from federation.protocol.messages import EvaluationReport
from federation.protocol.sum_messages import MaskedReport, SumRequest
from federation.storage.sqlite import Database
from federation.types import ModelVersion, NodeId, RunId, StateId, UpdateId
from fedmq.simulation.world.disks import Disk
from fedmq.simulation.world.ram_folders import put_away, ram_folder
from site_gateway.storage.store import SiteStore
from sum_helper.storage import store as helper_store
from sum_helper.storage.store import HelperStore

__all__ = [
    "Ledger",
    "Observed",
    "ObservedStore",
    "coordinator_disk",
    "helper_disk",
    "node_disk",
    "site_disk",
    "store_in_ram",
]

AUDIT_VERSIONS = 1_000_000
"""Payloads of so many versions are kept where the end is checked: all of them."""

ANY_RUN = "0123456789abcdef"
"""Stands in the copy for the run of a simulation."""


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

    def summed(self, evaluation: NodesEvaluation) -> None:
        """What the sum of masked reports says is on disk, or that there is none."""

    def surveyed(self, evaluation: NodesEvaluation) -> None:
        """The mean over the nodes is on disk."""

    def frozen(self, batch: BatchRecord) -> None:
        """The members of a masked version are on disk."""

    def dropped(self, verdicts: Sequence[Verdict]) -> None:
        """That a batch makes no version is on disk, with what became of its members."""


class Observed(SqlStore):
    """A store whose changes a ledger hears of, as soon as they survive a power cut."""

    def observe(self, disk: Disk[Any], ledger: Ledger) -> None:
        """Have a ledger hear of every change from now on; ``disk`` knows what would survive."""
        self._disk, self._ledger = disk, ledger
        self.batches = _ObservedBatches(self.batches, disk, ledger)  # type: ignore[assignment]  # one of them

    def save_round(self, record: RoundRecord) -> None:
        """Reserve a round and open its assignments."""
        with self._disk.learning(partial(self._ledger.reserved, record)):
            super().save_round(record)

    def save_update(self, record: UpdateRecord, payload: bytes) -> None:
        """Save an update with its payload as ``stored``."""
        with self._disk.learning(partial(self._ledger.stored, record)):
            super().save_update(record, payload)

    def save_verdict(self, verdict: Verdict, record: UpdateRecord | None) -> None:
        """Save a final verdict."""
        with self._disk.learning(partial(self._ledger.judged, verdict)):
            super().save_verdict(verdict, record)

    def commit(self, commit: Commit) -> None:
        """Save a version."""
        with self._disk.learning(partial(self._ledger.committed, commit)):
            super().commit(commit)

    def save_node_result(self, result: NodeResult) -> NodeResult:
        """Save what a node found; its first word stays."""
        kept = super().save_node_result(result)
        self._disk.learned(partial(self._ledger.evaluated, self.run, kept))
        return kept

    def close_evaluation(self, version: ModelVersion) -> NodesEvaluation:
        """Make the mean over the nodes that count, and save it."""
        made = super().close_evaluation(version)
        self._disk.learned(partial(self._ledger.surveyed, made))
        return made


class ObservedStore(Observed, SqliteStore):
    """A `SqliteStore` of which a ledger hears.

    Args:
        folder: The state folder.
        disk: What it is on.
        ledger: Hears every change.
        audit: Keep all payloads, so that the end can be recomputed; else updates are compacted as soon as can be.
    """

    def __init__(self, folder: Path, disk: Disk[Any], ledger: Ledger, *, audit: bool) -> None:
        versions, updates = (AUDIT_VERSIONS, UPDATES_KEPT) if audit else (1, 1)
        super().__init__(folder, audit_versions=versions, updates_kept=updates)
        self.observe(disk, ledger)


class _ObservedBatches:
    """The part of a store that keeps batches, likewise."""

    def __init__(self, batches: Batches, disk: Disk[Any], ledger: Ledger) -> None:
        self._batches, self._disk, self._ledger = batches, disk, ledger

    def freeze(self, batch: BatchRecord, release: ReleaseRecord | None = None) -> None:
        """Save who makes the next masked version, and what it costs them."""
        with self._disk.learning(partial(self._ledger.frozen, batch)):
            self._batches.freeze(batch, release)

    def drop(self, version: ModelVersion, verdicts: Sequence[Verdict]) -> None:
        """Save that a frozen batch makes no version, and what became of its members."""
        with self._disk.learning(partial(self._ledger.dropped, tuple(verdicts))):
            self._batches.drop(version, verdicts)

    def keep_chunk(self, transfer: UpdateId, start: int, index: int, body: bytes) -> None:
        """Keep one chunk of a sum."""
        self._batches.keep_chunk(transfer, start, index, body)

    def take_chunks(self, transfer: UpdateId) -> bytes:
        """What has arrived of a sum."""
        return self._batches.take_chunks(transfer)

    def forget_chunks(self, transfer: UpdateId) -> None:
        """Nobody waits for this sum any more."""
        self._batches.forget_chunks(transfer)

    def save_sum(self, version: ModelVersion, part: int, body: bytes) -> None:
        """Save what a helper has answered for one class of a batch."""
        self._batches.save_sum(version, part, body)

    def begin_noise(self, noise: float) -> None:
        """From now on the coordinator itself adds noise."""
        self._batches.begin_noise(noise)

    def take_over(self, ledger: ReleaseLedger) -> None:
        """Begin with what another run over the same data has spent."""
        self._batches.take_over(ledger)

    def raise_takings(self, takings: Mapping[NodeId, Taking]) -> None:
        """Take over what a helper knows better."""
        self._batches.raise_takings(takings)

    def keep_report(self, node: NodeId, report: EvaluationReport) -> None:
        """Save a node's masked report."""
        self._batches.keep_report(node, report)

    def reports(self, version: ModelVersion) -> Mapping[NodeId, MaskedReport]:
        """The masked reports on a version."""
        return self._batches.reports(version)

    def freeze_evaluation(self, request: SumRequest) -> None:
        """Save which reports are summed."""
        self._batches.freeze_evaluation(request)

    def evaluation_request(self, version: ModelVersion) -> SumRequest | None:
        """What was frozen of a version's evaluation."""
        return self._batches.evaluation_request(version)

    def close_evaluation(self, version: ModelVersion, measured: Measured | None) -> NodesEvaluation:
        """Save what the sum of the reports says."""
        made = self._batches.close_evaluation(version, measured)
        self._disk.learned(partial(self._ledger.summed, made))
        return made


def coordinator_disk(
    folder: Path,
    run: RunId,
    ledger: Ledger,
    *,
    audit: bool,
    store: type[ObservedStore] = ObservedStore,
    content: Path | None = None,
) -> Disk[ObservedStore]:
    """A coordinator's disk, with a database as its first start makes it, but of this run.

    Args:
        folder: Where.
        run: 16 characters.
        ledger: Hears every change.
        audit: Keep all payloads.
        store: Tests put a faulty one in.
        content: A state folder to go on with instead.
    """

    def opened(path: Path, disk: Disk[ObservedStore]) -> ObservedStore:
        return store(path, disk, ledger, audit=audit)

    return Disk(folder, (coordinator_database.DATABASE, _of_run(run)), opened, content=content)


def node_disk(folder: Path, draw: Callable[[], StateId], content: Path | None = None) -> Disk[NodeStore]:
    """A node's disk, empty or with this state folder; each store that is made on it gets an identity of these."""

    def opened(path: Path, _: Disk[NodeStore]) -> NodeStore:
        return SqliteNodeStore(path, draw=draw)

    return Disk(folder, (node_database.DATABASE, _node_database()), opened, content=content)


def helper_disk(folder: Path, draw: Callable[[int], bytes]) -> Disk[HelperStore]:
    """A helper's disk, empty; what is random in the stores that are made on it comes from here."""

    def opened(path: Path, _: Disk[HelperStore]) -> HelperStore:
        return HelperStore(path, draw=draw)

    return Disk(folder, (helper_store.DATABASE, _helper_database()), opened)


def store_in_ram(run: RunId, owner: object) -> SqliteStore:
    """A coordinator's store of this run, in a folder of its own that goes with its owner."""
    folder = ram_folder()
    (folder / coordinator_database.DATABASE).write_bytes(_of_run(run))
    store = SqliteStore(folder)
    weakref.finalize(owner, put_away, folder, [store])
    return store


def site_disk(folder: Path, gateway: NodeId, run: RunId) -> Disk[SiteStore]:
    """The disk of a gateway's site, with a database as its first start makes it, but of this run."""

    def opened(path: Path, _: Disk[SiteStore]) -> SiteStore:
        return SiteStore(path, gateway=gateway, run=run, audit_versions=AUDIT_VERSIONS)

    return Disk(folder, (coordinator_database.DATABASE, _of_run(run)), opened)


def _of_run(run: RunId) -> bytes:
    return _coordinator_database().replace(ANY_RUN.encode(), run.encode())


@cache
def _coordinator_database() -> bytes:
    """A database before its first start: to make one takes longer than to copy it."""
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(Path(folder))
        for key, value in (("run", ANY_RUN), ("epoch", 0), ("began_ms", 0)):
            database.insert("meta", {"key": key, "value": value})
        database.close()
        return (Path(folder) / coordinator_database.DATABASE).read_bytes()


@cache
def _node_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / node_database.DATABASE
        database = Database(path, node_database.LAYOUT, remedy="", role="node")
        database.close()
        return path.read_bytes()


@cache
def _helper_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / helper_store.DATABASE
        database = Database(path, helper_store.LAYOUT, remedy="", role="helper")
        database.close()
        return path.read_bytes()
