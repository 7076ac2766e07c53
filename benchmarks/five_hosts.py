"""`make bench-hosts`: a server and five bare devices, by the commands of the guide, until all have trained.

Each host is a folder with an environment of its own, into which the wheel of this tree is installed from the index. The
task travels in the enrolment files. Nothing is shared but the machine, and pip's cache, which --no-cache leaves out.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.table import Figure, show
from federation.runtime.local_broker import free_port

ROOT = Path(__file__).parents[1]
BAR_S = 600.0
LIMIT_S = 300.0
TASK = """
import numpy as np

from federation.task import TrainResult


class Mean:
    def initial_parameters(self, seed):
        return {"point": np.zeros(16, np.float32)}

    def roles(self):
        return {}

    def train(self, parameters, settings, stop):
        target = np.random.default_rng().normal(1.0, 0.1, 16).astype(np.float32)
        return TrainResult(parameters={"point": (parameters["point"] + target) / 2}, num_examples=10)

    def evaluate(self, parameters):
        return {}


def build(context):
    return Mean()
"""


@dataclass(slots=True)
class Host:
    """A bare host: a folder, and in it an environment with nothing but pip.

    Attributes:
        home: The folder.
        cached: Whether pip may use what it has fetched before.
        running: Programs that were started.
    """

    home: Path
    cached: bool
    running: list["subprocess.Popen[str]"] = field(default_factory=list)

    def install(self, wheel: Path) -> float:
        """Make the environment, and install the wheel; in seconds."""
        began_s = time.monotonic()
        self.home.mkdir()
        subprocess.run([sys.executable, "-m", "venv", self.home / "fedmq"], check=True)
        words = [
            "-m",
            "pip",
            "install",
            "-q",
            *(() if self.cached else ("--no-cache-dir",)),
            "-c",
            ROOT / "constraints.txt",
        ]
        subprocess.run([self.home / "fedmq/bin/python", *words, wheel], check=True, stderr=subprocess.DEVNULL)
        return time.monotonic() - began_s

    def run(self, program: str, *words: str) -> None:
        """One command, as a person types it."""
        subprocess.run(self._words(program, words), cwd=self.home, check=True, stdout=subprocess.DEVNULL)

    def start(self, program: str, *words: str) -> "subprocess.Popen[str]":
        """One that goes on."""
        process = subprocess.Popen(
            self._words(program, words), cwd=self.home, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.running.append(process)
        return process

    def _words(self, program: str, words: tuple[str, ...]) -> list[str]:
        return [str(self.home / "fedmq/bin" / program), *words]


@contextlib.contextmanager
def hosts(folder: Path, count: int, *, cached: bool) -> Iterator[tuple[Host, list[Host]]]:
    """A server and the devices; what runs on them ends with this."""
    server, devices = Host(folder / "server", cached), [Host(folder / f"pi-{n + 1}", cached) for n in range(count)]
    try:
        yield server, devices
    finally:
        running = [process for host in (*devices, server) for process in host.running]
        for process in running:
            process.terminate()
        for process in running:
            process.communicate(timeout=60)


def measure(folder: Path, count: int, *, cached: bool) -> list[Figure]:
    """The whole way, in the order in which one person would go it: host after host."""
    build = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder / "wheels"), str(ROOT)]
    subprocess.run([sys.executable, *build], check=True, stderr=subprocess.DEVNULL)
    (wheel,) = (folder / "wheels").glob("fedmq-*.whl")
    with hosts(folder, count, cached=cached) as (server, devices):
        began_s = time.monotonic()
        installed = [server.install(wheel)]
        (server.home / "my_task.py").write_text(TASK)
        port = str(free_port())
        server.run(
            "coordinator",
            "init",
            "plant",
            "--host",
            "127.0.0.1",
            "--port",
            port,
            "--task",
            "my_task.py:build",
            "--no-evaluate",
        )
        server.run("coordinator", "enroll", "plant", *(device.home.name for device in devices), "--bundle")
        coordinator = server.start("coordinator", "run", "--config", "plant", "--with-broker")
        for device in devices:
            installed.append(device.install(wheel))
            file = f"{device.home.name}.fedmq"
            # What `scp` does: the file comes with its rights.
            (device.home / file).write_bytes((server.home / "plant/enrolled" / file).read_bytes())
            (device.home / file).chmod(0o600)
            device.start("edge-node", "join", file, "--with-task", "--run")
        joined_s = time.monotonic()
        wait_for_all(coordinator.stdout or (), {device.home.name for device in devices})
        ended_s = time.monotonic()
    each, whole_s = ", ".join(f"{one:.0f}" for one in installed), ended_s - began_s
    of_all, of_pip = (
        f"a server and {count} bare devices to a version after updates of all",
        "of it environment and pip, all hosts",
    )
    rest = "of it from the last join to the version"
    return [
        Figure(what=of_all, measured=whole_s, bar=BAR_S, unit="s", note="host after host"),
        Figure(what=of_pip, measured=sum(installed), bar=None, unit="s", note=each),
        Figure(what=rest, measured=ended_s - joined_s, bar=None, unit="s"),
    ]


def wait_for_all(lines: Iterable[str], names: Collection[str]) -> None:
    """Until the coordinator has committed a version after it has an update of each of the nodes.

    Args:
        lines: What it says, one event each.
        names: The nodes.

    Raises:
        RuntimeError: It ended, or took too long.
    """
    said, missing = list[str](), set(names)
    until_s = time.monotonic() + LIMIT_S
    for line in lines:
        said.append(line)
        if "update_stored" in line:
            missing -= {word.removeprefix("node=") for word in line.split()}
        if not missing and "version_committed" in line:
            return
        if time.monotonic() > until_s:
            break
    raise RuntimeError(f"no version with {', '.join(sorted(missing)) or 'them'}:\n{''.join(said[-20:])}")


def main() -> None:
    """Measure, print, and fail where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=5)
    parser.add_argument("--no-cache", action="store_true", help="fetch every package anew on every host")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    with tempfile.TemporaryDirectory() as place:
        figures = measure(Path(place), options.devices, cached=not options.no_cache)
    skipped = {
        "units under systemd": "hosts are folders here; `join --service` is tested in tests/unit/edge_node/setup"
    }
    sys.exit(0 if show("Bare hosts", figures, as_json=options.json, skipped=skipped) else 1)


if __name__ == "__main__":
    main()
