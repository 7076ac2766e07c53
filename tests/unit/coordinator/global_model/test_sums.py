"""Sums of whole sites at the root: the bits of a flat federation, and claims that cost nobody else anything."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from coordinator.global_model.aggregation import Aggregated, AggregateLimits, Unusable, aggregate
from coordinator.global_model.sums import SiteClaims, sum_bytes_max
from coordinator.global_model.update_checks import Inspections, check_update
from coordinator.records import Member
from coordinator.strategies.strategy import StrategySettings, make_strategy
from federation.protocol.messages import Reason
from federation.types import NodeId
from tests.rigs.model_values import MANIFEST, Arrived, arrived, summed, update
from update_codec import CodecSpec

LIMITS = AggregateLimits(per_base=True)
SITE = NodeId("press-shop")
CODECS = ("edge", "balanced", "lossless")


def sent(seed: int, count: int) -> list[Arrived]:
    """Updates of some nodes."""
    rng = np.random.default_rng(seed)
    return [
        arrived(
            f"n{index}",
            update(rng.normal(size=45).astype(np.float32), counters=(index, 3)),
            num_examples=int(rng.integers(1, 4_000)),
            codec=CodecSpec.parse(CODECS[index % 3]),
        )
        for index in range(count)
    ]


def made_of(what: Sequence[tuple[Arrived, int]], strategy: str) -> Aggregated | Unusable:
    """The step that these make, each with its staleness."""
    payloads = {one.record.update: one.payload for one, _ in what}
    members = [
        Member(update=one.record.update, node=one.record.node, num_examples=one.record.num_examples, staleness=late)
        for one, late in what
    ]
    chosen = make_strategy(StrategySettings(name=strategy))
    return aggregate(members, payloads.__getitem__, chosen, (MANIFEST, {}, LIMITS))


@settings(max_examples=40, deadline=None)
@given(
    seed=some.integers(0, 2**16),
    late=some.lists(some.integers(0, 3), min_size=2, max_size=12),
    sites=some.integers(1, 4),
    strategy=some.sampled_from(["fedavg", "fedbuff", "fedadam"]),
)
def test_federation_through_gateways_makes_the_step_of_a_flat_one(
    seed: int, late: list[int], sites: int, strategy: str
) -> None:
    updates = sent(seed, len(late))
    flat = made_of(list(zip(updates, late, strict=True)), strategy)
    shards: dict[tuple[int, int], list[Arrived]] = {}
    rng = np.random.default_rng(seed)
    for one, base in zip(updates, late, strict=True):
        shards.setdefault((int(rng.integers(sites)), base), []).append(one)
    tree = made_of([(summed(f"g{site}-{base}", shard), base) for (site, base), shard in shards.items()], strategy)
    assert isinstance(flat, Aggregated)
    assert isinstance(tree, Aggregated)
    assert tree.step.digest() == flat.step.digest()


def test_a_site_counts_as_its_nodes_beside_a_single_node() -> None:
    one, other = arrived("a", update(1.0), num_examples=10), arrived("b", update(3.0), num_examples=10)
    alone = arrived("c", update(8.0), num_examples=20)
    made = made_of([(summed("g", [one, other]), 0), (alone, 0)], "fedavg")
    assert isinstance(made, Aggregated)
    np.testing.assert_array_equal(made.step.parameters, np.full(45, 5.0, np.float32))


def test_what_leaves_no_room_for_others_is_named_and_goes() -> None:
    huge = arrived("a", update(3e7), num_examples=4_000)
    made = made_of([(huge, 0), (arrived("b", update(1.0), num_examples=5), 0)], "fedavg")
    assert isinstance(made, Unusable)
    assert (made.culprits, made.reason) == ((huge.record.update,), Reason.NORM)


@pytest.mark.parametrize(
    ("members_max", "examples_max", "more", "reason"),
    [
        (3, 4_000, 0, None),
        (2, 4_000, 0, Reason.NOT_ASSIGNED),
        (3, 10, 0, Reason.BAD_NUM_EXAMPLES),
        (3, 4_000, 1, Reason.BAD_NUM_EXAMPLES),
        (0, 4_000, 0, Reason.CODEC),
    ],
)
def test_a_gateway_claims_no_more_than_the_root_has_written_down(
    members_max: int, examples_max: int, more: int, reason: Reason | None
) -> None:
    site = summed(SITE, sent(1, 3))
    record = replace(site.record, num_examples=site.record.num_examples + more)
    claims = SiteClaims({record.node: members_max} if members_max else {}, examples_max)
    found = check_update(record, site.payload, Inspections(MANIFEST), 1e5, claims)
    assert (None if found is None else found[0]) is reason


def test_nobody_sends_sums_unless_the_root_says_so() -> None:
    site = summed(SITE, sent(1, 3))
    found = check_update(site.record, site.payload, Inspections(MANIFEST), 1e5)
    assert found is not None
    assert found[0] is Reason.CODEC


def test_the_mean_of_a_sum_has_the_bound_of_an_update() -> None:
    site = summed(SITE, [arrived("a", update(100.0)), arrived("b", update(100.0))])
    found = check_update(
        site.record, site.payload, Inspections(MANIFEST), 10.0, SiteClaims({site.record.node: 9}, 9999)
    )
    assert found is not None
    assert found[0] is Reason.NORM


def test_an_honest_sum_is_within_the_bound_of_its_bytes() -> None:
    rng = np.random.default_rng(0)
    noisy = [arrived(f"n{index}", update(rng.normal(size=45).astype(np.float32) * 1e4)) for index in range(9)]
    assert len(summed(SITE, noisy).payload) <= sum_bytes_max(MANIFEST)


def test_damaged_member_is_named_and_goes_alone() -> None:
    good, bad = sent(2, 2)
    made = made_of([(good, 0), (replace(bad, payload=bad.payload[:-1]), 0)], "fedavg")
    assert isinstance(made, Unusable)
    assert (made.culprits, made.reason) == ((bad.record.update,), Reason.MALFORMED_FRAME)


def test_bases_that_have_no_room_in_one_word_make_a_step_together() -> None:
    """Each of them has room by itself."""
    one, other = (arrived(name, update(1.4e5), num_examples=4_000) for name in "ab")
    made = made_of([(one, 0), (other, 1)], "fedavg")
    assert isinstance(made, Aggregated)
    np.testing.assert_array_equal(made.step.parameters, np.full(45, 1.4e5, np.float32))


def test_more_nodes_than_one_word_has_room_for_claim_the_most_that_they_may() -> None:
    """The limit of examples is what `limits.num_examples_max` says by default: 2^30 over it were 1,073 nodes."""
    nodes = [arrived(f"n{index}", update(1.0), num_examples=1_000_000) for index in range(1_200)]
    made = made_of([(node, 0) for node in nodes], "fedavg")
    assert isinstance(made, Aggregated)
    np.testing.assert_array_equal(made.step.parameters, np.full(45, 1.0, np.float32))
