"""A slow uplink gets smaller updates, never larger ones, and a fast one what was asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from edge_node.engine.uplink import LEFT_SHARE, UPLOAD_SHARE, Uplink
from edge_node.training.update import BPP_MIN, LINK_BYTES_MIN, PROBE_BYTES, within
from update_codec import CodecSpec, Manifest, encode

EDGE = CodecSpec.parse("edge")
LINK = CodecSpec.parse("link")


def test_nothing_measured_is_no_bound() -> None:
    assert Uplink().budget_bytes(60.0) is None
    assert within(EDGE, None, 1_000) is EDGE


def test_the_budget_is_what_gets_through_in_a_share_of_the_lease() -> None:
    link = Uplink()
    link.measured(4_000, 2.0)
    assert link.budget_bytes(60.0) == 2_000 * 60 * UPLOAD_SHARE


def test_what_is_left_of_the_lease_bounds_the_budget() -> None:
    link = Uplink()
    link.measured(4_000, 2.0)
    assert link.budget_bytes(60.0, left_s=10.0) == 2_000 * 10 * LEFT_SHARE
    assert link.budget_bytes(60.0, left_s=59.0) == link.budget_bytes(60.0)
    assert link.budget_bytes(60.0, left_s=-1.0) == 0


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


@pytest.mark.parametrize(
    "codec", ["lossless", "balanced", "eden2", "common(bits=16,delta=0.1)", "deadzone(step=2,feedback=1)"]
)
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


def test_the_link_codec_probes_before_it_knows_and_then_fills_the_budget() -> None:
    """FED-58."""
    parameters = 1_000_000
    assert str(within(LINK, None, parameters)) == f"deadzone(bytes={PROBE_BYTES},feedback=1)"
    assert str(within(LINK, 60_000, parameters)) == "deadzone(bytes=60000,feedback=1)"
    assert str(within(LINK, 0, parameters)) == f"deadzone(bytes={LINK_BYTES_MIN},feedback=1)"


def test_the_link_codec_never_sends_more_than_its_rate() -> None:
    assert str(within(LINK, 10**9, 1_000)) == "deadzone(bpp=2,feedback=1)"
    assert str(within(LINK, None, 1_000)) == "deadzone(bpp=2,feedback=1)"
    assert str(within(LINK, None, 0)) == "deadzone(bpp=2,feedback=1)"


@pytest.mark.parametrize("budget", [300, 1_000, 5_000, 12_000, 100_000])
def test_a_frame_of_the_link_codec_fits_its_budget(budget: int) -> None:
    values = np.random.default_rng(0).laplace(size=50_000).astype(np.float32)
    manifest = Manifest.of({"x": values})
    frame = encode(manifest.flatten({"x": values}), manifest, within(LINK, budget, 50_000)).frame
    assert len(frame) <= budget
