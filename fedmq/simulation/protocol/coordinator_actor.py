"""A coordinator as an actor: machine, executor and store as in production, on a simulated network and disk."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from coordinator.config.privacy import SealingSettings
from coordinator.engine.effects import AcceptFailure, Invite, PublishAnnouncement, RotateKey, SendCommand, Stop
from coordinator.engine.events import (
    EnrolledFollowed,
    Evaluated,
    Event,
    NodesEnrolled,
    RotationDue,
    StopRequested,
    StorageFailed,
    VersionCommitted,
)
from coordinator.engine.machine import CoordinatorMachine
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import Committer, CommitterSettings
from coordinator.global_model.sums import SiteClaims
from coordinator.global_model.update_checks import check_update
from coordinator.records import RecoveredState
from coordinator.runtime.connections import coordinator_will
from coordinator.runtime.executor import CoordinatorExecutor, ExecutorParts
from coordinator.runtime.group_commit import BATCH_MAX, GroupCommit
from coordinator.runtime.inbound import Inbound
from coordinator.runtime.publisher import Publisher
from coordinator.runtime.sealing import CoordinatorSealing
from coordinator.strategies.selection import make_selector
from federation.protocol.signing import Sender, Writer
from federation.runtime.session import SessionSettings
from federation.types import ModelVersion, NodeId, Start
from fedmq.simulation.protocol.actors import Actor
from fedmq.simulation.protocol.listening import Listening
from fedmq.simulation.protocol.processes import Life, Place
from fedmq.simulation.world.clock import World
from fedmq.simulation.world.disks import Disk
from fedmq.simulation.world.keys import SimKeys
from fedmq.simulation.world.seals import SealWitness
from fedmq.simulation.world.stores import ObservedStore
from fedmq.simulation.world.transport import SimTransport
from update_codec import Vectors

__all__ = ["CoordinatorActor"]

CONTROL_SESSION = SessionSettings(
    client_id="coordinator-control",
    session_expiry_s=3600,
    receive_max=64,
    inflight_max=64,
    manual_ack=True,
    connection="control",
    tells_answer=True,
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

SAYINGS = (PublishAnnouncement, Invite, SendCommand)
"""Effects whose words the checker knows."""

LOOK_S = 1.0
"""How often it looks whether another key is due, and who is enrolled, in seconds."""

EVALUATION_S = 0.5
"""How long an evaluation takes, in virtual seconds."""


class CoordinatorActor(Actor):
    """The coordinator over its restarts; its disk is all that stays.

    Args:
        place: Where it lives.
        disk: Has the first version.
        engine: What it is to do.
        committer: How versions are made.
        busy_s: Longest time for which it is busy with what it has taken, in virtual seconds.
        name: For the transcript, where there are several.

    Attributes:
        disk: All that stays of it.
        engine: What its next process is to do.
        left: Why it has left by itself; empty while it has not.
    """

    def __init__(
        self,
        place: Place,
        disk: Disk[ObservedStore],
        engine: EngineSettings,
        committer: CommitterSettings,
        *,
        busy_s: float = 0.0,
        name: str = "coordinator",
    ) -> None:
        super().__init__(name, place.surroundings, disk, crash=place.surroundings.dice.plan.coordinator_crash)
        self._place, self.disk, self.engine, self._committer = place, disk, engine, committer
        self.left = ""
        self._busy = place.surroundings.rng(f"{name}/busy")
        self._busy_s = busy_s
        self._mute = False
        self._unsaid: list[Any] = []

    @property
    def connections(self) -> tuple[str, ...]:
        """Its MQTT ids."""
        return (CONTROL_SESSION.client_id, DATA_SESSION.client_id)

    def build(self) -> Life:
        """Connect, and go on where the store says."""
        self._mute, self.left = False, ""
        self._unsaid.clear()
        place, store, topics = self._place, self.disk.store, self._place.topics
        recovered, committer = self._recover(store)
        key = place.key(None)
        start = Start(1 + self.surroundings.rng(f"{self.name}/{store.epoch}/start").getrandbits(63))
        will = coordinator_will(Writer(topics, key), store.run, store.epoch, start)
        receive = self.receiver()
        control = SimTransport(place.network, CONTROL_SESSION, receive, will=will)
        data = SimTransport(place.network, DATA_SESSION, receive)
        events, chunks = topics.helper_answers
        helpers = ((topics.helper_states, events), (chunks,)) if place.helpers else ((), ())
        for topic_filter in (topics.coordinator_state, *topics.coordinator_subscriptions_control, *helpers[0]):
            control.subscribe(topic_filter)
        for topic_filter in (*topics.coordinator_subscriptions_data, *helpers[1]):
            data.subscribe(topic_filter)
        self._sealing = sealing = self._sealed(store)
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
            check=partial(check_update, sites=SiteClaims(self.engine.gateways, self.engine.num_examples_max)),
            signer=key,
            passing=commits.passing,
            sealing=sealing,
        )
        executor = CoordinatorExecutor(parts)
        rng, selector = self.surroundings.rng(f"{self.name}/{store.epoch}").random, make_selector("uniform")
        self._machine = machine = CoordinatorMachine(self.engine, recovered, selector=selector, rng=rng, start=start)
        self._listen(executor, start)
        if sealing is not None:
            self._world.after(0.0, partial(self._look, receive, self._processes, frozenset()))
        return Life(
            machine=machine,
            executor=executor,
            translate=self._event,
            transports=(data, control),
            settle=partial(self._settle, commits),
            batch_max=BATCH_MAX,
            follows=machine.follows,
            busy_s=self._busy_for,
        )

    def _listen(self, executor: CoordinatorExecutor, start: Start) -> None:
        """Whatever arrives for this process goes through here."""
        place, store = self._place, self.disk.store
        self._listening = Listening(
            self.name,
            place.checker,
            (store.run, store.epoch, start),
            settle_s=self.engine.settle_s,
            signed=place.signed,
        )
        self._inbound = Inbound(
            place.topics,
            store,
            executor.traffic,
            executor.broker_connected,
            verifier=place.keys if place.seals is None else _Enrolled(place.seals),
            signer=place.key(None),
            now=self.clock.now,
            helpers=place.helpers,
            sealing=self._sealing,
        )

    def _sealed(self, store: ObservedStore) -> CoordinatorSealing | None:
        place = self._place
        if place.seals is None:
            return None
        settings, run = SealingSettings(on=True, rotate_s=place.rotate_s), (store.run, store.epoch)
        return CoordinatorSealing(
            place.topics, run, self.disk.path, settings, place.key(None), now_s=lambda: self._world.now
        )

    def _look(self, receive: Callable[..., None], process: int, told: frozenset[NodeId]) -> None:
        """Who is enrolled, and whether another key is due, as a thread of the process looks for it."""
        seals = self._place.seals
        if seals is None or self._processes != process or self._life is None:
            return
        if seals.enrolled != told:
            told = seals.enrolled
            receive(NodesEnrolled(nodes=told, digest=str(sorted(told))))
        if self._sealing is not None and self._sealing.rotation_is_due():
            receive(RotationDue())
        self._world.after(LOOK_S, partial(self._look, receive, process, told))

    def _recover(self, store: ObservedStore) -> tuple[RecoveredState, Committer]:
        """Read where to go on, and make whole what nodes pull; that there is something to make is a violation."""
        store.wait_later()
        recovered = store.recovered(recent=self.engine.max_staleness + 1)
        committer = Committer(store, recovered.head, self._committer)
        if self.engine.noise is not None:
            store.batches.begin_noise(self.engine.noise.noise)
        repaired = committer.repair(store)
        self._place.checker.coordinator_started(recovered, store.alarms, repaired)
        return replace(recovered, head=committer.head, terms=committer.terms), committer

    def stop_request(self) -> object:
        """What a signal tells the process."""
        return StopRequested()

    def holds(self) -> Mapping[str, Any]:
        """What it knows of later starts or rounds than its own; nothing where it is not behind, or has no process."""
        return {} if self._life is None else self._machine.snapshot()["behind"]  # type: ignore[return-value]

    def _event(self, item: object) -> Event | None:
        event = self._inbound.translate(item)
        self._listening.hear(event, self.clock.now())
        return event

    def _settle(self, commits: GroupCommit) -> None:
        if self._life is not None and not self._life.executor.stopped:
            self._listening.settled(lambda: bool(self._machine.snapshot()["behind"]))
        commits.settle()

    def before(self, effect: Any) -> None:
        """Remember what it wants to say; between a failed save and its acceptance the executor says nothing."""
        if isinstance(effect, SAYINGS):
            self._listening.says(effect, self.clock.now(), finished=lambda: bool(self._machine.snapshot()["finished"]))
        if isinstance(effect, AcceptFailure):
            self._mute = False
        elif not self._mute and isinstance(effect, SAYINGS):
            self._unsaid.append(effect)

    def after(self, effect: Any, events: list[Any]) -> None:
        """Watch what it has done."""
        if isinstance(effect, Stop):
            self.left = effect.reason
            self._place.witness.identities[effect.reason] += 1
        self._mute = self._mute or any(isinstance(event, StorageFailed) for event in events)
        seals, sealing = self._place.seals, self._sealing
        if seals is None or sealing is None:
            return
        for part in (part for event in events if isinstance(event, VersionCommitted) for part in event.record.parts):
            seals.known(self.disk.store.frame(part), part.chunk_bytes)
        if any(isinstance(event, EnrolledFollowed) and event.renewed for event in events):
            seals.followed(sealing.key_epoch, self._place.checker.head)
        seals.rotated += isinstance(effect, RotateKey)

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
        if event == "behind":
            self._place.witness.identities["held"] += 1


class _Enrolled:
    """The keys of those who are enrolled now: nobody else is believed."""

    def __init__(self, seals: SealWitness) -> None:
        self._seals = seals

    def verify(self, sender: Sender, digest: bytes, signature: bytes) -> bool:
        """Whether ``sender`` has signed this, and is enrolled."""
        known = not isinstance(sender, str) or sender in self._seals.enrolled
        return known and SimKeys().verify(sender, digest, signature)


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


class _LaterEvaluator:
    """Finds something a little later, as a worker does."""

    def __init__(self, world: World, post: Callable[..., None]) -> None:
        self._world, self._post = world, post

    def submit(self, version: ModelVersion, model: Vectors) -> Iterable[Event]:
        """Evaluate a version."""
        found = Evaluated(version=version, metrics={"norm": float(np.linalg.norm(model.parameters))})
        self._world.after(EVALUATION_S, partial(self._post, found))
        return ()
