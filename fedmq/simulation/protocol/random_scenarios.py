"""The federations of a campaign, each drawn from its seed: as they are, with masked sums, sealed, or with noise.

With sealing the broker reads all it can, the coordinator changes its key, and a node is shut out. With noise that the
coordinator adds each version is charged to its members, and their budgets end the run.
"""

import random
from dataclasses import replace
from functools import partial

from coordinator.engine.early_stopping import Goal, Source, StoppingSettings
from coordinator.engine.settings import EngineSettings, FederatedEvaluationSettings, NoiseSettings, ReleaseBudget
from coordinator.global_model.committer import CommitterSettings
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.global_model.noised import CoordinatorNoise
from coordinator.strategies.strategy import StrategySettings, make_strategy
from edge_node.engine.machine import NodeSettings
from federation.privacy.accountant import gaussian_epsilon
from federation.tasks.registry import default_settings
from federation.testing import BrokerSettings
from federation.types import NodeId
from fedmq.simulation.protocol.helper_actor import helper_key
from fedmq.simulation.protocol.masked_sums import HELPERS, masked_scenario
from fedmq.simulation.protocol.scenario import Scenario
from fedmq.simulation.world.faults import FaultPlan, some_of
from fedmq.simulation.world.trainer import Stragglers

__all__ = ["random_masked_scenario", "random_private_scenario", "random_scenario"]

DELTA = 1e-5
"""Of the budgets that are drawn."""

PRIVATE_MASKED = 0.25
"""Share of the private federations that have masked sums, and are sealed."""


def random_scenario(seed: int) -> Scenario:
    """One small federation, everything about it drawn from the seed."""
    rng = random.Random(f"campaign/{seed}")  # noqa: S311 - a simulation, not a secret
    nodes = rng.randint(2, 8)
    task = f"{rng.choice(('null', 'quadratic'))}-{rng.choice((20, 50, 300, 1500))}"
    strategy = "fedavg" if rng.random() < 0.4 else rng.choice(("fedbuff", "fedbuff", "fedasync", "fedadam"))
    # The least that a transfer in chunks needs: several chunks, and windows smaller than the whole.
    chunk_bytes = rng.choice((64, 256, 1024, 61_440))
    downlink = DownlinkSettings(chunk_bytes=rng.choice((256, 1024, 61_440)), delta_chain_max=rng.choice((0, 1, 8)))
    return Scenario(
        seed=seed,
        nodes=nodes,
        task=task,
        engine=_paced(
            seed,
            _stopping(
                seed,
                replace(
                    _engine(rng, nodes, strategy, task), federated_evaluation=_survey(seed, nodes), signed=_signed(seed)
                ),
            ),
        ),
        committer=CommitterSettings(strategy=make_strategy(StrategySettings(name=strategy)), downlink=downlink),
        node=NodeSettings(node=NodeId("node"), task=task, chunk_bytes=chunk_bytes, outbox_max=rng.choice((1, 2, 16))),
        faults=_identities(seed, _later_faults(seed, _faults(rng))),
        faults_s=rng.uniform(30.0, rng.choice((300.0, 300.0, 300.0, 2000.0))),
        stragglers=Stragglers(train_s=rng.choice((0.2, 2.0, 10.0)), slow_share=rng.choice((0.0, 0.2))),
        broker=BrokerSettings(max_queued_messages=rng.choice((5, 1000))),
        busy_s=_busy_s(seed),
        audit=_audit(seed),
    )


def random_masked_scenario(seed: int) -> Scenario:
    """The same with masked sums, and helpers as further participants."""
    keys = tuple(bytes.fromhex(helper_key(number).public_hex) for number in range(HELPERS))
    return masked_scenario(_unpaced(random_scenario(seed)), keys)


def random_private_scenario(seed: int) -> Scenario:
    """The same with sealing, with noise that the coordinator adds, or with both."""
    rng = random.Random(f"campaign/{seed}/private and masked")  # noqa: S311 - a simulation, not a secret
    masked = rng.random() < PRIVATE_MASKED
    return _private(_unpaced((random_masked_scenario if masked else random_scenario)(seed)))


def _engine(rng: random.Random, nodes: int, strategy: str, task: str) -> EngineSettings:
    concurrency = rng.randint(1, nodes)
    match strategy:
        case "fedavg":
            buffer = max(1, concurrency - rng.randint(0, 1))
            refill, staleness = concurrency, 0
        case "fedasync":
            buffer, refill, staleness = 1, 1, rng.choice((2, 10))
        case _:
            buffer = rng.randint(1, concurrency)
            refill, staleness = rng.randint(1, concurrency), rng.choice((0, 1, 10))
    return EngineSettings(
        task=task,
        train=default_settings(task),
        codec_up=rng.choice(("lossless", "edge")),
        versions=rng.randint(3, 8),
        concurrency=concurrency,
        buffer=buffer,
        refill=refill,
        quorum=rng.randint(1, buffer),
        nodes_min=rng.randint(1, nodes),
        lease_s=rng.choice((10.0, 60.0)),
        max_wait_s=rng.choice((3.0, 20.0)),
        max_staleness=staleness,
        per_node_quota=rng.choice((1, 1, 2)),
        spread_s=rng.choice((0.0, 1.0)),
        window_chunks=rng.choice((1, 2, 32)),
        transfers_max=rng.choice((1, 16)),
    )


def _survey(seed: int, nodes: int) -> FederatedEvaluationSettings:
    """Drawn apart, so that a seed's other choices are those that it has always had."""
    rng = random.Random(f"campaign/{seed}/survey")  # noqa: S311 - a simulation, not a secret
    return FederatedEvaluationSettings(
        every=rng.choice((0, 1, 1, 3)), fraction=rng.choice((0.3, 1.0)), nodes_min=rng.randint(1, nodes)
    )


def _signed(seed: int) -> bool:
    """In every second federation all messages are signed, and its nodes obey nothing that is out of date, ever."""
    return random.Random(f"campaign/{seed}/signed").random() < 0.5  # noqa: S311 - as above


def _busy_s(seed: int) -> float:
    """In most federations several messages arrive while the coordinator is busy, and are settled together."""
    return random.Random(f"campaign/{seed}/busy").choice((0.0, 0.02, 0.2, 2.0))  # noqa: S311 - as above


def _paced(seed: int, engine: EngineSettings) -> EngineSettings:
    """In every fifth federation nodes check in; then no round waits for many that are there at one time."""
    rng = random.Random(f"campaign/{seed}/pace")  # noqa: S311 - as above
    return engine if rng.random() > 0.2 else replace(engine, pace_s=rng.choice((5.0, 60.0)), nodes_min=1)


def _unpaced(scenario: Scenario) -> Scenario:
    """The same with nodes that stay: a masked or noised sum has many members, who must be there at one time."""
    return replace(scenario, engine=replace(scenario.engine, pace_s=0.0))


def _audit(seed: int) -> bool:
    """In every fifth federation nothing is kept to make versions again: its updates are compacted at each commit."""
    return random.Random(f"campaign/{seed}/audit").random() < 0.8  # noqa: S311 - as above


def _faults(rng: random.Random) -> FaultPlan:
    """Each kind of fault is off in a part of the seeds, so that its absence is tested, too."""
    some = partial(some_of, rng)
    return FaultPlan(
        drop=some(0.1),
        duplicate=some(0.2),
        reorder=some(0.2),
        node_crash=some(0.05),
        coordinator_crash=some(0.03),
        disconnect=some(120.0),
        partition=some(60.0),
        broker_crash=some(60.0),
        freeze=some(20.0),
        disk_full=some(30.0),
        reorder_s=rng.choice((1.0, 5.0, 120.0, 3600.0)),
        vanish=some(0.5),
        skew_s=86_400.0,
    )


def _later_faults(seed: int, plan: FaultPlan) -> FaultPlan:
    """Drawn apart, as above: kinds of faults that have come since."""
    rng = random.Random(f"campaign/{seed}/later faults")  # noqa: S311 - as above

    some = partial(some_of, rng, off=0.5)
    return replace(plan, failed_commit=some(0.02), bad_update=some(0.2), wipe=some(0.3))


def _identities(seed: int, plan: FaultPlan) -> FaultPlan:
    """In every second federation some identity goes backwards, or is there twice; drawn apart, as above."""
    rng = random.Random(f"campaign/{seed}/identities")  # noqa: S311 - a simulation, not a secret
    stale_copy, restore, second_run, twin = (float(rng.random() < share) for share in (0.18, 0.15, 0.15, 0.2))
    return replace(plan, stale_copy=stale_copy, restore=restore, second_run=second_run, twin=twin)


def _stopping(seed: int, engine: EngineSettings) -> EngineSettings:
    """Every fifth run ends when nothing gets better any more."""
    rng = random.Random(f"campaign/{seed}/stopping")  # noqa: S311 - as above
    if rng.random() > 0.2:
        return engine
    source, metric = rng.choice(((Source.CENTRAL, "norm"), (Source.NODES, "loss")))
    goal, patience = rng.choice((Goal.MAX, Goal.MIN)), rng.randint(1, 3)
    stopping = StoppingSettings(source=source, metric=metric, goal=goal, patience=patience)
    return replace(engine, stopping=stopping, versions=rng.randint(4, 20))


# --- sealing, and noise that the coordinator adds ---------------------------------------------------------------------


def _private(plain: Scenario) -> Scenario:
    """The same federation sealed, with noise that its coordinator adds, or with both; masked ones are only sealed."""
    rng = random.Random(f"campaign/{plain.seed}/private")  # noqa: S311 - a simulation, not a secret
    sealed, noised = rng.choice(((True, False), (True, True), (False, True)))
    if noised and plain.masked is None:
        plain = _noised(plain, rng)
    return _sealed(plain, rng) if sealed or plain.masked is not None else plain


def _sealed(plain: Scenario, rng: random.Random) -> Scenario:
    """The same with sealing: keys that change, and in most federations a node that is shut out.

    Whoever is shut out is one more than the run needs.
    """
    engine, revoked_s = plain.engine, rng.choice((None, rng.uniform(5.0, 60.0), rng.uniform(60.0, plain.faults_s)))
    needed = max(1, engine.quorum, engine.nodes_min)
    more = int(revoked_s is not None and plain.nodes <= needed)
    return replace(
        plain,
        nodes=plain.nodes + more,
        engine=replace(engine, signed=True, sealed=True),
        revoked_s=revoked_s,
        rotate_s=rng.choice((20.0, 120.0, 1000.0)),
    )


def _noised(plain: Scenario, rng: random.Random) -> Scenario:
    """The same with noise that a trusted coordinator adds, and a budget for some of the versions or for all of them.

    A copy of the folder that is started beside its original, or instead of it, is left out, and so is a second run:
    accounts are of one run, and whoever starts a copy has not said what was released since (``--released``). Nobody
    leaves for ever: a run does not end while somebody may come back who has budget.
    """
    noise, sums = rng.choice((0.5, 3.0, 20.0)), rng.choice((2, 5, 50))
    budget = ReleaseBudget(epsilon=gaussian_epsilon(sums**0.5 / noise, DELTA), delta=DELTA)
    engine = _noised_engine(plain.engine, NoiseSettings(noise=noise, clip=1.0, budget=budget))
    name = "fedavg" if engine.max_staleness == 0 else rng.choice(("fedbuff", "fedadam"))
    strategy = make_strategy(StrategySettings(name=name, staleness="constant", importance="uniform"))
    own = CoordinatorNoise(noise=noise, clip=1.0, members=engine.buffer)
    return replace(
        plain,
        engine=engine,
        committer=replace(plain.committer, strategy=strategy, noise=own),
        faults=replace(plain.faults, stale_copy=0.0, second_run=0.0, vanish=0.0),
    )


def _noised_engine(plain: EngineSettings, noise: NoiseSettings) -> EngineSettings:
    """Each node is in a sum once, as noise is made for it, and measures nothing: that would leave without noise."""
    stopping = plain.stopping if plain.stopping.source is Source.CENTRAL else StoppingSettings()
    return replace(
        plain,
        noise=noise,
        per_node_quota=1,
        stopping=stopping,
        federated_evaluation=replace(plain.federated_evaluation, every=0),
    )
