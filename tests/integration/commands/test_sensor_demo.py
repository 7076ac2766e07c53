"""``coordinator demo-sensors``, small: real processes from the readings to the score, with a kill on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KEYS = [
    "f1",
    "false_alarm_rate",
    "missed_alarm_rate",
    "readings",
    "readings_lost",
    "score_p99_ms",
    "versions",
    "killed_and_back",
    "total_wall_s",
]


@pytest.mark.thorough
@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pumps_learn_score_and_lose_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--pumps", "2", "--versions", "3", "--rows", "700", "--report", str(report)]
    done = subprocess.run(
        [sys.executable, "-m", "coordinator", "demo-sensors", *options, "--picture", str(tmp_path / "screen.svg")],
        env=os.environ | {"FEDMQ_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "simulated pumps" in done.stdout
    found = json.loads(report.read_text())
    assert list(found) == KEYS
    assert (found["readings"], found["readings_lost"], found["versions"]) == (2 * 700 * 8, 0, 3)
    assert found["killed_and_back"] == 1
    assert found["score_p99_ms"] > 0
    assert 0 <= found["false_alarm_rate"] <= 1
    assert "pump-02" in (tmp_path / "screen.svg").read_text()
