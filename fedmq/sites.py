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
from coordinator.storage.claims import read_claims
from coordinator.storage.database import open_read_only
from coordinator.storage.read_only import ReadOnlyStore
from coordinator.storage.store import ModelState, UpdateRow
from federation.errors import StorageError
from federation.protocol.claims import claim_of
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
        self._root = _Level(root)
        self._sites: dict[NodeId, _Level] = {}
        for folder in sites:
            site = _Level(folder)
            if site.store.run != self._root.store.run:
                raise StorageError(f"{folder} is of run {site.store.run}, the coordinator's is {self._root.store.run}")
            self._sites[site.store.gateway] = site

    def __enter__(self) -> Self:
        """Closed at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all stores."""
        for level in (self._root, *self._sites.values()):
            level.store.close()

    def problems(self) -> Iterator[str]:
        """What counts twice, or is lost, on its way through a gateway: one sentence each."""
        yield from self._doubles()
        for level in (self._root, *self._sites.values()):
            for row in level.applied:
                if row.record.node not in self._sites:
                    continue
                members = list(self._nodes(level, row))
                examples = sum(member.record.num_examples for member in members)
                if row.whole and all(member.whole for member in members) and examples != row.record.num_examples:
                    claim = f"{row.record.update} counts {row.record.num_examples} examples"
                    yield f"{claim}, and its {len(members)} members have {examples}"
        for gateway, site in self._sites.items():
            above = [(level, row) for level in (self._root, *self._sites.values()) for row in level.sums_of(gateway)]
            summed = {one.record.update for level, row in above for one in self._members(level, row)}
            for row in site.applied:
                if row.record.update not in summed:
                    yield f"{row.record.update} is told to be in version {row.verdict.version}, and no sum has it"

    def _doubles(self) -> Iterator[str]:
        """What counts at two places, or is given back at one and counts at another, of whatever level."""
        counted, places = dict[UpdateId, str](), dict[tuple[NodeId, ModelVersion | None], str]()
        rows = [("the coordinator", row) for row in self._root.rows if row.record.node not in self._sites]
        rows += [(f"{gateway}", row) for gateway, site in self._sites.items() for row in site.rows]
        for place, row in rows:
            update, node, verdict = row.record.update, row.record.node, row.verdict
            if verdict.status is not ReceiptStatus.APPLIED:
                continue
            if update in counted:
                yield f"{update} counts at {counted[update]} and at {place}"
            if places.setdefault((node, verdict.version), place) != place:
                yield f"{node} counts at two places in version {verdict.version}"
            counted[update] = place
        for place, row in rows:
            update, verdict = row.record.update, row.verdict
            given_back = verdict.status in (ReceiptStatus.STALE, ReceiptStatus.REFUSED)
            # Once the run is over nothing follows in which it could count again.
            if given_back and verdict.reason is not Reason.FINISHED and update in counted:
                yield f"{update} is given back at {place}, and counts at {counted[update]}"

    def bytes_up(self, again: CodecSpec) -> UplinkBytes:
        """What has gone up, and what else could have."""
        manifest, flat, sent, coded = self._root.store.manifest(), 0, 0, 0
        for row in self._root.applied:
            sent += row.record.payload_bytes
            flat += sum(member.record.payload_bytes for member in self._nodes(self._root, row))
            frame = self._root.store.payload(row.record.update)
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
        manifest, before = self._root.store.manifest(), first
        own = settings.with_frame_min(manifest.parameter_count)
        # The last one is that of a small model before there was a least size of frames.
        ways = (own, own.plainly(), settings.plainly())
        for row in self._root.store.history():
            record = row.record
            if record.version == 0:
                continue
            applied = [one for one in self._root.applied if one.verdict.version == record.version]
            members = [member for one in applied for member in self._nodes(self._root, one)]
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
        at_sites = {row.record.update: site.store for site in self._sites.values() for row in site.applied}
        return {row.record.update: at_sites.get(row.record.update, self._root.store) for row in rows}

    def _nodes(self, level: "_Level", row: UpdateRow) -> Iterator[UpdateRow]:
        """The nodes' updates that are in an applied one: itself, or those of its site, through all levels below."""
        site = self._sites.get(row.record.node)
        if site is None:
            yield row
            return
        for one in self._members(level, row):
            yield from self._nodes(site, one)

    def _members(self, level: "_Level", row: UpdateRow) -> list[UpdateRow]:
        """What a site has put into a sum that is applied one level above.

        The sum says by whom; where it names nobody it has all that its site has in the same version, of the same base.
        """
        site, named = self._sites[row.record.node], level.claims.get(row.record.update, set())
        found = [one for one in site.applied if one.verdict.version == row.verdict.version]
        if named:
            return [one for one in found if site.named(one) <= named]
        return [one for one in found if one.record.base_version == row.record.base_version]


class _Level:
    """One coordinator's or gateway's store, which has stopped, read once.

    Attributes:
        store: It.
        rows: All updates.
        applied: Those in a version.
        claims: What each of them claims, where it is of a gateway.
    """

    def __init__(self, folder: Path) -> None:
        self.store = ReadOnlyStore(folder)
        self.rows = list(self.store.updates())
        self.applied = [row for row in self.rows if row.verdict.status is ReceiptStatus.APPLIED]
        database = open_read_only(folder)
        try:
            self.claims = read_claims(database)
        finally:
            database.close()

    def sums_of(self, gateway: NodeId) -> Iterator[UpdateRow]:
        """What a gateway below has in versions."""
        return (row for row in self.applied if row.record.node == gateway)

    def named(self, row: UpdateRow) -> set[bytes]:
        """What an update here is called in the sum that it is in."""
        return self.claims.get(row.record.update) or {claim_of(row.record.update)}
