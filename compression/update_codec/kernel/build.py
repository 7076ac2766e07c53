"""Compiles the kernel: see `python -m update_codec kernel --help`.

Needs a C compiler, gcc or clang, and nothing of NumPy: the build of a wheel loads this file alone.
"""

import os
import platform
import shutil
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["SOURCE", "CompilerError", "build", "library_name", "version_of"]

SOURCE: Final = Path(__file__).with_name("kernel.c")

FLAGS: Final = (
    "-std=c11",
    "-O3",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    # Products and sums are rounded apart, as NumPy does: the same bits on machines with a fused multiply-add.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    # No C library is named: memcpy and memset are in the process already, from whichever library it has.
    "-ffreestanding",
    "-nostdlib",
    # The same source gives the same bytes.
    "-Wl,--build-id=none",
    "-Wl,-s",
)


class CompilerError(Exception):
    """There is no compiler, or it failed."""


def library_name(machine: str = "") -> str:
    """File name of the library for a machine, as `platform.machine()` names it; this one if none is named."""
    return f"kernel-{machine or platform.machine()}.so"


def version_of(source: Path = SOURCE) -> int:
    """What a library that was compiled from this source says of itself: 32 bits of it.

    Raises:
        OSError: if it cannot be read.
    """
    return zlib.crc32(source.read_bytes())


def build(machine: str = "", into: Path | None = None, *, flags: Sequence[str] = FLAGS) -> Path:
    """Compile the kernel.

    Args:
        machine: as `platform.machine()` names it; this one if none is named. Another needs the cross compiler
            `MACHINE-linux-gnu-gcc`. The environment variable CC names one for this machine.
        into: folder of the library; that of this package if there is none.
        flags: of the compiler.

    Returns:
        The library's path.

    Raises:
        CompilerError: if there is no compiler, or it failed.
    """
    target = (into or SOURCE.parent) / library_name(machine)
    is_native = machine in ("", platform.machine())
    wanted = (os.environ.get("CC") or "cc") if is_native else f"{machine}-linux-gnu-gcc"
    compiler = shutil.which(wanted)
    if compiler is None:
        raise CompilerError(f"no C compiler: {wanted} is not in PATH")
    # Beside its place first: a process that has the former one goes on with it.
    beside = target.with_suffix(f".{os.getpid()}.tmp")
    try:
        version = f"-DVERSION={version_of()}u"
        command = [compiler, *flags, version, str(SOURCE), "-o", str(beside)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompilerError(f"{wanted} failed: {done.stderr.strip()}")
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target
