"""The models of the figures: J1's MLP, also with tanh, and the small CNN of Papernot et al. (arXiv 2007.14191)."""

from functools import partial

from torch import nn

from federation.task import TaskContext
from federation.tasks.builtin import mlp as perceptrons
from federation.tasks.builtin.mnist import DEVIATION, MEAN, mnist, scaled
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.torch_task import TorchTask

__all__ = ["mlp", "standardised_j1", "tanh_cnn"]

J1 = (784, 128, 64, 10)


def standardised_j1(context: TaskContext) -> TorchTask:
    """The task ``mnist-mlp`` with images of mean 0 and deviation 1 instead of between -1 and 1."""
    prepare = partial(scaled, mean=MEAN, deviation=DEVIATION)
    return TorchTask(
        context,
        model=partial(perceptrons.mlp, *J1),
        train_data=WholeData(partial(mnist, context.data, train=True), prepare=prepare),
        test_data=WholeData(partial(mnist, context.data, train=False), prepare=prepare),
        loss=perceptrons.cross_entropy,
        initial=partial(perceptrons.initial_mlp, J1),
    )


def mlp() -> nn.Module:
    """784-128-64-10, 109,386 parameters."""
    return nn.Sequential(nn.Linear(784, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))


def tanh_cnn() -> nn.Module:
    """Two convolutions, 26,010 parameters; takes rows of 784 numbers."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, 8, 2, 3),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.Tanh(),
        nn.Linear(32, 10),
    )
