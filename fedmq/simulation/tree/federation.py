"""A whole tree in virtual time: a coordinator, gateways that are killed, and their sites; checked at the end.

Rules beside those of any federation (`fedmq.simulation.protocol.checker`, which watches the coordinator above):

- T1 a sum in a version has exactly its members' examples, and each update below is in one sum at most
- T2 an update that is told to be in a version is in that version's sum
- T3 every version has the bits that a flat federation of the same updates has
- T6 an update counts at one site, a node at one site in a version, and nobody is given back what counts at another site
- T4 once the faults are over the last version comes, and no update waits for a verdict: none is lost
- T5 no sum has more members than its gateway may have, however often its site went on while it was away
- T7 what the node above keeps and forgets of a sum is on the disk of the site first: no power cut parts them
"""

import shutil
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coordinator.engine.settings import EngineSettings, FederatedEvaluationSettings
from coordinator.global_model.committer import first_commit
from edge_node.training.worker import TrainingSetup
from federation.protocol.messages import Reason, ReceiptStatus
from federation.task import TaskContext
from federation.tasks.registry import load_task
from federation.testing import BrokerSettings
from federation.types import NodeId, RunId, StateId
from fedmq.simulation.protocol.checker import Checker
from fedmq.simulation.protocol.federation import quiet_log
from fedmq.simulation.protocol.injector import Injector, Movers
from fedmq.simulation.protocol.lines import Lines, Model
from fedmq.simulation.protocol.node_actor import NodeActor
from fedmq.simulation.protocol.processes import TOPICS, Place, Surroundings
from fedmq.simulation.protocol.witness import Witness
from fedmq.simulation.tree.gateway_actor import GatewayActor
from fedmq.simulation.tree.gateway_disk import GatewayDisk
from fedmq.simulation.tree.scenario import TreeOutcome, TreeScenario, gateway_name, random_tree
from fedmq.simulation.world.clock import World
from fedmq.simulation.world.disks import allow_disks
from fedmq.simulation.world.faults import Dice
from fedmq.simulation.world.garbage import rare_collections
from fedmq.simulation.world.network import SimNetwork
from fedmq.simulation.world.ram_folders import put_away, ram_folder
from fedmq.simulation.world.stores import node_disk
from fedmq.simulation.world.transcript import Transcript
from fedmq.sites import Sites
from update_codec import Manifest

__all__ = ["TreeSimulation", "run_tree"]

FAULTS_S = 300.0
PATIENCE_S = 7_200.0
STEP_S = 5.0
START_SPREAD_S = 2.0


@dataclass(slots=True)
class _Client:
    """One side of a gateway, as that side's injector knows it."""

    actor: GatewayActor
    connections: tuple[str, ...]

    def set_full(self, *, full: bool) -> None:
        """Its disks are never full here."""
        del full

    def thaw(self) -> None:
        """Go on at once."""
        self.actor.thaw()

    def freeze(self, seconds: float) -> bool:
        """Stop it for a time."""
        return self.actor.freeze(seconds)


class TreeSimulation:
    """Builds the participants of a tree and runs them.

    Args:
        scenario: What to simulate.
    """

    def __init__(self, scenario: TreeScenario) -> None:
        self.scenario = scenario
        self.world, dice = World(), Dice(scenario.faults, f"{scenario.seed}/faults")
        self.transcript = Transcript(tail=200)
        self.surroundings = Surroundings(world=self.world, dice=dice, transcript=self.transcript, seed=scenario.seed)
        self._run = RunId(f"{scenario.seed:016x}"[-16:])
        self._task = load_task(scenario.task)
        self._model = self._first_version()
        self._disks: list[Any] = []
        allow_disks(2 + 2 * len(scenario.sites) + scenario.nodes)
        self._folder = ram_folder()
        self.close = weakref.finalize(self, put_away, self._folder, self._disks)
        engine = replace(scenario.engine, gateways=scenario.caps(None))
        self._above = self._place(engine)
        self.lines = Lines(self._above, self._model, self._folder, self._disks.append)
        self.lines.begin(engine, audit=True, busy_s=0.0)
        sites = range(len(scenario.sites))
        places = [self._place(self._engine(site)) for site in sites]
        self.gateways = [self._add_gateway(site, places) for site in sites]
        self.nodes: list[NodeActor] = []
        self._injectors: list[Injector] = []
        for site, place in enumerate(places):
            self._populate(site, place)
        self._movers = Movers(self.surroundings, self.nodes, places)
        coordinator, clients = self.lines.leading.actor, self._clients(None)
        above = Injector(self.surroundings, self._above.network, coordinator, clients, len(clients))
        self._injectors.append(above)

    @property
    def checker(self) -> Checker:
        """The ledger of the coordinator above."""
        return self.lines.leading.checker

    def run(self) -> TreeOutcome:
        """Run to the end, and compare everything."""
        rng, engine = self.surroundings.rng("start"), self.scenario.engine
        with rare_collections():
            for actor in (self.lines.leading.actor, *self.gateways, *self.nodes):
                self.world.at(rng.uniform(0.0, START_SPREAD_S), actor.start)
            for injector in self._injectors:
                injector.begin()
            self._movers.begin(self.scenario.moves)
            self.world.run(lambda: self.checker.head >= engine.versions, limit_s=FAULTS_S)
            for injector in self._injectors:
                injector.heal()
            self._movers.end()
            limit_s = horizon_s = max(self.world.now, 0.0)
            limit_s += PATIENCE_S
            while horizon_s < limit_s and not self._drained():
                horizon_s += STEP_S
                self.world.run(lambda: False, limit_s=horizon_s)
            return self._outcome()

    # --- building ---------------------------------------------------------------------------------------------------

    def _first_version(self) -> Model:
        scenario = self.scenario
        task = self._task(TaskContext(node_index=None, node_count=1, data=None, device="cpu", seed=0))
        arrays = dict(task.initial_parameters(scenario.seed))
        manifest = Manifest.of(arrays, task.roles())
        first = first_commit(manifest.flatten(arrays), manifest, scenario.committer.downlink, seed=scenario.seed)
        return Model(manifest=manifest, first=first, committer=scenario.committer)

    def _place(self, engine: EngineSettings) -> Place:
        """A network of its own, with whoever watches what happens there."""
        surroundings = self.surroundings
        witness = Witness(surroundings.violations)
        return Place(
            surroundings=surroundings,
            network=SimNetwork(self.world, surroundings.dice, self.transcript, BrokerSettings()),
            topics=TOPICS,
            checker=Checker(surroundings.violations, engine, witness, self._run),
            witness=witness,
        )

    def _engine(self, site: int) -> EngineSettings:
        """The engine of a site's gateway: there is time for the way up through all levels."""
        scenario, depth = self.scenario, self.scenario.depth(site)
        caps = scenario.caps(site)
        count, lease_s = scenario.sites[site].nodes + len(caps), scenario.engine.lease_s / 2 ** (depth + 1)
        return replace(
            scenario.engine,
            versions=0,
            concurrency=count,
            buffer=count,
            refill=count,
            quorum=1,
            nodes_min=1,
            lease_s=lease_s,
            max_wait_s=lease_s / 2,
            max_staleness=0,
            gateways=caps,
            federated_evaluation=FederatedEvaluationSettings(),
        )

    def _add_gateway(self, site: int, places: Sequence[Place]) -> GatewayActor:
        scenario, name, place = self.scenario, gateway_name(site), places[site]
        rng = self.surroundings.rng(f"{name}/state")
        disk = GatewayDisk(
            self._folder / name,
            name,
            self._run,
            (self._model.manifest, self._model.first),
            lambda: StateId(1 + rng.getrandbits(63)),
        )
        self._disks.append(disk)
        settings = replace(scenario.node, node=name)
        one = scenario.sites[site]
        above = self._above if one.parent is None else places[one.parent]
        crash = scenario.faults.node_crash
        return GatewayActor(above, place, disk, settings, self._engine(site), crash=crash, members_max=one.members_max)

    def _populate(self, site: int, place: Place) -> None:
        """The nodes of a site, and what befalls it."""
        one = self.scenario.sites[site]
        nodes = [self._node(place, site, index) for index in range(one.nodes)]
        self.nodes += nodes
        client: Any = _Client(self.gateways[site], self.gateways[site].connections_below)
        below: list[Any] = [*nodes, *self._clients(site)]
        self._injectors.append(Injector(self.surroundings, place.network, client, below, len(below)))

    def _clients(self, site: int | None) -> list[Any]:
        """The gateways that are nodes of a site; None is the coordinator's."""
        sites = enumerate(self.scenario.sites)
        gateways = [self.gateways[index] for index, one in sites if one.parent == site]
        return [_Client(gateway, gateway.connections) for gateway in gateways]

    def _node(self, place: Place, site: int, index: int) -> NodeActor:
        scenario, node = self.scenario, NodeId(f"node-{site}-{index}")
        context = TaskContext(
            node_index=len(self.nodes) + index, node_count=scenario.nodes, data=None, device="cpu", seed=0
        )
        setup = TrainingSetup(node=node, task=self._task(context), manifest=self._model.manifest)
        rng = self.surroundings.rng(f"{node}/state")
        disk = node_disk(self._folder / node, lambda: StateId(1 + rng.getrandbits(63)))
        self._disks.append(disk)
        return NodeActor(place, disk, setup, replace(scenario.node, node=node), scenario.stragglers)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _drained(self) -> bool:
        if self.checker.head < self.scenario.engine.versions:
            return False
        return not any(node.outbox for node in self.nodes) and not any(map(self._owes, self.gateways))

    def _owes(self, gateway: GatewayActor) -> bool:
        return bool(gateway.disk.store.frozen() or gateway.disk.node_store.outbox())

    def _outcome(self) -> TreeOutcome:
        said = self.surroundings.violations
        engine = self.scenario.engine
        if self.checker.head < engine.versions:
            said.append(f"T4: the head is {self.checker.head}, not {engine.versions}")
        for node in self.nodes:
            if node.outbox:
                said.append(
                    f"T4: {node.name} has no verdict on {[one.offer.update for one in node.disk.store.outbox()]}"
                )
        counts, late = dict.fromkeys(ReceiptStatus, 0), 0
        for gateway in self.gateways:
            if self._owes(gateway):
                said.append(
                    f"T4: {gateway.name} has no verdict on {[one.update for one in gateway.disk.store.frozen()]}"
                )
            for row in gateway.disk.store.updates():
                counts[row.verdict.status] += 1
                late += row.verdict.status is ReceiptStatus.APPLIED and row.staleness > 0
                if row.verdict.reason is Reason.NOT_ASSIGNED and not self.scenario.moves:
                    said.append(f"T5: {row.record.update} of {gateway.name} was in a sum of too many")
                if row.verdict.status is ReceiptStatus.STORED:
                    said.append(f"T4: {row.record.update} of {gateway.name} waits for ever")
        self._compare(said)
        return TreeOutcome(
            seed=self.scenario.seed,
            versions=self.checker.head,
            gateway_crashes=sum(one.crashes for one in self.gateways),
            coordinator_crashes=sum(line.actor.crashes for line in self.lines.all),
            node_crashes=sum(node.crashes for node in self.nodes),
            applied=counts[ReceiptStatus.APPLIED],
            given_back=counts[ReceiptStatus.STALE] + counts[ReceiptStatus.REFUSED],
            late=late,
            passes=sum(one.passes for one in self.gateways),
            moves=self._movers.moves,
            levels=self.scenario.levels,
            power_cuts=sum(one.power_cuts for one in self.gateways),
            evaluated=self.checker.surveys.counted,
            transcript=self.transcript.digest(),
            violations=tuple(said),
        )

    def _compare(self, said: list[str]) -> None:
        """Hold the stores against each other, and all versions against those of a flat federation."""
        root = self._copied("root", self.lines.leading.actor.disk.path)
        folders = [self._copied(gateway.name, gateway.disk.path) for gateway in self.gateways]
        with Sites(root, folders) as sites:
            said += [f"T1, T2, T6: {problem}" for problem in sites.problems()]
            for one in sites.compare(self._model.first.model, self.scenario.committer):
                if not one.same:
                    said.append(f"T3: version {one.version} has other bits than its {one.members} updates make")

    def _copied(self, name: str, folder: Path) -> Path:
        copied = self._folder / f"copy-{name}"
        shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("lock"))
        return copied


def run_tree(seed: int) -> tuple[TreeOutcome, list[str]]:
    """Run one seed; the transcript's tail comes with a violation only."""
    with quiet_log():
        simulation = TreeSimulation(random_tree(seed))
        outcome = simulation.run()
    tail = list(simulation.transcript.tail()) if outcome.violations else []
    simulation.close()
    return outcome, tail
