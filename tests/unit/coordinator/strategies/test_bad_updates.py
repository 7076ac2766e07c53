"""Poisoned, duplicated, stale and NaN updates in every round leave the model of every strategy as it is, to the bit."""

from unittest.mock import patch

import numpy as np
import pytest

from coordinator.engine.settings import EngineSettings
from coordinator.global_model.aggregation import AggregateLimits
from coordinator.global_model.committer import CommitterSettings
from coordinator.strategies.presets import STRATEGIES
from coordinator.strategies.robust import RULES, make_rule
from coordinator.strategies.strategy import StrategySettings, make_strategy
from federation.protocol.messages import Reason
from federation.types import NodeId
from fedmq.simulation.experiment.direct import DirectCoordinator, Question, Setup
from tests.rigs.model_values import INITIAL, MANIFEST
from update_codec import CodecSpec, Vectors, encode, inspect

HONEST = [NodeId(f"honest{index}") for index in range(7)]
BAD = [NodeId(name) for name in ("nan", "poison", "stale", "garbage")]
NORM_MAX = 50.0
VERSIONS = 9


def honest_update(node: NodeId, version: int) -> Vectors:
    rng = np.random.default_rng([HONEST.index(node), version])
    return Vectors(
        rng.normal(scale=0.1, size=45).astype(np.float32),
        rng.normal(scale=0.1, size=3).astype(np.float32),
        rng.integers(0, 50, 2),
    )


def not_a_number() -> bytes:
    """A frame that an honest encoder refuses to make."""
    values = np.zeros(45, np.float32)
    values[7] = np.nan
    update = Vectors(values, np.zeros(3, np.float32), np.zeros(2, np.int64))
    with patch("update_codec.encoding.np.isfinite", np.ones_like):
        return encode(update, MANIFEST, CodecSpec.parse("lossless")).frame


def bad_update(node: NodeId) -> Vectors | bytes:
    if node == "nan":
        return not_a_number()
    if node == "garbage":
        return b"\x00garbage" * 9
    return Vectors(np.full(45, 1e3, np.float32), np.full(3, 1e3, np.float32), np.full(2, 2**40))


class Federation:
    """A coordinator whose honest nodes always send the same; the bad ones are silent, or not."""

    def __init__(self, strategy: str, rule: str, *, buffer: int) -> None:
        everyone = HONEST + BAD
        synchronous = buffer == len(HONEST)
        engine = EngineSettings(
            task="t",
            codec_up="lossless",
            concurrency=len(everyone),
            buffer=buffer,
            refill=1,
            quorum=buffer,
            nodes_min=len(everyone),
            max_staleness=0 if synchronous else 2,
            lease_s=1e6,
            evaluate_every=0,
        )
        committer = CommitterSettings(
            strategy=make_strategy(StrategySettings(name=strategy, history=2)),
            limits=AggregateLimits(rule=make_rule(rule, 0.2)),
        )
        setup = Setup(manifest=MANIFEST, initial=INITIAL, engine=engine, committer=committer, update_norm_max=NORM_MAX)
        self.coordinator = DirectCoordinator(setup, everyone)
        self.late = engine.max_staleness
        self.pending: dict[NodeId, Question] = {}
        self.held: list[Question] = []

    def run(self, *, attacked: bool) -> Vectors:
        """Honest nodes answer in turn; returns the last model."""
        while self.coordinator.version < VERSIONS:
            for node in (*BAD, *HONEST):
                self._look()
                if self.coordinator.version < VERSIONS and node in self.pending:
                    self._answer(node, attacked=attacked)
            # Refused nodes rest for up to an hour.
            self.coordinator.pass_time(4_000.0)
        return self.coordinator.model

    def reasons(self) -> set[Reason]:
        return {receipt.reason for _, receipt in self.coordinator.receipts}

    def _look(self) -> None:
        while self.coordinator.questions:
            question = self.coordinator.questions.popleft()
            self.pending[question.node] = question

    def _answer(self, node: NodeId, *, attacked: bool) -> None:
        question = self.pending.pop(node)
        if node in HONEST:
            update = honest_update(node, question.announcement.model.version)
            for _ in range(2 if attacked else 1):
                self.coordinator.answer(question, update, 10 + HONEST.index(node))
        elif node == "stale":
            self.held.append(question)
            while attacked and self.coordinator.version - self.held[0].announcement.model.version > self.late:
                self.coordinator.answer(self.held.pop(0), honest_update(HONEST[0], 99), 1_000)
        elif attacked:
            self.coordinator.answer(question, bad_update(node), 1_000)


def test_the_crafted_frame_holds_nan() -> None:
    assert not inspect(not_a_number(), MANIFEST).finite


CASES = [
    *((name, "none", 7) for name in sorted(set(STRATEGIES) - {"fedasync"})),
    *((name, "none", 1 if name == "fedasync" else 3) for name in sorted(STRATEGIES)),
    *(("fedavg", rule, 7) for rule in sorted(RULES)),
    ("fedbuff", "default", 5),
]


@pytest.mark.parametrize(("strategy", "rule", "buffer"), CASES)
def test_bad_updates_in_every_round_change_no_bit_of_the_model(strategy: str, rule: str, buffer: int) -> None:
    clean = Federation(strategy, rule, buffer=buffer)
    attacked = Federation(strategy, rule, buffer=buffer)
    expected, found = clean.run(attacked=False), attacked.run(attacked=True)
    np.testing.assert_array_equal(found.parameters, expected.parameters)
    np.testing.assert_array_equal(found.statistics, expected.statistics)
    np.testing.assert_array_equal(found.counters, expected.counters)
    assert np.abs(found.parameters - INITIAL.parameters).max() > 1e-3
    assert clean.reasons() == {Reason.NONE}
    assert attacked.reasons() >= {Reason.NORM, Reason.NOT_FINITE, Reason.MALFORMED_FRAME, Reason.TOO_STALE}
