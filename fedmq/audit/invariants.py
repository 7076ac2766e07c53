"""The invariants I1 to I9 as functions of what the stores of a stopped federation hold; each returns what is wrong."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from coordinator.global_model.codec_contexts import KnownContexts
from coordinator.global_model.committer import CommitterSettings
from coordinator.storage.store import UpdateRow
from edge_node.storage.read_only import StoppedNode
from federation.errors import StorageError
from federation.protocol.messages import PartKind, ReceiptStatus
from federation.types import ModelVersion, UpdateId, update_id
from fedmq.audit.evidence import Evidence
from fedmq.audit.recompute import recompute
from update_codec import CodecError, Contexts, Manifest, MaskedFrame, SummedFrame, decode, inspect, read_sum
from update_codec.masking import read_masked

__all__ = ["Check", "checks", "double_updates", "lost_updates", "not_checked", "some", "waiting_updates"]

ORPHANS_MAX = 6
"""Files without a row that one crash can leave: a model, a keyframe, a delta, a payload, their temporary files."""

EXAMPLES_SHOWN = 3


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
        if evidence.is_from_before(update):
            ends.pop(update, None)
        if update in ends and verdict.status.final:
            ends[update].add((verdict.status, verdict.version))
    return (update for update, known in ends.items() if len(known) > 1)


def lost_updates(evidence: Evidence) -> Iterable[UpdateId]:
    """Updates that are neither with the coordinator nor with their node."""
    boxes = {update for node in evidence.nodes for update in node.outbox}
    turned_down = {update for update, status, _ in evidence.witness.told if status.final}
    missing = evidence.relied_on - evidence.updates.keys()
    missing |= evidence.witness.offered - evidence.updates.keys() - boxes - turned_down
    return (update for update in missing if not evidence.is_from_before(update))


def _once(evidence: Evidence, double: frozenset[UpdateId]) -> str:
    applied = Counter(row.verdict.version for row in evidence.updates.values() if _is_applied(row))
    wrong = [f"{some(double)} told two ends"] if double else []
    for version in evidence.versions[1:]:
        if version.record.accepted != applied[version.record.version]:
            have = applied[version.record.version]
            wrong.append(f"version {version.record.version} counts {version.record.accepted} updates, {have} name it")
    for update, row in evidence.updates.items():
        if update != update_id(row.record.round, row.record.node):
            wrong.append(f"{update} is not the update of {row.record.node} in round {row.record.round}")
        if _is_applied(row) != (row.verdict.version is not None) or (row.verdict.version or 0) > evidence.head:
            wrong.append(f"{update} is {row.verdict.status} in version {row.verdict.version}")
    return some(wrong)


def _is_applied(row: UpdateRow) -> bool:
    return row.verdict.status is ReceiptStatus.APPLIED


def waiting_updates(evidence: Evidence) -> Iterable[UpdateId]:
    """Updates that are stored and in no version."""
    return (update for update, row in evidence.updates.items() if row.verdict.status is ReceiptStatus.STORED)


def not_checked(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """What the stores that were named do not show, each with the invariant that it is about."""
    yield from (("I2", f"not checked: {folder}") for folder in evidence.folders.left_out)
    took_part, read = len(evidence.participation), len(evidence.nodes)
    if (evidence.nodes or evidence.folders.left_out) and read < took_part:
        yield "I2", f"not checked: {took_part} nodes took part, {read} folders of this run were named"
    compacted = sum(not row.whole for row in evidence.updates.values())
    if compacted:
        kept = "node, round, base, verdict and version of each are compared"
        yield "I9", f"not checked: weights, sizes and digests of {compacted} updates that are compacted; {kept}"
    yield from _after_backup(evidence)
    open_versions = [row.key for row in evidence.store.sealed_versions() if row.whole is None]
    if open_versions:
        yield "I3", f"not covered by sums: versions {open_versions[0]} to {open_versions[-1]}, made by a former release"


def _after_backup(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """What nodes know that was made after the backup from which the run was begun again: honest, and lost."""
    restored = evidence.restored
    if restored is None:
        return
    yield "I5", f"restored from version {restored.version}: what was made after the backup is not in this store"
    gone = [update for update in evidence.relied_on - evidence.updates.keys() if evidence.is_from_before(update)]
    if gone:
        yield "I2", f"after the backup: acknowledged then, and given back by their nodes: {some(sorted(gone))}"
    unheard = [node.folder for node in evidence.nodes if not evidence.has_heard(node)]
    if unheard:
        yield "I5", f"after the backup: these have not heard the restored run yet: {some(unheard)}"
    versions = [version for node in evidence.nodes if (version := _version_before(evidence, node)) is not None]
    if versions:
        yield "I5", f"after the backup: nodes know versions of then, up to {max(versions)}"


def _version_before(evidence: Evidence, node: StoppedNode) -> int | None:
    """The newest version that a node knows from before the run was begun again, if it is newer than the backup's."""
    restored = evidence.restored
    versions = [] if evidence.has_heard(node) or node.seen is None else [node.seen.version or 0]
    versions += [node.held.version] if _holds_lost(evidence, node) and node.held is not None else []
    newest = max(versions, default=0)
    return newest if restored is not None and newest > restored.version else None


def _holds_lost(evidence: Evidence, node: StoppedNode) -> bool:
    """Whether a node holds a version that was made after the backup."""
    held, restored = node.held, evidence.restored
    if held is None or restored is None or held.version <= restored.version:
        return False
    return all(row.record.digest != held.digest for row in evidence.versions)


def _kept(evidence: Evidence, lost: frozenset[UpdateId]) -> str:
    payloads = evidence.store.payloads()
    empty = [
        f"{update} is stored without its payload" for update in waiting_updates(evidence) if update not in payloads
    ]
    unsent = [
        f"{node.folder}: the frame of {update} is gone or damaged"
        for node in evidence.nodes
        for update in node.frames_lost - evidence.updates.keys()
    ]
    return some([*(f"{update} is lost" for update in sorted(lost)), *empty, *unsent])


def _chained(evidence: Evidence) -> str:
    wrong = [] if not (damage := evidence.store.damage()) else [damage]
    wrong += [*evidence.folders.damaged, *(f"{node.folder}: {node.damage}" for node in evidence.nodes if node.damage)]
    previous = b""
    for number, row in enumerate(evidence.versions):
        if row.record.version != number:
            wrong.append(f"version {row.record.version} stands where {number} should be")
        if row.record.previous != previous:
            wrong.append(f"version {row.record.version} does not name its predecessor")
        previous = row.record.digest
    return some([*wrong, *_unsealed(evidence)])


def _unsealed(evidence: Evidence) -> Iterator[str]:
    store = evidence.store
    changed = [row.key for row in store.sealed_versions() if row.whole is False]
    if changed:
        yield f"version {some(changed)}: row, members or weights are not what was written"
    if store.identity_is_sealed() is False:
        yield "run, epoch or manifest, task or inputs are not what was written"
    if store.sealed_rounds().whole is False:
        yield f"the rounds since {store.sealed_rounds().key} are not what was written"
    manifest = store.manifest().digest
    if any(row.record.manifest_digest != manifest for row in evidence.versions):
        yield "the manifest is not the one that the versions name"


def _finite(evidence: Evidence) -> str:
    store, digests = evidence.store, {row.record.version: row.record.digest for row in evidence.versions}
    # After the repair of a damaged head there is no file of the version before it.
    needed = (one for one in store.kept_models() if one < evidence.head - 1)
    wrong = [f"the model of version {one} is kept, and its file is gone" for one in needed if not store.has_model(one)]
    for version in sorted({evidence.head, *filter(store.has_model, store.kept_models())}):
        model = store.model(version)
        arrays = (model.parameters, model.shadow.parameters, model.shadow.statistics)
        whose = "the head's" if version == evidence.head else f"version {version}'s"
        if not all(np.isfinite(array).all() for array in arrays):
            wrong.append(f"version {version} is not finite")
        if model.shadow.digest() != digests.get(version):
            wrong.append(f"{whose} digest is another one")
    return some(wrong)


def _newest(evidence: Evidence) -> str:
    wrong = []
    if evidence.witness.version_seen > evidence.head and evidence.restored is None:
        wrong.append(f"a node has seen version {evidence.witness.version_seen}, the head is {evidence.head}")
    return some([*wrong, *(seen for node in evidence.nodes for seen in _seen(evidence, node))])


def _seen(evidence: Evidence, node: StoppedNode) -> Iterator[str]:
    if not evidence.has_heard(node):
        return
    store = evidence.store
    offers = [offer for update, (offer, _) in node.outbox.items() if not evidence.is_from_before(update)]
    held = None if _holds_lost(evidence, node) else node.held
    seen = node.seen if node.seen is not None and node.seen.run == store.run else None
    versions = [offer.base_version for offer in offers]
    versions += [] if held is None else [held.version]
    versions += [] if seen is None else [one for one in (seen.version, seen.applied) if one is not None]
    if max(versions, default=0) > evidence.head:
        yield f"{node.folder} knows version {max(versions)}, the head is {evidence.head}"
    digests = {row.record.version: row.record.digest for row in evidence.versions}
    if held is not None and digests.get(held.version, held.digest) != held.digest:
        yield f"{node.folder} holds another version {held.version}"
    rounds = [node.last_round, *(offer.round for offer in offers), None if seen is None else seen.round]
    newest, reserved = max((number for number in rounds if number is not None), default=-1), store.rounds_reserved()
    if newest >= reserved:
        yield f"{node.folder} knows round {newest}, {reserved} were reserved"
    if seen is not None and seen.epoch > store.epoch():
        yield f"{node.folder} knows epoch {seen.epoch}, the store's is {store.epoch()}"


def _remake(settings: CommitterSettings) -> Check:
    def check(evidence: Evidence) -> str:
        head, store = evidence.versions[-1].record, evidence.store
        if head.version == 0:
            return ""
        made = recompute(store, (store.manifest(), head), evidence.updates.values(), settings)
        return "" if made == head.digest else f"version {head.version} made again is another model"

    return check


def _tidy(evidence: Evidence) -> str:
    orphans = evidence.store.orphans()
    wrong = [f"{len(orphans)} files that no row names: {some(orphans)}"] if len(orphans) > ORPHANS_MAX else []
    final = (ReceiptStatus.STALE, ReceiptStatus.REFUSED)
    for update in evidence.store.payloads():
        row = evidence.updates.get(update)
        if row is None or row.verdict.status in final:
            wrong.append(f"the payload of {update} is kept for nothing")
    return some(wrong)


def _sound(evidence: Evidence) -> str:
    store = evidence.store
    manifest = store.manifest()
    contexts = KnownContexts(store.model(evidence.head).strategy, manifest.parameter_count)
    wrong = [f"{row.key} is not what was written" for row in store.sealed_updates() if row.whole is False]
    for update in store.payloads():
        if update in evidence.updates:
            try:
                _read(store.payload(update), manifest, contexts)
            except StorageError as error:
                wrong.append(str(error))
            except CodecError as error:
                wrong.append(f"the payload of {update} cannot be decoded: {error}")
    reserved = store.rounds_reserved()
    wrong += [f"{update}: no such round" for update, row in evidence.updates.items() if row.record.round >= reserved]
    try:
        store.read_the_rest()
    except StorageError as error:
        wrong.append(str(error))
    wrong += [
        f"{node.folder}: {name} is not what was written" for node in evidence.nodes for name in node.bodies_damaged
    ]
    return some([*wrong, *_broken_parts(evidence, manifest)])


def _read(frame: bytes, manifest: Manifest, contexts: Contexts) -> None:
    """Read a frame, or a gateway's sum; of a masked one that is its shape, and what is in it nobody can say.

    Raises:
        CodecError: It is damaged.
    """
    try:
        inspect(frame, manifest, context=contexts)
    except MaskedFrame:
        read_masked(frame, manifest)
    except SummedFrame:
        read_sum(frame, manifest)


def _broken_parts(evidence: Evidence, manifest: Manifest) -> Iterator[str]:
    """What nodes may pull."""
    store, head = evidence.store, evidence.head
    parts, lost = store.listed_parts()
    yield from (f"the part {key} is listed, and is not in the store" for key in lost)
    for part in parts:
        try:
            frame = store.frame(part)
            is_head = part.kind is PartKind.KEYFRAME and part.version == head
            if is_head and decode(frame, manifest).digest() != store.model(head).shadow.digest():
                yield f"the keyframe of version {head} is another model"
        except (StorageError, CodecError) as error:
            yield str(error)


def some(things: Iterable[object]) -> str:
    """The first of them in words, and how many more there are; empty where there are none."""
    texts = [str(thing) for thing in things]
    more = f" and {len(texts) - EXAMPLES_SHOWN} more" if len(texts) > EXAMPLES_SHOWN else ""
    return "; ".join(texts[:EXAMPLES_SHOWN]) + more
