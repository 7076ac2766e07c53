"""What the wire allows and no honest coordinator says, through a node's inbox, machine, worker and store (FED-103)."""

import os
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from random import Random

import pytest

from edge_node.engine.events import BrokerConnected, BrokerDisconnected, Event, TrainingFinished
from edge_node.engine.machine import NodeMachine
from edge_node.engine.settings import NodeSettings
from edge_node.runtime.executor import NodeExecutor, NodeParts
from edge_node.runtime.inbound import Inbound
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.training.evaluation import EvaluationJob
from edge_node.training.masked_report import told
from edge_node.training.worker import TrainingJob, evaluated, training_event
from federation.protocol.cohort import EVERYONE
from federation.protocol.limits import INT64_MAX
from federation.protocol.messages import (
    Cancel,
    CoordinatorState,
    EvaluationReceipt,
    Grant,
    Message,
    PartKind,
    Presence,
    Rebirth,
    Receipt,
    ReceiptStatus,
    RetryAfter,
    RoundAnnouncement,
    UpdateOffer,
)
from federation.protocol.topics import Topics
from federation.protocol.wire import decode_message, encode_message
from federation.runtime.log import configure_log
from federation.runtime.transport import MessageReceived
from federation.types import Epoch, FederationId, ModelVersion, RoundId, RunId, UpdateId, update_id
from tests.rigs.extreme_messages import Extremes
from tests.rigs.node_doubles import NODE, RUN, RecordingTransport, announcement, part, training_setup, vectors
from tests.rigs.stores import in_own_folder, reopened

MESSAGES = int(os.environ.get("FEDMQ_EXTREMES", "500"))
TOPICS = Topics(FederationId("t"))
LIFE = 100
"""Messages to one node: what raises an epoch or a round to its end makes it deaf to the rest of them."""

OUTBOX_MAX = 16
STEPS_MAX = 200
"""Events that one message may come to: more is a loop."""


@dataclass
class Device:
    """One node's process on a real store, without a broker; its worker does each job at once."""

    rng: Random
    store: SqliteNodeStore = field(default_factory=partial(in_own_folder, SqliteNodeStore))
    now_s: float = 1_000.0
    updates: list[str] = field(default_factory=list)
    trained: int = 0

    def __post_init__(self) -> None:
        self.setup, self.done = training_setup(), deque[Event]()
        self.begin()

    def begin(self) -> None:
        self.transport = RecordingTransport()
        parts = NodeParts(setup=self.setup, store=self.store, trainer=self, transport=self.transport, topics=TOPICS)
        self.executor = NodeExecutor(parts)
        self.machine = NodeMachine(
            NodeSettings(node=NODE, task="toy"),
            self.store.incarnation,
            self.executor.recovered(),
            rng=self.rng.random,
            state_id=self.store.state_id,
        )
        self.inbound = Inbound(TOPICS, NODE)
        self.take(BrokerConnected())

    def restart(self) -> None:
        self.store = reopened(self.store)
        self.begin()

    def now(self) -> float:
        return self.now_s

    def start(self, job: TrainingJob) -> None:
        event = training_event(self.setup, job, lambda: False, self)
        self.trained += isinstance(event, TrainingFinished)
        self.done.append(event)

    def evaluate(self, job: EvaluationJob) -> None:
        self.done.append(told(NODE, job, evaluated(self.setup, job, self)))

    def stop(self, round_id: RoundId) -> None:
        """The job is over already."""

    def close(self, *, timeout_s: float) -> bool:
        return timeout_s > 0

    def hear(self, topic: str, payload: bytes) -> None:
        item = MessageReceived(topic=topic, payload=payload, retained=False, duplicate=False)
        event = self.inbound.translate(item)
        if event is not None:
            self.take(event)

    def take(self, event: Event | None) -> None:
        todo: deque[Event | None] = deque([event])
        for _ in range(STEPS_MAX):
            if not todo:
                break
            for effect in self.machine.handle(todo.popleft(), self.now_s):
                todo.extend(self.executor.execute(effect))
            todo.extend(self.done)
            self.done.clear()
        assert not todo, "one message keeps the node busy for ever"
        for said in self.transport.published:
            if said.topic == TOPICS.node_event(NODE):
                message = decode_message(said.payload)
                if isinstance(message, UpdateOffer) and message.update not in self.updates:
                    self.updates.append(message.update)
        self.transport.published.clear()
        due = self.machine.deadline()
        assert event is not None or due is None or due > self.now_s, "it would turn without a pause"


def state(rng: Random, run: RunId = RUN) -> CoordinatorState:
    presence = rng.choice((Presence.ONLINE, Presence.ONLINE, Presence.OFFLINE))
    return CoordinatorState(presence=presence, run=run, epoch=Epoch(1), protocol_min=1, protocol_max=1, began_ms=1)


def announced(device: Device, number: int, run: RunId = RUN) -> tuple[RoundAnnouncement, list[tuple[str, bytes]]]:
    """An honest round, and the chunks of its model."""
    version = ModelVersion(number // 3)
    content = vectors(float(version))
    keyframe, frame = part(PartKind.KEYFRAME, version, content)
    codec = device.rng.choice(("lossless", "deadzone(bpp=2,feedback=1)"))
    made = announcement(number, content, version=version, codec=codec)
    model = replace(made.model, parts=(keyframe,))
    made = replace(made, run=run, model=model, cohort=EVERYONE, evaluation=INT64_MAX)
    return made, [(TOPICS.model_chunk(version, "k0", 0), frame)]


def command(device: Device, update: UpdateId, number: int) -> Message:
    rng = device.rng
    status = rng.choice(list(ReceiptStatus))
    version = ModelVersion(number) if status is ReceiptStatus.APPLIED else None
    return rng.choice(
        (
            Receipt(run=RUN, update=update, status=status, version=version),
            Grant(update=update, bitmap=b"", window=4),
            Cancel(run=RUN, round=RoundId(number)),
            RetryAfter(update=update, seconds=1.0),
            Rebirth(),
            EvaluationReceipt(run=RUN, version=ModelVersion(number // 3), status=status),
        )
    )


def something(device: Device, extremes: Extremes, number: int) -> list[tuple[str, bytes]]:
    """What is said now: honest, or at an end of what is allowed."""
    rng, kind = device.rng, device.rng.randrange(10)
    update = UpdateId(rng.choice(device.updates[-3:] or [str(update_id(RoundId(number), NODE))]))

    def spelled(message: Message) -> bytes:
        return encode_message(extremes.varied(message) if rng.random() < 0.5 else message)

    if kind == 0:
        return [(TOPICS.coordinator_state, spelled(state(rng)))]
    if kind < 5:
        made, chunks = announced(device, number)
        topic = TOPICS.round if kind < 4 else TOPICS.node_command(NODE)
        return [(topic, spelled(made)), *chunks]
    if kind == 5:
        segment = rng.choice(("k0", "d0", "k255", "d1"))
        topic = TOPICS.model_chunk(ModelVersion(number // 3), segment, rng.choice((0, 1, 255)))
        return [(topic, rng.choice((b"\0", b"\xff" * 61_440)))]
    return [(TOPICS.node_command(NODE), spelled(command(device, update, number)))]


@pytest.mark.parametrize("seed", range(max(1, MESSAGES // LIFE)))
def test_no_value_that_the_wire_allows_ends_a_node(seed: int) -> None:
    """Nor its next start."""
    configure_log(json=True, stream=StringIO())
    rng = Random(f"extremes of a node/{seed}")
    device = Device(rng)
    extremes = Extremes(rng, (RUN, "00000000000000bb"), device.updates)
    device.hear(TOPICS.coordinator_state, encode_message(state(rng)))
    for number in range(1, LIFE):
        device.now_s += rng.choice((0.1, 0.3, 2.0, 40.0))
        for topic, payload in something(device, extremes, number):
            device.hear(topic, payload)
        device.take(None)
        if rng.random() < 0.02:
            device.take(BrokerDisconnected(reason="closed"))
            device.take(BrokerConnected())
        if rng.random() < 0.02:
            device.restart()
        assert len(device.store.outbox()) <= OUTBOX_MAX
    device.restart()
