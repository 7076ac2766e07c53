"""A file of parameters has the whole model where the task is given, and says what it lacks where not."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner

from coordinator.cli import make_app
from coordinator.global_model.committer import first_commit
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.storage.sqlite_store import SqliteStore
from federation.errors import ConfigError
from federation.task import TaskContext
from federation.tasks import TorchTask
from federation.tasks.registry import load_task
from update_codec import Manifest

TASK = """
import torch
from federation.tasks import TorchTask

class Adapted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.head = torch.nn.Linear(3, 4).requires_grad_(False), torch.nn.Linear(4, 2)
        self.again = torch.nn.Linear(4, 2)
        self.again.weight = self.head.weight

    def forward(self, x):
        return self.head(self.base(x))

def build(context):
    data = torch.zeros(8, 3), torch.zeros(8, dtype=torch.long)
    return TorchTask(context, model=Adapted, train_data=data, loss=torch.nn.functional.cross_entropy)
"""


@pytest.fixture(name="task")
def _task(tmp_path: Path) -> str:
    file = tmp_path / "adapted_task_for_export.py"
    file.write_text(TASK)
    return f"{file}:build"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["model.onnx", "--version", "7"], "--version: 7 is not kept; there are 0"),
        (["none/model.onnx"], "FILE: there is no folder"),
        (["none/model.safetensors"], "FILE: there is no folder"),
        (["model.h5"], "its ending must be"),
    ],
)
def test_what_cannot_be_exported_is_told_before_the_task_is_loaded(
    words: list[str], problem: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task takes half a minute on a small machine; it has never been asked for here."""
    monkeypatch.chdir(tmp_path)
    Path(task.partition(":")[0]).write_text("raise AssertionError('loaded')")
    arrays = {"a": np.zeros(3, np.float32)}
    manifest = Manifest.of(arrays, {})
    first = first_commit(manifest.flatten(arrays), manifest, DownlinkSettings(), seed=0)
    with closing(SqliteStore(tmp_path / "store")) as store:
        store.initialise(manifest, first)
    command = ["export", *words, "--state", "store", "--task", task]
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(make_app(command), command, catch_exceptions=False)
    assert problem in str(caught.value)


def test_what_never_changes_comes_from_the_task(task: str, tmp_path: Path) -> None:
    built = load_task(task)(TaskContext(node_index=None, node_count=1, device="cpu"))
    arrays = dict(built.initial_parameters(0))
    manifest = Manifest.of(arrays, built.roles())
    store = SqliteStore(tmp_path / "store")
    store.initialise(manifest, first_commit(manifest.flatten(arrays), manifest, DownlinkSettings(), seed=0))
    store.close()
    out = tmp_path / "model.safetensors"
    command = ["export", str(out), "--state", str(tmp_path / "store")]

    told = CliRunner().invoke(make_app(command), command)
    assert told.exit_code == 0
    assert "--task): base.weight, base.bias" in told.stderr
    found = safetensors.numpy.load_file(out)
    assert found.keys() == arrays.keys() - {"base.weight", "base.bias"}
    assert np.array_equal(found["again.weight"], found["head.weight"])
    as_json = CliRunner().invoke(make_app(command), [*command, "--json"])
    assert json.loads(as_json.stdout)["without"] == ["base.weight", "base.bias"]

    told = CliRunner().invoke(make_app(command), [*command, "--task", task])
    assert told.exit_code == 0
    assert told.stderr == ""
    whole = safetensors.numpy.load_file(out)
    assert whole.keys() == arrays.keys()
    assert all(np.array_equal(whole[name], array) for name, array in arrays.items())


def test_a_program_of_classes_in_another_order_than_the_runs_is_not_written(task: str, tmp_path: Path) -> None:
    file = Path(task.partition(":")[0])
    file.write_text(TASK.replace("train_data=data,", "train_data=data, classes=['ok', 'worn'], input_shape=(3,),"))
    built = load_task(task)(TaskContext(node_index=None, node_count=1, device="cpu"))
    assert isinstance(built, TorchTask)
    arrays = dict(built.initial_parameters(0))
    manifest = Manifest.of(arrays, built.roles())
    with closing(SqliteStore(tmp_path / "store")) as store:
        store.initialise(manifest, first_commit(manifest.flatten(arrays), manifest, DownlinkSettings(), seed=0))
        store.save_inputs(replace(built.inputs(), classes=("worn", "ok")).to_text())
    command = ["export", str(tmp_path / "model.pt2"), "--state", str(tmp_path / "store"), "--task", task]
    with pytest.raises(ConfigError, match="not what the run trains: its classes are ok, worn, and the run's are worn"):
        CliRunner().invoke(make_app(command), command, catch_exceptions=False)
