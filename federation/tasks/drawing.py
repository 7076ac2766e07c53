"""What a user's code draws without a seed of its own: alike in every process, and with no trace in ours.

Python's, NumPy's and torch's own generators begin differently in each process. Whoever divides or shuffles data with
them, as ``sklearn.model_selection.train_test_split`` does, would give each node another division of it: rows of the
test set are trained on somewhere, and nobody hears of it.
"""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from federation.runtime.log import get_log
from federation.task import Task, TaskContext, TaskFactory

__all__ = ["built_alike", "called", "drawn_alike"]

_told = set[str]()
"""Functions of which it was said that they draw."""


@contextmanager
def drawn_alike(seed: int) -> Iterator[Callable[[], bool]]:
    """Seed what Python, NumPy and torch, where it is loaded, draw inside; what others draw goes on as it was.

    Args:
        seed: Any whole number.

    Yields:
        Says whether anything was drawn from Python or NumPy so far.
    """
    torch = _torch()
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - what users draw from
    torch_before = None if torch is None else torch.random.get_rng_state()
    random.seed(seed % 2**32)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - as above
    if torch is not None:
        torch.manual_seed(seed % 2**32)
    first = _state()
    try:
        yield lambda: _state() != first
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002 - as above
        if torch is not None:
            torch.random.set_rng_state(torch_before)


def called(function: Callable[[], Any], seed: int) -> Any:
    """What a node's own data function gives; where it draws, that is said once.

    Args:
        function: The user's.
        seed: Of what it draws: the run's, so that two functions that divide the same rows divide them in the same way.
    """
    with drawn_alike(seed) as has_drawn:
        made = function()
        drew = has_drawn()
    name = getattr(function, "__qualname__", type(function).__name__)
    if drew and name not in _told:
        _told.add(name)
        differing = "numpy.random.default_rng([context.seed, context.node_index or 0])"
        why = f"it draws from Python's or NumPy's own generator, and every node draws the same: else take {differing}"
        get_log("task").warning("data_drawn_alike", function=name, why=why)
    return made


def built_alike(build: TaskFactory, context: TaskContext) -> Task:
    """The task as any other process of the run builds it: what its factory draws is drawn from the run's seed."""
    loaded = _torch() is not None
    with drawn_alike(context.seed):
        task = build(context)
    if not loaded and _has_drawn_from_torch():
        # torch was loaded by the factory, and has begun with a seed of its own.
        with drawn_alike(context.seed):
            task = build(context)
    return task


def _has_drawn_from_torch() -> bool:
    torch = _torch()
    if torch is None:
        return False
    first = torch.Generator().manual_seed(torch.initial_seed()).get_state()
    return not bool((first == torch.random.get_rng_state()).all())


def _torch() -> Any:
    """torch, where it is loaded; it takes seconds."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "initial_seed") else None


def _state() -> Any:
    drawn: Any = np.random.get_state()  # noqa: NPY002 - as above
    return random.getstate(), drawn[1].tobytes(), drawn[2:]
