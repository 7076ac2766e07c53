"""SCAFFOLD between a real coordinator and real node executors, and the same once more straight from the paper."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import CommitterSettings
from coordinator.strategies.strategy import StrategySettings, make_strategy
from edge_node.engine.effects import AdoptModel, SaveOutbox, SettleUpdate, StartTraining
from edge_node.runtime.executor import NodeExecutor, NodeParts
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.training.worker import TrainingSetup, run_round
from federation.protocol.chunking import payload_digest
from federation.protocol.messages import ModelPart, PartKind, ReceiptStatus, TrainSettings, UpdateOffer
from federation.protocol.topics import Topics
from federation.task import Metrics, Parameters, Stop, TrainResult
from federation.tasks.scaffold import NODES_KEY, RESOLUTION_KEY, scaffolded, with_controls
from federation.testing import FakeClock
from federation.types import FederationId, ModelVersion, NodeId, UpdateId, update_id
from fedmq.simulation.experiment.direct import DirectCoordinator, Question, Setup
from tests.rigs.node_doubles import RecordingTrainer, RecordingTransport
from tests.rigs.stores import in_own_folder, reopened
from update_codec import CodecSpec, Manifest, Role, Vectors, encode

F64 = NDArray[np.float64]
SIZE = 6
NODE_COUNT = 5
STEPS = 7
RATE = 0.05


@cache
def shape(node: int) -> tuple[F64, F64]:
    """A node's curvature and minimum."""
    rng = np.random.default_rng([41, node])
    return rng.uniform(0.3, 3.0, SIZE), rng.normal(size=SIZE)


def gradient(node: int, w: F64) -> F64:
    """A node's own slope: another curvature and another minimum for each, and not linear."""
    curvature, minimum = shape(node)
    return np.asarray(curvature * (w - minimum) + 0.1 * np.sin(3.0 * w))


@dataclass
class SlopeTask:
    """A parameter, a running mean as BatchNorm has it, and a counter of steps."""

    node: int

    def initial_parameters(self, seed: int) -> Parameters:
        return {"w": np.full(SIZE, 0.5, np.float32), "mean": np.zeros(2, np.float32), "steps": np.array(0, np.int64)}

    def roles(self) -> Mapping[str, Role]:
        return {"mean": Role.STATISTIC}

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        return self.train_corrected(parameters, settings, stop, {"w": np.zeros(SIZE, np.float32)})

    def train_corrected(
        self, parameters: Parameters, settings: TrainSettings, stop: Stop, correction: Parameters
    ) -> TrainResult:
        assert parameters.keys() == {"w", "mean", "steps"}
        w = parameters["w"].astype(np.float64)
        for _ in range(STEPS):
            w = w - settings.learning_rate * (gradient(self.node, w) + correction["w"].astype(np.float64))
        trained: dict[str, NDArray[Any]] = {
            "w": w.astype(np.float32),
            "mean": (parameters["mean"].astype(np.float64) * 0.5 + self.node).astype(np.float32),
            "steps": np.array(int(parameters["steps"]) + STEPS + self.node, np.int64),
        }
        return TrainResult(parameters=trained, num_examples=10 * (self.node + 1), steps=STEPS)

    def evaluate(self, parameters: Parameters) -> Metrics:
        return {}


@dataclass
class Paper:
    """Algorithm 1 of arXiv 1910.06378 with option II, in float64; every version's x and c are remembered."""

    x: list[F64] = field(default_factory=lambda: [np.full(SIZE, 0.5)])
    c: list[F64] = field(default_factory=lambda: [np.zeros(SIZE)])
    c_i: list[F64] = field(default_factory=lambda: [np.zeros(SIZE) for _ in range(NODE_COUNT)])
    mean: list[F64] = field(default_factory=lambda: [np.zeros(2)])

    def local(self, node: int, version: int) -> tuple[F64, F64, F64]:
        """(y - x, c_i+ - c_i, difference of the running mean)."""
        x, c, c_i = self.x[version], self.c[version], self.c_i[node]
        y = x.copy()
        for _ in range(STEPS):
            y = y - RATE * (gradient(node, y) - c_i + c)
        plus = c_i - c + (x - y) / (STEPS * RATE)
        return y - x, plus - c_i, self.mean[version] * 0.5 + node - self.mean[version]

    def commit(self, members: list[tuple[int, tuple[F64, F64, F64]]]) -> None:
        """The server's lines; the members' c_i move, and nobody else's."""
        share = 1.0 / len(members)
        self.x.append(self.x[-1] + share * sum((made[0] for _, made in members), np.zeros(SIZE)))
        self.c.append(self.c[-1] + sum((made[1] for _, made in members), np.zeros(SIZE)) / NODE_COUNT)
        self.mean.append(self.mean[-1] + share * sum((made[2] for _, made in members), np.zeros(2)))
        for node, made in members:
            self.c_i[node] = self.c_i[node] + made[1]


class Node:
    """The node's own executor and store; the network is a method call."""

    def __init__(self, index: int) -> None:
        self.index, self.name = index, NodeId(f"n{index}")
        task = SlopeTask(index)
        self.setup = TrainingSetup(
            node=self.name, task=task, manifest=Manifest.of(dict(task.initial_parameters(0)), task.roles())
        )
        self.store = in_own_folder(SqliteNodeStore)
        self.trainer = RecordingTrainer()
        self._start()

    def crash(self) -> None:
        """Another process on the same state."""
        self.store = reopened(self.store)
        self._start()

    def train(self, question: Question, model: Vectors) -> tuple[UpdateOffer, bytes]:
        """From the assignment to the saved update."""
        announcement = question.announcement
        frame = encode(model, with_controls(self.setup.manifest), CodecSpec.parse("lossless")).frame
        part = ModelPart(
            kind=PartKind.KEYFRAME,
            version=announcement.model.version,
            payload_bytes=len(frame),
            payload_digest=payload_digest(frame),
            chunk_bytes=61_440,
        )
        self.executor.execute(AdoptModel(model=announcement.model, parts=((part, frame),)))
        assert list(self.executor.execute(StartTraining(announcement=announcement))) == []
        result = run_round(self.setup, self.trainer.jobs[-1], lambda: False, FakeClock())
        offer = UpdateOffer(
            run=announcement.run,
            round=announcement.round,
            update=update_id(announcement.round, self.name),
            incarnation=self.store.incarnation,
            base_version=announcement.model.version,
            base_digest=announcement.model.digest,
            num_examples=result.num_examples,
            metrics={},
            codec=result.codec,
            payload_bytes=len(result.frame),
            payload_digest=payload_digest(result.frame),
            chunk_bytes=61_440,
        )
        self.executor.execute(SaveOutbox(offer=offer, result=result))
        return offer, result.frame

    def settle(self, update: UpdateId, status: ReceiptStatus) -> None:
        self.executor.execute(SettleUpdate(update=update, applied=status is ReceiptStatus.APPLIED))

    @property
    def control(self) -> NDArray[np.float32]:
        """c_i as it is settled."""
        return np.asarray(self.store.task_state().get("control.w", np.zeros(SIZE)), np.float32)

    def _start(self) -> None:
        self.executor = NodeExecutor(
            NodeParts(
                setup=self.setup,
                store=self.store,
                trainer=self.trainer,
                transport=RecordingTransport(),
                topics=Topics(FederationId("f")),
            )
        )


class Federation:
    """A coordinator that trains with SCAFFOLD, its nodes, and the paper beside them."""

    def __init__(self, *, cohort: int, buffer: int, resolution: float = 1e-9, codec: str = "lossless") -> None:
        self.nodes = [Node(index) for index in range(NODE_COUNT)]
        self.late = 0 if cohort == buffer else 2
        engine = EngineSettings(
            task="t",
            train=TrainSettings(learning_rate=RATE, extra={NODES_KEY: float(NODE_COUNT), RESOLUTION_KEY: resolution}),
            codec_up=codec,
            concurrency=cohort,
            buffer=buffer,
            refill=cohort if cohort == buffer else 1,
            quorum=buffer,
            nodes_min=NODE_COUNT,
            max_staleness=self.late,
            lease_s=1e6,
            max_wait_s=1e6,
            evaluate_every=0,
        )
        task = scaffolded(SlopeTask(0))
        arrays = dict(task.initial_parameters(0))
        self.manifest = Manifest.of(arrays, task.roles())
        committer = CommitterSettings(strategy=make_strategy(StrategySettings(name="scaffold")))
        setup = Setup(manifest=self.manifest, initial=self.manifest.flatten(arrays), engine=engine, committer=committer)
        self.coordinator = DirectCoordinator(setup, [node.name for node in self.nodes])
        self.models = {ModelVersion(0): self.coordinator.model}
        self.paper = Paper()
        self.made: dict[UpdateId, tuple[int, tuple[F64, F64, F64]]] = {}
        self.offers: dict[UpdateId, tuple[Question, bytes, int]] = {}
        self.questions: deque[Question] = deque()

    @property
    def model(self) -> dict[str, NDArray[Any]]:
        return dict(self.manifest.unflatten(self.coordinator.model))

    def next(self) -> tuple[Question, Node]:
        """The oldest open question, once the coordinator has asked."""
        while not (self.questions or self.coordinator.questions):
            self.coordinator.pass_time(4_000.0)
        self.questions.extend(self.coordinator.questions)
        self.coordinator.questions.clear()
        question = self.questions.popleft()
        return question, self.nodes[int(question.node[1:])]

    def train(self, question: Question, node: Node) -> UpdateId:
        """The node trains and saves; nothing is sent yet. The paper does the same."""
        version = question.announcement.model.version
        offer, frame = node.train(question, self.models[version])
        self.made[offer.update] = (node.index, self.paper.local(node.index, version))
        self.offers[offer.update] = (question, frame, offer.num_examples)
        return offer.update

    def send(self, update: UpdateId, *, lose_receipts: bool = False) -> None:
        """The offer arrives; the receipts that follow reach their nodes, or are lost."""
        question, frame, examples = self.offers[update]
        known = len(self.coordinator.receipts)
        version = self.coordinator.version
        self.coordinator.answer(question, frame, examples)
        if self.coordinator.version > version:
            self.models[ModelVersion(self.coordinator.version)] = self.coordinator.model
            self.paper.commit([self.made[member] for member in self._members(known)])
        if not lose_receipts:
            self.hear(known)

    def hear(self, since: int = 0) -> None:
        """Receipts arrive, again or for the first time."""
        for node, receipt in self.coordinator.receipts[since:]:
            if receipt.status is not ReceiptStatus.STORED:
                self.nodes[int(node[1:])].settle(receipt.update, receipt.status)

    def _members(self, since: int) -> list[UpdateId]:
        found = [
            receipt.update
            for _, receipt in self.coordinator.receipts[since:]
            if receipt.status is ReceiptStatus.APPLIED and receipt.version == self.coordinator.version
        ]
        return list(dict.fromkeys(found))
