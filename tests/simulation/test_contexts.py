"""Nodes and coordinator derive the codec's context from the same deltas, over crashes, stale updates and keyframes."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator.global_model.codec_contexts import KnownContexts
from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.downlink import DownlinkSettings
from federation.protocol.messages import Reason, ReceiptStatus
from federation.tasks.registry import default_settings
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.scenario import Outcome
from tests.rigs import repetitions
from tests.rigs.small_federation import CRASHES, ENGINE, small_scenario
from update_codec import CodecSpec
from update_codec.partition import Partition

PARAMETERS = 20_000
PARTITION_BYTE = 32
CODEC = "deadzone(bpp=0.35,feedback=1,context=1)"


def simulated(codec: str = CODEC, *, contexts: int, seed: int = 3) -> tuple[Simulation, Outcome, list[bool]]:
    """A run with crashes, and for each applied update whether it was coded with a context."""
    task = f"quadratic-{PARAMETERS}"
    engine = replace(ENGINE, task=task, train=default_settings(task), codec_up=codec, versions=8)
    committer = CommitterSettings(downlink=DownlinkSettings(spec=CodecSpec.parse("edge")), contexts=contexts)
    scenario = small_scenario(seed, engine=engine, faults=CRASHES, committer=committer)
    with quiet_log():
        simulation = Simulation(scenario)
        outcome = simulation.run()
    applied = [row for row in simulation.store.updates() if row.verdict.status is ReceiptStatus.APPLIED]
    payloads = (simulation.store.payload(row.record.update) for row in applied)
    return simulation, outcome, [payload[PARTITION_BYTE] == Partition.BY_CONTEXT for payload in payloads]


@pytest.mark.slow
@pytest.mark.parametrize("seed", repetitions.of((3, 4, 5), few=(3,)))
def test_updates_with_and_without_a_context_make_versions_that_can_be_made_again(seed: int) -> None:
    """I7 replays every version from the stored frames; only what a crash lets a node train twice is refused."""
    simulation, outcome, with_context = simulated(contexts=12, seed=seed)
    assert outcome.violations == ()
    assert set(outcome.reasons) <= {Reason.QUOTA, Reason.FINISHED, Reason.TOO_STALE}
    assert any(with_context)
    assert not all(with_context)  # version 0 has no history
    head = simulation.store.recovered(recent=1).head
    state = simulation.store.model(head.version).strategy
    assert len(KnownContexts(state, PARAMETERS)) == 8
    assert np.asarray(state["context.average"]).any()


@pytest.mark.slow
def test_a_codec_without_a_context_keeps_nothing() -> None:
    simulation, outcome, with_context = simulated("edge", contexts=0)
    assert outcome.violations == ()
    assert not any(with_context)
    head = simulation.store.recovered(recent=1).head
    assert not any(name.startswith("context") for name in simulation.store.model(head.version).strategy)
