"""Loops over whole vectors, compiled where a library for this machine is there and in NumPy elsewhere: the same bits.

`kernel()` has them. The library is `kernel-MACHINE.so` beside this file: wheels for x86_64 and aarch64 bring it, and
`python -m update_codec.kernel.build` compiles it. Without it, with one of another version, or with the environment
variable `UPDATE_CODEC_KERNEL=numpy`, NumPy does the work; `status()` says which it is, and why.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from update_codec.kernel.build import library_name
from update_codec.kernel.compiled import Compiled, LibraryError
from update_codec.kernel.operands import Marks, Scale
from update_codec.kernel.reference import FOLD, Reference

__all__ = [
    "FOLD",
    "VARIABLE",
    "Compiled",
    "KernelStatus",
    "LibraryError",
    "Marks",
    "Reference",
    "Scale",
    "kernel",
    "load",
    "status",
    "using",
]

VARIABLE: Final = "UPDATE_CODEC_KERNEL"
"""Environment variable: `numpy` leaves the library alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelStatus:
    """Which loops are in use.

    Attributes:
        name: `compiled` or `numpy`.
        reason: The library's file name, or why there is none.
    """

    name: str
    reason: str


@cache
def load(folder: Path = Path(__file__).parent) -> tuple[Reference, KernelStatus]:
    """The loops of this process, and which they are."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "numpy":
        return Reference(), KernelStatus(name="numpy", reason=f"{VARIABLE}=numpy")
    path = folder / library_name()
    if not path.exists():
        return Reference(), KernelStatus(name="numpy", reason=f"there is no {path.name}")
    if sys.byteorder != "little":
        return Reference(), KernelStatus(name="numpy", reason="the library is for little-endian machines")
    try:
        return Compiled(path), KernelStatus(name="compiled", reason=path.name)
    except LibraryError as error:
        return Reference(), KernelStatus(name="numpy", reason=str(error))


class _Active:
    """The loops in use."""

    def __init__(self) -> None:
        self.loops: Reference | None = None


_ACTIVE: Final = _Active()


def kernel() -> Reference:
    """The loops in use."""
    if _ACTIVE.loops is None:
        _ACTIVE.loops = load()[0]
    return _ACTIVE.loops


def status() -> KernelStatus:
    """Which loops this process loaded, and why."""
    return load()[1]


@contextmanager
def using(loops: Reference) -> Iterator[None]:
    """Use other loops meanwhile, in all threads: for tests and benchmarks."""
    before = kernel()
    _ACTIVE.loops = loops
    try:
        yield
    finally:
        _ACTIVE.loops = before
