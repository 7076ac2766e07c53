"""Sensor tasks without Python: a file of a few lines, tables of readings, real processes around a real broker."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from federation.task import TaskContext
from federation.tasks.registry import load_task
from federation.tasks.sensors.task import SensorTask

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]

NODES = 3


def coordinator(arguments: list[str], folder: Path) -> str:
    """One command from the folder where the file is, run to its end."""
    command = [sys.executable, "-m", "coordinator", *arguments]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_federation_of_pumps_learns_from_their_tables_and_its_model_knows_a_fault(tmp_path: Path) -> None:
    (tmp_path / "pump.toml").write_text('task = "sensors/autoencoder"\ncolumns = ["flow", "current"]\nwindow = 8\n')
    data = tmp_path / "readings"
    data.mkdir()
    for pump in range(NODES):
        row = np.arange(200) + pump
        lines = [f"{a:.4f};{b:.4f}" for a, b in zip(np.sin(row / 4), np.cos(row / 4), strict=True)]
        (data / f"pump-{pump}.csv").write_text("\n".join(["flow;current", *lines]))
    kept, report = tmp_path / "kept", tmp_path / "report.json"
    options = ["--task", "pump.toml", "--data", "readings", "--nodes", str(NODES), "--per-round", str(NODES)]
    coordinator(
        ["demo", *options, "--rounds", "4", "--no-chaos", "--report", str(report), "--keep", str(kept)], tmp_path
    )
    told = json.loads(report.read_text())
    assert [row["accepted"] for row in told["rounds"]] == [NODES] * 4
    model = tmp_path / "model.pt2"
    coordinator(["export", str(model), "--state", str(kept), "--task", "pump.toml"], tmp_path)
    program = torch.export.load(model).module()
    task = load_task(str(tmp_path / "pump.toml"))(TaskContext(node_index=0, node_count=NODES, data=data, device="cpu"))
    assert isinstance(task, SensorTask)
    parameters = {name: tensor.detach().numpy() for name, tensor in program.state_dict().items()}
    rule = task.score_rule(parameters)
    normal = task.readings.training_windows()
    answers = [
        rule.alarms(rule.score(lambda inputs: program(torch.from_numpy(inputs)).detach().numpy(), windows)).mean()
        for windows in (normal, normal + 5 * (np.arange(8) > 3)[:, None])
    ]
    assert answers[0] <= 0.02
    assert answers[1] > 0.9
