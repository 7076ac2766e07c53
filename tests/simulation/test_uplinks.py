"""The `link` codec lets a 16 kbit/s node and a LAN node deliver within the same lease."""

import pytest

from benchmarks.codec_link import PARAMETERS, run

KBITS = (16, 100_000)


@pytest.mark.slow
def test_a_node_on_16_kbit_and_one_on_a_lan_are_both_in_time_with_the_link_codec() -> None:
    fleet = run("link", kbits=KBITS, versions=6)
    assert fleet.expired == 0
    assert fleet.applied == (6, 6)
    thin, wide = fleet.newest
    assert thin < 16_000
    assert wide == pytest.approx(2 * PARAMETERS / 8, rel=0.05)


@pytest.mark.slow
def test_the_thin_node_is_late_when_all_nodes_send_the_same() -> None:
    fleet = run("balanced", kbits=KBITS, versions=6)
    assert fleet.expired > 0
    assert fleet.applied[0] < 6
    assert fleet.applied[1] == 6
