"""What a user's code changes in the whole process is as it was afterwards, whoever looks."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.errors import FederationError
from federation.process_state import process_state_kept
from federation.task import TaskContext
from federation.tasks.registry import load_task


def state() -> dict[str, Any]:
    """All that must stay."""
    mask = os.umask(0o022)
    os.umask(mask)
    return {
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "path": list(dict.fromkeys(sys.path)),
        "interval": sys.getswitchinterval(),
        "timeout": socket.getdefaulttimeout(),
        "stack": threading.stack_size(),
        "umask": mask,
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
        "arithmetic": np.geterr(),
    }


CHANGES = """
import os, signal, socket, sys, threading
import numpy as np

def change():
    sys.stdin = sys.stdout = sys.stderr = None
    sys.excepthook = sys.unraisablehook = threading.excepthook = None
    sys.path.clear()
    sys.setrecursionlimit(150)
    sys.setswitchinterval(3.0)
    socket.setdefaulttimeout(0.001)
    threading.stack_size(32768)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    np.seterr(all="raise")
    if threading.current_thread() is threading.main_thread():
        os.umask(0o777)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)

if AT_IMPORT:
    change()

def build(context):
    change()
    return object()
"""


def on_this_thread(run: Callable[[], None]) -> None:
    run()


def on_another(run: Callable[[], None]) -> None:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


@pytest.mark.parametrize("runs", [on_this_thread, on_another])
@pytest.mark.parametrize("raises", [False, True])
def test_everything_is_put_back_also_where_the_code_fails(
    runs: Callable[[Callable[[], None]], None], *, raises: bool
) -> None:
    known: dict[str, Any] = {}
    exec(CHANGES.replace("AT_IMPORT", "False"), known)  # noqa: S102 - the text above
    before, limit = state(), sys.getrecursionlimit()

    def run() -> None:
        here = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            with process_state_kept():
                known["change"]()
                assert 1 / (0 if raises else 1)
        except ZeroDivisionError:
            assert raises
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == here

    runs(run)
    assert state() == before
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize("at_import", [True, False])
def test_a_tasks_file_and_factory_leave_nothing(tmp_path: Path, *, at_import: bool) -> None:
    """A file that emptied sys.path hung the whole demo; one with small stacks ended each node with SIGSEGV."""
    file = tmp_path / f"changes_{at_import}.py"
    file.write_text(CHANGES.replace("AT_IMPORT", str(at_import)))
    before = state()
    load_task(str(file))(TaskContext(node_index=0, node_count=1))
    after = state()
    assert [entry for entry in after["path"] if entry != str(tmp_path)] == before.pop("path")
    assert str(tmp_path) in after.pop("path")
    assert after == before


def test_what_the_task_has_added_for_itself_stays(tmp_path: Path) -> None:
    limit = sys.getrecursionlimit()
    try:
        with process_state_kept():
            sys.path.insert(0, str(tmp_path))
            sys.setrecursionlimit(limit + 500)
        assert sys.path[0] == str(tmp_path)
        assert sys.getrecursionlimit() == limit + 500
    finally:
        sys.path.remove(str(tmp_path))
        sys.setrecursionlimit(limit)


def test_a_user_that_ends_the_process_ends_its_own_call(tmp_path: Path) -> None:
    """`os._exit(0)` in a file ended a node with code 0 and no word: no service manager starts it again."""
    for number, text in enumerate(("os._exit(0)", "def build(context):\n    os._exit(0)")):
        file = tmp_path / f"ends_{number}.py"
        file.write_text(f"import os\n{text}\n")
        with pytest.raises(FederationError, match=rf"SystemExit: 0 \(ends_{number}\.py, line"):
            load_task(str(file))(TaskContext(node_index=0, node_count=1))


FORKS = """
import os, sys
sys.path.insert(0, {root!r})
from federation.errors import FederationError
from federation.process_state import process_state_kept
with process_state_kept():
    child = os.fork()
    if child == 0:
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    {then}
os._exit(9)
"""


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("pass", 9),
        ("exec('os._exit(3)', {'os': os, '__name__': 'federation.runtime.signals'})", 3),
        ("import threading; thread = threading.Thread(target=os._exit, args=(4,)); thread.start(); thread.join()", 4),
    ],
)
def test_forked_processes_other_threads_and_we_end_as_ever(then: str, code: int) -> None:
    root = str(Path(__file__).parents[3])
    text = FORKS.format(root=root, then=then)
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == code


@pytest.mark.parametrize(
    "call",
    [
        "os.execv('/bin/true', ['true'])",
        "os.execve('/bin/true', ['true'], {})",
        "os.execl('/bin/true', 'true')",
        "os.execvp('true', ['true'])",
        "os.execlpe('true', 'true', {})",
    ],
)
@pytest.mark.parametrize("where", ["", "def build(context):\n    "])
def test_a_user_that_puts_another_program_in_our_place_is_told_so(tmp_path: Path, call: str, where: str) -> None:
    """A node became another program, and a demo waited for it for ever."""
    file = tmp_path / f"becomes_{abs(hash(call + where))}.py"
    file.write_text(f"import os\n{where}{call}\n")
    with pytest.raises(FederationError, match=r"SystemExit: os\.execve? would put another program .*subprocess"):
        load_task(str(file))(TaskContext(node_index=0, node_count=1))


REPLACES = """
import os, sys
sys.path.insert(0, {root!r})
import federation.errors
from federation.process_state import process_state_kept
with process_state_kept():
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "raise SystemExit(6)"])
    child = os.waitstatus_to_exitcode(os.wait()[1])
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", "raise SystemExit(5)"]) == 5
os.execl(sys.executable, sys.executable, "-c", f"raise SystemExit({{child + 1}})")
"""


def test_forked_processes_and_we_become_other_programs_as_ever() -> None:
    text = REPLACES.format(root=str(Path(__file__).parents[3]))
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 7


CLOSES = """
import os, resource, socket, sys
sys.path.insert(0, {root!r})
import federation.errors
from federation.runtime.standard_output import reserve
reserve()
from federation.process_state import process_state_kept
with process_state_kept():
    {does}
sys.stdout.write("goes on\\n")
print(os.fstat(1) is not None, os.fstat(2) is not None)
"""


def ended(does: str) -> subprocess.CompletedProcess[str]:
    text = CLOSES.format(root=str(Path(__file__).parents[3]), does=does)
    return subprocess.run([sys.executable, "-c", text], check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("does", ["os.closerange(3, 256)", "os.closerange(0, 256)", "os.close(sys.stdout._descriptor)"])
def test_a_user_that_closes_what_is_not_its_own_ends_the_program_with_the_reason(does: str) -> None:
    """Nobody could say anything any more, and all others waited."""
    found = ended(does)
    assert (found.returncode, found.stdout) == (2, "")
    if "(0" not in does:  # nothing is left to say it with
        assert "the task has closed descriptors that are not its own" in found.stderr


def test_a_user_that_closes_a_standard_stream_loses_that_alone() -> None:
    """The next file that is opened had its number, and what was printed went there."""
    for does in ("os.close(1)", "os.close(2)", "os.close(0)", "sys.stderr.close(); sys.stdin.close()"):
        found = ended(does)
        assert (found.returncode, "True True" in found.stdout + found.stderr) == (0, True), does


def test_a_limit_of_files_that_a_user_lowers_is_put_back_and_one_that_it_raises_stays() -> None:
    names = ("RLIMIT_FSIZE", "RLIMIT_NOFILE")
    lower = "; ".join(f"resource.setrlimit(resource.{n}, (100, resource.getrlimit(resource.{n})[1]))" for n in names)
    before = [resource.getrlimit(getattr(resource, name)) for name in names]
    with process_state_kept():
        exec(lower)  # noqa: S102 - what a user's file does
    assert [resource.getrlimit(getattr(resource, name)) for name in names] == before
    soft, hard = before[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))
        with process_state_kept():
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(soft, 300)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
