"""How a version is made where it is no mean of frames: of counts, of masked sums, or of a sum that is noised here.

Whoever makes a version and whoever makes it again for the audit ask the same.
"""

from typing import Protocol

from coordinator.global_model.masked import MaskedCombine
from coordinator.global_model.masked_groups import GroupedCombine, grouped
from coordinator.global_model.noised import CoordinatorNoise, NoisedCombine
from coordinator.global_model.statistics import StatisticsCombine, is_statistics
from coordinator.records import BatchRecord
from coordinator.storage.store import ModelState
from federation.types import ModelVersion
from update_codec import Manifest

__all__ = ["SumStore", "combine_for"]


class SumStore(Protocol):
    """The part of a store that keeps masked sums."""

    def batch(self, version: ModelVersion) -> BatchRecord | None:
        """The masked batch that a version is made of, or will be."""

    def sums(self, version: ModelVersion) -> list[bytes]:
        """What helpers answered for it."""


def combine_for(
    store: SumStore, manifest: Manifest, before: ModelState, noise: CoordinatorNoise | None, secret: bytes
) -> StatisticsCombine | MaskedCombine | GroupedCombine | NoisedCombine | None:
    """How the version after this one is made; None is a mean of frames, or a robust rule's choice.

    Args:
        store: May have the version's masked batch.
        manifest: The model's.
        before: The version before.
        noise: What is added here.
        secret: Of which it is made.

    Raises:
        StorageError: The batch or its sums cannot be read.
    """
    version = ModelVersion(before.version + 1)
    batch = store.batch(version)
    combine: MaskedCombine | GroupedCombine | None = None
    if batch is not None and batch.others:
        combine = grouped(batch, store.sums(version), before.shadow.counters)
    elif batch is not None:
        combine = MaskedCombine(batch.request.terms, store.sums(version), before.shadow.counters)
    elif noise is not None:
        return NoisedCombine(noise, secret, before.shadow.counters)
    if not is_statistics(manifest):
        return combine
    # Groups are of robust rules, which sums have none of.
    return StatisticsCombine(before.shadow, combine if isinstance(combine, MaskedCombine) else None)
