"""The task that needs no download: scikit-learn's 1,797 real handwritten digits, 8 x 8 pixels.

1,438 images are divided among the nodes, 359 are the test set; pixels are scaled from 0..16 to [0, 1].
"""

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np

from federation.errors import TaskError
from federation.picture import PictureInput
from federation.task import Array, TaskContext
from federation.tasks.builtin.mlp import cross_entropy, initial_mlp, mlp
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.torch_task import TorchTask

WIDTHS = (64, 64, 10)
TEST_EXAMPLES = 359
_SHUFFLE_SEED = 1797
"""One division into training and test set for every run, so that figures can be compared."""


def build(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``digits``."""
    return TorchTask(
        context,
        model=partial(mlp, *WIDTHS),
        train_data=WholeData(partial(digits, train=True)),
        test_data=WholeData(partial(digits, train=False)),
        loss=cross_entropy,
        picture=PictureInput(height=8, width=8, dark_background=True, flat=True),
        classes=tuple("0123456789"),
        initial=partial(initial_mlp, WIDTHS),
    )


def digits(*, train: bool) -> tuple[Array, Array]:
    """All training or all test examples: images, float32 of shape (n, 64) in [0, 1], and labels, int64 of shape (n,).

    Raises:
        TaskError: scikit-learn is not installed.
    """
    images, labels = _all_digits()
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(images))
    rows = order[TEST_EXAMPLES:] if train else order[:TEST_EXAMPLES]
    return images[rows].astype(np.float32) / np.float32(16), labels[rows].astype(np.int64)


def _all_digits() -> tuple[Array, Array]:
    """All pixels, shape (1797, 64), 0 to 16, and labels."""
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            # Importing scikit-learn takes longer than a whole round of this task; its file is plain text.
            table = np.loadtxt(path, delimiter=",", dtype=np.float32)
            return table[:, :-1], table[:, -1].astype(np.int64)
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - only where the file has another place
    except ModuleNotFoundError as error:
        raise TaskError("the task 'digits' reads scikit-learn's data: pip install 'fedmq[demo]'") from error
    images, labels = load_digits(return_X_y=True)
    return images, labels
