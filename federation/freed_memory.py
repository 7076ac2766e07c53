"""Memory that was freed and is still this process's: the C library keeps it for later, a node several models' worth."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Final

__all__ = ["WORTH_RETURNING", "return_freed_memory"]

WORTH_RETURNING: Final = 1 << 24
"""Bytes that are freed before they are returned: doing so costs some ten microseconds."""


def return_freed_memory() -> None:
    """Give the kernel what was freed: glibc keeps arrays of up to 32 MB.

    Making glibc map each array apart instead would cost training: half as much time again, with activations of 8 MB.
    """
    trim = _trimmer()
    if trim is not None:
        trim(0)


@cache
def _trimmer() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in each C library
    return found
