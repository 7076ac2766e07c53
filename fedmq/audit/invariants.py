"""The invariants I1 to I9 as functions of what the stores of a stopped federation hold; each returns what is wrong."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from coordinator.global_model.codec_contexts import KnownContexts
from coordinator.global_model.committer import CommitterSettings
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.store import UpdateRow, VersionRow
from edge_node.storage.read_only import StoppedNode
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import ReceiptStatus
from federation.types import ModelVersion, UpdateId, update_id
from fedmq.audit.recompute import recompute
from update_codec import CodecError, inspect

__all__ = ["Check", "Evidence", "Witness", "checks", "double_updates", "lost_updates"]

ORPHANS_MAX = 6
"""Files without a row that one crash can leave: a model, a keyframe, a delta, a payload, their temporary files."""

EXAMPLES_SHOWN = 3


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
class Evidence:
    """Everything that the checks look at."""

    store: ReadOnlyStore
    versions: list[VersionRow]
    updates: Mapping[UpdateId, UpdateRow]
    nodes: Sequence[StoppedNode] = ()
    witness: Witness = field(default_factory=Witness)

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

Check = Callable[[Evidence], str]


def checks(
    settings: CommitterSettings | None, lost: frozenset[UpdateId], double: frozenset[UpdateId]
) -> list[tuple[str, str, Check | None]]:
    """Each invariant, its claim, and the check that returns what is wrong with it."""
    return [
        ("I1", "an update is in one version or refused, never both", lambda evidence: _once(evidence, double)),
        ("I2", "nothing that was acknowledged is lost", lambda evidence: _kept(evidence, lost)),
        ("I3", "versions go +1 and name their predecessor", _chained),
        ("I4", "the model is finite", _finite),
        ("I5", "the head is at least what any node has seen", _newest),
        ("I6", "progress within a stated time", None),
        ("I7", "the head can be made again from its updates", None if settings is None else _remake(settings)),
        ("I8", "nothing is left on the disk that nobody needs", _tidy),
        ("I9", "what is kept is what its header promised", _sound),
    ]


def double_updates(evidence: Evidence) -> Iterable[UpdateId]:
    """Updates that were promised two different ends, or another one than the store's."""
    ends: dict[UpdateId, set[tuple[ReceiptStatus, ModelVersion | None]]] = {}
    for update, status, version in evidence.witness.told:
        if status.final:
            ends.setdefault(update, set()).add((status, version))
    for update, row in evidence.updates.items():
        verdict = row.verdict
        if update in ends and verdict.status.final:
            ends[update].add((verdict.status, verdict.version))
    return (update for update, known in ends.items() if len(known) > 1)


def lost_updates(evidence: Evidence) -> Iterable[UpdateId]:
    """Updates that are neither with the coordinator nor with their node."""
    boxes = {update for node in evidence.nodes for update in node.outbox}
    turned_down = {update for update, status, _ in evidence.witness.told if status.final}
    missing = evidence.relied_on - evidence.updates.keys()
    return missing | (evidence.witness.offered - evidence.updates.keys() - boxes - turned_down)


def _once(evidence: Evidence, double: frozenset[UpdateId]) -> str:
    applied = Counter(row.verdict.version for row in evidence.updates.values() if _is_applied(row))
    wrong = [f"{_some(double)} told two ends"] if double else []
    for version in evidence.versions[1:]:
        if version.record.accepted != applied[version.record.version]:
            have = applied[version.record.version]
            wrong.append(f"version {version.record.version} counts {version.record.accepted} updates, {have} name it")
    for update, row in evidence.updates.items():
        if update != update_id(row.record.round, row.record.node):
            wrong.append(f"{update} is not the update of {row.record.node} in round {row.record.round}")
        if _is_applied(row) != (row.verdict.version is not None) or (row.verdict.version or 0) > evidence.head:
            wrong.append(f"{update} is {row.verdict.status} in version {row.verdict.version}")
    return _some(wrong)


def _is_applied(row: UpdateRow) -> bool:
    return row.verdict.status is ReceiptStatus.APPLIED


def _kept(evidence: Evidence, lost: frozenset[UpdateId]) -> str:
    payloads = evidence.store.payloads()
    waiting = (update for update, row in evidence.updates.items() if row.verdict.status is ReceiptStatus.STORED)
    empty = [f"{update} is stored without its payload" for update in waiting if update not in payloads]
    return _some([*(f"{update} is lost" for update in sorted(lost)), *empty])


def _chained(evidence: Evidence) -> str:
    wrong = [] if not (damage := evidence.store.damage()) else [damage]
    wrong += [f"{node.folder}: {node.damage}" for node in evidence.nodes if node.damage]
    previous = b""
    for number, row in enumerate(evidence.versions):
        if row.record.version != number:
            wrong.append(f"version {row.record.version} stands where {number} should be")
        if row.record.previous != previous:
            wrong.append(f"version {row.record.version} does not name its predecessor")
        previous = row.record.digest
    return _some(wrong)


def _finite(evidence: Evidence) -> str:
    model = evidence.store.model(evidence.head)
    arrays = (model.parameters, model.shadow.parameters, model.shadow.statistics)
    if not all(np.isfinite(array).all() for array in arrays):
        return f"version {evidence.head} is not finite"
    return "" if model.shadow.digest() == evidence.versions[-1].record.digest else "the head's digest is another one"


def _newest(evidence: Evidence) -> str:
    wrong = []
    if evidence.witness.version_seen > evidence.head:
        wrong.append(f"a node has seen version {evidence.witness.version_seen}, the head is {evidence.head}")
    for node in evidence.nodes:
        bases = [offer.base_version for offer, _ in node.outbox.values()]
        newest = max([node.held_version or 0, *bases])
        if newest > evidence.head:
            wrong.append(f"{node.folder} knows version {newest}, the head is {evidence.head}")
    return _some(wrong)


def _remake(settings: CommitterSettings) -> Check:
    def check(evidence: Evidence) -> str:
        head, store = evidence.versions[-1].record, evidence.store
        if head.version == 0:
            return ""
        made = recompute(store, (store.manifest(), head.version), evidence.updates.values(), settings)
        return "" if made == head.digest else f"version {head.version} made again is another model"

    return check


def _tidy(evidence: Evidence) -> str:
    orphans = evidence.store.orphans()
    wrong = [f"{len(orphans)} files that no row names: {_some(orphans)}"] if len(orphans) > ORPHANS_MAX else []
    final = (ReceiptStatus.STALE, ReceiptStatus.REFUSED)
    for update in evidence.store.payloads():
        row = evidence.updates.get(update)
        if row is None or row.verdict.status in final:
            wrong.append(f"the payload of {update} is kept for nothing")
    return _some(wrong)


def _sound(evidence: Evidence) -> str:
    manifest, wrong = evidence.store.manifest(), []
    contexts = KnownContexts(evidence.store.model(evidence.head).strategy, manifest.parameter_count)
    for update in evidence.store.payloads():
        row, frame = evidence.updates.get(update), evidence.store.payload(update)
        if row is None:
            continue
        if (len(frame), payload_digest(frame)) != (row.record.payload_bytes, row.record.payload_digest):
            wrong.append(f"the payload of {update} is not what was offered")
            continue
        try:
            inspect(frame, manifest, context=contexts)
        except CodecError as error:
            wrong.append(f"the payload of {update} cannot be decoded: {error}")
    reserved = evidence.store.rounds_reserved()
    wrong += [f"{update}: no such round" for update, row in evidence.updates.items() if row.record.round >= reserved]
    return _some(wrong)


def _some(things: Iterable[object]) -> str:
    texts = [str(thing) for thing in things]
    more = f" and {len(texts) - EXAMPLES_SHOWN} more" if len(texts) > EXAMPLES_SHOWN else ""
    return "; ".join(texts[:EXAMPLES_SHOWN]) + more
