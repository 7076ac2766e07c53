"""Evaluation on the nodes with real processes and a real Mosquitto: who vanishes is not waited for for ever."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from coordinator.artifacts.export import export_model
from coordinator.monitoring.curves import CurveKind, read_curves
from coordinator.monitoring.run_progress import read_run_progress
from coordinator.monitoring.state_files import read_waiting
from coordinator.monitoring.why import explain
from coordinator.storage.sqlite_store import SqliteStore
from federation.runtime.local_broker import LocalBroker
from federation.types import ModelVersion

pytestmark = pytest.mark.broker

LIMIT_S = 60.0
NODES = ("ann", "bob", "cid")
TASK = "quadratic-12"


def coordinator_file(
    folder: Path, broker: LocalBroker, *, versions: int = 4, nodes: int = len(NODES), more: str = ""
) -> Path:
    file = folder / "coordinator.toml"
    file.write_text(
        f'[federation]\nid = "it"\n[broker]\nurl = "{broker.url}"\n[task]\nname = "{TASK}"\n[codec]\nup = "lossless"\n'
        f'[evaluation]\nevery = 0\nnodes_every = 1\n[store]\nfolder = "{folder / "state"}"\n'
        f"[round]\nconcurrency = 2\nquorum = 1\nnodes_min = {nodes}\nversions = {versions}\nlease_s = 6.0\n"
        f"max_wait_s = 2.0\nexit_when_finished = true\n{more}"
    )
    return file


def node_file(folder: Path, broker: LocalBroker, name: str) -> Path:
    file = folder / f"{name}.toml"
    file.write_text(
        f'[federation]\nid = "it"\n[node]\nid = "{name}"\nexit_when_finished = true\n[broker]\nurl = "{broker.url}"\n'
        f'[task]\nname = "{TASK}"\nindex = {NODES.index(name)}\ncount = {len(NODES)}\n'
        f'[store]\nfolder = "{folder / name}"\n'
    )
    return file


@contextmanager
def process(module: str, file: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A role's own process; killed at the end, or when it lives too long."""
    command = [sys.executable, "-m", module, "run", "--config", str(file), "--log-json", *more]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ)
    patience = threading.Timer(LIMIT_S, started.kill)
    patience.start()
    try:
        yield started
    finally:
        patience.cancel()
        started.kill()
        started.communicate()


def lines_until(started: subprocess.Popen[str], event: str) -> dict[str, object]:
    """Read the log up to this event."""
    assert started.stdout is not None
    for line in started.stdout:
        said: dict[str, object] = json.loads(line)
        if said.get("event") == event:
            return said
    raise AssertionError(f"the process ended, or took longer than {LIMIT_S:.0f} s, before {event}")


def test_every_version_is_evaluated_on_the_nodes_that_are_there_and_the_best_one_is_kept(
    broker: LocalBroker, tmp_path: Path
) -> None:
    """FED-70 to FED-73: one node is killed in mid-run."""
    with ExitStack() as stack:
        running = stack.enter_context(process("coordinator", coordinator_file(tmp_path, broker, versions=6)))
        nodes = [stack.enter_context(process("edge_node", node_file(tmp_path, broker, name))) for name in NODES]
        first = lines_until(running, "nodes_evaluated")
        # On a busy machine a node may still be about to come when the first version is made.
        while first["nodes"] != len(NODES):
            first = lines_until(running, "nodes_evaluated")
        nodes[2].kill()
        while lines_until(running, "nodes_evaluated")["version"] != 6:
            pass
        assert running.wait(LIMIT_S) == 0
        assert [node.wait(LIMIT_S) for node in nodes[:2]] == [0, 0]
    points = [point for point in read_curves(tmp_path / "state") if point.kind is CurveKind.NODE]
    last = {point.node: point.metrics["loss"] for point in points if point.version == 6 and point.counted}
    assert set(last) == {"ann", "bob"}
    store = SqliteStore(tmp_path / "state")
    surveys = {survey.version: survey for survey in store.recovered(recent=1).surveyed}
    best = store.best()
    store.close()
    assert sorted(surveys) == [1, 2, 3, 4, 5, 6]
    assert all(survey.closed for survey in surveys.values())
    assert surveys[ModelVersion(6)].metrics["loss"] == pytest.approx(sum(last.values()) / 2)
    losses = {version: survey.metrics["loss"] for version, survey in surveys.items() if survey.nodes}
    assert best == min(losses, key=losses.__getitem__)
    assert export_model(tmp_path / "state", tmp_path / "best.safetensors", "best") == best


def test_a_run_that_gets_no_better_stops_by_itself_and_says_why(broker: LocalBroker, tmp_path: Path) -> None:
    """Nothing is an improvement of a thousand after the first version, and the patience is two evaluations."""
    names = NODES[:2]
    early = '[stopping]\non = "nodes"\nmetric = "loss"\npatience = 2\nmin_delta = 1000.0\n'
    file = coordinator_file(tmp_path, broker, versions=500, nodes=len(names), more=early)
    with ExitStack() as stack:
        running = stack.enter_context(process("coordinator", file))
        nodes = [stack.enter_context(process("edge_node", node_file(tmp_path, broker, name))) for name in names]
        ending = lines_until(running, "stopping_early")
        newest = int(str(lines_until(running, "finished")["version"]))
        assert lines_until(running, "coordinator_stopped")["reason"] == "stopped_early"
        assert running.wait(LIMIT_S) == 0
        for node in nodes:
            lines_until(node, "run_finished")
    assert ending["waited"] == 2
    run_progress = read_run_progress(tmp_path / "state")
    assert run_progress is not None
    assert (run_progress.stopped_early, run_progress.waited, run_progress.patience) == (True, 2, 2)
    assert run_progress.best is not None
    # One that was under way when the decision fell is made, and evaluated, too.
    assert run_progress.best.version <= newest < 500
    assert int(str(ending["version"])) <= newest
    assert "no improvement" in explain(read_waiting(tmp_path / "state"))
    assert export_model(tmp_path / "state", tmp_path / "best.safetensors", "best") == run_progress.best.version
