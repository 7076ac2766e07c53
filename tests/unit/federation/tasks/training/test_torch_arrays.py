"""What was trained on a device is coded there, and the frame is the one that NumPy makes.

The same code runs on torch's CPU tensors here and on CUDA where there is a device.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge_node.training.update import difference, encode_update
from edge_node.training.worker import TrainingJob, run_round
from federation.errors import TaskError
from federation.task import Array, Resident, TrainResult
from federation.tasks.training.local_model import LocalModel
from federation.tasks.training.torch_arrays import TorchArrays, TrainedOnDevice
from tests.rigs import node_doubles
from tests.unit.edge_node.training.test_worker import StepClock, never
from update_codec import PROFILES, CodecSpec, Context, DeviceUpdate, Manifest, Role, ShapeError, Vectors, encode
from update_codec.arrays import FOLD, HOST, root_mean_square

CPU = torch.device("cpu")
DEVICES = [
    CPU,
    pytest.param(
        torch.device("cuda"),
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]
SPECS = [*PROFILES, "deadzone(step=0.1)", "deadzone(step=3)", "deadzone(bytes=900,feedback=1)"]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    found: torch.device = request.param
    return found


def network(rows: int, seed: int = 0) -> tuple[Manifest, Vectors]:
    """An update whose matrices differ in spread, with biases, statistics and counters."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[np.generic]] = {
        "first": rng.laplace(size=(rows, 40)).astype(np.float32),
        "second": (rng.standard_t(3, size=(rows, 9)) * 0.05).astype(np.float32),
        "bias": rng.normal(size=rows).astype(np.float32),
        "mean": rng.normal(size=5).astype(np.float32),
        "steps": np.array([4, -7]),
    }
    manifest = Manifest.of(arrays, {"mean": Role.STATISTIC})
    return manifest, manifest.flatten(arrays)


def resident(update: Vectors, device: torch.device) -> DeviceUpdate:
    arrays = TorchArrays(device)
    parameters = arrays.resident(update.parameters)
    return DeviceUpdate(arrays=arrays, parameters=parameters, statistics=update.statistics, counters=update.counters)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("rows", [3, 700])
def test_frame_and_residual_are_those_of_numpy(device: torch.device, spec: str, rows: int) -> None:
    manifest, update = network(rows)
    residual = np.random.default_rng(1).normal(size=len(update.parameters)).astype(np.float32)
    there, codec = resident(update, device), CodecSpec.parse(spec)
    ours = encode(update, manifest, codec, residual=residual, seed=5)
    theirs = encode(there, manifest, codec, residual=there.arrays.resident(residual), seed=5)
    assert theirs.frame == ours.frame
    assert theirs.nmse == pytest.approx(ours.nmse, rel=1e-4, abs=1e-12)
    if ours.residual is not None:
        np.testing.assert_array_equal(there.arrays.host(theirs.residual), ours.residual)


def test_outliers_and_a_context_are_those_of_numpy(device: torch.device) -> None:
    manifest, update = network(700)
    update.parameters[[5, 11_111, 28_001]] = [1e6, -1e6, 3e5]
    classes = np.random.default_rng(2).integers(0, 3, len(update.parameters)).astype(np.uint8)
    spec, context = CodecSpec.parse("deadzone(step=0.2,feedback=1)"), Context(classes)
    ours = encode(update, manifest, spec, context=context)
    theirs = encode(resident(update, device), manifest, spec, context=context)
    assert theirs.frame == ours.frame


@pytest.mark.parametrize("size", [0, 1, 100, FOLD, FOLD + 1, 40 * FOLD + 7])
@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-30, 1e-12, 1.0, 1e14, 1e30])
def test_root_mean_square_has_the_same_bits_and_is_right(device: torch.device, size: int, scale: float) -> None:
    values = (np.random.default_rng(3).normal(size=size) * scale).astype(np.float32)
    arrays = TorchArrays(device)
    found = root_mean_square(values, HOST)
    assert root_mean_square(arrays.resident(values), arrays) == found
    exact = float(np.sqrt(np.mean(values.astype(np.float64) ** 2))) if size else 0.0
    assert found == pytest.approx(exact, rel=1e-6)


def test_a_zero_update_sends_nothing_and_keeps_the_residual(device: torch.device) -> None:
    manifest, update = network(700)
    zero = Vectors(np.zeros_like(update.parameters), update.statistics, update.counters)
    there, edge = resident(zero, device), CodecSpec.parse("edge")
    theirs = encode(there, manifest, edge, residual=there.arrays.resident(update.parameters))
    assert theirs.frame == encode(zero, manifest, edge, residual=update.parameters).frame
    np.testing.assert_array_equal(there.arrays.host(theirs.residual), update.parameters)


# --- in the node ----------------------------------------------------------------------------------------------------


class DeviceTask(node_doubles.ToyTask):
    """`ToyTask`, whose result stays on a device."""

    device = CPU

    def train(self, *arguments: object) -> TrainResult:
        result = super().train(*arguments)  # type: ignore[arg-type]
        tensors = {name: torch.from_numpy(np.array(array)).to(self.device) for name, array in result.parameters.items()}
        return replace(result, parameters=TrainedOnDevice(tensors))


@pytest.mark.parametrize("codec", ["edge", "balanced", "lossless", "link"])
@pytest.mark.parametrize("norm_max", [None, 0.5])
def test_a_round_sends_and_keeps_the_same_bytes(device: torch.device, codec: str, norm_max: float | None) -> None:
    residual = np.linspace(-1, 1, 15, dtype=np.float32)
    job = TrainingJob(
        announcement=node_doubles.announcement(codec=codec), base=node_doubles.vectors(), residual=residual
    )
    task = DeviceTask()
    task.device = device
    ours, theirs = (
        run_round(node_doubles.training_setup(one, norm_max), replace(job, residual_share=0.5), never, StepClock())
        for one in (node_doubles.ToyTask(), task)
    )
    assert theirs.frame == ours.frame
    np.testing.assert_array_equal(theirs.token.left, ours.token.left)  # type: ignore[attr-defined]


def test_parameters_are_read_one_by_one_and_outlive_the_model(device: torch.device) -> None:
    model = LocalModel(torch.nn.Linear(3, 2), device)
    kept = TrainedOnDevice(model.tensors)
    before = {name: np.array(array) for name, array in kept.items()}
    with torch.no_grad():
        for tensor in model.tensors.values():
            tensor.zero_()
    assert isinstance(kept, Resident)
    assert list(kept) == ["weight", "bias"]
    assert len(kept) == 2
    for name, array in kept.items():
        np.testing.assert_array_equal(array, before[name])


def test_half_precision_parameters_are_widened_as_numpy_does(device: torch.device) -> None:
    arrays: dict[str, Array] = {"w": np.linspace(-2, 2, 33).astype(np.float16), "v": np.linspace(0, 1, 9)}
    manifest = Manifest.of(arrays)
    base = Vectors.zeros(manifest)
    tensors = {name: torch.from_numpy(np.array(array)).to(device) for name, array in arrays.items()}
    there = difference(base, TrainedOnDevice(tensors), manifest)
    assert isinstance(there, DeviceUpdate)
    np.testing.assert_array_equal(there.arrays.host(there.parameters), manifest.flatten(arrays).parameters)


@pytest.mark.parametrize(
    "broken", [{"weight": torch.zeros(3, 4)}, {"weight": torch.zeros(4, 3, dtype=torch.float64)}, {"x": torch.zeros(1)}]
)
def test_tensors_of_another_shape_type_or_name_are_the_tasks_error(broken: dict[str, torch.Tensor]) -> None:
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in node_doubles.tensors().items()} | broken
    with pytest.raises(TaskError, match="do not fit"):
        difference(node_doubles.vectors(), TrainedOnDevice(tensors), node_doubles.MANIFEST)


def test_what_is_not_finite_is_named() -> None:
    with pytest.raises(TaskError, match="bias is not finite"):
        TrainedOnDevice({"bias": torch.tensor([1.0, float("nan")])})


def test_a_difference_that_is_not_finite_is_the_tasks_error() -> None:
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in node_doubles.tensors().items()}
    tensors["weight"] = torch.full((4, 3), 3e38)
    delta = difference(node_doubles.vectors(-3e38), TrainedOnDevice(tensors), node_doubles.MANIFEST)
    with pytest.raises(TaskError, match="not finite"):
        encode_update(delta, node_doubles.MANIFEST, CodecSpec.parse("edge"), residual=None)


def test_a_vector_of_another_size_is_refused() -> None:
    manifest, update = network(3)
    there = resident(Vectors(update.parameters[:-1], update.statistics, update.counters), CPU)
    with pytest.raises(ShapeError):
        encode(there, manifest, CodecSpec.parse("edge"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_a_gpu_stays_there() -> None:
    model = LocalModel(torch.nn.Linear(3, 2), torch.device("cuda"))
    assert isinstance(model.dump(), Resident)
