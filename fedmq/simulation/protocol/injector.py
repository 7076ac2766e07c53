"""Brings the faults of a plan that happen by the hour, and ends all of them at once."""

from collections.abc import Callable, Sequence
from functools import partial

from fedmq.simulation.protocol.actors import Actor
from fedmq.simulation.protocol.node_actor import NodeActor
from fedmq.simulation.protocol.processes import Place, Surroundings
from fedmq.simulation.world.network import SimNetwork

__all__ = ["Injector", "Movers"]

BROKER_DOWN_S = (5.0, 60.0, 600.0)
"""Longest absence of a killed broker: one of these."""
SAVES_PER_CRASH = 3.0
REWIND = 0.3
"""A killed broker comes back with what it saved before with this probability."""
FROZEN_S = 180.0
STOPPED_S = 300.0
DISK_FULL_S = 60.0
MOVE_S = (0.5, 5.0)
"""How long a node takes to another site, in seconds."""
HEAL_SPREAD_S = 15.0
"""When the faults end, every connection is lost once within this time: until then a silent loss may go unnoticed."""


class Injector:
    """Plans each kind of fault as a Poisson process.

    Args:
        surroundings: Time and dice.
        network: The broker and the links.
        coordinator: One participant.
        nodes: The others.
        keep: So many nodes do not vanish: without a quorum there would be nothing to wait for.

    Attributes:
        broker_crashes: So many.
        full_disks: So many times without space.
        stopped: Processes that were stopped and went on.
    """

    def __init__(
        self, surroundings: Surroundings, network: SimNetwork, coordinator: Actor, nodes: Sequence[Actor], keep: int
    ) -> None:
        self._world, self._dice, self._network = surroundings.world, surroundings.dice, network
        self._transcript = surroundings.transcript
        self._nodes, self._keep = nodes, keep
        self._actors: tuple[Actor, ...] = (coordinator, *nodes)
        self.broker_crashes = self.full_disks = self.stopped = 0

    def join(self, actor: Actor) -> None:
        """From now on it has its share of the faults."""
        self._actors += (actor,)

    def begin(self) -> None:
        """Plan the first fault of each kind."""
        plan, clients = self._dice.plan, len(self._nodes) + 2
        self._repeat(plan.disconnect * clients, self._cut)
        self._repeat(plan.partition * clients, self._freeze)
        self._repeat(plan.broker_crash, self._crash_broker)
        self._repeat(plan.broker_crash * SAVES_PER_CRASH, self._network.save)
        self._repeat(plan.freeze * (len(self._nodes) + 1), self._stop)
        self._repeat(plan.disk_full * (len(self._nodes) + 1), self._fill_disk)
        for node in self._nodes[self._keep :]:
            if self._dice.happens(plan.vanish):
                self._world.after(self._dice.rng.uniform(0.0, 600.0), partial(self._vanish, node))

    def heal(self) -> None:
        """End all faults: space on the disks, links that work, everybody started, every connection made anew."""
        self._dice.heal()
        self._transcript.note(self._world.now, "world", "the faults are over")
        self._network.thaw()
        for actor in self._actors:
            actor.set_full(full=False)
            actor.thaw()
        if self._dice.plan.silent:
            self._reconnect_all()

    def _reconnect_all(self) -> None:
        for actor in self._actors:
            for connection in actor.connections:
                delay_s = self._dice.rng.uniform(0.0, HEAL_SPREAD_S)
                self._world.after(delay_s, partial(self._network.cut, connection))

    def _repeat(self, rate_per_hour: float, fault: Callable[[], None]) -> None:
        wait_s = self._dice.until_next(rate_per_hour)
        if wait_s is not None:
            self._world.after(wait_s, partial(self._strike, rate_per_hour, fault))

    def _strike(self, rate_per_hour: float, fault: Callable[[], None]) -> None:
        if self._dice.active:
            fault()
            self._repeat(rate_per_hour, fault)

    # --- the faults -------------------------------------------------------------------------------------------------

    def _connection(self) -> str:
        rng = self._dice.rng
        return rng.choice(rng.choice(self._actors).connections)

    def _cut(self) -> None:
        self._network.cut(self._connection())

    def _freeze(self) -> None:
        rng = self._dice.rng
        up, down = rng.choice(((True, True), (True, False), (False, True)))
        self._network.freeze(self._connection(), rng.uniform(1.0, FROZEN_S), up=up, down=down)

    def _crash_broker(self) -> None:
        rng = self._dice.rng
        wipe_sessions, wipe_retained = rng.random() < 0.5, rng.random() < 0.5
        rewind, down_s = rng.random() < REWIND, rng.uniform(0.5, rng.choice(BROKER_DOWN_S))
        self.broker_crashes += 1
        self._network.crash(down_s, wipe_sessions=wipe_sessions, wipe_retained=wipe_retained, rewind=rewind)

    def _stop(self) -> None:
        rng = self._dice.rng
        actor, seconds = rng.choice(self._actors), rng.uniform(1.0, STOPPED_S)
        if actor.freeze(seconds):
            self.stopped += 1
            for connection in actor.connections:
                self._network.freeze(connection, seconds, up=True, down=True)

    def _fill_disk(self) -> None:
        rng = self._dice.rng
        actor = rng.choice(self._actors)
        self.full_disks += 1
        self._set_full(actor, full=True)
        self._world.after(rng.uniform(1.0, DISK_FULL_S), partial(self._set_full, actor, full=False))

    def _set_full(self, actor: Actor, *, full: bool) -> None:
        self._transcript.note(self._world.now, actor.name, "disk full" if full else "disk has space")
        actor.set_full(full=full)

    def _vanish(self, node: Actor) -> None:
        if self._dice.active:
            node.kill(None)
            node.gone = True


class Movers:
    """Nodes that move to another site with all that is on their disks, and go home at the end.

    Attributes:
        moves: How often.
    """

    def __init__(self, surroundings: Surroundings, nodes: Sequence[NodeActor], places: Sequence[Place]) -> None:
        self._world, self._rng = surroundings.world, surroundings.rng("moves")
        self._nodes, self._places = nodes, places
        self._home = {node.name: node.place for node in nodes}
        self._active, self.moves = True, 0

    def begin(self, per_hour: float) -> None:
        """Plan the first move."""
        if per_hour > 0:
            self._world.after(self._rng.expovariate(per_hour / 3600.0), partial(self._strike, per_hour))

    def end(self) -> None:
        """Everybody goes home."""
        self._active = False
        for node in self._nodes:
            if node.place is not self._home[node.name]:
                self._move(node, self._home[node.name])

    def _strike(self, per_hour: float) -> None:
        if self._active:
            node = self._rng.choice(self._nodes)
            self._move(node, self._rng.choice([place for place in self._places if place is not node.place]))
            self.moves += 1
            self.begin(per_hour)

    def _move(self, node: NodeActor, place: Place) -> None:
        node.move(place)
        node.kill(self._rng.uniform(*MOVE_S))
