"""SCAFFOLD around a task: corrected torch steps as in float64, dc_i as coarse as asked, and what it refuses."""

import numpy as np
import pytest
import torch

from edge_node.training.adoption import manifest_of
from federation.errors import ConfigError, TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Parameters, TaskContext, prepare
from federation.tasks import TorchTask
from federation.tasks.builtin.synthetic import NullTask, QuadraticTask
from federation.tasks.scaffold import NODES_KEY, RESOLUTION_KEY, scaffolded, with_controls
from update_codec import Manifest, Role

CONTEXT = TaskContext(node_index=0, node_count=1)
SETTINGS = TrainSettings(local_epochs=3, batch_size=0, learning_rate=0.1, extra={NODES_KEY: 4.0, RESOLUTION_KEY: 1e-9})


def model() -> torch.nn.Module:
    """Linear layers around BatchNorm, one of them frozen."""
    made = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    made[2].bias.requires_grad_(False)
    return made


def torch_task() -> TorchTask:
    rng = np.random.default_rng(3)
    data = (rng.normal(size=(8, 3)).astype(np.float32), rng.integers(0, 2, 8))
    return TorchTask(CONTEXT, model=model, train_data=data, test_data=data, loss=torch.nn.functional.cross_entropy)


def never() -> bool:
    return False


def with_random_controls(initial: Parameters) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        name: rng.normal(scale=0.1, size=array.shape).astype(np.float32) if name.startswith("control.") else array
        for name, array in initial.items()
    }


def test_every_parameter_has_a_control_and_buffers_have_none() -> None:
    task = scaffolded(torch_task())
    manifest = Manifest.of(dict(task.initial_parameters(1)), task.roles())
    controls = [tensor.name for tensor in manifest.tensors if tensor.role is Role.CONTROL]
    names = ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight")  # 2.bias is frozen
    assert controls == [f"control.{name}" for name in names]
    assert manifest.digest == with_controls(manifest_of(torch_task())).digest
    assert manifest.control_count == manifest.parameter_count


def test_torch_takes_the_papers_steps_also_through_batchnorm() -> None:
    task = scaffolded(torch_task())
    prepare(task)
    start = with_random_controls(task.initial_parameters(1))
    own = {name: array * np.float32(0.3) for name, array in start.items() if name.startswith("control.")}
    task.restore(own)
    result = task.train(start, SETTINGS, never)

    reference = model().double()
    reference.load_state_dict({name: torch.tensor(start[name]) for name in reference.state_dict()})
    inner = torch_task()
    inputs, targets = torch.tensor(inner.train_data[0]).double(), torch.tensor(inner.train_data[1])
    reference.train()
    names = dict(reference.named_parameters())
    trainable = [name for name, tensor in names.items() if tensor.requires_grad]
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(reference(inputs), targets)
        for name, slope in zip(trainable, torch.autograd.grad(loss, [names[n] for n in trainable]), strict=True):
            c, c_i = start[f"control.{name}"].astype(float) / 4.0, own[f"control.{name}"].astype(float)
            names[name].data -= 0.1 * (slope - torch.tensor(c_i) + torch.tensor(c))
    for name, tensor in reference.state_dict().items():
        np.testing.assert_allclose(result.parameters[name].astype(float), tensor.numpy(), rtol=1e-4, atol=1e-6)
    for name in trainable:
        c, c_i = start[f"control.{name}"].astype(float) / 4.0, own[f"control.{name}"].astype(float)
        plus = c_i - c + (start[name] - names[name].detach().numpy()) / (3 * 0.1)
        np.testing.assert_allclose(result.pending[f"control.{name}"].astype(float), plus - c_i, rtol=1e-3, atol=2e-4)
        np.testing.assert_array_equal(result.pending[f"control.{name}"], result.parameters[f"control.{name}"])
    assert result.steps == 3


def test_the_evaluation_knows_nothing_of_controls() -> None:
    task = scaffolded(torch_task())
    initial = task.initial_parameters(1)
    assert task.evaluate(initial) == torch_task().evaluate({n: a for n, a in initial.items() if "control." not in n})


@pytest.mark.parametrize("resolution", [1 / 64, 0.5, 2.0])
def test_changes_are_multiples_of_one_power_of_two_and_what_is_left_comes_later(resolution: float) -> None:
    """With c = 0 and the model held in place, c_i approaches the node's slope to within one step, and stays."""
    task = scaffolded(QuadraticTask(CONTEXT, size=200))
    settings = TrainSettings(learning_rate=0.1, extra={NODES_KEY: 4.0, RESOLUTION_KEY: resolution})
    start = task.initial_parameters(1)
    kept: dict[str, np.ndarray] = {}
    for _ in range(12):
        task.restore(kept)
        change = np.asarray(task.train(start, settings, never).pending["control.point"])
        steps = np.abs(change[change != 0])
        if len(steps):
            unit = 2.0 ** np.floor(np.log2(steps.min()))
            assert np.all(change / unit * 4 == np.rint(change / unit * 4))
        before = np.asarray(kept.get("control.point", np.zeros(200, np.float32)))
        kept = {"control.point": before + change}
        np.testing.assert_array_equal(kept["control.point"] - before, change)
    slope = QuadraticTask(CONTEXT, size=200)
    w = start["point"].astype(np.float32)
    moved = w - slope.train({"point": w}, TrainSettings(learning_rate=0.1), never).parameters["point"].astype(float)
    np.testing.assert_allclose(kept["control.point"], moved / 0.1, atol=np.abs(moved / 0.1).max() / 50)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (TrainSettings(), NODES_KEY),
        (TrainSettings(momentum=0.9, extra={NODES_KEY: 4.0}), "momentum"),
        (TrainSettings(extra={NODES_KEY: 4.0, "adam": 1.0}), "no adam"),
        (TrainSettings(extra={NODES_KEY: 4.0, "clip_norm": 1.0}), "clip_norm"),
        (TrainSettings(proximal_mu=0.1, extra={NODES_KEY: 4.0}), "proximal_mu"),
        (TrainSettings(learning_rate=0.0, extra={NODES_KEY: 4.0}), "learning rate"),
        (TrainSettings(local_epochs=0, extra={NODES_KEY: 4.0}), "steps"),
    ],
)
def test_settings_that_do_not_fit_are_the_tasks_error(settings: TrainSettings, why: str) -> None:
    task = scaffolded(QuadraticTask(CONTEXT, size=3))
    with pytest.raises(TaskError, match=why):
        task.train(task.initial_parameters(1), settings, never)


def test_a_task_without_corrected_steps_is_refused_by_the_settings_name() -> None:
    with pytest.raises(ConfigError) as caught:
        scaffolded(NullTask(CONTEXT, size=3))
    assert caught.value.key == "strategy.name"


def test_tensors_that_are_called_like_controls_are_refused() -> None:
    class Taken(QuadraticTask):
        def initial_parameters(self, seed: int) -> Parameters:
            return {"control.point": np.zeros(3, np.float32)}

    with pytest.raises(TaskError, match=r"control\.point"):
        scaffolded(Taken(CONTEXT, size=3)).initial_parameters(1)


def test_a_correction_of_another_shape_is_the_tasks_error() -> None:
    with pytest.raises(TaskError, match="correction"):
        torch_task().train_corrected(torch_task().initial_parameters(1), SETTINGS, never, {})
