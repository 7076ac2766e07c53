"""Sealing under faults: the broker reads nothing, keys change, and who is shut out reads nothing that comes later."""

from dataclasses import replace
from typing import Any

import pytest

from coordinator.runtime import sealing
from federation.storage.sealing_keys import Group
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.scenario import Outcome, Scenario
from fedmq.simulation.world.faults import FaultPlan
from tests.rigs import repetitions
from tests.rigs.small_federation import ENGINE, small_scenario, unsaid

SEALED = replace(ENGINE, signed=True, sealed=True, versions=10, interval_min_s=20.0, max_staleness=3)
FAULTS = FaultPlan(
    drop=0.05,
    duplicate=0.05,
    reorder=0.05,
    node_crash=0.02,
    coordinator_crash=0.02,
    disconnect=60.0,
    broker_crash=20.0,
    disk_full=10.0,
    wipe=0.2,
)


def scenario(seed: int, **changes: Any) -> Scenario:
    """Five nodes, of which the last one is shut out; the coordinator takes another key each two minutes."""
    chunk_bytes = (64, 61_440)[seed % 2]
    made = small_scenario(seed, engine=SEALED, faults=FAULTS, revoked_s=70.0 + 10.0 * seed, faults_s=400.0)
    return replace(made, node=replace(made.node, chunk_bytes=chunk_bytes), **changes)


def ran(made: Scenario) -> tuple[Outcome, Simulation]:
    with quiet_log():
        simulation = Simulation(made)
        outcome = simulation.run()
        simulation.close()
    return outcome, simulation


# Of seeds in which the node that is to be shut out is there at that time.
@pytest.mark.parametrize("seed", repetitions.of((0, 1, 3, 4), few=(0, 1)))
def test_nothing_readable_leaves_and_the_run_goes_on(seed: int) -> None:
    outcome, simulation = ran(scenario(seed))
    assert outcome.violations == ()
    assert simulation.seals is not None
    assert simulation.seals.sealed > 50
    assert simulation.seals.renewed >= 1, "somebody was shut out, and there is another group key"
    assert simulation.seals.rotated >= 1


def test_two_runs_of_a_seed_have_the_same_bytes() -> None:
    first, second = ran(scenario(1))[0], ran(scenario(1))[0]
    assert first.transcript == second.transcript


BROKEN = {
    "reads a chunk": ("edge_node.runtime.sealing.NodeSealing.chunk", lambda _self, _offer, _size, _index, body: body),
    "reads a Receipt": ("coordinator.runtime.sealing.CoordinatorSealing.sealed", lambda _self, _topic, said: said),
    "is wrapped for node-4": (
        "coordinator.runtime.sealing.CoordinatorSealing.forget",
        lambda _self, _node: None,
    ),
}


@pytest.mark.parametrize("told", BROKEN)
def test_the_witness_finds_what_must_not_be(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BROKEN[told])
    assert not unsaid([told], (scenario(seed, faults=FaultPlan()) for seed in (0, 2)))


def test_a_group_key_that_stays_the_same_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number is another one, and what it opens is not."""
    make = sealing.CoordinatorSealing._new_group

    def same(self: sealing.CoordinatorSealing) -> Group:
        made, groups = make(self), self._keys.groups
        return made.model_copy(update={"secret": groups[-1].secret}) if groups else made

    monkeypatch.setattr(sealing.CoordinatorSealing, "_new_group", same)
    assert not unsaid(["which was shut out after version"], (scenario(seed, faults=FaultPlan()) for seed in (0, 2)))
