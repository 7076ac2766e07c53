"""Every shape of the zoo is within two points of the same training in plain torch, or an error names the tensor.

A few shapes are run always; ``make zoo`` runs all of them, under three codecs, and some in real processes.
"""

import copy
import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from federation.errors import FederationError, TaskError
from federation.task import TaskContext, prepare
from federation.tasks.check import check_task
from fedmq.simulation.experiment.cli import TrainOptions, build_experiment
from tests.zoo.shapes import DEFAULT_SETTINGS, NODES, PREFIX, REFUSED, ROUNDS, SHAPES, TRAIN, Listed, Shape, part_of

FILE = Path(__file__).parent / "shapes.py"
POINTS = 0.02
ALWAYS, FEW = ("adapters", "two_outputs", "parameter_replaced"), 25
"""Shapes that every run of the tests trains, for so many rounds."""

REAL = (
    "weight_data_replaced",
    "buffer_assigned",
    "adapters",
    "infinite_mask",
    "two_outputs",
    "one_logit",
    "dict_batches",
    "batch_norm",
    "conv_batch_norm",
    "segmentation_with_void",
    "gru",
    "tied_transformer",
    "three_tensors",
    "named_inputs",
    "detection",
    "own_step",
    "own_optimizer",
    "regression",
    "loader",
)
ALL = pytest.mark.skipif(not os.environ.get("FEDMQ_ZOO"), reason="all of the zoo: make zoo")


def plainly(shape: Shape, rounds: int) -> nn.Module:
    """Federated averaging as anybody would write it: torch's optimizer, torch's loader, a mean of states."""
    make, rows = shape.twin or shape.model, shape.rows()
    torch.manual_seed(0)
    model = make()
    for _ in range(rounds):
        states = []
        for node in range(NODES):
            local = copy.deepcopy(model).train()
            trained = [each for each in local.parameters() if each.requires_grad]
            optimizer: Any = torch.optim.SGD(trained, lr=shape.rate)
            if shape.optimizer is not None:
                optimizer = shape.optimizer(local, DEFAULT_SETTINGS)
            for _ in range(DEFAULT_SETTINGS.local_epochs):
                loader = DataLoader(
                    Listed(part_of(rows, node)), DEFAULT_SETTINGS.batch_size, shuffle=True, collate_fn=shape.collate
                )
                for batch in loader:
                    if len(next(iter(batch.values() if isinstance(batch, dict) else batch))) < 2:
                        continue
                    optimizer.zero_grad()
                    shape.loss(shape.call(local, batch), batch).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
            states.append(local.state_dict())
        model.load_state_dict({name: averaged([state[name] for state in states]) for name in states[0]})
    return model


def averaged(tensors: list[Tensor]) -> Tensor:
    """The mean of floats, the maximum of whole numbers."""
    stacked = torch.stack(tensors)
    return stacked.mean(0) if stacked.is_floating_point() else stacked.amax(0)


@torch.no_grad()
def score(shape: Shape, model: nn.Module) -> float:
    model.eval()
    batch = shape.collate(shape.rows()[TRAIN:])
    return float(shape.score(shape.call(model, batch), batch).mean())


@lru_cache
def reference(name: str, rounds: int = ROUNDS) -> float:
    return score(SHAPES[name], plainly(SHAPES[name], rounds))


def federated(name: str, codec: str, rounds: int = ROUNDS) -> float:
    chosen = {"nodes": NODES, "per_round": NODES, "rounds": rounds, "codec": codec, "evaluate_every": 0}
    rate = f"train.learning_rate={SHAPES[name].rate}"
    options = TrainOptions(task=f"{FILE}:{PREFIX}{name}", settings=(rate,), **chosen)  # type: ignore[arg-type]
    experiment = build_experiment(options)
    experiment.run()
    task = SHAPES[name].build(TaskContext(node_index=None, node_count=NODES, device="cpu"))
    return score(SHAPES[name], task.module_with(experiment.manifest.unflatten(experiment.coordinator.model)))


@pytest.mark.parametrize("name", ALWAYS)
def test_a_shape_learns_what_plain_torch_learns(name: str) -> None:
    plain = reference(name, FEW)
    assert plain > 0.6
    assert federated(name, "lossless", FEW) >= plain - POINTS


@ALL
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("codec", ["lossless", "edge", "eden1"])
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_within_two_points_of_plain_torch_under_every_codec(name: str, codec: str) -> None:
    found, plain = federated(name, codec), reference(name)
    assert found >= plain - POINTS, f"{name} under {codec}: {found:.4f}, plain torch {plain:.4f}"


@ALL
@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_keeps_the_contract_of_a_task(name: str) -> None:
    task = SHAPES[name].build(TaskContext(node_index=0, node_count=NODES, device="cpu"))
    prepare(task)
    check_task(task)


@pytest.mark.parametrize("name", REFUSED)
def test_a_shape_that_cannot_train_is_refused_by_its_name(name: str) -> None:
    """A simulated node prepares as a real one does."""
    shape, words = REFUSED[name]
    options = TrainOptions(task=f"{FILE}:{PREFIX}{name}", nodes=NODES, per_round=NODES, rounds=1, codec="lossless")
    with pytest.raises(FederationError, match=words):
        build_experiment(options).run()
    for check in (prepare, check_task):
        with pytest.raises(TaskError, match=words):
            check(shape.build(TaskContext(node_index=0, node_count=NODES, device="cpu")))


@ALL
@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", REAL)
def test_real_processes_learn_the_same(name: str, tmp_path: Path) -> None:
    """Each version has an update of every node: of which it has one otherwise, the machine's load decides."""
    command = [sys.executable, "-m", "coordinator", "demo", "--no-chaos", "--codec", "lossless", "--json"]
    command += ["--nodes", str(NODES), "--per-round", str(NODES), "--rounds", str(ROUNDS)]
    command += ["--task", f"{FILE}:{PREFIX}{name}", "--keep", str(tmp_path / "kept")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    accuracy = json.loads(done.stdout)["final_accuracy"]
    if accuracy is not None:
        assert accuracy >= reference(name) - POINTS
    else:
        assert json.loads(done.stdout)["rounds"][-1]["loss"] < json.loads(done.stdout)["rounds"][0]["loss"]
