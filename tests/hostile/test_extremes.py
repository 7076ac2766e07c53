"""Numbers and names that the wire allows and no honest node says, through inbox, machine and store (FED-103)."""

import os
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from random import Random

import pytest

from coordinator.app import _speaker
from coordinator.engine.events import BrokerConnected, Event
from coordinator.engine.machine import CoordinatorMachine
from coordinator.engine.settings import EngineSettings, FederatedEvaluationSettings
from coordinator.monitoring.status import show_nodes, show_status
from coordinator.runtime.central_evaluation import NoEvaluator
from coordinator.runtime.executor import CoordinatorExecutor, ExecutorParts
from coordinator.runtime.inbound import Inbound
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.strategies.selection import UniformSelector
from federation.protocol.messages import (
    Activity,
    Decline,
    EvaluationReport,
    Message,
    NodeState,
    Presence,
    Progress,
    RoundAnnouncement,
    UpdateOffer,
)
from federation.protocol.topics import Topics
from federation.protocol.wire import decode_message, encode_message
from federation.runtime.log import configure_log
from federation.runtime.transport import MessageReceived
from federation.types import Digest, FederationId, Incarnation, ModelVersion, NodeId, RoundId, Start, update_id
from tests.rigs.model_values import arrived, committer, initialised, update
from tests.rigs.stores import in_own_folder, reopened

MESSAGES = int(os.environ.get("FEDMQ_EXTREMES", "500"))
NODES = tuple(map(NodeId, ("ann", "bob", "cid")))
TOPICS = Topics(FederationId("t"))
WHOLE = (0, 1, 2**31, 2**32 - 1, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
REAL = (0.0, -1.0, 5e-324, 1.7e308, -1.7e308, 0.5)
SECONDS = (0.0, 1.0, 31_622_400.0)
NAMES = (
    "loss",
    "accuracy",
    "self",
    "event",
    "stack",
    "exception",
    "level",
    "version",
    "[/red]",
    "$\\frac{",
    "memory_bytes",
)
ENGINE = EngineSettings(
    task="digits",
    concurrency=3,
    buffer=2,
    quorum=1,
    max_staleness=2,
    lease_s=5.0,
    max_wait_s=1.0,
    settle_s=0.0,
    evaluate_every=0,
    codec_up="lossless",
    federated_evaluation=FederatedEvaluationSettings(every=1),
)


@dataclass
class Coordinator:
    """One process on a real store, without a broker; it remembers what it announced last."""

    rng: Random
    store: SqliteStore = field(default_factory=partial(in_own_folder, SqliteStore))
    now: float = 1_000.0
    announced: RoundAnnouncement | None = None

    def __post_init__(self) -> None:
        initialised(self.store)
        self.begin()

    def begin(self) -> None:
        parts = ExecutorParts(
            store=self.store,
            committer=committer(self.store),
            control=self,
            data=self,
            topics=TOPICS,
            now=lambda: self.now,
            say=_speaker(),
            evaluator=NoEvaluator(),
        )
        self.executor = CoordinatorExecutor(parts)
        recovered = self.store.recovered(recent=ENGINE.max_staleness + 1)
        self.machine = CoordinatorMachine(
            ENGINE,
            recovered,
            selector=UniformSelector(),
            rng=self.rng.random,
            start=Start(1 + self.rng.getrandbits(60)),
        )
        self.inbound = Inbound(
            TOPICS, self.store, self.executor.traffic, self.executor.broker_connected, now=lambda: self.now
        )
        self.take(BrokerConnected())

    def restart(self) -> None:
        self.store = reopened(self.store)
        self.begin()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        message = decode_message(payload) if topic == TOPICS.round else None
        self.announced = message if isinstance(message, RoundAnnouncement) else self.announced

    def hear(self, topic: str, message: Message) -> None:
        received = MessageReceived(topic=topic, payload=encode_message(message), retained=False, duplicate=False)
        event = self.inbound.translate(received)
        if event is not None:
            self.take(event)

    def take(self, event: Event | None) -> None:
        todo: list[Event | None] = [event]
        while todo:
            for effect in self.machine.handle(todo.pop(0), self.now):
                todo.extend(self.executor.execute(effect))
        self.store.sync()


def numbers(rng: Random) -> dict[str, float]:
    return {rng.choice(NAMES): rng.choice(REAL) for _ in range(rng.randrange(4))}


def birth(rng: Random, node: NodeId) -> Message:
    odd = rng.random() < 0.2
    return NodeState(
        presence=rng.choice(list(Presence)) if odd else Presence.ONLINE,
        incarnation=Incarnation(rng.choice(WHOLE[:4]) if odd else 1),
        protocol_min=1,
        protocol_max=65_535 if odd else 1,
        device="[/red]",
        activity=rng.choice(list(Activity)),
        capabilities=numbers(rng),
    )


def offer(rng: Random, node: NodeId, now: RoundAnnouncement) -> Message:
    """Of the round that stands, or of one before it; what it says of a later one would only be held against us."""
    back = 0 if rng.random() < 0.8 else rng.randrange(6)
    number = RoundId(max(0, now.round - back))
    values = update(rng.choice((0.0, 1e-38, 1e4, -1e-3)), statistics=rng.choice((0.0, 1e30)), counters=(2**62, 0))
    sent = arrived(node, values if rng.random() < 0.5 else update(0.01), round_id=number)
    return UpdateOffer(
        run=now.run,
        round=number,
        update=update_id(number, node),
        incarnation=Incarnation(1),
        base_version=now.model.version,
        base_digest=now.model.digest if rng.random() < 0.9 else Digest(bytes(16)),
        num_examples=rng.choice(WHOLE[:5]) if rng.random() < 0.3 else 100,
        metrics=numbers(rng),
        codec=sent.record.codec,
        payload_bytes=len(sent.payload),
        payload_digest=sent.record.payload_digest,
        chunk_bytes=rng.choice((1, 7, 61_440)),
        fetched_bytes=rng.choice(WHOLE) if rng.random() < 0.5 else 0,
        train_s=rng.choice(SECONDS),
        inline=sent.payload if rng.random() < 0.8 else None,
    )


def report(rng: Random, now: RoundAnnouncement) -> Message:
    version = now.model.version if rng.random() < 0.9 else ModelVersion(rng.choice(WHOLE[:4]))
    return EvaluationReport(
        run=now.run,
        version=version,
        digest=now.model.digest,
        num_examples=rng.choice(WHOLE[:5]),
        metrics=numbers(rng),
        evaluate_s=rng.choice(SECONDS),
        reason=rng.choice(("", "[/red]")),
    )


def something(rng: Random, coordinator: Coordinator) -> tuple[str, Message]:
    """What one node says now."""
    node, now = rng.choice(NODES), coordinator.announced
    kind = rng.randrange(10)
    if kind < 2 or now is None:
        return TOPICS.node_state(node), birth(rng, node)
    if kind < 6:
        return TOPICS.node_event(node), offer(rng, node, now)
    if kind < 8:
        return TOPICS.node_event(node), report(rng, now)
    if kind == 8:
        decline = Decline(run=now.run, round=now.round, reason="[/red]{0}%s", retry_after_s=rng.choice(SECONDS))
        return TOPICS.node_event(node), decline
    round_id = RoundId(rng.choice(WHOLE[:4]))
    return TOPICS.node_telemetry(node), Progress(
        round=round_id, activity=Activity.IDLE, fraction=1.0, metrics=numbers(rng)
    )


@pytest.mark.parametrize("as_json", [False, True])
def test_no_value_that_the_wire_allows_ends_a_coordinator(as_json: bool) -> None:
    """Nor its next start, nor what reads its store; and honest updates are applied in between."""
    configure_log(json=as_json, stream=StringIO())
    rng = Random(f"extremes/{as_json}")
    coordinator = Coordinator(rng)
    for _ in range(MESSAGES):
        coordinator.now += rng.choice((0.1, 0.3, 2.0))
        coordinator.hear(*something(rng, coordinator))
        coordinator.take(None)
        if rng.random() < 0.01:
            coordinator.restart()
    folder = coordinator.store.folder
    show_status(folder, as_json=as_json)
    show_nodes(folder, as_json=as_json)
    assert coordinator.store.recovered(recent=1).head.version >= MESSAGES // 100
