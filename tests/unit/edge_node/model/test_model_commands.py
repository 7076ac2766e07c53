"""``edge-node model``: what it says, as text and as JSON, and its exit codes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_node.cli import app, main
from edge_node.model.versions import Versions
from tests.unit.edge_node.model.test_versions import write


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["model", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_versions_are_listed_shown_and_gone_back_to(tmp_path: Path) -> None:
    folder, versions = ["--folder", str(tmp_path)], Versions(tmp_path)
    assert "has no model yet" in run("list", *folder)
    for version in (4, 5):
        write(versions, version)
    versions.path_of(versions.all()[0]).write_bytes(b"other")
    text = run("list", *folder).splitlines()
    assert text[1].startswith("*       5")
    assert text[2].endswith("model.onnx   DAMAGED")
    write(versions, 6)
    assert "version 5 is the present one" in run("rollback", *folder)
    assert "held since" in run("list", *folder)
    found = json.loads(run("list", *folder, "--json"))
    assert [(row["version"], row["present"], row["intact"]) for row in found["versions"]] == [
        (6, False, True),
        (5, True, True),
        (4, False, False),
    ]
    (tmp_path / "told.json").write_text('{"number": 2, "version": 5, "hooks": {"command": "no PLC", "topic": ""}}')
    shown = run("show", *folder)
    assert "told     command: no PLC" in shown
    assert "told     topic: done" in shown
    assert "4 rows of a, b; reconstruction, threshold 0.5, " in shown
    assert json.loads(run("show", *folder, "--json"))["path"] == str(tmp_path / "current/model.onnx")
    assert json.loads(run("rollback", *folder, "--to", "6", "--no-hold", "--json"))["version"] == 6
    assert "are taken again" in run("resume", *folder)
    assert json.loads(run("resume", *folder, "--json")) == {"held": None, "was_held": False}


def test_the_folder_is_the_configurations(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        '[broker]\nurl = "mqtt://h"\n[federation]\nid = "f"\n[node]\nid = "n"\n[model]\nfolder = "{here}/model"\n'
    )
    assert f"{tmp_path}/model has no model yet" in run("list", "--config", str(file))


@pytest.mark.parametrize(("arguments", "code"), [(["list"], 2), (["show", "--folder", "/nowhere"], 3)])
def test_what_is_missing_is_said_with_an_exit_code(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["edge-node", "model", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert "model" in capsys.readouterr().err


@pytest.mark.parametrize("topic", ["", "fl/demo/nodes/n/event", "$SYS/x", "plant/+/model", "plant/#"])
def test_a_topic_that_is_not_the_owners_is_refused(topic: str) -> None:
    from pydantic import ValidationError

    from edge_node.config import ModelSection

    with pytest.raises(ValidationError):
        ModelSection(topic=topic)
