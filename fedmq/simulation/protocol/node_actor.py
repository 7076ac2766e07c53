"""An edge node as an actor: machine, executor and store as in production, on a simulated network and disk."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_node.engine.effects import SaveOutbox
from edge_node.engine.events import AnnouncementReceived, CoordinatorStateReceived, OutboxSaved, StopRequested
from edge_node.engine.machine import NodeMachine, NodeSettings
from edge_node.runtime.connection import node_will
from edge_node.runtime.executor import NodeExecutor, NodeParts
from edge_node.runtime.inbound import Inbound as NodeInbound
from edge_node.runtime.sealing import NodeSealing
from edge_node.storage.store import NodeStore
from edge_node.training.masking import Masking
from edge_node.training.worker import TrainingSetup
from federation.protocol.messages import CoordinatorState, RoundAnnouncement
from federation.protocol.signing import Reader, Writer
from federation.protocol.sum_messages import Ticket
from federation.runtime.session import SessionSettings
from federation.runtime.transport import MessageReceived
from federation.types import NodeId
from fedmq.simulation.protocol.actors import Actor
from fedmq.simulation.protocol.processes import TOPICS, Life, Place
from fedmq.simulation.world.disks import Disk
from fedmq.simulation.world.keys import SimKeys
from fedmq.simulation.world.trainer import SimTrainer, Spoiler, Stragglers
from fedmq.simulation.world.transport import SimTransport

__all__ = ["NodeActor"]


class NodeActor(Actor):
    """One edge node over its restarts.

    Args:
        place: Where it lives.
        disk: All that stays of it.
        setup: Its task, and its id.
        settings: What it is to do.
        stragglers: How long it trains.
        name: For the transcript, where another one has the same id.

    Attributes:
        wipes: How often its state folder was lost.
        sealing: The newest process's keys; None where nothing is sealed.
    """

    sealing: NodeSealing | None = None

    def __init__(
        self,
        place: Place,
        disk: Disk[NodeStore],
        setup: TrainingSetup,
        settings: NodeSettings,
        stragglers: Stragglers,
        *,
        name: str = "",
    ) -> None:
        name = name or setup.node
        super().__init__(name, place.surroundings, disk, crash=place.surroundings.dice.plan.node_crash)
        self._place, self.disk, self._setup, self._settings = place, disk, setup, settings
        self._stragglers = stragglers
        self._rng = place.surroundings.rng(f"{name}/time")
        self._seeds = place.surroundings.rng(f"{name}/seeds")
        self._factor = stragglers.train_s * stragglers.node_factor(self._rng)
        self._session = SessionSettings(client_id=setup.node)
        self.wipes = 0
        self._spoiler = Spoiler(self._dice, setup)
        self._shared = {place.topics.round, place.topics.coordinator_state}

    @property
    def connections(self) -> tuple[str, ...]:
        """Its MQTT id."""
        return (self._setup.node,)

    @property
    def knows_helpers(self) -> bool:
        """Whether it could mask, were it asked now; whoever has gone for ever is not asked."""
        if self.gone or not self.alive:
            return self.gone
        return self._inbound.keeps_helpers and not isinstance(self._inbound.masking(lambda _: b""), str)

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
        helpers = (topics.helper_states,) if place.helpers else ()
        keys = () if place.seals is None else (topics.node_key(node),)
        for topic_filter in (*helpers, *keys, *topics.node_subscriptions(node)):
            transport.subscribe(topic_filter)
        trainer = SimTrainer(self._world, self._setup, self._duration_s, self._spoiler.before(receive))
        setup = self._setup
        parts = NodeParts(setup=setup, store=store, trainer=trainer, transport=transport, topics=topics, signer=key)
        self.sealing = sealing = self._sealing(node)
        parts = replace(parts, sealing=sealing, rest=transport.rest)
        self._inbound = NodeInbound(topics, node, place.keys, sealing, helpers=place.helpers, folder=self._folder)
        executor = NodeExecutor(replace(parts, helpers=self._masking) if place.helpers else parts)
        rng, recovered = self.surroundings.rng(f"{self.name}/{store.incarnation}").random, executor.recovered()
        for one in (recovered, *recovered.hidden):
            place.witness.has(self.name, one.outbox, self._spoiler.made)
        lacks = (lambda: None) if sealing is None else sealing.lacks
        machine = NodeMachine(
            self._settings, store.incarnation, recovered, rng=rng, state_id=store.state_id, lacks_key=lacks
        )
        return Life(
            machine=machine,
            executor=executor,
            translate=self._event,
            transports=(transport,),
            end=trainer.abandon,
        )

    @property
    def _folder(self) -> Path | None:
        return self.disk.path if self._place.helpers and isinstance(self.disk, Disk) else None

    def _sealing(self, node: NodeId) -> NodeSealing | None:
        """Its keys, in its folder; None where nothing is sealed."""
        if self._place.seals is None:
            return None
        assert isinstance(self.disk, Disk)  # noqa: S101 - without disks nothing is sealed
        sealing = NodeSealing(self._place.topics, node, self.disk.path)
        sealing.start()
        return sealing

    def stop_request(self) -> object:
        """What a signal tells the process."""
        return StopRequested()

    @property
    def place(self) -> Place:
        """Where it lives."""
        return self._place

    def move(self, place: Place) -> None:
        """Its next process connects to another broker; all that it has on its disk moves with it."""
        self._place = place
        self._shared = {place.topics.round, place.topics.coordinator_state}

    def rests(self) -> None:
        """Its state folder may be lost now."""
        if self._dice.happens(self._dice.plan.wipe):
            self.wipes += 1
            self._note("state lost")
            self.disk.wipe()
            self._place.witness.wiped(self.name)

    def before(self, effect: Any) -> None:
        """What it is about to save may be there although it dies on the way."""
        if isinstance(effect, SaveOutbox) and self._place.seals is not None:
            self._place.seals.known(effect.result.frame, self._settings.chunk_bytes)
        if isinstance(effect, SaveOutbox) and self._place.sums is not None:
            self._place.sums.masked(effect.offer.run, effect.offer.update, effect.result)

    def after(self, effect: Any, events: list[Any]) -> None:
        """Watch what it has done."""
        del effect
        saved = [event.entry for event in events if isinstance(event, OutboxSaved)]
        if saved:
            self._place.witness.has(self.name, saved, self._spoiler.made)
            if not self.disk.waited:
                self._place.witness.too_early(self.name, 1)

    def _event(self, item: object) -> Any:
        # What everybody is told is the same value for everybody: decoded once, not by each of a thousand nodes.
        shared = self._shared if self.sealing is None else ()
        if isinstance(item, MessageReceived) and item.topic in shared and item.payload:
            event: object = _broadcast(item.topic, item.payload, signed=self._settings.signed)
            self._inbound.keep_helpers()
        else:
            event = self._inbound.translate(item)
        if isinstance(event, AnnouncementReceived):
            self._place.witness.node_sees(event.announcement)
        return event

    def _masking(self, sign: Callable[[Ticket], bytes]) -> Masking | str:
        """What it takes to mask, from this simulation's own randomness."""
        found = self._inbound.masking(sign)
        return found if isinstance(found, str) else replace(found, draw=self._seeds.randbytes)

    def _duration_s(self) -> float:
        return self._factor * self._rng.lognormvariate(0.0, self._stragglers.jitter)


@lru_cache(maxsize=64)
def _broadcast(topic: str, payload: bytes, *, signed: bool) -> AnnouncementReceived | CoordinatorStateReceived:
    message = Reader(TOPICS, SimKeys() if signed else None).decode(topic, payload)
    if isinstance(message, RoundAnnouncement):
        return AnnouncementReceived(announcement=message, payload=payload)
    assert isinstance(message, CoordinatorState)  # noqa: S101 - only our own coordinator publishes there
    return CoordinatorStateReceived(state=message, payload=payload)
