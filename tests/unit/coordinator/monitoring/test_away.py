"""``status --nodes`` says which nodes are away by the pace, and when they are due."""

import time
from pathlib import Path

import pytest

from coordinator.engine.events import NodeStateReceived
from coordinator.monitoring.presence_file import PresenceFile
from coordinator.monitoring.status import read_nodes, show_nodes
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.protocol.messages import NodeState, Presence
from federation.types import Incarnation, NodeId
from tests.rigs.model_values import arrived, committer, initialised, update


def run_of(folder: Path) -> SqliteStore:
    """The store of a coordinator that runs, with two nodes: one is online, one is away for an hour."""
    store = SqliteStore(folder)
    initialised(store)
    commits, file = committer(store), PresenceFile(folder, store.run)
    sent = [arrived(name, update(1.0), round_id=0) for name in ("here", "away")]
    for one in sent:
        store.save_update(one.record, one.payload)
        told = NodeState(presence=Presence.ONLINE, incarnation=Incarnation(1), protocol_min=1, protocol_max=1)
        file.see(NodeStateReceived(node=one.record.node, state=told))
    gone = NodeState(
        presence=Presence.OFFLINE, incarnation=Incarnation(1), protocol_min=1, protocol_max=1, away_s=3600.0
    )
    file.see(NodeStateReceived(node=NodeId("away"), state=gone))
    commits.commit([one.member for one in sent], "full", Figures(wall_s=2.0, bytes_up=100, bytes_down=40))
    file.write(lambda: 1)
    return store


def test_node_that_is_away_is_shown_with_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = run_of(tmp_path)
    show_nodes(tmp_path)
    told = capsys.readouterr().out
    assert "away 60 min" in told
    assert "online" in told
    nodes = read_nodes(tmp_path)["nodes"]
    assert isinstance(nodes, list)
    states = {one["id"]: (one["state"], one["back_ms"]) for one in nodes}
    assert states["here"] == ("online", None)
    state, back_ms = states["away"]
    assert state == "away"
    assert 3500 < back_ms / 1000 - time.time() < 3601
    store.close()


def test_nobody_knows_who_is_there_while_no_coordinator_runs(tmp_path: Path) -> None:
    run_of(tmp_path).close()
    nodes = read_nodes(tmp_path)["nodes"]
    assert isinstance(nodes, list)
    assert {one["state"] for one in nodes} == {None}
