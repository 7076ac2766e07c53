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


KEPT = """
import torch
from federation.protocol.messages import TrainSettings
from federation.tasks import TorchTask

DEFAULT_SETTINGS = TrainSettings(batch_size=10, learning_rate=0.01, extra={"adam": 1, "optimizer_kept": 1})

def build(context):
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    return TorchTask(context, model=lambda: torch.nn.Linear(4, 2), loss=torch.nn.functional.cross_entropy,
                     train_data=(x, (x[:, 0] > 0).long()))
"""


@pytest.mark.parametrize("codec", ["lossless", "edge"])
def test_kept_optimizer_states_make_the_same_model(codec: str, tmp_path: Path) -> None:
    task = tmp_path / "kept_task.py"
    task.write_text(KEPT)
    shape = ["--task", str(task), "--nodes", "3", "--per-round", "2", "--rounds", "5", "--seed", "3", "--codec", codec]
    options = {"nodes": 3, "per_round": 2, "rounds": 5, "codec": codec, "seed": 3, "selector": "repeatable"}
    kept = build_experiment(TrainOptions(task=str(task), **options)).run()  # type: ignore[arg-type]
    assert kept.digest == real_digest(shape)
    other = tmp_path / "forgetful_task.py"
    other.write_text(KEPT.replace('"optimizer_kept": 1', '"optimizer_kept": 0'))
    assert build_experiment(TrainOptions(task=str(other), **options)).run().digest != kept.digest  # type: ignore[arg-type]


@pytest.mark.thorough
@pytest.mark.data
def test_job_j1_trains_the_same_model_and_five_rounds_reach_its_figure(data_dir: Path) -> None:
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
    result = build_experiment(options).run()
    assert result.digest == real
    assert result.versions[-1].metrics["accuracy"] >= 0.865
