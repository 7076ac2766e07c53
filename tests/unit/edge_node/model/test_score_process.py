"""The process beside the agent: which settings it gets, when it is started again, and that it ends with its agent."""

import json
import queue
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge_node.config import NodeConfig, read_config
from edge_node.model.score_process import ScoreProcess, pause_s, score_beside
from federation.errors import ConfigError

LIMIT_S = 60.0
SETTINGS = """
[federation]
id = "plant"
[node]
id = "pump-1"
[broker]
url = "mqtt://broker.example"
password_file = "{folder}/password"
username = "pump-1"
[task]
name = "sensors/autoencoder"
arguments = {{ columns = ["a", "b"], window = 3 }}
[data.mqtt]
url = "mqtt://127.0.0.1:1883"
[[data.mqtt.topics]]
topic = "plant/pump"
columns = {{ a = "a", b = "b" }}
[model]
folder = "{folder}/model"
[score]
with_agent = true
[log]
json = true
"""

NOTE = """
import os, sys
line = sys.stdin.buffer.readline()
with open(sys.argv[1], "ab") as file:
    file.write(line)
    file.write(repr(sorted(set(os.environ) & {"NOTIFY_SOCKET", "WATCHDOG_USEC"})).encode() + b"\\n")
"""
"""A process that writes down what it was told, and then does as its last argument says."""


def settings(folder: Path, *lines: str) -> NodeConfig:
    (folder / "password").write_text("secret")
    file = folder / "node.toml"
    file.write_text(SETTINGS.format(folder=folder) + "\n".join(lines))
    return read_config(file, {"node.id": "pump-7"}, {"FEDMQ_NODE__SCORE__TOPIC": "scores/pump"})


def program(folder: Path, then: str) -> tuple[str, ...]:
    return (sys.executable, "-c", NOTE + then, str(folder / "told"))


class Log:
    """What is said, for whoever waits for it."""

    def __init__(self) -> None:
        self.said: queue.Queue[tuple[str, Mapping[str, object]]] = queue.Queue()

    def warning(self, event: str, **fields: object) -> None:
        self.said.put((event, fields))

    error = warning


def started(process: ScoreProcess, monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(process, "_log", log)
    process.start()
    return log


def test_it_gets_all_settings_those_of_flags_and_of_the_environment_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/agent")  # the agent's own: a second READY=1 would be a lie
    process = ScoreProcess(config, program(tmp_path, "sys.exit(2)"))
    log = started(process, monkeypatch)
    assert log.said.get(timeout=LIMIT_S)[0] == "score_process_given_up"
    process.close()
    told, variables = (tmp_path / "told").read_bytes().splitlines()
    assert NodeConfig.model_validate_json(told) == config
    assert json.loads(told)["node"]["id"] == "pump-7"
    assert json.loads(told)["score"]["topic"] == "scores/pump"
    assert variables == b"[]"


def test_one_that_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_node.model.score_process.AGAIN_S", (0.001, 0.004))
    process = ScoreProcess(settings(tmp_path), program(tmp_path, "os.kill(os.getpid(), 9)"))
    log = started(process, monkeypatch)
    ends = [log.said.get(timeout=LIMIT_S) for _ in range(4)]
    process.close()
    assert [fields["again_in_s"] for _, fields in ends] == [0.001, 0.002, 0.004, 0.004]
    assert {(event, fields["exit_code"]) for event, fields in ends} == {("score_process_ended", -9)}


def test_it_ends_with_its_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = "open(sys.argv[1] + '.up', 'w').close(); print('up', flush=True); sys.stdin.read()"
    process = ScoreProcess(settings(tmp_path), program(tmp_path, waits))
    log = started(process, monkeypatch)
    process.close()
    assert not process._thread.is_alive()
    assert log.said.empty()


def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_node.model.score_process.END_S", 0.01)
    process = ScoreProcess(settings(tmp_path), (sys.executable, "-c", "import threading; threading.Event().wait()"))
    started(process, monkeypatch)
    process.close()
    process._thread.join(LIMIT_S)
    assert not process._thread.is_alive()


def test_the_wait_doubles_and_begins_anew_after_a_good_run() -> None:
    assert pause_s(0.0, 0.1) == 1.0
    assert pause_s(1.0, 0.1) == 2.0
    assert pause_s(40.0, 0.1) == 60.0
    assert pause_s(60.0, 61.0) == 1.0


def test_without_the_setting_there_is_none(tmp_path: Path) -> None:
    config = settings(tmp_path)
    assert (
        score_beside(config.model_copy(update={"score": config.score.model_copy(update={"with_agent": False})})) is None
    )


@pytest.mark.parametrize(("section", "key"), [("data", "mqtt"), ("model", "folder")])
def test_an_agent_that_cannot_score_says_what_is_missing(tmp_path: Path, section: str, key: str) -> None:
    config = settings(tmp_path)
    without = getattr(config, section).model_copy(update={key: None})
    with pytest.raises(ConfigError, match=f"{section}.{key}"):
        score_beside(config.model_copy(update={section: without}))
