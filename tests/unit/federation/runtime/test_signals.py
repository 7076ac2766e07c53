"""A signal becomes one event; the second one does not wait."""

import os
import queue
import signal
import subprocess
import sys

import pytest

from federation.runtime.signals import INTERRUPTED, StopSignals
from federation.runtime.transport import Inbox

LIMIT_S = 20.0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, INTERRUPTED)])
def test_first_signal_becomes_an_event_and_decides_the_exit_code(number: signal.Signals, code: int) -> None:
    inbox: Inbox = queue.Queue(4)
    with StopSignals(inbox, "stop") as signals:
        assert signals.exit_code == 0
        os.kill(os.getpid(), number)
        assert inbox.get(timeout=LIMIT_S).event == "stop"
        assert (signals.received, signals.exit_code) == (number, code)


def test_former_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals(queue.Queue(1), "stop"):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_second_signal_ends_the_process_at_once() -> None:
    code = (
        "import os, queue, signal\n"
        "from federation.runtime.signals import StopSignals\n"
        "with StopSignals(queue.Queue(4), 'stop'):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    raise SystemExit('not reached')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=LIMIT_S).returncode == INTERRUPTED
