"""Tasks as large as real models, without training: for measuring what carries them.

    coordinator run --task benchmarks/large_task.py:resnet18

Every update is noise of the weights' own size: nearly all bits of its mantissas count, so a lossless codec cannot make
it much smaller. Updates of real training are smaller than these.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from federation.protocol.messages import TrainSettings
from federation.task import Metrics, Parameters, Stop, TaskContext, TrainResult
from update_codec import Role

Shapes = Mapping[str, tuple[int, ...]]

STANDARD_DEVIATION = 0.01
CHECKPOINT_PARAMETERS = 25_000_000
SMALL_PARAMETERS = 1_000_000


def resnet18(context: TaskContext) -> "NoiseTask":
    """11,689,512 parameters in the 62 tensors of ResNet-18 (arXiv 1512.03385), and the statistics of its norms."""
    shapes = dict(_resnet18())
    statistics = [name for name in shapes if name.endswith(("running_mean", "running_var"))]
    return NoiseTask(context, shapes, statistics)


def checkpoint(context: TaskContext) -> "NoiseTask":
    """100 MB in one tensor."""
    return NoiseTask(context, {"weights": (CHECKPOINT_PARAMETERS,)})


def small(context: TaskContext) -> "NoiseTask":
    """Enough for 50 chunks."""
    return NoiseTask(context, {"weights": (SMALL_PARAMETERS,)})


class NoiseTask:
    """A model of these shapes whose training draws noise that depends on the node and the round."""

    def __init__(self, context: TaskContext, shapes: Shapes, statistics: list[str] | None = None) -> None:
        self._shapes, self._statistics = shapes, statistics or []
        self._node_index = context.node_index or 0

    def initial_parameters(self, seed: int) -> Parameters:
        """Normal values."""
        return self._noise(np.random.default_rng(abs(seed)))

    def roles(self) -> Mapping[str, Role]:
        """Running means and variances are statistics."""
        return dict.fromkeys(self._statistics, Role.STATISTIC)

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """Add noise of the same size."""
        del stop
        noise = self._noise(np.random.default_rng([abs(settings.seed), self._node_index]))
        after = {name: np.add(array, noise[name], dtype=np.float32) for name, array in parameters.items()}
        return TrainResult(parameters=after, num_examples=1)

    def evaluate(self, parameters: Parameters) -> Metrics:
        """Nothing: there is no data."""
        del parameters
        return {}

    def _noise(self, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        scale = np.float32(STANDARD_DEVIATION)
        return {name: rng.standard_normal(shape, np.float32) * scale for name, shape in self._shapes.items()}


def _resnet18() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "conv1.weight", (64, 3, 7, 7)
    yield from _norm("bn1", 64)
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            yield f"{name}.conv1.weight", (width, before, 3, 3)
            yield from _norm(f"{name}.bn1", width)
            yield f"{name}.conv2.weight", (width, width, 3, 3)
            yield from _norm(f"{name}.bn2", width)
            if before != width:
                yield f"{name}.downsample.0.weight", (width, before, 1, 1)
                yield from _norm(f"{name}.downsample.1", width)
            before = width
    yield "fc.weight", (1000, 512)
    yield "fc.bias", (1000,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
