"""From the options of ``coordinator simulate`` to a scenario."""

from dataclasses import dataclass

from coordinator.engine.registry import NODES_MAX
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import CommitterSettings
from coordinator.strategies.strategy import StrategySettings, make_strategy
from edge_node.engine.machine import NodeSettings
from federation.errors import ConfigError
from federation.task import task_label
from federation.tasks.registry import default_settings
from federation.types import NodeId
from fedmq.simulation.protocol.scenario import Scenario
from fedmq.simulation.world.faults import parse_faults
from fedmq.simulation.world.trainer import parse_stragglers
from update_codec import CodecSpec, SpecError

__all__ = ["FleetOptions", "fleet_scenario"]

ROUNDS_MAX = 1_000_000
PER_ROUND_LEAST = 10
MAX_STALENESS = 10
"""As `coordinator.config.settings` chooses it for asynchronous rounds."""
AUDIT_UPDATES_MAX = 50_000
"""With more updates than this their payloads are not kept, and the head is not made again at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """The options as they were given; None takes the default of the others."""

    nodes: int = 1000
    rounds: int = 100
    per_round: int | None = None
    buffer: int | None = None
    task: str = "quadratic"
    codec: str = "lossless"
    faults: str = "none"
    stragglers: str = ""
    seed: int = 0


def fleet_scenario(options: FleetOptions) -> Scenario:
    """Check the options and fill in what was left open.

    Raises:
        ConfigError: An option is out of its range, or a name is unknown.
    """
    nodes = _between("--nodes", options.nodes, 1, NODES_MAX)
    rounds = _between("--rounds", options.rounds, 1, ROUNDS_MAX)
    share = min(nodes, max(PER_ROUND_LEAST, nodes // 10))
    per_round = _between("--per-round", share if options.per_round is None else options.per_round, 1, nodes)
    buffer = _between("--buffer", per_round if options.buffer is None else options.buffer, 1, per_round)
    synchronous = buffer == per_round
    label = task_label(options.task)
    engine = EngineSettings(
        task=label,
        train=default_settings(options.task),
        codec_up=_codec(options.codec),
        versions=rounds,
        concurrency=per_round,
        buffer=buffer,
        refill=per_round if synchronous else max(1, per_round // 10),
        quorum=max(1, buffer // 2),
        nodes_min=max(1, buffer // 2),
        max_staleness=0 if synchronous else MAX_STALENESS,
    )
    plan = parse_faults(options.faults)
    return Scenario(
        seed=options.seed,
        nodes=nodes,
        task=options.task,
        engine=engine,
        committer=CommitterSettings(
            strategy=make_strategy(StrategySettings(name="fedavg" if synchronous else "fedbuff"))
        ),
        node=NodeSettings(node=NodeId("node"), task=label),
        faults=plan,
        node_disks=max(plan.node_crash, plan.failed_commit, plan.disk_full, plan.twin) > 0.0,
        stragglers=parse_stragglers(options.stragglers),
        audit=rounds * buffer <= AUDIT_UPDATES_MAX,
    )


def _between(option: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ConfigError(option, f"needs {least:,} to {most:,}, not {value:,}", source="command line")
    return value


def _codec(text: str) -> str:
    try:
        return str(CodecSpec.parse(text))
    except SpecError as error:
        raise ConfigError("--codec", str(error), source="command line") from error
