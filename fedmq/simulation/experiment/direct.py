"""A coordinator without a network: its machine, executor and store as in production; questions out, updates in.

For tests and benchmarks of strategies: what a node does, and how long it takes, is up to the caller.
"""

import random
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from coordinator.engine.effects import PublishAnnouncement, SendCommand
from coordinator.engine.events import (
    BrokerConnected,
    DeclineReceived,
    Evaluated,
    Event,
    NodeStateReceived,
    OfferReceived,
)
from coordinator.engine.machine import CoordinatorMachine
from coordinator.engine.masked.effects import SendToHelper
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.aggregation import Combine
from coordinator.global_model.committer import Committer, CommitterSettings, first_commit
from coordinator.global_model.update_checks import Examine, Refusal, check_update
from coordinator.records import UpdateRecord
from coordinator.runtime.executor import CoordinatorExecutor, ExecutorParts
from coordinator.runtime.traffic import Traffic
from coordinator.strategies.selection import make_selector
from edge_node.records import MaskedOffer
from federation.contract import unmoved
from federation.errors import StorageError
from federation.protocol.chunking import payload_digest
from federation.protocol.cohort import includes
from federation.protocol.messages import Decline, NodeState, Presence, Receipt, RoundAnnouncement, UpdateOffer
from federation.protocol.topics import Topics
from federation.protocol.wire import PROTOCOL_MIN, PROTOCOL_VERSION
from federation.types import (
    COSINE_FRAMES,
    Digest,
    FederationId,
    Incarnation,
    ModelVersion,
    NodeId,
    RunId,
    SampledSteps,
    update_id,
)
from fedmq.simulation.experiment.masked_nodes import VirtualMasks
from fedmq.simulation.world.stores import store_in_ram
from update_codec import CodecSpec, Manifest, Vectors, encode

__all__ = ["DirectCoordinator", "Question", "Setup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One node is asked to train."""

    node: NodeId
    announcement: RoundAnnouncement


class _Frames(Traffic):
    """Only the frames of updates have their size here: messages are values, and no model travels."""

    def frame(self, payload_bytes: int) -> None:
        """A node has sent an update."""
        self.up += payload_bytes

    def commanded(self, topic: str, payload_bytes: int) -> None:
        """Nothing was sent."""

    def announced(self, topic: str, payload_bytes: int) -> None:
        """Nothing was sent."""


class _Nowhere:
    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Nobody listens."""


@dataclass(slots=True)
class _Clock:
    now: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a coordinator starts from.

    Attributes:
        manifest: The model.
        initial: Version 0.
        engine: The engine; ``versions`` 0 runs for ever.
        committer: How versions are made.
        selector: Who is asked.
        seed: Of the selection.
        update_norm_max: Longer updates are refused.
        combine: See `coordinator.global_model.aggregation.aggregate`; None decodes frames.
        check: Looks at an update before it is kept.
        capabilities: What every node announces that it can.
        masks: The helpers of masked sums; None: nothing is masked.
    """

    manifest: Manifest
    initial: Vectors
    engine: EngineSettings
    committer: CommitterSettings = field(default_factory=CommitterSettings)
    selector: str = "uniform"
    seed: int = 0
    update_norm_max: float = 1e5
    combine: Combine | None = None
    check: Callable[[UpdateRecord, bytes, Examine, float], Refusal | None] = check_update
    capabilities: Mapping[str, float] | None = None
    masks: VirtualMasks | None = None


class DirectCoordinator:
    """One coordinator, its nodes all online, or all away where the engine has a pace.

    Attributes:
        questions: Who was asked and has not been looked at by the caller.
        receipts: Every final or first word on an update, in order.
        spent: What nodes say in births and offers that they have spent of their privacy budgets.
        now: Virtual time, in seconds; the caller moves it on with `pass_time`.
    """

    def __init__(self, setup: Setup, nodes: Iterable[NodeId]) -> None:
        self.questions: deque[Question] = deque()
        self.receipts: list[tuple[NodeId, Receipt]] = []
        self.spent: dict[NodeId, tuple[SampledSteps, ...] | None] = {}
        self._setup, self._nodes = setup, tuple(nodes)
        self._clock = _Clock()
        self._away_since: dict[NodeId, float] = {}
        self._away_s, self._judged = 0.0, False
        self.store = store_in_ram(RunId("0" * 16), self)
        self.store.initialise(
            setup.manifest, first_commit(setup.initial, setup.manifest, setup.committer.downlink, seed=None)
        )
        recovered = self.store.recovered(recent=setup.engine.max_staleness + 1)
        self.store.wait_later()
        self._committer = Committer(self.store, recovered.head, setup.committer, setup.combine)
        if setup.engine.noise is not None:
            self.store.batches.begin_noise(setup.engine.noise.noise)
        recovered = replace(recovered, terms=self._committer.terms)
        self._traffic = _Frames()
        self._executor = self._make_executor()
        rng = random.Random(setup.seed).random  # noqa: S311 - a simulation must repeat
        self._machine = CoordinatorMachine(setup.engine, recovered, selector=make_selector(setup.selector), rng=rng)
        self.tell(BrokerConnected())
        for spoke in () if setup.masks is None else setup.masks.born():
            self.tell(spoke)
        paced = setup.engine.pace_s > 0.0
        for node in self._nodes:
            self.check_out(node, setup.engine.pace_s) if paced else self.come_back(node)
        self.pass_time(setup.engine.settle_s)

    @property
    def now(self) -> float:
        """Virtual time, in seconds."""
        return self._clock.now

    @property
    def version(self) -> int:
        """The newest version."""
        return self._committer.head.version

    @property
    def model(self) -> Vectors:
        """The newest global model."""
        return self._committer.evaluated_model

    def standing(self) -> str | None:
        """What to look at where the newest version has the parameters of the first; None where not, and from then on.

        Once other tensors alone may have moved: some tasks count before they train.
        """
        first, model = self._setup.initial, self.model
        if self._judged or not self.version or not len(first.parameters):
            return None
        stands = np.array_equal(first.parameters, model.parameters)
        counted = not np.array_equal(first.statistics, model.statistics)
        counted = counted or not np.array_equal(first.counters, model.counters)
        if stands and counted and self.version == 1:
            return None
        self._judged = True
        return unmoved(self._setup.engine.train) if stands else None

    def tell(self, event: Event | None) -> None:
        """Let something happen now, and everything that follows from it at once."""
        events: deque[Event | None] = deque([event])
        while events:
            for effect in self._machine.handle(events.popleft(), self.now):
                events.extend(self._executor.execute(effect))
                match effect:
                    case PublishAnnouncement(announcement=announcement):
                        self.store.sync()  # so that the files of former versions may go
                        self._ask(announcement)
                    case SendCommand(node=node, command=Receipt() as receipt):
                        self.receipts.append((node, receipt))
                    case SendToHelper(helper=helper, command=command) if self._setup.masks is not None:
                        events.extend(self._setup.masks.answers(helper, command))
                    case _:
                        pass

    def pass_time(self, seconds: float) -> None:
        """Let time pass, deadline by deadline."""
        end = self.now + seconds
        while self._next(end):
            pass
        self._clock.now = end

    def wait_for_question(self, seconds: float) -> None:
        """Let time pass, deadline by deadline, until somebody is asked."""
        end = self.now + seconds
        while not self.questions:
            if not self._next(end):
                self._clock.now = end
                return

    def _next(self, end: float) -> bool:
        """Go to the machine's next deadline; False where there is none before ``end``."""
        due = self._machine.deadline()
        if due is None or due > end:
            return False
        self._clock.now = max(self.now, due)
        self.tell(None)
        return True

    @property
    def away_share(self) -> float:
        """What part of all nodes' time has been spent offline so far."""
        away_s = self._away_s + sum(self.now - since for since in self._away_since.values())
        return away_s / (self.now * len(self._nodes)) if self.now else 0.0

    @property
    def digest(self) -> Digest:
        """Names the newest version's bits."""
        return self._committer.head.digest

    @property
    def finished(self) -> bool:
        """Whether the last version is there, or nothing better has come for too long."""
        return bool(self._machine.snapshot()["finished"])

    def evaluated(self, version: int, metrics: Mapping[str, float]) -> None:
        """The caller has evaluated a version: it may be the best one, or one too many without improvement."""
        self.store.save_evaluation(ModelVersion(version), metrics)
        self.tell(Evaluated(version=ModelVersion(version), metrics=metrics))

    def keep(self, folder: Path, task: str) -> None:
        """End with a copy of the state on disk, as of a coordinator that has run a task.

        Args:
            folder: Empty.
            task: The task's label.

        Raises:
            StorageError: The folder cannot be written.
        """
        self.store.save_task(task, simulated=True)
        self.store.close()
        try:
            shutil.copytree(self.store.folder, folder, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise StorageError(f"{folder} cannot be written: {error}") from error

    def leave(self, node: NodeId) -> None:
        """The node's connection is lost."""
        self._away_since.setdefault(node, self.now)
        self.tell(NodeStateReceived(node=node, state=_state(self._setup.engine.task, Presence.LOST)))

    def check_out(self, node: NodeId, away_s: float) -> None:
        """The node leaves by the pace, for so many seconds."""
        self._away_since.setdefault(node, self.now)
        away = replace(_state(self._setup.engine.task, Presence.OFFLINE), away_s=away_s)
        self.tell(NodeStateReceived(node=node, state=away))

    def come_back(self, node: NodeId) -> None:
        """The node is online again."""
        self._away_s += self.now - self._away_since.pop(node, self.now)
        self.tell(NodeStateReceived(node=node, state=self._online(node)))

    def decline(self, node: NodeId, decline: Decline) -> None:
        """The node will not train, or could not."""
        self.tell(DeclineReceived(node=node, decline=decline))

    def answer(
        self,
        question: Question,
        update: Vectors | bytes,
        num_examples: int,
        metrics: Mapping[str, float] = MappingProxyType({}),
        masked: MaskedOffer | None = None,
    ) -> None:
        """The node has trained; a frame is passed on as it is. Beside a masked one no number travels."""
        announcement = question.announcement
        spec = CodecSpec.parse(announcement.codec)
        frame = update if isinstance(update, bytes) else encode(update, self._setup.manifest, spec).frame
        offer = UpdateOffer(
            run=announcement.run,
            round=announcement.round,
            update=update_id(announcement.round, question.node),
            incarnation=Incarnation(1),
            base_version=announcement.model.version,
            base_digest=announcement.model.digest,
            num_examples=num_examples if masked is None else 1,
            metrics=dict(metrics) if masked is None else {},
            codec=str(spec),
            payload_bytes=len(frame),
            payload_digest=payload_digest(frame),
            chunk_bytes=self._setup.engine.chunk_bytes,
            inline=frame,
            spent=self.spent.get(question.node),
            ticket=None if masked is None else masked.ticket,
            boxes=None if masked is None else masked.boxes,
        )
        self._traffic.frame(len(frame))
        known = self.store.verdict(offer.update)
        asked = self.store.reserved(offer.round)
        self.tell(OfferReceived(node=question.node, offer=offer, known=known, asked=asked))

    def _ask(self, announcement: RoundAnnouncement) -> None:
        asked = (
            node for node in self._nodes if includes(announcement.cohort, announcement.run, announcement.round, node)
        )
        self.questions.extend(Question(node=node, announcement=announcement) for node in asked)

    def _online(self, node: NodeId) -> NodeState:
        birth = _state(self._setup.engine.task, Presence.ONLINE)
        capabilities = {COSINE_FRAMES: 1.0, **(self._setup.capabilities or {})}
        return replace(birth, capabilities=capabilities, spent=self.spent.get(node))

    def _make_executor(self) -> CoordinatorExecutor:
        return CoordinatorExecutor(
            ExecutorParts(
                store=self.store,
                committer=self._committer,
                control=_Nowhere(),
                data=_Nowhere(),
                topics=Topics(FederationId("direct")),
                now=lambda: self._clock.now,
                say=lambda _event, _fields: None,
                update_norm_max=self._setup.update_norm_max,
                check=self._setup.check,
                traffic=self._traffic,
            )
        )


def _state(task: str, presence: Presence) -> NodeState:
    return NodeState(
        presence=presence,
        incarnation=Incarnation(1),
        protocol_min=PROTOCOL_MIN,
        protocol_max=PROTOCOL_VERSION,
        task=task,
    )
