"""Nodes whose processes never end need no disks: the federation takes the same steps, to the byte."""

from dataclasses import replace

import pytest

from coordinator.engine.settings import FederatedEvaluationSettings
from federation.errors import LocalProtocolError
from federation.types import RunId, StateId
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.options import FleetOptions, fleet_scenario
from fedmq.simulation.protocol.scenario import Outcome, Scenario
from fedmq.simulation.world.faults import FaultPlan
from fedmq.simulation.world.volatile import VolatileNodeStore
from tests.rigs.node_values import entry, residual
from tests.rigs.small_federation import ENGINE, small_scenario

LOSSES = FaultPlan(drop=0.05, duplicate=0.1, reorder=0.1, disconnect=60.0, broker_crash=30.0, freeze=10.0, vanish=0.3)


def outcome(scenario: Scenario) -> Outcome:
    with quiet_log():
        simulation = Simulation(scenario)
        found = simulation.run()
    simulation.close()
    return found


@pytest.mark.parametrize("codec", ["lossless", "edge"])
@pytest.mark.parametrize("staleness", [0, 10])
def test_nodes_without_disks_take_the_same_steps(codec: str, staleness: int) -> None:
    engine = replace(
        ENGINE, codec_up=codec, max_staleness=staleness, federated_evaluation=FederatedEvaluationSettings(every=1)
    )
    scenario = small_scenario(engine=engine, faults=LOSSES, patience_s=7200.0)
    with_disks, without = outcome(scenario), outcome(replace(scenario, node_disks=False))
    assert with_disks.transcript == without.transcript
    assert without.violations == ()
    assert without.applied > 0


def test_a_fleet_has_disks_where_its_nodes_can_fail() -> None:
    def disks(faults: str) -> bool:
        return fleet_scenario(FleetOptions(nodes=10, faults=faults)).node_disks

    assert not disks("none")
    assert not disks("drop=0.1,vanish=0.1,coordinator_crash=0.1")
    assert all(disks(faults) for faults in ("mild", "node_crash=0.1", "failed_commit=0.1", "disk_full=1"))


def test_a_store_without_a_disk_is_about_one_run() -> None:
    store = VolatileNodeStore(StateId(5))
    first = entry(1)
    assert store.enter_run(first.offer.run) == ()
    store.save_outbox(first, b"frame", residual(1.0))
    with pytest.raises(LocalProtocolError, match="already"):
        store.save_outbox(first, b"frame", None)
    assert store.enter_run(RunId("b" * 16)) == (first.offer.run,)
    assert (store.outbox(), store.residual(), store.frame(first.offer.update)) == ((), None, None)
