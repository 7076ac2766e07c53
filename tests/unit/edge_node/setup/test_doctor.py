"""The doctor says what is wrong and what to do, check by check."""

import datetime as dt
import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

import edge_node.setup.doctor
from edge_node.config import NodeConfig, read_config
from edge_node.setup.doctor import (
    check_certificate,
    check_disk,
    check_own_key,
    check_state,
    check_task,
    examine,
    judge_visit,
)
from edge_node.setup.visit import Visit
from edge_node.storage.state_folder import StateFolder
from federation.doctor import Finding, Verdict, check_clock, check_dial
from federation.identity.certificates import Purpose, new_authority, new_identity
from federation.identity.signing_keys import SigningKey
from federation.protocol.messages import CoordinatorState, Presence
from federation.runtime.address import BrokerAddress
from federation.runtime.obstacles import ObstacleFile
from federation.types import Epoch
from tests.rigs.node_doubles import RUN, announcement

PASS, WARN, FAIL = Verdict.PASS, Verdict.WARN, Verdict.FAIL


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    flags = {
        "federation.id": "demo",
        "node.id": "pi-3",
        "broker.url": "mqtt://127.0.0.1:1",
        "task.name": "null",
        "store.folder": tmp_path / "state",
    }
    return read_config(None, flags, environ={})


def verdicts(findings: list[Finding]) -> list[tuple[str, Verdict]]:
    return [(finding.check, finding.verdict) for finding in findings]


def coordinator(presence: Presence = Presence.ONLINE, protocol_min: int = 1) -> CoordinatorState:
    return CoordinatorState(
        presence=presence, run=RUN, epoch=Epoch(1), protocol_min=protocol_min, protocol_max=protocol_min
    )


@pytest.mark.parametrize(("now_s", "verdict"), [(0.0, FAIL), (1_900_000_000.0, PASS)])
def test_clock_that_was_never_set_fails(now_s: float, verdict: Verdict) -> None:
    assert check_clock(now_s).verdict is verdict


def test_state_folder_is_writable_in_use_or_impossible(config: NodeConfig, tmp_path: Path) -> None:
    assert (check_state(config).verdict, check_disk(config).verdict) == (PASS, PASS)
    assert not config.state_folder.exists()
    held = StateFolder(config.state_folder)
    assert check_state(config).verdict is WARN
    held.close()
    before = sorted(path.name for path in config.state_folder.iterdir())
    assert check_state(config).verdict is PASS
    assert sorted(path.name for path in config.state_folder.iterdir()) == before
    (tmp_path / "file").write_text("")
    broken = config.model_copy(update={"store": config.store.model_copy(update={"folder": tmp_path / "file" / "x"})})
    assert check_state(broken).verdict is FAIL
    assert "is no folder" in check_state(broken).detail


def test_a_lost_database_beside_a_model_fails(config: NodeConfig) -> None:
    config.state_folder.mkdir()
    (config.state_folder / "model.safetensors").write_bytes(b"something")
    found = check_state(config)
    assert (found.verdict, "node.sqlite is missing" in found.detail, "move" in found.remedy) == (FAIL, True, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_what_root_has_left_in_a_state_folder_is_named_before_the_service_fails(
    config: NodeConfig, tmp_path: Path
) -> None:
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    config.state_folder.mkdir()
    os.chown(config.state_folder, 65_534, 65_534)
    (config.state_folder / "lock").write_bytes(b"")
    (config.state_folder / "lock").chmod(0o600)
    os.seteuid(65_534)
    try:
        found = check_state(config)
        absent = check_state(
            config.model_copy(update={"store": config.store.model_copy(update={"folder": tmp_path / "new"})})
        )
    finally:
        os.seteuid(0)
    assert (found.verdict, found.detail) == (FAIL, "lock in it cannot be written")
    assert f"sudo chown -R nobody: {config.state_folder}" in found.remedy
    assert (absent.verdict, absent.detail) == (FAIL, f"{tmp_path} cannot be written")


@pytest.mark.parametrize(("free", "verdict"), [(1 << 20, WARN), (1 << 40, PASS)])
def test_little_disk_is_a_warning(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch, free: int, verdict: Verdict
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert check_disk(config).verdict is verdict


def test_task_is_built_and_described(config: NodeConfig) -> None:
    assert check_task(config).detail == "null: 1,000 parameters on cpu"
    wrong = config.model_copy(update={"task": config.task.model_copy(update={"name": "nulll"})})
    assert check_task(wrong).verdict is FAIL


def test_name_that_does_not_resolve_and_port_that_does_not_answer_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    def refused(*_: object, **__: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    for raising, word in ((no_name, "DNS"), (refused, "firewalls")):
        monkeypatch.setattr("federation.doctor.dial", raising)
        finding = check_dial(BrokerAddress(host="broker"))
        assert finding.verdict is FAIL
        assert word in finding.remedy


def test_open_port_passes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert check_dial(BrokerAddress(host="127.0.0.1", port=server.getsockname()[1])).verdict is PASS


def test_refused_session_is_all_that_is_said(config: NodeConfig) -> None:
    findings = list(judge_visit(Visit(reason="not authorized"), config))
    assert verdicts(findings) == [("broker session", FAIL)]
    assert findings[0].detail == "not authorized"


@pytest.mark.parametrize(
    ("state", "verdict"),
    [(None, WARN), (coordinator(Presence.LOST), WARN), (coordinator(protocol_min=9), FAIL), (coordinator(), PASS)],
)
def test_coordinator_is_absent_incompatible_or_there(
    config: NodeConfig, state: CoordinatorState | None, verdict: Verdict
) -> None:
    visit = Visit(accepted=True, packet_bytes_max=262_144, coordinator=state)
    expected = [("broker session", PASS), ("access rules", PASS), ("coordinator", verdict)]
    assert verdicts(list(judge_visit(visit, config))) == expected


def test_a_broker_that_answers_no_publish_has_allowed_none(config: NodeConfig) -> None:
    """It passed: only what was refused was looked at."""
    visit = Visit(accepted=True, packet_bytes_max=262_144, unanswered=1, coordinator=coordinator())
    found = {one.check: one for one in judge_visit(visit, config)}["access rules"]
    assert (found.verdict, found.detail) == (WARN, "the broker has not answered to 1 trial message")


def test_refused_publish_and_another_task_fail(config: NodeConfig) -> None:
    visit = Visit(accepted=True, refused=1, coordinator=coordinator(), announcement=announcement())
    found = dict(verdicts(list(judge_visit(visit, config))))
    assert found["access rules"] is FAIL
    assert found["task of the run"] is FAIL
    same = config.model_copy(update={"task": config.task.model_copy(update={"name": "toy"})})
    assert dict(verdicts(list(judge_visit(visit, same))))["task of the run"] is PASS


def test_a_certificate_is_another_nodes_old_or_damaged(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    made = new_identity(new_authority("ours", now=now), "pi-3", purpose=Purpose.CLIENT, now=now, days=40)
    path = tmp_path / "node.crt"
    path.write_text(made.certificate_pem)
    for days, verdict in ((0, PASS), (20, WARN), (40, FAIL)):
        assert check_certificate(path, "pi-3", now + dt.timedelta(days=days)).verdict is verdict
    early = check_certificate(path, "pi-3", now - dt.timedelta(days=3))
    assert (early.verdict, "see this machine's clock" in early.remedy) == (FAIL, True)
    assert "pi-4" in check_certificate(path, "pi-4", now).remedy
    path.write_text("damaged")
    assert check_certificate(path, "pi-3", now).verdict is FAIL


def test_a_running_node_with_a_certificate_is_not_disturbed(
    config: NodeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_node.setup.doctor, "check_tls", lambda *_: None)
    now = dt.datetime.now(dt.UTC)
    made = new_identity(new_authority("ours", now=now), "pi-3", purpose=Purpose.CLIENT, now=now)
    (tmp_path / "crt").write_text(made.certificate_pem)
    (tmp_path / "key").write_text(made.key_pem)
    held = StateFolder(config.state_folder)
    with socket.create_server(("127.0.0.1", 0)) as server:
        files = {"tls_certificate": tmp_path / "crt", "tls_key": tmp_path / "key"}
        url = f"mqtts://127.0.0.1:{server.getsockname()[1]}"
        secure = config.model_copy(update={"broker": config.broker.model_copy(update=files | {"url": url})})
        assert verdicts(list(examine(secure)))[-3:] == [
            ("certificate", PASS),
            ("broker port", PASS),
            ("broker session", WARN),
        ]
        ObstacleFile(config.state_folder).met("node", "the broker refuses over TLS: certificate revoked; ask")
        session = list(examine(secure))[-1]
        assert (session.verdict, session.detail) == (FAIL, "the broker refuses over TLS: certificate revoked; ask")
    held.close()


def test_examination_ends_where_the_broker_cannot_be_reached(config: NodeConfig) -> None:
    assert verdicts(list(examine(config)))[-1] == ("broker port", FAIL)
    wrong = config.model_copy(update={"broker": config.broker.model_copy(update={"url": "http://x"})})
    assert verdicts(list(examine(wrong)))[-1] == ("broker settings", FAIL)


def test_the_line_by_which_helpers_admit_the_node_is_told(config: NodeConfig, tmp_path: Path) -> None:
    file, key = tmp_path / "signing.key", SigningKey.new()
    file.write_text(key.pem)
    with_key = config.model_copy(update={"security": config.security.model_copy(update={"signing_key": file})})
    assert [(one.check, one.detail) for one in check_own_key(with_key)] == [("own key", f"pi-3={key.public_hex}")]
    assert list(check_own_key(config)) == []
    file.write_text("none")
    assert list(check_own_key(with_key)) == []
