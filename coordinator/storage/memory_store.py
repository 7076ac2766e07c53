"""The coordinator's store in plain memory: for the simulator and for tests; it survives a machine, not a process."""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from coordinator.records import (
    Attendance,
    NodeResult,
    NodesEvaluation,
    RecoveredState,
    RoundRecord,
    TransferRecord,
    UpdateRecord,
    Verdict,
    VersionRecord,
)
from coordinator.storage.evaluations import mean_of
from coordinator.storage.memory_participation import MemoryParticipation
from coordinator.storage.store import Commit, CurveKind, CurvePoint, ModelState, Participation, UpdateRow, VersionRow
from federation.errors import DamagedStore, LocalProtocolError
from federation.protocol.messages import ModelPart, ReceiptStatus
from federation.types import Epoch, ModelVersion, NodeId, RoundId, RunId, UpdateId
from update_codec import Manifest

__all__ = ["MemoryStore"]


@dataclass(slots=True)
class _Transfer:
    record: TransferRecord
    body: bytearray
    arrived: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Version:
    row: VersionRow
    members: tuple[UpdateId, ...]


class MemoryStore:
    """Keeps everything in dictionaries.

    Args:
        run: Identity of the store.
        audit_versions: How many versions keep the payloads that they were made of.
    """

    def __init__(self, run: RunId = RunId("0" * 16), *, audit_versions: int = 1) -> None:  # noqa: B008 - a str
        self.run = run
        self.epoch = Epoch(1)
        self._audit_versions = audit_versions
        self._manifest: Manifest | None = None
        self._versions: dict[ModelVersion, _Version] = {}
        self._models: dict[ModelVersion, ModelState] = {}
        self._frames: dict[ModelPart, bytes] = {}
        self._published: dict[ModelPart, None] = {}
        self._rounds: dict[RoundId, RoundRecord] = {}
        self._next_round = RoundId(0)
        self._open: dict[RoundId, dict[NodeId, None]] = {}
        self._updates: dict[UpdateId, UpdateRow] = {}
        self._stored: dict[UpdateId, UpdateRecord] = {}
        self._payloads: dict[UpdateId, bytes] = {}
        self._transfers: dict[UpdateId, _Transfer] = {}
        self._judged: Counter[tuple[ModelVersion, ReceiptStatus]] = Counter()
        self._participation = MemoryParticipation()
        self._surveys: dict[ModelVersion, NodesEvaluation] = {}
        self._results: dict[tuple[ModelVersion, NodeId], NodeResult] = {}
        self._evaluated: set[ModelVersion] = set()
        self._retained: frozenset[ModelVersion] = frozenset()
        self._best: ModelVersion | None = None

    def reopen(self) -> "MemoryStore":
        """Start again on the same state, as a restarted process does: the epoch counts up."""
        self.epoch = Epoch(self.epoch + 1)
        return self

    @property
    def _head(self) -> VersionRecord:
        if not self._versions:
            raise LocalProtocolError("the store has no version yet: initialise it first")
        return next(reversed(self._versions.values())).row.record

    def manifest(self) -> Manifest | None:
        """The model's manifest; None before `initialise`."""
        return self._manifest

    def initialise(self, manifest: Manifest, first: Commit) -> None:
        """Save the manifest and version 0."""
        if self._versions:
            raise LocalProtocolError("the store has a version already")
        self._manifest = manifest
        self._put_version(first)

    def recovered(self, *, recent: int) -> RecoveredState:
        """Where the last machine left off."""
        head = self._head
        newest = [v.row.record for v in list(self._versions.values())[-recent:]]
        open_rounds = [
            replace(self._rounds[number], nodes=tuple(nodes)) for number, nodes in sorted(self._open.items()) if nodes
        ]
        numbers = {record.round for record in open_rounds}
        return RecoveredState(
            run=self.run,
            epoch=self.epoch,
            head=head,
            recent={record.version: record.digest for record in newest},
            next_round=self._next_round,
            open_rounds=tuple(open_rounds),
            delivered=frozenset(update for update, row in self._updates.items() if row.record.round in numbers),
            stored=tuple(self._stored.values()),
            transfers=tuple(replace(t.record, arrived=frozenset(t.arrived)) for t in self._transfers.values()),
            evaluated={version: self._versions[version].row.metrics for version in sorted(self._evaluated)},
            surveyed=tuple(self._surveys.values()),
            reported={
                node: result.num_examples
                for (version, node), result in self._results.items()
                if version == max(self._surveys)
            },
            retained=self._retained if self._best is None else self._retained | {self._best},
            best=self._best,
        )

    def verdict(self, update: UpdateId) -> Verdict | None:
        """What is known of an update."""
        row = self._updates.get(update)
        return None if row is None else row.verdict

    def stored(self, update: UpdateId) -> UpdateRecord | None:
        """What is kept of an update that is ``stored``."""
        return self._stored.get(update)

    def reserved(self, round_id: RoundId) -> RoundRecord | None:
        """A reserved round with its rule and version."""
        found = self._rounds.get(round_id)
        return None if found is None else replace(found, nodes=(), evaluation=None)

    def save_round(self, record: RoundRecord) -> None:
        """Reserve a round and open its assignments."""
        if record.round < self._next_round:
            if self._rounds.get(record.round) == record:
                return
            raise LocalProtocolError(f"round {record.round} has been reserved before")
        self._reserve_survey(record)
        self._next_round = RoundId(record.round + 1)
        self._rounds[record.round] = record
        self._open[record.round] = dict.fromkeys(record.nodes)
        self._participation.ask(record.nodes)

    def close_round(self, round_id: RoundId, nodes: Sequence[NodeId]) -> None:
        """Forget open assignments."""
        assignments = self._open.get(round_id, {})
        for node in nodes:
            assignments.pop(node, None)
        if not assignments:
            self._open.pop(round_id, None)

    def save_update(self, record: UpdateRecord, payload: bytes) -> None:
        """Save an update with its payload as ``stored``."""
        if record.update in self._updates:
            raise LocalProtocolError(f"update {record.update} is known already")
        verdict = Verdict(update=record.update, node=record.node, status=ReceiptStatus.STORED)
        self._updates[record.update] = UpdateRow(record=record, verdict=verdict)
        self._stored[record.update] = record
        self._payloads[record.update] = payload
        self._transfers.pop(record.update, None)

    def save_verdict(self, verdict: Verdict, record: UpdateRecord | None) -> None:
        """Save a final verdict."""
        row = self._updates.get(verdict.update)
        if row is not None and row.verdict == verdict:
            return
        if row is None and record is not None:
            row = UpdateRow(record=record, verdict=verdict)
        elif row is None or row.verdict.status.final:
            raise LocalProtocolError(f"update {verdict.update} cannot be judged {verdict.status}")
        self._updates[verdict.update] = replace(row, verdict=verdict)
        self._judged[self._head.version, verdict.status] += 1
        for gone in (self._stored, self._payloads, self._transfers):
            gone.pop(verdict.update, None)

    def payload(self, update: UpdateId) -> bytes:
        """The codec frame of a stored update."""
        with _present(f"payload of {update}"):
            return self._payloads[update]

    def open_transfer(self, transfer: TransferRecord) -> None:
        """Expect a large update in chunks."""
        update = transfer.record.update
        if update not in self._transfers:
            self._transfers[update] = _Transfer(transfer, bytearray(transfer.record.payload_bytes))

    def save_chunk(self, update: UpdateId, index: int, body: bytes) -> None:
        """Save one chunk of an open transfer."""
        transfer = self._transfers.get(update)
        if transfer is None:
            raise LocalProtocolError(f"no transfer of {update} is open")
        start = index * transfer.record.chunk_bytes
        transfer.body[start : start + len(body)] = body
        transfer.arrived.add(index)

    def transfer_payload(self, update: UpdateId) -> bytes:
        """The payload of a transfer as it has arrived."""
        with _present(f"transfer of {update}"):
            return bytes(self._transfers[update].body)

    def drop_transfer(self, update: UpdateId) -> None:
        """Forget a large update that stopped arriving."""
        self._transfers.pop(update, None)

    def commit(self, commit: Commit) -> None:
        """Save a version."""
        if commit.record.version != self._head.version + 1:
            raise LocalProtocolError(f"version {commit.record.version} does not follow {self._head.version}")
        for member in commit.members:
            if member.update not in self._stored:
                raise LocalProtocolError(f"member {member.update} is not stored")
        for member in commit.members:
            verdict = Verdict(
                update=member.update, node=member.node, status=ReceiptStatus.APPLIED, version=commit.record.version
            )
            row = self._updates[member.update]
            self._updates[member.update] = replace(row, verdict=verdict, staleness=member.staleness)
            del self._stored[member.update]
        self._put_version(commit)

    def model(self, version: ModelVersion) -> ModelState:
        """The arrays of the head, of the version before it, or of one that is retained."""
        with _present(f"model of version {version}"):
            return self._models[version]

    def retain(self, versions: Collection[ModelVersion], best: ModelVersion | None) -> None:
        """Keep the arrays of exactly these versions and of the best one."""
        self._retained = frozenset(versions)
        self._best = best if best in self._models else None
        self._drop_models()

    def best(self) -> ModelVersion | None:
        """The best version; None before one was named."""
        return self._best

    def frame(self, part: ModelPart) -> bytes:
        """The codec frame of a part."""
        with _present(f"{part.kind} of version {part.version}"):
            return self._frames[part]

    def replace_parts(self, head: VersionRecord, frames: Mapping[ModelPart, bytes]) -> None:
        """Publish the head in other parts from now on."""
        kept = self._versions[head.version]
        kept.row = replace(kept.row, record=head)
        self._frames.update(frames)
        self._published.update(dict.fromkeys(frames))

    def obsolete_parts(self, head: VersionRecord) -> tuple[ModelPart, ...]:
        """Parts of neither this head nor its predecessor that have not been marked cleared."""
        kept = {*head.parts, *self._parts(ModelVersion(head.version - 1))}
        return tuple(part for part in self._published if part not in kept)

    def mark_cleared(self, parts: Sequence[ModelPart]) -> None:
        """Remember that these parts are off the broker."""
        for part in parts:
            self._published.pop(part, None)

    def save_evaluation(self, version: ModelVersion, metrics: Mapping[str, float]) -> None:
        """Remember what an evaluation found."""
        if version in self._versions:
            self._evaluated.add(version)
            if metrics:
                self._versions[version].row = replace(self._versions[version].row, metrics=dict(metrics))

    def _reserve_survey(self, record: RoundRecord) -> None:
        if record.evaluation is None:
            return
        survey = NodesEvaluation(version=record.version, share=record.evaluation)
        if self._surveys.setdefault(record.version, survey).share != record.evaluation:
            raise LocalProtocolError(f"the evaluation of version {record.version} has been reserved with another share")

    def save_node_result(self, result: NodeResult) -> NodeResult:
        """Save what a node found; its first word stays."""
        self._survey(result.version)
        return self._results.setdefault((result.version, result.node), result)

    def node_result(self, version: ModelVersion, node: NodeId) -> NodeResult | None:
        """What a node found at a version."""
        return self._results.get((version, node))

    def close_evaluation(self, version: ModelVersion) -> NodesEvaluation:
        """Make the mean over the nodes that count, and save it."""
        survey = self._survey(version)
        if not survey.closed:
            found = [result for (of, _), result in self._results.items() if of == version]
            survey = self._surveys[version] = mean_of(survey, found)
        return survey

    def _survey(self, version: ModelVersion) -> NodesEvaluation:
        if version not in self._surveys:
            raise LocalProtocolError(f"no evaluation of version {version} on the nodes has been reserved")
        return self._surveys[version]

    def curves(self) -> list[CurvePoint]:
        """Every number that training and evaluation have given, by version."""
        points = [_training_point(row) for row in self._updates.values() if row.verdict.version is not None]
        points += [_result_point(result) for result in self._results.values() if result.num_examples]
        points += [_survey_point(survey) for survey in self._surveys.values() if survey.nodes]
        points += [
            CurvePoint(kind=CurveKind.CENTRAL, version=version, metrics=found.row.metrics)
            for version, found in self._versions.items()
            if found.row.metrics
        ]
        return sorted(points, key=lambda point: (point.version, point.kind.value, point.node or ""))

    def history(self) -> list[VersionRow]:
        """All versions in order."""
        return [
            replace(
                version.row,
                record=replace(version.row.record, parts=()),
                stale=self._judged[ModelVersion(number - 1), ReceiptStatus.STALE],
                refused=self._judged[ModelVersion(number - 1), ReceiptStatus.REFUSED],
            )
            for number, version in self._versions.items()
        ]

    def updates(self) -> Iterator[UpdateRow]:
        """All updates in order of arrival."""
        yield from list(self._updates.values())

    def save_attendance(self, attendance: Attendance) -> None:
        """Add what was seen of nodes."""
        self._participation.add(attendance)

    def participation(self) -> list[Participation]:
        """All nodes that were ever seen or asked, by name."""
        return self._participation.of(self._updates.values())

    def close(self) -> None:
        """Nothing to release."""

    def _put_version(self, commit: Commit) -> None:
        version = commit.record.version
        row = VersionRow(record=commit.record, reason=commit.reason, figures=commit.figures)
        self._versions[version] = _Version(row, tuple(member.update for member in commit.members))
        self._models[version] = commit.model
        self._drop_models()
        self._frames.update(commit.frames)
        self._published.update(dict.fromkeys(commit.record.parts))
        kept = {part for number in (version, version - 1) for part in self._parts(ModelVersion(number))}
        for part in [part for part in self._frames if part not in kept]:
            del self._frames[part]
        expired = self._versions.get(ModelVersion(version - self._audit_versions))
        for update in expired.members if expired is not None else ():
            self._payloads.pop(update, None)

    def _drop_models(self) -> None:
        head = self._head.version
        kept = {head, head - 1, self._best, *self._retained}
        self._models = {version: model for version, model in self._models.items() if version in kept}

    def _parts(self, version: ModelVersion) -> tuple[ModelPart, ...]:
        return self._versions[version].row.record.parts if version in self._versions else ()


@contextlib.contextmanager
def _present(what: str) -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise DamagedStore(f"the {what} is not in the store") from None


def _training_point(row: UpdateRow) -> CurvePoint:
    record, version = row.record, row.verdict.version
    assert version is not None  # noqa: S101 - only applied ones are asked for
    return CurvePoint(
        kind=CurveKind.TRAINING,
        version=version,
        node=record.node,
        num_examples=record.num_examples,
        metrics=record.metrics,
        base_version=record.base_version,
    )


def _result_point(result: NodeResult) -> CurvePoint:
    return CurvePoint(
        kind=CurveKind.NODE,
        version=result.version,
        node=result.node,
        num_examples=result.num_examples,
        metrics=result.metrics,
        counted=result.counted,
    )


def _survey_point(survey: NodesEvaluation) -> CurvePoint:
    return CurvePoint(
        kind=CurveKind.NODES, version=survey.version, num_examples=survey.num_examples, metrics=survey.metrics
    )
