"""What one simulated tree is, and what it came to: everything about it is drawn from its seed."""

import random
from dataclasses import dataclass
from functools import partial

from coordinator.engine.settings import EngineSettings, FederatedEvaluationSettings
from coordinator.global_model.aggregation import AggregateLimits
from coordinator.global_model.committer import CommitterSettings
from coordinator.strategies.strategy import StrategySettings, make_strategy
from edge_node.engine.machine import NodeSettings
from federation.tasks.registry import default_settings
from federation.types import NodeId
from fedmq.simulation.world.faults import FaultPlan, some_of
from fedmq.simulation.world.trainer import Stragglers

__all__ = ["SiteScenario", "TreeOutcome", "TreeScenario", "gateway_name", "random_tree"]

THREE_LEVELS = 0.5
"""So many trees have gateways below a gateway."""

MOVES_MOST = 360.0
"""Most moves of nodes to other sites, per hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteScenario:
    """One site of a tree, and the gateway that coordinates it.

    Attributes:
        nodes: How many nodes it has, beside gateways.
        members_max: For so many nodes its gateway may speak, where it sends its sums.
        parent: The site that its gateway is a node of; None is the coordinator's.
    """

    nodes: int
    members_max: int
    parent: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeScenario:
    """Everything about one tree; the same scenario gives the same transcript.

    Attributes:
        seed: Everything random comes from it.
        sites: All of them, whatever their level.
        task: Name of the task.
        engine: The engine of the coordinator above.
        committer: How versions are made there.
        node: What all nodes' settings have in common, those of gateways too.
        faults: What goes wrong, on each network and at each participant.
        stragglers: How long training takes.
        moves: How often a node moves to another site, per hour; when the faults end all go home.
    """

    seed: int
    sites: tuple[SiteScenario, ...]
    task: str
    engine: EngineSettings
    committer: CommitterSettings
    node: NodeSettings
    faults: FaultPlan
    stragglers: Stragglers
    moves: float = 0.0

    @property
    def nodes(self) -> int:
        """All nodes."""
        return sum(site.nodes for site in self.sites)

    @property
    def levels(self) -> int:
        """How many coordinators a node's work goes through, those of sites and the one above."""
        return 2 + max(map(self.depth, range(len(self.sites))))

    def depth(self, site: int) -> int:
        """How many gateways there are between a site's and the coordinator."""
        parent = self.sites[site].parent
        return 0 if parent is None else 1 + self.depth(parent)

    def caps(self, site: int | None) -> dict[NodeId, int]:
        """For how many nodes each gateway of a site may speak; None is the coordinator's."""
        return {gateway_name(index): one.members_max for index, one in enumerate(self.sites) if one.parent == site}


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOutcome:
    """What a tree came to.

    Attributes:
        seed: Its seed.
        versions: Versions that were made above.
        gateway_crashes: How often a gateway was killed; the coordinator above and the nodes likewise.
        applied: Updates below that are in a version.
        given_back: Updates below that are stale or refused.
        late: Of the applied ones, those whose sum was late by some versions.
        passes: How often a site has gone on training while its gateway could not reach the federation above.
        moves: How often a node moved to another site.
        levels: How many levels of coordinators it has.
        power_cuts: Of the gateways' crashes those that cost what was not synchronised.
        evaluated: Reports of sites on versions that count above.
        transcript: Digest of all steps.
        violations: What must never happen and did.
    """

    seed: int
    versions: int
    gateway_crashes: int
    coordinator_crashes: int
    node_crashes: int
    applied: int
    given_back: int
    late: int
    passes: int
    moves: int
    levels: int
    power_cuts: int
    evaluated: int
    transcript: str
    violations: tuple[str, ...]


def gateway_name(site: int) -> NodeId:
    """Who coordinates a site."""
    return NodeId(f"gateway-{site}")


def random_tree(seed: int) -> TreeScenario:
    """One small tree, everything about it drawn from the seed."""
    rng = random.Random(f"tree/{seed}")  # noqa: S311 - a simulation, not a secret
    drawn = tuple(rng.randint(1, 3) for _ in range(rng.randint(2, 3)))
    synchronous = rng.random() < 0.5
    moves = some_of(random.Random(f"moves/{seed}"), MOVES_MOST)  # noqa: S311 - as above
    sites = _sites(seed, drawn, moves=moves > 0)
    task = f"quadratic-{rng.choice((20, 50, 300))}"
    count = sum(site.parent is None for site in sites)
    buffer = count if synchronous else rng.randint(1, count)
    engine = EngineSettings(
        task=task,
        train=default_settings(task),
        codec_up=rng.choice(("lossless", "edge", "balanced")),
        versions=rng.randint(3, 6),
        concurrency=count,
        buffer=buffer,
        refill=count if synchronous else 1,
        # A site whose only node is in another site's sum has nobody left to train for this version.
        quorum=min(rng.randint(1, buffer), 1 if moves else buffer),
        nodes_min=rng.randint(1, count),
        lease_s=rng.choice((30.0, 90.0)),
        max_wait_s=rng.choice((10.0, 40.0)),
        max_staleness=0 if synchronous else rng.choice((1, 10)),
        federated_evaluation=FederatedEvaluationSettings(every=_evaluates(seed)),
    )
    strategy = make_strategy(StrategySettings(name="fedavg" if synchronous else "fedbuff"))

    some = partial(some_of, rng)
    return TreeScenario(
        seed=seed,
        sites=sites,
        task=task,
        engine=engine,
        committer=CommitterSettings(strategy=strategy, limits=AggregateLimits(per_base=True)),
        node=NodeSettings(node=NodeId("node"), task=task, chunk_bytes=rng.choice((256, 1024, 61_440))),
        faults=FaultPlan(
            drop=some(0.05),
            duplicate=some(0.2),
            reorder=some(0.2),
            node_crash=some(0.05),
            coordinator_crash=some(0.02),
            disconnect=some(60.0),
            broker_crash=some(20.0),
            skew_s=86_400.0,
        ),
        stragglers=Stragglers(train_s=rng.choice((0.2, 2.0)), slow_share=rng.choice((0.0, 0.2))),
        moves=moves,
    )


def _sites(seed: int, drawn: tuple[int, ...], *, moves: bool) -> tuple[SiteScenario, ...]:
    """The sites of a tree; in some trees gateways stand below a further one, beside nodes or without."""
    away, levels = (random.Random(f"tree/{seed}/{what}") for what in ("away", "levels"))  # noqa: S311 - as above
    most = [nodes * (sum(drawn) if moves else 1) * away.randint(1, 3) for nodes in drawn]
    below: dict[int, int] = {}
    if levels.random() < THREE_LEVELS:
        below = dict.fromkeys(levels.sample(range(len(drawn)), levels.randint(1, len(drawn))), len(drawn))
    sites = [
        SiteScenario(nodes=nodes, members_max=most[site], parent=below.get(site)) for site, nodes in enumerate(drawn)
    ]
    if below:
        nodes = levels.randint(0, 2)
        together = sum(most[site] for site in below)
        own = nodes * (sum(drawn) + nodes if moves else 1) * levels.randint(1, 2)
        sites.append(SiteScenario(nodes=nodes, members_max=together + own))
    return tuple(sites)


def _evaluates(seed: int) -> int:
    """Every how many versions the nodes evaluate; 0 is never."""
    return random.Random(f"tree/{seed}/evaluation").choice((0, 0, 1, 2))  # noqa: S311 - as above
