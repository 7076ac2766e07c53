"""What a user's code draws without a seed of its own: alike in every process, and with no trace in ours.

Python's, NumPy's and torch's own generators begin differently in each process. Whoever divides or shuffles data with
them, as ``sklearn.model_selection.train_test_split`` does, would give each node another division of it: rows of the
test set are trained on somewhere, and nobody hears of it.
"""

import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

import numpy as np

from federation.runtime.log import get_log
from federation.task import Task, TaskContext, TaskFactory

__all__ = ["IMPORT_SEED", "built_alike", "called", "drawn_alike", "made_alike"]

IMPORT_SEED: Final = 20_261
"""From which a module draws when it is imported: nobody knows the run's seed yet, and no run's draws are repeated."""

_told = set[str]()
"""Functions of which it was said that they draw."""


class _Seeds(threading.local):
    """Where a generator of NumPy's that is made without a seed gets one from; None: from the system."""

    sequence: "np.random.SeedSequence | None" = None


_seeds = _Seeds()


@cache
def _own_generator() -> Any:
    """NumPy's own, asked for before it is replaced; its module is loaded then, and no coordinator builds a task."""
    return np.random.default_rng


def _generator(seed: Any = None) -> Any:
    """What stands for ``numpy.random.default_rng``; whoever has imported it by name keeps this one."""
    sequence = _seeds.sequence
    return _own_generator()(sequence.spawn(1)[0] if seed is None and sequence is not None else seed)


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


@contextmanager
def made_alike(seed: int) -> Iterator[Callable[[], bool]]:
    """The same where a task or its data is made: also for torch that is loaded there, and NumPy's own generators.

    Those are generators that are made without a seed. Not where it trains: what shall be secret there is drawn from
    the system.

    Args:
        seed: Any whole number.

    Yields:
        Says whether anything was drawn so far.
    """
    before, sequence, watch, own = _seeds.sequence, np.random.SeedSequence(abs(seed)), _Watch(seed), _own_generator()
    _seeds.sequence = sequence
    np.random.default_rng = _generator
    sys.meta_path.insert(0, watch)
    try:
        with drawn_alike(seed) as has_drawn:
            yield lambda: has_drawn() or bool(sequence.n_children_spawned)
    finally:
        with suppress(ValueError):  # it has seen torch
            sys.meta_path.remove(watch)
        _seeds.sequence = before
        if before is None:
            np.random.default_rng = own


def called(function: Callable[[], Any], seed: int) -> Any:
    """What a node's own data function gives; where it draws, that is said once.

    Args:
        function: The user's.
        seed: Of what it draws: the run's, so that two functions that divide the same rows divide them in the same way.
    """
    with made_alike(seed) as has_drawn:
        made = function()
        drew = has_drawn()
    name = getattr(function, "__qualname__", type(function).__name__)
    if drew and name not in _told:
        _told.add(name)
        differing = "numpy.random.default_rng([context.seed, context.node_index or 0])"
        why = f"it draws without a seed of its own, and every node draws the same: else take {differing}"
        get_log("task").warning("data_drawn_alike", function=name, why=why)
    return made


def built_alike(build: TaskFactory, context: TaskContext) -> Task:
    """The task as any other process of the run builds it: what its factory draws is drawn from the run's seed."""
    with made_alike(context.seed):
        return build(context)


class _Watch(MetaPathFinder):
    """Seeds torch as soon as it is loaded: it begins with a seed of its own in each process.

    Args:
        seed: Any whole number.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed % 2**32

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where torch is, with a loader that seeds it; nothing for any other module."""
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            load = loader.exec_module

            def seeded(module: ModuleType) -> None:
                load(module)
                module.manual_seed(self._seed)

            loader.exec_module = seeded
        return spec


def _torch() -> Any:
    """torch, where it is loaded; it takes seconds."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "initial_seed") else None


def _state() -> Any:
    drawn: Any = np.random.get_state()  # noqa: NPY002 - as above
    return random.getstate(), drawn[1].tobytes(), drawn[2:]
