"""From two bare hosts to the first committed version, with the README's very commands."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from federation.runtime.local_broker import free_port
from tests.rigs.network_hosts import Host, Network, on_one_machine, why_no_namespaces

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[3]
BROKER = "broker.example"
# Copies from the other host's home folder: the hosts have no SSH server.
SCP = '#!/bin/sh\nset -e\ntest "${1%%:*}" = broker.example\ncp "$SERVER/${1#*:}" "$2"\n'
COMMANDS_MAX = 4


def commands(page: str, host: str) -> list[str]:
    found = re.search(rf"<!-- test: {host} -->\n```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert found, f"no block for {host} in {page}"
    return found.group(1).splitlines()


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """A server called as in the README, and a device, each with an address of its own where root can make that."""
    programs = folder / "bin"
    programs.mkdir()
    scp = programs / "scp"
    scp.write_text(SCP.replace("$SERVER", str(folder / "server")))
    scp.chmod(0o755)
    if why_no_namespaces() is None:
        with Network(folder, programs) as network:
            yield network.add("server", aliases=(BROKER,)), network.add("device")
    else:
        with on_one_machine(folder, programs) as hosts:
            yield hosts["server"], hosts["device"]


def on(host: Host, line: str) -> str:
    """A documented line; on one machine's own network its port may be taken, and its name is nobody's."""
    if host.namespace is None and line.startswith("coordinator init"):
        return line.replace(BROKER, f"127.0.0.1 --port {free_port()}")
    return line


@pytest.mark.slow
def test_the_documented_commands_lead_to_a_committed_version(tmp_path: Path) -> None:
    *prepare, coordinate = commands("README.md", "server")
    *fetch, take_part = commands("README.md", "device")
    with two_hosts(tmp_path) as (server, device):
        for line in prepare:
            server.run(on(server, line))
        coordinator = server.start(coordinate)
        for line in fetch:
            device.run(line)
        device.start(take_part)
        coordinator.wait_for("version_committed", limit_s=120)
        assert not (device.home / "authority").exists()
        assert "1 " in server.run("coordinator status --config plant")


def test_the_readme_and_the_guide_need_four_commands_and_they_are_the_same() -> None:
    for host in ("server", "device"):
        assert commands("README.md", host) == commands("docs/how-to/enrol-a-fleet.md", host)
    assert len(commands("README.md", "server")) + len(commands("README.md", "device")) <= COMMANDS_MAX
