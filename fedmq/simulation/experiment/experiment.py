"""A federation that trains for real in virtual time: production's coordinator, many virtual nodes, no broker.

Machine, strategy, selection, codec and store are those of the real system (`direct`); the nodes' training is that of
their task (`federation.tasks.pool.node_pool`). What a node makes of a model depends on the model, the round's seed and
the node's index alone, and the aggregate does not depend on the order of arrival: so the same seed gives the same model
as real processes do, where the same nodes are asked (all of them, or ``selector = "repeatable"``).
"""

import heapq
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from coordinator.config.noise import check_noised_model
from coordinator.engine.registry import REST_MAX_S
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import CommitterSettings
from coordinator.monitoring.noised_sums import nodes_report, nodes_row
from coordinator.monitoring.privacy import privacy_report, privacy_row
from coordinator.monitoring.report import build_report
from coordinator.monitoring.why import failures as failure_words
from coordinator.monitoring.why import nobody_trains
from federation.contract import described_model
from federation.errors import FederationError
from federation.protocol.messages import Decline
from federation.task import KEPT_KEY
from federation.tasks.pool.node_pool import NodePool
from federation.types import NodeId
from fedmq.simulation.experiment.check_ins import CheckIns
from fedmq.simulation.experiment.direct import DirectCoordinator, Question, Setup
from fedmq.simulation.experiment.masked_nodes import VirtualMasks
from fedmq.simulation.experiment.node_answers import FrameWork, NodeWork, VectorWork
from fedmq.simulation.experiment.outages import Outages, Turns
from fedmq.simulation.experiment.private_nodes import PRIVATE, check_private
from fedmq.simulation.training.cluster import Cluster
from fedmq.simulation.training.training_workers import Trainers
from fedmq.simulation.world.trainer import Stragglers
from update_codec import CodecSpec

__all__ = ["Experiment", "NobodyTrains", "Plan", "Result", "VersionFigures", "node_names", "run_report"]

REFUSALS_MAX = 20
"""So many updates of each node may be turned down between two versions, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything about one experiment.

    Attributes:
        nodes: How many.
        engine: The coordinator's engine; ``versions`` must be set.
        committer: How versions are made.
        selector: Who is asked.
        seed: Of the initial model, the selection and the times.
        stragglers: How long training takes.
        outages: Nodes that are away.
        evaluate_every: Evaluate each n-th version; 0 is never.
        update_norm_max: Longer updates are refused.
        keep: The store will be kept: it has the evaluations and the best model, too.
        masks: Where sums are masked, updates really are; else their integers travel as they are, to the same sums.
    """

    nodes: int
    engine: EngineSettings
    committer: CommitterSettings = field(default_factory=CommitterSettings)
    selector: str = "uniform"
    seed: int = 0
    stragglers: Stragglers = field(default_factory=Stragglers)
    outages: Outages = field(default_factory=Outages)
    evaluate_every: int = 1
    update_norm_max: float = 1e5
    keep: bool = False
    masks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFigures:
    """One version.

    Attributes:
        version: Its number.
        virtual_s: When it was made, in virtual seconds.
        metrics: Its evaluation; empty where there was none.
        updates: How many it was made of.
        staleness_mean: Versions that they lagged behind, on average.
        losses: Mean training loss of each of its nodes, by index.
    """

    version: int
    virtual_s: float
    metrics: Mapping[str, float]
    updates: int
    staleness_mean: float
    losses: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the experiment came to.

    Attributes:
        digest: Names the last version's bits, as in the real system.
        versions: Figures of each version.
        verdicts: Updates by what became of them.
        payload_bytes: Bytes of all updates as they would travel.
        virtual_s: Virtual seconds.
        wall_s: Real seconds, without reading the data.
        away_share: What part of all nodes' virtual time was spent offline.
        connected_peak: The most nodes that were connected at once, where they check in (``round.pace_s``); else 0.
            ``check_ins``: how often a node has come.
        stopped_early: Evaluations without improvement have ended it (``stopping.patience``), or too few nodes had any
            privacy budget left.
        failures: Trainings that came to nothing: how often each reason was met, by node.
        privacy: Epsilon of the run and of each node, as in its report; None without differential privacy.
        nodes_privacy: The same of noise on sums, for whole nodes.
    """

    digest: str
    versions: tuple[VersionFigures, ...]
    verdicts: Mapping[str, int]
    payload_bytes: int
    virtual_s: float
    wall_s: float
    away_share: float = 0.0
    connected_peak: int = 0
    check_ins: int = 0
    stopped_early: bool = False
    failures: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    privacy: Mapping[str, object] | None = None
    nodes_privacy: Mapping[str, object] | None = None


def node_names(count: int) -> list[NodeId]:
    """Names as ``coordinator demo`` gives them: a selection that looks at names chooses the same."""
    width = len(str(count - 1))
    return [NodeId(f"node-{index:0{width}d}") for index in range(count)]


class NobodyTrains(FederationError):  # noqa: N818 - the name says what it is
    """Nothing comes of any training any more; the message says of whose, and why."""


class Experiment:
    """Builds the coordinator of a plan and runs it.

    Args:
        plan: What to do.
        pool: Trains and evaluates.
        workers: Processes that train; 1 is this one.
        cluster: Trains in their place.
    """

    def __init__(self, plan: Plan, pool: NodePool, *, workers: int = 1, cluster: Cluster | None = None) -> None:
        self.pool = pool
        self._private = plan.engine.train.privacy is not None
        if self._private:
            check_private(pool)
        initial, self.manifest = described_model(pool, plan.seed)
        check_noised_model(plan.engine.noise, self.manifest.statistic_count)
        self.plan = plan = replace(plan, engine=plan.engine.for_model(self.manifest.parameter_count))
        masking = plan.engine.masking
        self._masks = None if masking is None else VirtualMasks(masking, masks=plan.masks)
        self._trainers = Trainers(pool, self.manifest, workers, cluster)
        self.names = node_names(plan.nodes)
        self._index = {name: index for index, name in enumerate(self.names)}
        self.work: NodeWork = self._make_work()
        bytes_max = plan.engine.payload_bytes_max or self.manifest.frame_bytes_max
        setup = Setup(
            manifest=self.manifest,
            initial=self.manifest.flatten(initial),
            engine=replace(plan.engine, payload_bytes_max=bytes_max),
            committer=plan.committer,
            selector=plan.selector,
            seed=plan.seed,
            update_norm_max=plan.update_norm_max,
            combine=self.work.combine,
            check=self.work.check,
            capabilities=PRIVATE if self._private else None,
            masks=self._masks,
        )
        self.coordinator = DirectCoordinator(setup, self.names)
        self.work.new_version(self.coordinator.version, self.coordinator.model)
        self._rngs = {name: random.Random(f"{plan.seed}/{name}") for name in self.names}  # noqa: S311 - must repeat
        self._factors = {n: plan.stragglers.train_s * plan.stragglers.node_factor(rng) for n, rng in self._rngs.items()}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence, self._training = 0, 0
        self._failed_before = self._refused_before = 0
        rng = random.Random(f"{plan.seed}/turns")  # noqa: S311 - must repeat
        self._turns = Turns(self.coordinator, self.names, rng, self._offer)
        paces = random.Random(f"{plan.seed}/paces")  # noqa: S311 - must repeat
        self._paced = plan.engine.pace_s > 0.0
        self._visits = CheckIns(coordinator=self.coordinator, pace_s=plan.engine.pace_s, rng=paces, at=self._at)
        self.figures: list[VersionFigures] = []

    def run(
        self,
        progress: Callable[[VersionFigures], None] = lambda _figures: None,
        failed: Callable[[NodeId, str], None] = lambda _node, _reason: None,
    ) -> Result:
        """Run to the last version, or to an early stop.

        Args:
            progress: Hears each new version.
            failed: Hears each node whose training fails, once for each reason.

        Raises:
            NobodyTrains: Every training fails, or every update is refused.
        """
        began_s = time.perf_counter()
        self._begin_turns()
        self._visits.begin(self.names if self._paced else ())
        with self._trainers:
            while self.coordinator.version < self.plan.engine.versions and not self._stopped_early:
                before = self.coordinator.version
                self._advance()
                self._take_receipts()
                while self.work.failures.news:
                    node, reason = self.work.failures.news.pop(0)
                    failed(self.names[node], reason)
                if before == self.coordinator.version:
                    self._give_up()
                for _ in range(before, self.coordinator.version):
                    progress(self._committed())
                    self._failed_before, self._refused_before = self.work.failures.count, self._refused
        return self._result(time.perf_counter() - began_s)

    @property
    def _stopped_early(self) -> bool:
        engine = self.plan.engine
        noised = engine.noise is not None or (engine.masking is not None and engine.masking.budget is not None)
        may_end = engine.stopping.patience > 0 or self._private or noised
        return may_end and self.coordinator.finished and self.coordinator.version < engine.versions

    @property
    def _refused(self) -> int:
        return self.work.verdicts["refused"] + self.work.verdicts["stale"]

    def _give_up(self) -> None:
        """Where nothing came of anything since the last version, and everybody has had a chance."""
        version, nodes, failures = self.coordinator.version, self.plan.nodes, self.work.failures
        failed, refused = failures.count - self._failed_before, self._refused - self._refused_before
        if len(failures.last) == nodes and failed >= (2 * nodes if version else nodes):
            raise NobodyTrains(nobody_trains(version, self._failing()))
        if failed + refused > REFUSALS_MAX * nodes:
            why = failure_words(self._failing()) or self.work.last_reason
            raise NobodyTrains(f"no update after version {version} is accepted any more: {why}")

    def _failing(self) -> dict[str, str]:
        """Whose last training failed, and why, by name."""
        return {self.names[node]: reason for node, reason in sorted(self.work.failures.last.items())}

    def _advance(self) -> None:
        """Start what is asked for, and let the next thing happen."""
        coordinator = self.coordinator
        while coordinator.questions:
            self._begin(coordinator.questions.popleft())
        if self._training or self._paced:
            at, _, action = heapq.heappop(self._agenda)
            coordinator.pass_time(max(0.0, at - coordinator.now))
            action()
            return
        coordinator.wait_for_question(REST_MAX_S)
        if not coordinator.questions and not self._stopped_early:
            why = failure_words(self._failing()) or "all updates were refused"
            raise NobodyTrains(f"nobody trains after version {coordinator.version}: {why}")

    def _begin(self, question: Question) -> None:
        plan, node, coordinator = self.plan, question.node, self.coordinator
        self._visits.asked(node)
        if (decline := self.work.declines(question)) is not None:
            self._training += 1  # until it has said so
            self._at(0.0, partial(self._decline, node, decline))
            return
        rng = self._rngs[node]
        train_s = self._factors[node] * rng.lognormvariate(0.0, plan.stragglers.jitter)
        self.work.asked(question, self._index[node])
        outage = plan.outages.draw(rng, train_s)
        if outage is not None:
            gone_s, back_s = outage
            self._at(gone_s, partial(coordinator.leave, node))
            self._at(back_s, partial(coordinator.come_back, node))
            train_s = max(train_s, back_s)
        self._training += 1
        self._at(train_s, partial(self._turns.finish, question))

    def _offer(self, question: Question) -> None:
        self._training -= 1
        self.work.finish(question, self.coordinator)

    def _decline(self, node: NodeId, decline: Decline) -> None:
        self._training -= 1
        self.coordinator.decline(node, decline)
        self._visits.settled(node)

    def _begin_turns(self) -> None:
        outages = self.plan.outages
        if outages.away:
            self._turns.begin(outages.away)
            self._at(outages.change_s, self._change_turns)

    def _change_turns(self) -> None:
        self._at(self.plan.outages.change_s, self._change_turns)
        self._turns.change()

    def _at(self, delay_s: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._agenda, (self.coordinator.now + delay_s, self._sequence, action))

    def _take_receipts(self) -> None:
        receipts, self.coordinator.receipts = self.coordinator.receipts, []
        for node, receipt in receipts:
            self.work.receipt(self._index[node], receipt)
            if receipt.status.final:
                self._visits.settled(node)

    def _committed(self) -> VersionFigures:
        coordinator, every = self.coordinator, self.plan.evaluate_every
        version = coordinator.version
        self.work.new_version(version, coordinator.model)
        last = version == self.plan.engine.versions
        wanted = every and (version % every == 0 or last)
        metrics = self.pool.evaluate(self.manifest.unflatten(coordinator.model)) if wanted else {}
        if wanted and (self.plan.engine.stopping.patience or self.plan.keep):
            self.coordinator.evaluated(version, metrics)
        members = self.work.take_members()
        lags = [member.staleness for member in members]
        figures = VersionFigures(
            version=version,
            virtual_s=coordinator.now,
            metrics=metrics,
            updates=len(members),
            staleness_mean=float(np.mean(lags)) if lags else 0.0,
            losses={member.node: member.loss for member in members if member.loss is not None},
        )
        self.figures.append(figures)
        return figures

    def _make_work(self) -> NodeWork:
        spec = CodecSpec.parse(self.plan.engine.codec_up)
        limits = self.plan.committer.limits
        keeps = self.plan.engine.train.extra.get(KEPT_KEY)
        hidden = self._private or self._masks is not None or self.plan.engine.noise is not None
        # A store that is kept has what nodes would have sent: a token has neither its size nor its content.
        simple = not (hidden or spec.lossy or limits.rule is not None or limits.clip_norm or keeps or self.plan.keep)
        if simple and not self.manifest.control_count and self.pool.num_examples(0) is not None:
            return VectorWork(self._trainers, self.manifest, self.pool)
        return FrameWork(self._trainers, self.manifest, self.names, self._masks)

    def _result(self, wall_s: float) -> Result:
        return Result(
            digest=bytes(self.coordinator.digest).hex(),
            versions=tuple(self.figures),
            verdicts=dict(self.work.verdicts),
            payload_bytes=self.work.payload_bytes,
            virtual_s=self.coordinator.now,
            wall_s=wall_s,
            away_share=self.coordinator.away_share,
            connected_peak=self._visits.peak,
            check_ins=self._visits.came,
            stopped_early=self._stopped_early,
            failures={self.names[node]: dict(found) for node, found in sorted(self.work.failures.by_node.items())},
            privacy=privacy_row(privacy_report(self.coordinator.store)),
            nodes_privacy=nodes_row(nodes_report(self.coordinator.store)),
        )


def run_report(experiment: Experiment, result: Result, *, strategy: str, codec: str) -> Mapping[str, Any]:
    """What `coordinator.monitoring.report.build_report` says of the store, with what only the simulator knows.

    Times are virtual. ``bytes_up`` counts the frames of the updates, each as large as the mean of the run; models and
    messages do not travel in this simulation, so ``bytes_down`` is 0.
    """
    made: dict[str, Any] = build_report(experiment.coordinator.store, strategy=strategy, codec=codec)
    figures = {one.version: one for one in result.versions}
    frame_bytes = result.payload_bytes / max(1, sum(result.verdicts.values()))
    for row in made["rounds"]:
        metrics = dict(figures[row["version"]].metrics) if row["version"] in figures else {}
        updates = row["accepted"] + row["stale"] + row["refused"]
        row |= {"metrics": metrics, "accuracy": metrics.get("accuracy"), "loss": metrics.get("loss")}
        row |= {"bytes_up": round(frame_bytes * updates), "bytes_down": 0}
    made["updates"] |= {"loss": _losses(made["updates"], experiment, result)}
    made |= {"bytes_up_total": result.payload_bytes, "bytes_down_total": 0, "nodes": experiment.plan.nodes}
    made["virtual"] = True
    return made | {"final_accuracy": next((row["accuracy"] for row in reversed(made["rounds"])), None)}


def _losses(updates: Mapping[str, Any], experiment: Experiment, result: Result) -> list[float | None]:
    """The training loss of each update that is part of a version."""
    known = {
        (experiment.names[index], one.version): loss for one in result.versions for index, loss in one.losses.items()
    }
    return [known.get(key) for key in zip(updates["node"], updates["version"], strict=True)]
