"""Less work for Python's garbage collector: a simulation makes millions of objects, and hardly any cycles."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

__all__ = ["rare_collections"]

COLLECT_OBJECTS = 100_000
"""More objects than this must be new before Python looks for garbage among them."""

COLLECT_RUNS = 8
"""So many simulations of one process share a look at everything: each leaves about a megabyte in cycles."""

COLLECT_ALL = 100
"""So many looks at what is young come before one at everything, which the process may have much of."""

_runs = count()


@contextmanager
def rare_collections() -> Iterator[None]:
    """Meanwhile Python looks for garbage less often: nearly everything here is freed at once, or lives to the end."""
    before = gc.get_threshold()
    if next(_runs) % COLLECT_RUNS == 0:
        gc.collect()
    gc.set_threshold(COLLECT_OBJECTS, before[1], COLLECT_ALL)
    try:
        yield
    finally:
        gc.set_threshold(*before)
