"""A device takes its own enrolment file, keeps its settings at the next one, and refuses everybody else's."""

import datetime as dt
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from edge_node.app import node_trust
from edge_node.config import read_config
from edge_node.setup.join import ask, check_own_file, install, kept_settings
from federation.errors import ConfigError
from federation.identity.bundle import Bundle, encode_bundle
from federation.identity.certificates import Purpose, issue, new_authority, new_identity
from federation.identity.request import decode_request
from federation.identity.signing_keys import SigningKey

NOW = dt.datetime.now(dt.UTC)
AUTHORITY = new_authority("ours", now=NOW)


def enrolment(
    folder: Path,
    *,
    node: str = "edge-01",
    task: str | None = "digits",
    federation: str = "plant",
    files: dict[str, str] | None = None,
) -> Path:
    made = new_identity(AUTHORITY, node, purpose=Purpose.CLIENT, now=NOW)
    bundle = Bundle(
        federation=federation,
        node=node,
        broker_url="mqtts://broker.example:8883",
        task=task,
        authority=AUTHORITY.certificate_pem,
        certificate=made.certificate_pem,
        coordinator_key=SigningKey.new().public_pem,
        key=made.key_pem,
        signing_key=SigningKey.new().pem,
        files=files or {},
    )
    file = folder / f"{node}.fedmq"
    file.write_text(encode_bundle(bundle))
    file.chmod(0o600)
    return file


def test_it_makes_a_folder_that_a_node_can_run_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = install(enrolment(tmp_path), None)
    config = read_config(folder, {}, environ={})
    assert folder == Path("edge-01")
    assert (config.node.id, config.federation.id, config.task.name) == ("edge-01", "plant", "digits")
    assert config.state_folder == tmp_path / "edge-01" / "state"
    assert config.broker.tls_key is not None
    assert config.broker.tls_key.stat().st_mode & 0o777 == 0o600
    assert config.broker.tls_certificate == tmp_path / "edge-01" / "node.crt"
    assert config.security.require_signatures
    trust = node_trust(config.security)
    assert trust.signer is not None
    assert trust.verifier is not None


def answer(folder: Path, request: Path) -> Path:
    """What a coordinator writes for a request: an enrolment file without a secret."""
    asked = decode_request(request.read_text())
    made = issue(AUTHORITY, asked.node, asked.public_key, purpose=Purpose.CLIENT, now=NOW)
    bundle = Bundle(
        federation="plant",
        node=asked.node,
        broker_url="mqtts://broker.example:8883",
        task="digits",
        authority=AUTHORITY.certificate_pem,
        certificate=made.public_bytes(serialization.Encoding.PEM).decode(),
        coordinator_key=SigningKey.new().public_pem,
    )
    file = folder / f"{asked.node}.fedmq"
    file.write_text(encode_bundle(bundle))
    return file


def test_keys_that_the_device_makes_never_leave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = ask("edge-04", None)
    keys = [(tmp_path / "edge-04" / name).read_text() for name in ("node.key", "signing.key")]
    assert all("PRIVATE KEY" in key for key in keys)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "edge-04").iterdir()} == {0o600}
    file = answer(tmp_path, request)
    assert "PRIVATE KEY" not in request.read_text() + file.read_text()
    folder = install(file, None)
    assert [(folder / name).read_text() for name in ("node.key", "signing.key")] == keys
    assert node_trust(read_config(folder, {}, environ={}).security).signer is not None
    # Asked again, for a renewal: the same keys.
    assert (
        decode_request(ask("edge-04", None).read_text()).signing_key == decode_request(request.read_text()).signing_key
    )
    install(answer(tmp_path, request), folder)


def test_a_file_without_keys_is_installed_where_they_are_and_nowhere_else(tmp_path: Path) -> None:
    file = answer(tmp_path, ask("edge-04", tmp_path / "here"))
    with pytest.raises(ConfigError, match="has no keys"):
        install(file, tmp_path / "elsewhere")
    ask("edge-04", tmp_path / "other")
    with pytest.raises(ConfigError, match="do not belong together"):
        install(file, tmp_path / "other")
    assert not (tmp_path / "other" / "edge-node.toml").exists()
    with pytest.raises(ConfigError, match="NODE"):
        ask("not/a/name", None)


def test_a_second_file_renews_the_certificate_and_keeps_the_settings(tmp_path: Path) -> None:
    folder = install(enrolment(tmp_path), tmp_path / "node", task="mnist-mlp")
    before = (folder / "node.crt").read_text()
    again = enrolment(tmp_path)
    assert kept_settings(again, folder) == folder / "edge-node.toml"
    assert kept_settings(again, tmp_path / "elsewhere") is None
    install(again, folder, task="digits", data=tmp_path)
    assert (folder / "node.crt").read_text() != before
    assert read_config(folder, {}, environ={}).task.name == "mnist-mlp"


@pytest.mark.parametrize("other", [{"node": "edge-02"}, {"federation": "other"}])
def test_another_nodes_folder_is_left_alone(tmp_path: Path, other: dict[str, Any]) -> None:
    folder = install(enrolment(tmp_path), tmp_path / "node")
    before = (folder / "node.key").read_text()
    with pytest.raises(ConfigError, match="belongs to edge-01 of plant"):
        install(enrolment(tmp_path, **other), folder)
    assert (folder / "node.key").read_text() == before


def test_a_task_of_ones_own_is_named_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = enrolment(tmp_path, task=None)
    with pytest.raises(ConfigError, match="--task"):
        install(file, tmp_path / "node")
    assert not (tmp_path / "node").exists()
    (tmp_path / "data").mkdir()
    install(file, tmp_path / "node", task='my "task".py:build', data=Path("data"))
    config = read_config(tmp_path / "node", {}, environ={})
    assert (config.task.name, config.task.data) == (str(tmp_path / 'my "task".py:build'), tmp_path / "data")
    install(file, tmp_path / "module", task="package.module:build")
    assert read_config(tmp_path / "module", {}, environ={}).task.name == "package.module:build"


def test_settings_that_cannot_be_read_are_not_overwritten(tmp_path: Path) -> None:
    folder = install(enrolment(tmp_path), tmp_path / "node")
    for damaged in ("[node", "x = 1", "federation = 1\nnode = 2"):
        (folder / "edge-node.toml").write_text(damaged)
        with pytest.raises(ConfigError, match="take another folder"):
            install(enrolment(tmp_path), folder)
        assert (folder / "edge-node.toml").read_text() == damaged


def test_helpers_are_pinned_by_joining_again_and_others_than_pinned_are_refused(tmp_path: Path) -> None:
    first, second = (f"{name}={digit * 64}" for name, digit in (("acme", "a"), ("bolt", "b")))
    folder = install(enrolment(tmp_path), tmp_path / "node")
    assert read_config(folder, {}, environ={}).privacy.helpers == ()
    install(enrolment(tmp_path), folder, helpers=[second, first])
    assert read_config(folder, {}, environ={}).privacy.helpers == (first, second)
    text = (folder / "edge-node.toml").read_text()
    install(enrolment(tmp_path), folder, helpers=[first, second])
    install(enrolment(tmp_path), folder)
    with pytest.raises(ConfigError, match=r"--helper: .* has a \[privacy\] of its own: change privacy.helpers there"):
        install(enrolment(tmp_path), folder, helpers=[first])
    assert (folder / "edge-node.toml").read_text() == text


def test_code_that_a_file_brings_runs_only_by_its_owners_word(tmp_path: Path) -> None:
    source = "def build(context): ...\n"
    file = enrolment(tmp_path, task="my_task.py:build", files={"my_task.py": source})
    with pytest.raises(ConfigError, match=r"--with-task: this file brings code: my_task.py \(SHA-256 [0-9a-f]{16}\)"):
        install(file, tmp_path / "node")
    assert not (tmp_path / "node").exists()
    folder = install(file, tmp_path / "node", with_task=True)
    assert (folder / "task" / "my_task.py").read_text() == source
    assert read_config(folder, {}, environ={}).task.name == f"{folder}/task/my_task.py:build"
    own = install(file, tmp_path / "own", task="digits")
    assert not (own / "task").exists()


def test_a_file_with_keys_is_the_owners_alone(tmp_path: Path) -> None:
    file = enrolment(tmp_path)
    check_own_file(file)
    for mode in (0o644, 0o640, 0o602):
        file.chmod(mode)
        with pytest.raises(ConfigError, match="install -m 600"):
            check_own_file(file)
    file.chmod(0o600)
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="others on this machine"):
        check_own_file(file)
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match="cannot be read"):
        check_own_file(tmp_path / "absent.fedmq")
    with pytest.raises(ConfigError, match="no regular file"):
        check_own_file(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused_but_not_that_of_who_called_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = enrolment(tmp_path)
    os.chown(file, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to the user with number 12345"):
        check_own_file(file)
    monkeypatch.setenv("SUDO_UID", "12345")
    check_own_file(file)


def test_a_file_without_keys_may_be_read_by_all_and_changed_by_none(tmp_path: Path) -> None:
    file = answer(tmp_path, ask("edge-04", tmp_path / "here"))
    file.chmod(0o644)
    check_own_file(file)
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="can read or change it"):
        check_own_file(file)
