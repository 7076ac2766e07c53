"""What is looked at once a run is over: what was not given back, who is missing, and the versions made again."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from coordinator.global_model.committer import Committer, CommitterSettings
from coordinator.records import Member, ReleaseRecord, VersionRecord
from coordinator.storage.store import Commit, CoordinatorStore, Figures, ModelState, UpdateRow
from federation.protocol.messages import ReceiptStatus
from federation.types import ModelVersion, RunId, UpdateId
from fedmq.simulation.protocol.checker import Checker
from fedmq.simulation.protocol.node_actor import NodeActor

__all__ = ["held", "left_in_store", "missing_of_other_runs", "replay"]

_HELD = {
    "live": "slots",
    "buffered": "updates in the buffer",
    "transfers": "transfers",
    "quota_used": "places of quota",
}


def held(snapshot: Mapping[str, Any], there: int) -> list[str]:
    """What a coordinator still holds, and whom it misses.

    Args:
        snapshot: Its machine's, when nothing is on its way any more.
        there: Nodes that are connected.
    """
    found = [f"leak: {snapshot[name]} {what} are held at the end" for name, what in _HELD.items() if snapshot[name]]
    if snapshot["online"] < there:
        found.append(f"{there} nodes are connected, and the coordinator knows of {snapshot['online']}")
    return found


def left_in_store(files: Sequence[str], store: CoordinatorStore) -> list[str]:
    """What the next process would find of what is over; ``files`` of transfers are those before a start clears them."""
    recovered = store.recovered(recent=1)
    found = []
    if recovered.transfers:
        found.append(f"leak: the store has {len(recovered.transfers)} transfers at the end")
    # Assignments of what was delivered are forgotten with the next save; a process that starts does it at once.
    names = {f"{record.round}-{node}" for record in recovered.open_rounds for node in record.nodes}
    if not names <= recovered.delivered:
        found.append(f"leak: the store has {len(names - recovered.delivered)} assignments at the end")
    if files:
        found.append(f"leak: {len(files)} files of transfers are left: {', '.join(files[:3])}")
    return found


def missing_of_other_runs(others: Iterable[Checker], nodes: Iterable[NodeActor]) -> list[str]:
    """Work of a run that does not lead any more, and is neither settled nor on its node's disk.

    It waits there until the run's coordinator is heard again.
    """
    kept: dict[RunId, set[UpdateId]] = {}
    lost = [node.name for node in nodes if node.gone or not node.disk.opened]
    for node in nodes:
        recovered = node.disk.store.recovered() if node.name not in lost else None
        for one in () if recovered is None else (recovered, *recovered.hidden):
            for entry in one.outbox:
                kept.setdefault(entry.offer.run, set()).add(entry.offer.update)
    return [
        f"I2: {update} of run {other.run} has no verdict, and is in no outbox"
        for other in others
        for update in other.undelivered(lost)
        if update not in kept.get(other.run, ())
    ]


def replay(
    store: CoordinatorStore,
    first: Commit,
    settings: CommitterSettings,
    seed: int,
    noised: Mapping[ModelVersion, tuple[ReleaseRecord, bytes]] = MappingProxyType({}),
) -> list[str]:
    """Differences between the versions of ``store`` and those made again from its updates and version 0.

    Args:
        store: Has all updates.
        first: Version 0.
        settings: How versions are made.
        seed: Of the order in which updates are taken.
        noised: What each version was charged, and the secret of its noise, where the coordinator adds it.
    """
    rng = random.Random(seed)  # noqa: S311 - a simulation, not a secret
    by_version: dict[int, list[UpdateRow]] = {}
    for row in store.updates():
        if row.verdict.status is ReceiptStatus.APPLIED and row.verdict.version is not None:
            by_version.setdefault(row.verdict.version, []).append(row)
    secrets = iter([secret for _, (_, secret) in sorted(noised.items())])
    settings = replace(settings, draw=lambda _size: next(secrets))
    committer = Committer(_Replayed(store, first), first.record, settings)
    for version in [row.record for row in store.history()][1:]:
        rows = by_version.get(version.version, [])
        rng.shuffle(rows)
        release = noised[version.version][0] if version.version in noised else None
        members = [_member(row) for row in rows]
        made = committer.commit(members, "replay", Figures(), release=release) if rows else None
        if not isinstance(made, VersionRecord) or made.digest != version.digest:
            return [
                f"I7: version {version.version} comes out differently when it is made again from {len(rows)} updates"
            ]
    return []


def _member(row: UpdateRow) -> Member:
    record = row.record
    return Member(update=record.update, node=record.node, num_examples=record.num_examples, staleness=row.staleness)


class _Replayed:
    """A store as a committer needs it: version 0 and the payloads of another one; what is made is not kept."""

    def __init__(self, store: CoordinatorStore, first: Commit) -> None:
        self.manifest, self.payload, self._first = store.manifest, store.payload, first.model
        self.batch, self.sums = store.batch, store.sums

    def model(self, version: ModelVersion) -> ModelState:
        """Version 0's arrays."""
        del version
        return self._first

    def commit(self, commit: Commit) -> None:
        """The committer has it."""
