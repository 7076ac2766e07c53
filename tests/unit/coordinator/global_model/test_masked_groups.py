"""A robust rule over the means of groups: fewer bad nodes than half of the groups move nothing far."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.global_model.aggregation import Aggregated, AggregateLimits, Unusable, aggregate
from coordinator.global_model.masked_groups import grouped
from coordinator.records import BatchRecord, Member
from coordinator.strategies.robust import make_rule
from coordinator.strategies.strategy import Averaging
from federation.protocol.messages import Reason
from federation.protocol.sum_messages import SumRequest
from federation.types import Digest, ModelVersion, UpdateId
from tests.unit.coordinator.global_model.test_masked import RUN, Batch, manifest, model

GROUPS, SIZE = 5, 5
TRUTH = np.linspace(-0.008, 0.008, 300, dtype=np.float32)


class Groups:
    """Five groups of five members: in the first of them one member lies; in ``wrap`` one is far beyond its levels."""

    def __init__(self, liars: int, *, wrap: Sequence[int] = (), strength: float = -1.0) -> None:
        self.terms = model(levels=7, first_step=0.002).terms(manifest(), {})
        self.batches = [Batch(self.terms, seed=number, first=SIZE * number) for number in range(GROUPS)]
        rng = np.random.default_rng(7)
        for number, batch in enumerate(self.batches):
            for place in range(SIZE):
                update = TRUTH + rng.normal(0, 0.0005, 300).astype(np.float32)
                lies = place == 0 and number < liars
                spoils = number in wrap and place == 1
                batch.add(update * np.float32(strength) if lies else update, lie=60 if spoils else 0)
        self.frames = {name: frame for batch in self.batches for name, frame in batch.frames.items()}
        self.members = [member for batch in self.batches for member in batch.members]

    def record(self) -> BatchRecord:
        requests = [
            SumRequest(
                run=RUN,
                version=ModelVersion(1),
                batch=Digest(bytes([number]) * 16),
                terms=self.terms,
                members=bytes(16 * SIZE),
                classes=(0, 1),
            )
            for number in range(GROUPS)
        ]
        members = tuple(self.members)
        return BatchRecord(
            version=ModelVersion(1), request=requests[0], members=members, reason="", others=tuple(requests[1:])
        )

    def step(self, rule: str | None, members: Sequence[Member] | None = None) -> Aggregated | Unusable:
        sums = [one.to_bytes() for batch in self.batches for one in batch.sums]
        combine = grouped(self.record(), sums, np.zeros(0, np.int64))
        limits = AggregateLimits(rule=None if rule is None else make_rule(rule, 0.2))
        nothing: dict[str, NDArray[np.float32]] = {}
        return aggregate(
            self.members if members is None else members,
            self.frames.__getitem__,
            Averaging(importance="uniform"),
            (manifest(), nothing, limits),
            combine=combine,
        )


def away(found: Aggregated | Unusable) -> float:
    """How far the step is from the truth, in units of its length."""
    assert isinstance(found, Aggregated)
    return float(np.linalg.norm(found.step.parameters - TRUTH) / np.linalg.norm(TRUTH))


@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
def test_honest_groups_give_about_the_mean(rule: str) -> None:
    assert away(Groups(0).step(rule)) < 0.1


def test_one_flipped_sign_in_each_of_two_groups_moves_the_median_little() -> None:
    """Two bad groups of five; the plain mean of all would be a sixth too short."""
    assert away(Groups(2).step("median")) < 0.15
    assert away(Groups(2, strength=-40.0).step("median")) < 0.15


def test_as_many_bad_groups_as_half_do_harm() -> None:
    """The check can fail: with a liar in each group even the median is far off."""
    assert away(Groups(5).step("median")) > 0.3


def test_a_group_with_an_impossible_sum_is_left_out_and_the_others_make_the_version() -> None:
    assert away(Groups(0, wrap=(1,)).step("median")) < 0.1
    found = Groups(0, wrap=(0, 1, 2)).step("median")
    assert isinstance(found, Unusable)
    assert found.reason is Reason.NORM
    assert len(found.culprits) == GROUPS * SIZE
    assert found.detail.startswith("3 groups")


def test_the_order_of_the_members_does_not_matter() -> None:
    groups = Groups(1)
    one, two = groups.step("median"), groups.step("median", list(reversed(groups.members)))
    assert isinstance(one, Aggregated)
    assert isinstance(two, Aggregated)
    assert np.array_equal(one.step.parameters, two.step.parameters)


def test_groups_without_a_rule_make_no_version() -> None:
    assert isinstance(Groups(0).step(None), Unusable)


def test_what_is_told_of_the_groups_is_the_middle_of_them() -> None:
    groups = Groups(0)
    sums = [one.to_bytes() for batch in groups.batches for one in batch.sums]
    combine = grouped(groups.record(), sums, np.zeros(0, np.int64))
    nothing: dict[str, NDArray[np.float32]] = {}
    limits = AggregateLimits(rule=make_rule("median", 0.2))
    weights = Averaging(importance="uniform")
    assert combine.tail is None
    aggregate(groups.members, groups.frames.__getitem__, weights, (manifest(), nothing, limits), combine=combine)
    assert combine.tail is not None
    assert combine.tail.loss == 0.5
    assert combine.tail.length == pytest.approx(float(np.linalg.norm(TRUTH)), rel=0.1)
    assert UpdateId("0-n24") in groups.frames
