"""Training in virtual time: one job at a time, stops, replacements, and who is slow."""

import random

import numpy as np
import pytest

from edge_node.engine.events import TrainingFailed, TrainingFinished
from edge_node.training.worker import TrainingJob, TrainingSetup
from federation.errors import ConfigError
from federation.protocol.messages import Cohort, ModelRef, RoundAnnouncement, TrainSettings
from federation.task import TaskContext
from federation.tasks.builtin.synthetic import build_null as build
from federation.types import Digest, Epoch, ModelVersion, NodeId, RoundId, RunId
from fedmq.simulation.world.clock import World
from fedmq.simulation.world.trainer import SimTrainer, Stragglers, parse_stragglers
from update_codec import Manifest

TASK = build(TaskContext(node_index=0, node_count=1, data=None, device="cpu", seed=0), size=4)
ARRAYS = dict(TASK.initial_parameters(0))
MANIFEST = Manifest.of(ARRAYS, {})
BASE = MANIFEST.flatten(ARRAYS)


def job(number: int) -> TrainingJob:
    model = ModelRef(
        version=ModelVersion(0),
        digest=Digest(BASE.digest()),
        manifest_digest=Digest(MANIFEST.digest),
        seed=0,
        parts=(),
    )
    announcement = RoundAnnouncement(
        run=RunId("0" * 16),
        epoch=Epoch(1),
        round=RoundId(number),
        task="null-4",
        model=model,
        cohort=Cohort(),
        settings=TrainSettings(),
        codec="lossless",
        min_base_version=ModelVersion(0),
        lease_s=60.0,
        spread_s=0.0,
    )
    return TrainingJob(announcement=announcement, base=BASE, residual=None)


class Bench:
    def __init__(self) -> None:
        self.world = World()
        self.seen: list[tuple[float, object]] = []
        setup = TrainingSetup(node=NodeId("ann"), task=TASK, manifest=MANIFEST)
        self.trainer = SimTrainer(self.world, setup, lambda: 10.0, self._post)

    def _post(self, event: object) -> None:
        self.seen.append((self.world.now, event))

    def run(self, limit_s: float) -> list[tuple[float, type, int]]:
        self.world.run(lambda: False, limit_s=limit_s)
        return [
            (time, type(event), event.result.round if isinstance(event, TrainingFinished) else event.round)  # type: ignore[attr-defined]
            for time, event in self.seen
        ]


def test_a_result_comes_when_its_time_is_over_and_says_how_long_it_took() -> None:
    bench = Bench()
    bench.trainer.start(job(1))
    assert bench.run(9.9) == []
    assert bench.run(11.0) == [(10.0, TrainingFinished, 1)]
    event = bench.seen[0][1]
    assert isinstance(event, TrainingFinished)
    assert event.result.train_s == 10.0


def test_a_job_waits_for_the_running_one_and_is_replaced_by_a_newer_one() -> None:
    bench = Bench()
    for number in (1, 2, 3):
        bench.trainer.start(job(number))
    assert bench.run(60.0) == [(10.0, TrainingFinished, 1), (20.0, TrainingFinished, 3)]


def test_a_stopped_job_fails_soon_and_a_waiting_one_fails_when_it_begins() -> None:
    bench = Bench()
    bench.trainer.start(job(1))
    bench.trainer.start(job(2))
    bench.trainer.stop(RoundId(2))
    bench.trainer.stop(RoundId(1))
    bench.trainer.stop(RoundId(1))
    seen = bench.run(60.0)
    assert [(kind, number) for _, kind, number in seen] == [(TrainingFailed, 1), (TrainingFailed, 2)]
    assert seen[-1][0] < 1.0


def test_a_job_dies_with_its_process() -> None:
    bench = Bench()
    bench.trainer.start(job(1))
    assert bench.trainer.close(timeout_s=1.0)
    assert bench.run(60.0) == []


def test_stragglers_are_drawn_from_their_own_numbers() -> None:
    chosen = parse_stragglers("train_s=5,slow_share=1,slow_factor=10,spread=0")
    assert chosen == Stragglers(train_s=5.0, slow_share=1.0, slow_factor=10.0, spread=0.0)
    assert chosen.node_factor(random.Random(0)) == 10.0
    assert parse_stragglers("none").node_factor(random.Random(0)) == 1.0
    factors = [Stragglers(slow_share=0.0).node_factor(random.Random(seed)) for seed in range(500)]
    assert 0.9 < float(np.median(factors)) < 1.1


@pytest.mark.parametrize("text", ["slow=1", "train_s=long", "train_s=-1", "jitter=inf"])
def test_nonsense_about_stragglers_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_stragglers(text)
