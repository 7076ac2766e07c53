"""Status and doctor say whether the broker can read a run."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from coordinator.config.sections import CoordinatorConfig, read_config
from coordinator.config.settings import engine_settings
from coordinator.monitoring.doctor import check_sealing
from coordinator.monitoring.screen import sealed_lines
from coordinator.monitoring.state_files import read_sealed
from federation.doctor import Verdict
from federation.errors import ConfigError
from federation.privacy.boxes import Kem
from federation.storage.folder import FolderLock
from federation.storage.sealing_keys import FILE, Group, SealingKeys, write_keys
from tests.rigs.status_values import snapshot, status_file


def config(folder: Path, **flags: object) -> CoordinatorConfig:
    given = {"broker.url": "mqtt://b", "federation.id": "f", "task.name": "null", "store.folder": folder}
    return read_config(None, given | {key.replace("__", "."): value for key, value in flags.items()}, environ={})


def signed(folder: Path, **flags: object) -> CoordinatorConfig:
    keys = {"security__signing_key": folder / "key", "security__node_keys": folder / "nodes.json"}
    return config(folder, security__require_signatures=True, **keys, **flags)


def shown(folder: Path) -> str:
    console = Console(file=io.StringIO(), width=200)
    for line in sealed_lines(folder):
        console.print(line)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(("said", "words"), [(True, "sealed: the broker reads neither"), (False, "not sealed")])
def test_the_status_says_what_the_coordinator_does(tmp_path: Path, said: bool, words: str) -> None:
    lock = FolderLock(tmp_path)
    assert read_sealed(tmp_path) is None
    assert shown(tmp_path) == ""
    status_file(tmp_path, lambda: {**snapshot("assignments"), "sealed": said}).write()
    assert read_sealed(tmp_path) is said
    assert shown(tmp_path).startswith(words)
    lock.release()


def test_the_doctor_says_what_is_missing(tmp_path: Path) -> None:
    finding = check_sealing(config(tmp_path))
    assert finding.verdict is Verdict.PASS
    assert "the broker reads every update" in str(finding)
    finding = check_sealing(signed(tmp_path))
    assert finding.verdict is Verdict.WARN
    assert "privacy.sealed = true" in str(finding)
    sealed = signed(tmp_path, privacy__sealed=True, privacy__kem="mlkem768_x25519")
    assert "mlkem768_x25519; the first start makes its keys" in str(check_sealing(sealed))
    write_keys(tmp_path, SealingKeys(groups=(Group(epoch=7, secret="ab" * 32),)))
    assert "group key 7" in str(check_sealing(sealed))
    (tmp_path / FILE).write_text("{")
    assert check_sealing(sealed).verdict is Verdict.FAIL
    assert sealed.privacy.sealing.kem is Kem.MLKEM768_X25519


def test_nothing_is_sealed_with_keys_that_nobody_has_signed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="require_signatures = true"):
        engine_settings(config(tmp_path, privacy__sealed=True))
    assert engine_settings(signed(tmp_path, privacy__sealed=True)).sealed
