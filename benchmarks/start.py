"""What a start costs, and what a coordinator that evaluates holds: real processes, a real broker.

Run it with ``python -m benchmarks.start`` (``--json``, ``--task NAME``). Beside each figure stands one of the same run:

- A node, from its start until it is connected, in processor seconds, beside a process that imports torch and ends.
- A coordinator's largest memory while it evaluates each version in a process of its own, beside one that evaluates in
  its own memory.
- ``coordinator demo``, the whole command with a kill, in processor seconds of all its processes, and as a person waits.
"""

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load.processes import cost_of
from benchmarks.table import Figure, show
from federation.runtime.local_broker import LocalBroker

LIMIT_S = 180.0
STARTS = 3
VERSIONS = 8
NODES = 2


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _until(process: "subprocess.Popen[str]", event: str) -> dict[str, object]:
    """Read the log until a line has this event.

    Raises:
        RuntimeError: The process has ended.
    """
    for line in process.stdout or ():
        found = json.loads(line) if line.startswith("{") else {}
        if found.get("event") == event:
            return dict(found)
    raise RuntimeError(f"{process.args!r} has ended before {event}")


def _run(module: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", module, "run", "--log-json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment())


def _end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LIMIT_S)


def torch_cpu_s() -> float:
    """Processor time of an interpreter that imports torch, in seconds."""
    before = _children_s()
    subprocess.run([sys.executable, "-c", "import torch"], check=True, env=_environment())
    return _children_s() - before


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def node_start(task: str, url: str, folder: Path) -> tuple[float, float]:
    """A node's start until it is connected: processor and wall time, in seconds."""
    began = time.monotonic()
    arguments = ("--broker", url, "--federation", "bench", "--id", folder.name, "--task", task)
    node = _run("edge_node", *arguments, "--state", str(folder / "state"))
    try:
        _until(node, "connected")
        return cost_of(node.pid).cpu_s, time.monotonic() - began
    finally:
        _end(node)


def coordinator_peak(task: str, folder: Path, *, apart: bool) -> int:
    """A coordinator's largest memory over some versions that it evaluates, in bytes."""
    settings = folder / "coordinator.toml"
    with LocalBroker() as broker:
        settings.write_text(
            f'[federation]\nid = "bench"\n[broker]\nurl = "{broker.url}"\n[task]\nname = "{task}"\n'
            f'[store]\nfolder = "{folder / "state"}"\n[round]\nnodes_min = {NODES}\nversions = 0\n'
            f"[evaluation]\nevery = 1\napart = {str(apart).lower()}\n"
        )
        coordinator = _run("coordinator", "--config", str(settings))
        nodes = [
            _run("edge_node", "--broker", broker.url, "--federation", "bench", "--task", task, *more)
            for more in (
                ("--id", f"n{index}", "--index", f"{index}", "--count", f"{NODES}", "--state", f"{folder / str(index)}")
                for index in range(NODES)
            )
        ]
        try:
            while True:
                told = _until(coordinator, "evaluated")
                if int(str(told["version"])) >= VERSIONS:
                    return cost_of(coordinator.pid).rss_max
        finally:
            for process in (coordinator, *nodes):
                process.kill()
                process.communicate(timeout=LIMIT_S)


def demo() -> tuple[float, float, float]:
    """``coordinator demo``: processor time of all its processes, wall time, and the loop's, in seconds."""
    before, began = _children_s(), time.monotonic()
    command = [sys.executable, "-m", "coordinator", "demo", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=_environment())
    loop = re.search(r'"loop_wall_s": ([0-9.]+)', done.stdout)
    return _children_s() - before, time.monotonic() - began, float(loop.group(1)) if loop else 0.0


def measure(task: str) -> list[Figure]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="fedmq-start-") as name, LocalBroker() as broker:
        folder = Path(name)
        starts, references = [], []
        for index in range(STARTS):
            (folder / f"node-{index}").mkdir()
            references.append(torch_cpu_s())
            starts.append(node_start(task, broker.url, folder / f"node-{index}"))
        peaks = {}
        for apart in (True, False):
            (folder / f"apart-{apart}").mkdir()
            peaks[apart] = coordinator_peak(task, folder / f"apart-{apart}", apart=apart)
    cpu_s, wall_s, loop_s = demo()
    node_cpu_s, torch_s = min(starts)[0], min(references)
    waits_s = min(wall_s for _, wall_s in starts)
    return [
        Figure(
            what=f"edge-node run, {task}: start to connected / import of torch, processor time",
            measured=node_cpu_s / torch_s,
            bar=1.5,
            note=f"{node_cpu_s:.2f} s and {torch_s:.2f} s, best of {STARTS}; a person waits {waits_s:.2f} s",
        ),
        Figure(
            what=f"coordinator that evaluates {task}: largest memory",
            measured=peaks[True] / 1e6,
            bar=90.0,
            unit="MB",
            note=f"in its own memory: {peaks[False] / 1e6:.0f} MB",
        ),
        Figure(
            what="coordinator demo, whole command",
            measured=wall_s,
            bar=8.0,
            unit="s",
            note=f"{cpu_s:.1f} s of processor time, loop {loop_s:.1f} s",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--task", default="digits", help="what node and coordinator load (default: %(default)s)")
    options = parser.parse_args(arguments)
    return 0 if show("starts", measure(options.task), as_json=options.json, skipped={}) else 1


if __name__ == "__main__":
    sys.exit(main())
