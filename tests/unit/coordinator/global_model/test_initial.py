"""Version 0 is the task's own model or a given file, made here or in a process of its own: the same bits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from coordinator.global_model.committer import first_commit
from coordinator.global_model.downlink import DownlinkSettings
from coordinator.global_model.initial import InitialRequest, initial_model, initial_model_apart
from federation.errors import ConfigError, TaskError
from federation.task import TaskContext
from federation.tasks.registry import load_task

TASK = "quadratic-12"

pytestmark = pytest.mark.usefixtures("programs_start_warm")


def test_another_process_makes_the_same_model(tmp_path: Path) -> None:
    here, there = initial_model(InitialRequest(task=TASK, seed=4)), None
    there = initial_model_apart(InitialRequest(task=TASK, seed=4), tmp_path)
    assert there.manifest == here.manifest
    assert there.vectors.digest() == here.vectors.digest()
    assert there.seed == here.seed == 4
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_builds_the_task_gets_the_announced_digest() -> None:
    made = initial_model(InitialRequest(task=TASK, seed=4))
    record = first_commit(made.vectors, made.manifest, DownlinkSettings(), seed=made.seed).record
    task = load_task(TASK)(TaskContext(node_index=0, node_count=2, seed=4))
    arrays = dict(task.initial_parameters(4))
    assert record.seed == 4
    assert record.digest == made.manifest.flatten(arrays).digest()


def test_a_model_with_negative_zeros_is_not_promised_by_its_seed() -> None:
    made = initial_model(InitialRequest(task=TASK, seed=4))
    made.vectors.parameters[0] = -0.0
    assert first_commit(made.vectors, made.manifest, DownlinkSettings(), seed=4).record.seed is None


def test_a_given_file_replaces_the_tasks_parameters_and_has_no_seed(tmp_path: Path) -> None:
    own = initial_model(InitialRequest(task=TASK, seed=4))
    arrays = {name: np.full_like(array, 7) for name, array in own.manifest.unflatten(own.vectors).items()}
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    request = InitialRequest(task=TASK, seed=4, file=str(tmp_path / "model.safetensors"))
    made = initial_model_apart(request, tmp_path)
    assert made.seed is None
    assert (made.vectors.parameters == 7).all()
    assert made.manifest == own.manifest


@pytest.mark.parametrize("content", [b"", b"no safetensors", None])
def test_a_file_that_does_not_fit_is_a_config_error(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "model.safetensors"
    if content is None:
        safetensors.numpy.save_file({"other": np.zeros(3, np.float32)}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        initial_model(InitialRequest(task=TASK, file=str(file)))
    assert caught.value.key == "task.initial"


def test_a_task_that_does_not_exist_is_named_by_the_other_process(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no-such-task"):
        initial_model_apart(InitialRequest(task="no-such-task"), tmp_path)


def test_a_task_that_raises_is_a_task_error(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def build(context):\n    raise ValueError('no camera')\n")
    with pytest.raises(TaskError, match="no camera"):
        initial_model(InitialRequest(task=f"{file}:build"))


DESCRIBED = """
import torch
from federation.tasks import TorchTask, csv_data

def build(context):
    data = csv_data(context, "t.csv", target="y", classes=("a", "b"))
    return TorchTask(context, model=lambda: torch.nn.Linear(2, 2), loss=torch.nn.functional.cross_entropy,
                     train_data=data.train, test_data=data.test, classes=data.classes, input_shape=(2,))
"""


@pytest.mark.parametrize("apart", [False, True])
def test_what_the_inputs_mean_is_described_as_far_as_it_is_known(tmp_path: Path, apart: bool) -> None:
    """FED-125."""
    (tmp_path / "described.py").write_text(DESCRIBED)
    (tmp_path / "t.csv").write_text("vibration,y,heat\n1,a,2\n3,b,4\n")
    known = InitialRequest(task=str(tmp_path / "described.py"), data=str(tmp_path))
    unknown = replace(known, data=None)
    texts = [
        (initial_model_apart(each, tmp_path) if apart else initial_model(each)).inputs for each in (known, unknown)
    ]
    assert texts[0] == '{"classes":["a","b"],"features":["heat","vibration"],"shape":[2],"target":"y (class)"}'
    assert texts[1] == '{"classes":["a","b"],"shape":[2],"target":"y (class)"}'
    assert initial_model(InitialRequest(task="null")).inputs is None
