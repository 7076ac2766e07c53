"""The report says what happened, in words of anybody, and nothing in it is run or fetched."""

import datetime as dt
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.artifacts.run_report import report_text, write_run_report
from coordinator.cli import make_app
from coordinator.engine.events import NodeStateReceived
from coordinator.monitoring.presence_file import PresenceFile
from coordinator.storage.files import STATUS
from coordinator.storage.sqlite_store import SqliteStore
from coordinator.storage.store import Figures
from federation.errors import StorageError
from federation.protocol.messages import NodeState, Presence
from federation.types import Incarnation, ModelVersion, NodeId
from tests.rigs.model_values import arrived, committer, initialised, update

pytestmark = pytest.mark.xdist_group("run report")

EVIL = "<script>alert(1)</script>"
NOW = dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions; a node with a hostile name was lost after the first, and refused messages are named after it."""
    folder = tmp_path_factory.mktemp("run") / "state"
    store = SqliteStore(folder)
    initialised(store)
    for version, node in ((1, EVIL), (2, "pump")):
        one = arrived(node, update(float(version)), round_id=version - 1)
        store.save_update(one.record, one.payload)
        committer(store).commit([one.member], "full", Figures(wall_s=90.0, bytes_up=100, bytes_down=40))
        store.save_evaluation(ModelVersion(version), {"accuracy": 0.4 * version})
    file = PresenceFile(folder, store.run, lambda: 0.0)
    for presence in (Presence.ONLINE, Presence.LOST):
        told = NodeState(presence=presence, incarnation=Incarnation(1), protocol_min=1, protocol_max=1)
        file.see(NodeStateReceived(node=NodeId(EVIL), state=told))
    file.write(lambda: 1)
    (folder / STATUS).write_text(json.dumps({"incidents": {EVIL: {"bad_signature": 2}}, "sealed": True}))
    store.close()
    return folder


@pytest.fixture(scope="module")
def text(state: Path) -> str:
    return report_text(state, NOW)


def test_it_says_what_happened(text: str) -> None:
    assert "2 of 2 nodes trained one model together: 2 versions in 3.0 minutes." in text
    assert "Its accuracy was 40.00% at version 1 and 80.00% at version 2." in text
    assert "1970-01-01 00:00:00 UTC, at version 1: &lt;script&gt;alert(1)&lt;/script&gt; was lost" in text
    assert "bad signature 2" in text
    assert "Sealed: the broker reads neither updates nor the model." in text
    assert "made 2026-01-02 03:04 UTC" in text
    assert text.count("data:image/svg+xml;base64,") >= 2


def test_nothing_in_it_is_run_or_fetched(text: str) -> None:
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert re.findall(r"(?:src|href)=\"(?!data:)", text) == []
    assert "http://" not in re.sub(r"base64,[^\"]*", "", text)


def test_a_folder_that_is_none_and_a_file_that_cannot_be_written_are_errors(state: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        report_text(tmp_path, NOW)
    with pytest.raises(StorageError, match="cannot be written"):
        write_run_report(state, tmp_path / "gone" / "report.html")


def test_the_command_writes_it(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    words = ["report", str(out), "--state", str(state)]
    found = CliRunner().invoke(make_app(words), words)
    assert (found.exit_code, found.output) == (0, f"{out}\n")
    assert out.read_text().startswith("<!doctype html>")
