"""`join --service`: what is checked before, what is done in which order, and what is said of the first update."""

import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_node.setup import service
from edge_node.setup.service import Host, first_update, start_service
from edge_node.storage.read_only import read_node
from federation.errors import ConfigError, StorageError
from federation.services import UNITS, unit_text
from tests.rigs.former_state import folder_of_layout

ME = pwd.getpwuid(os.geteuid()).pw_name
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="what it does takes root")


class Commands:
    """Remembers the commands, and fails those in which one of the given words is."""

    def __init__(self, *fails: str) -> None:
        self.said: list[str] = []
        self._fails = fails

    def __call__(self, words: Sequence[str]) -> int:
        line = " ".join(words)
        self.said.append(line)
        return int(any(fail in line for fail in self._fails))


def host(tmp_path: Path, commands: Commands, *, user: str = ME) -> Host:
    (tmp_path / "booted").mkdir()
    return Host(
        booted=tmp_path / "booted", units=tmp_path / "units", state=tmp_path / "lib/node", user=user, run=commands
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings; the programs are where the units expect them, and the test's own folders count as visible."""
    monkeypatch.setattr(sys, "prefix", "/opt/fedmq")
    monkeypatch.setattr("federation.services._HIDDEN", ("/home",))
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "node.key").write_text("key")
    return settings


@as_root
def test_unit_doctor_and_start_in_this_order(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = Commands()
    assert start_service(folder, host(tmp_path, commands), wait_s=0) == 0
    again, doctor, enable, start = commands.said
    assert again == "systemctl daemon-reload"
    assert f"-m edge_node doctor --config {folder} --state {tmp_path}/lib/node" in doctor
    assert f"-u {ME} " in doctor
    assert (enable, start) == (
        "systemctl enable fedmq-node.service",
        "systemctl restart --no-block fedmq-node.service",
    )
    unit = (tmp_path / "units/fedmq-node.service").read_text()
    assert f"ExecStart=/opt/fedmq/bin/edge-node run --config {folder}\n" in unit
    assert "started" in capsys.readouterr().out


@as_root
@pytest.mark.parametrize("fails", ["doctor", "daemon-reload"])
def test_what_the_doctor_refuses_is_not_started(tmp_path: Path, folder: Path, fails: str) -> None:
    commands = Commands(fails)
    assert start_service(folder, host(tmp_path, commands), wait_s=0) == 1
    assert not [line for line in commands.said if "enable" in line or "restart" in line]


@as_root
def test_a_user_is_made_where_there_is_none_and_a_failure_is_told(tmp_path: Path, folder: Path) -> None:
    commands = Commands("useradd")
    with pytest.raises(StorageError, match="useradd has failed"):
        start_service(folder, host(tmp_path, commands, user="fedmq-nobody"), wait_s=0)
    assert commands.said[0].endswith("fedmq-nobody")


def test_without_systemd_it_says_what_to_run(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = Commands()
    place = Host(booted=tmp_path / "absent", run=commands)
    place.check(folder)
    assert start_service(folder, place, wait_s=0) == 0
    assert f"/opt/fedmq/bin/edge-node run --config {folder}" in capsys.readouterr().out
    assert commands.said == []


def test_a_program_or_settings_that_a_unit_cannot_see_are_refused_first(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = host(tmp_path, Commands())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    place.check(folder)
    with pytest.raises(ConfigError, match="cannot see what is below /home"):
        place.check(Path("/home/pi/node"))
    with pytest.raises(ConfigError, match="characters"):
        place.check(Path("/etc/my node"))
    monkeypatch.setattr(sys, "prefix", "/home/pi/fedmq")
    with pytest.raises(ConfigError, match="/opt/fedmq"):
        place.check(folder)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="takes root"):
        place.check(folder)


def test_the_first_update_is_told_when_the_coordinator_has_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    looked: list[float] = []

    def pause(seconds: float) -> None:
        looked.append(seconds)
        if len(looked) == 2:
            folder_of_layout("node-1", state)

    said = first_update(state, 30.0, pause)
    assert len(looked) == 2
    assert any(stored for _, stored in read_node(state).outbox.values())
    assert said == "the first update is in: the coordinator has stored it for its next version"


def test_an_update_that_does_not_come_ends_the_waiting_with_where_to_look(tmp_path: Path) -> None:
    said = first_update(tmp_path / "state", 0.0, lambda _seconds: None)
    assert "the node goes on by itself" in said
    assert "coordinator why" in said


@pytest.mark.parametrize("name", UNITS)
def test_every_unit_can_be_had_for_this_installation(name: str) -> None:
    text = unit_text(name, programs=Path("/srv/fedmq/bin"), settings=Path("/srv/press"))
    assert "/opt/fedmq" not in text
    assert "/etc/fedmq/plant" not in text or name == "fedmq-backup.service"
    if name in ("fedmq-coordinator.service", "fedmq-node.service", "fedmq-helper.service"):
        assert "ExecStart=/srv/fedmq/bin/" in text
        assert "--config /srv/press" in text
    assert service.UNIT in UNITS
