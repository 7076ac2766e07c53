"""Forked processes are processes: their own ids, environments, random numbers, ends; and the server leaves nothing."""

import json
import os
import queue
import select
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedmq.demo import fork_server
from fedmq.demo.fork_server import ForkedProcess, ForkServer
from fedmq.demo.processes import Exited, Fleet, Line

PROGRAM = "tests.rigs.forked_program"

pytestmark = pytest.mark.skipif(not ForkServer.is_possible(), reason="processes are forked on Linux only")


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer(("numpy", "there.is.no.such.module")) as made:
        yield made


def started(server: ForkServer, folder: Path, *arguments: str) -> ForkedProcess:
    with (folder / "errors").open("ab") as errors:
        process = server.start(PROGRAM, arguments, {"WORD": "hello"}, errors.fileno())
    assert process is not None
    return process


def told(process: ForkedProcess) -> Mapping[str, Any]:
    assert process.stdout is not None
    with process.stdout as lines:
        found: Mapping[str, Any] = json.loads(next(iter(lines)))
    return found


def test_a_forked_process_has_all_of_its_own(server: ForkServer, tmp_path: Path) -> None:
    processes = [started(server, tmp_path, code, "more") for code in ("0", "7")]
    said = [told(process) for process in processes]
    assert [process.wait(20) for process in processes] == [0, 7]
    assert [one["pid"] for one in said] == [process.pid for process in processes]
    assert [one["session"] for one in said] == [process.pid for process in processes]
    assert [one["argv"] for one in said] == [["0", "more"], ["7", "more"]]
    assert [(one["word"], one["home"]) for one in said] == [("hello", None)] * 2, "its whole environment"
    assert said[0]["random"] != said[1]["random"]
    assert all(set(one["files"]) <= {0, 1, 2, 3} for one in said), "none of the server's descriptors, 3 is the look"
    assert (tmp_path / "errors").read_text() == "to standard error\n" * 2
    assert processes[0].poll() == 0


def test_a_forked_process_ends_as_an_interpreter_does(server: ForkServer, tmp_path: Path) -> None:
    late = started(server, tmp_path, "late")
    assert late.stdout is not None
    with late.stdout as lines:
        said = lines.read().splitlines()[1:]
    assert (late.wait(20), said) == (1, ["the thread has run", "the exit handler has run"])
    assert (tmp_path / "errors").read_text().endswith("it said why\n")
    failed = started(server, tmp_path, "fail")
    assert told(failed)["pid"] == failed.pid
    assert failed.wait(20) == 1
    assert (tmp_path / "errors").read_text().endswith("RuntimeError: it failed\n")


def test_a_forked_process_can_be_killed_alone(server: ForkServer, tmp_path: Path) -> None:
    first, second = (started(server, tmp_path, "wait") for _ in range(2))
    assert told(first)["pid"] == first.pid
    assert told(second)["pid"] == second.pid
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.wait(20) == -signal.SIGKILL
    assert second.poll() is None
    second.send_signal(signal.SIGTERM)
    assert second.wait(20) == -signal.SIGTERM
    second.send_signal(signal.SIGTERM)


def test_processes_of_a_demo_that_was_killed_end(tmp_path: Path) -> None:
    with ForkServer(()) as server:
        left = started(server, tmp_path, "wait")
        assert told(left)["pid"] == left.pid
        ended = os.pidfd_open(left.pid)
    assert select.select([ended], [], [], 20.0)[0] == [ended]
    os.close(ended)


def test_a_process_that_ends_at_once_is_not_missed(server: ForkServer, tmp_path: Path) -> None:
    for _ in range(10):
        with (tmp_path / "errors").open("ab") as errors:
            process = server.start("there_is_no_such_program", [], {}, errors.fileno())
        assert process is not None
        assert process.wait(20) == 1
        assert process.stdout is not None
        process.stdout.close()
    assert "No module named" in (tmp_path / "errors").read_text()


def test_a_server_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "READY_S", 0.1)
    monkeypatch.setattr(fork_server, "END_S", 0.1)
    with ForkServer(()) as server, (tmp_path / "errors").open("ab") as errors:
        server._server.send_signal(signal.SIGSTOP)
        assert server.start(PROGRAM, ["0"], {}, errors.fileno()) is None
        assert server._server.wait(20) == -signal.SIGKILL
    with ForkServer(()) as server:
        server._server.send_signal(signal.SIGSTOP)


def test_nobody_waits_for_the_imports_after_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch takes half a minute on a loaded machine, and all of that time Ctrl-C did nothing."""
    (tmp_path / "endless.py").write_text("import threading\n\nthreading.Event().wait()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    ends: queue.Queue[type[BaseException] | None] = queue.Queue()

    def start() -> None:
        try:
            fleet.start("one", PROGRAM, ["0"])
        except KeyboardInterrupt:
            ends.put(KeyboardInterrupt)
        else:
            ends.put(None)

    with ForkServer(("endless",)) as server:
        fleet = Fleet(folder=tmp_path, server=server)
        waits = threading.Thread(target=start)
        waits.start()
        while not server._used:
            waits.join(0.01)
        fleet.interrupt()
        assert ends.get(timeout=60) is KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt):
            fleet.start("another", PROGRAM, ["0"])
        fleet.stop()
    assert server._server.returncode == -signal.SIGTERM


def test_a_server_that_has_imported_hears_nothing_of_ctrl_c(server: ForkServer, tmp_path: Path) -> None:
    """What it has forked would be nobody's."""
    waiting = started(server, tmp_path, "wait")
    server.abandon()
    other = started(server, tmp_path, "0")
    assert other.wait(60) == 0
    waiting.send_signal(signal.SIGKILL)
    assert waiting.wait(60) == -signal.SIGKILL
    for process in (waiting, other):
        assert process.stdout is not None
        process.stdout.close()


def test_where_the_server_is_gone_processes_start_as_ever(tmp_path: Path) -> None:
    with ForkServer(()) as server:
        server._server.kill()
        fleet = Fleet(folder=tmp_path, server=server)
        fleet.start("one", PROGRAM, ["0"])
        said, ended = fleet.lines.get(timeout=60), fleet.lines.get(timeout=60)
        fleet.stop()
    assert isinstance(said, Line)
    assert ended == Exited(source="one", generation=0, code=0)


def test_a_fleet_starts_again_what_was_forked(server: ForkServer, tmp_path: Path) -> None:
    fleet = Fleet(folder=tmp_path, server=server)
    fleet.start("one", PROGRAM, ["wait"], {"WORD": "first"})
    first = fleet.lines.get(timeout=60)
    assert isinstance(first, Line)
    fleet.kill("one")
    assert fleet.lines.get(timeout=60) == Exited(source="one", generation=0, code=-signal.SIGKILL)
    fleet.restart("one", {"WORD": "second"})
    again = fleet.lines.get(timeout=60)
    fleet.stop()
    assert isinstance(again, Line)
    assert (first.fields["word"], again.fields["word"]) == ("first", "second")
    assert fleet.stderr_tail("one") == "to standard error\nto standard error"


def test_a_fleet_starts_from_nothing_whom_it_is_told_to(server: ForkServer, tmp_path: Path) -> None:
    fleet = Fleet(folder=tmp_path, server=server, unforked=frozenset({"own"}))
    names = ("own", "forked")
    for name in names:
        fleet.start(name, PROGRAM, ["wait"])
    ours = [psutil.Process(fleet.pid(name)).ppid() == os.getpid() for name in names]
    fleet.stop()
    assert ours == [True, False]
