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

from federation.runtime.signals import INTERRUPTED, StopSignals
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
