"""Job J3: logistic regression 784-10 on MNIST, images in [0, 1]."""

from functools import partial

from federation.picture import PictureInput
from federation.task import TaskContext
from federation.tasks.builtin.mlp import cross_entropy, initial_mlp, mlp
from federation.tasks.builtin.mnist import mnist, scaled
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.torch_task import TorchTask

WIDTHS = (784, 10)


def build(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``mnist-logreg``."""
    return TorchTask(
        context,
        model=partial(mlp, *WIDTHS),
        train_data=WholeData(partial(mnist, context.data, train=True), prepare=scaled),
        test_data=WholeData(partial(mnist, context.data, train=False), prepare=scaled),
        loss=cross_entropy,
        picture=PictureInput(height=28, width=28, dark_background=True),
        classes=tuple("0123456789"),
        initial=partial(initial_mlp, WIDTHS),
    )
