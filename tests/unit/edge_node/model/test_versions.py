"""The device's versions: whole or absent, whatever happens while one is written."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_node.model.versions import NOTE, Figure, Versions, Written, read_note
from federation.errors import ConfigError, StorageError
from federation.model_notes import ModelNotes
from federation.readings.windows import WindowSpec
from federation.runtime import failpoint
from federation.tasks.sensors.plan import Kind
from federation.tasks.sensors.rules import Scaler, ScoreRule

RULE = ScoreRule(
    kind=Kind.RECONSTRUCTION,
    window=WindowSpec(columns=("a", "b"), length=4),
    scaler=Scaler((1.0, 2.0), (1.0, 4.0)),
    threshold=0.5,
)


def one(version: int, **changes: Any) -> Written:
    notes = ModelNotes(version=version, task="toy", classes=("no", "yes"), features=("a", "b"), score=RULE)
    return Written(notes=notes, run="aa", digest=f"{version:032x}", file="model.onnx", **changes)


def write(versions: Versions, version: int, body: bytes | None = None) -> Written | None:
    return versions.write(one(version), {"model.onnx": f"model {version}".encode() if body is None else body})


def test_the_newest_is_the_present_one_at_a_path_that_stays(tmp_path: Path) -> None:
    versions = Versions(tmp_path / "model")
    assert versions.present() is None
    for version in (3, 7):
        write(versions, version)
        assert versions.file == tmp_path / "model/current/model.onnx"
        assert versions.file.read_bytes() == f"model {version}".encode()
    present = versions.present()
    assert present is not None
    assert (present.notes.version, present.number, versions.is_intact(present)) == (7, 2, True)


def test_a_note_comes_back_as_it_was_written(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    figure = Figure(name="loss", value=0.25, present=None, examples=12)
    written = versions.write(one(3, figure=figure, signature={"inputs": []}), {"model.onnx": b"x"})
    assert read_note(tmp_path / "current" / NOTE) == written
    assert json.loads((tmp_path / "current" / NOTE).read_text())["score"]["threshold"] == 0.5


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "figure": 3}', "\xff"])
def test_a_damaged_note_is_said_to_be_damaged(tmp_path: Path, body: str) -> None:
    (tmp_path / NOTE).write_text(body, encoding="latin-1")
    with pytest.raises(StorageError, match="cannot be read"):
        read_note(tmp_path / NOTE)


def test_only_so_many_are_kept_and_the_present_one_always(tmp_path: Path) -> None:
    versions = Versions(tmp_path, keep=2)
    for version in (1, 2, 3):
        write(versions, version)
    assert [each.notes.version for each in versions.all()] == [2, 3]
    versions.go_back(hold=False)
    write(versions, 4)
    assert [each.notes.version for each in versions.all()] == [3, 4]


def test_going_back_holds_until_it_is_resumed(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    write(versions, 1)
    write(versions, 2)
    assert versions.go_back().notes.version == 1
    assert versions.held is not None
    assert write(versions, 3) is None
    present = versions.present()
    assert present is not None
    assert present.notes.version == 1
    assert [versions.resume(), versions.resume()] == [True, False]
    assert write(versions, 3) is not None


def test_a_damaged_hold_still_holds(tmp_path: Path) -> None:
    (tmp_path / "held.json").write_text("{")
    assert Versions(tmp_path).held == "unknown"


def test_going_back_names_what_is_there(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    with pytest.raises(ConfigError, match="kept are: none"):
        versions.go_back()
    write(versions, 1)
    write(versions, 2)
    with pytest.raises(ConfigError, match="no version 9 here; kept are: 1, 2"):
        versions.go_back(9)
    versions.path_of(versions.all()[0]).write_bytes(b"other")
    with pytest.raises(StorageError, match="damaged"):
        versions.go_back()


@pytest.mark.parametrize("damage", ["model.onnx", NOTE, ""])
def test_a_damaged_present_version_is_not_used_and_can_be_left(tmp_path: Path, damage: str) -> None:
    """A flipped byte among the weights is a model that runs; and rollback read the note that was damaged."""
    versions = Versions(tmp_path)
    write(versions, 1)
    write(versions, 2)
    present = versions.whole()
    assert present is not None
    assert versions.here == present.number == 2
    if damage:
        (tmp_path / "current" / damage).write_bytes(b"model 3")
    else:
        (tmp_path / "current" / NOTE).unlink()
    with pytest.raises(StorageError, match="edge-node model rollback"):
        versions.whole()
    assert versions.go_back().notes.version == 1
    assert versions.whole() is not None


@pytest.mark.parametrize("place", ["model_writing", "model_written", "model_current"])
def test_a_kill_leaves_one_whole_version(tmp_path: Path, place: str) -> None:
    write(Versions(tmp_path), 1)
    program = (
        "import sys; from pathlib import Path; from tests.unit.edge_node.model.test_versions import write\n"
        "from edge_node.model.versions import Versions; write(Versions(Path(sys.argv[1])), 2)"
    )
    environment = os.environ | {"FEDMQ_FAILPOINT": place, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == -9
    versions = Versions(tmp_path)
    present = versions.present()
    assert present is not None
    assert present.notes.version == (2 if place == "model_current" else 1)
    assert versions.is_intact(present)
    written = write(versions, 3)
    assert written is not None
    assert versions.is_intact(written)
    assert all(versions.is_intact(each) for each in versions.all())
    assert all((path / NOTE).exists() for path in (tmp_path / "versions").iterdir())


@pytest.mark.parametrize("place", ["model_writing", "model_written"])
def test_a_disk_that_fails_leaves_the_present_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    versions = Versions(tmp_path)
    write(versions, 1)

    def full(name: str) -> None:
        if name == place:
            raise OSError(28, "No space left on device")

    failpoint.watch(full)
    try:
        with pytest.raises(StorageError, match="make room on this disk"):
            write(versions, 2)
    finally:
        failpoint.watch(None)
    present = versions.present()
    assert present is not None
    assert (present.notes.version, len(versions.all())) == (1, 1)
    assert len(list((tmp_path / "versions").iterdir())) == 1


def test_a_folder_that_another_process_changes_is_waited_for_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_node.model.versions.LOCK_TRIES", 2)
    monkeypatch.setattr("edge_node.model.versions.LOCK_WAIT_S", 0.0)
    monkeypatch.setattr("edge_node.model.versions.lock", lambda _: False)
    with pytest.raises(StorageError, match="another process"):
        write(Versions(tmp_path), 1)
