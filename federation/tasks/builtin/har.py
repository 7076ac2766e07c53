"""Job J5: softmax regression 561-6 on UCI HAR, divided by who wore the phone.

The 16 subjects 1 to 25 of the set train, one or more at each node; the five subjects 26 to 30 are the test: the figure
is the accuracy on people whom no node has seen. Source: Anguita et al., "A public domain dataset for human activity
recognition using smartphones", ESANN 2013.
"""

import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.task import Array, TaskContext
from federation.tasks.builtin.mlp import cross_entropy, initial_mlp, mlp
from federation.tasks.data.whole_data import WholeData
from federation.tasks.training.torch_task import TorchTask

WIDTHS = (561, 6)
TEST_SUBJECTS_MIN = 26
"""Subjects from this number on are the test."""

_Chosen = Callable[[NDArray[np.int64]], NDArray[np.bool]]
"""From the subject of each window to whether it is chosen."""

_FILE = "uci_har_train_561.npz"
_FOLDERS = ("", "uci-har")


def build(context: TaskContext) -> TorchTask:
    """The factory that the registry finds as ``har``."""
    return _build(
        context, lambda subjects: subjects < TEST_SUBJECTS_MIN, lambda subjects: subjects >= TEST_SUBJECTS_MIN
    )


def build_held_out(context: TaskContext, held_out: tuple[int, ...]) -> TorchTask:
    """The same among the training subjects alone: some are held out and are the test; 26 to 30 are not looked at."""

    def tested(subjects: NDArray[np.int64]) -> NDArray[np.bool]:
        return np.isin(subjects, held_out) & (subjects < TEST_SUBJECTS_MIN)

    return _build(context, lambda subjects: (subjects < TEST_SUBJECTS_MIN) & ~tested(subjects), tested)


def training_subjects(data: Path | None) -> list[int]:
    """The numbers of the subjects that may train, in order."""
    _, _, subjects = _read(data)
    return sorted({int(subject) for subject in subjects if subject < TEST_SUBJECTS_MIN})


def _build(context: TaskContext, trains: _Chosen, tests: _Chosen) -> TorchTask:
    def training_examples() -> tuple[Array, Array, Array]:
        windows, labels, subjects = _read(context.data)
        rows = trains(subjects)
        return windows[rows], labels[rows], subjects[rows]

    def test_examples() -> tuple[Array, Array]:
        windows, labels, subjects = _read(context.data)
        rows = tests(subjects)
        return windows[rows], labels[rows]

    return TorchTask(
        context,
        model=partial(mlp, *WIDTHS),
        train_data=WholeData(training_examples),
        test_data=WholeData(test_examples),
        loss=cross_entropy,
        split="natural",
        initial=partial(initial_mlp, WIDTHS),
    )


def _read(data: Path | None) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features, float32 of shape (n, 561); labels 0 to 5 and subjects, int64 of shape (n,)."""
    try:
        with np.load(_file(data), allow_pickle=False) as archive:
            windows, labels, subjects = (archive[name] for name in ("x", "y", "subject"))
    except (OSError, EOFError, ValueError, KeyError, MemoryError, BadZipFile, zlib.error) as error:
        raise TaskError(f"UCI HAR cannot be read: {error}") from error
    if windows.shape != (len(labels), WIDTHS[0]) or subjects.shape != labels.shape or labels.ndim != 1:
        raise TaskError(f"UCI HAR has {windows.shape} features, {labels.shape} labels and {subjects.shape} subjects")
    return windows.astype(np.float32, copy=False), labels.astype(np.int64) - 1, subjects.astype(np.int64)


def _file(data: Path | None) -> Path:
    for folder in () if data is None else _FOLDERS:
        if data is not None and (path := data / folder / _FILE).is_file():
            return path
    raise TaskError(f"no {_FILE} in {data}: give the folder that has it, itself or below uci-har, as data (--data DIR)")
