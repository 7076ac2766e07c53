"""Job J1: a perceptron 784-128-64-10 on MNIST, images in [-1, 1]."""

from functools import partial

from federation.picture import PictureInput
from federation.task import TaskContext
from federation.tasks.builtin.mlp import cross_entropy, initial_mlp, mlp
from federation.tasks.builtin.mnist import mnist, scaled
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.torch_task import TorchTask

WIDTHS = (784, 128, 64, 10)


def build(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``mnist-mlp``."""
    return TorchTask(
        context,
        model=partial(mlp, *WIDTHS),
        train_data=WholeData(
            partial(mnist, context.data, train=True), prepare=partial(scaled, mean=0.5, deviation=0.5)
        ),
        test_data=WholeData(
            partial(mnist, context.data, train=False), prepare=partial(scaled, mean=0.5, deviation=0.5)
        ),
        loss=cross_entropy,
        picture=PictureInput(height=28, width=28, dark_background=True, mean=0.5, deviation=0.5),
        classes=tuple("0123456789"),
        initial=partial(initial_mlp, WIDTHS),
    )
