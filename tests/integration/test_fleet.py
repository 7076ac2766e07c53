"""From two bare hosts to the first committed version, with the very commands of the documentation."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.runtime.local_broker import free_port

pytestmark = [pytest.mark.broker, pytest.mark.timeout(110)]

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/how-to/enrol-a-fleet.md").read_text()
SCP = '#!/bin/sh\ncp "$SERVER/${1#*:}" "$2"\n'
COMMANDS_MAX = 4
STOP_S = 20.0


def commands(host: str) -> list[str]:
    found = re.search(rf"<!-- test: {host} -->\n```sh\n(.*?)```", GUIDE, re.DOTALL)
    assert found, f"no block for {host}"
    return found.group(1).splitlines()


class Hosts:
    """Two home folders on this machine; ``scp`` copies between them, and the server's name is localhost's address."""

    def __init__(self, folder: Path) -> None:
        self.server, self.device, programs = folder / "server", folder / "device", folder / "bin"
        for made in (self.server, self.device, programs):
            made.mkdir()
        (programs / "scp").write_text(SCP)
        (programs / "scp").chmod(0o755)
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environ = os.environ | {"PATH": path, "SERVER": str(self.server), "OMP_NUM_THREADS": "1"}
        self._port = free_port()

    def run(self, line: str, home: Path) -> str:
        done = subprocess.run(
            ["/bin/bash", "-c", self._here(line)],
            cwd=home,
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, line: str, home: Path) -> Iterator["subprocess.Popen[str]"]:
        process = subprocess.Popen(
            ["/bin/bash", "-c", f"exec {self._here(line)}"],
            cwd=home,
            env=self._environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            # Drains the pipe too: a full one would keep it from stopping.
            threading.Timer(STOP_S, process.kill).start() if process.poll() is None else None
            process.communicate()

    def _here(self, line: str) -> str:
        """The documented port may be taken on this machine, and the documented host is not this one."""
        if line.startswith("coordinator init"):
            return line.replace("broker.example", f"127.0.0.1 --port {self._port}")
        return line


@pytest.mark.slow
def test_the_documented_commands_lead_to_a_committed_version(tmp_path: Path) -> None:
    server, device = commands("server"), commands("device")
    assert len(server) + len(device) <= COMMANDS_MAX
    hosts = Hosts(tmp_path)
    *prepare, coordinate = server
    *fetch, take_part = device
    for line in prepare:
        hosts.run(line, hosts.server)
    with hosts.running(coordinate, hosts.server) as coordinator:
        for line in fetch:
            hosts.run(line, hosts.device)
        with hosts.running(take_part, hosts.device):
            assert coordinator.stderr is not None
            said = []
            for line in coordinator.stderr:
                said.append(line)
                if "version_committed" in line:
                    break
            assert "version_committed" in said[-1], "".join(said)
    assert not (hosts.device / "authority").exists()
    assert "1 " in hosts.run("coordinator status --config plant", hosts.server)
