"""A second broker of another code base: ejabberd's MQTT 5, on a free loopback port, with its state in a folder."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

import psutil
import pytest

from federation.runtime.local_broker import free_port

__all__ = ["Ejabberd", "needs_ejabberd"]

START_S = 60.0
STOP_S = 20.0
# Everybody is let in who says a name and a password, whatever they are.
CONFIGURATION = """\
hosts: [localhost]
loglevel: info
auth_method: [anonymous]
anonymous_protocol: login_anon
allow_multiple_connections: true
listen:
  - port: {port}
    ip: "127.0.0.1"
    module: mod_mqtt
    backlog: 1000
modules:
  mod_mqtt:
    max_queue: 20000
"""


def _library() -> Path | None:
    """Where the package has put its code; None where it is not installed."""
    return next((path.parent for path in sorted(Path("/usr/lib").glob("*/ejabberd-*"))), None)


needs_ejabberd = pytest.mark.skipif(
    shutil.which("erl") is None or _library() is None, reason="ejabberd is not installed: make test-brokers installs it"
)


class Ejabberd:
    """One node of its own: without Erlang's distribution, its port mapper, or anything of the system's service."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `parse_broker_url`."""
        return f"mqtt://somebody:anything@127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._folder.mkdir(exist_ok=True)
        configuration = self._folder / "ejabberd.yml"
        configuration.write_text(CONFIGURATION.format(port=self.port))
        places = {
            "ERL_LIBS": str(_library()),
            "EJABBERD_CONFIG_PATH": str(configuration),
            "EJABBERD_LOG_PATH": str(self._folder / "ejabberd.log"),
            "SPOOL_DIR": str(self._folder / "spool"),
            "HOME": str(self._folder),
        }
        command = [
            "erl",
            "-noinput",
            "-boot",
            "start_sasl",
            "-mnesia",
            "dir",
            f'"{self._folder}/spool"',
            "-s",
            "ejabberd",
        ]
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                command, env=os.environ | places, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        family = list[psutil.Process]()
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()
        # Its port programs end when they read that it is gone, on a loaded machine after a while.
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(family, timeout=STOP_S)

    def _wait(self) -> None:
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            said = (self._folder / "output").read_text(errors="replace")
            if f"Start accepting TCP connections at 127.0.0.1:{self.port}" in said:
                return
            if self._process is None or self._process.poll() is not None:
                break
            time.sleep(0.1)
        self.__exit__()
        raise AssertionError((self._folder / "output").read_text(errors="replace")[-2_000:])
