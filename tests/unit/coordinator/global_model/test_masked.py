"""The sum of a masked batch is the integers' sum, to the bit; a batch that cannot be one is dropped whole."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.global_model.aggregation import Aggregated, AggregateLimits, Unusable, aggregate
from coordinator.global_model.masked import MaskedCombine, MaskedModel, NodesNoise
from coordinator.records import Member
from coordinator.strategies.strategy import Averaging
from federation.privacy.classes import classes
from federation.privacy.seeds import SeedMask
from federation.privacy.tail import TailValues, weight_of, write_tail
from federation.privacy.terms import check_terms, quantize, shape_of
from federation.protocol.messages import Reason
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import Digest, NodeId, RunId, UpdateId
from update_codec import CodecSpec, Manifest
from update_codec.masking import MaskedSum, masked

RUN = RunId("0123456789abcdef")
SPEC = CodecSpec.parse("masked")


def manifest(size: int = 300) -> Manifest:
    return Manifest.of({"w": np.zeros(size, np.float32)})


def model(**changes: object) -> MaskedModel:
    plain = MaskedModel(
        helpers=Digest(b"h" * 16), count=2, threshold=2, members=8, levels=1, first_step=0.01, patience=1
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


class Batch:
    """Members with frames, and the sums that helpers answer."""

    def __init__(self, terms: PrivacyTerms, size: int = 300, seed: int = 0, first: int = 0) -> None:
        self.first = first
        self.terms, self.manifest, self.rng = terms, manifest(size), np.random.default_rng(seed)
        self.frames: dict[UpdateId, bytes] = {}
        self.members: list[Member] = []
        self.integers = np.zeros(size, np.int64)
        self.sums = [MaskedSum(shape_of(terms)) for _ in classes(terms.count, terms.threshold)]

    def add(self, update: NDArray[np.float32], examples: int = 1, *, lie: int = 0) -> None:
        """One node's update; ``lie`` is added to its first integer, beyond the levels."""
        name = UpdateId(f"0-n{self.first + len(self.members)}")
        weighted = update * np.float32(weight_of(examples, self.terms))
        found = quantize(weighted, None, self.terms)
        integers = found.integers.astype(np.int64)
        integers[0] += lie
        values = TailValues(
            num_examples=examples,
            within=found.within,
            loss=0.5,
            length=float(np.linalg.norm(weighted)),
            statistics=np.zeros(0, np.float32),
        )
        seeds = [self.rng.bytes(32) for _ in self.sums]
        total = masked(
            shape_of(self.terms), integers, write_tail(values, self.terms), [SeedMask(s, RUN, name) for s in seeds]
        )
        for one, seed in zip(self.sums, seeds, strict=True):
            one.add_mask(SeedMask(seed, RUN, name))
        self.frames[name] = total.frame(self.manifest, step=self.terms.step, spec=SPEC)
        self.members.append(Member(update=name, node=NodeId(name[2:]), num_examples=1, staleness=0))
        self.integers += integers

    def combine(self, sums: Sequence[bytes] | None = None) -> MaskedCombine:
        answered = [one.to_bytes() for one in self.sums] if sums is None else sums
        return MaskedCombine(self.terms, answered, np.zeros(0, np.int64))

    def aggregated(self, combine: MaskedCombine | None = None, limits: AggregateLimits | None = None) -> object:
        nothing: dict[str, NDArray[np.float32]] = {}
        context = (self.manifest, nothing, AggregateLimits() if limits is None else limits)
        return aggregate(
            self.members,
            self.frames.__getitem__,
            Averaging(importance="uniform"),
            context,
            combine=combine or self.combine(),
        )


@given(
    st.integers(1, 8), st.integers(1, 400), st.sampled_from([1, 3, 7, 127]), st.sampled_from([(1, 1), (2, 2), (4, 3)])
)
@settings(max_examples=60, deadline=None)
def test_the_aggregate_is_the_integers_sum_to_the_bit(
    count: int, size: int, levels: int, helpers: tuple[int, int]
) -> None:
    terms = model(levels=levels, count=helpers[0], threshold=helpers[1]).terms(manifest(size), {})
    check_terms(terms)
    batch = Batch(terms, size, seed=count * 1000 + size)
    for _ in range(count):
        batch.add(batch.rng.normal(scale=0.02, size=size).astype(np.float32))
    made = batch.aggregated()
    assert isinstance(made, Aggregated)
    expected = (batch.integers * (terms.step / count)).astype(np.float32)
    np.testing.assert_array_equal(made.step.parameters, expected)


def test_members_weigh_by_their_examples_up_to_the_cap() -> None:
    terms = model(levels=127, importance_cap=100, first_step=1e-3).terms(manifest(), {})
    batch = Batch(terms)
    updates = [np.full(300, value, np.float32) for value in (0.01, 0.02, 0.05)]
    for update, examples in zip(updates, (10, 100, 900), strict=True):
        batch.add(update, examples)
    made = batch.aggregated()
    assert isinstance(made, Aggregated)
    expected = (0.1 * 0.01 + 0.02 + 0.05) / 2.1
    np.testing.assert_allclose(made.step.parameters, expected, atol=1e-3)


@pytest.mark.parametrize("lie", [1, 8, -11])
def test_a_member_that_breaks_the_levels_costs_the_batch(lie: int) -> None:
    """FED-158."""
    batch = Batch(model().terms(manifest(), {}))
    for number in range(5):
        batch.add(np.full(300, 0.02, np.float32), lie=lie if number == 3 else 0)
    made = batch.aggregated()
    assert isinstance(made, Unusable)
    assert (made.reason, set(made.culprits)) == (Reason.NORM, {member.update for member in batch.members})


def test_a_sum_that_is_longer_than_its_members_can_be_costs_the_batch() -> None:
    terms = model(levels=127, first_step=0.01, clip=0.1).terms(manifest(), {})
    batch = Batch(terms)
    for _ in range(5):
        batch.add(np.full(300, 1.0, np.float32))  # shortened by its node
    assert isinstance(batch.aggregated(), Aggregated)
    unbounded = Batch(replace(terms, clip=None))
    for _ in range(5):
        unbounded.add(np.full(300, 1.0, np.float32))
    found = MaskedCombine(terms, [one.to_bytes() for one in unbounded.sums], np.zeros(0, np.int64))
    made = unbounded.aggregated(found)
    assert isinstance(made, Unusable)
    assert (made.reason, len(made.culprits)) == (Reason.NORM, 5)


def test_a_step_that_is_too_long_blames_everybody_and_raises_nothing() -> None:
    batch = Batch(model().terms(manifest(), {}))
    for _ in range(5):
        batch.add(np.full(300, 0.02, np.float32))
    made = batch.aggregated(limits=AggregateLimits(step_norm_max=1e-6))
    assert isinstance(made, Unusable)
    assert set(made.culprits) == {member.update for member in batch.members}


def test_without_one_class_the_sum_is_noise() -> None:
    batch = Batch(model(members=8).terms(manifest(20_000), {}), 20_000)
    for _ in range(5):
        batch.add(np.full(20_000, 0.02, np.float32))
    made = batch.aggregated(batch.combine([batch.sums[0].to_bytes()]))
    assert isinstance(made, Unusable)


def test_the_next_step_follows_the_length_of_the_updates() -> None:
    first = model()
    assert first.terms(manifest(), {}).step == pytest.approx(0.01)
    state = first.follow({}, 1, 3.0, 10_000)
    assert first.terms(manifest(), state).step == pytest.approx(1.5 * 3.0 / 100)
    wild = first.follow(state, 2, 1e6, 10_000)
    assert first.terms(manifest(), wild).step == pytest.approx(4 * 1.5 * 3.0 / 100), "the nodes' own word: by 4 at most"
    small = first.follow(state, 2, 1e-9, 10_000)
    assert first.terms(manifest(), small).step == pytest.approx(1.5 * 3.0 / 100 / 4)
    patient = model(patience=11)
    state = patient.follow({}, 1, 3.0, 10_000)
    assert patient.follow(state, 11, 5.0, 10_000)["privacy.step"][0] == state["privacy.step"][0]
    assert patient.follow(state, 12, 5.0, 10_000)["privacy.step"][0] != state["privacy.step"][0]
    assert first.follow(state, 2, None, 10_000)["privacy.step"][0] == state["privacy.step"][0]


def test_equal_terms_are_announced_after_a_restart() -> None:
    """They come of the model's state alone."""
    state = model().follow({}, 1, 0.123456789, 1_234)
    stored = {name: np.frombuffer(array.tobytes(), array.dtype) for name, array in state.items()}
    assert model().terms(manifest(), stored) == model().terms(manifest(), state)


def test_the_first_version_is_sent_finely_where_no_step_is_given() -> None:
    finely = model(first_step=None)
    first = finely.terms(manifest(), {})
    check_terms(first)
    assert (first.levels, first.step, first.bits) == (2**20 - 1, 2.0**-22, 24)
    batch = Batch(first)
    updates = [batch.rng.normal(scale=0.01, size=300).astype(np.float32) for _ in range(5)]
    for update in updates:
        batch.add(update)
    combine = batch.combine()
    made = batch.aggregated(combine)
    assert isinstance(made, Aggregated)
    np.testing.assert_allclose(made.step.parameters, np.mean(updates, axis=0), atol=1e-6)
    assert combine.tail is not None
    after = finely.terms(manifest(), finely.follow({}, 1, combine.tail.length, 300))
    assert (after.levels, after.bits) == (1, 5)
    assert after.step == pytest.approx(1.5 * 0.01, rel=0.1)
    assert shape_of(after) == shape_of(finely.settled(manifest()))


def noised(**changes: object) -> MaskedModel:
    """A model whose helpers add noise for whole nodes."""
    return model(first_step=None, clip=1.0, noise=NodesNoise(noise=0.5, **changes))  # type: ignore[arg-type]


def test_under_noise_each_version_has_the_same_sensitivity_and_bits() -> None:
    """FED-186: clip over step stays what it is, whatever the clip becomes."""
    adapting = noised(bit_noise=2.0)
    state: dict[str, NDArray[np.float32]] = {}
    seen = set()
    for version in range(1, 60):
        under = adapting.terms(manifest(), state)
        check_terms(under)
        assert under.clip is not None
        seen.add((round(under.clip / under.step, 9), under.bits, under.tail, under.levels))
        state = adapting.follow(state, version, None, 300, 0.0 if under.clip < 3.0 else 1.0)
    assert len(seen) == 1
    assert 2.5 < adapting.terms(manifest(), state).clip < 3.6  # type: ignore[operator]
    assert adapting.terms(manifest(), {}) != adapting.terms(manifest(), state)


def test_the_mean_under_noise_is_divided_by_the_most_members_and_bounded_by_the_noise() -> None:
    from federation.privacy.sum_noise import SumNoise
    from federation.privacy.terms import noise_deviation

    under = noised(bit_noise=2.0).terms(manifest(), {})
    batch = Batch(under)
    for _ in range(5):
        update = batch.rng.normal(size=300).astype(np.float32)
        batch.add(update * np.float32(2.0 / np.linalg.norm(update)))
    noise = sum(
        (SumNoise(secret=bytes([helper]) * 32, sigma=noise_deviation(under)).of(RUN, 1, "b", 300) for helper in (1, 2)),
        np.zeros(300, np.int64),
    )
    for one in batch.sums[:1]:
        one.add_integers(noise, np.array([-3], np.int64))
    combine = batch.combine()
    made = batch.aggregated(combine)
    assert isinstance(made, Aggregated)
    expected = ((batch.integers - noise) * (under.step / 8)).astype(np.float32)
    assert np.array_equal(made.step.parameters, expected)
    assert float(np.square(batch.integers).sum()) <= (5 * under.clip / under.step) ** 2  # type: ignore[operator]
    assert combine.share == pytest.approx((5 + (-5 + 3)) / 2 / 5)


def test_a_sum_beyond_what_noise_can_reach_is_dropped_whole() -> None:
    under = noised().terms(manifest(), {})
    batch = Batch(under)
    for number in range(5):
        batch.add(np.zeros(300, np.float32), lie=(1 << (under.bits - 1)) - 1 if number == 0 else 0)
    found = batch.aggregated()
    assert isinstance(found, Unusable)
    assert found.reason is Reason.NORM
