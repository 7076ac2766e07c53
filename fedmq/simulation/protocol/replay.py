"""I7: makes every version again from the stored updates, in another order of arrival, and compares the bytes."""

import random

from coordinator.global_model.committer import Committer, CommitterSettings
from coordinator.records import Member, VersionRecord
from coordinator.storage.memory_store import MemoryStore
from coordinator.storage.store import CoordinatorStore, Figures, UpdateRow
from federation.protocol.messages import ReceiptStatus

__all__ = ["replay"]


def replay(store: CoordinatorStore, fresh: MemoryStore, settings: CommitterSettings, seed: int) -> list[str]:
    """Differences between the versions of ``store`` and those made again in ``fresh``, which has only version 0."""
    rng = random.Random(seed)  # noqa: S311 - a simulation, not a secret
    by_version: dict[int, list[UpdateRow]] = {}
    for row in store.updates():
        if row.verdict.status is ReceiptStatus.APPLIED and row.verdict.version is not None:
            by_version.setdefault(row.verdict.version, []).append(row)
    committer = Committer(fresh, fresh.recovered(recent=1).head, settings)
    for version in [row.record for row in store.history()][1:]:
        rows = by_version.get(version.version, [])
        rng.shuffle(rows)
        made = _again(store, fresh, committer, rows) if rows else None
        if made is None or made.digest != version.digest:
            return [
                f"I7: version {version.version} comes out differently when it is made again from {len(rows)} updates"
            ]
    return []


def _again(
    store: CoordinatorStore, fresh: MemoryStore, committer: Committer, rows: list[UpdateRow]
) -> VersionRecord | None:
    for row in rows:
        fresh.save_update(row.record, store.payload(row.record.update))
    members = [
        Member(
            update=row.record.update,
            node=row.record.node,
            num_examples=row.record.num_examples,
            staleness=row.staleness,
        )
        for row in rows
    ]
    made = committer.commit(members, "replay", Figures())
    return made if isinstance(made, VersionRecord) else None
