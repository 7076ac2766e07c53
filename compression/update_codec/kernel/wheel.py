"""Puts the kernel's library into a wheel for one machine: `FEDMQ_WHEEL_MACHINE=aarch64 pip wheel --no-deps .`.

Without the variable the wheel is one for all machines, in which NumPy does the work. `make wheels` makes all of them;
an installer takes the one for its machine where there is one. The library needs no version of a C library:
manylinux_2_17 is the oldest that today's installers ask for.
"""

import os
import runpy
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["KernelHook"]

VARIABLE = "FEDMQ_WHEEL_MACHINE"
"""Environment variable: `x86_64` or `aarch64`."""


class KernelHook(BuildHookInterface[Any]):
    """A hook of hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the library, and say for which machine the wheel is.

        Raises:
            CompilerError: if that fails: the wheel would not be what was asked for.
        """
        machine = os.environ.get(VARIABLE, "")
        if not machine or version == "editable":
            return
        self._folder = Path(tempfile.mkdtemp())
        build = runpy.run_path(str(Path(__file__).with_name("build.py")))["build"]
        try:
            library = build(machine, self._folder)
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        build_data["force_include"][str(library)] = f"update_codec/kernel/{library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_17_{machine}.manylinux2014_{machine}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled."""
        del version, build_data, artifact_path
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)
