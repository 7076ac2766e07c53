"""A federation through gateways held against a flat one: the same members, added one by one, make the same bits.

Each sum that the root has applied is taken apart into the updates that its site keeps; then every version is made once
more, as if there had never been a gateway.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from coordinator.global_model.aggregation import Unusable, aggregate
from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.downlink import advance
from coordinator.records import Member
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.store import ModelState, UpdateRow
from federation.errors import StorageError
from federation.protocol.messages import Reason, ReceiptStatus
from federation.types import Digest, ModelVersion, NodeId, UpdateId
from update_codec import Accumulator, CodecSpec, Manifest, encode, is_sum, read_sum

__all__ = ["FlatVersion", "Sites", "UplinkBytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatVersion:
    """One version, made both ways.

    Attributes:
        version: Its number.
        members: Nodes' updates in it.
        through_gateways: Digest of what the federation has made.
        flat: Digest of what its members make, added one by one.
    """

    version: ModelVersion
    members: int
    through_gateways: Digest
    flat: Digest

    @property
    def same(self) -> bool:
        """Whether they have the same bits."""
        return self.through_gateways == self.flat


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkBytes:
    """Payload bytes of all applied updates, on their way up.

    Attributes:
        flat: What the nodes' updates take.
        sent: What has gone up instead.
        again: What the sums' means take, coded once more.
    """

    flat: int
    sent: int
    again: int


class Sites:
    """The root's store and those of its sites, read only.

    Args:
        root: The coordinator's state folder.
        sites: The gateways' folders of the same run.

    Raises:
        StorageError: One cannot be read, or is of another run.
    """

    def __init__(self, root: Path, sites: Sequence[Path]) -> None:
        self._root = ReadOnlyStore(root)
        self._sites: dict[NodeId, ReadOnlyStore] = {}
        for folder in sites:
            site = ReadOnlyStore(folder)
            if site.run != self._root.run:
                raise StorageError(f"{folder} is of run {site.run}, the coordinator's is {self._root.run}")
            self._sites[site.gateway] = site

    def __enter__(self) -> Self:
        """Closed at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all stores."""
        for store in (self._root, *self._sites.values()):
            store.close()

    def problems(self) -> Iterator[str]:
        """What counts twice, or is lost, on its way through a gateway: one sentence each."""
        yield from self._doubles()
        for row in self._applied():
            if row.record.node not in self._sites:
                continue
            members = self._members(row)
            examples = sum(member.record.num_examples for member in members)
            if row.whole and all(member.whole for member in members) and examples != row.record.num_examples:
                claim = f"{row.record.update} counts {row.record.num_examples} examples"
                yield f"{claim}, and its {len(members)} members have {examples}"
        for gateway, site in self._sites.items():
            for row in site.updates():
                if row.verdict.status is not ReceiptStatus.APPLIED:
                    continue
                if not any(self._is_member(row, one) for one in self._applied() if one.record.node == gateway):
                    yield f"{row.record.update} is told to be in version {row.verdict.version}, and no sum has it"

    def _doubles(self) -> Iterator[str]:
        """What counts at two sites, or is given back at one and counts at the other."""
        counted, places = dict[UpdateId, NodeId](), dict[tuple[NodeId, ModelVersion | None], NodeId]()
        rows = [(gateway, row) for gateway, site in self._sites.items() for row in site.updates()]
        for gateway, row in rows:
            update, node, verdict = row.record.update, row.record.node, row.verdict
            if verdict.status is not ReceiptStatus.APPLIED:
                continue
            if update in counted:
                yield f"{update} counts at {counted[update]} and at {gateway}"
            if places.setdefault((node, verdict.version), gateway) != gateway:
                yield f"{node} counts at two sites in version {verdict.version}"
            counted[update] = gateway
        for gateway, row in rows:
            update, verdict = row.record.update, row.verdict
            given_back = verdict.status in (ReceiptStatus.STALE, ReceiptStatus.REFUSED)
            # Once the run is over nothing follows in which it could count again.
            if given_back and verdict.reason is not Reason.FINISHED and update in counted:
                yield f"{update} is given back at {gateway}, and counts at {counted[update]}"

    def bytes_up(self, again: CodecSpec) -> UplinkBytes:
        """What has gone up, and what else could have."""
        manifest, flat, sent, coded = self._root.manifest(), 0, 0, 0
        for row in self._applied():
            sent += row.record.payload_bytes
            members = self._members(row)
            flat += sum(member.record.payload_bytes for member in members)
            frame = self._root.payload(row.record.update)
            if is_sum(frame):
                total = Accumulator(manifest)
                total.add_sum(read_sum(frame, manifest))
                coded += len(encode(total.mean(), manifest, again).frame)
            else:
                coded += len(frame)
        return UplinkBytes(flat=flat, sent=sent, again=coded)

    def compare(self, first: ModelState, settings: CommitterSettings) -> Iterator[FlatVersion]:
        """Make every version once more, from the first on; ends with one that its members do not make.

        Args:
            first: Version 0.
            settings: Those that the versions were made with.

        Raises:
            StorageError: A payload is gone (``store.audit_versions``, above and below).
        """
        manifest, before = self._root.manifest(), first
        own = settings.with_frame_min(manifest.parameter_count)
        # The last one is that of a small model before there was a least size of frames.
        ways = (own, own.plainly(), settings.plainly())
        for row in self._root.history():
            record = row.record
            if record.version == 0:
                continue
            members = [member for one in self._applied(record.version) for member in self._members(one)]
            made = None
            # Versions go down in one of these ways, by who was there to read them; the members are the same.
            for way in ways if members else ():
                made = self._flat(before, members, manifest, way)
                if made is None or made.shadow.digest() == record.digest:
                    break
            if made is None:
                yield FlatVersion(version=record.version, members=0, through_gateways=record.digest, flat=Digest(b""))
                return
            before = made
            yield FlatVersion(
                version=record.version,
                members=len(members),
                through_gateways=record.digest,
                flat=Digest(before.shadow.digest()),
            )

    def _flat(
        self, before: ModelState, rows: Sequence[UpdateRow], manifest: Manifest, settings: CommitterSettings
    ) -> ModelState | None:
        """The next version of these updates; None where they make none."""
        members = [
            Member(
                update=row.record.update,
                node=row.record.node,
                num_examples=row.record.num_examples,
                staleness=before.version - row.record.base_version,
            )
            for row in rows
        ]
        places = self._places(rows)
        context = (manifest, before.strategy, settings.limits)
        made = aggregate(members, lambda update: places[update].payload(update), settings.strategy, context)
        if isinstance(made, Unusable):
            return None
        return replace(advance(before, made.step, manifest, settings.downlink).model, strategy=made.state)

    def _places(self, rows: Sequence[UpdateRow]) -> Mapping[UpdateId, ReadOnlyStore]:
        """Who has the payload of each."""
        at_sites = {
            row.record.update: site
            for site in self._sites.values()
            for row in site.updates()
            if row.verdict.status is ReceiptStatus.APPLIED
        }
        return {row.record.update: at_sites.get(row.record.update, self._root) for row in rows}

    def _applied(self, version: ModelVersion | None = None) -> Iterator[UpdateRow]:
        for row in self._root.updates():
            applied = row.verdict.status is ReceiptStatus.APPLIED
            if applied and version in (None, row.verdict.version):
                yield row

    def _members(self, row: UpdateRow) -> list[UpdateRow]:
        """The updates that are in an applied one: itself, or those of its site."""
        site = self._sites.get(row.record.node)
        return [row] if site is None else [one for one in site.updates() if self._is_member(one, row)]

    @staticmethod
    def _is_member(one: UpdateRow, row: UpdateRow) -> bool:
        applied = one.verdict.status is ReceiptStatus.APPLIED and one.verdict.version == row.verdict.version
        return applied and one.record.base_version == row.record.base_version
