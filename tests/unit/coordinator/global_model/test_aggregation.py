"""The aggregate is exact, the same in any order, and a bad update is named, not averaged."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray

from coordinator.global_model.aggregation import Aggregated, AggregateLimits, Unusable, aggregate
from coordinator.records import Member
from coordinator.strategies.server_optimizer import State
from coordinator.strategies.strategy import Strategy, StrategySettings, Weights, make_strategy
from federation.protocol.messages import Reason
from federation.types import UpdateId
from tests.rigs.model_values import MANIFEST, Arrived, arrived, update
from update_codec import CodecSpec

FEDAVG = make_strategy(StrategySettings(name="fedavg"))


def run(
    *sent: Arrived,
    strategy: Strategy = FEDAVG,
    limits: AggregateLimits = AggregateLimits(),  # noqa: B008 - frozen
    staleness: int = 0,
) -> Aggregated | Unusable:
    payloads = {one.record.update: one.payload for one in sent}
    members = [
        Member(
            update=one.record.update, node=one.record.node, num_examples=one.record.num_examples, staleness=staleness
        )
        for one in sent
    ]
    return aggregate(members, payloads.__getitem__, strategy, (MANIFEST, {}, limits))


def step(result: Aggregated | Unusable) -> Aggregated:
    assert isinstance(result, Aggregated)
    return result


def test_fedavg_weighs_updates_by_their_examples() -> None:
    made = step(run(arrived("a", update(1.0), num_examples=30), arrived("b", update(5.0), num_examples=10)))
    np.testing.assert_array_equal(made.step.parameters, np.full(45, 2.0, np.float32))


def test_the_average_of_equal_updates_is_that_update_and_not_their_sum() -> None:
    made = step(run(*(arrived(f"n{index}", update(0.25), num_examples=7) for index in range(5))))
    np.testing.assert_array_equal(made.step.parameters, np.full(45, 0.25, np.float32))


def test_statistics_are_averaged_and_counters_take_the_largest() -> None:
    made = step(
        run(
            arrived("a", update(0.0, statistics=2.0, counters=(9, 1))),
            arrived("b", update(0.0, statistics=4.0, counters=(3, 5))),
        )
    )
    np.testing.assert_array_equal(made.step.statistics, np.full(3, 3.0, np.float32))
    np.testing.assert_array_equal(made.step.counters, np.array([9, 5]))


def test_statistics_never_enter_the_server_optimizer() -> None:
    momentum = make_strategy(StrategySettings(name="fedavgm", server_learning_rate=0.5))
    made = step(run(arrived("a", update(2.0, statistics=2.0)), strategy=momentum))
    np.testing.assert_array_equal(made.step.parameters, np.full(45, 1.0, np.float32))
    np.testing.assert_array_equal(made.step.statistics, np.full(3, 2.0, np.float32))
    assert made.state["m"].shape == (45,)


@settings(max_examples=25, deadline=None)
@given(
    seed=some.integers(0, 2**16),
    examples=some.lists(some.integers(1, 1_000_000), min_size=2, max_size=6),
    name=some.sampled_from(["fedavg", "fedbuff", "fedadam"]),
    codec=some.sampled_from(["lossless", "balanced", "edge"]),
)
def test_the_step_has_the_same_bits_for_every_order_of_arrival(
    seed: int, examples: list[int], name: str, codec: str
) -> None:
    rng = np.random.default_rng(seed)
    sent = [
        arrived(
            f"n{index}",
            update(rng.normal(size=45).astype(np.float32)),
            num_examples=count,
            codec=CodecSpec.parse(codec),
        )
        for index, count in enumerate(examples)
    ]
    strategy = make_strategy(StrategySettings(name=name))
    forward = step(run(*sent, strategy=strategy, staleness=1))
    shuffled = [sent[index] for index in rng.permutation(len(sent))]
    other = step(run(*shuffled, strategy=strategy, staleness=1))
    assert forward.step.digest() == other.step.digest()


class _Naive:
    """A user's strategy whose float sum depends on the order in which it sees the members."""

    def __init__(self) -> None:
        self.seen: list[list[UpdateId]] = []

    def weigh(self, members: Sequence[Member]) -> Weights:
        self.seen.append([member.update for member in members])
        values = tuple(member.num_examples * 0.1 for member in members)
        total = 0.0
        for value in values:
            total += value
        return Weights(values=values, divisor=total)

    def step(self, aggregate: NDArray[np.float32], state: State) -> tuple[NDArray[np.float32], State]:
        return aggregate, state


def test_a_user_s_strategy_sees_the_members_in_one_order_whatever_that_of_their_arrival() -> None:
    sent = [arrived(f"n{index}", update(1.0 + index), num_examples=1 + 7 * index) for index in range(6)]
    strategy = _Naive()
    made = {step(run(*order, strategy=strategy)).step.digest() for order in (sent, sent[::-1], sent[3:] + sent[:3])}
    assert len(made) == 1
    assert strategy.seen == [[UpdateId(f"0-n{index}") for index in range(6)]] * 3


def test_a_broken_frame_blames_its_sender_alone() -> None:
    good, bad = arrived("a", update(1.0)), arrived("b", update(1.0))
    result = run(good, Arrived(record=bad.record, payload=bad.payload[:-1]))
    assert isinstance(result, Unusable)
    assert (result.culprits, result.reason) == ((UpdateId("0-b"),), Reason.MALFORMED_FRAME)


def test_an_update_beyond_the_headroom_blames_its_sender() -> None:
    result = run(arrived("a", update(1.0)), arrived("b", update(1e30)))
    assert isinstance(result, Unusable)
    assert (result.culprits, result.reason) == ((UpdateId("0-b"),), Reason.NORM)


def test_a_frame_that_is_not_finite_blames_its_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    from coordinator.global_model import update_checks
    from update_codec import NonFiniteFrame

    def refuse(*_: object, **__: object) -> None:
        raise NonFiniteFrame("NaN")

    monkeypatch.setattr(update_checks, "inspect", refuse)
    result = run(arrived("a", update(1.0)))
    assert isinstance(result, Unusable)
    assert result.reason is Reason.NOT_FINITE


def test_a_step_beyond_the_limit_blames_the_largest_update() -> None:
    limits = AggregateLimits(step_norm_max=1.0)
    result = run(arrived("a", update(3.0)), arrived("b", update(9.0)), arrived("c", update(2.0)), limits=limits)
    assert isinstance(result, Unusable)
    assert (result.culprits, result.reason) == ((UpdateId("0-b"),), Reason.NORM)


def test_a_step_that_is_not_finite_is_unusable() -> None:
    class Broken:
        def weigh(self, members: object) -> object:
            return FEDAVG.weigh(members)  # type: ignore[arg-type]

        def step(self, aggregate: np.ndarray, state: object) -> tuple[np.ndarray, object]:
            return np.full_like(aggregate, np.nan), state

    result = run(arrived("a", update(1.0)), strategy=Broken())  # type: ignore[arg-type]
    assert isinstance(result, Unusable)
    assert result.culprits == (UpdateId("0-a"),)


def test_clipping_scales_a_long_update_down_to_the_norm() -> None:
    length = float(np.linalg.norm(np.full(45, 4.0)))
    made = step(run(arrived("a", update(4.0)), limits=AggregateLimits(clip_norm=length / 2)))
    np.testing.assert_allclose(made.step.parameters, np.full(45, 2.0), rtol=1e-6)


def test_zero_updates_are_no_step_and_no_error() -> None:
    made = step(run(arrived("a", update(0.0)), arrived("b", update(0.0))))
    assert not made.step.parameters.any()


@pytest.mark.parametrize("thief", ["aaa", "zzz"])
def test_who_uses_up_the_room_of_the_sums_is_blamed_and_not_whom_it_meets(thief: str) -> None:
    honest = [arrived(name, update(1.0), num_examples=16) for name in ("m", "n")]
    result = run(*honest, arrived(thief, update(0.0, statistics=2.0**30 / 16), num_examples=16))
    assert isinstance(result, Unusable)
    assert (result.culprits, result.reason) == ((UpdateId(f"0-{thief}"),), Reason.NORM)
