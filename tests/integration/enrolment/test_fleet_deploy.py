"""The units that deploy/ ships: valid, hardened, watched."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from federation.runtime.local_broker import LocalBroker
from tests.rigs.network_hosts import Program

ROOT = Path(__file__).parents[3]
UNITS = ("fedmq-broker", "fedmq-coordinator", "fedmq-node", "fedmq-helper")
BACKUP = "fedmq-backup"
EXPOSURE_MAX = 2.5


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("unit", [*UNITS, BACKUP])
def test_a_unit_has_no_mistake_that_systemd_knows(unit: str, tmp_path: Path) -> None:
    text = (ROOT / "federation" / "services" / f"{unit}.service").read_text()
    # Its program is not installed here; that one is there, and all else is as it is shipped.
    copy = tmp_path / f"{unit}.service"
    copy.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    done = analyze("verify", "--man=no", str(copy))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    copy.write_text(text + "\n[Service]\nProtectSytem=strict\n")
    assert "ProtectSytem" in analyze("verify", "--man=no", str(copy)).stderr


@pytest.mark.parametrize("unit", [*UNITS, BACKUP])
def test_a_unit_is_hardened(unit: str) -> None:
    file = ROOT / "federation" / "services" / f"{unit}.service"
    done = analyze("security", "--offline=true", "--no-pager", str(file))
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found.group(1)) <= EXPOSURE_MAX


def test_the_backup_s_timer_has_no_mistake_that_systemd_knows(tmp_path: Path) -> None:
    for kind in ("service", "timer"):
        text = (ROOT / "federation" / "services" / f"{BACKUP}.{kind}").read_text()
        (tmp_path / f"{BACKUP}.{kind}").write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    done = analyze("verify", "--man=no", str(tmp_path / f"{BACKUP}.timer"))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS[1:])
def test_a_role_is_watched_and_stays_down_only_for_a_wrong_setting(unit: str) -> None:
    lines = (ROOT / "federation" / "services" / f"{unit}.service").read_text().splitlines()
    assert {"Type=notify", "WatchdogSec=120", "Restart=always", "RestartPreventExitStatus=2"} <= set(lines)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_never_gives_up(unit: str) -> None:
    """By default systemd would after five starts in ten seconds."""
    lines = (ROOT / "federation" / "services" / f"{unit}.service").read_text().splitlines()
    assert {"StartLimitIntervalSec=0", "Restart=always"} <= set(lines)
    assert not [line for line in lines if line.startswith("StartLimitBurst")]


WAIT_S = 60.0
QUIET_S = 3.0
"""Fifteen beats."""

# Trains at once, except where a file says that it hangs: then it does not even ask its stop flag.
HANGING_TASK = """
import threading
from pathlib import Path

import numpy as np

from federation.task import TrainResult


class HangingTask:
    def initial_parameters(self, seed):
        return {"point": np.zeros(4, np.float32)}

    def roles(self):
        return {}

    def train(self, parameters, settings, stop):
        while Path("hang").exists():
            threading.Event().wait(0.02)
        return TrainResult(parameters=parameters, num_examples=1)

    def evaluate(self, parameters):
        return {}


def build(context):
    return HangingTask()
"""


class Manager:
    """Plays the service manager: what the unit's process says on its socket."""

    def __init__(self, place: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(place))
        self.variables = {"NOTIFY_SOCKET": str(place), "WATCHDOG_USEC": "600000"}

    def hears(self, word: str, limit_s: float = WAIT_S) -> bool:
        """Whether this is said before it has been quiet for so long."""
        self._socket.settimeout(limit_s)
        try:
            while word not in self._socket.recv(4_096).decode():
                pass
        except TimeoutError:
            return False
        return True

    def forget(self) -> None:
        """What was said until now does not count."""
        self._socket.settimeout(0.0)
        try:
            while self._socket.recv(4_096):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        self._socket.close()


@pytest.mark.broker
@pytest.mark.slow
def test_the_watchdog_is_not_fed_while_a_training_hangs_and_is_again_when_it_gets_on(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING_TASK)
    (tmp_path / "hang").touch()
    manager, started = Manager(tmp_path / "notify"), list[Program]()
    common = {"FEDERATION__ID": "plant", "TASK__NAME": "hanging.py:build", "LOG__JSON": "true"}
    with LocalBroker() as broker:

        def start(role: str, module: str, **more: str) -> Program:
            told = {f"FEDMQ_{role}__{key}": value for key, value in {**common, **more}.items()}
            variables = os.environ | {f"FEDMQ_{role}__BROKER__URL": broker.url} | told | manager.variables
            started.append(Program([sys.executable, "-m", module, "run"], tmp_path, variables))
            return started[-1]

        try:
            node = start("NODE", "edge_node", NODE__ID="edge-01", TRAINING__STALL_S="1")
            assert manager.hears("READY=1")
            assert manager.hears("WATCHDOG=1")
            manager.variables = {}
            start("COORDINATOR", "coordinator", EVALUATION__EVERY="0", ROUND__NODES_MIN="1", ROUND__CONCURRENCY="1")
            node.event("training_stalled")
            manager.forget()
            assert not manager.hears("WATCHDOG=1", QUIET_S)
            (tmp_path / "hang").unlink()
            assert manager.hears("WATCHDOG=1")
        finally:
            for program in started:
                program.stop()
            manager.close()
