"""Job J2: regression on the Boston housing prices, perceptron 13-32-24-16-1, mean squared error.

406 of the 506 rows train, 100 are the test; features but ``chas`` are standardised by the training rows.
The target is the median price in thousands of dollars.
"""

import csv
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.task import TaskContext
from federation.tasks.builtin.mlp import initial_mlp, mean_squared_error, mlp
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.torch_task import TorchTask

WIDTHS = (13, 32, 24, 16, 1)
FEATURES = ("crim", "zn", "indus", "chas", "nox", "rm", "age", "dis", "rad", "tax", "ptratio", "b", "lstat")
TEST_ROWS = 100

_FILE = "BostonHousing.csv"
_FOLDERS = ("", "boston")
_ROWS_MAX = 100_000

Examples = tuple[NDArray[np.float32], NDArray[np.float32]]


def build(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``boston``."""
    return TorchTask(
        context,
        model=partial(mlp, *WIDTHS),
        train_data=WholeData(partial(boston, context.data, train=True, seed=context.seed)),
        test_data=WholeData(partial(boston, context.data, train=False, seed=context.seed)),
        loss=mean_squared_error,
        accuracy=False,
        initial=partial(initial_mlp, WIDTHS),
    )


def boston(data: Path | None, *, train: bool, seed: int = 0) -> Examples:
    """Features, float32 of shape (n, 13), and prices, float32 of shape (n, 1).

    Args:
        data: Folder that has the file, itself or below ``boston``.
        train: The training or the test rows.
        seed: Divides the rows.

    Raises:
        TaskError: The file is not there or not what it should be.
    """
    features, prices = _read(data)
    if len(features) <= TEST_ROWS:
        raise TaskError(f"{_FILE} has only {len(features)} rows")
    order = np.random.default_rng([abs(seed), len(features)]).permutation(len(features))
    seen = features[order[TEST_ROWS:]]
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    kept = [FEATURES.index("chas")]
    mean[kept], deviation[kept] = 0.0, 1.0
    rows = order[TEST_ROWS:] if train else order[:TEST_ROWS]
    return ((features[rows] - mean) / deviation).astype(np.float32), prices[rows].astype(np.float32)


def _read(data: Path | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    for folder in () if data is None else _FOLDERS:
        if data is not None and (path := data / folder / _FILE).is_file():
            break
    else:
        raise TaskError(
            f"no {_FILE} in {data}: give the folder that has it, itself or below boston, as data (--data DIR)"
        )
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row, _ in zip(csv.DictReader(file), range(_ROWS_MAX), strict=False)]
        features = np.array([[float(row[name]) for name in FEATURES] for row in rows])
        prices = np.array([[float(row["medv"])] for row in rows])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TaskError(f"{path} cannot be read: {error}") from error
    return features, prices
