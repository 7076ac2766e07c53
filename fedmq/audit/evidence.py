"""What the audit looks at: the stores of a federation that has stopped, read when a check asks for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from coordinator.records import NodeSpent, ReleaseLedger, ReleaseRecord, Restored
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.store import Participation, UpdateRow, VersionRow
from edge_node.storage.database import DATABASE as NODE_DATABASE
from edge_node.storage.read_only import StoppedNode, read_node
from federation.errors import DamagedStore, StorageError
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import ModelVersion, NodeId, RunId, UpdateId
from sum_helper.storage.read_only import StoppedHelper, read_helper

__all__ = ["Evidence", "NodeFolders", "Witness", "read_nodes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What somebody who listened to the nodes knows beyond their stores.

    Attributes:
        offered: Updates that a node has offered.
        told: Receipts that nodes have read: update, status, and the version for ``applied``.
        version_seen: The newest version that any node has had.
    """

    offered: frozenset[UpdateId] = frozenset()
    told: frozenset[tuple[UpdateId, ReceiptStatus, ModelVersion | None]] = frozenset()
    version_seen: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFolders:
    """The folders of nodes that were named.

    Attributes:
        read: Those of this run, or of nodes that have not yet seen a run.
        damaged: What is wrong with those that cannot be read.
        left_out: Why others say nothing about this run.
    """

    read: Sequence[StoppedNode] = ()
    damaged: Sequence[str] = ()
    left_out: Sequence[str] = ()


def read_nodes(folders: Sequence[Path], run: str | None) -> NodeFolders:
    """Read the folders of nodes.

    Args:
        folders: Where.
        run: The coordinator's run; None where its store does not say it.
    """
    read, damaged, left_out = list[StoppedNode](), list[str](), list[str]()
    for folder in folders:
        if not (folder / NODE_DATABASE).exists():
            left_out.append(f"{folder}: no node's store is there")
            continue
        try:
            node = read_node(folder, None if run is None else RunId(run))
        except StorageError as error:
            damaged.append(str(error))
            continue
        if node.run is None or run is None or node.run == run:
            read.append(node)
        else:
            left_out.append(f"{folder}: of another run ({node.run})")
    return NodeFolders(read=read, damaged=damaged, left_out=left_out)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that the checks look at; whatever cannot be read raises where it is asked for."""

    store: ReadOnlyStore
    folders: NodeFolders = field(default_factory=NodeFolders)
    witness: Witness = field(default_factory=Witness)
    helper_folders: Sequence[Path] = ()

    @cached_property
    def helpers(self) -> Sequence[StoppedHelper]:
        """The helpers of masked sums whose folders were named."""
        return [read_helper(folder, self.store.run) for folder in self.helper_folders]

    @cached_property
    def versions(self) -> list[VersionRow]:
        """All versions; there is at least one."""
        versions = self.store.history()
        if not versions:
            raise DamagedStore("there is no version")
        return versions

    @cached_property
    def updates(self) -> Mapping[UpdateId, UpdateRow]:
        """All updates, by their ids."""
        return {row.record.update: row for row in self.store.updates()}

    @cached_property
    def participation(self) -> list[Participation]:
        """All nodes that took part."""
        return self.store.participation()

    @cached_property
    def spent(self) -> Mapping[NodeId, NodeSpent]:
        """What the coordinator knows that nodes have spent under differential privacy, by name."""
        return self.store.spent()

    @cached_property
    def releases(self) -> list[ReleaseRecord]:
        """The noised sums that helpers were asked for, in order."""
        return self.store.releases()

    @cached_property
    def released(self) -> ReleaseLedger:
        """Each node's part in them, as the coordinator has it."""
        return self.store.released()

    @cached_property
    def updates_of(self) -> Mapping[NodeId, list[UpdateId]]:
        """Each node's updates here that privacy has a price for: not those refused as made without it [FED-185]."""
        found: dict[NodeId, list[UpdateId]] = {}
        for update, row in self.updates.items():
            if row.verdict.reason is not Reason.INCOMPATIBLE:
                found.setdefault(row.record.node, []).append(update)
        return found

    @cached_property
    def restored(self) -> Restored | None:
        """The newest time that the run was begun again from a backup."""
        return self.store.restored()

    def is_from_before(self, update: UpdateId) -> bool:
        """Whether it was asked for before the run was begun again: what became of it since the backup is lost."""
        number = update.partition("-")[0]
        return self.restored is not None and number.isdecimal() and int(number) < self.restored.next_round

    def has_heard(self, node: StoppedNode) -> bool:
        """Whether a node has heard the coordinator since the run was begun again; always, where it never was."""
        if self.restored is None:
            return True
        return node.seen is not None and node.seen.run == self.store.run and node.seen.epoch >= self.restored.epoch

    @property
    def nodes(self) -> Sequence[StoppedNode]:
        """The nodes of this run."""
        return self.folders.read

    @property
    def head(self) -> ModelVersion:
        """The newest version."""
        return self.versions[-1].record.version

    @property
    def relied_on(self) -> frozenset[UpdateId]:
        """Updates of which a node believes that the coordinator has them."""
        stored = {update for node in self.nodes for update, (_, stored) in node.outbox.items() if stored}
        return frozenset(stored | {update for update, status, _ in self.witness.told if status in _KEPT})


_KEPT = (ReceiptStatus.STORED, ReceiptStatus.APPLIED, ReceiptStatus.STALE)
"""What a receipt of these says is in the coordinator's store; the refusal of a stranger's update is not [FED-49]."""
