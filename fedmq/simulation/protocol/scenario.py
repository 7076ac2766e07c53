"""What is simulated, and what it came to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import CommitterSettings
from edge_node.engine.machine import NodeSettings
from federation.protocol.limits import MEMBERS_LEAST
from federation.testing import BrokerSettings
from federation.types import HelperId
from fedmq.simulation.world.faults import FaultPlan
from fedmq.simulation.world.trainer import Stragglers

__all__ = ["MaskedPlan", "Outcome", "Scenario"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedPlan:
    """The helpers of one federation, and what befalls them beside what befalls all.

    Attributes:
        names: Their names, in the order of their keys.
        threshold: So many must answer.
        members_min: Fewest updates of a sum, by their own rules.
        crash: Probability of a crash per event that one handles.
        wipe: Probability that the state folder is lost with a crash.
        gone: Which of them leaves for ever; None: nobody.
        gone_s: When, in virtual seconds.
        chunk_bytes: Body size of a sum's chunks.
    """

    names: tuple[HelperId, ...]
    threshold: int
    members_min: int = MEMBERS_LEAST
    crash: float = 0.0
    wipe: float = 0.0
    gone: int | None = None
    gone_s: float = 0.0
    chunk_bytes: int = 61_440


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
        masked: The helpers of masked sums; None: nothing is masked.
        revoked_s: When the last node is shut out, in virtual seconds, where the engine is sealed; None: nobody is.
        rotate_s: Age at which the coordinator takes another key where it seals, in seconds.
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
    revoked_s: float | None = None
    rotate_s: float = 120.0
    uplinks: tuple[float, ...] = ()
    masked: MaskedPlan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a simulation came to.

    The figures of updates and versions are those of the store that led in the end.

    Attributes:
        masked: Whether it had masked sums.
        kind: How the campaign has drawn it; "" is as ever.
        held: Coordinators that knew that they were behind, and decided nothing.
        fenced: Coordinators that left for a later start of their run.
        gave_way: Coordinators that left for another run's, as one that came second or that was replaced.
        twins_given_up: Processes that ended since another one has their client id.
        restored_above: Coordinators that were begun again above what their nodes had seen.
        told_by_others: Updates whose only verdict is that of a coordinator that did not lead in the end.
        helper_crashes: Helpers of masked sums that were killed.
        wiped_helpers: Those whose state folder was lost.
        sums: Sums that helpers have revealed, each class of each batch once.
        dropped_batches: Batches that made no version.
        sealed_words: Messages and chunks that the broker has tried to read.
        rotated_keys: How often a coordinator has taken another key.
        shut_out: Nodes from which a new group key was kept.
        noised: Versions that were charged to their members, on all copies of the store.
    """

    seed: int
    masked: bool = False
    kind: str = ""
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
    helper_crashes: int = 0
    wiped_helpers: int = 0
    sums: int = 0
    dropped_batches: int = 0
    sealed_words: int = 0
    rotated_keys: int = 0
    shut_out: int = 0
    noised: int = 0
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
