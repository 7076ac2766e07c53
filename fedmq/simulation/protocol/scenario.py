"""What is simulated, and what it came to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import CommitterSettings
from edge_node.engine.machine import NodeSettings
from federation.testing import BrokerSettings
from fedmq.simulation.world.faults import FaultPlan
from fedmq.simulation.world.trainer import Stragglers

__all__ = ["Outcome", "Scenario"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything about one simulation; the same scenario gives the same transcript.

    Attributes:
        seed: Everything random comes from it.
        nodes: How many nodes.
        task: Name of the task.
        engine: The coordinator's engine; ``versions`` must be set.
        committer: How versions are made.
        node: What all nodes' settings have in common.
        faults: What goes wrong.
        faults_s: When the faults end at the latest, in virtual seconds; they also end with the last version.
        stragglers: How long training takes.
        patience_s: After the faults, the last version and every verdict must come within this time (I6).
        broker: The broker's limits.
        audit: Keep every payload and recompute the head from them at the end (I7).
        busy_s: Longest time for which the coordinator is busy with what it has taken, in virtual seconds; what arrives
            meanwhile is taken together.
        node_disks: Nodes have stores on disks; else their processes must never end, nor their disks fail.
        uplinks: Rates of the first nodes' uplinks, in bytes per second; 0, and every further node, has no limit.
    """

    seed: int
    nodes: int
    task: str
    engine: EngineSettings
    committer: CommitterSettings = field(default_factory=CommitterSettings)
    node: NodeSettings
    faults: FaultPlan = field(default_factory=FaultPlan)
    faults_s: float = float("inf")
    stragglers: Stragglers = field(default_factory=Stragglers)
    patience_s: float = 7200.0
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    audit: bool = True
    busy_s: float = 0.0
    node_disks: bool = True
    uplinks: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a simulation came to.

    The figures of updates and versions are those of the store that led in the end.

    Attributes:
        held: Coordinators that knew that they were behind, and decided nothing.
        fenced: Coordinators that left for a later start of their run.
        gave_way: Coordinators that left for another run's, as one that came second or that was replaced.
        twins_given_up: Processes that ended since another one has their client id.
        restored_above: Coordinators that were begun again above what their nodes had seen.
        told_by_others: Updates whose only verdict is that of a coordinator that did not lead in the end.
    """

    seed: int
    versions: int
    virtual_s: float
    recovery_s: float
    messages: int
    payload_bytes: int
    updates: int
    applied: int
    stale: int
    refused: int
    staleness: Mapping[int, int]
    reasons: Mapping[str, int]
    coordinator_crashes: int
    node_crashes: int
    coordinator_power_cuts: int
    node_power_cuts: int
    failed_syncs: int
    wiped_nodes: int
    bad_updates: int
    stale_copies: int
    restores: int
    second_runs: int
    twins: int
    held: int
    fenced: int
    gave_way: int
    twins_given_up: int
    restored_above: int
    told_by_others: int
    ended_early: int
    broker_crashes: int
    cuts: int
    full_disks: int
    stopped_processes: int
    dropped: int
    duplicated: int
    reordered: int
    leases_expired: int
    evaluations: int
    evaluated_nodes: int
    wall_s: float
    transcript: str
    violations: tuple[str, ...]
