"""What deploy/ ships: hardened units, and images in which a federation with TLS runs."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.fleet.cli import init
from edge_node.join import install
from federation.runtime.local_broker import free_port

ROOT = Path(__file__).parents[2]
UNITS = ("fedmq-broker", "fedmq-coordinator", "fedmq-node")
EXPOSURE_MAX = 2.5
FIRST_VERSION_S = 60.0
USER = "10001:10001"
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp", f"--user={USER}")


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_hardened(unit: str) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    file = ROOT / "deploy" / "systemd" / f"{unit}.service"
    done = subprocess.run(
        [program, "security", "--offline=true", "--no-pager", str(file)], capture_output=True, text=True, check=False
    )
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found.group(1)) <= EXPOSURE_MAX


@pytest.mark.parametrize("unit", UNITS[1:])
def test_a_role_is_watched_and_stays_down_only_for_a_wrong_setting(unit: str) -> None:
    lines = (ROOT / "deploy" / "systemd" / f"{unit}.service").read_text().splitlines()
    assert {"Type=notify", "WatchdogSec=120", "Restart=always", "RestartPreventExitStatus=2"} <= set(lines)


def _engine() -> str:
    for name in ("docker", "podman"):
        program = shutil.which(name)
        if program is not None and subprocess.run([program, "info"], capture_output=True, check=False).returncode == 0:
            return program
    pytest.skip("neither docker nor podman runs here")


@pytest.fixture(scope="module")
def engine() -> str:
    """A container engine that has the images; ``make test-container`` builds them."""
    program = _engine()
    images = ("fedmq-broker", "fedmq-coordinator", "fedmq-edge-node")
    for image in images:
        file = ROOT / "deploy" / "containers" / f"{image.removeprefix('fedmq-')}.Dockerfile"
        if os.environ.get("FEDMQ_CONTAINER_BUILD"):
            more = os.environ.get("FEDMQ_CONTAINER_BUILD_FLAGS", "").split()
            subprocess.run([program, "build", *more, "-f", str(file), "-t", image, str(ROOT)], check=True)
        elif subprocess.run([program, "image", "inspect", image], capture_output=True, check=False).returncode:
            pytest.skip(f"no image {image}: make test-container builds it")
    probe = [program, "run", "--rm", "--network=host", "--entrypoint=/bin/true", images[0]]
    tried = subprocess.run(probe, capture_output=True, check=False, text=True)
    if tried.returncode:
        pytest.skip(f"{program} has the images and cannot run them: {tried.stderr.strip()[-300:]}")
    return program


class Containers:
    """Containers on the host's network, removed at the end."""

    def __init__(self, engine: str, prefix: str) -> None:
        self._engine, self._prefix, self.started = engine, prefix, list[str]()

    def start(self, role: str, *flags: str, arguments: tuple[str, ...] = ()) -> None:
        name = f"{self._prefix}-{role}"
        command = [self._engine, "run", "-d", "--name", name, "--network=host", *HARDENED, *flags]
        self.started.append(name)
        subprocess.run([*command, f"fedmq-{role}", *arguments], check=True, capture_output=True)

    def wait_for(self, role: str, word: str) -> None:
        """Follow a container's log until it has this word."""
        command = [self._engine, "logs", "-f", f"{self._prefix}-{role}"]
        heard = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                heard.append(line)
                if word in line:
                    break
            process.terminate()
        assert word in heard[-1], "".join(heard)

    def healthy(self, role: str) -> bool:
        """What the image's own health check says now."""
        return self.run(role, "/bin/sh", "-c", 'test -n "$(find $FEDMQ_HEALTH_FILE -mmin -1)"')

    def run(self, role: str, *arguments: str) -> bool:
        """Whether a program succeeds inside."""
        command = [self._engine, "exec", f"{self._prefix}-{role}", *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def remove(self) -> None:
        for name in self.started:
            subprocess.run([self._engine, "rm", "-f", "-t", "2", name], capture_output=True, check=False)


@pytest.fixture
def containers(engine: str, tmp_path: Path) -> Iterator[Containers]:
    made = Containers(engine, f"fedmq-test-{os.getpid()}")
    yield made
    made.remove()


def _owned(folder: Path) -> None:
    """The containers' user owns what they read: it is not ours."""
    uid, gid = (int(part) for part in USER.split(":"))
    folder.parent.chmod(0o755)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, gid)


@pytest.mark.container
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_federation_runs_in_the_images(containers: Containers, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("handing files to the containers' user needs root")
    port = free_port()
    init(tmp_path / "plant", host=["localhost"], port=port, task="quadratic-12", evaluate=False, enroll_=["edge-01"])
    install(tmp_path / "plant" / "enrolled" / "edge-01.fedmq", tmp_path / "edge-01")
    (tmp_path / "edge-01" / "state").mkdir()
    for folder in (tmp_path / "plant", tmp_path / "edge-01"):
        _owned(folder)
    began = time.monotonic()
    containers.start("broker", f"-v={tmp_path / 'plant' / 'broker'}:/fleet/broker")
    plant = tmp_path / "plant"
    containers.start(
        "coordinator",
        f"-v={plant / 'coordinator.toml'}:/fleet/coordinator.toml:ro",
        f"-v={plant / 'coordinator'}:/fleet/coordinator:ro",
        f"-v={plant / 'state'}:/fleet/state",
    )
    containers.start("edge-node", f"-v={tmp_path / 'edge-01'}:/node")
    containers.wait_for("coordinator", "version_committed")
    assert time.monotonic() - began <= FIRST_VERSION_S
    assert containers.healthy("coordinator")
    assert containers.healthy("edge-node")
    assert containers.run("edge-node", "python", "-c", "import torch")
    assert not containers.run("coordinator", "python", "-c", "import torch")
    for role in ("coordinator", "edge-node"):
        assert containers.run(role, "sh", "-c", 'test "$(id -u)" = 10001 && ! touch /opt/fedmq/x && ! touch /x')
