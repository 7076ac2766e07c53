"""How the tests of this folder start our programs."""

import subprocess
import sys

import pytest

from tests.rigs.warm_start import WarmPopen


@pytest.fixture(autouse=True)
def programs_start_warm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m coordinator`` and ``python -m edge_node`` are forked, but where a person's start is the test."""
    if sys.platform == "linux" and request.node.get_closest_marker("cold") is None:
        monkeypatch.setattr(WarmPopen, "address", request.getfixturevalue("warm_process").address)
        monkeypatch.setattr(subprocess, "Popen", WarmPopen)
