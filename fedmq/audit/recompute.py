"""Makes the head once more from the stored updates: the same bytes, or something is wrong (invariant I7)."""

from collections.abc import Iterable
from typing import Protocol

from coordinator.global_model.aggregation import Unusable, aggregate
from coordinator.global_model.combining import SumStore, combine_for
from coordinator.global_model.committer import CommitterSettings, settings_for
from coordinator.global_model.downlink import DownlinkSettings, advance
from coordinator.global_model.noised import secret_of
from coordinator.records import Member, VersionRecord
from coordinator.storage.store import CoordinatorStore, ModelState, UpdateRow
from federation.errors import StorageError
from federation.protocol.messages import ModelPart, PartKind, ReceiptStatus
from federation.types import Digest, ModelVersion, UpdateId
from update_codec import Manifest, frame_kind
from update_codec.spec import Kind

__all__ = ["Auditable", "recompute", "recompute_head"]


class Auditable(SumStore, Protocol):
    """What is needed to make a version once more."""

    def model(self, version: ModelVersion) -> ModelState:
        """The arrays of a version."""

    def payload(self, update: UpdateId) -> bytes:
        """The frame of an update."""

    def frame(self, part: ModelPart) -> bytes:
        """The frame of a part of the head."""


def recompute_head(store: CoordinatorStore, settings: CommitterSettings) -> Digest:
    """The digest of the head, made again from the version before and the updates that were applied.

    Args:
        store: Still has the head's payloads; see ``store.audit_versions``.
        settings: Those that the head was made with.

    Raises:
        StorageError: There is only version 0, or a payload or a model is missing.
    """
    manifest, head = store.manifest(), store.recovered(recent=1).head
    if manifest is None or head.version == 0:
        raise StorageError("there is no committed version to audit")
    return recompute(store, (manifest, head), store.updates(), settings)


def recompute(
    store: Auditable, head: tuple[Manifest, VersionRecord], updates: Iterable[UpdateRow], settings: CommitterSettings
) -> Digest:
    """The digest of a version, made again from the version before.

    Args:
        store: Has the version before and the payloads.
        head: The model's manifest, and the version's record.
        updates: All updates; those of the version are picked.
        settings: Those that the version was made with.

    Raises:
        StorageError: A payload or a model is missing, or the updates do not make a version.
    """
    manifest, record = head
    made = _made(store, head, updates := tuple(updates), settings_for(manifest, settings))
    if made != record.digest:
        # Releases to 0.2.0 sent versions of small models at lower rates, and nothing but the bits says so.
        before = _made(store, head, updates, settings_for(manifest, settings.without_frame_min()))
        return before if before == record.digest else made
    return made


def _made(
    store: Auditable, head: tuple[Manifest, VersionRecord], updates: Iterable[UpdateRow], settings: CommitterSettings
) -> Digest:
    manifest, record = head
    version = record.version
    if _went_plainly(store, record, settings.downlink):
        settings = settings.plainly()
    before = store.model(ModelVersion(version - 1))
    members = [
        Member(
            update=row.record.update,
            node=row.record.node,
            num_examples=row.record.num_examples,
            staleness=row.staleness,
        )
        for row in updates
        if row.verdict.status is ReceiptStatus.APPLIED and row.verdict.version == version
    ]
    context = (manifest, before.strategy, settings.limits)
    secret = b"" if settings.noise is None else secret_of(store.model(version).strategy)
    if secret is None:
        raise StorageError(f"version {version} was made without noise, and the configuration asks for it")
    combine = combine_for(store, manifest, before, settings.noise, secret)
    made = aggregate(members, store.payload, settings.strategy, context, combine=combine)
    if isinstance(made, Unusable):
        raise StorageError(f"the stored updates of version {version} are not usable: {made.detail}")
    return Digest(advance(before, made.step, manifest, settings.downlink).model.shadow.digest())


def _went_plainly(store: Auditable, record: VersionRecord, settings: DownlinkSettings) -> bool:
    """Whether a node was there that reads no frames of the cosine kind, or a release made it that wrote none."""
    if settings.spec.kind is not Kind.COSINE or not settings.delta_chain_max:
        return False
    deltas = (part for part in record.parts if part.kind is PartKind.DELTA and part.version == record.version)
    newest = next(deltas, None)
    return newest is None or frame_kind(store.frame(newest)) != Kind.COSINE
