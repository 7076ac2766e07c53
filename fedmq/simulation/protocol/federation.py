"""One simulated federation: built from a scenario, run to its last version, healed, drained and checked."""

import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from coordinator.global_model.committer import first_commit
from edge_node.training.worker import TrainingSetup
from federation.task import TaskContext
from federation.tasks.registry import load_task
from federation.types import NodeId, RunId, StateId
from fedmq.simulation.protocol.checker import Checker
from fedmq.simulation.protocol.coordinator_actor import CoordinatorActor
from fedmq.simulation.protocol.end_checks import held, left_in_store, missing_of_other_runs, replay
from fedmq.simulation.protocol.helper_actor import HelperActor, helper_key, pinned
from fedmq.simulation.protocol.identities import Identities, People
from fedmq.simulation.protocol.injector import Injector
from fedmq.simulation.protocol.lines import Lines, Model
from fedmq.simulation.protocol.masked_sums import SumsWitness
from fedmq.simulation.protocol.node_actor import NodeActor
from fedmq.simulation.protocol.processes import TOPICS, Place, Surroundings
from fedmq.simulation.protocol.scenario import MaskedPlan, Outcome, Scenario
from fedmq.simulation.protocol.witness import Witness
from fedmq.simulation.world.clock import World, quiet_log
from fedmq.simulation.world.disks import Disk, allow_disks
from fedmq.simulation.world.faults import Dice
from fedmq.simulation.world.garbage import rare_collections
from fedmq.simulation.world.keys import repeatable_boxes
from fedmq.simulation.world.network import SimNetwork
from fedmq.simulation.world.ram_folders import put_away, ram_folder
from fedmq.simulation.world.seals import SealWitness, repeatable_keys
from fedmq.simulation.world.stores import ObservedStore, coordinator_disk, helper_disk, node_disk
from fedmq.simulation.world.transcript import Transcript
from fedmq.simulation.world.volatile import NoDisk, VolatileNodeStore
from update_codec import Manifest

__all__ = ["Simulation", "quiet_log"]

RELEASE_S = 1200.0
"""By then a run that is over has given back what it held, also of nodes that are gone, in virtual seconds."""

DRAIN_STEP_S = 5.0
"""How often the end is looked for once the last version is there, in virtual seconds."""

START_SPREAD_S = 2.0

SPARE_DISKS = 12
"""For copies, restored runs and twins."""


class Simulation:
    """Builds the participants of a scenario and runs them.

    Args:
        scenario: What to simulate.
        store: The coordinator's; tests put a faulty one in.
        tail: Steps that the transcript keeps.
    """

    def __init__(
        self,
        scenario: Scenario,
        store: type[ObservedStore] = ObservedStore,
        *,
        tail: int = 400,
        disks: Callable[..., Disk[ObservedStore]] = coordinator_disk,
    ) -> None:
        self.scenario = scenario
        world, dice = World(), Dice(scenario.faults, f"{scenario.seed}/faults")
        self.transcript = Transcript(tail=tail)
        self.surroundings = Surroundings(world=world, dice=dice, transcript=self.transcript, seed=scenario.seed)
        self.world = world
        self.witness = Witness(self.surroundings.violations)
        self.network = SimNetwork(world, dice, self.transcript, scenario.broker)
        run = RunId(f"{scenario.seed:016x}"[-16:])
        self._model = self._first_version()
        plan = scenario.masked
        self.sums = None if plan is None else SumsWitness(self.surroundings.violations, plan, self._model.manifest)
        self.seals = self._at_the_broker()
        self._place = Place(
            surroundings=self.surroundings,
            network=self.network,
            topics=TOPICS,
            checker=Checker(self.surroundings.violations, scenario.engine, self.witness, run),
            witness=self.witness,
            signed=scenario.engine.signed,
            helpers=() if plan is None else pinned(plan),
            sums=self.sums,
            seals=self.seals,
            rotate_s=scenario.rotate_s,
        )
        allow_disks(1 + SPARE_DISKS + scenario.nodes * scenario.node_disks)
        self._folder = ram_folder()
        self._disks: list[Disk[Any]] = []
        self.close = weakref.finalize(self, put_away, self._folder, self._disks)
        self.lines = Lines(self._place, self._model, self._folder, self._disks.append, store, disks)
        self.lines.begin(scenario.engine, audit=scenario.audit, busy_s=scenario.busy_s)
        self.nodes = [self._node(index) for index in range(scenario.nodes)]
        self.helpers = [] if plan is None else [self._helper(plan, number) for number in range(len(plan.names))]
        for node, rate in zip(self.nodes, scenario.uplinks, strict=False):
            for client_id in node.connections:
                self.network.limit_uplink(client_id, rate)
        self.injector = Injector(self.surroundings, self.network, self.coordinator, self.nodes, self._needed())
        self.lines.hear_of(self.injector.join)
        for helper in self.helpers:
            self.injector.join(helper)
        self.people = People(
            surroundings=self.surroundings,
            lines=self.lines,
            nodes=self.nodes,
            twin=self._twin,
            folder=self._folder,
            counts=Identities(),
            expelled=self.witness.expelled,
        )
        self._healed_s = 0.0

    @property
    def coordinator(self) -> CoordinatorActor:
        """The one that leads."""
        return self.lines.leading.actor

    @property
    def checker(self) -> Checker:
        """Its ledger."""
        return self.lines.leading.checker

    @property
    def disk(self) -> Disk[ObservedStore]:
        """Its disk."""
        return self.coordinator.disk

    @property
    def store(self) -> ObservedStore:
        """Its store, as its newest process has it."""
        return self.disk.store

    def run(self, progress: Callable[[int], None] = lambda _version: None) -> Outcome:
        """Run to the end; ``progress`` hears each new version."""
        watched = nullcontext() if self.seals is None else self.seals.watching()
        with rare_collections(), repeatable_boxes(), repeatable_keys(self.surroundings.rng("sealing")), watched:
            return self._run(progress)

    def _run(self, progress: Callable[[int], None]) -> Outcome:
        began_s = time.perf_counter()
        scenario, world = self.scenario, self.world
        rng = self.surroundings.rng("start")
        world.at(0.0, self.coordinator.start)
        for node in self.nodes:
            world.at(rng.uniform(0.0, START_SPREAD_S), node.start)
        for helper in self.helpers:
            world.at(rng.uniform(0.0, START_SPREAD_S), helper.start)
        if scenario.masked is not None and scenario.masked.gone is not None:
            leaves = partial(self.helpers[scenario.masked.gone].leave, self._helpers_are_known)
            world.at(scenario.masked.gone_s, leaves)
        self.injector.begin()
        if self.scenario.revoked_s is not None:
            world.at(self.scenario.revoked_s, self._revoke)
        self._work = self.people.begin(scenario.engine.versions, scenario.faults_s)
        for version in range(1, scenario.engine.versions + 1):
            reached = world.run(partial(self._reached, version), limit_s=scenario.faults_s)
            if not reached or self.checker.ended_early:
                break
            progress(version)
            self._check_caps()
        world.run(lambda: self._work.done, limit_s=scenario.faults_s)
        self._finish(progress)
        return self._with_privacy(self._outcome(time.perf_counter() - began_s))

    def _revoke(self) -> None:
        """The last node is shut out, and its device is in other hands."""
        node = self.nodes[self.scenario.nodes - 1]
        if self.seals is not None and node.alive and not node.gone:
            self.seals.shut_out(NodeId(node.name), node.sealing)
            self.witness.expelled.add(NodeId(node.name))
            for one in self.nodes:
                if one.connections == node.connections:
                    one.end()

    def _helpers_are_known(self) -> bool:
        return all(node.knows_helpers for node in self.nodes)

    def _reached(self, version: int) -> bool:
        return self.checker.head >= version or self.checker.ended_early

    def _finish(self, progress: Callable[[int], None]) -> None:
        """End the faults, wait for the rest, and compare everything."""
        scenario, world = self.scenario, self.world
        world.now = max(world.now, min(scenario.faults_s, world.now))
        self.injector.heal()
        self._healed_s = world.now
        limit_s = horizon_s = world.now
        limit_s += scenario.patience_s
        while horizon_s < limit_s and not self._drained():
            horizon_s += DRAIN_STEP_S
            world.run(lambda: False, limit_s=horizon_s)
            progress(self.checker.head)
        limit_s = world.now + RELEASE_S
        while horizon_s < limit_s and self._held():
            horizon_s += DRAIN_STEP_S
            world.run(lambda: False, limit_s=horizon_s)
        self._check_end()

    def _drained(self) -> bool:
        machine = self.coordinator.machine
        if not self._work.done or not self._over() or machine is None:
            return False
        # Its disk has refused something: what the last version needs may still be to come.
        if self.checker.surveys.open or machine.snapshot()["paused"]:
            return False
        return not self.checker.unsettled(self._lost()) and not any(node.outbox for node in self.nodes if not node.gone)

    def _over(self) -> bool:
        """Whether no version follows; once it has said that it ends early, a coordinator may still forget it."""
        machine = self.coordinator.machine
        early = self.checker.ended_early and machine is not None and machine.snapshot()["finished"]
        return early or self.checker.head >= self.scenario.engine.versions

    def _held(self) -> list[str]:
        machine = self.coordinator.machine
        there = sum(node.alive and self.network.connected(node.connections[0]) for node in self.nodes)
        # A birth that a full queue has dropped, or that an older death has overtaken, is heard at the next connection.
        plan, dropped = self.scenario.faults, self.network.broker.dropped.keys() & set(self.coordinator.connections)
        if dropped or (plan.reorder > 0.0 and not plan.silent):
            there = 0
        return [] if machine is None else held(machine.snapshot(), there)

    def _needed(self) -> int:
        engine = self.scenario.engine
        return max(1, engine.quorum, engine.nodes_min)

    def _lost(self) -> frozenset[str]:
        return frozenset(node.name for node in self.nodes if node.gone)

    def _check_caps(self) -> None:
        machine = self.coordinator.machine
        if machine is not None:
            self.checker.caps(machine.snapshot())

    def _check_end(self) -> None:
        violations, engine = self.surroundings.violations, self.scenario.engine
        if not self._over():
            waits = None if self.coordinator.machine is None else self.coordinator.machine.snapshot()
            text = f"I6: {self.scenario.patience_s:.0f} s after the faults the head is {self.checker.head}, not"
            violations.append(f"{text} {engine.versions}; the coordinator: {waits}")
        violations.extend(self._held())
        if self.disk.opened:
            self._check_store()
        else:
            violations.append("I6: the coordinator cannot open its store any more")
        for node in self.nodes:
            if not node.gone and node.outbox:
                snapshot = None if node.machine is None else node.machine.snapshot()
                violations.append(f"I6: {node.name} still has {node.outbox} updates in its outbox: {snapshot}")
            self.checker.outbox(NodeId(node.name), node.outbox, self.scenario.node.outbox_max)

    def _check_store(self) -> None:
        self.surroundings.violations.extend(left_in_store(self.disk.arriving(), self.store))
        self.checker.close(self.store, self._lost())
        others = (line.checker for line in self.lines.all if line.checker.run != self.checker.run)
        self.surroundings.violations.extend(missing_of_other_runs(others, self.nodes))
        if self._over():
            self.checker.ended(self.store)
        if self.sums is not None:
            violations = self.sums.close(self.store, self.checker.head, audit=self.scenario.audit)
            self.surroundings.violations.extend(violations)
        if self.scenario.audit:
            noised = self.checker.accounts.made
            again = replay(self.store, self._model.first, self.scenario.committer, self.scenario.seed, noised)
            self.surroundings.violations.extend(again)

    # --- building ---------------------------------------------------------------------------------------------------

    def _at_the_broker(self) -> SealWitness | None:
        """Reads what passes, where it is sealed."""
        if not self.scenario.engine.sealed:
            return None
        names = [NodeId(f"node-{index}") for index in range(self.scenario.nodes)]
        seals = SealWitness(self.surroundings.violations, TOPICS, names)
        self.network.sees = seals.sees
        return seals

    def _first_version(self) -> Model:
        scenario = self.scenario
        self._task = load_task(scenario.task)
        task = self._task(TaskContext(node_index=None, node_count=scenario.nodes, data=None, device="cpu", seed=0))
        arrays = dict(task.initial_parameters(scenario.seed))
        manifest = Manifest.of(arrays, task.roles())
        first = first_commit(manifest.flatten(arrays), manifest, scenario.committer.downlink, seed=scenario.seed)
        return Model(manifest=manifest, first=first, committer=scenario.committer)

    def _node(self, index: int, twin: tuple[str, Path] | None = None) -> NodeActor:
        """Make a node, or the twin of one: its name for the transcript, and what it finds."""
        scenario, node = self.scenario, NodeId(f"node-{index}")
        name, content = (str(node), None) if twin is None else twin
        context = TaskContext(node_index=index, node_count=scenario.nodes, data=None, device="cpu", seed=0)
        setup = TrainingSetup(node=node, task=self._task(context), manifest=self._model.manifest)
        engine = scenario.engine
        settings = replace(scenario.node, node=node, task=engine.task, signed=engine.signed)
        rng = self.surroundings.rng(f"{name}/state")

        def draw() -> StateId:
            return StateId(1 + rng.getrandbits(63))

        on_disk = scenario.node_disks
        disk = node_disk(self._folder / name, draw, content) if on_disk else NoDisk(VolatileNodeStore(draw()))
        self._disks.append(disk)
        return NodeActor(self._place, disk, setup, settings, scenario.stragglers, name=name)

    def _helper(self, plan: MaskedPlan, number: int) -> HelperActor:
        name, names = plan.names[number], frozenset(NodeId(node.name) for node in self.nodes)
        disk = helper_disk(self._folder / name, self.surroundings.rng(f"{name}/state").randbytes)
        self._disks.append(disk)
        return HelperActor(self._place, disk, name, key=helper_key(number), plan=plan, nodes=names)

    def _twin(self, of: NodeActor, content: Path) -> NodeActor:
        index = self.nodes.index(of)
        twin = self._node(index, (f"twin-of-{of.name}", content))
        self.nodes.append(twin)
        self.injector.join(twin)
        return twin

    # --- the result -------------------------------------------------------------------------------------------------

    def _outcome(self, wall_s: float) -> Outcome:
        counts, checker, identities = self.network.counts, self.checker, self.witness.identities
        actors = [line.actor for line in self.lines.all]
        return Outcome(
            seed=self.scenario.seed,
            versions=checker.head,
            virtual_s=round(self.world.now, 6),
            recovery_s=round(self.world.now - self._healed_s, 6),
            messages=counts.messages,
            payload_bytes=counts.bytes,
            updates=self.witness.updates,
            applied=checker.verdicts["applied"],
            stale=checker.verdicts["stale"],
            refused=checker.verdicts["refused"],
            staleness=dict(sorted(checker.staleness.items())),
            reasons=dict(sorted(checker.reasons.items())),
            coordinator_crashes=sum(actor.crashes for actor in actors),
            node_crashes=sum(node.crashes for node in self.nodes),
            coordinator_power_cuts=sum(actor.power_cuts for actor in actors),
            node_power_cuts=sum(node.power_cuts for node in self.nodes),
            failed_syncs=sum(disk.failures for disk in self._disks),
            wiped_nodes=sum(node.wipes for node in self.nodes),
            bad_updates=self.witness.bad_updates,
            stale_copies=self.people.counts.stale_copies,
            restores=self.people.counts.restores,
            second_runs=self.people.counts.second_runs,
            twins=self.people.counts.twins,
            held=identities["held"],
            fenced=identities["fenced"],
            gave_way=identities["other_run"] + identities["replaced"],
            twins_given_up=sum(actor.gave_up for actor in (*actors, *self.nodes)),
            restored_above=self.people.counts.restored_above,
            told_by_others=checker.told_by_others(self._lost()),
            ended_early=int(checker.head < self.scenario.engine.versions and checker.ended_early),
            broker_crashes=self.injector.broker_crashes,
            cuts=counts.cuts,
            full_disks=self.injector.full_disks,
            stopped_processes=self.injector.stopped,
            dropped=counts.dropped,
            duplicated=counts.duplicated,
            reordered=counts.reordered,
            leases_expired=checker.heard_events["lease_expired"],
            evaluations=checker.surveys.results,
            evaluated_nodes=checker.surveys.counted,
            wall_s=wall_s,
            transcript=self.transcript.digest(),
            violations=tuple(self.surroundings.violations),
        )

    def _with_privacy(self, outcome: Outcome) -> Outcome:
        """With what became of sealing, of noise and of masked sums, where there were some."""
        noised = {secret for line in self.lines.all for _, secret in line.checker.accounts.made.values()}
        outcome = replace(outcome, noised=len(noised))
        if self.seals is not None:
            seals = self.seals
            outcome = replace(outcome, sealed_words=seals.sealed, rotated_keys=seals.rotated, shut_out=seals.renewed)
        if self.sums is None:
            return outcome
        return replace(
            outcome,
            masked=True,
            helper_crashes=sum(helper.crashes for helper in self.helpers),
            wiped_helpers=sum(helper.wipes for helper in self.helpers),
            sums=self.sums.sums,
            dropped_batches=self.checker.batches.dropped,
        )
