"""The same seed gives the same model in the simulator and in real processes on a real broker."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedmq.simulation.experiment.cli import TrainOptions, build_experiment

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(400)]


def real_digest(arguments: list[str]) -> str:
    command = [
        sys.executable,
        "-m",
        "coordinator",
        "demo",
        "--no-chaos",
        "--json",
        "--selector",
        "repeatable",
        *arguments,
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(json.loads(done.stdout)["model_digest"])


@pytest.mark.parametrize("codec", ["lossless", "edge"])
def test_some_nodes_of_a_skewed_fleet_train_the_same_model(codec: str) -> None:
    arguments = [
        "--task",
        "digits",
        "--nodes",
        "4",
        "--per-round",
        "2",
        "--rounds",
        "4",
        "--codec",
        codec,
        "--seed",
        "3",
    ]
    real = real_digest([*arguments, "--partition", "dirichlet:0.5"])
    options = TrainOptions(
        task="digits",
        nodes=4,
        per_round=2,
        rounds=4,
        codec=codec,
        seed=3,
        partition="dirichlet:0.5",
        selector="repeatable",
        stacked=False,
    )
    assert build_experiment(options).run().digest == real


@pytest.mark.parametrize("codec", ["lossless", "edge"])
def test_scaffold_makes_the_same_model(codec: str) -> None:
    shape = ["--task", "digits", "--nodes", "4", "--per-round", "2", "--rounds", "5", "--seed", "3"]
    real = real_digest([*shape, "--codec", codec, "--strategy", "scaffold", "--partition", "dirichlet:0.5"])
    options = TrainOptions(
        task="digits",
        nodes=4,
        per_round=2,
        rounds=5,
        codec=codec,
        strategy="scaffold",
        seed=3,
        partition="dirichlet:0.5",
        selector="repeatable",
    )
    assert build_experiment(options).run().digest == real


@pytest.mark.data
def test_job_j1_trains_the_same_model(data_dir: Path) -> None:
    arguments = ["--task", "mnist-mlp", "--nodes", "10", "--per-round", "5", "--rounds", "5", "--codec", "lossless"]
    real = real_digest([*arguments, "--data", str(data_dir)])
    options = TrainOptions(
        task="mnist-mlp",
        nodes=10,
        per_round=5,
        rounds=5,
        data=data_dir,
        selector="repeatable",
        stacked=False,
    )
    assert build_experiment(options).run().digest == real
