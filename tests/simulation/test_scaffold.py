"""SCAFFOLD's control variates add up, to the bit, after loss, duplicates, crashes, partitions and full disks."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.strategies.strategy import StrategySettings, make_strategy
from federation.protocol.messages import ReceiptStatus
from fedmq.simulation.protocol.campaign import random_scenario
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.scenario import Scenario
from tests.rigs import repetitions
from update_codec import CodecSpec

NAME = "control.point"


def scenario(seed: int) -> Scenario:
    """A campaign's scenario, with its faults and codecs, that trains with SCAFFOLD."""
    drawn = random_scenario(seed)
    settings = replace(drawn.engine.train, extra={"scaffold_nodes": float(drawn.nodes), "scaffold_resolution": 0.5})
    task = "tests.rigs.scaffolded_quadratic:build"
    downlink = replace(DownlinkSettings(), spec=CodecSpec.parse("lossless" if seed % 2 else "edge"))
    committer = CommitterSettings(strategy=make_strategy(StrategySettings(name="scaffold")), downlink=downlink)
    engine = replace(drawn.engine, task=task, train=settings)
    # A device that loses its folder loses its control variate, which no sum can tell; so does a coordinator that goes
    # back lose what its nodes have added since, and a twin adds to its own alone.
    faults = replace(drawn.faults, wipe=0.0, stale_copy=0.0, restore=0.0, second_run=0.0, twin=0.0)
    node = replace(drawn.node, task=task)
    return replace(drawn, task=task, engine=engine, committer=committer, node=node, faults=faults)


@pytest.mark.parametrize("chunk", repetitions.of(range(4), few=(0,)))
def test_the_sum_that_the_model_carries_is_the_sum_of_what_the_nodes_keep(chunk: int) -> None:
    totals = {"coordinator_crashes": 0, "node_crashes": 0, "dropped": 0, "duplicated": 0, "stale": 0, "refused": 0}
    for seed in range(chunk * 8, chunk * 8 + 8):
        with quiet_log():
            simulation = Simulation(scenario(seed))
            outcome = simulation.run()
        assert not outcome.violations, f"seed {seed}: {outcome.violations}"
        carried, kept = carried_sum(simulation), kept_sum(simulation)
        np.testing.assert_array_equal(carried, kept, err_msg=f"seed {seed}")
        assert np.abs(carried).max() > 0
        for name in totals:
            totals[name] += getattr(outcome, name)
    assert all(totals[name] for name in ("coordinator_crashes", "node_crashes", "dropped", "duplicated")), totals


def carried_sum(simulation: Simulation) -> NDArray[np.float32]:
    """What version N's model says."""
    manifest, disk = simulation.store.manifest(), simulation.store
    assert manifest is not None
    model = manifest.unflatten(disk.model(disk.recovered(recent=1).head.version).shadow)
    return np.asarray(model[NAME], np.float32)


def kept_sum(simulation: Simulation) -> NDArray[np.float32]:
    """What the nodes' disks say; an applied update whose receipt has not come yet is settled as it will be."""
    total = np.zeros(20, np.float32)
    for node in simulation.nodes:
        store = node.disk.store
        total += np.asarray(store.task_state().get(NAME, np.float32(0)), np.float32)
        for entry in store.recovered().outbox:
            verdict = simulation.store.verdict(entry.offer.update)
            if verdict is not None and verdict.status is ReceiptStatus.APPLIED:
                total += np.asarray(store.pending(entry.offer.update)[NAME], np.float32)
    return total
