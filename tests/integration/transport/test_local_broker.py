"""A broker of one's own starts on any machine, dies as it is told to, and leaves nothing behind."""

import contextlib
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from federation.protocol.limits import SEGMENT_CHUNKS
from federation.runtime import local_broker
from federation.runtime.local_broker import BROKER_LIMITS, BrokerFailed, LocalBroker, MosquittoMissing, free_port
from tests.rigs.raw_mqtt import RawClient

pytestmark = pytest.mark.broker

_CONFIGURATIONS = Path(__file__).parents[3] / "mosquitto"


def _listens(broker: LocalBroker) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((broker.host, broker.port)) == 0


def test_it_listens_when_start_returns_and_is_gone_when_stop_returns() -> None:
    with LocalBroker() as broker:
        assert _listens(broker)
        assert broker.running
        assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
        assert re.fullmatch(r"\d+\.\d+\.\d+", broker.version)
        pid, process = broker.pid, psutil.Process(broker.pid)
        configuration = Path(process.cwd()) / process.cmdline()[-1]
        assert configuration.exists()
    assert not psutil.pid_exists(pid)
    assert not configuration.parent.exists()
    assert not _listens(broker)
    with pytest.raises(BrokerFailed, match="does not run"):
        _ = broker.pid


def test_two_run_side_by_side() -> None:
    with LocalBroker() as first, LocalBroker() as second:
        assert first.port != second.port


def test_a_port_that_somebody_else_took_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalBroker() as first:
        ports = iter([first.port, first.port, free_port()])
        monkeypatch.setattr(local_broker, "free_port", lambda: next(ports))
        with LocalBroker() as second:
            assert second.port != first.port


def test_kill_and_restart_keep_the_port() -> None:
    with LocalBroker() as broker:
        port, pid = broker.port, broker.pid
        broker.kill()
        assert not broker.running
        assert not _listens(broker)
        broker.restart()
        assert (broker.port, broker.pid != pid) == (port, True)
        assert _listens(broker)


def test_a_broker_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_broker, "_STOP_S", 0.2)
    broker = LocalBroker().start()
    pid = broker.pid
    os.kill(pid, signal.SIGSTOP)
    broker.stop()
    assert not psutil.pid_exists(pid)


def test_a_missing_mosquitto_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(local_broker, "_ELSEWHERE", ())
    with pytest.raises(MosquittoMissing) as caught:
        LocalBroker().start()
    assert all(word in str(caught.value) for word in ("apt-get install mosquitto", "brew", "winget", "container"))


def test_a_broker_that_does_not_start_says_its_last_words() -> None:
    with pytest.raises(BrokerFailed, match="no_such_option"):
        LocalBroker(lines=("no_such_option 1",)).start()


def test_a_given_folder_is_kept(tmp_path: Path) -> None:
    with LocalBroker(folder=tmp_path, persistence=True):
        pass
    assert (tmp_path / "mosquitto.db").exists()


def _settings(name: str) -> dict[str, str]:
    lines = (_CONFIGURATIONS / name).read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("name", ["mosquitto.conf", "demo.conf", "test.conf"])
def test_each_configuration_has_the_limits_that_the_tests_run_with(name: str) -> None:
    settings = _settings(name)
    assert {key: settings.get(key) for key in BROKER_LIMITS} == dict(BROKER_LIMITS)


@pytest.mark.parametrize("name", ["mosquitto.conf", "demo.conf", "test.conf", "acl.example"])
def test_each_block_of_a_configuration_begins_with_its_reason(name: str) -> None:
    lines = (_CONFIGURATIONS / name).read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        assert before or not line or line.startswith("#"), f"{name}: no reason above {line!r}"


@pytest.mark.parametrize("name", ["demo.conf", "test.conf"])
def test_mosquitto_takes_each_configuration(name: str, tmp_path: Path) -> None:
    replaced = {"listener", "persistence_location", "log_dest", "log_type", "allow_anonymous"}
    settings = {key: value for key, value in _settings(name).items() if key not in replaced}
    if settings["persistence"] == "true":
        settings["persistence_location"] = f"{tmp_path}/"
    with LocalBroker(folder=tmp_path, settings=settings) as broker:
        assert not [line for line in broker.log_lines if "Error" in line or "deprecated" in line]


@contextlib.contextmanager
def _few_files() -> Iterator[tuple[int, int]]:
    """A low limit on open files, with room for what a long test run holds open: (soft, hard)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = min(soft, max(256, len(list(Path("/proc/self/fd").iterdir())) + 64))
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        yield few, hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_broker_may_open_as_many_files_as_the_system_allows() -> None:
    """A thousand connections that say nothing must not keep everybody else out."""
    with _few_files() as (few, hard):
        with LocalBroker() as broker:
            limits = Path(f"/proc/{broker.pid}/limits").read_text()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (few, hard)
    (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
    assert line.split()[3] == line.split()[4] == ("unlimited" if hard == resource.RLIM_INFINITY else str(hard))


def test_many_silent_connections_keep_nobody_out() -> None:
    with _few_files() as (few, _):
        broker = LocalBroker().start()
    try:
        silent = [socket.create_connection((broker.host, broker.port)) for _ in range(few + 44)]
        with RawClient(broker.port, None) as late:
            assert late.publish("t") in {0, 0x10}
        for one in silent:
            one.close()
    finally:
        broker.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a broker as somebody else")
def test_root_does_not_run_a_broker_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where nobody but root may look.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o700)
    with LocalBroker(persistence=True) as broker:
        assert psutil.Process(broker.pid).uids().real != 0
        assert psutil.Process(broker.pid).gids().real != 0
        broker.restart()
        assert psutil.Process(broker.pid).uids().real != 0


def test_twenty_clients_that_read_nothing_fit_into_the_memory() -> None:
    queued, most = int(BROKER_LIMITS["max_queued_bytes"]), int(BROKER_LIMITS["memory_limit"])
    assert 20 * (queued + int(BROKER_LIMITS["max_inflight_bytes"])) < most
    # And a segment of a model in the largest packets still fits into one queue.
    assert SEGMENT_CHUNKS * int(BROKER_LIMITS["max_packet_size"]) < queued


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_it_ends_with_a_process_that_was_killed() -> None:
    """As a demo that ran out of memory: its broker would listen for ever."""
    program = (
        "import sys\n"
        "from federation.runtime.local_broker import LocalBroker\n"
        "broker = LocalBroker().start()\n"
        "print(broker.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        ended = os.pidfd_open(int(owner.stdout.readline()))
        owner.kill()
    assert select.select([ended], [], [], 20.0)[0] == [ended]
    os.close(ended)
