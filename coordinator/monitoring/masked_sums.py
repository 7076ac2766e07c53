"""What the coordinator has seen of nodes under masks, in words and as data: sums, over how many, and who keeps them."""

from dataclasses import dataclass
from typing import Protocol

from coordinator.records import BatchRecord
from coordinator.storage.batches import MaskedPast
from coordinator.storage.store import VersionRow
from federation.privacy.classes import tolerated
from federation.types import ModelVersion
from federation.units import counted

__all__ = ["NOT_PROMISED_BY_MASKS", "MaskedVersions", "masked_said", "masked_versions"]

NOT_PROMISED_BY_MASKS = (
    "Whoever holds the coordinator and more of the helpers than stated can see a single node's update.",
    "Nodes that work together with the coordinator can take their own part out of a sum.",
    "A coordinator that is changed to give nodes models made for it can have one node's update stand out in a sum.",
    "A sum says something of the nodes in it, and the sums of many versions say more: only noise bounds that.",
    "No cryptographer has reviewed the masks; decision record 38 has the argument.",
)


class Batches(Protocol):
    """What is read of the sums of a run's store."""

    def history(self) -> list[VersionRow]:
        """All versions."""

    def batch(self, version: ModelVersion) -> BatchRecord | None:
        """Whose updates made a version, where they were masked, and it may still be audited."""

    def masked_past(self) -> MaskedPast | None:
        """What is known of those that may not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedVersions:
    """Versions of which the coordinator has seen sums only.

    Attributes:
        masked: How many there are.
        plain: How many others, without the initial one: their updates were seen one by one.
        members_least: The fewest nodes of any sum.
        helpers: Of the newest of them: how many hold seeds.
        threshold: And how many of them must answer for a sum.
        tolerated: So many helpers may be on the coordinator's side, and it still sees no update of one node.
        unknown: How many versions an earlier release has made, of which it is not known whether they were masked.
    """

    masked: int
    plain: int
    members_least: int
    helpers: int
    threshold: int
    tolerated: int
    unknown: int = 0


def masked_versions(store: Batches) -> MaskedVersions | None:
    """Which versions of a run were made of masked updates; None where none was.

    Raises:
        StorageError: It cannot be read.
    """
    versions = [row.record.version for row in store.history() if row.record.version > 0]
    batches = [batch for version in versions if (batch := store.batch(version)) is not None]
    past = store.masked_past() or MaskedPast(since=batches[0].version if batches else 1)
    for batch in batches:
        past = past.after(batch)
    if not past.versions:
        return None
    unknown = sum(version < past.since for version in versions)
    helpers, threshold = past.helpers[-1]
    return MaskedVersions(
        masked=past.versions,
        plain=len(versions) - unknown - past.versions,
        members_least=past.members_least,
        helpers=helpers,
        threshold=threshold,
        tolerated=min(tolerated(*pair) for pair in past.helpers),
        unknown=unknown,
    )


def masked_said(masked: MaskedVersions | None, newest: int | None) -> list[str]:
    """The same as lines of a statement.

    Args:
        masked: What is known.
        newest: The newest version of the run; None before the first.
    """
    if masked is None and not newest:
        return ["Masked sums: none yet. No version has been made of updates."]
    if masked is None:
        return ["Masked sums: none. The coordinator has seen each update by itself."]
    said = [
        f"Masked sums: {masked.masked} of {counted(masked.masked + masked.plain + masked.unknown, 'version')}.",
        f"Of these the coordinator has seen sums over at least {masked.members_least} nodes, and no update by itself.",
        (
            f"Of the newest one {counted(masked.helpers, 'helper')} held the seeds,"
            f" and {masked.threshold} had to answer for a sum."
        ),
        _tolerated_said(masked.tolerated),
    ]
    if masked.plain:
        said.append(f"Of {counted(masked.plain, 'version')} it has seen each update by itself.")
    if masked.unknown:
        said.append(
            f"Of {counted(masked.unknown, 'version')} of an earlier release these records do not say whether it has."
        )
    return said


def _tolerated_said(helpers: int) -> str:
    if not helpers:
        return "Over all of them no helper may be on the coordinator's side, or it can see the update of one node."
    side = "may be on the coordinator's side, and it still sees no update of one node"
    return f"Over all of them up to {counted(helpers, 'helper')} {side}."
