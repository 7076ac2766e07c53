"""The first layer that scales: part of the model, the same for all, and refused where it is another one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edge_node.storage.store import HeldModel
from edge_node.training.adoption import AdoptionError, initial_model, manifest_of
from edge_node.training.worker import TrainingSetup
from federation.errors import TaskError
from federation.protocol.messages import ModelRef
from federation.task import TaskContext
from federation.tasks import TorchTask
from federation.tasks.statistics.scaler import ScaledColumn, Scaler
from federation.tasks.training.scaling import Standardize, standardize
from federation.types import Digest, ModelVersion, NodeId
from update_codec import Role


def scaler(mean: float = 2.0) -> Scaler:
    heat = ScaledColumn(name="heat", mean=mean, std=4.0, minimum=0.0, maximum=9.0)
    return Scaler((heat, ScaledColumn(name="flow", mean=0.0, std=1.0, minimum=0.0, maximum=1.0)))


def task_of(path: Path, index: int | None = 0) -> TorchTask:
    data = (np.array([[2.0, 0.0], [6.0, 1.0]], np.float32), np.array([0, 1]))
    return TorchTask(
        TaskContext(node_index=index, node_count=1),
        model=lambda: torch.nn.Sequential(standardize(path), torch.nn.Linear(2, 2)),
        train_data=data,
        loss=torch.nn.functional.cross_entropy,
    )


@pytest.mark.parametrize("shape", [(5, 2), (5, 7, 2)])
def test_it_scales_tables_and_windows(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = Standardize(scaler())(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(found, scaler().apply(values), rtol=1e-6)


def test_it_scales_the_channels_of_pictures() -> None:
    found = Standardize(scaler())(torch.full((1, 2, 3, 3), 6.0))
    assert (found[0, 0, 0, 0].item(), found[0, 1, 2, 2].item()) == (1.0, 6.0)


def test_other_columns_are_refused() -> None:
    with pytest.raises(TaskError, match="2 columns, and the inputs 3"):
        Standardize(scaler())(torch.zeros(4, 3))


def test_columns_are_taken_by_name(tmp_path: Path) -> None:
    scaler().write(tmp_path / "s.json")
    layer = standardize(tmp_path / "s.json", ["flow", "heat"])
    assert layer.scaler_mean.tolist() == [0.0, 2.0]
    with pytest.raises(TaskError, match="lacks speed"):
        standardize(tmp_path / "s.json", ["speed"])


def test_the_scale_does_not_travel_and_is_not_trained(tmp_path: Path) -> None:
    scaler().write(tmp_path / "s.json")
    roles = task_of(tmp_path / "s.json").roles()
    assert (roles["0.scaler_mean"], roles["0.scaler_std"]) == (Role.CONSTANT, Role.CONSTANT)


def adopt(theirs: Path, own: Path) -> HeldModel:
    """A node with its own file takes version 0 of a coordinator that has theirs."""
    made = task_of(theirs, None)
    manifest = manifest_of(made)
    vectors = manifest.flatten(dict(made.initial_parameters(3)))
    reference = ModelRef(
        version=ModelVersion(0),
        digest=Digest(vectors.digest()),
        manifest_digest=Digest(manifest.digest),
        parts=(),
        seed=3,
    )
    task = task_of(own)
    return initial_model(reference, TrainingSetup(node=NodeId("n"), task=task, manifest=manifest_of(task)))


def test_a_node_with_another_scaler_refuses_the_run_by_its_name(tmp_path: Path) -> None:
    scaler().write(tmp_path / "s.json")
    scaler(2.5).write(tmp_path / "other.json")
    assert adopt(tmp_path / "s.json", tmp_path / "s.json").version == 0
    with pytest.raises(AdoptionError, match=r"0\.scaler_mean, 0\.scaler_std.*same file"):
        adopt(tmp_path / "s.json", tmp_path / "other.json")
