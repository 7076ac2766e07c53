"""What virtual nodes do with a question: answer with the update itself, or with its codec frame.

Lossless updates need no frame: a token travels, and everybody trains when their version is made, as many at once as
fit, each update added to the exact sum and forgotten. The sum is that of their lossless frames, bit for bit. Any
other codec, whatever looks at frames (robust rules, clipping) and SCAFFOLD take the whole way, with error feedback.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from coordinator.global_model.aggregation import Combine, Combined, Reading, Unusable
from coordinator.global_model.update_checks import Examine, Refusal, check_update
from coordinator.records import Member, UpdateRecord
from coordinator.strategies.strategy import Weights
from edge_node.records import MaskedOffer, Residual
from edge_node.storage.task_state import added, expected_state
from edge_node.training.update import ResidualAging, ResidualChange, Shared, encode_update, give_back, merge
from edge_node.training.worker import codec_seed
from federation.protocol.limits import fit_text
from federation.protocol.messages import Decline, Reason, Receipt, ReceiptStatus, RoundAnnouncement
from federation.task import Parameters
from federation.tasks.pool.node_pool import NodePool
from federation.tasks.pool.work import Work
from federation.types import NodeId, UpdateId, update_id
from fedmq.simulation.experiment.direct import DirectCoordinator, Question
from fedmq.simulation.experiment.masked_nodes import VirtualMasks, learnt_of
from fedmq.simulation.experiment.private_nodes import PrivateNodes, only_the_update
from fedmq.simulation.training.local_trainer import Share, Summed, TrainedUpdate
from fedmq.simulation.training.training_workers import Failures, Trainers
from update_codec import CodecSpec, Manifest, Role, Vectors

__all__ = ["FrameWork", "NodeStates", "NodeWork", "VectorWork", "WorkedMember"]

VERSIONS_KEPT = 64
"""Models that late nodes may still train from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkedMember:
    """A node whose update is in the newest version."""

    node: int
    staleness: int
    loss: float | None


class NodeWork(Protocol):
    """One way to answer; both end in the same model where both can be used."""

    verdicts: Counter[str]
    failures: Failures
    last_reason: str
    payload_bytes: int
    combine: Combine | None

    def check(self, record: UpdateRecord, payload: bytes, examine: Examine, norm_max: float) -> Refusal | None:
        """Look at an update before it is kept."""

    def new_version(self, version: int, model: Vectors) -> None:
        """A model that nodes may be asked to train from."""

    def declines(self, question: Question) -> Decline | None:
        """Why a node that is asked does not begin, or None."""

    def asked(self, question: Question, node: int) -> None:
        """A node begins."""

    def finish(self, question: Question, coordinator: DirectCoordinator) -> None:
        """Its time is over: it answers."""

    def receipt(self, node: int, receipt: Receipt) -> None:
        """The coordinator's word on an update."""

    def take_members(self) -> list[WorkedMember]:
        """Who made the newest version; empty at the second call."""


@dataclass(slots=True)
class _Models:
    """The models of the last versions, by name."""

    manifest: Manifest
    by_version: dict[int, Parameters] = field(default_factory=dict)

    def put(self, version: int, model: Vectors) -> None:
        self.by_version[version] = self.manifest.unflatten(model)
        self.by_version.pop(version - VERSIONS_KEPT, None)


@dataclass(slots=True)
class _Asked:
    question: Question
    node: int

    @property
    def announcement(self) -> RoundAnnouncement:
        return self.question.announcement

    @property
    def update(self) -> UpdateId:
        return update_id(self.announcement.round, self.question.node)


class VectorWork:
    """Tokens travel; training happens when a version is made."""

    def __init__(self, trainers: Trainers, manifest: Manifest, pool: NodePool) -> None:
        self.verdicts: Counter[str] = Counter()
        self.failures = Failures()
        self.last_reason = ""
        self.payload_bytes = 0
        self.combine: Combine | None = self._combine
        self._trainers, self._manifest, self._pool = trainers, manifest, pool
        self._models = _Models(manifest)
        self._asked: dict[UpdateId, _Asked] = {}
        self._members: list[WorkedMember] = []

    def check(self, record: UpdateRecord, payload: bytes, examine: Examine, norm_max: float) -> Refusal | None:
        """Nothing is known yet: a training that fails is refused when the version is made."""
        del record, payload, examine, norm_max
        return None

    def new_version(self, version: int, model: Vectors) -> None:
        """A model that nodes may be asked to train from."""
        self._models.put(version, model)

    def declines(self, question: Question) -> Decline | None:
        """Nobody does."""
        del question
        return None

    def asked(self, question: Question, node: int) -> None:
        """Remember who it was."""
        asked = _Asked(question, node)
        self._asked[asked.update] = asked

    def finish(self, question: Question, coordinator: DirectCoordinator) -> None:
        """Offer a token."""
        update = update_id(question.announcement.round, question.node)
        examples = self._pool.num_examples(self._asked[update].node)
        assert examples is not None  # noqa: S101 - else the other way is taken
        self.payload_bytes += self._manifest.fp32_bytes
        coordinator.answer(question, update.encode(), examples)

    def receipt(self, node: int, receipt: Receipt) -> None:
        """Forget what is decided."""
        del node
        if receipt.status.final:
            self.verdicts[receipt.status.value] += 1
            self.last_reason = receipt.reason.value
            self._asked.pop(receipt.update, None)

    def take_members(self) -> list[WorkedMember]:
        """Who made the newest version."""
        members, self._members = self._members, []
        return members

    def _combine(
        self,
        members: Sequence[Member],
        payload: object,
        weights: Weights,
        how: Reading,
    ) -> Combined | Unusable:
        del payload, how
        asked = [self._asked[member.update] for member in members]
        by_node = {each.node: member for each, member in zip(asked, members, strict=True)}
        total, outcomes = self._trainers.sum(self._shares(asked, weights.values))
        for outcome in outcomes:
            if outcome.failure is None:
                self.failures.served(outcome.node)
            else:
                self.failures.add(outcome.node, outcome.failure)
        failed = [outcome for outcome in outcomes if outcome.failure is not None]
        if failed:
            culprits = tuple(by_node[outcome.node].update for outcome in failed)
            return Unusable(culprits=culprits, reason=Reason.NOT_FINITE, detail=str(failed[0].failure))
        self._members = [_member(outcome, by_node) for outcome in outcomes]
        return total.mean(divisor=weights.divisor), {by_node[each.node].update: each.norm for each in outcomes}

    def _shares(self, asked: Sequence[_Asked], weights: Sequence[float]) -> list[Share]:
        """Those that train from the same model in the same round go together."""
        together: dict[int, list[tuple[_Asked, float]]] = {}
        for each, weight in zip(asked, weights, strict=True):
            together.setdefault(each.announcement.round, []).append((each, weight))
        return [
            Share(
                work=Work(
                    nodes=tuple(each.node for each, _ in some),
                    base=self._models.by_version[some[0][0].announcement.model.version],
                    settings=some[0][0].announcement.settings,
                ),
                weights=tuple(weight for _, weight in some),
            )
            for some in together.values()
        ]


def _member(outcome: Summed, by_node: Mapping[int, Member]) -> WorkedMember:
    return WorkedMember(node=outcome.node, staleness=by_node[outcome.node].staleness, loss=outcome.loss)


@dataclass(slots=True)
class _Node:
    """What a node keeps between rounds: its residual, and the version that it was left at."""

    residual: Residual | None = None
    saved: int | None = None


@dataclass(slots=True)
class _Sent:
    node: int
    base: int
    frame: bytes
    loss: float | None


class FrameWork:
    """Every node encodes its update with its own error feedback, as `edge_node` does.

    Attributes:
        states: What each node keeps that receipts settle.
        private: The nodes' privacy budgets.
    """

    def __init__(
        self, trainers: Trainers, manifest: Manifest, names: Sequence[NodeId], masks: VirtualMasks | None = None
    ) -> None:
        self.verdicts: Counter[str] = Counter()
        self.failures = Failures()
        self.last_reason = ""
        self.payload_bytes = 0
        self.combine: Combine | None = None
        self.check = check_update
        self._masks = masks
        self._trainers, self._manifest = trainers, manifest
        self._models = _Models(manifest)
        self._nodes = [_Node() for _ in names]
        self._waiting: dict[int, dict[int, _Asked]] = {}
        self._done: dict[UpdateId, TrainedUpdate] = {}
        self._sent: dict[UpdateId, _Sent] = {}
        self._applied: list[tuple[_Sent, int]] = []
        self._aging = ResidualAging()
        self.states = NodeStates(manifest)
        self.private = PrivateNodes(names)

    def new_version(self, version: int, model: Vectors) -> None:
        """A model that nodes may be asked to train from."""
        self._models.put(version, model)

    def declines(self, question: Question) -> Decline | None:
        """A node that has no budget left, or has to hear first what it had spent."""
        return self.private.decline(question)

    def asked(self, question: Question, node: int) -> None:
        """Those of one round are trained together, when the first of them is done."""
        self._waiting.setdefault(question.announcement.round, {})[node] = _Asked(question, node)

    def finish(self, question: Question, coordinator: DirectCoordinator) -> None:
        """Encode and offer; or decline where the training failed."""
        announcement = question.announcement
        update = update_id(announcement.round, question.node)
        if update not in self._done:
            self._train(announcement)
        trained = self._done.pop(update)
        if announcement.settings.privacy is not None:
            trained = only_the_update(trained)
            if (late := self.private.decline(question)) is not None:  # asked again meanwhile: it has spent the rest
                coordinator.decline(question.node, late)
                return
        if trained.update is None:
            reason = fit_text(trained.failure or "failed")
            self.failures.add(trained.node, reason)
            decline = Decline(run=announcement.run, round=announcement.round, reason=reason)
            coordinator.decline(question.node, decline)
            return
        frame, masked = self._encode(trained, announcement, update, codec_seed(announcement, question.node))
        self.payload_bytes += len(frame)
        self.failures.served(trained.node)
        self.states.sent(trained.node, update, trained)
        self._sent[update] = _Sent(trained.node, announcement.model.version, frame, trained.metrics.get("loss"))
        self.private.charge(question, trained, coordinator)
        coordinator.answer(question, frame, trained.num_examples, trained.metrics, masked)

    def receipt(self, node: int, receipt: Receipt) -> None:
        """Adopt the residual, or take everything back (law 9)."""
        if not receipt.status.final:
            return
        self.verdicts[receipt.status.value] += 1
        self.last_reason = receipt.reason.value
        sent = self._sent.pop(receipt.update, None)
        if sent is None:
            return
        self.states.settle(node, receipt)
        if receipt.status is ReceiptStatus.APPLIED:
            made = receipt.version
            self._applied.append((sent, 0 if made is None else made - 1 - sent.base))
        elif receipt.reason.values_unfit:
            self._nodes[node].residual = None
        elif self._nodes[node].residual is not None or self._masks is not None:
            self._nodes[node].residual = self._give_back(node, receipt.update, sent.frame)
        if self._masks is not None:
            self._masks.settle(receipt.update)

    def take_members(self) -> list[WorkedMember]:
        """Who made the newest version."""
        applied, self._applied = self._applied, []
        return [WorkedMember(node=sent.node, staleness=lag, loss=sent.loss) for sent, lag in applied]

    def _train(self, announcement: RoundAnnouncement) -> None:
        asked = self._waiting.pop(announcement.round)
        base, controls = self.states.divided(self._models.by_version[announcement.model.version])
        work = Work(
            nodes=tuple(asked),
            base=base,
            settings=announcement.settings,
            controls=controls,
            states=self.states.expected(asked),
        )
        for trained in self._trainers.updates(work):
            self._done[asked[trained.node].update] = trained

    def _give_back(self, node: int, update: UpdateId, frame: bytes) -> Residual | None:
        residual, manifest, masks = self._nodes[node].residual, self._manifest, self._masks
        return give_back(residual, frame, manifest) if masks is None else masks.back(residual, frame, update, manifest)

    def _encode(
        self, trained: TrainedUpdate, announcement: RoundAnnouncement, update: UpdateId, seed: int
    ) -> tuple[bytes, MaskedOffer | None]:
        assert trained.update is not None  # noqa: S101 - the caller has looked
        node, version = self._nodes[trained.node], announcement.model.version
        if self._masks is not None:
            learnt = learnt_of(trained, node.residual, self._aging.share(node.saved, version))
            made, offer = self._masks.mask(learnt, announcement, update, self._manifest)
            node.residual, node.saved = merge(node.residual, made.change), version
            return made.frame, offer
        encoded = encode_update(
            trained.update,
            self._manifest,
            CodecSpec.parse(announcement.codec),
            residual=node.residual,
            share=self._aging.share(node.saved, version),
            shared=Shared(seed=seed),
        )
        change = ResidualChange(used=node.residual, left=encoded.change.left)
        node.residual, node.saved = merge(node.residual, change), version
        return encoded.frame, None


class NodeStates:
    """What nodes keep that receipts settle, such as control variates: see `edge_node.storage.task_state`.

    Args:
        manifest: The model.

    Attributes:
        settled: What each node keeps, by its index; nothing before its first update was applied.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._names = [tensor.name for tensor in manifest.tensors if tensor.role is Role.CONTROL]
        self.settled: dict[int, Parameters] = {}
        self._pending: dict[int, dict[UpdateId, Parameters]] = {}

    def divided(self, model: Parameters) -> tuple[Parameters, Parameters]:
        """The model with controls of zero, and its controls: see `federation.tasks.pool.work.Work`."""
        controls = {name: model[name] for name in self._names}
        return {**model, **{name: np.zeros_like(array) for name, array in controls.items()}}, controls

    def expected(self, nodes: Iterable[int]) -> Mapping[int, Parameters]:
        """What these nodes train with: what they keep as it is if every update under way is applied."""
        known = self.settled.keys() | self._pending.keys()
        return {node: self._expected(node) for node in nodes if node in known}

    def sent(self, node: int, update: UpdateId, trained: TrainedUpdate) -> None:
        """A node has offered an update; its change waits for the receipt."""
        change = dict(trained.pending)
        if self._names and trained.update is not None:
            arrays = self._manifest.unflatten(trained.update)
            change |= {name: np.array(arrays[name]) for name in self._names}
        if change:
            self._pending.setdefault(node, {})[update] = change

    def settle(self, node: int, receipt: Receipt) -> None:
        """A final receipt: what was applied is kept, anything else is dropped."""
        change = self._pending.get(node, {}).pop(receipt.update, None)
        if change is not None and receipt.status is ReceiptStatus.APPLIED:
            self.settled[node] = added(self.settled.get(node, {}), change)

    def _expected(self, node: int) -> Parameters:
        return expected_state(self.settled.get(node, {}), self._pending.get(node, {}).values())
