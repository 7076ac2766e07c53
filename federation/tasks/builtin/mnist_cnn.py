"""Job J4: a small convolutional network on MNIST, two label shards per node."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from federation.picture import PictureInput
from federation.task import Parameters, TaskContext
from federation.tasks.builtin.mlp import cross_entropy
from federation.tasks.builtin.mnist import mnist, scaled
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.torch_task import TorchTask

if TYPE_CHECKING:
    from torch.nn import Module

CHANNELS = (8, 16)


def build(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``mnist-cnn``."""
    return TorchTask(
        context,
        model=network,
        train_data=WholeData(partial(mnist, context.data, train=True), prepare=pictures),
        test_data=WholeData(partial(mnist, context.data, train=False), prepare=pictures),
        loss=cross_entropy,
        split="shards:2",
        picture=PictureInput(height=28, width=28, dark_background=True),
        classes=tuple("0123456789"),
        initial=initial_network,
    )


def network() -> "Module":
    """Two convolutions of stride 2 and a linear layer: 9,226 parameters."""
    import torch  # noqa: PLC0415 - costs a second and 200 MB: only where the model is made

    first, second = CHANNELS
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, first, 5, stride=2, padding=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(first, second, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(second * 49, 10),
    )


def initial_network(seed: int) -> Parameters:
    """Initial tensors of `network`, float32, distributed as torch draws them, but the same bits everywhere."""
    rng, (first, second) = np.random.default_rng(abs(seed)), CHANNELS
    parameters: dict[str, NDArray[np.float32]] = {}
    for layer, shape in ((0, (first, 1, 5, 5)), (2, (second, first, 3, 3)), (5, (10, second * 49))):
        bound = np.float32(1 / np.sqrt(np.prod(shape[1:])))
        for name, size in (("weight", shape), ("bias", shape[:1])):
            parameters[f"{layer}.{name}"] = (rng.random(size, dtype=np.float32) * 2 - 1) * bound
    return parameters


def pictures(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images in [0, 1] with one channel, float32 of shape (n, 1, 28, 28)."""
    return scaled(images)[:, np.newaxis]
