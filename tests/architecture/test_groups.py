"""Tests of one group, which share what is dear to make, are on one worker."""

import os

import pytest


@pytest.mark.xdist_group("kept together")
def test_a_group_is_known_to_whoever_spreads_the_tests(request: pytest.FixtureRequest) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("without pytest-xdist there is one worker")
    assert request.node.nodeid.endswith("@kept together")
