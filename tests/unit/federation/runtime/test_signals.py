"""A signal becomes one event; the second one does not wait."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from federation.runtime.signals import INTERRUPTED, StopSignals, stopped_while_starting
from federation.runtime.transport import Inbox

LIMIT_S = 20.0


@pytest.fixture
def heard_hangups() -> Iterator[None]:
    """Also where whoever runs the tests has them ignored, as nohup does."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard_hangups")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, INTERRUPTED)])
def test_first_signal_becomes_an_event_and_decides_the_exit_code(number: signal.Signals, code: int) -> None:
    inbox: Inbox = queue.Queue(4)
    with StopSignals(inbox, "stop") as signals:
        assert signals.exit_code == 0
        os.kill(os.getpid(), number)
        assert inbox.get(timeout=LIMIT_S).event == "stop"
        assert (signals.received, signals.exit_code) == (number, code)


def test_a_signal_that_does_not_interrupt_the_wait_is_heard_at_once() -> None:
    """As one that comes just before the wait: Python's own handler would run with the next message only."""
    inbox: Inbox = queue.Queue(4)
    main = threading.get_ident()

    def strike() -> None:
        while sys._current_frames()[main].f_code.co_name != "wait":
            time.sleep(0.001)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # the main thread is not interrupted

    with StopSignals(inbox, "stop") as signals:
        striker = threading.Thread(target=strike)
        striker.start()
        began_s = time.monotonic()
        assert inbox.get(timeout=LIMIT_S).event == "stop"
        assert time.monotonic() - began_s < LIMIT_S / 2
        striker.join()
        assert signals.received is signal.SIGTERM


def test_other_signals_are_none_of_ours() -> None:
    inbox: Inbox = queue.Queue(4)
    heard = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.set())
    try:
        with StopSignals(inbox, "stop") as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert heard.wait(LIMIT_S)
            os.kill(os.getpid(), signal.SIGTERM)
            assert inbox.get(timeout=LIMIT_S).event == "stop"
            assert signals.received is signal.SIGTERM
        assert inbox.empty()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_nohup_has_started_outlives_its_terminal() -> None:
    inbox: Inbox = queue.Queue(4)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals(inbox, "stop") as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            assert inbox.get(timeout=LIMIT_S).event == "stop"
            assert signals.received is signal.SIGTERM
        assert inbox.empty()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_former_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    threads = threading.active_count()
    with StopSignals(queue.Queue(1), "stop"):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


@pytest.mark.parametrize("room", [1, 4])
def test_second_signal_ends_the_process_at_once(room: int) -> None:
    """Also where the inbox is full, and the first one waits."""
    code = (
        "import os, queue, signal, time\n"
        "from federation.runtime.signals import StopSignals\n"
        f"inbox = queue.Queue({room})\n"
        "inbox.put('first')\n"
        "with StopSignals(inbox, 'stop') as signals:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    while signals.received is None:\n"
        "        time.sleep(0.001)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        f"    time.sleep({LIMIT_S})\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=LIMIT_S).returncode == INTERRUPTED


def start(body: str, *, within_s: float = LIMIT_S) -> "subprocess.CompletedProcess[str]":
    """A program that still starts, as ``body`` says."""
    code = (
        "import ctypes, os, queue, signal, sys, time\n"
        "from federation.runtime.signals import StopSignals, stopped_while_starting\n"
        "def strike(number):\n"
        "    os.kill(os.getpid(), number)\n"
        f"    time.sleep({LIMIT_S})\n"
        f"with stopped_while_starting({within_s}):\n"
    )
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    command = [sys.executable, "-c", code + lines]
    return subprocess.run(command, check=False, timeout=LIMIT_S, capture_output=True, text=True)


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 0), ("SIGINT", -signal.SIGINT)])
def test_a_signal_while_a_role_starts_closes_what_is_open(number: str, code: int) -> None:
    """Ctrl-C is an exception by itself, which the command line makes an exit code of."""
    ended = start(f"try:\n    strike(signal.{number})\nfinally:\n    print('closed')\nprint('went on')")
    assert (ended.returncode, ended.stdout) == (code, "closed\n")


def test_a_users_code_lets_it_through_as_it_does_ctrl_c() -> None:
    ended = start("from federation.errors import user_code\nwith user_code('it'):\n    strike(signal.SIGTERM)")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_second_signal_while_a_role_starts_ends_it_at_once() -> None:
    ended = start("try:\n    strike(signal.SIGTERM)\nfinally:\n    strike(signal.SIGTERM)")
    assert ended.returncode == -signal.SIGTERM


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 0), ("SIGINT", INTERRUPTED)])
def test_a_library_that_hears_no_signal_is_left_in_bounded_time(number: str, code: int) -> None:
    """It waits for a lock of its own, on the thread on which Python's handlers run."""
    stuck = "lock, c = ctypes.create_string_buffer(64), ctypes.CDLL(None)\nc.pthread_mutex_lock(lock)\n"
    begin = f"import threading\nthreading.Timer(0.05, os.kill, (os.getpid(), signal.{number})).start()\n"
    ended = start(begin + stuck + "c.pthread_mutex_lock(lock)", within_s=0.1)
    assert ended.returncode == code
    assert "stopped while it was starting" in ended.stderr


def test_a_worker_that_a_task_has_forked_ends_as_it_would_without_us() -> None:
    ended = start(
        "there, here = os.pipe()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.write(here, b'.')\n"  # what comes before its first line is lost, as after each fork
        f"    time.sleep({LIMIT_S})\n"
        "    os._exit(1)\n"
        "os.read(there, 1)\n"
        "os.kill(child, signal.SIGTERM)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{-signal.SIGTERM}\n", "")


def test_once_it_runs_the_loop_hears_of_signals() -> None:
    inbox: Inbox = queue.Queue(4)
    before = signal.getsignal(signal.SIGTERM)
    with stopped_while_starting(), StopSignals(inbox, "stop") as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert inbox.get(timeout=LIMIT_S).event == "stop"
        assert signals.exit_code == 0
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_beside_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    def enter() -> None:
        with stopped_while_starting():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(LIMIT_S)
    assert found == [before]
