"""A program that starts warm cannot be told from one that starts from nothing: `tests.rigs.warm_start`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from federation.runtime.local_broker import LocalBroker
from tests.rigs.warm_start import WarmPopen

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs start warm on Linux only")

COORDINATOR = [sys.executable, "-m", "coordinator"]
LIMIT_S = 30.0


def is_warm(process: "subprocess.Popen[str]") -> bool:
    """Whether it is a child of the warm process, and so not one of ours."""
    return bool(psutil.Process(process.pid).ppid() != os.getpid())


@contextmanager
def node(broker: LocalBroker, folder: Path, **more: object) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "edge_node", "run", "--broker", broker.url, "--federation", "it", "--id", "n1"]
    command += ["--task", "null", "--state", str(folder / "state"), "--log-json"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
    with subprocess.Popen(command, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def connected(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert any(json.loads(line)["event"] == "connected" for line in process.stdout)


@pytest.mark.parametrize("arguments", [["status", "--state", "none"], ["status"], ["no-such-command"], ["--help"]])
def test_words_and_exit_code_are_the_same(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome() -> tuple[int, str, str]:
        done = subprocess.run([*COORDINATOR, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False)
        return done.returncode, done.stdout, done.stderr.replace("python -m coordinator", "coordinator")

    warm = outcome()
    monkeypatch.setattr(WarmPopen, "address", "")
    assert warm == outcome()


@pytest.mark.broker
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_signal_ends_it_as_ever(broker: LocalBroker, tmp_path: Path, number: signal.Signals, code: int) -> None:
    with node(broker, tmp_path) as process:
        connected(process)
        assert is_warm(process)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(LIMIT_S) == code
        assert process.poll() == code
    assert not psutil.pid_exists(process.pid)


def open_files(pid: int) -> set[Path]:
    """What a process has open; a descriptor that it closes meanwhile is left out."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(descriptor.readlink())
    return found


@pytest.mark.broker
def test_it_has_a_session_an_environment_and_a_folder_of_its_own(broker: LocalBroker, tmp_path: Path) -> None:
    environ = os.environ | {"FEDMQ_FAILPOINT": "node_before_offer"}
    with node(broker, tmp_path, env=environ, cwd=tmp_path, start_new_session=True) as process:
        connected(process)
        assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid
        assert Path(f"/proc/{process.pid}/cwd").resolve() == tmp_path
        assert process.stdout is not None
        # What a task prints goes to standard error: the program keeps its standard output under another number.
        ours = Path(f"/proc/self/fd/{process.stdout.fileno()}").readlink()
        assert ours in open_files(process.pid)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0


@pytest.mark.broker
def test_what_python_reads_at_its_start_needs_a_start_from_nothing(broker: LocalBroker, tmp_path: Path) -> None:
    with node(broker, tmp_path, env=os.environ | {"PYTHONHASHSEED": "7"}) as process:
        connected(process)
        assert not is_warm(process)
        process.terminate()
        assert process.wait(LIMIT_S) == 0
