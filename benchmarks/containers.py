"""What the images weigh without their base, and how long a federation in them takes to its first version.

`make bench-containers` prints both; `make test-container` runs the same federation and checks more of it. Works with
docker and with podman (and podman-compose), whichever runs here; the images are built first: `make test-container`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmarks.table import Figure, show
from federation.runtime.local_broker import free_port

BASE = "debian:bookworm-slim"
IMAGE_MB_MAX = {"fedmq-coordinator": 180, "fedmq-edge-node": 900}
IMAGES = ("fedmq-broker", *IMAGE_MB_MAX)
FIRST_VERSION_S_MAX = 60.0
USER = 10_001
LIMIT_S = 240.0
STEP_S = 0.1
# For an engine whose containers have no name service of their own, such as podman without its plugin.
HOST_NETWORK = """
services:
  broker: { network_mode: host }
  coordinator:
    network_mode: host
    environment: { FEDMQ_COORDINATOR__BROKER__URL: "mqtts://localhost:PORT" }
  node:
    network_mode: host
    environment: { FEDMQ_NODE__BROKER__URL: "mqtts://localhost:PORT" }
"""


class NoEngine(Exception):  # noqa: N818 - it is a state of this machine, not a mistake
    """Containers cannot run here; the message says why."""


@cache
def engine() -> str:
    """Docker or podman, whichever runs here.

    Raises:
        NoEngine: Neither.
    """
    for name in ("docker", "podman"):
        program = shutil.which(name)
        if program is not None and subprocess.run([program, "info"], capture_output=True, check=False).returncode == 0:
            return program
    raise NoEngine("neither docker nor podman runs here")


def is_podman() -> bool:
    """Whether the engine is podman."""
    return Path(engine()).name == "podman"


@cache
def compose() -> tuple[str, ...]:
    """The program that reads a compose file.

    Raises:
        NoEngine: There is none for this engine.
    """
    if not is_podman():
        found = (engine(), "compose")
        if subprocess.run([*found, "version"], capture_output=True, check=False).returncode == 0:
            return found
        raise NoEngine("docker has no compose plugin")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which("podman-compose", path=path)
    if program is None:
        raise NoEngine("podman-compose is not installed (pip install podman-compose)")
    return (program,)


def image_bytes(image: str) -> int:
    """Its size with its base.

    Raises:
        NoEngine: It is not there.
    """
    return int(str(inspected(image)["Size"]))


def inspected(image: str) -> dict[str, object]:
    """What the engine knows of an image.

    Raises:
        NoEngine: It is not there.
    """
    done = subprocess.run([engine(), "image", "inspect", image], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoEngine(f"no image {image}: make test-container builds it")
    found: dict[str, object] = json.loads(done.stdout)[0]
    return found


@dataclass
class Composed:
    """A federation from its own compose file: broker, coordinator, one node.

    Attributes:
        folder: Of ``coordinator init``.
        seconds: From `up` to the first version.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    seconds: float = 0.0

    def prepare(self) -> None:
        """Make the folder as its user would, with one node enrolled."""
        told = ("--host", "localhost", "--port", str(self.port), "--task", "quadratic-12", "--no-evaluate")
        line = [sys.executable, "-m", "coordinator", "init", str(self.folder), *told, "--enroll", "edge-01"]
        subprocess.run(line, check=True, capture_output=True)
        text = (self.folder / "compose.yaml").read_text()
        if os.geteuid() == 0:
            # Whoever makes the folder is who the containers run as, and root is nobody's choice.
            text = text.replace('user: "0:0"', f'user: "{USER}:{USER}"')
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, USER, USER)
        (self.folder / "compose.yaml").write_text(text)
        (self.folder / "host.yaml").write_text(HOST_NETWORK.replace("PORT", str(self.port)))

    def up(self) -> float:
        """Start everything, and wait for the first version; returns the seconds."""
        began = time.monotonic()
        self._compose("--profile", "nodes", "up", "-d")
        while "version_committed" not in self.logs("coordinator"):
            if time.monotonic() - began > LIMIT_S:
                raise TimeoutError("no version:\n" + self.logs("coordinator") + self.logs("node") + self.logs("broker"))
            time.sleep(STEP_S)
        self.seconds = time.monotonic() - began
        return self.seconds

    def down(self) -> None:
        """Remove the containers."""
        self._compose("--profile", "nodes", "down", "-t", "5")

    def logs(self, service: str) -> str:
        """What a service has said."""
        done = subprocess.run([engine(), "logs", self.container(service)], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def container(self, service: str) -> str:
        """Name of the container of a service."""
        joint = "_" if is_podman() else "-"
        return f"{self.folder.name}{joint}{service}{joint}1"

    def run(self, service: str, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a program in a service's container."""
        line = [engine(), "exec", self.container(service), *command]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    def _compose(self, *arguments: str) -> None:
        files = ["-f", "compose.yaml", *(["-f", "host.yaml"] if is_podman() else [])]
        environ = os.environ | {
            "FEDMQ_BROKER_IMAGE": "fedmq-broker",
            "FEDMQ_COORDINATOR_IMAGE": "fedmq-coordinator",
            "FEDMQ_NODE_IMAGE": "fedmq-edge-node",
        }
        line = [*compose(), *files, *arguments]
        done = subprocess.run(line, cwd=self.folder, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(line)}: {done.stdout}{done.stderr}")


@contextmanager
def composed(parent: Path) -> Iterator[Composed]:
    """A federation that has made its first version; its containers are removed at the end."""
    made = Composed(parent / f"fedmq{os.getpid()}")
    made.prepare()
    try:
        made.up()
        yield made
    finally:
        made.down()


def main() -> int:
    """Print the table; 1 when a bar is missed, 2 where containers cannot run."""
    try:
        figures = [*_sizes(), _first_version()]
    except NoEngine as reason:
        sys.stdout.write(f"cannot be measured here: {reason}\n")
        return 2
    return 0 if show("Containers", figures, as_json="--json" in sys.argv, skipped={}) else 1


def _sizes() -> list[Figure]:
    base = image_bytes(BASE)
    return [
        Figure(
            what=f"{image} without its base",
            measured=(image_bytes(image) - base) / 1e6,
            bar=most,
            unit="MB",
            note=f"{BASE} is {base / 1e6:.0f} MB",
        )
        for image, most in IMAGE_MB_MAX.items()
    ]


def _first_version() -> Figure:
    with tempfile.TemporaryDirectory(prefix="fedmq-containers-") as folder:
        Path(folder).chmod(0o755)
        with composed(Path(folder)) as federation:
            return Figure(
                what="compose up to the first version",
                measured=federation.seconds,
                bar=FIRST_VERSION_S_MAX,
                unit="s",
                note="broker, coordinator and one node, images built",
            )


if __name__ == "__main__":
    sys.exit(main())
