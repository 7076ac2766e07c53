"""What must be agreed on before anything is added (FED-149, FED-150), and how values become integers."""

import contextlib
import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.privacy.accountant import gaussian_epsilon
from federation.privacy.releases import price
from federation.privacy.tail import TailValues, read_tail, tail_length, weight_of, write_tail
from federation.privacy.terms import (
    batch_digest,
    check_terms,
    helpers_digest,
    largest_sum,
    noise_deviation,
    quantize,
    shape_of,
    terms_digest,
)
from federation.protocol.sum_messages import PrivacyTerms, PrivacyUnit
from federation.types import Digest, ModelVersion, RunId
from update_codec import NonFiniteError
from update_codec.masking import bits_for

RUN = RunId("0123456789abcdef")
TERMS = PrivacyTerms(
    scheme=1,
    helpers=Digest(b"h" * 16),
    count=2,
    threshold=2,
    dimension=1000,
    tail=4,
    step=0.1,
    levels=1,
    members=10,
    bits=5,
)
NOISY = replace(TERMS, tail=0, clip=1.0, noise=2.0, unit=PrivacyUnit.NODES, bits=32)


def test_every_term_changes_the_digest() -> None:
    """FED-149."""
    others = {
        "scheme": 2,
        "helpers": Digest(b"H" * 16),
        "count": 3,
        "threshold": 1,
        "dimension": 1001,
        "tail": 5,
        "step": math.nextafter(0.1, 1),
        "levels": 2,
        "members": 11,
        "bits": 6,
        "clip": 1.0,
        "importance_cap": 1,
        "noise": 1.0,
        "unit": PrivacyUnit.EXAMPLES,
        "bit_noise": 1.0,
        "bandwidth": 2,
        "releases": 3,
        "separation": 2,
        "participations": 2,
    }
    assert others.keys() == {field.name for field in fields(TERMS)}
    changed = {terms_digest(replace(TERMS, **{name: value})) for name, value in others.items()}  # type: ignore[arg-type]
    assert len(changed | {terms_digest(TERMS)}) == len(others) + 1
    assert terms_digest(TERMS).hex() == "90279ddf847dadd369b80a914efa842c"


def test_helpers_are_known_by_their_keys_in_any_order() -> None:
    """FED-149."""
    one, two = b"\x01" * 32, b"\x02" * 32
    assert helpers_digest([one, two], 2) == helpers_digest([two, one], 2)
    assert len({helpers_digest([one, two], 2), helpers_digest([one, two], 1), helpers_digest([one], 1)}) == 3
    assert helpers_digest([one, two], 2).hex() == "0a9f4203ff4508bb2210864c58c858cb"


def test_a_batch_is_its_run_version_terms_and_members() -> None:
    """FED-150."""
    members = [Digest(bytes([number]) * 16) for number in range(5)]
    batch = batch_digest(RUN, ModelVersion(4), TERMS, members)
    assert batch == batch_digest(RUN, ModelVersion(4), TERMS, reversed(members))
    others = {
        batch_digest(RunId("f" * 16), ModelVersion(4), TERMS, members),
        batch_digest(RUN, ModelVersion(5), TERMS, members),
        batch_digest(RUN, ModelVersion(4), replace(TERMS, levels=2), members),
        batch_digest(RUN, ModelVersion(4), TERMS, members[1:]),
    }
    assert len(others | {batch}) == 5
    assert batch.hex() == "96b7059de29cec292c8287490ad6d514"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"scheme": 2}, "upgrade"),
        ({"count": 3}, "not safe with one bad helper"),
        ({"bits": 4}, "5 hold it"),
        ({"importance_cap": 1 << 28}, "beyond the tail's 32 bits"),
        ({"noise": 2.0, "clip": 1.0, "unit": PrivacyUnit.NODES, "tail": 0}, "bits are too few"),
        ({"noise": 2.0, "clip": 1.0, "unit": PrivacyUnit.NODES, "bits": 32}, "no other tail"),
        (
            {"noise": 2.0, "clip": 1.0, "unit": PrivacyUnit.NODES, "bits": 32, "tail": 0, "importance_cap": 9},
            "count the same",
        ),
        (
            {"noise": 2.0, "clip": 1.0, "unit": PrivacyUnit.NODES, "bits": 32, "tail": 0, "count": 4, "threshold": 3},
            "every helper to answer",
        ),
        ({"noise": 2.0, "clip": 1.0, "unit": PrivacyUnit.EXAMPLES, "bits": 32, "tail": 0}, "for whole nodes"),
        ({"noise": 2.0, "clip": 1.0, "unit": None, "bits": 32, "tail": 0}, "for whole nodes"),
        ({"unit": PrivacyUnit.NODES}, "no other unit"),
        ({"unit": PrivacyUnit.EXAMPLES}, "no other unit"),
        ({"noise": 2.0**-1022, "clip": 1.0, "unit": PrivacyUnit.NODES, "bits": 32, "tail": 0}, "noise is .* beyond"),
        ({"noise": 1e308, "clip": 1e308, "unit": PrivacyUnit.NODES, "bits": 32, "tail": 0}, "clip is .* beyond"),
        ({"step": 2.0**-1022}, "step is .* beyond"),
        ({"step": 2.0**-101}, "step is .* beyond"),
        ({"clip": 2.0**101}, "clip is .* beyond"),
        (
            {"noise": 2.0, "bit_noise": 2.0**-1022, "clip": 1.0, "unit": PrivacyUnit.NODES, "bits": 32, "tail": 1},
            "bit_noise is .* beyond",
        ),
    ],
)
def test_terms_that_protect_nothing_or_do_not_fit_are_refused(changes: dict[str, object], why: str) -> None:
    check_terms(TERMS)
    check_terms(NOISY)
    with pytest.raises(ValueError, match=why):
        check_terms(replace(TERMS, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("reach", [2.0**-100, 2.0**100])
def test_terms_at_the_edge_of_what_can_be_reckoned_with_have_a_price_and_a_reach(reach: float) -> None:
    """Whatever passes here, helper and coordinator charge for, and a node rounds with."""
    terms = replace(TERMS, tail=1, step=reach, clip=2.0**100 / reach, noise=reach, bit_noise=reach, bits=32)
    terms = replace(terms, unit=PrivacyUnit.NODES, clip=min(terms.clip or 1.0, 2.0**100))
    assert math.isfinite(price(terms, 0))
    assert math.isfinite(gaussian_epsilon(math.sqrt(price(terms, 0)), 1e-5))
    assert math.isfinite(noise_deviation(terms))
    assert largest_sum(terms) >= 10
    with contextlib.suppress(ValueError):
        check_terms(terms)


def test_the_modulus_has_room_for_the_noise_of_all_helpers() -> None:
    assert largest_sum(TERMS) == 10
    assert noise_deviation(TERMS) == 0
    assert noise_deviation(NOISY) == pytest.approx(20)
    assert largest_sum(NOISY) == 10 + math.ceil(8 * 20 * math.sqrt(2))
    assert shape_of(NOISY).bits == 32
    check_terms(replace(NOISY, bits=bits_for(largest_sum(NOISY))))
    with pytest.raises(ValueError, match="too few"):
        check_terms(replace(NOISY, bits=bits_for(largest_sum(NOISY)) - 1))


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.floats(0.01, 10), st.booleans())
def test_what_is_said_and_the_residual_are_the_update(
    seed: int, levels: int, scale: float, with_residual: bool
) -> None:
    rng = np.random.default_rng(seed)
    update = (rng.standard_normal(1000) * scale).astype(np.float32)
    residual = rng.standard_normal(1000).astype(np.float32) * np.float32(0.05) if with_residual else None
    found = quantize(update, residual, replace(TERMS, levels=levels))
    wanted = update if residual is None else update + residual
    assert np.abs(found.integers).max() <= levels
    assert found.residual.dtype == np.float32
    np.testing.assert_allclose(found.integers * 0.1 + found.residual, wanted, atol=1e-5 * scale)
    inside = np.abs(wanted) < 0.1 * levels
    assert np.abs(found.residual[inside]).max(initial=0) <= 0.05 * 1.001


def test_the_clip_holds_with_the_residual_in_it() -> None:
    """An update of length 1 with a residual of length 1 is sent no longer than the clip of 1."""
    direction = np.full(1000, 1 / math.sqrt(1000), np.float32)
    terms = replace(TERMS, clip=1.0, step=0.001, levels=1000, bits=20)
    found = quantize(direction, direction, terms)
    assert not found.within
    assert math.sqrt(float(((found.integers * 0.001) ** 2).sum())) <= 1.02
    assert np.abs(found.residual).max() <= 0.0005001
    assert quantize(direction * np.float32(0.4), direction * np.float32(0.5), terms).within


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 3), st.integers(1, 3), st.floats(0.01, 100))
def test_for_whole_nodes_the_integers_themselves_are_within_the_bound(
    seed: int, step: float, levels: int, scale: float
) -> None:
    """Rounding can lengthen: what counts for the noise is what is sent."""
    update = (np.random.default_rng(seed).standard_normal(500) * scale).astype(np.float32)
    found = quantize(update, None, replace(NOISY, step=step, levels=levels))
    assert int((found.integers.astype(np.int64) ** 2).sum()) <= (1.0 / step) ** 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_not_sent(bad: float) -> None:
    update = np.zeros(10, np.float32)
    update[3] = bad
    with pytest.raises(NonFiniteError):
        quantize(update, None, TERMS)
    with pytest.raises(NonFiniteError):
        quantize(np.zeros(10, np.float32), update, TERMS)


def tail(examples: int = 30, loss: float | None = 0.5, statistic: float = 0.25, *, length: float = 1.0) -> TailValues:
    statistics = np.array([statistic, -statistic], np.float32)
    return TailValues(num_examples=examples, within=True, loss=loss, length=length, statistics=statistics)


def test_the_sums_of_tails_are_weighted_means() -> None:
    terms = replace(TERMS, tail=tail_length(2), importance_cap=100)
    values = [tail(30, 0.5, 0.25), tail(100, 1.5, 1.0), tail(500, None, -2.0)]
    found = read_tail(sum((write_tail(one, terms) for one in values), np.zeros(7, np.int64)), terms, members=3)
    assert found.weight == pytest.approx(2.3)
    assert [weight_of(one.num_examples, terms) for one in values] == [0.3, 1.0, 1.0]
    assert found.within == 3
    assert found.loss == pytest.approx((0.3 * 0.5 + 1.5) / 1.3, abs=1e-4)
    mean = (0.3 * 0.25 + 1.0 - 2.0) / 2.3
    np.testing.assert_allclose(found.statistics, [mean, -mean], atol=1e-4)


def test_without_a_cap_all_weigh_the_same_and_without_a_tail_nothing_is_said() -> None:
    terms = replace(TERMS, tail=tail_length(2))
    found = read_tail(write_tail(tail(7), terms) + write_tail(tail(700), terms), terms, members=2)
    assert (found.weight, found.within) == (2.0, 2)
    none = read_tail(write_tail(tail(), replace(TERMS, tail=0)), replace(TERMS, tail=0), members=9)
    assert (none.weight, none.loss, len(none.statistics)) == (9.0, None, 0)
    assert read_tail(write_tail(tail(loss=math.nan), terms), terms, members=1).loss is None
    with pytest.raises(ValueError, match="not for 2 statistics"):
        write_tail(tail(), TERMS)


def test_the_mean_length_is_the_geometric_one() -> None:
    terms = replace(TERMS, tail=tail_length(2))
    lengths = [0.001, 0.5, 20.0, 1e30, math.inf, 0.0, math.nan]
    total = sum((write_tail(tail(length=one), terms) for one in lengths[:3]), np.zeros(7, np.int64))
    found = read_tail(total, terms, members=3)
    assert found.length == pytest.approx((0.001 * 0.5 * 20.0) ** (1 / 3), rel=1e-3)
    ends = [int(write_tail(tail(length=one), terms)[4]) for one in lengths[3:]]
    assert ends == [128 * 4096, 128 * 4096, 0, 0]


def test_the_largest_tails_of_the_largest_batch_do_not_wrap() -> None:
    terms = replace(TERMS, tail=tail_length(2), members=2048, bits=13)
    loud = tail(1, 1e300, 1e30, length=math.inf)
    total = (write_tail(loud, terms) * 2048).astype(np.uint32).view(np.int32).astype(np.int64)
    assert read_tail(total, terms, members=2048).length == 2.0**64


@given(st.floats(width=32), st.floats())
def test_whatever_a_model_holds_a_members_tail_stays_within_its_share(statistic: float, loss: float) -> None:
    terms = replace(TERMS, tail=tail_length(2), members=1000, bits=11)
    found = write_tail(tail(1, loss, statistic), terms)
    assert np.abs(found).max() <= ((1 << 31) - 1) // 1000


@pytest.mark.parametrize(
    "sums",
    [
        [0, 0, 0, 0, 0],
        [11, 0, 0, 0, 0],
        [-1, 0, 0, 0, 0],
        [5, 6, 0, 0, 0],
        [5, 5, 0, 6, 0],
        [5, -1, 0, 0, 0],
        [5, 5, 0, 5, -1],
        [5, 5, 0, 5, 5 * 128 * 4096 + 1],
    ],
)
def test_sums_that_no_batch_can_have_are_refused(sums: list[int]) -> None:
    """A member that lies about what cannot be seen costs the batch."""
    terms = replace(TERMS, tail=tail_length(0))
    with pytest.raises(ValueError, match="no batch can have"):
        read_tail(np.array(sums), terms, members=5)
