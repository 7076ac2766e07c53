"""Real processes: two runs take turns in one federation, and no node loses anything of either [FED-113]."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.chaos.federation import COORDINATOR, Federation, running
from benchmarks.chaos.plan import Plan
from coordinator.storage.read_only import ReadOnlyStore
from edge_node.storage.read_only import read_node
from federation.runtime.local_broker import LocalBroker
from federation.types import RunId
from fedmq.demo.processes import Line

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]

PLAN = Plan(nodes=2, task="quadratic", codec="deadzone(bpp=2,feedback=1)", buffer=2, max_wait_s=0.5, spread_s=0.05)
PATIENCE_S = 60.0
OTHER = "second"


def run_of(folder: Path) -> RunId:
    with ReadOnlyStore(folder) as store:
        return store.run


def kept(folder: Path, run: RunId) -> dict[str, bytes]:
    """The digest of each body that a node's folder has of a run."""
    with closing(sqlite3.connect(f"{folder.as_uri()}/node.sqlite?mode=ro", uri=True)) as database:
        return dict(database.execute("SELECT name, digest FROM body WHERE run = ?", (run,)).fetchall())


def second_coordinator(federation: Federation, folder: Path) -> None:
    """Start a coordinator with a folder of its own in the same federation."""
    text = (folder / "coordinator.toml").read_text(encoding="utf-8")
    (folder / "second.toml").write_text(text.replace(str(folder / "coordinator"), str(folder / OTHER)))
    federation.retired.add(OTHER)
    federation._start(OTHER, "coordinator", ["run", "--config", str(folder / "second.toml")])


def commits(federation: Federation, name: str, count: int) -> None:
    """Wait until a coordinator has made so many further versions."""
    made: list[int] = []

    def watch(line: Line) -> None:
        if (line.source, line.event) == (name, "version_committed"):
            made.append(1)

    federation.watchers.append(watch)
    assert federation.wait(lambda: len(made) >= count, PATIENCE_S), (name, federation.waiting, federation.surprises)
    federation.watchers.remove(watch)


def test_two_runs_in_turn_lose_nothing_of_a_nodes_residual(broker: LocalBroker, tmp_path: Path) -> None:
    first = tmp_path / "coordinator"
    with running(PLAN, tmp_path, broker.url) as federation:
        commits(federation, COORDINATOR, 4)
        assert federation.retire(COORDINATOR)
        run = run_of(first)
        second_coordinator(federation, tmp_path)
        commits(federation, OTHER, 4)
        before = {name: kept(tmp_path / name, run) for name in PLAN.names}
        assert all("residual" in found for found in before.values())
        commits(federation, OTHER, 4)
        assert federation.retire(OTHER)
        assert {name: kept(tmp_path / name, run) for name in PLAN.names} == before
        other = run_of(tmp_path / OTHER)
        federation.retired.discard(COORDINATOR)
        federation.restart(COORDINATOR)
        commits(federation, COORDINATOR, 4)
        assert federation.drain()
        report = federation.audit()
    assert [finding for finding in report.findings if finding.failed] == []
    for name in PLAN.names:
        assert read_node(tmp_path / name).run == run
        assert read_node(tmp_path / name, other).run == other
        assert "residual" in kept(tmp_path / name, other)
    assert federation.surprises == []
