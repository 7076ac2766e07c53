"""Job J5: softmax regression 561-6 on UCI HAR, divided by who wore the phone.

The 16 subjects 1 to 25 of the set train, one or more at each node; the five subjects 26 to 30 are the test: the figure
is the accuracy on people whom no node has seen. Source: Anguita et al., "A public domain dataset for human activity
recognition using smartphones", ESANN 2013.
"""

from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.task import Array, TaskContext
from federation.tasks.mlp import cross_entropy, initial_mlp, mlp
from federation.tasks.torch_task import TorchTask
from federation.tasks.whole_data import WholeData

WIDTHS = (561, 6)
TEST_SUBJECTS_MIN = 26
"""Subjects from this number on are the test."""

_FILE = "uci_har_train_561.npz"
_FOLDERS = ("", "uci-har")


def build(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``har``."""
    return TorchTask(
        context,
        model=partial(mlp, *WIDTHS),
        train_data=WholeData(partial(_training_examples, context.data)),
        test_data=partial(_test_examples, context),
        loss=cross_entropy,
        split="natural",
        initial=partial(initial_mlp, WIDTHS),
    )


def _training_examples(data: Path | None) -> tuple[Array, Array, Array]:
    """Windows, labels and who wore the phone, of the training subjects."""
    windows, labels, subjects = _read(data)
    seen = subjects < TEST_SUBJECTS_MIN
    return windows[seen], labels[seen], subjects[seen]


def _test_examples(context: TaskContext) -> tuple[Array, Array]:
    windows, labels, subjects = _read(context.data)
    unseen = subjects >= TEST_SUBJECTS_MIN
    return windows[unseen], labels[unseen]


def _read(data: Path | None) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features, float32 of shape (n, 561); labels 0 to 5 and subjects, int64 of shape (n,)."""
    try:
        with np.load(_file(data), allow_pickle=False) as archive:
            windows, labels, subjects = (archive[name] for name in ("x", "y", "subject"))
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise TaskError(f"UCI HAR cannot be read: {error}") from error
    if windows.shape != (len(labels), WIDTHS[0]) or subjects.shape != labels.shape or labels.ndim != 1:
        raise TaskError(f"UCI HAR has {windows.shape} features, {labels.shape} labels and {subjects.shape} subjects")
    return windows.astype(np.float32, copy=False), labels.astype(np.int64) - 1, subjects.astype(np.int64)


def _file(data: Path | None) -> Path:
    for folder in () if data is None else _FOLDERS:
        if data is not None and (path := data / folder / _FILE).is_file():
            return path
    raise TaskError(f"no {_FILE} in {data}: give the folder that has it, itself or below uci-har, as data (--data DIR)")
