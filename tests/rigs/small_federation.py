"""A small federation with many crashes, and what a test may change about it."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from coordinator.engine.settings import EngineSettings
from edge_node.engine.machine import NodeSettings
from federation.tasks.registry import default_settings
from federation.types import NodeId
from fedmq.simulation.protocol.federation import Simulation, quiet_log
from fedmq.simulation.protocol.scenario import Scenario
from fedmq.simulation.world.faults import FaultPlan
from fedmq.simulation.world.stores import ObservedStore

ENGINE = EngineSettings(
    task="quadratic-20",
    train=default_settings("quadratic-20"),
    codec_up="lossless",
    versions=6,
    concurrency=4,
    buffer=3,
    refill=1,
    quorum=2,
    lease_s=30.0,
    max_wait_s=10.0,
    max_staleness=10,
)
CRASHES = FaultPlan(node_crash=0.02, coordinator_crash=0.1)


def small_scenario(seed: int = 1, *, engine: EngineSettings = ENGINE, **changes: Any) -> Scenario:
    scenario = Scenario(
        seed=seed,
        nodes=5,
        task=engine.task,
        engine=engine,
        node=NodeSettings(node=NodeId("node"), task=engine.task),
        faults_s=300.0,
        patience_s=600.0,
    )
    return replace(scenario, **changes)


def violations(
    scenario: Scenario,
    store: type[ObservedStore] = ObservedStore,
    before: Callable[[Simulation], None] = lambda _simulation: None,
) -> str:
    """What the checker says of a run, a line each; ``before`` plans more for it."""
    with quiet_log():
        simulation = Simulation(scenario, store)
        before(simulation)
        found = simulation.run().violations
    simulation.close()
    return "\n".join(found)


class _AllSaid(Exception):  # noqa: N818 - it ends a run, and is no error
    """What was waited for has been said."""


def unsaid(
    wanted: Iterable[str], scenarios: Iterable[Scenario], store: type[ObservedStore] = ObservedStore
) -> set[str]:
    """Of these texts those that the checker says of none of the runs; no run goes on once all of them were said."""
    missing = set(wanted)
    for scenario in scenarios:
        with quiet_log():
            _listen(missing, Simulation(scenario, store))
        if not missing:
            break
    return missing


def _listen(missing: set[str], simulation: Simulation) -> None:
    said = simulation.surroundings.violations

    def look(_version: int = 0) -> None:
        missing.difference_update([text for text in missing if any(text in one for one in said)])
        if not missing:
            raise _AllSaid

    with contextlib.closing(simulation), contextlib.suppress(_AllSaid):
        simulation.run(look)
        look()
