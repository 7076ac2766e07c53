"""Who is asked to train (FED-26)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import LocalProtocolError
from federation.protocol.cohort import (
    COHORT_NODES_MAX,
    EVERYONE,
    FINGERPRINT_BYTES,
    NOBODY,
    cohort_of,
    cohort_share,
    fingerprint,
    includes,
    share_hash,
)
from federation.protocol.messages import Cohort
from federation.types import NodeId, RoundId, RunId

RUN = RunId("0123456789abcdef")
ROUND = RoundId(5)
FLEET = [NodeId(f"node-{index}") for index in range(1000)]


@given(st.sets(st.sampled_from(FLEET), max_size=50))
def test_exactly_the_listed_nodes_are_asked(chosen: set[NodeId]) -> None:
    """FED-26; no two of these thousand nodes share a fingerprint in this round."""
    cohort = cohort_of(RUN, ROUND, chosen)
    assert len(cohort.fingerprints) == FINGERPRINT_BYTES * len(chosen)
    assert {node for node in FLEET if includes(cohort, RUN, ROUND, node)} == chosen


def test_a_full_list_finds_each_of_its_nodes() -> None:
    cohort = cohort_of(RUN, ROUND, FLEET[:COHORT_NODES_MAX])
    assert [node for node in FLEET if includes(cohort, RUN, ROUND, node)] == FLEET[:COHORT_NODES_MAX]


def test_the_order_in_which_nodes_are_chosen_does_not_show() -> None:
    assert cohort_of(RUN, ROUND, FLEET[:9]) == cohort_of(RUN, ROUND, reversed(FLEET[:9]))


def test_a_list_beyond_its_limit_is_our_own_bug() -> None:
    with pytest.raises(LocalProtocolError, match="use a share"):
        cohort_of(RUN, ROUND, FLEET[: COHORT_NODES_MAX + 1])


@pytest.mark.parametrize("cohort", [NOBODY, cohort_share(0.0), cohort_of(RUN, ROUND, [])])
def test_nobody_is_nobody(cohort: Cohort) -> None:
    assert not any(includes(cohort, RUN, ROUND, node) for node in FLEET)


@pytest.mark.parametrize("cohort", [EVERYONE, cohort_share(1.0)])
def test_everyone_is_everyone(cohort: Cohort) -> None:
    assert cohort == EVERYONE
    assert all(includes(cohort, RUN, ROUND, node) for node in FLEET)


def test_even_the_node_with_the_highest_hash_is_part_of_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.protocol.cohort.share_hash", lambda *_: 2**64 - 1)
    assert includes(EVERYONE, RUN, ROUND, FLEET[0])
    assert not includes(Cohort(share=2**64 - 2), RUN, ROUND, FLEET[0])


def test_a_share_asks_about_that_share_and_another_one_each_round() -> None:
    """FED-26: 1000 draws at 0.3 have a standard deviation of 14.5."""
    asked = [{node for node in FLEET if includes(cohort_share(0.3), RUN, RoundId(number), node)} for number in range(3)]
    assert all(200 < len(nodes) < 400 for nodes in asked)
    assert asked[0] != asked[1] != asked[2]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_nothing_and_all(fraction: float) -> None:
    with pytest.raises(LocalProtocolError, match="between 0 and 1"):
        cohort_share(fraction)


def test_hashes_are_those_of_the_document() -> None:
    """FED-26: another implementation must come to the same numbers."""
    assert fingerprint(RUN, ROUND, NodeId("node-1")).hex() == "2c9e0e7b"
    assert share_hash(RUN, ROUND, NodeId("node-1")) == 3_458_510_966_620_355_709


def test_hashes_are_salted_by_run_and_round() -> None:
    node = FLEET[0]
    other = RunId("fedcba9876543210")
    assert len({fingerprint(run, round_id, node) for run in (RUN, other) for round_id in (ROUND, RoundId(6))}) == 4
    assert len({share_hash(run, round_id, node) for run in (RUN, other) for round_id in (ROUND, RoundId(6))}) == 4
