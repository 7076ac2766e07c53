"""Metrics of which only sums are seen: exact, whatever the nodes, and nothing in one report alone."""

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.privacy.classes import classes
from federation.privacy.metrics import Measured, metric_terms, names_digest, read_sums, write_tail
from federation.privacy.seeds import SEED_BYTES, SeedMask
from federation.privacy.terms import check_terms, shape_of
from federation.protocol.limits import MEMBERS_MAX
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import Digest, RunId, UpdateId
from update_codec.masking import MaskedSum, masked

NAMES = ("accuracy", "loss")
RUN = RunId("0123456789abcdef")
RUN_TERMS = PrivacyTerms(
    scheme=1,
    helpers=Digest(b"h" * 16),
    count=4,
    threshold=3,
    dimension=100,
    tail=7,
    step=0.1,
    levels=1,
    members=8,
    bits=5,
)
TERMS = metric_terms(RUN_TERMS, len(NAMES))
CLASSES = len(classes(TERMS.count, TERMS.threshold))

reports = st.tuples(
    st.integers(0, 10**9),
    st.dictionaries(st.sampled_from((*NAMES, "other")), st.floats(-1e4, 1e4), max_size=3),
)


def told(examples: int, metrics: Mapping[str, float], seeds: list[bytes], name: str = "2147483648-n") -> bytes:
    """One report as it travels."""
    nothing, masks = np.zeros(1, np.int64), [SeedMask(seed, RUN, UpdateId(name)) for seed in seeds]
    return masked(shape_of(TERMS), nothing, write_tail(examples, metrics, NAMES), masks).to_bytes()


def test_the_terms_are_sound_and_the_same_for_all_versions() -> None:
    """FED-196."""
    check_terms(TERMS)
    assert (TERMS.helpers, TERMS.count, TERMS.threshold) == (RUN_TERMS.helpers, 4, 3)
    assert (TERMS.dimension, TERMS.tail, TERMS.members) == (1, 1 + 6 * 5, MEMBERS_MAX)


@given(found=st.lists(reports, min_size=1, max_size=12), key=st.binary(min_size=4, max_size=4))
def test_sums_under_masks_are_the_exact_means(found: list[tuple[int, dict[str, float]]], key: bytes) -> None:
    """FED-196."""
    payloads, masks = [], [MaskedSum(shape_of(TERMS)) for _ in range(CLASSES)]
    for place, (examples, metrics) in enumerate(found):
        name = f"{place}-n"
        seeds = [(key + bytes([place, number])).ljust(SEED_BYTES, b"s") for number in range(CLASSES)]
        payloads.append(told(examples, metrics, seeds, name))
        for number, seed in enumerate(seeds):
            masks[number].add_mask(SeedMask(seed, RUN, UpdateId(name)))
    made = read_sums(payloads, [one.to_bytes() for one in masks], TERMS, NAMES)
    speaking = [(examples, metrics) for examples, metrics in found if examples and metrics]
    assert (made.nodes, made.num_examples) == (len(speaking), sum(examples for examples, _ in speaking))
    for name in NAMES:
        having = [(examples, metrics[name]) for examples, metrics in speaking if name in metrics]
        if not having:
            assert name not in made.metrics
            continue
        total = sum(examples for examples, _ in having)
        exact = sum(Fraction(value) * examples for examples, value in having) / total
        assert abs(made.metrics[name] - float(exact)) <= 2.0**-30 + 1e-12 * abs(float(exact))


def test_what_cannot_be_told_has_no_weight() -> None:
    """FED-196: a NaN loss of one node does not cost the others theirs, and does not show."""
    payloads = [told(10, {"accuracy": 0.5, "loss": math.nan}, []), told(30, {"accuracy": 0.9, "loss": 2.0}, [])]
    payloads += [told(0, {}, []), told(5, {"loss": 1e300}, [])]
    made = read_sums(payloads, [], TERMS, NAMES)
    assert (made.nodes, made.num_examples) == (3, 45)
    assert made.metrics == {"accuracy": pytest.approx(0.8), "loss": pytest.approx(2.0)}
    assert {len(payload) for payload in payloads} == {len(payloads[0])}


def test_nobody_has_measured_anything() -> None:
    assert read_sums([told(0, {}, [])] * 8, [], TERMS, NAMES) == Measured(nodes=0, num_examples=0, metrics={})


def test_one_report_under_masks_is_random_and_a_sum_without_a_helper_is_refused() -> None:
    """FED-196: with one class's masks left on, the digits are beyond what reports can have."""
    seeds = [bytes([number]) * SEED_BYTES for number in range(CLASSES)]
    same = told(10, {"accuracy": 0.5}, seeds), told(10, {"accuracy": 0.5}, [b"x" * SEED_BYTES])
    assert same[0] != same[1] != told(10, {"accuracy": 0.5}, [])
    with pytest.raises(ValueError, match=r"no reports can have|reaches"):
        read_sums([same[0]], [], TERMS, NAMES)


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 9), (0, -1), (1, -1), (1, 8 << 16), (7, 1 << 16), (6, 1)],
    ids=["nodes", "fewer than none", "examples", "a digit too large", "a weight too large", "examples beyond"],
)
def test_a_sum_that_no_reports_can_have_is_refused(place: int, value: int) -> None:
    """FED-198: a bad node that leaves its range costs the evaluation, where that can be seen at all."""
    tail = write_tail(1, {"accuracy": 1.0}, NAMES)
    tail[place] += value
    bad = masked(shape_of(TERMS), np.zeros(1, np.int64), tail, []).to_bytes()
    with pytest.raises(ValueError, match="no reports can have"):
        read_sums([bad], [], TERMS, NAMES)


def test_the_hidden_parameter_is_nothing() -> None:
    bad = masked(shape_of(TERMS), np.ones(1, np.int64), write_tail(1, {"loss": 1.0}, NAMES), []).to_bytes()
    with pytest.raises(ValueError, match="reaches"):
        read_sums([bad], [], TERMS, NAMES)
    with pytest.raises(ValueError, match="bytes"):
        read_sums([b"short"], [], TERMS, NAMES)


def test_names_are_told_apart_by_order_too() -> None:
    """FED-196."""
    assert names_digest(NAMES) != names_digest(NAMES[::-1])
    assert names_digest(("a", "b")) != names_digest(("ab",))
