"""A gateway as an actor: machines, stores and executors as in production, between two simulated networks."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from coordinator.engine.effects import Note
from coordinator.engine.events import StopRequested
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.sums import SiteClaims
from coordinator.global_model.update_checks import check_update
from coordinator.runtime.connections import coordinator_will
from coordinator.runtime.executor import ExecutorParts
from coordinator.runtime.group_commit import BATCH_MAX, GroupCommit
from coordinator.runtime.inbound import Inbound as SiteInbound
from coordinator.strategies.selection import make_selector
from edge_node.engine.effects import SaveOutbox, SettleUpdate
from edge_node.engine.events import OutboxSaved
from edge_node.engine.machine import NodeMachine, NodeSettings
from edge_node.runtime.connection import node_will
from edge_node.runtime.executor import NodeParts
from edge_node.runtime.inbound import Inbound as NodeInbound
from edge_node.training.worker import TrainingSetup
from federation.protocol.signing import Writer
from federation.runtime.session import SessionSettings
from federation.types import ModelVersion, Start
from fedmq.simulation.protocol.actors import Actor
from fedmq.simulation.protocol.coordinator_actor import CONTROL_SESSION, DATA_SESSION
from fedmq.simulation.protocol.processes import Life, Place
from fedmq.simulation.tree.gateway_disk import GatewayDisk
from fedmq.simulation.world.transport import SimTransport
from site_gateway.engine.events import AboveEvent, BindSum, FreezeSum, GatewayEvent, SettleSum, ThawSum
from site_gateway.engine.machine import GatewayMachine
from site_gateway.engine.site import LIFTED, SiteMachine
from site_gateway.runtime.executor import AboveExecutor, GatewayExecutor, SiteExecutor
from site_gateway.runtime.following import Follower, SiteTask, site_model
from site_gateway.runtime.inbound import Side, Translator, from_side
from site_gateway.runtime.uplink import Form

__all__ = ["GatewayActor"]

LIFT_S = 0.1
"""How long a gateway takes to start again with higher numbers, in seconds."""

Received = Callable[[object, Callable[[], None] | None], None]


class GatewayActor(Actor):
    """One gateway over its restarts.

    Args:
        above: The federation that it is a node of.
        below: The site that it coordinates.
        disk: All that stays of it.
        node: What it is to do as a node.
        engine: What it is to do as a coordinator.
        crash: Probability of a crash per handled event.
        members_max: Updates of one sum, at most, while nobody above can be reached; 0 does not go on then.

    Attributes:
        passes: How often its site has gone on.
    """

    def __init__(  # noqa: PLR0913 - both roles, and what befalls them
        self,
        above: Place,
        below: Place,
        disk: GatewayDisk,
        node: NodeSettings,
        engine: EngineSettings,
        *,
        crash: float,
        members_max: int = 0,
    ) -> None:
        super().__init__(node.node, above.surroundings, disk, crash=crash)
        self._above, self._below, self.disk, self._node, self._engine = above, below, disk, node, engine
        self._members_max, self.passes = members_max, 0

    @property
    def place(self) -> Place:
        """The site."""
        return self._below

    @property
    def connections(self) -> tuple[str, ...]:
        """Its MQTT id above."""
        return (self._node.node,)

    @property
    def connections_below(self) -> tuple[str, ...]:
        """Its MQTT ids at the site."""
        return (CONTROL_SESSION.client_id, DATA_SESSION.client_id)

    def build(self) -> Life:
        """Connect on both sides, and go on where the stores say."""
        receive, store = self.receiver(), self.disk.store
        store.wait_later()
        executor_above, machine_above, inbound_above, transport = self._part_above(_tagging(receive, Side.ABOVE))
        below = _tagging(receive, Side.BELOW)
        start = Start(1 + self.surroundings.rng(f"{self.name}/{store.epoch}/start").getrandbits(63))
        topics, key = self._below.topics, self._below.key(None)
        will = coordinator_will(Writer(topics, key), store.run, store.epoch, start)
        control = SimTransport(self._below.network, CONTROL_SESSION, below, will=will)
        data = SimTransport(self._below.network, DATA_SESSION, below)
        for topic_filter in (topics.coordinator_state, *topics.coordinator_subscriptions_control):
            control.subscribe(topic_filter)
        for topic_filter in topics.coordinator_subscriptions_data:
            data.subscribe(topic_filter)
        commits = GroupCommit(store, control, data)
        executor, machine = self._part_below(commits, executor_above, start)
        inbound = SiteInbound(
            topics,
            store,
            executor.traffic,
            executor.broker_connected,
            verifier=self._below.keys,
            signer=key,
            now=self.clock.now,
        )
        return Life(
            machine=GatewayMachine(machine_above, machine, store.run),
            executor=GatewayExecutor(executor_above, executor, Form.EXACT),
            translate=Translator(lambda item: item, inbound_above.translate, inbound.translate),
            transports=(transport, data, control),
            settle=commits.settle,
            batch_max=BATCH_MAX,
        )

    def _part_above(self, receive: Received) -> tuple[AboveExecutor, NodeMachine, NodeInbound, SimTransport]:
        place, node, store = self._above, self._node.node, self.disk.node_store
        topics, key, manifest = place.topics, place.key(node), self.disk.store.manifest()
        assert manifest is not None  # noqa: S101 - the store has a version
        will = node_will(Writer(topics, key), node, store)
        transport = SimTransport(place.network, SessionSettings(client_id=node), receive, will=will)
        for topic_filter in topics.node_subscriptions(node):
            transport.subscribe(topic_filter)
        first = self.disk.store.model(ModelVersion(0)) if self.disk.store.head() == 0 else None
        setup = TrainingSetup(node=node, task=SiteTask(manifest, first), manifest=manifest)
        parts = NodeParts(
            setup=setup, store=store, trainer=_NoTrainer(), transport=transport, topics=topics, signer=key
        )
        executor = AboveExecutor(parts, self.disk.store.run, site_model(self.disk.store))
        recovered = executor.recovered()
        for one in (recovered, *recovered.hidden):
            place.witness.has(self.name, one.outbox)
        rng = self.surroundings.rng(f"{self.name}/{store.incarnation}").random
        machine = NodeMachine(self._node, store.incarnation, recovered, rng=rng, state_id=store.state_id)
        return executor, machine, NodeInbound(topics, node, place.keys), transport

    def _part_below(self, commits: GroupCommit, above: AboveExecutor, start: Start) -> tuple[SiteExecutor, SiteMachine]:
        store = self.disk.store
        recovered = store.recovered_site(recent=self._engine.max_staleness + 1)
        follower = Follower(store, recovered.head, CommitterSettings(), above.held_model)
        follower.repair(store)
        parts = ExecutorParts(
            store=store,
            committer=follower,
            control=commits.control,
            data=commits.data,
            topics=self._below.topics,
            now=self.clock.now,
            say=lambda _event, _fields: None,
            signer=self._below.key(None),
            passing=commits.passing,
            check=partial(check_update, sites=SiteClaims(self._engine.gateways, self._engine.num_examples_max)),
        )
        rng, selector = self.surroundings.rng(f"{self.name}/{store.epoch}").random, make_selector("uniform")
        recovered = replace(recovered, head=follower.head)
        machine = SiteMachine(self._engine, recovered, selector=selector, rng=rng, start=start)
        machine.go_on_away(self._members_max)
        return SiteExecutor(parts, store, self._engine.num_examples_max), machine

    def _leave(self, life: Life) -> None:
        """Its service manager starts it again where it asks for that."""
        super()._leave(life)
        if isinstance(life.executor, GatewayExecutor) and life.executor.stop_reason == LIFTED:
            self.gone = False
            self.surroundings.world.after(LIFT_S, self.start)

    def stop_request(self) -> object:
        """What a signal tells the process."""
        return StopRequested()

    def after(self, effect: Any, events: list[GatewayEvent]) -> None:
        """Watch what goes up, and how often the site goes on by itself."""
        if isinstance(effect.effect, FreezeSum | BindSum | SettleSum | ThawSum):
            self.disk.site.learned(lambda: None)
        if isinstance(effect.effect, SaveOutbox | SettleUpdate) and self.disk.site.pending:
            what = type(effect.effect).__name__
            self.surroundings.violations.append(f"T7: {what} of {self.name} before its site's store is on the disk")
        self.passes += isinstance(effect.effect, Note) and effect.effect.event == "site_goes_on"
        saved = [
            one.event.entry for one in events if isinstance(one, AboveEvent) and isinstance(one.event, OutboxSaved)
        ]
        self._above.witness.has(self.name, saved)


class _NoTrainer:
    """A gateway's node hands its training to the site."""

    def start(self, job: object) -> None:
        """Never asked."""

    def evaluate(self, job: object) -> None:
        """Never asked."""

    def stop(self, round_id: object) -> None:
        """Never asked."""

    def close(self, *, timeout_s: float) -> bool:
        """Nothing runs."""
        return timeout_s >= 0.0


def _tagging(receive: Received, side: Side) -> Received:
    """What one network says, marked with its side."""

    def tagged(event: object, acknowledge: Callable[[], None] | None = None) -> None:
        receive(from_side(side, event), acknowledge)

    return tagged
