"""The command line: flags become settings, and every error one line and an exit code."""

import errno
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_node import app as composition
from edge_node.cli import app, main
from edge_node.config import NodeConfig
from federation.errors import (
    ConfigError,
    FederationError,
    LocalProtocolError,
    StorageError,
    StoreLocked,
    TaskError,
    TransportError,
)

NEEDED = ["run", "--broker", "mqtt://localhost", "--federation", "demo", "--id", "pi-3"]


def invoke(monkeypatch: pytest.MonkeyPatch, *arguments: str, raises: BaseException | None = None) -> tuple[int, str]:
    def run_node(_config: NodeConfig) -> int:
        if raises is not None:
            raise raises
        return 0

    monkeypatch.setattr(composition, "run_node", run_node)
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_every_flag_reaches_its_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[NodeConfig] = []

    def run_node(config: NodeConfig) -> int:
        seen.append(config)
        return 130

    monkeypatch.setattr(composition, "run_node", run_node)
    flags = ["--task", "null", "--data", str(tmp_path), "--index", "2", "--count", "5", "--seed", "9"]
    flags += ["--state", str(tmp_path / "state"), "--device", "cpu", "--log-json", "--exit-when-finished"]
    assert CliRunner().invoke(app, [*NEEDED, *flags]).exit_code == 130
    (config,) = seen
    assert (config.broker.url, config.federation.id, config.node.id) == ("mqtt://localhost", "demo", "pi-3")
    assert (config.task.name, config.task.data, config.task.index) == ("null", tmp_path, 2)
    assert (config.task.count, config.task.seed, config.state_folder) == (5, 9, tmp_path / "state")
    assert (config.training.device, config.log.as_json, config.node.exit_when_finished) == ("cpu", True, True)


def test_file_alone_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[broker]\nurl = "mqtt://h"\n[federation]\nid = "demo"\n[node]\nid = "pi-3"\n')
    assert invoke(monkeypatch, "run", "--config", str(file))[0] == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("task", "no such task"), 2),
        (TaskError("no data"), 2),
        (StorageError("disk full"), 3),
        (StoreLocked("held by 7"), 3),
        (TransportError("not authorized"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    found, output = invoke(monkeypatch, *NEEDED, raises=error)
    assert found == code
    assert (f"edge-node: {error}" in output) == isinstance(error, FederationError)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fails_anywhere_is_told_as_such(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    code, output = invoke(monkeypatch, *NEEDED, raises=OSError(number, os.strerror(number)))
    assert code == 3
    assert os.strerror(number) in output
    assert "make" in output
    monkeypatch.setattr(composition, "run_node", lambda _: (_ for _ in ()).throw(OSError(errno.EBADF, "a bug")))
    assert isinstance(CliRunner().invoke(app, NEEDED).exception, OSError)


@pytest.mark.parametrize(("error", "held"), [(ConfigError("task", "none"), 0), (StorageError("full"), 1)])
def test_a_service_holds_back_an_end_that_no_person_has_to_mend(
    monkeypatch: pytest.MonkeyPatch, error: FederationError, held: int
) -> None:
    reasons: list[str] = []
    monkeypatch.setattr("federation.runtime.supervision.hold_back", reasons.append)
    invoke(monkeypatch, *NEEDED, raises=error)
    assert reasons == [str(error)] * held


def test_our_own_bug_is_not_hidden_behind_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "run_node", lambda _: (_ for _ in ()).throw(LocalProtocolError("bug")))
    result = CliRunner().invoke(app, NEEDED)
    assert isinstance(result.exception, LocalProtocolError)


def test_missing_setting_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = invoke(monkeypatch, "run", "--federation", "demo", "--id", "pi-3")
    assert code == 2
    assert "broker.url" in output


def test_help_names_the_exit_codes() -> None:
    for arguments in (["--help"], ["run", "--help"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0
        assert "130" in result.output


def test_main_is_the_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["edge-node", "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
