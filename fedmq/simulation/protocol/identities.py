"""Identities that go backwards or exist twice, and the people who cause that and put it right again.

Each plan runs once in a federation, if at all: it waits until the run has come far enough, does what somebody does by
mistake or after a loss, waits a while, looks at who leads, and ends what is one too many. What is right then, the
checkers know: nothing that the line which leads has promised is lost or counted twice, and nobody else says anything.
"""

from collections.abc import Callable, Generator, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from federation.types import Epoch, NodeId, RunId
from fedmq.simulation.protocol.actors import Actor
from fedmq.simulation.protocol.lines import Copied, Line, Lines
from fedmq.simulation.protocol.node_actor import NodeActor
from fedmq.simulation.protocol.processes import Surroundings

__all__ = ["Identities", "People"]

LOOK_S = 5.0
"""How often somebody looks, in virtual seconds."""

LATE_S = 200.0
"""A version that has not come by then, or by a part of this, is not waited for."""

PATIENCE_S = 300.0
"""After so long somebody decides, whoever leads."""

HANG_S = (5.0, 300.0)
AWAY_S = (5.0, 120.0)
TOGETHER_S = (10.0, 200.0)
"""How long both of what should be one are left alone."""

SLOW_S = (0.0, 1.0, 30.0)
"""Longest time between a copy and its start: one of these."""

IN_ORDER = 0.5
ORDER_S = 30.0
"""Whoever is ended in order half of the times, and has not ended by then, is killed, in virtual seconds."""

AGAIN = 0.3
"""A restored run is lost again, and restored from the same file, with this probability."""

Plan = Iterator[float]
"""Gives the seconds until it goes on."""


@dataclass(slots=True, kw_only=True)
class Identities:
    """How often each has happened."""

    stale_copies: int = 0
    restores: int = 0
    second_runs: int = 0
    twins: int = 0
    restored_above: int = 0
    revived: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Whoever has to do with the machines of one federation.

    Attributes:
        surroundings: Time and faults.
        lines: The coordinators.
        nodes: All nodes, and whoever joins them.
        twin: Makes a node of a copy of another one's folder.
        folder: Where copies of nodes' folders go.
        counts: What has happened.
        expelled: Nodes that were shut out: nobody starts one of them again.
    """

    surroundings: Surroundings
    lines: Lines
    nodes: list[NodeActor]
    twin: Callable[[NodeActor, Path], NodeActor]
    folder: Path
    counts: Identities
    expelled: AbstractSet[NodeId] = frozenset()

    def begin(self, versions: int, faults_s: float) -> "_Work":
        """Plan everything that this federation's faults say, within its versions and the time of its faults."""
        work = _Work(self, versions, faults_s)
        work.begin()
        return work


class _Work:
    def __init__(self, people: People, versions: int, faults_s: float) -> None:
        self._people, self._lines, self._counts = people, people.lines, people.counts
        self._world, self._dice = people.surroundings.world, people.surroundings.dice
        self._rng = people.surroundings.rng("identities")
        self._versions, self._faults_s = versions, min(faults_s, LATE_S)
        self._open = 0
        self._watching = self._deciding = False

    @property
    def done(self) -> bool:
        """Whether all that was planned has happened, and is put right."""
        return self._open == 0

    def begin(self) -> None:
        """Plan what there is."""
        plan, rng = self._dice.plan, self._rng
        kinds = ((plan.stale_copy, self._copy), (plan.restore, self._restore), (plan.second_run, self._second_run))
        chosen = [work for share, work in kinds if share > 0.0 and rng.random() < share]
        rng.shuffle(chosen)
        if chosen:
            self._go(self._one_after_another(chosen))
        if plan.twin > 0.0 and rng.random() < plan.twin:
            self._go(self._twin())

    # --- time -------------------------------------------------------------------------------------------------------

    def _go(self, plan: Plan) -> None:
        self._open += 1
        self._next(plan)

    def _next(self, plan: Plan) -> None:
        wait_s = next(plan, None)
        if wait_s is None:
            self._open -= 1
        else:
            self._world.after(wait_s, partial(self._next, plan))

    def _one_after_another(self, works: list[Callable[[], Plan]]) -> Plan:
        self._watching = True
        self._world.after(LOOK_S, self._watch)
        for work in works:
            yield from self._until_some_version()
            if self._dice.active:
                self._deciding = True
                yield from work()
                self._deciding = False
                yield from self._pause(self._rng.uniform(0.0, 30.0))

    def _until_some_version(self) -> Plan:
        version = self._rng.randint(0, max(0, self._versions - 2))
        until = self._world.now + self._rng.uniform(0.2, 0.6) * self._faults_s
        while self._dice.active and self._lines.leading.checker.head < version and self._world.now < until:
            yield 0.5
        yield self._rng.uniform(0.0, 3.0)

    def _pause(self, seconds: float) -> Plan:
        """As long as there are faults; afterwards everything is put right soon."""
        until = self._world.now + seconds
        while self._dice.active and self._world.now < until:
            yield min(LOOK_S, until - self._world.now)

    # --- an older copy of the coordinator's folder --------------------------------------------------------------------

    def _copy(self) -> Plan:
        original = self._lines.leading
        copied = yield from self._copied(original)
        yield from self._pause(self._rng.uniform(0.0, self._rng.choice(SLOW_S)))
        self._counts.stale_copies += 1
        match self._rng.randrange(3):
            case 0:
                original.actor.freeze(self._rng.uniform(*HANG_S))
            case 1:
                original.actor.kill(self._rng.uniform(*AWAY_S))
            case _:
                pass
        copy = self._lines.on_copy(copied, original.actor.engine)
        copy.actor.start()
        yield from self._pause(self._rng.uniform(*TOGETHER_S))
        better = yield from self._who_leads(original, copy)
        yield from self._lead(better)

    def _who_leads(self, original: Line, copy: Line) -> Generator[float, None, Line]:
        """Somebody reads both logs; whoever has left or holds is the wrong one, and in doubt the copy is."""
        until = self._world.now + PATIENCE_S
        while self._world.now < until:
            if copy.actor.gone or copy.actor.holds():
                break
            if original.actor.gone or original.actor.holds():
                return copy
            yield LOOK_S
        return original

    # --- a lost disk, and a backup ------------------------------------------------------------------------------------

    def _restore(self) -> Plan:
        lost = self._lines.leading
        copied = yield from self._copied(lost)
        backup = self._lines.backed_up(copied)
        yield from self._pause(self._rng.uniform(0.0, self._rng.choice(SLOW_S)))
        again, above = self._rng.random() < AGAIN, Epoch(0)
        for _ in range(1 + again):
            lost.actor.end()
            yield from self._pause(self._rng.uniform(0.0, self._rng.choice((1.0, 60.0))))
            self._counts.restores += 1
            restored = self._lines.restored(backup, lost.actor.engine, above=above)
            yield from self._lead(restored)
            yield from self._pause(self._rng.uniform(*AWAY_S))
            lost, above = restored, restored.actor.disk.store.epoch

    # --- the coordinator of another run -------------------------------------------------------------------------------

    def _second_run(self) -> Plan:
        first, rng = self._lines.leading, self._rng
        run = RunId(f"{rng.getrandbits(64):016x}")
        engine = replace(first.actor.engine, replaces=rng.random() < 0.5)
        second = self._lines.another_run(run, engine)
        self._counts.second_runs += 1
        second.actor.start()
        yield from self._pause(rng.uniform(*TOGETHER_S))
        yield from self._lead(rng.choice((first, second)))

    # --- two nodes of one name ----------------------------------------------------------------------------------------

    def _twin(self) -> Plan:
        yield from self._until_some_version()
        there = [node for node in self._people.nodes if not node.gone]
        if not self._dice.active or not there:
            return
        node, copied = self._rng.choice(there), self._people.folder / "twin"
        node.disk.copy(copied)
        yield from self._pause(self._rng.uniform(0.0, self._rng.choice(SLOW_S)))
        if not self._people.expelled.isdisjoint(node.connections):
            return
        self._counts.twins += 1
        twin = self._people.twin(node, copied)
        twin.start()
        yield from self._pause(self._rng.uniform(*TOGETHER_S))
        both = [one for one in (node, twin) if not one.gone]
        if len(both) > 1:
            self._end(self._rng.choice(both))
        elif not both and self._people.expelled.isdisjoint(node.connections):
            twin.revive()

    # --- what people do -----------------------------------------------------------------------------------------------

    def _copied(self, line: Line) -> Generator[float, None, Copied]:
        while (copied := self._lines.copied(line)) is None:
            if line.actor.gone:  # nobody watches while somebody decides
                self._counts.revived += 1
                line.actor.revive()
            yield 0.5
        return copied

    def _lead(self, line: Line) -> Plan:
        """Whoever else coordinates is stopped; this one is started, unless it runs."""
        self._lines.leading = line
        for other in self._lines.all:
            if other is not line and not other.actor.gone:
                self._end(other.actor)
        if len({one.checker.run for one in self._lines.all}) > 1:
            line.actor.engine = replace(line.actor.engine, replaces=True)
        if not line.actor.alive:
            line.actor.revive()
        yield LOOK_S

    def _end(self, actor: Actor) -> None:
        """In order, where it still listens, or not; either way it does not come back."""
        if actor.alive and self._rng.random() < IN_ORDER:
            actor.terminate()
            self._world.after(ORDER_S, actor.end)
        else:
            actor.end()

    def _watch(self) -> None:
        """Whoever shall lead and has left is started again; if it is behind its nodes, it is restored above them."""
        self._world.after(LOOK_S, self._watch)
        line = self._lines.leading
        if self._deciding:
            return
        if line.actor.gone:
            self._counts.revived += 1
            line.actor.revive()
        elif known := line.actor.holds():
            copied = self._lines.copied(line)
            if copied is not None:
                self._counts.restored_above += 1
                line.actor.end()
                self._lines.leading = above = self._lines.restored(
                    copied, line.actor.engine, above=Epoch(known["epoch"])
                )
                above.actor.start()
