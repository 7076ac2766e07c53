"""Every strategy makes the model of its paper: synchronous and asynchronous, with duplicates, and with buffers."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import CommitterSettings
from coordinator.strategies.presets import STRATEGIES
from coordinator.strategies.strategy import StrategySettings, make_strategy
from federation.protocol.messages import ReceiptStatus
from federation.types import NodeId
from fedmq.simulation.experiment.direct import DirectCoordinator, Question, Setup
from tests.rigs.model_values import INITIAL, MANIFEST
from tests.rigs.papers import Paper, Sent
from update_codec import Vectors

NODES = [NodeId(f"n{index}") for index in range(12)]
SYNCHRONOUS = sorted(set(STRATEGIES) - {"fedasync"})


def coordinator(name: str, *, concurrency: int, buffer: int, staleness: str | None = None) -> DirectCoordinator:
    late = 0 if buffer == concurrency else 10
    engine = EngineSettings(
        task="t",
        codec_up="lossless",
        concurrency=concurrency,
        buffer=buffer,
        refill=concurrency if late == 0 else 1,
        quorum=buffer,
        nodes_min=len(NODES),
        max_staleness=late,
        evaluate_every=0,
    )
    strategy = make_strategy(StrategySettings(name=name, staleness=staleness, history=late))
    setup = Setup(
        manifest=MANIFEST, initial=INITIAL, engine=engine, committer=CommitterSettings(strategy=strategy), seed=5
    )
    return DirectCoordinator(setup, NODES)


@dataclass
class Both:
    """The coordinator and the paper, given the same updates."""

    ours: DirectCoordinator
    paper: Paper
    buffer: int
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(11))
    waiting: list[Sent] = field(default_factory=list)
    models: list[np.ndarray] = field(default_factory=list)
    counters: np.ndarray = field(default_factory=INITIAL.counters.copy)
    taus: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.models.append(self.paper.model)

    def train(self, question: Question, *, twice: bool = False) -> None:
        """One node answers, perhaps twice; the paper hears it once."""
        base = question.announcement.model.version
        update = Vectors(
            self.rng.normal(scale=0.1, size=45).astype(np.float32),
            self.rng.normal(scale=0.1, size=3).astype(np.float32),
            self.rng.integers(0, 50, 2),
        )
        examples = int(self.rng.integers(5, 500))
        self.taus.add(self.paper.version - base)
        for _ in range(2 if twice else 1):
            self.ours.answer(question, update, examples)
        self.waiting.append(
            Sent(
                base_version=base,
                base=self.models[base],
                trained=self.models[base] + update.parameters.astype(np.float64),
                examples=examples,
                statistics=update.statistics.astype(np.float64),
            )
        )
        self.counters = np.maximum(self.counters, update.counters)
        if len(self.waiting) == self.buffer:
            self.paper.commit(self.waiting)
            self.waiting = []
            self.models.append(self.paper.model)

    def check(self) -> None:
        model = self.ours.model
        assert self.ours.version == self.paper.version
        np.testing.assert_allclose(model.parameters, self.paper.model, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(model.statistics, self.paper.statistics, rtol=1e-4, atol=1e-5)


def both(name: str, *, concurrency: int, buffer: int, staleness: str | None = None) -> Both:
    kind = staleness or STRATEGIES[name].staleness
    paper = Paper(name, INITIAL.parameters.astype(np.float64), INITIAL.statistics.astype(np.float64), s=kind)
    ours = coordinator(name, concurrency=concurrency, buffer=buffer, staleness=staleness)
    return Both(ours=ours, paper=paper, buffer=buffer)


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_synchronous_rounds_make_the_models_of_the_paper(name: str) -> None:
    pair = both(name, concurrency=4, buffer=4)
    for version in range(6):
        asked = [pair.ours.questions.popleft() for _ in range(4)]
        for index, question in enumerate(asked):
            pair.train(question, twice=index == version % 3)
        pair.check()
        np.testing.assert_array_equal(pair.ours.model.counters, pair.counters)
    assert pair.taus == {0}
    assert [receipt.status for _, receipt in pair.ours.receipts].count(ReceiptStatus.APPLIED) >= 24


@pytest.mark.parametrize(
    ("name", "staleness"),
    [(name, None) for name in sorted(STRATEGIES)] + [("fedasync", "constant"), ("fedasync", "hinge")],
)
def test_asynchronous_versions_make_the_models_of_the_paper(name: str, staleness: str | None) -> None:
    buffer = 1 if name == "fedasync" else 3
    pair = both(name, concurrency=8, buffer=buffer, staleness=staleness)
    for number in range(buffer * 12):
        # The oldest questions wait longest: the lag of an update is that of the message, not of a table.
        questions = pair.ours.questions
        questions.rotate(-int(pair.rng.integers(len(questions))))
        pair.train(questions.popleft(), twice=number % 4 == 0)
        pair.check()
    assert max(pair.taus) >= 3


def test_fedasync_without_mixing_adds_what_the_node_learned_and_keeps_no_history() -> None:
    strategy = make_strategy(StrategySettings(name="fedasync", mixing=False, server_learning_rate=1.0))
    step, state = strategy.step(np.ones(3, np.float32), {})
    np.testing.assert_array_equal(step, np.ones(3, np.float32))
    assert state == {}


def test_the_history_holds_as_many_steps_as_an_update_may_lag_behind() -> None:
    strategy = make_strategy(StrategySettings(name="fedasync", history=2))
    state: dict[str, np.ndarray] = {}
    for value in (1.0, 2.0, 3.0):
        _, after = strategy.step(np.full(2, value, np.float32), state)
        state = dict(after)
    np.testing.assert_allclose(state["step_1"], 1.8, rtol=1e-6)
    np.testing.assert_allclose(state["step_2"], 1.2, rtol=1e-6)
    assert set(state) == {"step_1", "step_2"}
