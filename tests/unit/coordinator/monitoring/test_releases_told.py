"""Status says which releases of fedmq the nodes run: in a line where they differ, and always for programs."""

from pathlib import Path

import pytest

from coordinator.engine.events import NodeStateReceived
from coordinator.monitoring.presence_file import PresenceFile
from coordinator.monitoring.status import read_status, show_status
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.protocol.messages import NodeState, Presence
from federation.storage.folder import FolderLock
from federation.types import Incarnation, NodeId
from tests.rigs.model_values import arrived, committer, initialised, update


def run_of(folder: Path, **releases: str | None) -> None:
    """A run of one version that these nodes have made, who have told these releases."""
    store = SqliteStore(folder)
    initialised(store)
    commits = committer(store)
    file = PresenceFile(folder, store.run)
    sent = [arrived(name, update(1.0), round_id=0) for name in releases]
    for name, release, one in zip(releases, releases.values(), sent, strict=True):
        store.save_update(one.record, one.payload)
        told = NodeState(
            presence=Presence.ONLINE, incarnation=Incarnation(1), protocol_min=1, protocol_max=1, release=release
        )
        file.see(NodeStateReceived(node=NodeId(name), state=told))
    commits.commit([one.member for one in sent], "full", Figures(wall_s=2.0, bytes_up=100, bytes_down=40))
    file.write(lambda: 1)
    store.close()


def test_nodes_that_differ_are_said_within_eighty_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run_of(tmp_path, a="0.3.0", b="0.2.1", c=None)
    lock = FolderLock(tmp_path)  # a coordinator runs
    show_status(tmp_path)
    lock.release()
    told = capsys.readouterr().out
    assert "nodes run different releases: not told on c, 0.2.1 on b, 0.3.0 on a\n" in told
    assert max(map(len, told.splitlines())) <= 80
    assert read_status(tmp_path)["releases"] == {"a": "0.3.0", "b": "0.2.1"}


def test_nodes_that_agree_are_no_news(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path, a="0.3.0", b="0.3.0")
    show_status(tmp_path)
    assert "release" not in capsys.readouterr().out
    assert read_status(tmp_path)["releases"] == {"a": "0.3.0", "b": "0.3.0"}


def test_a_run_of_a_former_release_has_none(tmp_path: Path) -> None:
    run_of(tmp_path, a=None)
    (tmp_path / "nodes.json").unlink()
    assert read_status(tmp_path)["releases"] == {}
