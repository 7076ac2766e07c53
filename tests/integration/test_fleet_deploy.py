"""The units that deploy/ ships: valid, hardened, watched."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = ("fedmq-broker", "fedmq-coordinator", "fedmq-node")
EXPOSURE_MAX = 2.5


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_has_no_mistake_that_systemd_knows(unit: str, tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "systemd" / f"{unit}.service").read_text()
    # Its program is not installed here; that one is there, and all else is as it is shipped.
    copy = tmp_path / f"{unit}.service"
    copy.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    done = analyze("verify", "--man=no", str(copy))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    copy.write_text(text + "\n[Service]\nProtectSytem=strict\n")
    assert "ProtectSytem" in analyze("verify", "--man=no", str(copy)).stderr


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_hardened(unit: str) -> None:
    file = ROOT / "deploy" / "systemd" / f"{unit}.service"
    done = analyze("security", "--offline=true", "--no-pager", str(file))
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found.group(1)) <= EXPOSURE_MAX


@pytest.mark.parametrize("unit", UNITS[1:])
def test_a_role_is_watched_and_stays_down_only_for_a_wrong_setting(unit: str) -> None:
    lines = (ROOT / "deploy" / "systemd" / f"{unit}.service").read_text().splitlines()
    assert {"Type=notify", "WatchdogSec=120", "Restart=always", "RestartPreventExitStatus=2"} <= set(lines)
