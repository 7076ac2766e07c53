"""``python -m benchmarks.flower_client``: Flower's quickstart client, unchanged, on Flower and here, in the same run.

Both are real processes on loopback: a SuperLink and SuperNodes there, a broker, a coordinator and edge nodes here; the
same app (`benchmarks/flower_app`), nodes, rounds and data. Needs the extra ``flower``: ``make bench-flower``.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from federation.runtime.local_broker import free_port

APP = Path(__file__).with_name("flower_app")
BAR = 10.0
RUN_S = 400.0

PYPROJECT = """
[project]
name = "flower-app"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr"]
[tool.hatch.build.targets.wheel]
packages = ["."]
[tool.flwr.app]
publisher = "fedmq"
[tool.flwr.app.components]
serverapp = "flower_app.server_app:app"
clientapp = "flower_app.client_app:app"
[tool.flwr.app.config]
num-server-rounds = {rounds}
nodes = {nodes}
local-epochs = 1
result = "{result}"
"""

TASK = """
from benchmarks.flower_app.client_app import app
from benchmarks.flower_app.task import Net
from federation.protocol.messages import TrainSettings
from federation.tasks.adapters.flower import flower_task

DEFAULT_SETTINGS = TrainSettings(learning_rate=0.05)
build = flower_task(app, initial=lambda: Net().state_dict(), run_config={"local-epochs": 1})
"""


def on_flower(folder: Path, nodes: int, rounds: int) -> float:
    """Seconds of Flower's rounds."""
    result = folder / "result.json"
    ports = [free_port() for _ in range(nodes + 1)]
    home, project = folder / "home", folder / "project"
    shutil.copytree(APP, project / "flower_app", ignore=shutil.ignore_patterns("__pycache__", "numpy_client.py"))
    (project / "pyproject.toml").write_text(PYPROJECT.format(rounds=rounds, nodes=nodes, result=result))
    home.mkdir()
    address = f'address = "127.0.0.1:{ports[0]}"\ninsecure = true\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "here"\n\n[superlink.here]\n{address}')
    link = ["--insecure", "--host", "127.0.0.1", "--port", str(ports[0])]
    with _running(folder, home, "flower-superlink", *link) as environment:
        time.sleep(5)
        with _supernodes(folder, home, ports):
            command = [_tool("flwr"), "run", str(project), "here", "--stream"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=RUN_S, check=False)
    if not result.exists():
        raise SystemExit(f"Flower's run failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return float(json.loads(result.read_text())["loop_s"])


def here(folder: Path, nodes: int, rounds: int) -> float:
    """Seconds of our rounds."""
    file = folder / "flower_task.py"
    file.write_text(TASK)
    command = [sys.executable, "-m", "coordinator", "demo", "--task", f"{file}:build", "--nodes", str(nodes)]
    command += ["--per-round", str(nodes), "--rounds", str(rounds), "--codec", "lossless", "--no-chaos", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    if done.returncode:
        raise SystemExit(f"the demo failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return float(json.loads(done.stdout)["loop_wall_s"])


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@contextmanager
def _running(folder: Path, home: Path, name: str, *arguments: str) -> Iterator[dict[str, str]]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = os.environ | {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "PATH": path}
    with (folder / f"{name}-{time.monotonic_ns()}.log").open("w") as log:
        process = subprocess.Popen([_tool(name), *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield environment
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _supernodes(folder: Path, home: Path, ports: list[int]) -> Iterator[None]:
    """One for each port but the first, which is the SuperLink's."""
    with ExitStack() as stack:
        for index, port in enumerate(ports[1:]):
            options = ["--insecure", "--superlink", f"127.0.0.1:{ports[0]}", "--port", str(port)]
            config = f"partition-id={index} num-partitions={len(ports) - 1}"
            stack.enter_context(_running(folder, home, "flower-supernode", *options, "--node-config", config))
        yield


def main() -> int:
    """Run both in turn, print the ratio beside its bar; 1 where it is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    ratios = []
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            ours = here(Path(one), options.nodes, options.rounds)
            theirs = on_flower(Path(other), options.nodes, options.rounds)
        ratios.append(theirs / ours)
        print(f"{options.rounds} rounds, {options.nodes} nodes: Flower {theirs:.2f} s, fedmq {ours:.2f} s")
    median, met = statistics.median(ratios), statistics.median(ratios) >= BAR
    print(f"Flower's loop over ours: {median:.1f} (bar {BAR:.0f}, {'met' if met else 'MISSED'}), of {len(ratios)}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
