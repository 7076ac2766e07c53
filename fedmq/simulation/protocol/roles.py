"""The two roles as actors: machines, executors and stores as in production, on a simulated network and disk."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from coordinator.engine.effects import AcceptFailure, PublishAnnouncement, SendCommand
from coordinator.engine.events import Evaluated, Event, StorageFailed
from coordinator.engine.machine import CoordinatorMachine
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import Committer, CommitterSettings
from coordinator.records import RecoveredState
from coordinator.runtime.connections import coordinator_will
from coordinator.runtime.executor import CoordinatorExecutor, ExecutorParts
from coordinator.runtime.group_commit import BATCH_MAX, GroupCommit
from coordinator.runtime.inbound import Inbound as CoordinatorInbound
from coordinator.runtime.publisher import Publisher
from coordinator.strategies.selection import make_selector
from edge_node.app import node_will
from edge_node.engine.events import AnnouncementReceived, CoordinatorStateReceived, OutboxSaved
from edge_node.engine.machine import NodeMachine, NodeSettings
from edge_node.runtime.executor import NodeExecutor, NodeParts
from edge_node.runtime.inbound import Inbound as NodeInbound
from edge_node.storage.store import NodeStore
from edge_node.training.worker import TrainingSetup
from federation.protocol.messages import CoordinatorState, RoundAnnouncement
from federation.protocol.signing import Reader, Writer
from federation.protocol.topics import Topics
from federation.runtime.session import SessionSettings
from federation.runtime.transport import MessageReceived
from federation.types import FederationId, ModelVersion, NodeId, Start
from fedmq.simulation.protocol.actors import Actor
from fedmq.simulation.protocol.checker import Checker
from fedmq.simulation.protocol.keys import SimKey, SimKeys
from fedmq.simulation.protocol.processes import Life, Surroundings
from fedmq.simulation.world.clock import World
from fedmq.simulation.world.disks import Disk
from fedmq.simulation.world.network import SimNetwork
from fedmq.simulation.world.stores import ObservedStore
from fedmq.simulation.world.trainer import SimTrainer, Spoiler, Stragglers
from fedmq.simulation.world.transport import SimTransport
from update_codec import Vectors

__all__ = ["TOPICS", "CoordinatorActor", "NodeActor", "Place"]

CONTROL_SESSION = SessionSettings(
    client_id="coordinator-control",
    session_expiry_s=3600,
    receive_max=64,
    inflight_max=64,
    manual_ack=True,
    connection="control",
)
DATA_SESSION = SessionSettings(
    client_id="coordinator-data",
    session_expiry_s=600,
    receive_max=64,
    inflight_max=64,
    connection="data",
    queue_messages_max=65_536,
)
"""As `coordinator.runtime.connections` sets them."""

SAYINGS = (PublishAnnouncement, SendCommand)
"""Effects whose words the checker knows."""

TOPICS = Topics(FederationId("sim"))
"""The tree of every simulated federation."""

EVALUATION_S = 0.5
"""How long an evaluation takes, in virtual seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an actor lives.

    Attributes:
        surroundings: What all share.
        network: The broker.
        topics: The federation's tree.
        checker: Watches.
        signed: Whether all messages are signed.
    """

    surroundings: Surroundings
    network: SimNetwork
    topics: Topics
    checker: Checker
    signed: bool = False

    @property
    def keys(self) -> SimKeys | None:
        """Everybody's, where messages are signed."""
        return SimKeys() if self.signed else None

    def key(self, owner: NodeId | None) -> SimKey | None:
        """One participant's own; None is the coordinator's."""
        return SimKey(owner) if self.signed else None


class CoordinatorActor(Actor):
    """The coordinator over its restarts; its disk is all that stays.

    Args:
        place: Where it lives.
        disk: Has the first version.
        engine: What it is to do.
        committer: How versions are made.
        busy_s: Longest time for which it is busy with what it has taken, in virtual seconds.
    """

    def __init__(
        self,
        place: Place,
        disk: Disk[ObservedStore],
        engine: EngineSettings,
        committer: CommitterSettings,
        *,
        busy_s: float = 0.0,
    ) -> None:
        super().__init__("coordinator", place.surroundings, disk, crash=place.surroundings.dice.plan.coordinator_crash)
        self._place, self.disk, self._engine, self._committer = place, disk, engine, committer
        self._busy = place.surroundings.rng("coordinator/busy")
        self._busy_s = busy_s
        self._mute = False
        self._unsaid: list[Any] = []

    @property
    def connections(self) -> tuple[str, ...]:
        """Its MQTT ids."""
        return (CONTROL_SESSION.client_id, DATA_SESSION.client_id)

    def build(self) -> Life:
        """Connect, and go on where the store says."""
        self._mute = False
        self._unsaid.clear()
        place, store, topics = self._place, self.disk.store, self._place.topics
        recovered, committer = self._recover(store)
        key = place.key(None)
        start = Start(1 + self.surroundings.rng(f"{self.name}/{store.epoch}/start").getrandbits(63))
        will = coordinator_will(Writer(topics, key), store.run, store.epoch, start)
        receive = self.receiver()
        control = SimTransport(place.network, CONTROL_SESSION, receive, will=will)
        data = SimTransport(place.network, DATA_SESSION, receive)
        for topic_filter in (topics.coordinator_state, *topics.coordinator_subscriptions_control):
            control.subscribe(topic_filter)
        for topic_filter in topics.coordinator_subscriptions_data:
            data.subscribe(topic_filter)
        commits = GroupCommit(_Waiting(self), _Mouth(control, self), _Mouth(data, self))
        parts = ExecutorParts(
            store=store,
            committer=committer,
            control=commits.control,
            data=commits.data,
            topics=topics,
            now=self.clock.now,
            say=self._say,
            evaluator=_LaterEvaluator(self._world, receive),
            signer=key,
            passing=commits.passing,
        )
        executor = CoordinatorExecutor(parts)
        rng, selector = self.surroundings.rng(f"coordinator/{store.epoch}").random, make_selector("uniform")
        machine = CoordinatorMachine(self._engine, recovered, selector=selector, rng=rng, start=start)
        inbound = CoordinatorInbound(
            topics,
            store,
            executor.traffic,
            executor.broker_connected,
            verifier=place.keys,
            signer=key,
            now=self.clock.now,
        )
        return Life(
            machine=machine,
            executor=executor,
            translate=inbound.translate,
            transports=(data, control),
            settle=commits.settle,
            batch_max=BATCH_MAX,
            busy_s=self._busy_for,
        )

    def _recover(self, store: ObservedStore) -> tuple[RecoveredState, Committer]:
        """Read where to go on, and make whole what nodes pull; that there is something to make is a violation."""
        store.wait_later()
        recovered = store.recovered(recent=self._engine.max_staleness + 1)
        committer = Committer(store, recovered.head, self._committer)
        repaired = committer.repair(store)
        self._place.checker.coordinator_started(recovered, store.alarms, repaired)
        return replace(recovered, head=committer.head), committer

    def before(self, effect: Any) -> None:
        """Remember what it wants to say; between a failed save and its acceptance the executor says nothing."""
        if isinstance(effect, AcceptFailure):
            self._mute = False
        elif not self._mute and isinstance(effect, SAYINGS):
            self._unsaid.append(effect)

    def after(self, effect: Any, events: list[Any]) -> None:
        """Watch what it has done."""
        del effect
        self._mute = self._mute or any(isinstance(event, StorageFailed) for event in events)

    def synchronised(self) -> None:
        """What it wants to say is about to be said: by now all of it is on the disk."""
        for effect in self._unsaid:
            self._place.checker.coordinator_says(effect, self.disk.store)
        self._unsaid.clear()

    def speaks(self) -> None:
        """Something leaves the process: nothing that was saved before may be lost any more."""
        self.passage()
        if self.disk.pending:
            self._place.checker.too_early(self.name, self.disk.pending)

    def _busy_for(self) -> float:
        return self._busy_s * self._busy.random() if self._busy_s else 0.0

    def _say(self, event: str, fields: Mapping[str, object]) -> None:
        if event != "message_refused":
            self._place.checker.heard(event, fields)


class _Waiting:
    """The store as group commit knows it: it waits for the disk, and the checker looks at what comes next."""

    def __init__(self, actor: CoordinatorActor) -> None:
        self._actor = actor

    def sync(self) -> None:
        """Wait until everything that was saved is on the disk."""
        self._actor.passage()
        self._actor.disk.store.sync()
        self._actor.synchronised()


class _Mouth:
    """A connection behind group commit: what is published here is said."""

    def __init__(self, connection: Publisher, actor: CoordinatorActor) -> None:
        self._connection, self._actor = connection, actor

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, now or after the reconnect."""
        self._actor.speaks()
        self._connection.publish(topic, payload, qos=qos, retain=retain)


class NodeActor(Actor):
    """One edge node over its restarts.

    Attributes:
        wipes: How often its state folder was lost.
    """

    def __init__(
        self,
        place: Place,
        disk: Disk[NodeStore],
        setup: TrainingSetup,
        settings: NodeSettings,
        stragglers: Stragglers,
    ) -> None:
        super().__init__(setup.node, place.surroundings, disk, crash=place.surroundings.dice.plan.node_crash)
        self._place, self.disk, self._setup, self._settings = place, disk, setup, settings
        self._stragglers = stragglers
        self._rng = place.surroundings.rng(f"{setup.node}/time")
        self._factor = stragglers.train_s * stragglers.node_factor(self._rng)
        self._session = SessionSettings(client_id=setup.node)
        self.wipes = 0
        self._spoiler = Spoiler(self._dice, setup)
        self._shared = {place.topics.round, place.topics.coordinator_state}

    @property
    def connections(self) -> tuple[str, ...]:
        """Its MQTT id."""
        return (self.name,)

    @property
    def outbox(self) -> int:
        """Updates without a final receipt on its disk; while that cannot be read, there may be one."""
        return len(self.disk.store.outbox()) if self.disk.opened else 1

    def build(self) -> Life:
        """Connect, and go on where the store says."""
        place, store, node = self._place, self.disk.store, self._setup.node
        topics, key = place.topics, place.key(node)
        will = node_will(Writer(topics, key), node, store)
        receive = self.receiver()
        transport = SimTransport(place.network, self._session, receive, will=will)
        for topic_filter in topics.node_subscriptions(node):
            transport.subscribe(topic_filter)
        trainer = SimTrainer(self._world, self._setup, self._duration_s, self._spoiler.before(receive))
        executor = NodeExecutor(
            NodeParts(setup=self._setup, store=store, trainer=trainer, transport=transport, topics=topics, signer=key)
        )
        rng = self.surroundings.rng(f"{node}/{store.incarnation}").random
        machine = NodeMachine(self._settings, store.incarnation, executor.recovered(), rng=rng, state_id=store.state_id)
        self._inbound = NodeInbound(topics, node, place.keys)
        return Life(
            machine=machine,
            executor=executor,
            translate=self._event,
            transports=(transport,),
            end=trainer.abandon,
        )

    def rests(self) -> None:
        """Its state folder may be lost now."""
        if self._dice.happens(self._dice.plan.wipe):
            self.wipes += 1
            self._note("state lost")
            self.disk.wipe()
            self._place.checker.wiped(self._setup.node)

    def after(self, effect: Any, events: list[Any]) -> None:
        """Watch what it has done."""
        del effect
        self._place.checker.node_did(self._setup.node, events, self._spoiler.made)
        if not self.disk.waited and any(isinstance(event, OutboxSaved) for event in events):
            self._place.checker.too_early(self.name, 1)

    def _event(self, item: object) -> Any:
        # What everybody is told is the same value for everybody: decoded once, not by each of a thousand nodes.
        if isinstance(item, MessageReceived) and item.topic in self._shared and item.payload:
            event = _broadcast(item.topic, item.payload, signed=self._settings.signed)
            if isinstance(event, AnnouncementReceived):
                self._place.checker.node_sees(event.announcement)
            return event
        return self._inbound.translate(item)

    def _duration_s(self) -> float:
        return self._factor * self._rng.lognormvariate(0.0, self._stragglers.jitter)


class _LaterEvaluator:
    """Finds something a little later, as a worker does."""

    def __init__(self, world: World, post: Callable[..., None]) -> None:
        self._world, self._post = world, post

    def submit(self, version: ModelVersion, model: Vectors) -> Iterable[Event]:
        """Evaluate a version."""
        found = Evaluated(version=version, metrics={"norm": float(np.linalg.norm(model.parameters))})
        self._world.after(EVALUATION_S, partial(self._post, found))
        return ()


@lru_cache(maxsize=64)
def _broadcast(topic: str, payload: bytes, *, signed: bool) -> AnnouncementReceived | CoordinatorStateReceived:
    message = Reader(TOPICS, SimKeys() if signed else None).decode(topic, payload)
    if isinstance(message, RoundAnnouncement):
        return AnnouncementReceived(announcement=message)
    assert isinstance(message, CoordinatorState)  # noqa: S101 - only our own coordinator publishes there
    return CoordinatorStateReceived(state=message)
