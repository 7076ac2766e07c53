"""SCAFFOLD by name in real processes: a torch task learns, and its model is evaluated and exported without controls."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from benchmarks.chaos.federation import running
from benchmarks.chaos.plan import Plan
from coordinator.artifacts.export import export_model
from coordinator.monitoring.curves import read_curves, series
from coordinator.storage.store import CurveKind
from federation.runtime.local_broker import LocalBroker

pytestmark = [pytest.mark.broker, pytest.mark.slow]

START_S = 120.0
"""A node imports torch before it is there, and this machine may be busy."""

VERSIONS_MAX = 1_000

PLAN = replace(
    Plan(nodes=3, task="digits", codec="edge", strategy="scaffold", evaluate_every=1),
    buffer=None,
    quorum=3,
    lease_s=60.0,
)


@pytest.mark.thorough
def test_a_torch_task_learns_with_scaffold_and_another_strategy_cannot_take_over(
    broker: LocalBroker, tmp_path: Path
) -> None:
    with running(PLAN, tmp_path, broker.url) as federation:
        assert federation.wait(federation.everybody_works, START_S)
        assert federation.wait_versions(10, START_S)
        for _ in range(
            VERSIONS_MAX
        ):  # the process that evaluates imports torch, too, and leaves out what is no head any more
            if best_accuracy(tmp_path / "coordinator") > 0.9:
                break
            assert federation.wait_versions(1, START_S)
        assert federation.drain()
        assert not federation.surprises
    assert best_accuracy(tmp_path / "coordinator") > 0.9
    export_model(tmp_path / "coordinator", tmp_path / "model.safetensors")
    assert load_file(tmp_path / "model.safetensors").keys() == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    assert "began with scaffold" in refusal_of_another_strategy(tmp_path / "coordinator.toml")


def best_accuracy(folder: Path) -> float:
    """Of the versions that were evaluated so far."""
    curves = series(read_curves(folder), "accuracy", kind=CurveKind.CENTRAL).values()
    return max((accuracy for points in curves for _, accuracy in points), default=0.0)


def refusal_of_another_strategy(settings: Path) -> str:
    settings.write_text(settings.read_text().replace('name = "scaffold"', 'name = "fedavg"'))
    command = [sys.executable, "-m", "coordinator", "run", "--config", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    assert done.returncode == 2
    return " ".join((done.stderr + done.stdout).split())
