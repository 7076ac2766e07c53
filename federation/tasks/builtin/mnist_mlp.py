"""Perceptrons on MNIST: job J1 (784-128-64-10), J3 (logistic regression) and J0 (784-256-10)."""

from functools import partial

from federation.picture import PictureInput
from federation.task import TaskContext
from federation.tasks.builtin.mlp import cross_entropy, initial_mlp, mlp
from federation.tasks.builtin.mnist import mnist, scaled
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.torch_task import TorchTask

__all__ = ["build", "build_logreg", "build_wide"]

MEAN, DEVIATION = 0.1307, 0.3081
"""Of all pixels of the training images, in [0, 1]."""


def build(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``mnist-mlp``: images in [-1, 1]."""
    return _perceptron(context, (784, 128, 64, 10), mean=0.5, deviation=0.5)


def build_logreg(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``mnist-logreg``: images in [0, 1]."""
    return _perceptron(context, (784, 10), mean=0.0, deviation=1.0)


def build_wide(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``mnist-wide``: images standardised, full-batch steps."""
    return _perceptron(context, (784, 256, 10), mean=MEAN, deviation=DEVIATION)


def _perceptron(context: TaskContext, widths: tuple[int, ...], *, mean: float, deviation: float) -> TorchTask:
    prepare = partial(scaled, mean=mean, deviation=deviation)
    return TorchTask(
        context,
        model=partial(mlp, *widths),
        train_data=WholeData(partial(mnist, context.data, train=True), prepare=prepare),
        test_data=WholeData(partial(mnist, context.data, train=False), prepare=prepare),
        loss=cross_entropy,
        picture=PictureInput(height=28, width=28, dark_background=True, mean=mean, deviation=deviation),
        classes=tuple("0123456789"),
        initial=partial(initial_mlp, widths),
    )
