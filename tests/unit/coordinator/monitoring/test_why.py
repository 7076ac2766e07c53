"""Whoever waits can say for what, for whom and since when, also when the one who waited is dead."""

import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli import make_app
from coordinator.engine.round import WaitReason
from coordinator.monitoring.why import MEANINGS, PAUSE_S, Waiting, WaitingFile, explain, read_waiting
from federation.errors import StorageError
from federation.storage.folder import FolderLock


def snapshot(reason: str = "assignments", *nodes: str, **more: object) -> dict[str, Any]:
    """Where a machine may stand, as far as it matters here."""
    waiting = {"reason": reason, "since": 3.0, "nodes": list(nodes), "gone": [], "buffer": 2, "nodes_min": 2}
    return {"version": 3, "live": len(nodes), "buffered": 1, "online": 2, "waiting_for": waiting, "other": 1} | more


def text(reason: str, *nodes: str, pid: str | None = "7", since_s: float = 12.4, **more: object) -> str:
    """The sentence for some situation."""
    found = snapshot(reason, *nodes)
    fields = {key: found[key] for key in ("version", "live", "buffered", "online")} | found["waiting_for"] | more
    return explain(Waiting(fields=fields, since_s=since_s, said_s=300.0, pid=pid))


def write(folder: Path, found: dict[str, Any]) -> None:
    WaitingFile(folder, lambda: found).write()


def test_a_running_coordinator_says_for_whom_and_since_when() -> None:
    assert text("assignments", "ann", "bob") == (
        "waiting for updates of nodes that are training: ann, bob; since 12 s, 2 online, version 3,"
        " 1 of 2 updates for the next one"
    )
    assert "ann, bob and 5 more;" in text("assignments", "ann", "bob", live=7)
    assert "since 3 min" in text("assignments", since_s=170.0)


def test_nodes_that_are_missing_are_counted_and_named() -> None:
    assert text("nodes_min", gone=["cid"], online=1, buffered=0) == (
        "waiting for more nodes to come online; since 12 s, 1 of 2 online (round.nodes_min), gone: cid,"
        " version 3, 0 of 2 updates for the next one"
    )


def test_a_run_that_is_over_waits_for_no_update() -> None:
    assert text("finished", since_s=86_400.0 * 3).endswith("; since 3 days, 2 online, version 3")
    assert "start it again" not in text("finished", pid=None)


def test_a_dead_coordinator_is_not_said_to_wait() -> None:
    assert text("something new", pid=None) == (
        "no coordinator is running; 5 min ago the last one waited for something new, 2 online,"
        " version 3, 1 of 2 updates for the next one; start it again: it goes on where it was"
    )


def test_every_reason_has_its_words() -> None:
    assert MEANINGS.keys() == set(WaitReason)
    for reason, words in MEANINGS.items():
        assert f"waiting for {words}" in text(reason.value)


def test_what_is_said_is_current_and_each_version_is_waited_for_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, found, clock = FolderLock(tmp_path), [snapshot("assignments", "ann", "bob")], [1000.0]
    monkeypatch.setattr("time.time", lambda: clock[0])
    file = WaitingFile(tmp_path, lambda: found[0])
    file.look(5.0)
    assert file.due() is None
    found[0], clock[0] = snapshot("assignments", "bob"), 1010.0
    file.look(5.0 + PAUSE_S / 2)
    assert (read_waiting(tmp_path).fields["nodes"], file.due()) == (["ann", "bob"], 5.0 + PAUSE_S)
    file.look(5.0 + PAUSE_S)
    waiting = read_waiting(tmp_path)
    assert (waiting.fields["nodes"], waiting.since_s, waiting.said_s) == (["bob"], 10.0, 0.0)
    assert waiting.pid is not None
    found[0] = snapshot("assignments", "ann", "bob", version=4)
    file.look(20.0)
    assert read_waiting(tmp_path).since_s == 0.0
    clock[0] = 1020.0
    file.look(30.0)
    assert read_waiting(tmp_path).said_s == 10.0
    lock.release()


def test_asking_does_not_take_the_folder_away(tmp_path: Path) -> None:
    write(tmp_path, snapshot())
    assert read_waiting(tmp_path).pid is None
    lock = FolderLock(tmp_path)
    assert read_waiting(tmp_path).pid is not None
    lock.release()


def test_a_file_of_an_older_release_is_explained_too(tmp_path: Path) -> None:
    for reason, nodes, said in (
        ("assignments", ["ann"], "training: ann, 1 online"),
        ("nodes_min", [], "online, 1 online"),
    ):
        fields = {"reason": reason, "nodes": nodes, "live": len(nodes), "buffered": 1, "online": 1}
        (tmp_path / "waiting.json").write_text(json.dumps({"at": 5.0, "fields": fields}))
        assert said in explain(read_waiting(tmp_path))


@pytest.mark.parametrize("content", [None, "", "[]", '{"at": "x", "fields": {}}', '{"fields": {}}'])
def test_a_folder_that_says_nothing_is_a_storage_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "waiting.json").write_text(content)
    with pytest.raises(StorageError, match="has a coordinator run"):
        read_waiting(tmp_path)


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    write(tmp_path / "gone", snapshot())
    assert not (tmp_path / "gone").exists()


def test_the_command_prints_the_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, snapshot())
    make_app(["why"])(["why", "--state", str(tmp_path)], standalone_mode=False)
    assert MEANINGS[WaitReason.ASSIGNMENTS] in capsys.readouterr().out
    make_app(["why"])(["why", "--state", str(tmp_path), "--json"], standalone_mode=False)
    assert '"reason": "assignments"' in capsys.readouterr().out
