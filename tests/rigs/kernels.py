"""Compiled kernels for tests: of this machine, and of another one under an emulator."""

import re
import shutil
import struct
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

from update_codec.kernel import Compiled, Reference, compiled
from update_codec.kernel.build import FLAGS, SOURCE, CompilerError, build

__all__ = ["Emulated", "compiled_kernel", "emulated_kernel"]


_FORMATS = {"d": "<d", "l": "<q"}


@cache
def _built(folder: Path) -> Compiled:
    return Compiled(build(into=folder))


def compiled_kernel(factory: pytest.TempPathFactory) -> Compiled:
    """Loops of this machine, compiled now; the test is skipped where there is no compiler."""
    try:
        return _built(factory.getbasetemp())
    except CompilerError as error:
        pytest.skip(str(error))


class Emulated(Compiled):
    """Loops of another machine: every call is a process of an emulator.

    Args:
        command: runs `foreign_kernel.c`.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self.calls = 0
        self._bind(lambda name, arguments: lambda *given: self._call(name, arguments, given))

    def _call(self, name: str, kinds: str, given: tuple[Any, ...]) -> int:
        self.calls += 1
        packed = [bytes([len(name)]), name.encode(), bytes([len(kinds)]), kinds.encode()]
        for kind, value in zip(kinds, given, strict=True):
            if kind == "p":
                packed += [struct.pack("<q", value.nbytes), value.tobytes()]
            else:
                packed.append(struct.pack(_FORMATS[kind], value))
        done = subprocess.run(self._command, input=b"".join(packed), capture_output=True, check=True)
        place = 8
        for kind, value in zip(kinds, given, strict=True):
            if kind == "p":
                came = np.frombuffer(done.stdout, value.dtype, value.size, place).reshape(value.shape)
                if value.flags.writeable:
                    value[...] = came
                place += value.nbytes
        assert place == len(done.stdout)
        return int(struct.unpack_from("<q", done.stdout)[0])


def emulated_kernel(folder: Path, machine: str = "aarch64") -> tuple[Reference, Any]:
    """Loops of another machine, and the patch under which they are to be used."""
    emulator, compiler = shutil.which(f"qemu-{machine}-static"), shutil.which(f"{machine}-linux-gnu-gcc")
    if emulator is None or compiler is None:
        pytest.skip(f"needs qemu-user-static and gcc-{machine}-linux-gnu")
    names = re.findall(r"^(?:EXPORT|DEFINE)\w* ?(?:i64|void)?[ (](\w+)[,(]", SOURCE.read_text("utf-8"), re.MULTILINE)
    names = [name for name in names if name != "update_codec_kernel_version"]
    options = [flag for flag in FLAGS if flag not in ("-shared", "-nostdlib", "-ffreestanding")]
    listed = "-DFUNCTION_LIST=" + "".join(f"ENTRY({name})" for name in names)
    program = folder / f"kernel-{machine}"
    source = Path(__file__).with_name("foreign_kernel.c")
    command = [compiler, *options, "-static", "-DVERSION=0u", listed, f"-I{SOURCE.parent}", str(source)]
    subprocess.run([*command, "-o", str(program)], check=True, capture_output=True)

    def itself(array: NDArray[Any]) -> NDArray[Any]:
        return array

    return Emulated([emulator, str(program)]), mock.patch.object(compiled, "_address", itself)
