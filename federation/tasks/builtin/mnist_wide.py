"""Job J0: a perceptron 784-256-10 on MNIST, images standardised: 938 nodes of 64 images each, full-batch steps."""

from functools import partial

from federation.picture import PictureInput
from federation.task import TaskContext
from federation.tasks.builtin.mlp import cross_entropy, initial_mlp, mlp
from federation.tasks.builtin.mnist import mnist, scaled
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.torch_task import TorchTask

WIDTHS = (784, 256, 10)
MEAN, DEVIATION = 0.1307, 0.3081
"""Of all pixels of the training images, in [0, 1]."""


def build(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``mnist-wide``."""
    return TorchTask(
        context,
        model=partial(mlp, *WIDTHS),
        train_data=WholeData(
            partial(mnist, context.data, train=True), prepare=partial(scaled, mean=MEAN, deviation=DEVIATION)
        ),
        test_data=WholeData(
            partial(mnist, context.data, train=False), prepare=partial(scaled, mean=MEAN, deviation=DEVIATION)
        ),
        loss=cross_entropy,
        picture=PictureInput(height=28, width=28, dark_background=True, mean=MEAN, deviation=DEVIATION),
        classes=tuple("0123456789"),
        initial=partial(initial_mlp, WIDTHS),
    )
