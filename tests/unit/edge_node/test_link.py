"""A slow uplink gets smaller updates, never larger ones, and a fast one what was asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from edge_node.link import BPP_MIN, UPLOAD_SHARE, Uplink, within
from update_codec import CodecSpec

EDGE = CodecSpec.parse("edge")


def test_nothing_measured_is_no_bound() -> None:
    assert Uplink().budget_bytes(60.0) is None
    assert within(EDGE, None, 1_000) is EDGE


def test_the_budget_is_what_gets_through_in_a_share_of_the_lease() -> None:
    link = Uplink()
    link.measured(4_000, 2.0)
    assert link.budget_bytes(60.0) == 2_000 * 60 * UPLOAD_SHARE


def test_the_newest_measurement_counts_half() -> None:
    link = Uplink()
    for size in (4_000, 1_000, 1_000):
        link.measured(size, 1.0)
    assert link.bytes_per_s == 1_750


def test_a_receipt_in_no_time_does_not_divide_by_zero() -> None:
    link = Uplink()
    link.measured(10, 0.0)
    assert link.bytes_per_s == 10_000


def test_a_16_kbit_link_halves_what_edge_asks_of_a_large_model() -> None:
    link = Uplink()
    link.measured(2_000, 1.0)
    spec = within(EDGE, link.budget_bytes(lease_s=120.0), 2_742_857)
    assert spec.bpp == pytest.approx(0.175, rel=1e-3)
    assert spec.feedback
    assert CodecSpec.parse(str(spec)) == spec


@pytest.mark.parametrize("codec", ["lossless", "balanced", "eden2", "secagg", "deadzone(step=2,feedback=1)"])
def test_what_has_no_rate_or_would_lose_what_is_left_out_is_not_lowered(codec: str) -> None:
    spec = CodecSpec.parse(codec)
    assert within(spec, 1, 1_000) is spec


def test_a_model_without_parameters_is_left_alone() -> None:
    assert within(EDGE, 1, 0) is EDGE


@given(
    some.integers(0, 10**9),
    some.integers(1, 10**8),
    some.sampled_from(["edge", "extreme", "deadzone(bpp=3,feedback=1)"]),
)
def test_the_rate_is_never_raised_and_never_below_the_least(budget: int, parameters: int, codec: str) -> None:
    spec = CodecSpec.parse(codec)
    lowered = within(spec, budget, parameters)
    assert lowered.bpp is not None
    assert spec.bpp is not None
    assert min(BPP_MIN, spec.bpp) <= lowered.bpp <= spec.bpp
    assert len(str(lowered)) <= 40
