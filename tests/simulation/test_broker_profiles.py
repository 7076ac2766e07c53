"""A broker that gives nothing retained to a wildcard, as AWS IoT Core: the profile for it is needed, and is enough."""

from dataclasses import replace

import pytest

from federation.runtime.profiles import PROFILES
from federation.testing import BrokerSettings
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.scenario import Outcome, Scenario
from fedmq.simulation.world.faults import FaultPlan
from tests.rigs import repetitions
from tests.rigs.small_federation import CRASHES, ENGINE, small_scenario

STINGY = BrokerSettings(retained_to_wildcards=False)
CHUNK_BYTES = 16
"""The model has 5 chunks and more, and the profile asks for fewer at a time in these scenarios."""


def scenario(seed: int, *, named_chunks_max: int | None, faults: FaultPlan = CRASHES) -> Scenario:
    made = small_scenario(seed, broker=STINGY, faults=faults)
    committer = replace(made.committer, downlink=replace(made.committer.downlink, chunk_bytes=CHUNK_BYTES))
    return replace(made, committer=committer, node=replace(made.node, named_chunks_max=named_chunks_max))


def run(wanted: Scenario) -> Outcome:
    with quiet_log():
        return Simulation(wanted).run()


@pytest.mark.parametrize("seed", repetitions.of(range(8), few=(0, 1)))
def test_a_federation_comes_to_its_end_and_loses_nothing_through_crashes_of_both_roles(seed: int) -> None:
    """FED-86."""
    outcome = run(scenario(seed, named_chunks_max=2))
    assert not outcome.violations
    assert outcome.versions == ENGINE.versions
    assert outcome.coordinator_crashes + outcome.node_crashes > 0


def test_without_its_profile_a_model_comes_only_when_nodes_have_missed_it_for_long() -> None:
    """FED-90: what is published again reaches those who are subscribed, but each model first waits in vain."""
    with_it, without = (run(scenario(1, named_chunks_max=most, faults=FaultPlan())) for most in (2, None))
    assert with_it.versions == without.versions == ENGINE.versions
    assert without.virtual_s > 5 * with_it.virtual_s


def test_the_profile_of_such_a_broker_says_so() -> None:
    assert PROFILES["aws-iot-core"].named_chunks_max == 25
    assert not PROFILES["aws-iot-core"].retained_by_wildcard
