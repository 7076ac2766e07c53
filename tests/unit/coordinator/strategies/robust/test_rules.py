"""Each robust rule is its paper's, in float64 and with plain loops, and a minority cannot move it far."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray

from coordinator.global_model.aggregation import Aggregated, AggregateLimits, Unusable, aggregate
from coordinator.records import Member
from coordinator.strategies.robust import RULES, RobustRule, Updates, assumed_attackers, make_rule
from coordinator.strategies.robust.krum import select
from coordinator.strategies.strategy import Averaging, StrategySettings, make_strategy
from federation.errors import ConfigError
from federation.protocol.messages import Reason
from tests.rigs.model_values import MANIFEST, Arrived, arrived, update
from update_codec import CodecError, HeadroomError, Vectors

F64 = NDArray[np.float64]
FEDAVG = make_strategy(StrategySettings(name="fedavg"))


def vectors(count: int, seed: int = 0, *, spread: float = 0.3) -> list[Vectors]:
    """Honest updates: the same direction, and noise."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=45)
    return [
        Vectors(
            (direction + rng.normal(scale=spread, size=45)).astype(np.float32),
            rng.normal(size=3).astype(np.float32),
            rng.integers(0, 9, 2),
        )
        for _ in range(count)
    ]


def combined(rule: RobustRule, sent: Sequence[Vectors], examples: Sequence[int] | None = None) -> Vectors:
    given = [10] * len(sent) if examples is None else examples
    frames = [arrived(f"n{index:03}", one, num_examples=given[index]) for index, one in enumerate(sent)]
    made = run(rule, frames)
    assert isinstance(made, Aggregated)
    return made.step


def run(rule: RobustRule | None, sent: Sequence[Arrived], strategy: object = FEDAVG) -> Aggregated | Unusable:
    payloads = {one.record.update: one.payload for one in sent}
    limits = AggregateLimits(rule=rule)
    members = [one.member for one in sent]
    return aggregate(members, payloads.__getitem__, strategy, (MANIFEST, {}, limits))  # type: ignore[arg-type]


def matrix(sent: Sequence[Vectors]) -> F64:
    return np.array([one.parameters for one in sent], np.float64)


def krum_order(rows: F64, bad: int) -> list[int]:
    """Indices by Krum's score, with plain loops."""
    scores = []
    for i, row in enumerate(rows):
        others = sorted(float(((row - rows[j]) ** 2).sum()) for j in range(len(rows)) if j != i)
        scores.append(sum(others[: max(1, len(rows) - bad - 2)]))
    return sorted(range(len(rows)), key=scores.__getitem__)


def paper(name: str, rows: F64, bad: int) -> F64:
    """The rule's equation."""
    n = len(rows)
    norms = np.linalg.norm(rows, axis=1)
    clipped = rows * np.minimum(1.0, np.median(norms) / norms)[:, None]
    match name:
        case "median":
            found = np.median(rows, axis=0)
        case "trimmed_mean":
            found = np.sort(rows, axis=0)[bad : n - bad].mean(axis=0)
        case "krum":
            found = rows[krum_order(rows, bad)[0]]
        case "multi_krum":
            found = rows[krum_order(rows, bad)[: n - bad]].mean(axis=0)
        case "bulyan":
            found = bulyan(rows, bad)
        case "median_norm_clip":
            found = clipped.mean(axis=0)
        case _:
            found = default(rows) if name == "default" else center(rows)
    return np.asarray(found)


def bulyan(rows: F64, bad: int) -> F64:
    left, chosen = list(range(len(rows))), list[int]()
    while len(chosen) < len(rows) - 2 * bad:
        best = left[krum_order(rows[left], bad)[0]] if len(left) > 1 else left[0]
        chosen.append(best)
        left.remove(best)
    picked = rows[chosen]
    keep = len(picked) - 2 * bad
    result = np.empty(rows.shape[1])
    for j, column in enumerate(picked.T):
        nearest = sorted(column, key=lambda value: abs(value - np.median(column)))[:keep]
        result[j] = np.mean(nearest)
    return result


def center(rows: F64, slack: float = 1.0) -> F64:
    v = np.zeros(rows.shape[1])
    for _ in range(5):
        away = rows - v
        lengths = np.linalg.norm(away, axis=1)
        v = v + (away * np.minimum(1.0, slack * np.median(lengths) / lengths)[:, None]).mean(axis=0)
    return v


def default(rows: F64) -> F64:
    norms = np.linalg.norm(rows, axis=1)
    bound = np.median(norms)
    kept = [row * min(1.0, 1.5 * bound / norm) for row, norm in zip(rows, norms, strict=True) if norm <= 5 * bound]
    return center(np.array(kept), 1.5)


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("count", [7, 10, 11])
def test_a_rule_is_its_paper(name: str, count: int) -> None:
    rule = RULES[name](attackers=0.2)
    sent = [*vectors(count - 2, seed=count), *(update(-50.0), update(80.0))]
    bad = assumed_attackers(rule, count)
    step = combined(rule, sent)
    np.testing.assert_allclose(step.parameters, paper(name, matrix(sent), bad), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(RULES))
def test_attackers_that_shout_the_opposite_do_not_turn_the_step(name: str) -> None:
    honest = vectors(9)
    mean = matrix(honest).mean(axis=0)
    flipped = [Vectors(-10 * one.parameters, one.statistics, one.counters) for one in vectors(2, seed=7)]
    step = combined(RULES[name](attackers=0.2), [*honest, *flipped]).parameters
    similarity = float(step @ mean / np.linalg.norm(step) / np.linalg.norm(mean))
    assert similarity > 0.8
    assert np.linalg.norm(step) < 1.5 * np.linalg.norm(mean)


@pytest.mark.parametrize("name", sorted(RULES))
def test_equal_updates_are_their_own_aggregate(name: str) -> None:
    one = update(0.25, statistics=2.0, counters=(4, 6))
    step = combined(RULES[name](attackers=0.2), [one] * 7)
    np.testing.assert_allclose(step.parameters, one.parameters, rtol=1e-5)
    np.testing.assert_allclose(step.statistics, one.statistics, rtol=1e-5)
    np.testing.assert_array_equal(step.counters, [4, 6])


@pytest.mark.parametrize("name", sorted(RULES))
def test_buffers_of_a_minority_do_not_reach_the_model(name: str) -> None:
    sent = [Vectors(one.parameters, np.ones(3, np.float32), np.array([3, 4])) for one in vectors(9)]
    wild = Vectors(-10 * sent[0].parameters, np.full(3, 1e9, np.float32), np.full(2, 2**60))
    step = combined(RULES[name](attackers=0.2), [*sent, wild, wild])
    np.testing.assert_allclose(step.statistics, np.ones(3), rtol=1e-5)
    np.testing.assert_array_equal(step.counters, [3, 4])


@settings(max_examples=15, deadline=None)
@given(order=some.permutations(range(7)), name=some.sampled_from(sorted(RULES)))
def test_the_order_of_arrival_changes_no_bit(order: list[int], name: str) -> None:
    rule = RULES[name](attackers=0.2)
    sent = [arrived(f"n{index}", one, num_examples=10 + index) for index, one in enumerate(vectors(7))]
    first, second = run(rule, sent), run(rule, [sent[index] for index in order])
    assert isinstance(first, Aggregated)
    assert isinstance(second, Aggregated)
    np.testing.assert_array_equal(first.step.parameters, second.step.parameters)


def test_one_node_that_claims_a_million_examples_weighs_twice_the_median() -> None:
    honest = [update(1.0)] * 4
    step = combined(RULES["median_norm_clip"](attackers=0.2), [*honest, update(-1.0)], [10, 10, 10, 10, 1_000_000])
    np.testing.assert_allclose(step.parameters, np.full(45, (4 - 2) / 6), rtol=1e-4)


def test_fewer_updates_than_configured_lower_the_number_of_assumed_attackers() -> None:
    rule = RULES["bulyan"](attackers=0.3)
    assert [assumed_attackers(rule, count) for count in (3, 7, 11, 15)] == [0, 1, 2, 3]
    assert combined(rule, vectors(3)).parameters.shape == (45,)


def test_bulyan_takes_all_when_nobody_is_assumed_to_be_bad() -> None:
    assert sorted(select(np.ones((3, 3)) - np.eye(3), 0)) == [0, 1, 2]


def test_krum_looks_at_one_neighbour_at_least() -> None:
    step = combined(RULES["krum"](attackers=0.0), vectors(2))
    assert np.isfinite(step.parameters).all()


def test_where_stale_updates_shrink_the_mean_they_shrink_the_rule() -> None:
    strategy = make_strategy(StrategySettings(name="fedbuff", importance="uniform"))
    sent = [arrived(f"n{index}", update(1.0)) for index in range(3)]
    payloads = {one.record.update: one.payload for one in sent}
    members = [Member(update=m.update, node=m.node, num_examples=1, staleness=3) for m in (s.member for s in sent)]
    rule = RULES["median"](attackers=0.0)
    made = aggregate(members, payloads.__getitem__, strategy, (MANIFEST, {}, AggregateLimits(rule=rule)))
    assert isinstance(made, Aggregated)
    np.testing.assert_allclose(made.step.parameters, np.full(45, 0.5), rtol=1e-6)


def test_a_frame_that_is_not_valid_is_blamed_alone() -> None:
    sent = [arrived(f"n{index}", update(1.0)) for index in range(3)]
    broken = Arrived(record=sent[1].record, payload=sent[1].payload[:-1])
    made = run(RULES["median"](attackers=0.2), [sent[0], broken, sent[2]])
    assert isinstance(made, Unusable)
    assert (made.culprits, made.reason) == ((broken.record.update,), Reason.MALFORMED_FRAME)


def test_a_frame_that_holds_nan_is_blamed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = update(1.0)
    bad.parameters[3] = np.nan
    monkeypatch.setattr("update_codec.encoding.np.isfinite", np.ones_like)
    wild = arrived("n9", bad)
    monkeypatch.undo()
    made = run(RULES["median"](attackers=0.2), [arrived("n1", update(1.0)), wild])
    assert isinstance(made, Unusable)
    assert (made.culprits, made.reason) == ((wild.record.update,), Reason.NOT_FINITE)


@pytest.mark.parametrize(("error", "reason"), [(CodecError, Reason.MALFORMED_FRAME), (HeadroomError, Reason.NORM)])
def test_what_the_rule_itself_cannot_take_is_blamed_on_the_largest(error: type[CodecError], reason: Reason) -> None:
    class Broken:
        attackers = 0.0

        def members_min(self, attackers: int) -> int:
            return attackers

        def combine(self, updates: Updates) -> Vectors:
            raise error(f"{updates.count} are too many")

    made = run(Broken(), [arrived("a", update(1.0)), arrived("b", update(2.0))])
    assert isinstance(made, Unusable)
    assert (made.culprits, made.reason) == (("0-b",), reason)


def test_rules_are_made_by_name_or_path() -> None:
    assert make_rule("none", 0.2) is None
    assert make_rule("krum", 0.1) == RULES["krum"](attackers=0.1)
    assert make_rule("coordinator.strategies.robust.krum:Krum", 0.1) == RULES["krum"](attackers=0.1)


@pytest.mark.parametrize("name", ["crum", "no.such.module:rule", "coordinator.strategies.robust:nothing"])
def test_a_rule_that_does_not_exist_names_its_key(name: str) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.robust"):
        make_rule(name, 0.2)


def test_a_robust_step_goes_through_the_server_optimizer() -> None:
    half = Averaging(optimizer=make_strategy(StrategySettings(server_learning_rate=0.5)).optimizer)  # type: ignore[attr-defined]
    made = run(RULES["median"](attackers=0.0), [arrived(f"n{i}", update(1.0)) for i in range(3)], half)
    assert isinstance(made, Aggregated)
    np.testing.assert_allclose(made.step.parameters, np.full(45, 0.5))
