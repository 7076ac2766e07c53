"""The jobs that run as processes around a real broker: J1 and J3r."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs.resnet18 import build as build_resnet
from benchmarks.jobs.row import Row
from benchmarks.reference_j1 import run as plain_j1
from federation.task import TaskContext
from fedmq.simulation.experiment.cli import TrainOptions, build_experiment
from update_codec import Manifest

__all__ = ["REAL"]

RESNET = Path(__file__).with_name("resnet18.py")
PATIENCE_S = 900


def j1(data: Path, out: Path) -> Iterator[Row]:
    """Ten processes, five per round; the simulator makes the same model."""
    del out
    arguments = ["--task", "mnist-mlp", "--nodes", "10", "--per-round", "5", "--rounds", "5", "--data", str(data)]
    found = _demo([*arguments, "--codec", "lossless", "--selector", "repeatable"])
    reference = plain_j1(data, rounds=5, seed=0)["accuracy"]
    assert isinstance(reference, list)  # noqa: S101 - as it says
    shown: dict[str, Any] = {
        "model": "MLP 784-128-64-10, MNIST",
        "setting": "10 nodes of 6,000, 5 per round, 5 rounds of one epoch, SGD 0.01",
    }
    yield Row(
        job="J1",
        ran="real broker",
        figure=100 * float(str(found["final_accuracy"])),
        unit=" %",
        bar=87.0,
        reference=f"{reference[-1]:.2f} %",
        **shown,
    )
    options = TrainOptions(
        task="mnist-mlp", nodes=10, per_round=5, rounds=5, data=data, selector="repeatable", stacked=False
    )
    differs = float(build_experiment(options).run().digest != found["model_digest"])
    yield Row(
        job="J1, simulated against real: digests that differ",
        ran="both",
        figure=differs,
        unit="",
        bar=0,
        at_least=False,
        **shown,
    )


def j3r(data: Path, out: Path) -> Iterator[Row]:
    """ResNet-18 to a flat vector and back, and one round of it."""
    del data, out
    task = build_resnet(TaskContext(node_index=0, node_count=2, device="cpu"))
    arrays = dict(task.initial_parameters(0))
    manifest = Manifest.of(arrays, task.roles())
    back = manifest.unflatten(manifest.flatten(arrays))
    differ = sum(int((np.asarray(back[name]) != array).sum()) for name, array in arrays.items())
    shown: dict[str, Any] = {"model": f"ResNet-18, {manifest.parameter_count:,} parameters, random images", "unit": ""}
    setting = "parameters to a flat vector and back: entries that differ"
    yield Row(job="J3r, round trip", setting=setting, ran="-", figure=differ, bar=0, at_least=False, **shown)
    found = _demo(["--task", str(RESNET), "--nodes", "2", "--per-round", "2", "--rounds", "1", "--codec", "edge"])
    rounds = found["rounds"]
    applied = rounds[0]["accepted"] if isinstance(rounds, list) and rounds else 0
    setting = "2 nodes, one round, codec edge: updates applied"
    yield Row(job="J3r, one round", setting=setting, ran="real broker", figure=applied, bar=2, **shown)


REAL: dict[str, Callable[[Path, Path], Iterator[Row]]] = {"J1": j1, "J3r": j3r}
"""By name: from data folder and picture folder to rows."""


def _demo(arguments: list[str]) -> Mapping[str, object]:
    command = [sys.executable, "-m", "coordinator", "demo", "--no-chaos", "--json", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    report: Mapping[str, object] = json.loads(done.stdout)
    return report
