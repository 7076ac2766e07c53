"""A program ends when its work is done, whatever a user's task has left running."""

import subprocess
import sys

import pytest

BEGIN = """
import multiprocessing, sys, threading, time
from federation.command_line import ending_in_time
with ending_in_time("edge-node", within_s=0.2):
"""

THREAD = "    threading.Thread(target=threading.Event().wait, name='theirs').start()\n"
PROCESS = "    multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,), name='theirs').start()\n"


def ended(code: str) -> tuple[int, str]:
    """Exit code and standard error of a program."""
    done = subprocess.run([sys.executable, "-c", BEGIN + code], check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("left", "what"), [(THREAD, "the thread theirs"), (PROCESS, "the process theirs")])
@pytest.mark.parametrize(("end", "exit_code"), [("    pass", 0), ("    sys.exit(3)", 3), ("    sys.exit('no')", 1)])
def test_what_a_task_has_left_running_does_not_hold_up_the_end(left: str, what: str, end: str, exit_code: int) -> None:
    code, told = ended(left + end)
    assert code == exit_code
    assert f"edge-node: {what} goes on: ended without it" in told


def test_what_failed_is_told_before_it_ends() -> None:
    code, told = ended(THREAD + "    raise ValueError('mine')")
    assert code == 1
    assert "ValueError: mine" in told


def test_a_program_that_leaves_nothing_ends_at_once_and_as_ever() -> None:
    code, told = ended("    import atexit; atexit.register(print, 'bye', file=sys.stderr); sys.exit(4)")
    assert (code, told) == (4, "bye\n")
